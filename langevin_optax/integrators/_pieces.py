"""The pieces of the splitting integrators, each the exact flow of one part of the dynamics.

Langevin dynamics, dθ = p dt, dp = −g dt − γ p dt + √(2γτ) dW, falls into A + B + O. Adaptive Langevin dynamics,
dθ = p dt, dp = −g dt − ξ p dt + σ dW, dξ = ε (‖p‖² − Nτ) dt, falls into A + B + C + D + E. Here θ, p and g are trees of
arrays, h is the time for which a piece flows, R a standard normal draw like p; everything is computed in the dtype of
what a piece moves, float32 at least.

Leimkuhler and Matthews, *Molecular Dynamics*, 2015, chapters 7 and 8; Leimkuhler, Matthews and Vlaar, 2019
(arXiv 1908.11843), section 2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from langevin_optax._mesh import manual_axes, number_of_shards, sum_over_shards


def A(theta: Any, p: Any, h: jax.Array) -> Any:
    """θ ← θ + h p."""
    return _each(lambda theta, p, h: theta + h * p, theta, p, scalars=(h,))


def B(p: Any, g: Any, h: jax.Array) -> Any:
    """p ← p − h g."""
    return _each(lambda p, g, h: p - h * g, p, g, scalars=(h,))


def C(p: Any, xi: jax.Array, h: jax.Array) -> Any:
    """p ← e^(−hξ) p."""
    return _each(lambda p, c: c * p, p, scalars=(jnp.exp(-h * xi),))


def D(p: Any, R: Any, sigma: jax.Array, h: jax.Array) -> Any:
    """p ← p + σ √h R."""
    return _each(lambda p, R, size: p + size * R, p, R, scalars=(sigma * jnp.sqrt(h),))


def E(xi: jax.Array, p: Any, temperature: jax.Array, coupling: jax.Array, h: jax.Array) -> jax.Array:
    """ξ ← ξ + h ε (‖p‖² − Nτ)."""
    return xi + h * coupling * (squared_norm(p) - degrees_of_freedom(p) * temperature)


def O(p: Any, R: Any, friction: jax.Array, temperature: jax.Array, h: jax.Array) -> Any:  # noqa: E743
    """p ← c p + √((1 − c²) τ) R, c = e^(−γh)."""
    c = jnp.exp(-friction * h)
    size = jnp.sqrt(-jnp.expm1(-2 * friction * h) * temperature)
    return _each(lambda p, R, c, size: c * p + size * R, p, R, scalars=(c, size))


def squared_norm(p: Any) -> jax.Array:
    """‖p‖², over the whole tree; within `jax.shard_map` over all shards."""

    def of_leaf(leaf):
        return sum_over_shards(jnp.sum(jnp.square(leaf)).astype(float), manual_axes(leaf))

    return sum(map(of_leaf, jax.tree.leaves(p)), start=jnp.zeros([]))


def degrees_of_freedom(p: Any) -> float:
    """N, the number of entries of the tree, beyond int32 in large models; of all shards."""

    def of_leaf(leaf):
        return jnp.size(leaf) * number_of_shards(manual_axes(leaf))

    return float(sum(map(of_leaf, jax.tree.leaves(p))))


def mean_square(p: Any) -> jax.Array:
    """‖p‖²/N, the kinetic temperature."""
    return squared_norm(p) / max(degrees_of_freedom(p), 1.0)


def _each(formula: Callable[..., jax.Array], first: Any, *rest: Any, scalars: tuple[jax.Array, ...]) -> Any:
    """``formula`` on the leaves and the scalars, all in the dtype of the leaf of ``first``."""

    def at_leaf(x, *others):
        return formula(x, *(jnp.asarray(y, x.dtype) for y in (*others, *scalars)))

    return jax.tree.map(at_leaf, first, *rest)
