"""The distributions of the noise, each of mean 0 and variance 1: ``(key, shape, dtype) -> array``."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax.noise import _threefry
from langevin_optax.noise._keys import is_threefry

Draw: TypeAlias = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]
Sampler: TypeAlias = Literal["normal", "rademacher", "three_point"] | Draw

# sin(πt)/t in powers of t², for |t| ≤ ½: the least relative error of that degree, 4e-8 with these rounded numbers.
_SIN_PI = (3.1415927, -5.1677098, 2.5500698, -0.5982421, 0.07756039)


def as_sampler(sampler: Sampler) -> Draw:
    """The function that ``sampler`` names or is."""
    if callable(sampler):
        return sampler
    if isinstance(sampler, str) and sampler in _SAMPLERS:
        return _SAMPLERS[sampler]
    raise ValueError(
        f"sampler must be one of {sorted(_SAMPLERS)} or a function (key, shape, dtype) with mean 0 and variance 1, "
        f"got {sampler!r}."
    )


def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """N(0, 1); for keys other than threefry's, and in float64, that of `jax.random`."""
    if is_threefry(key) and dtype == jnp.float32:
        return box_muller(*_threefry.random_pairs(jax.random.key_data(key), shape))
    return jax.random.normal(key, shape, dtype)


def box_muller(radius: jax.Array, angle: jax.Array) -> jax.Array:
    """√(−2 log u) cos(2πv) in float32, u uniform on (0, 1] and v on [0, 1) from a uint32 each; at most 6.8.

    Half the work of the inverse error function of `jax.random.normal`, and 31 bits in the tail for its 23.

    Box and Muller, A note on the generation of random normal deviates, 1958.
    """
    u = (radius >> np.uint32(1)).astype(jnp.int32).astype(jnp.float32) * np.float32(2**-31) + np.float32(2**-33)
    # cos(2πv) = sin(πt), where t falls from ½ to −½ as the angle goes half a turn to either side.
    half_turn = jnp.abs(jax.lax.bitcast_convert_type(angle, jnp.int32) >> np.int32(1))
    t = (np.int32(2**29) - half_turn).astype(jnp.float32) * np.float32(2**-30)
    sine = jnp.zeros_like(t)
    for coefficient in reversed(_SIN_PI):
        sine = sine * (t * t) + np.float32(coefficient)
    return jnp.sqrt(np.float32(-2) * jnp.log(u)) * (sine * t)


def rademacher(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """±1 with probability ½ each, one random bit per entry."""
    packed = PACKED[rademacher]
    return packed.values(packed.words(key, shape), shape, dtype)


def three_point(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """0, or ±√3 with probability ⅙ each: as N(0, 1) to the fifth moment, 16 random bits per entry.

    Of 65536 values 10923 are + and as many −, and √3 is the root of 65536 / 21846, which makes the variance 1.

    Kloeden and Platen, Numerical Solution of Stochastic Differential Equations, 1992, section 14.2.
    """
    packed = PACKED[three_point]
    return packed.values(packed.words(key, shape), shape, dtype)


class Packed(NamedTuple):
    """A sampler in two steps, of which only the first is to be kept in memory."""

    entries: int  # per word of 32 bits
    words: Callable[[jax.Array, tuple[int, ...]], jax.Array]  # from a key and a shape
    values: Callable[[jax.Array, tuple[int, ...], Any], jax.Array]  # from those words, the shape and a dtype


def _rademacher_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    sizes = _sizes_of_blocks(shape, 32)
    if is_threefry(key):
        return _threefry.random_bits(jax.random.key_data(key), sizes)
    return jax.random.bits(key, sizes, jnp.uint32)


@functools.partial(jax.jit, static_argnums=(1, 2))  # traced once per shape, not once per leaf
def _rademacher_values(words: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return 1 - 2 * _fields(words, shape, 1).astype(dtype)


def _three_point_words(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    sizes, axis = list(_sizes_of_blocks(shape, 4)), _packed_axis(shape)  # both words of a block are used
    if is_threefry(key):
        pairs = jnp.stack(_threefry.random_pairs(jax.random.key_data(key), tuple(sizes)), axis=axis + 1)
        return pairs.reshape(*sizes[:axis], 2 * sizes[axis], *sizes[axis + 1 :])
    sizes[axis] *= 2
    return jax.random.bits(key, tuple(sizes), jnp.uint32)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _three_point_values(words: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    fields, ones = _fields(words, shape, 16), 10923
    root, zero = np.array(math.sqrt(65536 / (2 * ones)), dtype), np.array(0, dtype)
    return jnp.where(fields < np.uint32(ones), root, jnp.where(fields >= np.uint32(65536 - ones), -root, zero))


PACKED: dict[Draw, Packed] = {
    rademacher: Packed(32, _rademacher_words, _rademacher_values),
    three_point: Packed(2, _three_point_words, _three_point_values),
}


def _sizes_of_blocks(shape: tuple[int, ...], entries: int) -> tuple[int, ...]:
    """The shape of the blocks of Threefry of which each is for so many entries along one axis."""
    if not _threefry.is_static(shape):
        raise ValueError(
            'sampler="rademacher" and "three_point" pack their bits by the shape of a leaf, which must be known, '
            f"got {shape}."
        )
    sizes, axis = list(shape or (1,)), _packed_axis(shape)
    sizes[axis] = -(-sizes[axis] // entries)
    return tuple(sizes)


def _fields(words: jax.Array, shape: tuple[int, ...], bits: int) -> jax.Array:
    """The fields of so many bits of ``words``, from the lowest one, that have an entry in ``shape``."""
    sizes, axis, fields = shape or (1,), _packed_axis(shape), 32 // bits
    places = np.arange(0, 32, bits, dtype=np.uint32)
    places = places.reshape([fields if a == axis + 1 else 1 for a in range(words.ndim + 1)])
    found = (jnp.expand_dims(words, axis + 1) >> places) & np.uint32(2**bits - 1)
    found = found.reshape(*sizes[:axis], fields * words.shape[axis], *sizes[axis + 1 :])
    return jax.lax.slice_in_dim(found, 0, sizes[axis], axis=axis).reshape(shape)


def _packed_axis(shape: tuple[int, ...]) -> int:
    """The first axis of more than 16 entries, half a word of signs, or else the longest.

    Not the last one, if it can be: to unpack along it a TPU turns every array to another layout and back.
    """
    sizes = shape or (1,)
    return next((a for a, size in enumerate(sizes) if size > 16), int(np.argmax(sizes)))


_SAMPLERS: dict[str, Draw] = {"normal": normal, "rademacher": rademacher, "three_point": three_point}
