"""The local learning coefficient: how singular a minimum is, from a sampler that stays near it."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax._checks import check_nonnegative, check_positive, check_whole
from langevin_optax._types import Mask
from langevin_optax.layers import _where
from langevin_optax.noise import _keys
from langevin_optax.optimizers._noise_links import add_preconditioned_noise
from langevin_optax.preconditioners._localization import add_localization
from langevin_optax.preconditioners._scalers_rms import scale_by_rms
from langevin_optax.sampling._sample import sample
from langevin_optax.sampling._samples import as_arviz


class LLC(NamedTuple):
    """An estimate of a local learning coefficient, with what it was made of."""

    mean: float
    standard_error: float  # of the mean, from the spread of the chains
    traces: np.ndarray  # shape=(chains, draws), nβ (L_t − L₀), whose mean is the estimate
    distances: np.ndarray  # shape=(chains, draws), ‖θ_t − θ₀‖
    baseline: float  # L₀
    warnings: tuple[str, ...]

    @property
    def rhat(self) -> float:
        """ArviZ's R-hat of the traces, of the extra ``sampling``."""
        return float(as_arviz().rhat(self.traces))

    @property
    def ess(self) -> float:
        """ArviZ's bulk effective sample size of the traces."""
        return float(as_arviz().ess(self.traces))


def local_learning_coefficient(
    loss_fn: Callable[[Any, Any], Any],
    params: Any,
    data: Any,
    key: jax.Array | int,
    *,
    batch_size: int,
    draws: int = 2000,
    chains: int = 8,
    burn_in: int = 2000,
    localization: float = 1.0,
    nbeta: float | None = None,
    learning_rate: float = 1e-2,
    optimizer: Callable[[float, Any], optax.GradientTransformation] | None = None,
    mask: Mask | None = None,
    progress: bool = True,
) -> LLC:
    r"""The local learning coefficient of a minimum :math:`\theta_0` of a mean loss over n data.

    .. math::
      \hat\lambda(\theta_0) = n\beta\,\big(E[L(\theta)] - L(\theta_0)\big), \qquad
      \theta \sim \exp\big(-n\beta L(\theta) - \tfrac{\gamma}{2}\|\theta - \theta_0\|^2\big)

    Where the Hessian is positive definite it is d/2, half of the number of parameters; the more directions are flat,
    the smaller. The expectation is that of ``chains`` chains that start at :math:`\theta_0`, vmapped in one program;
    only their losses are kept.

    The sampler is RMSprop-preconditioned SGLD, whose statistics are those of the loss alone: the localisation joins
    behind the scaler. Its drift is :math:`-\eta P(\nabla L + \tfrac{\gamma}{n\beta}(\theta - \theta_0))`,
    with :math:`P = 1/(\sqrt\nu + 0.1)` and :math:`\sigma = \sqrt{2/(n\beta)}`.

    Args:
      loss_fn: ``(params, batch) -> loss``, the mean over the examples of a batch.
      params: :math:`\theta_0`.
      data: a tree of arrays with the n examples in front.
      key: an int or a typed ``jax.random.key``, of minibatches and noise.
      batch_size: examples per gradient, drawn with replacement; n or more: all of them, in order.
      draws: of each chain, a step apart.
      chains: their number; the standard error is that of their means.
      burn_in: steps that are not counted. As many as draws is a good start.
      localization: :math:`\gamma \ge 0`, as in devinterp. It must hold the chain near the minimum, and no more: with a
        curvature far below :math:`\gamma / (n\beta)` a direction counts as flat.
      nbeta: :math:`n\beta`; by default n / log n with n the number of examples in ``data`` (devinterp's default has the
        batch size for n).
      learning_rate: :math:`\eta` of the default sampler. In devinterp's terms, :math:`\epsilon n\beta/2`.
      optimizer: ``(sigma, key) -> tx``, another sampler, such as ``lambda sigma, key: lgv.sgd(1e-3, sigma, key)``. The
        localisation then is a part of its gradient.
      mask: where the parameters move, as in :func:`add_preconditioned_noise`, for a refined coefficient; the others
        stay.
      progress: as in :func:`sample`.

    Returns:
      An :class:`LLC`: ``mean``, ``standard_error``, ``traces`` (chains, draws), ``distances``, ``baseline``,
      ``warnings``, and ``rhat`` and ``ess`` by ArviZ. A chain that diverged is in the traces and not in the mean.

    Raises:
      ValueError: for arrays of different length in ``data``, n < 3 without ``nbeta``, and as :func:`sample`.

    Warns:
      UserWarning: and in ``warnings``: of chains that diverged, a negative estimate, losses that still rise, a
        gradient at :math:`\theta_0` that is none of a minimum.

    Example:
      A regular minimum of two parameters:

      >>> import jax, jax.numpy as jnp
      >>> from langevin_optax import sampling
      >>> data = jax.random.normal(jax.random.key(0), (1000, 2))
      >>> loss = lambda params, batch: ((params - batch) ** 2).sum(-1).mean() / 2
      >>> llc = sampling.local_learning_coefficient(
      ...     loss, data.mean(0), data, 0, batch_size=1000, progress=False)
      >>> abs(llc.mean - 1.0) < 0.2
      True

    References:
      Lau et al., `The Local Learning Coefficient <https://arxiv.org/abs/2308.12108>`_, 2023; Hitchcock and Hoogland,
      `From Global to Local <https://arxiv.org/abs/2507.21449>`_, 2025 (preconditioned samplers).
    """
    for name, value in (("batch_size", batch_size), ("draws", draws), ("chains", chains)):
        check_whole(name, value, 1)
    check_nonnegative("localization", localization)
    check_positive("learning_rate", learning_rate)
    n = _length(data)
    if nbeta is None:
        if n < 3:
            raise ValueError(f"n / log n wants n ≥ 3 examples, got {n}: pass nbeta.")
        nbeta = n / math.log(n)
    check_positive("nbeta", nbeta)
    key = _keys.as_key(key)
    sigma, strength = math.sqrt(2 / nbeta), localization / nbeta
    pulled = optimizer is not None
    if optimizer is None:
        tx: Any = optax.chain(
            scale_by_rms(0.99, eps=0.1, eps_in_sqrt=False, initial_scale=1.0),
            add_localization(strength),
            add_preconditioned_noise(learning_rate, sigma, key),
            optax.scale_by_learning_rate(learning_rate),
        )
    else:
        tx = optimizer(sigma, key)
    if mask is not None:
        tx = optax.chain(tx, _only(mask))

    def gradient(theta, key):
        batch = data
        if batch_size < n:
            chosen = jax.random.randint(key, (batch_size,), 0, n)
            batch = jax.tree.map(lambda x: jnp.asarray(x)[chosen], data)
        loss, grads = jax.value_and_grad(loss_fn)(theta, batch)
        if pulled:
            grads = jax.tree.map(lambda g, t, c: (g + strength * (t - c)).astype(g.dtype), grads, theta, params)
        return loss, grads

    def distance(theta):
        squares = [jnp.sum(jnp.square(t - c)) for t, c in zip(*map(jax.tree.leaves, (theta, params)), strict=True)]
        return jnp.sqrt(sum(squares))

    baseline, norm = _at_start(loss_fn, params, data, n, batch_size)
    samples = sample(
        gradient, tx, params, key, draws=draws, chains=chains, burn_in=burn_in, keep=distance, progress=progress
    )
    traces = nbeta * (np.asarray(samples.losses, np.float64) - baseline)
    fine = np.isfinite(traces).all(axis=1)
    means = traces[fine].mean(axis=1)
    mean = float(means.mean()) if len(means) else math.nan
    error = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan
    found = _warnings(traces[fine], fine, mean, error, nbeta * norm, localization)
    for text in found:
        warnings.warn(text, stacklevel=2)
    return LLC(mean, error, traces, np.asarray(samples.draws), baseline, tuple(found))


