"""The noise of one step: ξ with mean 0 and variance 1, a function of key, step, path, shape and sampler.

Hazards, and where they are handled:

1. One draw per leaf makes compile time grow with the number of leaves. Leaves of one shape are drawn together
   (`_draw_leaves`), apart from their use (`_apart`), which is the same kernel for all of them (`_rows`). Large leaves,
   whose noise would go through memory, are drawn where it is used.
2. Only threefry keys give the same values under `vmap` as alone; keys of other implementations are drawn one by one.
3. bfloat16 noise has 8 bits: draws are float32 at least, and the sum is rounded once by the caller.
4. Within `jax.shard_map` the shards of a leaf have one path and one shape: the key of a leaf that varies over axes of
   the mesh, and the key of the step does not, is folded with the place on them (`_at_place`).
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax import _trees
from langevin_optax._mesh import manual_axes
from langevin_optax.noise import _keys, _samplers, _threefry
from langevin_optax.noise._samplers import Draw, Sampler

_NAMED = (_samplers.normal, *_samplers.PACKED)

# Leaves of so many entries get their noise where it is used, and not through memory: a transformer of 42 leaves then
# takes 1.1 to 1.2 times Adam's step on an H200, not 1.6, and no copy of the parameters. But that compiles a kernel
# for each leaf. XLA for accelerators compiles kernels that are alike once; on CPU 160 leaves take 14 times the compile
# time of Adam instead of 2, and only a few are drawn so.
_LARGE = 2**18
_FEW_ON_CPU = 4


def noise_like(key: jax.Array | int, step: jax.typing.ArrayLike, tree: Any, sampler: Sampler = "normal") -> Any:
    r"""The standard noise :math:`\xi` of one step, independent and identically distributed over the entries.

    A leaf's noise depends on ``key``, ``step``, the names along its path in ``tree`` (``Dense_0/kernel``, whatever the
    containers), its shape and ``sampler``, and on nothing else:
    adding, masking or freezing other leaves never changes it. With threefry keys (JAX's default) the values are the
    same with and without ``jit`` and on any number of devices. Within ``jax.shard_map`` replicas of a leaf share their
    noise, and shards of a leaf draw each its own, by its shape and its place on the mesh. (Under ``check_vma=False``
    JAX does not say which is which: all devices share their noise, and :func:`fold_in` tells shards apart.)

    Args:
      key: an ``int`` of at most 64 bits, or a ``jax.random.key`` of any implementation.
      step: the number of the step, an integer scalar of at most 64 bits.
      tree: arrays or ``jax.ShapeDtypeStruct``; only paths, shapes and dtypes are read. ``None`` and
        ``optax.MaskedNode`` leaves pass through.
      sampler: ``"normal"``; ``"rademacher"`` (±1, one random bit per entry, enough for a weak first-order scheme, which
        needs the first three moments only); ``"three_point"`` (0, or ±√3 with probability ⅙ each, 16 random bits per
        entry, enough for a weak second-order scheme, which needs the first five); or a function
        ``(key, shape, dtype)`` with mean 0 and variance 1. (If leaves are sharded along their first axis of more than
        16 entries, in shards that are no multiple of 32, or 4 for ``"three_point"``, then neighbours share a random
        word and XLA inserts a collective.)

    Returns:
      A tree like ``tree``: float32 leaves (float64 for float64 leaves), complex for complex leaves, then circular with
      :math:`E|\xi|^2 = 1`.

    Raises:
      TypeError: for integer or boolean leaves, a key that is neither an ``int`` nor a typed key, or a step that is no
        integer.
      ValueError: for an unknown sampler, two leaves with one path, a sampler that returns another shape or dtype than
        it was asked for, or a key or step of more than 64 bits.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> params = {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}
      >>> noise = lgv.noise_like(0, 7, params)
      >>> bool((noise["bias"] == lgv.noise_like(0, 7, {"bias": params["bias"]})["bias"]).all())
      True
      >>> lgv.noise_like(0, 7, params, sampler="rademacher")["bias"].tolist()
      [1.0, -1.0, -1.0]

    References:
      Salmon et al., `Parallel random numbers: as easy as 1, 2, 3 <https://doi.org/10.1145/2063384.2063405>`_, 2011
      (counter-based keys); Kloeden and Platen, *Numerical Solution of Stochastic Differential Equations*, 1992,
      sections 14.1 (two-point noise) and 14.2 (three-point noise).
    """
    draw = _samplers.as_sampler(sampler)
    key = _keys.as_key(key)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    names = ["/".join(_trees.path_names(path, tree)) for path, _ in leaves]
    if len(set(names)) < len(leaves):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"leaves with one path would get the same noise: {twice} stand there twice.")
    groups: dict[Any, list[int]] = defaultdict(list)
    for i, (path, leaf) in enumerate(leaves):
        axes = tuple(axis for axis in manual_axes(leaf) if axis not in manual_axes(key))
        groups[jnp.shape(leaf), _trees.noise_dtype(path, leaf), axes].append(i)

    keys = _keys.leaf_keys(key, step, names)
    noise: list[Any] = [None] * len(leaves)
    for (shape, dtype, axes), members in groups.items():
        draw_leaves = _draw_leaves_of_name if _is_named(draw) else _draw_leaves
        drawn = draw_leaves(draw, _at_place(keys[np.array(members)], axes), shape, dtype)
        for i, xi in zip(members, drawn, strict=True):
            noise[i] = xi
    return jax.tree.unflatten(treedef, noise)


def _at_place(keys: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The keys, folded with the place on these axes of the mesh."""
    if not axes:
        return keys
    place = jax.lax.axis_index(axes)
    return jax.vmap(lambda key: jax.random.fold_in(key, place))(keys)


def _draw_leaves(draw: Draw, keys: jax.Array, shape: tuple[int, ...], dtype: Any) -> list[jax.Array]:
    """One draw for each of the keys, with the very values of separate calls."""
    one = functools.partial(_draw_leaf, draw, shape=shape, dtype=dtype)
    if not _keys.is_threefry(keys):
        return [one(key) for key in keys]
    packed = _samplers.PACKED[draw] if _is_named(draw) and draw is not _samplers.normal else None
    drawn, part = _drawn(shape, dtype)

    def alone(data):
        return [one(key) for key in _wrapped(data)]

    def together(data):
        if packed is None:
            return _rows(_apart(one, data))
        words = _rows(_apart(lambda key: packed.words(key, drawn), data))
        return [_joined(packed.values(row, drawn, part), dtype) for row in words]

    data, large = jax.random.key_data(keys), _is_named(draw) and _is_large(shape)
    if packed is not None and packed.entries == 32:  # whose words are a 32nd of a leaf
        return together(data)
    if packed is None and (len(keys) == 1 or (large and len(keys) <= _FEW_ON_CPU)):
        return alone(data)
    return jax.lax.platform_dependent(data, cpu=together, default=alone) if large else together(data)


def _is_named(draw: Draw) -> bool:
    return any(draw is named for named in _NAMED)  # a user's sampler may be equal to anything


def _wrapped(data: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(data, impl="threefry2x32")


def _is_large(shape: tuple[int, ...]) -> bool:
    return not _threefry.is_static(shape) or math.prod(shape) >= _LARGE


# Compiled once outside of jit too.
_draw_leaves_of_name = jax.jit(_draw_leaves, static_argnums=(0, 2, 3))


def _apart(draw_leaf: Callable[[jax.Array], jax.Array], data: jax.Array) -> jax.Array:
    """``vmap(draw_leaf)`` of the keys, materialised: otherwise XLA fuses the draw into every use, and compiles each."""

    def draw(data):
        return jax.vmap(draw_leaf)(_wrapped(data))

    def on_cpu(data):  # here XLA drops barriers before it fuses, but not a condition that it does not know
        like = jax.eval_shape(draw, data)
        true = jax.lax.optimization_barrier(jnp.array(True))
        return jax.lax.cond(
            true, draw, lambda data: jnp.broadcast_to((0 * data[0, 0]).astype(like.dtype), like.shape), data
        )

    return jax.lax.platform_dependent(data, cpu=on_cpu, default=lambda data: jax.lax.optimization_barrier(draw(data)))


def _rows(batch: jax.Array) -> list[jax.Array]:
    """``list(batch)``, in a form that compiles as fast as a single row.

    XLA compiles kernels that are alike only once, but one that uses ``batch[3]`` is not like one that uses
    ``batch[4]``: so the row index is loaded from a constant table at a run-time offset, and XLA cannot specialise the
    kernel.
    """
    opaque_zero = jax.lax.optimization_barrier(jnp.uint32(0))
    return [_row(batch, np.array([row, -1], np.int32).view(np.uint32), opaque_zero) for row in range(len(batch))]


@jax.jit
def _row(batch: jax.Array, row_index: jax.Array, opaque_zero: jax.Array) -> jax.Array:
    (row,) = jax.lax.dynamic_slice(row_index, (opaque_zero,), (1,))
    rest = [np.uint32(0)] * (batch.ndim - 1)
    return jax.lax.dynamic_slice(batch, (row, *rest), (1, *batch.shape[1:])).reshape(batch.shape[1:])


def _draw_leaf(draw: Draw, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return _joined(_checked(draw, key, *_drawn(shape, dtype)), dtype)


def _drawn(shape: tuple[int, ...], dtype: Any) -> tuple[tuple[int, ...], Any]:
    """What is drawn for a leaf: for a complex one its real and its imaginary part."""
    return ((2, *shape), jnp.finfo(dtype).dtype) if jnp.issubdtype(dtype, jnp.complexfloating) else (shape, dtype)


def _joined(parts: jax.Array, dtype: Any) -> jax.Array:
    """Circular: real and imaginary part of variance ½ each, whatever the sampler."""
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return parts
    return jax.lax.complex(*(parts * np.sqrt(0.5).astype(parts.dtype)))


def _checked(draw: Draw, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    drawn = draw(key, shape, dtype)
    if jnp.shape(drawn) != shape or jnp.result_type(drawn) != dtype:
        raise ValueError(
            f"the sampler was asked for shape {shape} and dtype {dtype}, but returned shape {jnp.shape(drawn)} and "
            f"dtype {jnp.result_type(drawn)}."
        )
    return drawn
