"""Optax's scalers of the Adam family, which also publish their preconditioner P: the factor of the gradient, or of the
debiased momentum, in this very step. Arguments, numbers and states are Optax's; each function adds one formula.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from langevin_optax._preconditioning import debiased, inverse_root, wide, with_preconditioner

ArrayLike = jax.typing.ArrayLike


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

    The update is :math:`P\,\hat\mu`. :math:`1/(1 - \beta_1^t)` belongs to :math:`\hat\mu`, not to P.

    Args:
      b1, b2, eps, eps_root, mu_dtype, nesterov: those of ``optax.scale_by_adam``. A coordinate whose gradient has
        always been 0 has P = 1/eps.

    Returns:
      A gradient transformation with the state of ``optax.scale_by_adam``. P is float32 (float64 for float64
      leaves), of the shape of its leaf.

    Raises:
      What ``optax.scale_by_adam`` raises.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_adam(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_, 2014.
    """
    stock = optax.scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return with_preconditioner(stock, lambda g, old, new: inverse_root(debiased(new.nu, b2, new.count), eps, eps_root))


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

    Args:
      b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu: those of ``optax.scale_by_amsgrad``. A
        coordinate whose gradient has always been 0 has P = 1/eps.

    Returns:
      A gradient transformation with the state of ``optax.scale_by_amsgrad``. P is float32 (float64 for float64
      leaves), of the shape of its leaf.

    Raises:
      What ``optax.scale_by_amsgrad`` raises.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_amsgrad(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Reddi et al., `On the Convergence of Adam and Beyond <https://openreview.net/forum?id=ryQu7f-RZ>`_, 2018.
    """
    stock = optax.scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu)
    return with_preconditioner(stock, lambda g, old, new: inverse_root(new.nu_max, eps, eps_root))


def scale_by_adamax(
    b1: ArrayLike = 0.9, b2: ArrayLike = 0.999, eps: ArrayLike = 1e-8
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_adamax``, which publishes

    .. math::
      P = \frac{1}{\nu}, \qquad \nu = \max(\beta_2 \nu, |g| + \epsilon).

    Args:
      b1, b2, eps: those of ``optax.scale_by_adamax``. A coordinate whose gradient has always been 0 has P = 1/eps.

    Returns:
      A gradient transformation with the state of ``optax.scale_by_adamax``. P is float32 (float64 for float64
      leaves), of the shape of its leaf.

    Raises:
      What ``optax.scale_by_adamax`` raises.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_adamax(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_, 2014, section 7.1.
    """
    return with_preconditioner(
        optax.scale_by_adamax(b1, b2, eps), lambda g, old, new: jax.tree.map(lambda v: 1 / wide(v), new.nu)
    )


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

    where :math:`\nu` averages :math:`(g - \mu)^2` and takes up :math:`\epsilon_{root}` at every step.

    Args:
      b1, b2, eps, eps_root, nesterov: those of ``optax.scale_by_belief``. A coordinate whose gradient has always been
        0 has :math:`P = 1/(\sqrt{\epsilon_{root}/(1-\beta_2)} + \epsilon)`.

    Returns:
      A gradient transformation with the state of ``optax.scale_by_belief``. P is float32 (float64 for float64
      leaves), of the shape of its leaf.

    Raises:
      What ``optax.scale_by_belief`` raises.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_belief(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Zhuang et al., `AdaBelief Optimizer <https://arxiv.org/abs/2010.07468>`_, 2020.
    """
    stock = optax.scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov)
    return with_preconditioner(stock, lambda g, old, new: inverse_root(debiased(new.nu, b2, new.count), eps, 0.0))


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

    Args:
      b1, b2, eps, eps_root, initial_accumulator_value: those of ``optax.scale_by_yogi``. A coordinate whose gradient
        has always been 0 keeps it as :math:`\nu`.

    Returns:
      A gradient transformation with the state of ``optax.scale_by_yogi``. P is float32 (float64 for float64
      leaves), of the shape of its leaf.

    Raises:
      What ``optax.scale_by_yogi`` raises.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_yogi(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Zaheer et al., `Adaptive Methods for Nonconvex Optimization
      <https://papers.nips.cc/paper/2018/hash/90365351ccc7437a1309dc64e4db32a3-Abstract.html>`_, 2018.
    """
    stock = optax.scale_by_yogi(b1, b2, eps, eps_root, initial_accumulator_value)
    return with_preconditioner(stock, lambda g, old, new: inverse_root(debiased(new.nu, b2, new.count), eps, eps_root))


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

    Args:
      b1, b2, eps, eps_root, threshold, nesterov: those of ``optax.scale_by_radam``. A coordinate whose gradient has
        always been 0 has P = r/eps.

    Returns:
      A gradient transformation with the state of ``optax.scale_by_radam``. P is float32 (float64 for float64
      leaves), of the shape of its leaf.

    Raises:
      What ``optax.scale_by_radam`` raises.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_radam(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Liu et al., `On the Variance of the Adaptive Learning Rate and Beyond <https://arxiv.org/abs/1908.03265>`_, 2020.
    """

    def preconditioner(g, old, new):
        rho_inf = 2 / (1 - b2) - 1
        b2t = b2**new.count
        rho = rho_inf - 2 * new.count * b2t / (1 - b2t)
        rectified = rho >= threshold
        # ρ is negative or 0 in the first steps: the root of the branch not taken must be no NaN.
        safe = jnp.where(rectified, rho, rho_inf)
        r = jnp.sqrt((safe - 4) * (safe - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * safe))
        p = inverse_root(debiased(new.nu, b2, new.count), eps, eps_root)
        return jax.tree.map(lambda p: jnp.where(rectified, r.astype(p.dtype) * p, 1), p)

    stock = optax.scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov)
    return with_preconditioner(stock, preconditioner)
