"""What `jax.shard_map` knows of an array: the axes of the mesh over which it varies."""

import math
from typing import Any

import jax


def manual_axes(x: Any) -> tuple[str, ...]:
    """The axes of the mesh over which an array varies within ``jax.shard_map``; none under ``check_vma=False``."""
    if not isinstance(x, jax.core.Tracer):
        return ()
    return tuple(sorted(jax.typeof(x).manual_axis_type.varying))


def sum_over_shards(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The sum of ``x`` over these axes of the mesh."""
    return jax.lax.psum(x, axes) if axes else x


def number_of_shards(axes: tuple[str, ...]) -> int:
    """How many shards these axes of the mesh make."""
    return math.prod(map(jax.lax.axis_size, axes))
