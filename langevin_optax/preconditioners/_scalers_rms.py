"""Optax's scalers without debiased momentum, which also publish their P, and the links that hand a P on.

Arguments, numbers and states are Optax's; each scaler adds one formula of `_diagonal`. P is float32 (float64 for
float64 leaves), of the shape of its leaf. A coordinate whose gradient has always been 0 is called dead.
"""

from typing import Any

import optax

from langevin_optax._types import ArrayLike
from langevin_optax.preconditioners import _diagonal
from langevin_optax.preconditioners._publish import handing_on, with_preconditioner


def identity() -> optax.GradientTransformationExtraArgs:
    r"""``optax.identity``, which hands on the P of the updates that it is given.

    It starts none: for noise with P = 1 behind plain gradients, use :func:`add_langevin_noise`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_rms(), lgv.identity(), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
    """
    return handing_on(optax.identity())


def trace(
    decay: ArrayLike, nesterov: bool = False, accumulator_dtype: Any | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.trace`` (momentum), which hands on the P of the updates that it is given.

    It starts none: for noise with P = 1 behind momentum alone, use :func:`add_langevin_noise`. Its effective learning
    rate is γ/(1 − decay): for small γ the temperature is :math:`\tau = (1 - decay)\sigma^2/2`. State and arguments are
    those of ``optax.trace``.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(0.1, 0.01, key=0)
      >>> tx = optax.chain(lgv.scale_by_rms(), lgv.trace(0.9), noise, optax.scale_by_learning_rate(0.1))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Sutskever et al., `On the importance of initialization and momentum in deep learning
      <https://proceedings.mlr.press/v28/sutskever13.pdf>`_, 2013.
    """
    return handing_on(optax.trace(decay, nesterov, accumulator_dtype))


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

    with :math:`\hat\nu` for :math:`\nu` if ``bias_correction``. A dead coordinate has P = 1/√eps, or 1/eps outside the
    root. State and arguments are those of ``optax.scale_by_rms``.

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
    return with_preconditioner(
        optax.scale_by_rms(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        lambda g, old, new: _diagonal.rms(new, decay, eps, eps_in_sqrt, bias_correction),
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

    with :math:`\hat\mu, \hat\nu` for :math:`\mu, \nu` if ``bias_correction``. A dead coordinate has P = 1/√eps, or
    1/eps outside the root. State and arguments are those of ``optax.scale_by_stddev``.

    References:
      Graves, `Generating Sequences With Recurrent Neural Networks <https://arxiv.org/abs/1308.0850>`_, 2013.
    """
    return with_preconditioner(
        optax.scale_by_stddev(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        lambda g, old, new: _diagonal.stddev(new, decay, eps, eps_in_sqrt, bias_correction),
    )


def scale_by_rss(
    initial_accumulator_value: ArrayLike = 0.1, eps: ArrayLike = 1e-7
) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_rss`` (AdaGrad), which publishes

    .. math::
      P = \frac{1}{\sqrt{s + \epsilon}}, \quad\text{and } P = 0 \text{ where } s = 0,

    where s is the initial value plus the sum of the squared gradients, this one included. A dead coordinate keeps
    s = ``initial_accumulator_value``. State and arguments are those of ``optax.scale_by_rss``.

    References:
      Duchi et al., `Adaptive Subgradient Methods <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011.
    """
    return with_preconditioner(
        optax.scale_by_rss(initial_accumulator_value, eps),
        lambda g, old, new: _diagonal.rss(new, eps),
    )


def scale_by_adadelta(rho: ArrayLike = 0.9, eps: ArrayLike = 1e-6) -> optax.GradientTransformationExtraArgs:
    r"""``optax.scale_by_adadelta``, which publishes

    .. math::
      P = \frac{\sqrt{E[x^2]_{t-1} + \epsilon}}{\sqrt{E[g^2]_t + \epsilon}},

    with the mean squared update as it was before this step. The noise never enters :math:`E[x^2]`. A dead coordinate
    has P = 1. State and arguments are those of ``optax.scale_by_adadelta``.

    Raises:
      TypeError: at the update, for complex leaves: Optax's accumulators are then complex, and so is their ratio.

    References:
      Zeiler, `ADADELTA <https://arxiv.org/abs/1212.5701>`_, 2012.
    """
    return with_preconditioner(optax.scale_by_adadelta(rho, eps), lambda g, old, new: _diagonal.adadelta(old, new, eps))
