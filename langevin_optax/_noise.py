"""The noise of one step: ξ with mean 0 and variance 1, a function of key, step, path, shape and sampler.

Hazards, and where they are met:

1. Two leaves with one key share their noise; `split(key, n)[i] == fold_in(key, i)`, so keys by position collide with
   keys of other programs. A leaf's key is folded from a hash of its path (`_path_words`).
2. Keys by position change when a leaf is added, masked or frozen. Paths do not.
3. One draw a leaf makes compile time grow with the number of leaves. Leaves of one shape are drawn together
   (`noise_like`).
4. Only threefry keys give the same values under `vmap` as alone; keys of other implementations are drawn one by one.
5. bfloat16 noise has 8 bits: draws are float32 at least, and the sum is rounded once by the caller.
"""

import functools
import hashlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax import _checks

Draw: TypeAlias = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]
Sampler: TypeAlias = Literal["normal", "rademacher"] | Draw


def rademacher(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """±1 with probability ½ each, one random bit an entry, 32 entries a word."""
    sizes = shape or (1,)
    # Pack along the axis that wastes the fewest bits of its last word.
    axis = min(range(len(sizes)), key=lambda a: (-(-sizes[a] // 32) / max(sizes[a], 1), -a))
    words = list(sizes)
    words[axis] = -(-sizes[axis] // 32)
    packed = jnp.expand_dims(jax.random.bits(key, tuple(words), jnp.uint32), axis + 1)
    places = jnp.expand_dims(jnp.arange(32, dtype=jnp.uint32), [a for a in range(packed.ndim) if a != axis + 1])
    bits = (packed >> places) & 1
    bits = bits.reshape(*sizes[:axis], 32 * words[axis], *sizes[axis + 1 :])
    bits = jax.lax.slice_in_dim(bits, 0, sizes[axis], axis=axis).reshape(shape)
    return 1 - 2 * bits.astype(dtype)


_SAMPLERS: dict[str, Draw] = {"normal": jax.random.normal, "rademacher": rademacher}


def as_sampler(sampler: Sampler) -> Draw:
    """The function ``(key, shape, dtype) -> array`` that ``sampler`` names or is."""
    if callable(sampler):
        return sampler
    if isinstance(sampler, str) and sampler in _SAMPLERS:
        return _SAMPLERS[sampler]
    raise ValueError(
        f"sampler must be one of {sorted(_SAMPLERS)} or a function (key, shape, dtype) with mean 0 and variance 1, "
        f"got {sampler!r}."
    )


def noise_dtype(path: Any, leaf: Any) -> np.dtype:
    """The dtype in which the noise of a leaf is drawn and added; raises for leaves that cannot carry noise."""
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"noise needs real or complex leaves, but the leaf {_name(path)} is {dtype}. "
            "Leave such leaves out with optax.masked or optax.partition."
        )
    return np.promote_types(dtype, np.float32)


def noise_like(key: jax.Array | int, step: jax.typing.ArrayLike, tree: Any, sampler: Sampler = "normal") -> Any:
    r"""The standard noise :math:`\xi` of one step, one independent draw an entry.

    A leaf's noise depends on ``key``, ``step``, its path in ``tree``, its shape and ``sampler``, and on nothing else:
    adding, masking or freezing other leaves never changes it. With threefry keys (JAX's default) the values are the
    same with and without ``jit`` and on any number of devices.

    Args:
      key: an ``int`` or a ``jax.random.key`` of any implementation.
      step: the number of the step, an integer scalar.
      tree: arrays or ``jax.ShapeDtypeStruct``; only paths, shapes and dtypes are read. ``None`` and
        ``optax.MaskedNode`` leaves pass through.
      sampler: ``"normal"``; ``"rademacher"`` (±1, one random bit an entry, enough for a weak first-order scheme, which
        needs the first three moments only); or a function ``(key, shape, dtype)`` with mean 0 and variance 1.

    Returns:
      A tree like ``tree``: float32 leaves (float64 for float64 leaves), complex for complex leaves, then circular with
      :math:`E|\xi|^2 = 1`.

    Raises:
      TypeError: for integer or boolean leaves, or a key that is neither an ``int`` nor a typed key.
      ValueError: for an unknown sampler, two leaves with one path, or a sampler that returns another shape or dtype
        than it was asked for.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> params = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}
      >>> noise = lgv.noise_like(0, 7, params)
      >>> bool((noise["bias"] == lgv.noise_like(0, 7, {"bias": params["bias"]})["bias"]).all())
      True
      >>> lgv.noise_like(0, 7, params, sampler="rademacher")["bias"].tolist()
      [-1.0, 1.0, 1.0]

    References:
      Salmon et al., `Parallel random numbers: as easy as 1, 2, 3 <https://doi.org/10.1145/2063384.2063405>`_, 2011
      (counter-based keys); Kloeden and Platen, *Numerical Solution of Stochastic Differential Equations*, 1992,
      section 14.1 (two-point noise).
    """
    draw = as_sampler(sampler)
    key = jax.random.fold_in(_checks.as_key(key), step)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    if len({jax.tree_util.keystr(path) for path, _ in leaves}) < len(leaves):
        raise ValueError(f"two leaves with one path would get the same noise: {[_name(path) for path, _ in leaves]}.")
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, (path, leaf) in enumerate(leaves):
        groups[jnp.shape(leaf), noise_dtype(path, leaf)].append(i)

    batched = jax.random.key_impl(key) == "threefry2x32"
    noise: list[Any] = [None] * len(leaves)
    for (shape, dtype), members in groups.items():
        draw_leaf = functools.partial(_draw_leaf, draw, key, shape, dtype)
        words = jnp.array([_path_words(leaves[i][0]) for i in members], jnp.uint32)
        drawn = jax.vmap(draw_leaf)(words) if batched else [draw_leaf(w) for w in words]
        for j, i in enumerate(members):
            noise[i] = drawn[j]
    return jax.tree.unflatten(treedef, noise)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path) or "(root)"


def _path_words(path: Any) -> tuple[int, int]:
    """64 bits of hash of a path, as two words to fold into a key."""
    digest = hashlib.blake2b(jax.tree_util.keystr(path).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _draw_leaf(draw: Draw, key: jax.Array, shape: tuple[int, ...], dtype: Any, words: jax.Array) -> jax.Array:
    key = jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1])
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return _checked(draw, key, shape, dtype)
    # Circular: real and imaginary part of variance ½ each, whatever the sampler.
    parts = _checked(draw, key, (2, *shape), jnp.finfo(dtype).dtype)
    return jax.lax.complex(*(parts * np.sqrt(0.5).astype(parts.dtype)))


def _checked(draw: Draw, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    drawn = draw(key, shape, dtype)
    if jnp.shape(drawn) != shape or jnp.result_type(drawn) != dtype:
        raise ValueError(
            f"the sampler was asked for shape {shape} and dtype {dtype}, but returned shape {jnp.shape(drawn)} and "
            f"dtype {jnp.result_type(drawn)}."
        )
    return drawn
