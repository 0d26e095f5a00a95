"""The noise of one step: ξ with mean 0 and variance 1, a function of key, step, path, shape and sampler.

Hazards, and where they are met:

1. Two leaves with one key share their noise; `split(key, n)[i] == fold_in(key, i)`, so keys by position collide with
   keys of other programs. A leaf's key is folded from a hash of its path (`_path_words`).
2. Keys by position change when a leaf is added, masked or frozen. Paths do not.
3. One draw a leaf makes compile time grow with the number of leaves. Leaves of one shape are drawn together
   (`_draw_leaves`; but a few large ones are not), apart from their use (`_apart`), which is the same kernel for all of
   them (`_rows`).
4. Only threefry keys give the same values under `vmap` as alone; keys of other implementations are drawn one by one.
5. bfloat16 noise has 8 bits: draws are float32 at least, and the sum is rounded once by the caller.
6. Within `jax.shard_map` the shards of a leaf have one path and one shape: the key of a leaf that varies over axes of
   the mesh, and the key of the step does not, is folded with the place on them (`_at_place`).
"""

import functools
import hashlib
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax import _checks, _samplers, _threefry
from langevin_optax._samplers import Draw, Sampler

_NAMED = (_samplers.normal, _samplers.rademacher)

# Normals of a few leaves of so many entries are drawn where they are used, and not through memory: that is faster (four
# leaves of 2.5 million, 2 cores: 1.5 for 2.1 times Adam), but each leaf is a kernel to compile (160 of 2¹⁸: 14 for 2).
_LARGE = 2**18
_FEW = 4


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
    same with and without ``jit`` and on any number of devices. Within ``jax.shard_map`` replicas of a leaf share their
    noise, and shards of a leaf draw each its own, by its shape and its place on the mesh. (Under ``check_vma=False``
    JAX does not say which is which: all devices share their noise, and :func:`fold_in` tells shards apart.)

    Args:
      key: an ``int`` or a ``jax.random.key`` of any implementation.
      step: the number of the step, an integer scalar.
      tree: arrays or ``jax.ShapeDtypeStruct``; only paths, shapes and dtypes are read. ``None`` and
        ``optax.MaskedNode`` leaves pass through.
      sampler: ``"normal"``; ``"rademacher"`` (±1, one random bit an entry, enough for a weak first-order scheme, which
        needs the first three moments only; shards of a leaf that are no multiple of 32 entries share words, which they
        then send each other); or a function ``(key, shape, dtype)`` with mean 0 and variance 1.

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
    draw = _samplers.as_sampler(sampler)
    key = _checks.as_key(key)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    if len({jax.tree_util.keystr(path) for path, _ in leaves}) < len(leaves):
        raise ValueError(f"two leaves with one path would get the same noise: {[_name(path) for path, _ in leaves]}.")
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, (path, leaf) in enumerate(leaves):
        axes = tuple(axis for axis in manual_axes(leaf) if axis not in manual_axes(key))
        groups[jnp.shape(leaf), noise_dtype(path, leaf), axes].append(i)

    keys = _leaf_keys(key, step, [path for path, _ in leaves])
    noise: list[Any] = [None] * len(leaves)
    for (shape, dtype, axes), members in groups.items():
        draw_leaves = _draw_leaves_of_name if draw in _NAMED else _draw_leaves
        drawn = draw_leaves(draw, _at_place(keys[np.array(members)], axes), shape, dtype)
        for i, xi in zip(members, drawn, strict=True):
            noise[i] = xi
    return jax.tree.unflatten(treedef, noise)


def manual_axes(x: Any) -> tuple[str, ...]:
    """The axes of the mesh over which an array varies within ``jax.shard_map``; none under ``check_vma=False``."""
    if not isinstance(x, jax.core.Tracer):
        return ()
    return tuple(sorted(jax.typeof(x).manual_axis_type.varying))