def _only(mask: Mask) -> optax.GradientTransformation:
    """Updates of 0 where the mask is False."""

    def update(updates, params):
        where = _where.resolve(mask, updates, params)
        return jax.tree.map(lambda u, w: jnp.where(w, u, jnp.zeros_like(u)), updates, where)

    return optax.stateless(update)


def _length(data: Any) -> int:
    lengths = {jnp.shape(x)[0] if jnp.ndim(x) else None for x in jax.tree.leaves(data)}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"data must be arrays with the examples in front, equally many, got lengths {sorted(map(str, lengths))}."
        )
    (length,) = lengths
    return int(length or 0)


def _at_start(loss_fn: Any, params: Any, data: Any, n: int, batch_size: int) -> tuple[float, float]:
    """The mean loss over all data at θ₀, and the norm of its gradient, batch by batch."""
    both = jax.jit(jax.value_and_grad(loss_fn))
    total, gradient = 0.0, None
    for start in range(0, n, batch_size):
        batch = jax.tree.map(lambda x, start=start: x[start : start + batch_size], data)
        share = min(batch_size, n - start) / n
        loss, grads = both(params, batch)
        total += share * float(loss)
        scaled = jax.tree.map(lambda g, share=share: share * g, grads)
        gradient = scaled if gradient is None else jax.tree.map(jnp.add, gradient, scaled)
    return total, float(optax.tree.norm(gradient))


def _warnings(traces: Any, fine: Any, mean: float, error: float, force: float, localization: float) -> list[str]:
    found = []
    if not fine.all():
        found.append(f"chains {np.flatnonzero(~fine).tolist()} diverged, and are not in the mean: lower learning_rate.")
    if mean < 0:
        found.append(
            f"the estimate is negative, {mean:.3g}: the chains found lower losses than that of params, no minimum. "
            "Train longer, or localise more."
        )
    if localization > 0 and force > math.sqrt(localization):
        found.append(
            f"nβ‖∇L‖ = {force:.3g} at params, above √localization = {math.sqrt(localization):.3g}: within the "
            "region that is left to the chains the loss falls, so that params is no minimum."
        )
    if len(traces) > 1 and traces.shape[1] >= 4:
        half = traces.shape[1] // 2
        rise = traces[:, half:].mean(1) - traces[:, :half].mean(1)
        if rise.mean() > 3 * rise.std(ddof=1) / math.sqrt(len(rise)) and rise.mean() > 2 * error:
            found.append(
                f"the loss still rises, by {rise.mean():.2g} in nβL between the halves of the draws: the estimate "
                "is too low. Choose more burn_in."
            )
    return found
