"""The local learning coefficient: how singular a minimum is, from a sampler that stays near it."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from langevin_optax._checks import check_finite, check_nonnegative, check_positive
from langevin_optax._types import Mask
from langevin_optax.sampling import _program
from langevin_optax.sampling._llc_estimator import Estimator
from langevin_optax.sampling._llc_result import LLC, warn_of


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
    only their losses and distances are kept. :func:`llc_sweep` shows which settings are right,
    :func:`llc_along_training` has one program for all checkpoints.

    The sampler is RMSprop-preconditioned Langevin dynamics,

    .. math::
      \theta_{k+1} = \theta_k - \eta P\left(\nabla L(\theta_k) + \tfrac{\gamma}{n\beta}(\theta_k - \theta_0)\right)
      + \sigma\sqrt{\eta P}\,\tfrac{\xi_k + \xi_{k+1}}{2}, \qquad
      P = \frac{1}{\sqrt\nu + 0.1}, \quad \sigma = \sqrt{\tfrac{2}{n\beta}}.

    P follows the loss alone, without the localisation, and stands still after burn-in. The averaged noise, of
    Leimkuhler and Matthews, gives a quadratic loss its exact law at every step that is stable, with all data in each
    step. Minibatches heat the chains by the share :math:`\eta P n\beta v/2`, for gradients of variance v: a warning
    where that is above a tenth. Losses are compared with those of :math:`\theta_0` on the same minibatch, so that the
    noise of losses falls away.

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
      learning_rate: :math:`\eta` of the default sampler. In devinterp's terms, :math:`\epsilon n\beta/2`. The
        step is small enough where :math:`\eta (a + \gamma / n\beta) / (\sqrt{a / n\beta} + 0.1) < 1` for the
        largest curvature a of the loss; a warning says so where it is not.
      optimizer: ``(sigma, key) -> tx``, another sampler, such as ``lambda sigma, key: lgv.sgd(1e-3, sigma, key)``. The
        localisation then is a part of its gradient.
      mask: where the parameters move, as in :func:`add_preconditioned_noise`, for a refined coefficient; the others
        stay.
      progress: as in :func:`sample`.

    Returns:
      An :class:`LLC`: ``mean``, ``standard_error``, ``traces`` (chains, draws), ``distances``, ``baseline``,
      ``warnings``, and ``rhat`` and ``ess`` by ArviZ. A chain that diverged is in the traces and not in the mean.

    Raises:
      ValueError: for numbers out of range, arrays of different length in ``data``, n < 3 without ``nbeta``.
      TypeError: as :func:`sample`.

    Warns:
      UserWarning: and in ``warnings``: of chains that diverged, a step that is too large for the curvature, an estimate
        that is negative or above d/2, losses that still rise, a gradient at :math:`\theta_0` that is none of a minimum,
        minibatches that heat, rounded losses.

    Example:
      A regular minimum of two parameters:

      >>> import jax, jax.numpy as jnp
      >>> from langevin_optax import sampling
      >>> data = jax.random.normal(jax.random.key(0), (1000, 2))
      >>> loss = lambda params, batch: ((params - batch) ** 2).sum(-1).mean() / 2
      >>> llc = sampling.local_learning_coefficient(
      ...     loss, data.mean(0), data, 0, batch_size=1000, progress=False)
      >>> abs(llc.mean - 1.0) < 0.1
      True

    References:
      Lau et al., `The Local Learning Coefficient <https://arxiv.org/abs/2308.12108>`_, 2023; Hitchcock and Hoogland,
      `From Global to Local <https://arxiv.org/abs/2507.21449>`_, 2025 (preconditioned samplers); Leimkuhler and
      Matthews, `Rational Construction of Stochastic Numerical Methods for Molecular Sampling
      <https://arxiv.org/abs/1203.5428>`_, 2013 (the averaged noise).
    """
    estimate = Estimator(loss_fn, data, key, batch_size, draws, chains, burn_in, nbeta, optimizer, mask)
    _check(learning_rate, localization)
    with _program.bar(burn_in + draws, progress) as shown:
        (llc,) = estimate(params, [(learning_rate, localization)], shown)
    for text in llc.warnings:
        warnings.warn(text, stacklevel=2)
    return llc


def llc_along_training(
    loss_fn: Callable[[Any, Any], Any],
    checkpoints: Sequence[Any],
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
) -> list[LLC]:
    """The local learning coefficients of the checkpoints of a training, one by one in one compiled program.

    Minibatches and noise are the same for all, so that neighbours differ by less than their standard errors tell. A
    checkpoint in the middle of a training is no minimum: its estimate may be negative, and says so.

    Args:
      checkpoints: parameters, all of one structure.

    The other arguments, errors and the sampler are those of :func:`local_learning_coefficient`.

    Returns:
      An :class:`LLC` for each checkpoint.

    Warns:
      UserWarning: once, if any estimate has ``warnings``.

    Example:
      >>> import jax.numpy as jnp
      >>> from langevin_optax import sampling
      >>> loss = lambda params, batch: ((params - batch) ** 2).mean() / 2
      >>> llcs = sampling.llc_along_training(
      ...     loss, [jnp.full(1, 0.001), jnp.zeros(1)], jnp.zeros((1000, 1)), 0, batch_size=1000, progress=False)
      >>> [f"{llc.baseline:.1e}" for llc in llcs]
      ['5.0e-07', '0.0e+00']
    """
    checkpoints = list(checkpoints)
    estimate = Estimator(loss_fn, data, key, batch_size, draws, chains, burn_in, nbeta, optimizer, mask)
    _check(learning_rate, localization)
    with _program.bar(len(checkpoints) * (burn_in + draws), progress) as shown:
        llcs = [estimate(params, [(learning_rate, localization)], shown)[0] for params in checkpoints]
    warn_of(llcs)
    return llcs


def _check(learning_rate: Any, localization: Any) -> None:
    for name, value in (("learning_rate", learning_rate), ("localization", localization)):
        check_finite(name, value, "a number")
    check_nonnegative("localization", localization)
    check_positive("learning_rate", learning_rate)
