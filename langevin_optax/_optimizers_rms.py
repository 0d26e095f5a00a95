"""Optax's optimisers without debiased momentum with Langevin noise: chains, no arithmetic."""

from typing import Any

import jax
import optax

from langevin_optax import _scalers_rms
from langevin_optax._langevin import Mask, ScalarOrSchedule, langevin
from langevin_optax._noise import Sampler

ArrayLike = jax.typing.ArrayLike


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
      learning_rate: :math:`\gamma`, a scalar, an array or an Optax schedule.
      sigma: :math:`\sigma`, likewise; a static 0 is ``optax.sgd`` bit for bit (with the same arguments).
      key: an ``int`` or a ``jax.random.key``.
      momentum, nesterov, accumulator_dtype: those of ``optax.sgd``. Momentum β drifts by γ/(1 − β), while the noise is
        that of γ: for small γ the temperature is :math:`\tau = (1-\beta)\sigma^2/2`.
      mask: where to add noise, as in :func:`add_preconditioned_noise`, e.g. :func:`layer_mask`.
      sampler: as in :func:`noise_like`.
      max_noise: as in :func:`add_preconditioned_noise`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``. Its state is that of ``optax.sgd``, with a
        :class:`LangevinState` behind it.

    Raises:
      ValueError, TypeError: at construction, as :func:`add_preconditioned_noise`.

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
    return langevin(
        _scalers_rms.identity() if momentum is None else _scalers_rms.trace(momentum, nesterov, accumulator_dtype),
        learning_rate,
        sigma,
        key,
        mask,
        sampler,
        max_noise,
    )


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
      learning_rate: :math:`\gamma`, a scalar, an array or an Optax schedule.
      sigma: :math:`\sigma`, likewise; a static 0 is ``optax.rmsprop`` bit for bit (with the same arguments).
      key: an ``int`` or a ``jax.random.key``.
      decay, eps, initial_scale, eps_in_sqrt, centered, momentum, nesterov, bias_correction: those of ``optax.rmsprop``.
        With momentum β the noise joins the parameters, not the momentum, and the temperature falls by the factor 1 − β.
        The default eps is larger than Optax's 1e-8: a coordinate whose gradient has always been 0 has P = 1/√eps, or
        1/eps outside the root.
      mask: where to add noise, as in :func:`add_preconditioned_noise`, e.g. :func:`layer_mask`.
      sampler: as in :func:`noise_like`.
      max_noise: as in :func:`add_preconditioned_noise`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``. Its state is that of ``optax.rmsprop``, with a
        :class:`LangevinState` behind it.

    Raises:
      ValueError, TypeError: at construction, as :func:`add_preconditioned_noise`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.rmsprop(1e-3, sigma=1e-3, key=0)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Li et al., `Preconditioned Stochastic Gradient Langevin Dynamics <https://arxiv.org/abs/1512.07666>`_, 2015; Bras,
      `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    scaler = _scalers_rms.scale_by_stddev if centered else _scalers_rms.scale_by_rms
    return langevin(
        scaler(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        learning_rate,
        sigma,
        key,
        mask,
        sampler,
        max_noise,
        after=(optax.identity() if momentum is None else optax.trace(momentum, nesterov),),
    )


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
      learning_rate: :math:`\gamma`, a scalar, an array or an Optax schedule.
      sigma: :math:`\sigma`, likewise; a static 0 is ``optax.adagrad`` bit for bit (with the same arguments).
      key: an ``int`` or a ``jax.random.key``.
      initial_accumulator_value, eps: those of ``optax.adagrad``. A coordinate whose gradient has always been 0
        has P = 1/√0.1 = 3.2 whatever eps is, so eps has Optax's default.
      mask: where to add noise, as in :func:`add_preconditioned_noise`, e.g. :func:`layer_mask`.
      sampler: as in :func:`noise_like`.
      max_noise: as in :func:`add_preconditioned_noise`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``. Its state is that of ``optax.adagrad``, with a
        :class:`LangevinState` behind it.

    Raises:
      ValueError, TypeError: at construction, as :func:`add_preconditioned_noise`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.adagrad(1e-2, sigma=1e-3, key=0)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Duchi et al., `Adaptive Subgradient Methods <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011.
    """
    return langevin(
        _scalers_rms.scale_by_rss(initial_accumulator_value, eps), learning_rate, sigma, key, mask, sampler, max_noise
    )


def adadelta(
    learning_rate: ScalarOrSchedule | None,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
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
      learning_rate: :math:`\gamma`, a scalar, an array or an Optax schedule.
      sigma: :math:`\sigma`, likewise; a static 0 is ``optax.adadelta`` bit for bit (with the same arguments).
      key: an ``int`` or a ``jax.random.key``.
      rho, eps, weight_decay, weight_decay_mask: those of ``optax.adadelta``. A coordinate whose gradient has always
        been 0 has P = 1 whatever eps is, so eps has Optax's default.
      mask: where to add noise, as in :func:`add_preconditioned_noise`, e.g. :func:`layer_mask`.
      sampler: as in :func:`noise_like`.
      max_noise: as in :func:`add_preconditioned_noise`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``. Its state is that of ``optax.adadelta``, with a
        :class:`LangevinState` behind it.

    Raises:
      ValueError, TypeError: at construction, as :func:`add_preconditioned_noise`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.adadelta(0.1, sigma=1e-3, key=0)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Bras, `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    return langevin(
        _scalers_rms.scale_by_adadelta(rho, eps),
        learning_rate,
        sigma,
        key,
        mask,
        sampler,
        max_noise,
        before=(optax.add_decayed_weights(weight_decay, weight_decay_mask),),
    )
