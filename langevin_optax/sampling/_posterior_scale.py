"""The scale of a posterior: from a mean loss, a prior and the number of examples to what a sampler needs."""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from langevin_optax._checks import check_finite


class Posterior(NamedTuple):
    """What :func:`tempered_posterior` returns: ``loss, sigma``."""

    loss: Callable[..., Any]
    sigma: float


def tempered_posterior(
    mean_loss: Callable[..., Any],
    examples: int,
    *,
    prior_precision: Any = None,
    log_prior: Callable[[Any], Any] | None = None,
    temperature: float = 1.0,
    has_aux: bool = False,
) -> Posterior:
    r"""The loss and the :math:`\sigma` with which a sampler draws from the posterior of N examples.

    .. math::
      L(\theta) = \frac1n\sum_{i \in \text{batch}} \ell_i(\theta) - \frac{\log p(\theta)}{N}, \qquad
      \sigma = \sqrt{2T/N}, \qquad
      \exp\!\Big(\!-\frac{2L}{\sigma^2}\Big) = \Big(p(\theta)\prod_{i=1}^N e^{-\ell_i(\theta)}\Big)^{1/T}

    A training minimises a *mean* loss, and its gradient is 1/N of that of the log posterior. So the prior counts 1/N,
    and the temperature of the noise is :math:`\tau = T/N`: to forget either 1/N gives bands that are wrong by
    :math:`\sqrt N`. The sampler adds no weight decay then, which would be a second prior, and its momentum must not
    change the temperature: see :func:`langevin`.

    Args:
      mean_loss: a function ``(params, *batch)`` that returns the mean over the batch of the negative log likelihood of
        an example, in nats and with its constants of :math:`\theta`: cross-entropy as it is, but the squared error
        divided by :math:`2 s^2`, for noise of variance s² in the data.
      examples: N, the number of examples of the whole data, not of a batch.
      prior_precision: :math:`\lambda \ge 0` of a normal prior, :math:`-\log p = \tfrac\lambda2\|\theta\|^2`: a number,
        or a tree of numbers like the parameters or a prefix of them; 0 is no prior. (The decay of a training on
        the mean loss plus :math:`\tfrac w2\|\theta\|^2` is the precision :math:`\lambda = N w`.)
      log_prior: in its place a function from the parameters to :math:`\log p`, up to a constant.
      temperature: T > 0, 1 for the posterior; less makes it colder, prior and likelihood alike.
      has_aux: whether ``mean_loss`` returns a pair, of the loss and something else, as ``jax.grad`` has it.

    Returns:
      ``loss, sigma``: ``loss(params, *batch)``, for ``jax.grad`` and the like, and the number for optimisers and noise
      links. The ``temperature`` of an integrator is ``sigma**2 / 2``.

    Raises:
      ValueError: if there is no prior, or two; for ``examples`` below 1, a temperature that is not positive, a negative
        precision; at the call, for a loss or a log prior that is no scalar.
      TypeError: for arguments of another type.

    Example:
      The mean of a normal variable of variance 1, from 50 examples and a prior of precision 10:

      >>> import jax, jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> from langevin_optax.sampling import tempered_posterior
      >>> data = jnp.full(50, 1.2)
      >>> loss, sigma = tempered_posterior(lambda m, x: ((x - m) ** 2 / 2).mean(), 50, prior_precision=10.0)
      >>> tx, chains = lgv.sgd(0.05, sigma, key=0), jnp.zeros(20_000)
      >>> def step(_, run):
      ...     updates, state = tx.update(jax.vmap(jax.grad(loss), (0, None))(run[0], data), run[1])
      ...     return optax.apply_updates(run[0], updates), state
      >>> chains, _ = jax.lax.fori_loop(0, 200, step, (chains, tx.init(chains)))
      >>> print(f"{chains.mean():.2f} ± {chains.std():.2f}")  # 1.2 · 50/60 ± 1/√60
      1.00 ± 0.13

    References:
      Welling and Teh, `Bayesian learning via stochastic gradient Langevin dynamics
      <https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf>`_, 2011, equation 4; Wenzel et al., `How Good
      is the Bayes Posterior in Deep Neural Networks Really? <https://arxiv.org/abs/2002.02405>`_, 2020 (T < 1).
    """
    for name, function in (("mean_loss", mean_loss), ("log_prior", log_prior)):
        if not callable(function) and (function is not None or name == "mean_loss"):
            raise TypeError(f"{name} must be a function, got {function!r}.")
    if isinstance(examples, bool) or not isinstance(examples, numbers.Integral):
        raise TypeError(f"examples must be an integer, the number of examples of the whole data, got {examples!r}.")
    if examples < 1:
        raise ValueError(f"examples must be ≥ 1, got {examples}.")
    if (prior_precision is None) == (log_prior is None):
        raise ValueError(
            "tempered_posterior needs a prior, either prior_precision= or log_prior=, and not both. For none, write "
            "prior_precision=0.0."
        )
    for path, precision in jax.tree_util.tree_leaves_with_path(prior_precision):
        name = f"prior_precision{jax.tree_util.keystr(path)}"
        check_finite(name, precision)
        if not isinstance(precision, jax.core.Tracer) and precision < 0:
            raise ValueError(f"{name} must be ≥ 0, got {precision}.")
    check_finite("temperature", temperature, "a number")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}. Without noise, this is an optimiser.")

    def negative_log_prior(params):
        if log_prior is not None:
            return -_scalar("log_prior", log_prior(params))
        squares = jax.tree.map(lambda precision, part: precision / 2 * _squared_norm(part), prior_precision, params)
        return sum(jax.tree.leaves(squares), start=jnp.zeros([]))

    def loss(params, *args, **kwargs):
        value, aux = mean_loss(params, *args, **kwargs) if has_aux else (mean_loss(params, *args, **kwargs), None)
        total = _scalar("mean_loss", value) + negative_log_prior(params) / examples
        return (total, aux) if has_aux else total

    return Posterior(loss, math.sqrt(2 * temperature / examples))


def _squared_norm(tree: Any) -> jax.Array:
    return sum((jnp.sum(jnp.square(jnp.abs(x)).astype(float)) for x in jax.tree.leaves(tree)), start=jnp.zeros([]))


def _scalar(name: str, value: Any) -> jax.Array:
    if jnp.shape(value) != ():
        hint = ", the mean over the batch" if name == "mean_loss" else ""
        raise ValueError(f"{name} must return a scalar{hint}, got an array of shape {jnp.shape(value)}.")
    return jnp.asarray(value)
