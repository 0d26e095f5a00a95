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


def varying_like(x: Any, *like: Any) -> Any:
    """``x``, which varies within ``jax.shard_map`` over the axes over which any of ``like`` does."""
    axes = {axis for leaf in jax.tree.leaves(like) for axis in manual_axes(leaf)} - {*manual_axes(x)}
    return jax.lax.pcast(x, tuple(sorted(axes)), to="varying") if axes else x


def gathered(x: Any) -> Any:
    """``x`` whole on every device, if its sharding is explicit, a part of its type, so that any product is allowed."""
    sharding = jax.typeof(x).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec()))


def placed_like(x: Any, like: Any) -> Any:
    """``x`` with the sharding of ``like``, if that is explicit."""
    sharding = jax.typeof(like).sharding
    if all(axis is None for axis in sharding.spec):
        return x
    return jax.sharding.reshard(x, sharding)
