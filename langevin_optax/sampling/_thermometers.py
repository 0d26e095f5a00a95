"""The temperature of the positions, next to `langevin_optax.kinetic_temperature`, that of the momenta."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax import _trees
from langevin_optax._mesh import manual_axes, number_of_shards, sum_over_shards


def configurational_temperature(params: Any, grads: Any, center: Any = None) -> jax.Array:
    r"""The temperature that positions and forces show, :math:`(\theta - \theta_0)\cdot g/N`.

    .. math::
      \langle(\theta - \theta_0)\cdot\nabla L(\theta)\rangle = N\tau \quad\text{under}\quad \exp(-L/\tau)

    for any fixed :math:`\theta_0`, by parts, if the density falls to 0 far out. A single value scatters, by
    :math:`\tau\sqrt{2/N}` on a quadratic around :math:`\theta_0`: take the mean over a run. With
    :func:`kinetic_temperature` it is one of two thermometers: in a right sampler both read :math:`\tau`. Momenta at
    :math:`\tau` alone say nothing of the positions, which a step that is too large, or the noise of minibatches, heats.

    The scheme's own error shows: on a quadratic of curvature a :func:`baoab` and Leimkuhler–Matthews read
    :math:`\tau`, Euler–Maruyama of step h reads :math:`\tau/(1 - ha/2)`.

    Args:
      params: :math:`\theta`, real.
      grads: :math:`g = \nabla L(\theta)` at these very parameters, before the step, of the loss whose density
        :math:`\exp(-L/\tau)` is; that of a minibatch has the same mean.
      center: :math:`\theta_0`, like the parameters, 0 by default: the nearer to their mean, the smaller the scatter,
        if :math:`\langle g\rangle` is not 0 yet.

    Returns:
      A scalar array. For several chains or draws, ``jax.vmap`` it.

    Raises:
      ValueError: for gradients or a ``center`` of another structure or other shapes.
      TypeError: for complex leaves, whose gradient may be meant conjugated or not.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> from langevin_optax.sampling import configurational_temperature
      >>> tx, params = lgv.baoab(0.5, temperature=2.0, friction=1.0, key=0), jnp.zeros(1000)
      >>> def step(run, _):
      ...     params, state = run
      ...     grads = params  # of ‖θ‖²/2
      ...     updates, state = tx.update(grads, state)
      ...     return (params + updates, state), configurational_temperature(params, grads)
      >>> _, temperatures = jax.lax.scan(step, (params, tx.init(params)), length=1000)
      >>> print(f"{temperatures[100:].mean():.1f}")
      2.0

    References:
      Wenzel et al., `How Good is the Bayes Posterior in Deep Neural Networks Really?
      <https://arxiv.org/abs/2002.02405>`_, 2020 (kinetic and configurational temperatures of networks); Leimkuhler and
      Matthews, *Molecular Dynamics*, 2015.
    """
    names, leaves, _ = _trees.flatten(params)
    forces = leaves_like(params, "grads", grads)
    centers = [0.0] * len(leaves) if center is None else leaves_like(params, "center", center)
    total, n = jnp.zeros([]), 0.0
    for name, theta, g, theta_0 in zip(names, leaves, forces, centers, strict=True):
        dtype = np.promote_types(jnp.result_type(theta), np.float32)
        if any(jnp.issubdtype(jnp.result_type(x), jnp.complexfloating) for x in (theta, g, theta_0)):
            raise TypeError(
                f"configurational_temperature needs real leaves, got a complex one at {name}: pass real and imaginary "
                "parts, and the derivatives with respect to them."
            )
        theta, g, theta_0 = (jnp.asarray(x, dtype) for x in (theta, g, theta_0))
        product = (theta - theta_0) * g
        axes = manual_axes(product)
        total += sum_over_shards(jnp.sum(product).astype(float), axes)
        n += jnp.size(product) * number_of_shards(axes)
    return total / max(n, 1.0)


def leaves_like(params: Any, name: str, tree: Any) -> list[Any]:
    """The leaves of ``tree``, if it is like ``params``."""
    structures: list[Any] = [jax.tree.structure(x) for x in (params, tree)]
    ours, theirs = ([*map(jnp.shape, jax.tree.leaves(x))] for x in (params, tree))
    if structures[0] != structures[1] or ours != theirs:
        raise ValueError(
            f"{name} must be like the parameters, {structures[0]} of shapes {ours}, got {structures[1]} of {theirs}."
        )
    return jax.tree.leaves(tree)
