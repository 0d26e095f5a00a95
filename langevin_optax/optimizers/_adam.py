"""Langevin versions of Adam, AdamW, NAdam and AMSGrad."""

from typing import Any

import jax
import optax

from langevin_optax._types import ArrayLike, Mask, ScalarOrSchedule
from langevin_optax.noise._samplers import Sampler
from langevin_optax.optimizers._engine import langevin


def adam(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any | None = None,
    *,
    nesterov: bool = False,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin Adam.

    .. math::
      \theta \leftarrow \theta - \gamma P\hat\mu + \sigma\sqrt{\gamma P}\,\xi, \qquad
      P = 1/(\sqrt{\hat\nu + \epsilon_{root}} + \epsilon)

    Args:
      learning_rate: :math:`\gamma`, a scalar or an Optax schedule.
      sigma: :math:`\sigma`, likewise; a static 0 is ``optax.adam`` bit for bit (with the same arguments).
      key: an ``int`` or a ``jax.random.key``. Each ``init`` gives it to the state: a state that is made anew repeats
        its noise, unless the number of the restart is folded in (:func:`fold_in`). Under ``optax.inject_hyperparams``
        an ``int`` of 31 bits at most, or ``static_args="key"``.
      b1, b2, eps, eps_root, mu_dtype, nesterov: those of ``optax.adam``. The default eps is larger than Optax's 1e-8: a
        dead coordinate has P = 1/eps, and with eps = 1e-8, γ = 1e-3 and σ = 1e-3 the noise moves it by 0.3 per step.
      mask: where to add noise, as in :func:`add_preconditioned_noise`, e.g. :func:`layer_mask`.
      sampler: as in :func:`noise_like`.
      max_noise: as in :func:`add_preconditioned_noise`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``. Its state is that of ``optax.adam``, with a :class:`LangevinState`
      behind it. Its updates have sign and size: nothing scales them after it.

    Raises:
      ValueError, TypeError: as :func:`langevin`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.adam(1e-3, sigma=1e-3, key=0)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Bras, `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    build = langevin(optax.adam, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


def adamw(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    weight_decay_mask: Mask | None = None,
    *,
    nesterov: bool = False,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin AdamW.

    .. math::
      \theta \leftarrow \theta - \gamma (P\hat\mu + \lambda\theta) + \sigma\sqrt{\gamma P}\,\xi, \qquad
      P = 1/(\sqrt{\hat\nu + \epsilon_{root}} + \epsilon)

    Args:
      learning_rate, sigma, key, sampler, max_noise: as in :func:`adam`.
      b1, b2, eps, eps_root, mu_dtype, weight_decay, nesterov: those of ``optax.adamw``; eps as in :func:`adam`.
      weight_decay_mask: where to decay the weights: what ``optax.adamw`` calls ``mask``.
      mask: where to add noise, as in :func:`adam`. In ``optax.adamw`` the name means another thing: see
        ``weight_decay_mask``.

    References:
      Loshchilov and Hutter, `Decoupled Weight Decay Regularization <https://arxiv.org/abs/1711.05101>`_, 2019; Bras,
      `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    build = langevin(optax.adamw, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, weight_decay_mask, nesterov=nesterov)


def nadam(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any | None = None,
    *,
    nesterov: bool = True,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin Adam with Nesterov momentum: the equation of :func:`adam`, with the momentum of ``optax.nadam``.

    Args:
      learning_rate, sigma, key, mask, sampler, max_noise: as in :func:`adam`.
      b1, b2, eps, eps_root, mu_dtype, nesterov: those of ``optax.nadam``; eps as in :func:`adam`.

    References:
      Dozat, `Incorporating Nesterov Momentum into Adam <https://openreview.net/pdf?id=OM0jvwB8jIp57ZJjtNEZ>`_, 2016.
    """
    build = langevin(optax.nadam, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


def amsgrad(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin AMSGrad.

    .. math::
      \theta \leftarrow \theta - \gamma P\hat\mu + \sigma\sqrt{\gamma P}\,\xi, \qquad
      P = 1/(\sqrt{\nu_{max} + \epsilon_{root}} + \epsilon)

    Args:
      learning_rate, sigma, key, mask, sampler, max_noise: as in :func:`adam`.
      b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu: those of ``optax.amsgrad``; eps as in
        :func:`adam`.

    References:
      Reddi et al., `On the Convergence of Adam and Beyond <https://openreview.net/forum?id=ryQu7f-RZ>`_, 2018.
    """
    build = langevin(optax.amsgrad, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu)
