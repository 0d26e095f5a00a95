"""Optax's scalers with debiased momentum, which also publish their P.

Arguments, numbers and states are Optax's; each function adds one formula of `_diagonal`. P is float32 (float64 for
float64 leaves), of the shape of its leaf. A coordinate whose gradient has always been 0 is called dead.
"""

from typing import Any

import optax

from langevin_optax._types import ArrayLike
from langevin_optax.preconditioners import _diagonal
from langevin_optax.preconditioners._publish import with_preconditioner


def scale_by_adam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any | None = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_adam``, which publishes

    .. math::
      P = \frac{1}{\sqrt{\hat\nu + \epsilon_{root}} + \epsilon}, \qquad \hat\nu = \frac{\nu}{1 - \beta_2^t}.

    The update is :math:`P\,\hat\mu`. :math:`1/(1 - \beta_1^t)` belongs to :math:`\hat\mu`, not to P. A dead coordinate
    has P = 1/eps. State and arguments are those of ``optax.scale_by_adam``.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_adam(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_, 2014.
    """
    return with_preconditioner(
        optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        lambda g, old, new: _diagonal.adam(new, b2, eps, eps_root),
    )


def scale_by_amsgrad(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: Any | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_amsgrad``, which publishes

    .. math::
      P = \frac{1}{\sqrt{\nu_{max} + \epsilon_{root}} + \epsilon}.

    A dead coordinate has P = 1/eps. State and arguments are those of ``optax.scale_by_amsgrad``.

    References:
      Reddi et al., `On the Convergence of Adam and Beyond <https://openreview.net/forum?id=ryQu7f-RZ>`_, 2018.
    """
    return with_preconditioner(
        optax.scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu),
        lambda g, old, new: _diagonal.amsgrad(new, eps, eps_root),
    )


def scale_by_adamax(
    b1: ArrayLike = 0.9, b2: ArrayLike = 0.999, eps: ArrayLike = 1e-8
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_adamax``, which publishes

    .. math::
      P = \frac{1}{\nu}, \qquad \nu = \max(\beta_2\nu, |g| + \epsilon).

    A dead coordinate has P = 1/eps. State and arguments are those of ``optax.scale_by_adamax``.

    References:
      Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_, 2014, section 7.1.
    """
    return with_preconditioner(optax.scale_by_adamax(b1, b2, eps), lambda g, old, new: _diagonal.adamax(new))


def scale_by_belief(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-16,
    eps_root: ArrayLike = 1e-16,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_belief``, which publishes

    .. math::
      P = \frac{1}{\sqrt{\hat\nu} + \epsilon},

    where :math:`\nu` averages :math:`(g - \mu)^2` and takes up :math:`\epsilon_{root}` at every step. A dead coordinate
    has :math:`P = 1/(\sqrt{\epsilon_{root}/(1-\beta_2)} + \epsilon)`. State and arguments are those of
    ``optax.scale_by_belief``.

    References:
      Zhuang et al., `AdaBelief Optimizer <https://arxiv.org/abs/2010.07468>`_, 2020.
    """
    return with_preconditioner(
        optax.scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov),
        lambda g, old, new: _diagonal.adam(new, b2, eps),
    )


def scale_by_yogi(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-3,
    eps_root: ArrayLike = 0.0,
    initial_accumulator_value: ArrayLike = 1e-6,
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_yogi``, which publishes

    .. math::
      P = \frac{1}{\sqrt{\hat\nu + \epsilon_{root}} + \epsilon}.

    A dead coordinate keeps :math:`\nu` = ``initial_accumulator_value``. State and arguments are those of
    ``optax.scale_by_yogi``.

    References:
      Zaheer et al., `Adaptive Methods for Nonconvex Optimization
      <https://papers.nips.cc/paper/2018/hash/90365351ccc7437a1309dc64e4db32a3-Abstract.html>`_, 2018.
    """
    return with_preconditioner(
        optax.scale_by_yogi(b1, b2, eps, eps_root, initial_accumulator_value),
        lambda g, old, new: _diagonal.adam(new, b2, eps, eps_root),
    )


def scale_by_radam(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    threshold: ArrayLike = 5.0,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_radam``, which publishes

    .. math::
      P = \begin{cases} r_t / (\sqrt{\hat\nu + \epsilon_{root}} + \epsilon) & \rho_t \ge \text{threshold} \\
      1 & \text{otherwise,} \end{cases}

    with the rectification :math:`r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2)\rho_\infty}{(\rho_\infty - 4)(\rho_\infty -
    2)\rho_t}}`, :math:`\rho_\infty = \frac{2}{1-\beta_2} - 1`,
    :math:`\rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}`.

    A dead coordinate has P = r/eps. State and arguments are those of ``optax.scale_by_radam``.

    References:
      Liu et al., `On the Variance of the Adaptive Learning Rate and Beyond <https://arxiv.org/abs/1908.03265>`_, 2020.
    """
    return with_preconditioner(
        optax.scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov),
        lambda g, old, new: _diagonal.radam(new, b2, eps, eps_root, threshold),
    )
