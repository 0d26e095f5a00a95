"""Parameter trees, and gradients for them."""

from typing import Any

import jax
import jax.numpy as jnp


def one_leaf(entries: int, dtype: Any = jnp.float32) -> Any:
    return {"w": jnp.ones(entries, dtype)}


def equal_leaves(leaves: int, entries: int) -> Any:
    """So many leaves of one shape, of ``entries`` in all."""
    return {f"Dense_{i}": jnp.ones(max(1, entries // leaves)) for i in range(leaves)}


def highway(layers: int = 80, width: int = 64) -> Any:
    """Two dense layers of equal width per highway layer: 320 leaves of two shapes."""
    names = [f"Dense_{i}" for i in range(2 * layers)]
    return {name: {"kernel": jnp.ones((width, width)), "bias": jnp.ones(width)} for name in names}


def gradients(params: Any) -> Any:
    """Of moderate size, all different."""
    return jax.tree.map(
        lambda p: (0.01 * jnp.cos(jnp.arange(p.size, dtype=jnp.float32))).reshape(p.shape).astype(p.dtype), params
    )