def _at_place(keys: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The keys, folded with the place on these axes of the mesh."""
    if not axes:
        return keys
    place = jax.lax.axis_index(axes)
    return jax.vmap(lambda key: jax.random.fold_in(key, place))(keys)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path) or "(root)"


def without_wrapper(path: Any) -> Any:
    """A leaf's path, less the ``.value`` that NNX variables and Linen's partitioned parameters add."""
    return path[:-1] if path and path[-1] == jax.tree_util.GetAttrKey("value") else path


def _path_words(path: Any) -> tuple[int, int]:
    """64 bits of hash of a path, as two words to fold into a key."""
    digest = hashlib.blake2b(jax.tree_util.keystr(without_wrapper(path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _draw_leaves(draw: Draw, keys: jax.Array, shape: tuple[int, ...], dtype: Any) -> list[jax.Array]:
    """One draw for each of the keys, with the very values of separate calls."""
    one = functools.partial(_draw_leaf, draw, shape=shape, dtype=dtype)
    if not _samplers.is_threefry(keys):
        return [one(key) for key in keys]
    if draw is _samplers.rademacher and not jnp.issubdtype(dtype, jnp.complexfloating):  # a 32nd of a leaf
        words = _apart(lambda key: _samplers.packed_bits(key, shape), keys)
        return [_samplers.unpacked(row, shape, dtype) for row in _rows(words)]
    if len(keys) == 1 or (len(keys) <= _FEW and draw in _NAMED and math.prod(shape) >= _LARGE):
        return [one(key) for key in keys]
    return _rows(_apart(one, keys))


# Compiled once outside of jit too.
_draw_leaves_of_name = jax.jit(_draw_leaves, static_argnums=(0, 2, 3))


def _apart(draw_leaf: Callable[[jax.Array], jax.Array], keys: jax.Array) -> jax.Array:
    """``vmap(draw_leaf)(keys)`` in memory, where XLA would fuse it with each of its uses, and compile it as often."""

    def draw(data):
        return jax.vmap(draw_leaf)(jax.random.wrap_key_data(data, impl="threefry2x32"))

    def on_cpu(data):  # here XLA drops barriers before it fuses, but not a condition that it does not know
        like = jax.eval_shape(draw, data)
        true = jax.lax.optimization_barrier(jnp.array(True))
        return jax.lax.cond(
            true, draw, lambda data: jnp.broadcast_to((0 * data[0, 0]).astype(like.dtype), like.shape), data
        )

    data = jax.random.key_data(keys)
    return jax.lax.platform_dependent(data, cpu=on_cpu, default=lambda data: jax.lax.optimization_barrier(draw(data)))


def _rows(batch: jax.Array) -> list[jax.Array]:
    """``list(batch)``, in a form that compiles as fast as a single row.

    XLA compiles kernels that are alike only once, but one that uses ``batch[3]`` is not like one that uses
    ``batch[4]``: so the numbers of the rows are read from tables, at a place that XLA does not know.
    """
    zero = jax.lax.optimization_barrier(jnp.uint32(0))
    return [_row(batch, np.array([row, -1], np.int32).view(np.uint32), zero) for row in range(len(batch))]


@jax.jit
def _row(batch: jax.Array, table: jax.Array, zero: jax.Array) -> jax.Array:
    (place,) = jax.lax.dynamic_slice(table, (zero,), (1,))
    rest = [np.uint32(0)] * (batch.ndim - 1)
    return jax.lax.dynamic_slice(batch, (place, *rest), (1, *batch.shape[1:])).reshape(batch.shape[1:])


def _leaf_keys(key: jax.Array, step: Any, paths: list[Any]) -> jax.Array:
    """A key for each leaf, folded from the step and the two words of its path."""
    words = np.array([_path_words(path) for path in paths], np.uint32).reshape(-1, 2)
    if not _samplers.is_threefry(key):
        key = jax.random.fold_in(key, step)
        return jnp.stack([jax.random.fold_in(jax.random.fold_in(key, a), b) for a, b in words])
    data = _fold_all(jax.random.key_data(key), jnp.asarray(step).astype(jnp.uint32), words)
    return jax.random.wrap_key_data(jax.lax.optimization_barrier(data), impl="threefry2x32")


@jax.jit
def _fold_all(key: jax.Array, step: jax.Array, words: jax.Array) -> jax.Array:
    key = _threefry.fold_in(key, step)
    return jax.vmap(lambda w: _threefry.fold_in(_threefry.fold_in(key, w[0]), w[1]))(words)


def _draw_leaf(draw: Draw, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
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
