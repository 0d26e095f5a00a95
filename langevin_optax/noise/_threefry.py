"""Threefry with the words of `jax.random`, written out.

On CPU `jax.random` lowers Threefry to a loop whose every pass goes through memory. Written out as one expression it is
one kernel, or a part of the kernel that uses it. The words are those of `jax.random` with its partitionable Threefry:
an entry depends on the key and its position alone, so that shards need not communicate.

Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_ZERO = np.uint32(0)


def fold_in(key: jax.Array, data: Any, high: Any = _ZERO) -> jax.Array:
    """`jax.random.fold_in` of the 64 bits ``high``, ``data``; ``key`` is key data of shape (2,)."""
    return jnp.stack(_threefry2x32(key, jnp.asarray(high), jnp.asarray(data)))


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`jax.random.bits`: uint32 of ``shape``; ``key`` is key data of shape (2,)."""
    x0, x1 = random_pairs(key, shape)
    return x0 ^ x1


@functools.partial(jax.jit, static_argnames="shape")
def random_pairs(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Two independent words per entry, whose exclusive or is that of `jax.random.bits`."""
    # The counter of an entry is its position, as two words of which each counts some of the axes.
    split = _low_axes(shape)
    key, one = _own_one(key)
    return _threefry2x32(key, _positions(shape, range(split), one), _positions(shape, range(split, len(shape)), one))


def _own_one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The key, and a 1 of which XLA for accelerators does not know that other leaves have the same.

    Leaves that shared their positions would be fused to one kernel, which takes nearly twice as long to compile as a
    kernel for each leaf, of which those that are alike are compiled once.
    """
    one = _ZERO * key[0] + np.uint32(1)  # it varies over the axes of a mesh as the key does
    return jax.lax.platform_dependent(
        (key, one), cpu=lambda both: both, default=lambda both: jax.lax.optimization_barrier(both)
    )


def _low_axes(shape: tuple[int, ...]) -> int:
    """The first of the last axes whose positions fit one word; a symbolic size is taken to fit."""
    split = len(shape)
    if not is_static(shape):
        return 0
    while split and math.prod(shape[split - 1 :]) <= 2**32:
        split -= 1
    return split


def is_static(shape: tuple[Any, ...]) -> bool:
    """Whether all sizes are known: `jax.export` has symbolic ones."""
    return all(isinstance(size, (int, np.integer)) for size in shape)


def _threefry2x32(key: jax.Array, x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Twenty rounds of Threefry-2x32."""
    k0, k1 = key
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0, x1 = x0 + k0, x1 + k1
    for i in range(5):
        for r in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << np.uint32(r)) | (x1 >> np.uint32(32 - r)))
        x0 = x0 + schedule[(i + 1) % 3]
        x1 = x1 + (schedule[(i + 2) % 3] + np.uint32(i + 1))
    return x0, x1


def _positions(shape: tuple[int, ...], axes: range, one: jax.Array) -> jax.Array:
    position = jnp.zeros(shape, jnp.uint32)
    stride: Any = 1
    for axis in reversed(axes):
        # An axis of one entry may stand on 2³² others, where the stride does not matter.
        step = np.uint32(stride % 2**32) if isinstance(stride, int) else jnp.asarray(stride).astype(jnp.uint32)
        position += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * (step * one)
        stride *= shape[axis]
    return position
