"""The distributions of the noise, each of mean 0 and variance 1: ``(key, shape, dtype) -> array``."""

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax.noise import _threefry
from langevin_optax.noise._keys import is_threefry

Draw: TypeAlias = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]
Sampler: TypeAlias = Literal["normal", "rademacher"] | Draw

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
    """±1 with probability ½ each, one random bit per entry, 32 entries per word."""
    return unpacked(packed_bits(key, shape), shape, dtype)


def packed_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A random bit for each entry of ``shape``, packed along one of its axes."""
    if not _threefry.is_static(shape):
        raise ValueError(
            f'sampler="rademacher" packs its bits by the shape of the leaf, which must be known, got {shape}.'
        )
    words, axis = list(shape or (1,)), _packed_axis(shape)
    words[axis] = -(-words[axis] // 32)
    if is_threefry(key):
        return _threefry.random_bits(jax.random.key_data(key), tuple(words))
    return jax.random.bits(key, tuple(words), jnp.uint32)


@functools.partial(jax.jit, static_argnums=(1, 2))  # traced once per shape, not once per leaf
def unpacked(words: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """1 − 2 b for each bit b of ``words`` that has an entry in ``shape``."""
    sizes, axis = shape or (1,), _packed_axis(shape)
    places = np.arange(32, dtype=np.uint32).reshape([32 if a == axis + 1 else 1 for a in range(words.ndim + 1)])
    bits = (jnp.expand_dims(words, axis + 1) >> places) & np.uint32(1)
    bits = bits.reshape(*sizes[:axis], 32 * words.shape[axis], *sizes[axis + 1 :])
    bits = jax.lax.slice_in_dim(bits, 0, sizes[axis], axis=axis).reshape(shape)
    return 1 - 2 * bits.astype(dtype)


def _packed_axis(shape: tuple[int, ...]) -> int:
    """The first axis that fills half of its words: on TPU what is packed along the last one has another layout."""
    sizes = shape or (1,)
    return next((a for a, size in enumerate(sizes) if size > 16), int(np.argmax(sizes)))


_SAMPLERS: dict[str, Draw] = {"normal": normal, "rademacher": rademacher}
