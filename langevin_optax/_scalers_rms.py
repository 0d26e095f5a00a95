"""Optax's scalers without debiased momentum, which also publish their preconditioner P: the factor of the gradient in
this very step. Arguments, numbers and states are Optax's; each function adds one formula.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from langevin_optax._preconditioning import debiased, inverse_root, wide, with_preconditioner

ArrayLike = jax.typing.ArrayLike


def identity() -> optax.GradientTransformationExtraArgs:
    r"""``optax.identity``, which publishes :math:`P = 1`.

    Returns:
      A gradient transformation that hands the gradient on. With noise after it this is SGLD.

    Raises:
      What ``optax.identity`` raises.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.identity(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Welling and Teh, `Bayesian learning via stochastic gradient Langevin dynamics
      <https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf>`_, 2011.
    """
    return with_preconditioner(optax.identity(), lambda g, old, new: jax.tree.map(lambda _: 1.0, g))


def trace(
    decay: ArrayLike, nesterov: bool = False, accumulator_dtype: Any | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.trace`` (momentum), which publishes :math:`P = 1`.

    Args:
      decay, nesterov, accumulator_dtype: those of ``optax.trace``.

    Returns:
      A gradient transformation with the state of ``optax.trace``. After a scaler that publishes a P it hands on that P.
      It drifts by γ/(1 − decay): for small γ the temperature is :math:`\tau = (1 - decay)\sigma^2/2`.

    Raises:
      What ``optax.trace`` raises.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.trace(0.9), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Sutskever et al., `On the importance of initialization and momentum in deep learning
      <https://proceedings.mlr.press/v28/sutskever13.pdf>`_, 2013.
    """
    stock = optax.trace(decay, nesterov, accumulator_dtype)
    return with_preconditioner(stock, lambda g, old, new: jax.tree.map(lambda _: 1.0, g))


def scale_by_rms(
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_rms``, which publishes

    .. math::
      P = \frac{1}{\sqrt{\nu + \epsilon}} \quad\text{or}\quad P = \frac{1}{\sqrt{\nu} + \epsilon},

    with :math:`\hat\nu` for :math:`\nu` if ``bias_correction``.

    Args:
      decay, eps, initial_scale, eps_in_sqrt, bias_correction: those of ``optax.scale_by_rms``. A coordinate whose
        gradient has always been 0 has P = 1/√eps, or 1/eps outside the root.

    Returns:
      A gradient transformation with the state of ``optax.scale_by_rms``. P is float32 (float64 for float64
      leaves), of the shape of its leaf.

    Raises:
      What ``optax.scale_by_rms`` raises.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_rms(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Hinton, `Overview of mini-batch gradient descent
      <https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf>`_, 2012.
    """

    def preconditioner(g, old, new):
        nu = debiased(new.nu, decay, new.count) if bias_correction else new.nu
        return inverse_root(nu, 0.0, eps) if eps_in_sqrt else inverse_root(nu, eps, 0.0)

    return with_preconditioner(
        optax.scale_by_rms(decay, eps, initial_scale, eps_in_sqrt, bias_correction), preconditioner
    )


def scale_by_stddev(
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_stddev`` (centred RMSprop), which publishes

    .. math::
      P = \frac{1}{\sqrt{\nu - |\mu|^2 + \epsilon}} \quad\text{or}\quad P = \frac{1}{\sqrt{\nu - |\mu|^2} + \epsilon},

    with :math:`\hat\mu, \hat\nu` for :math:`\mu, \nu` if ``bias_correction``.

    Args:
      decay, eps, initial_scale, eps_in_sqrt, bias_correction: those of ``optax.scale_by_stddev``. A coordinate whose
        gradient has always been 0 has P = 1/√eps, or 1/eps outside the root.

    Returns:
      A gradient transformation with the state of ``optax.scale_by_stddev``. P is float32 (float64 for float64
      leaves), of the shape of its leaf.

    Raises:
      What ``optax.scale_by_stddev`` raises.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_stddev(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Graves, `Generating Sequences With Recurrent Neural Networks <https://arxiv.org/abs/1308.0850>`_, 2013.
    """

    def preconditioner(g, old, new):
        mu, nu = new.mu, new.nu
        if bias_correction:
            mu, nu = optax.tree.bias_correction(mu, decay, new.count), debiased(nu, decay, new.count)
        variance = jax.tree.map(lambda m, n: wide(n) - jnp.square(wide(jnp.abs(m))), mu, nu)
        return inverse_root(variance, 0.0, eps) if eps_in_sqrt else inverse_root(variance, eps, 0.0)

    return with_preconditioner(
        optax.scale_by_stddev(decay, eps, initial_scale, eps_in_sqrt, bias_correction), preconditioner
    )


def scale_by_rss(
    initial_accumulator_value: ArrayLike = 0.1, eps: ArrayLike = 1e-7
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_rss`` (AdaGrad), which publishes

    .. math::
      P = \frac{1}{\sqrt{s + \epsilon}}, \quad\text{and } P = 0 \text{ where } s = 0,

    where s is the initial value plus the sum of the squared gradients, this one included.

    Args:
      initial_accumulator_value, eps: those of ``optax.scale_by_rss``. A coordinate whose gradient has always been 0
        keeps it.

    Returns:
      A gradient transformation with the state of ``optax.scale_by_rss``. P is float32 (float64 for float64
      leaves), of the shape of its leaf.

    Raises:
      What ``optax.scale_by_rss`` raises.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_rss(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Duchi et al., `Adaptive Subgradient Methods <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011.
    """

    def preconditioner(g, old, new):
        p = inverse_root(new.sum_of_squares, 0.0, eps)
        return jax.tree.map(lambda s, p: jnp.where(wide(s) > 0, p, 0), new.sum_of_squares, p)

    return with_preconditioner(optax.scale_by_rss(initial_accumulator_value, eps), preconditioner)


def scale_by_adadelta(rho: ArrayLike = 0.9, eps: ArrayLike = 1e-6) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_adadelta``, which publishes

    .. math::
      P = \frac{\sqrt{E[x^2]_{t-1} + \epsilon}}{\sqrt{E[g^2]_t + \epsilon}},

    with the mean squared update as it was before this step. The noise never enters :math:`E[x^2]`.

    Args:
      rho, eps: those of ``optax.scale_by_adadelta``. A coordinate whose gradient has always been 0 has P = 1.

    Returns:
      A gradient transformation with the state of ``optax.scale_by_adadelta``. P is float32 (float64 for float64
      leaves), of the shape of its leaf.

    Raises:
      TypeError: at the update, for complex leaves: Optax's accumulators are then complex, and so is their ratio.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_adadelta(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Zeiler, `ADADELTA <https://arxiv.org/abs/1212.5701>`_, 2012.
    """

    def preconditioner(g, old, new):
        if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(g)):
            raise TypeError(
                "scale_by_adadelta has no real preconditioner for complex leaves: use another scaler for them."
            )
        return jax.tree.map(lambda x, g: jnp.sqrt(wide(x) + eps) / jnp.sqrt(wide(g) + eps), old.e_x, new.e_g)

    return with_preconditioner(optax.scale_by_adadelta(rho, eps), preconditioner)
