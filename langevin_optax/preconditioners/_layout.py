"""How a matrix preconditioner sees a leaf: stacked layers in front, one by one, and small axes merged."""

import math
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from langevin_optax import _trees
from langevin_optax._mesh import gathered
from langevin_optax.preconditioners._operators import Operator


class Layout(NamedTuple):
    """A leaf turned ``inward`` has the shape ``shape``: first, if there is a ``stack`` axis, the layers, then the axes
    that P may couple, of which those in ``axes`` get a matrix."""

    outer: tuple[int, ...]
    stack: int | None
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def coupled(self) -> range:
        return range(self.stack is not None, len(self.shape))

    def inward(self, x: Any) -> jax.Array:
        x = gathered(x)
        return (x if self.stack is None else jnp.moveaxis(x, self.stack, 0)).reshape(self.shape)

    def outward(self, x: jax.Array) -> jax.Array:
        if self.stack is None:
            return x.reshape(self.outer)
        rest = (*self.outer[: self.stack], *self.outer[self.stack + 1 :])
        return jnp.moveaxis(x.reshape(self.outer[self.stack], *rest), 0, self.stack)

    def matrices(self, size: int) -> tuple[int, ...]:
        """The shape of the matrices of an axis of that size."""
        return (*self.shape[: self.coupled.start], size, size)

    def along_axes(self, matrices: Any) -> tuple[Any, ...]:
        """The matrices of ``axes``, and None for the other axes."""
        placed = dict(zip(self.axes, matrices, strict=True))
        return tuple(placed.get(axis) for axis in range(len(self.shape)))

    def outer_operator(self, p: Operator) -> Operator:
        """P of the leaf, from P of the leaf turned inward."""
        return p if self.outer == self.shape and not self.stack else Turned(self, p)


class Turned:
    """P of a leaf, from P of the leaf turned inward."""

    def __init__(self, layout: Layout, operator: Operator):
        self.layout, self.operator = layout, operator

    def root(self, xi: Any) -> Any:
        return self.layout.outward(self.operator.root(self.layout.inward(xi)))


def layouts(updates: Any, max_dimension: int, merge_dimension: int, scanned: Mapping[str, int] | None) -> list[Layout]:
    """The layout of each leaf; raises for leaves that no matrix preconditioner takes."""
    found: list[Layout] = []
    used = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"matrix preconditioners need real leaves, but {_trees.leaf_name(path)} is {jnp.result_type(leaf)}. "
                "Leave it out by optax.masked or optax.partition, or, if it is complex, wrap the optimiser in "
                "optax.contrib.split_real_and_imaginary."
            )
        shape, names = jnp.shape(leaf), layer_names(path, updates)
        above = [key for key in scanned or {} if names[: len(key.split("/"))] == key.split("/")]
        if len(above) > 1:
            raise ValueError(f"scanned has two paths, {above}, above {_trees.leaf_name(path)}: give one of them.")
        used |= set(above)
        found.append(
            _layout(
                _trees.leaf_name(path), shape, [(scanned or {})[key] for key in above], max_dimension, merge_dimension
            )
        )
    unknown = set(scanned or {}) - used
    if unknown and found and not has_masked(updates):
        raise ValueError(f"scanned names {sorted(unknown)}, which hold no leaf.")
    return found


def _layout(name: str, shape: tuple[int, ...], stacks: list[int], max_dimension: int, merge_dimension: int) -> Layout:
    stack = None
    if stacks:
        if not -len(shape) <= stacks[0] < len(shape):
            raise ValueError(f"scanned says axis {stacks[0]} for {name}, whose shape is {shape}.")
        stack = stacks[0] % len(shape)
    sizes = [size for axis, size in enumerate(shape) if axis != stack]
    merged: list[int] = []
    for size in sizes:
        if merged and merged[-1] * size <= merge_dimension:
            merged[-1] *= size
        else:
            merged.append(size)
    front = () if stack is None else (shape[stack],)
    inner = (*front, *(merged or [1]))
    # A vector's matrix would be that of the full-matrix methods: it stays diagonal.
    axes = [len(front) + i for i, size in enumerate(merged) if len(merged) > 1 and 1 < size <= max_dimension]
    return Layout(shape, stack, inner, tuple(axes))


def layer_names(path: Any, tree: Any) -> list[str]:
    """The names along a path, without the collection that Linen has around its parameters."""
    names = list(_trees.path_names(path, tree))
    return names[1:] if names[:1] == ["params"] else names


def has_masked(tree: Any) -> bool:
    return any(map(_trees.is_masked, jax.tree.leaves(tree, is_leaf=_trees.is_masked)))


def outer_product(x: jax.Array, axis: int, layout: Layout) -> jax.Array:
    """x xᵀ over all axes but ``axis``, layer by layer."""
    moved = jnp.moveaxis(x, axis, layout.coupled.start)
    rows = moved.reshape(*moved.shape[: layout.coupled.start + 1], math.prod(moved.shape[layout.coupled.start + 1 :]))
    return jnp.matmul(rows, jnp.swapaxes(rows, -1, -2), precision="highest")


def check_whole(name: str, value: Any, least: int) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer, got {value!r}. Under optax.inject_hyperparams name it among the static_args."
        ) from None
    if whole < least or isinstance(value, bool):
        raise ValueError(f"{name} must be ≥ {least}, got {value}.")
    return whole
