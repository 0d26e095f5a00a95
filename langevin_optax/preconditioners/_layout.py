"""How a matrix preconditioner sees a leaf: stacked layers in front, one by one, and small axes merged."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from langevin_optax import _checks, _trees
from langevin_optax._mesh import gathered
from langevin_optax.preconditioners._operators import Axiswise, Operator


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

    def along_axes(self, matrices: Any) -> tuple[Any, ...]:
        """The matrices of ``axes``, and None for the other axes."""
        placed = dict(zip(self.axes, matrices, strict=True))
        return tuple(placed.get(axis) for axis in range(len(self.shape)))

    def pack(self, arrays: Sequence[jax.Array], dtype: Any) -> jax.Array:
        """Arrays of the axes, raveled one behind the other, so that a state has one array per leaf."""
        front = self.shape[: self.coupled.start]
        empty = jnp.zeros((*front, 0), dtype)
        return jnp.concatenate([empty, *(x.reshape(*front, math.prod(x.shape[len(front) :])) for x in arrays)], axis=-1)

    def unpack(self, packed: jax.Array, axes: Iterable[int]) -> list[jax.Array]:
        """What `pack` made of arrays of these axes: matrices of those in ``axes``, vectors of the others."""
        front, found, start = self.shape[: self.coupled.start], [], 0
        for axis in axes:
            n = self.shape[axis]
            shape = (n, n) if axis in self.axes else (n,)
            part = jax.lax.slice_in_dim(packed, start, start + math.prod(shape), axis=-1)
            found.append(part.reshape(*front, *shape))
            start += math.prod(shape)
        return found

    def outer_operator(self, p: Operator) -> Operator:
        """P of the leaf, from P of the leaf turned inward."""
        return p if self.outer == self.shape and not self.stack else Turned(self, p)


class Turned(Axiswise):
    """P of a leaf, from P of the leaf turned inward."""

    def __init__(self, layout: Layout, operator: Operator):
        self.layout, self.operator = layout, operator

    @property
    def mixes(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(len(self.layout.outer)) if axis != self.layout.stack)

    def root(self, xi: Any) -> Any:
        return self.layout.outward(self.operator.root(self.layout.inward(xi)))


def layouts(updates: Any, max_dimension: int, merge_dimension: int, scanned: Mapping[str, int] | None) -> list[Layout]:
    """The layout of each leaf; raises for leaves that no matrix preconditioner takes."""
    scanned = {
        "/".join(map(str, path)) if isinstance(path, tuple) else path: axis for path, axis in (scanned or {}).items()
    }
    found: list[Layout] = []
    used = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates, is_leaf=_trees.is_masked):
        names = layer_names(path, updates)
        if _trees.is_masked(leaf):  # of the parameters, or of all below a path
            used |= {key for key in scanned if _is_above(key.split("/"), names) or _is_above(names, key.split("/"))}
            continue
        name = _trees.leaf_name(path)
        check_real(name, leaf)
        above = [key for key in scanned if _is_above(key.split("/"), names)]
        if len(above) > 1:
            raise ValueError(f"scanned has two paths, {above}, above {name}: give one of them.")
        used |= set(above)
        stack = scanned[above[0]] if above else None
        found.append(_layout(name, jnp.shape(leaf), stack, max_dimension, merge_dimension))
    if (unknown := set(scanned) - used) and found:
        raise ValueError(f"scanned names {sorted(unknown)}, which hold no leaf.")
    return found


def check_real(name: str, leaf: Any) -> None:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        raise TypeError(
            f"matrix preconditioners need real leaves, but {name} is {jnp.result_type(leaf)}. Leave it out by "
            "optax.masked or optax.partition."
        )


def check_scanned(scanned: Any) -> None:
    if scanned is None:
        return
    if not isinstance(scanned, Mapping):
        raise TypeError(f'scanned must be a dict such as {{"blocks": 0}}, got {scanned!r}.')
    for axis in scanned.values():
        _checks.check_whole("an axis in scanned", axis, -100)


def _is_above(names: list[str], others: list[str]) -> bool:
    return others[: len(names)] == names


def _layout(name: str, shape: tuple[int, ...], stack: int | None, max_dimension: int, merge_dimension: int) -> Layout:
    if stack is not None:
        if not -len(shape) <= stack < len(shape):
            raise ValueError(f"scanned says axis {stack} for {name}, whose shape is {shape}.")
        stack %= len(shape)
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
    return names[1:] if names[:1] == ["params"] and isinstance(tree, Mapping) and len(tree) == 1 else names


def outer_product(x: jax.Array, axis: int, layout: Layout) -> jax.Array:
    """x xᵀ over all axes but ``axis``, layer by layer."""
    moved = jnp.moveaxis(x, axis, layout.coupled.start)
    rows = moved.reshape(*moved.shape[: layout.coupled.start + 1], math.prod(moved.shape[layout.coupled.start + 1 :]))
    return jnp.matmul(rows, jnp.swapaxes(rows, -1, -2), precision="highest")
