"""Control variates: gradients of minibatches without the most of their noise, near a point whose gradient is known."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax.sampling._thermometers import leaves_like


def control_variate(gradient: Callable[..., Any], center: Any, full_gradient: Any) -> Callable[..., Any]:
    r"""The gradient of a minibatch, corrected by that of the same minibatch at a fixed point.

    .. math::
      \hat g(\theta; b) = g(\theta; b) + \big(\nabla L(\theta_0) - g(\theta_0; b)\big)

    Its mean over minibatches is :math:`\nabla L(\theta)`, like that of g. Its noise is that of
    :math:`g(\theta; b) - g(\theta_0; b)`: none at :math:`\theta_0`, and of the size of :math:`\|\theta - \theta_0\|`
    near it, where the noise of g would heat the sampler. With the whole data for a batch it is
    :math:`\nabla L(\theta)`, bit for bit.

    Hazards. Far from :math:`\theta_0` it is worse than no correction, up to twice the variance and more: take a point
    where an optimisation ended, start there, and renew it when the chain has wandered off. A step costs two gradients.
    What is random besides the batch (dropout) must be the same in both, which the same key does.

    Args:
      gradient: a function ``(params, *batch)`` that returns the gradients, or a pair of the loss and the gradients,
        such as ``jax.grad`` and ``jax.value_and_grad`` make, or one of a key that draws the batch, as :func:`sample`
        takes it. A mean over the batch, with the prior in it, if there is one.
      center: :math:`\theta_0`, such as the parameters at the end of a training.
      full_gradient: :math:`\nabla L(\theta_0)`, the same gradient at ``center`` over the whole data (the mean of those
        of batches of equal size that cover it).

    Returns:
      A function with the arguments and the results of ``gradient``; the loss of a pair is uncorrected.

    Raises:
      TypeError: if ``gradient`` is no function.
      ValueError: for a ``full_gradient`` of another structure or other shapes than ``center``; at the call, for
        gradients that are not like ``center``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from langevin_optax.sampling import control_variate
      >>> x = jnp.arange(8.0)
      >>> gradient = jax.grad(lambda m, x: ((m - x) ** 2).mean())
      >>> better = control_variate(gradient, center=3.0, full_gradient=gradient(3.0, x))
      >>> [float(g(4.0, batch)) for g in (gradient, better) for batch in (x, x[:2], x[6:])]
      [1.0, 7.0, -5.0, 1.0, 1.0, 1.0]

    References:
      Baker et al., `Control variates for stochastic gradient MCMC <https://arxiv.org/abs/1706.05439>`_, 2019 (SGLD-CV).
    """
    if not callable(gradient):
        raise TypeError(f"gradient must be a function, got {gradient!r}.")
    leaves_like(center, "full_gradient", full_gradient)
    structure: Any = jax.tree.structure(center)

    def corrected(params, *args, **kwargs):
        here, there = gradient(params, *args, **kwargs), gradient(center, *args, **kwargs)
        pair = structure != jax.tree.structure(here) and isinstance(here, tuple) and len(here) == 2
        (value, g), (_, g_0) = (here, there) if pair else ((None, here), (None, there))
        leaves_like(center, "what gradient returns", g)
        new = jax.tree.map(_corrected, g, g_0, full_gradient)
        return (value, new) if pair else new

    return corrected


def _corrected(g: Any, g_0: Any, full: Any) -> jax.Array:
    dtype = jnp.result_type(g)
    wide = np.promote_types(dtype, np.float32)
    return (jnp.asarray(g, wide) + (jnp.asarray(full, wide) - jnp.asarray(g_0, wide))).astype(dtype)
