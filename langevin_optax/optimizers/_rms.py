"""Langevin versions of SGD, RMSprop, AdaGrad and Adadelta."""

from typing import Any

import jax
import optax

from langevin_optax._types import ArrayLike, Mask, ScalarOrSchedule
from langevin_optax.noise._samplers import Sampler
from langevin_optax.optimizers._engine import langevin


def sgd(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any | None = None,
    *,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Stochastic gradient Langevin dynamics (SGLD), with momentum if asked for.

    .. math::
      \theta \leftarrow \theta - \gamma\,u + \sigma\sqrt{\gamma}\,\xi

    Args:
      learning_rate, sigma, key, mask, sampler, max_noise: as in :func:`adam`.
      momentum, nesterov, accumulator_dtype: those of ``optax.sgd``. With momentum β the effective learning rate is
        γ/(1 − β), while the noise is that of γ: for small γ the temperature is :math:`\tau = (1-\beta)\sigma^2/2`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.sgd(1e-3, sigma=1e-3, key=0)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Welling and Teh, `Bayesian learning via stochastic gradient Langevin dynamics
      <https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf>`_, 2011.
    """
    build = langevin(optax.sgd, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, momentum, nesterov, accumulator_dtype)


def rmsprop(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-7,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin RMSprop: also preconditioned SGLD (pSGLD).

    .. math::
      \theta \leftarrow \theta - \gamma P g + \sigma\sqrt{\gamma P}\,\xi, \qquad
      P = 1/\sqrt{\nu + \epsilon}

    Args:
      learning_rate, sigma, key, mask, sampler, max_noise: as in :func:`adam`.
      decay, eps, initial_scale, eps_in_sqrt, centered, momentum, nesterov, bias_correction: those of ``optax.rmsprop``.
        With momentum β the noise joins the parameters, not the momentum, and the temperature falls by the factor 1 − β.
        The default eps is larger than Optax's 1e-8: a dead coordinate has P = 1/√eps, or 1/eps outside the root.

    References:
      Li et al., `Preconditioned Stochastic Gradient Langevin Dynamics <https://arxiv.org/abs/1512.07666>`_, 2015; Bras,
      `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    build = langevin(optax.rmsprop, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, decay, eps, initial_scale, eps_in_sqrt, centered, momentum, nesterov, bias_correction)


def adagrad(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    initial_accumulator_value: ArrayLike = 0.1,
    eps: ArrayLike = 1e-7,
    *,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin AdaGrad.

    .. math::
      \theta \leftarrow \theta - \gamma P g + \sigma\sqrt{\gamma P}\,\xi, \qquad
      P = 1/\sqrt{s + \epsilon}

    Args:
      learning_rate, sigma, key, mask, sampler, max_noise: as in :func:`adam`.
      initial_accumulator_value, eps: those of ``optax.adagrad``. A dead coordinate has P = 1/√0.1 = 3.2 whatever eps
        is, so eps has Optax's default.

    References:
      Duchi et al., `Adaptive Subgradient Methods <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011.
    """
    build = langevin(optax.adagrad, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, initial_accumulator_value, eps)


def adadelta(
    learning_rate: ScalarOrSchedule | None = None,
    sigma: ScalarOrSchedule | None = None,
    key: jax.Array | int | None = None,
    rho: ArrayLike = 0.9,
    eps: ArrayLike = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask | None = None,
    *,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin Adadelta. The noise never enters the accumulated squares of the steps.

    .. math::
      \theta \leftarrow \theta - \gamma P g + \sigma\sqrt{\gamma P}\,\xi, \qquad
      P = \sqrt{E[x^2]_{t-1} + \epsilon} \big/ \sqrt{E[g^2]_t + \epsilon}

    Args:
      learning_rate: as in :func:`adam`; None, the default of ``optax.adadelta``, is 1.
      sigma, key, mask, sampler, max_noise: as in :func:`adam`; ``sigma`` and ``key`` are required.
      rho, eps, weight_decay, weight_decay_mask: those of ``optax.adadelta``. A dead coordinate has P = 1 whatever eps
        is, so eps has Optax's default.

    Raises:
      TypeError: without ``sigma`` or ``key``; else as :func:`langevin`.

    References:
      Bras, `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    if sigma is None or key is None:  # they follow an argument with a default
        raise TypeError(
            "adadelta needs sigma and key: adadelta(learning_rate, sigma, key) or adadelta(sigma=..., key=...)."
        )
    build = langevin(optax.adadelta, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, rho, eps, weight_decay, weight_decay_mask)
