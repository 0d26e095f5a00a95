"""Which leaves the first layers are: masks for `optax.masked` and for `mask=`."""

import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax._trees import is_hidden, path_names

Layers = int | float | slice | Sequence[int] | Callable[[str], bool] | str | re.Pattern[str]


class _Layer(NamedTuple):
    """A layer: the path of the leaves that hold it, and its place on their stacking axis, if it has one."""

    path: str
    step: int | None = None
    stack: str = ""

    @property
    def name(self) -> str:
        if self.step is None:
            return self.path
        return "/".join(filter(None, [self.stack, str(self.step), self.path[len(self.stack) :].lstrip("/")]))


def layer_mask(
    layers: Layers, order: Sequence[str] | None = None, *, scanned: Mapping[str, int] | None = None
) -> Callable[[Any], Any]:
    """A mask that selects layers: for ``optax.masked``, ``optax.partition`` and ``mask=``.

    Args:
      layers: an int k (the first k layers), a float f (the first max(1, ⌊f n⌋) of n layers, 0 < f ≤ 1), a slice or a
        sequence of indices, a predicate on the path, or a regular expression, which must match the whole path.
      order: the paths of the layers in the order in which the model calls them, from :func:`layer_order`. Without it a
        layer is what holds a leaf, and layers are taken in the natural order of their names (``Dense_2`` before
        ``Dense_10``), if these differ in their numbers only; a predicate or a regular expression needs no order.
      scanned: the axis on which ``nn.scan`` or ``nnx.scan`` stacks layers, for each path that holds such layers
        (``{"blocks": 0}``). They are then counted one by one, as ``blocks/0/Dense_0``, ``blocks/0/Dense_1``,
        ``blocks/1/Dense_0``, …, and leaves of which a part is selected get a boolean array that broadcasts against
        them. ``mask=`` takes such masks, ``optax.masked`` does not.

    Returns:
      A function from the parameters, or anything of their structure, to a tree of bools, or of boolean arrays where
      ``scanned`` asks for them. Parameters may be those of Linen (with or without the collection ``"params"`` around
      them), NNX, or any tree.

    Raises:
      TypeError: for ``layers`` or ``order`` of another type.
      ValueError: for a fraction outside (0, 1], an int below 1, a string that is no regular expression, an empty
        ``order``; and at the call, with the layers that were found: if nothing is selected, if there are fewer layers
        than asked for, if the names do not say their order, if a leaf belongs to no layer of
        ``order``, or if ``order`` names layers that are not there (other than those that ``optax.masked`` or
        ``optax.partition`` hide).

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> params = {f"Dense_{i}": {"kernel": jnp.zeros((2, 2))} for i in (0, 1, 2, 10)}
      >>> mask = lgv.layer_mask(0.75)(params)
      >>> [name for name, layer in mask.items() if layer["kernel"]]
      ['Dense_0', 'Dense_1', 'Dense_2']

    References:
      Bras, `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    _check_layers(layers)
    stacks = {_as_path(path): axis for path, axis in (scanned or {}).items()}
    if isinstance(order, str):
        raise TypeError(f"order must be a sequence of paths, got the string {order!r}.")
    ordered = None if order is None else [_as_path(path) for path in order]
    if ordered is not None and len(set(ordered)) != len(ordered):
        raise ValueError(f"order must name each layer once, got {ordered}.")
    if ordered is not None and not ordered:
        raise ValueError("order must name at least one layer, got none.")

    def mask(params: Any) -> Any:
        leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
        if not leaves:
            return params
        paths = _without_collection([path_names(path) for path, _ in leaves], ordered)
        owners = [_owner(path, ordered) for path in paths]
        _check_that_all_are_there(ordered, owners, params)
        by_name = list(dict.fromkeys(owners)) if callable(layers) or isinstance(layers, (str, re.Pattern)) else None
        names = ordered or by_name or _natural_order(_with_hidden(owners, params))
        shapes: dict[str, list[tuple[int, ...]]] = {}
        for owner, (_, leaf) in zip(owners, leaves, strict=True):
            shapes.setdefault(owner, []).append(jnp.shape(leaf))
        everything = _unstack(names, stacks, shapes)
        selected = set(_select(layers, everything))
        masks = [
            _leaf_mask(o, jnp.shape(leaf), everything, selected, stacks)
            for o, (_, leaf) in zip(owners, leaves, strict=True)
        ]
        if not any(np.any(m) for m in masks):
            raise ValueError(f"layers={layers!r} selects none of the layers {[x.name for x in everything]}.")
        return jax.tree.unflatten(treedef, masks)

    return mask


def _check_layers(layers: Any) -> None:
    if isinstance(layers, (bool, np.bool_)):
        raise TypeError(f"layers must be a number of layers, a fraction, ..., not a bool, got {layers}.")
    if isinstance(layers, numbers.Integral):
        if layers < 1:
            raise ValueError(f"layers as a number of layers must be ≥ 1, got {layers}.")
    elif isinstance(layers, numbers.Real):
        if not 0 < float(layers) <= 1:
            raise ValueError(f"layers as a fraction must lie in (0, 1], got {layers}.")
    elif isinstance(layers, Sequence) and not isinstance(layers, str):
        if not all(isinstance(i, numbers.Integral) and not isinstance(i, bool) for i in layers):
            raise TypeError(f"layers as a sequence must hold indices, got {layers!r}. For paths, write a predicate.")
    elif isinstance(layers, str):
        try:
            re.compile(layers)
        except re.error as error:
            raise ValueError(f"layers={layers!r} is no regular expression: {error}.") from error
    elif not (isinstance(layers, (slice, re.Pattern)) or callable(layers)):
        raise TypeError(
            "layers must be an int, a fraction, a slice, a sequence of indices, a predicate on the path or a regular "
            f"expression, got {layers!r}. (optax.inject_hyperparams makes numbers arrays: write static_args='layers'.)"
        )


def _select(layers: Layers, everything: list[_Layer]) -> list[_Layer]:
    n = len(everything)
    names = [layer.name for layer in everything]
    if isinstance(layers, (str, re.Pattern)):
        return [layer for layer in everything if re.fullmatch(layers, layer.name)]
    if callable(layers):
        return [layer for layer in everything if layers(layer.name)]
    if isinstance(layers, slice):
        return everything[layers]
    if isinstance(layers, numbers.Integral):
        indices: Any = range(int(layers))
    elif isinstance(layers, numbers.Real):
        indices = range(max(1, math.floor(round(float(layers) * n, 9))))  # 0.29 · 100 is 28.999…
    else:
        indices = layers
    beyond = [i for i in indices if not -n <= i < n]
    if beyond:
        raise ValueError(f"layers={layers!r} asks for more than the {n} layers {names}.")
    return [everything[i] for i in indices]


def _as_path(path: Any) -> str:
    return path if isinstance(path, str) else "/".join(map(str, path))


def _without_collection(paths: list[tuple[str, ...]], order: list[str] | None) -> list[tuple[str, ...]]:
    """Paths within Linen's collection of parameters, if the tree has it around them."""
    if not all(path[:1] == ("params",) for path in paths):
        return paths
    if order and any(name.split("/")[0] == "params" for name in order):
        return paths
    return [path[1:] for path in paths]


def _owner(path: tuple[str, ...], order: list[str] | None) -> str:
    """The layer that a leaf belongs to: the innermost of ``order``, or what holds the leaf."""
    if order is None:
        return "/".join(path[:-1])
    prefixes = ["/".join(path[:i]) for i in range(len(path), -1, -1)]
    known = set(order)
    owner = next((prefix for prefix in prefixes if prefix in known), None)
    if owner is None:
        raise ValueError(
            f"the parameter {'/'.join(path)!r} belongs to none of the layers of order, {order}. Was the order made "
            "from another model, or is its layer never called? Then add its path where it belongs. "
            "To select a few layers keep the order whole, and name them by indices, a predicate or an expression. "
            "(optax.inject_hyperparams takes functions for schedules: write static_args='mask'.)"
        )
    return owner


def _with_hidden(owners: list[str], params: Any) -> list[str]:
    """The layers, with those that masked or partition hide: which one is the first must stay the same.

    A placeholder stands for a leaf, or for a whole layer: then its path is named like the layers.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_hidden)
    paths = _without_collection([path_names(path) for path, _ in leaves], None)
    kinds = {_kind(owner) for owner in owners}
    hidden = [path for path, (_, leaf) in zip(paths, leaves, strict=True) if is_hidden(leaf)]
    whole = ["/".join(path) if _kind("/".join(path)) in kinds else _owner(path, None) for path in hidden]
    return [*owners, *whole]


def _kind(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _check_that_all_are_there(order: list[str] | None, owners: list[str], params: Any) -> None:
    """Raise if layers of ``order`` have no leaf, unless masked or partition have hidden leaves."""
    everything = jax.tree.leaves(params, is_leaf=is_hidden)
    absent = [name for name in order or [] if name not in owners]
    if absent and len(everything) == len(owners):
        raise ValueError(
            f"order names the layers {absent}, which the parameters do not hold; they hold {sorted(set(owners))}. "
            "Was the order made from another model?"
        )


def _natural_order(owners: list[str]) -> list[str]:
    names = list(dict.fromkeys(owners))
    if len({_kind(name) for name in names}) > 1:
        raise ValueError(
            f"the names of the layers do not say in which order they are called: {names}. Pass "
            "order=langevin_optax.layer_order(model, *args)."
        )
    return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _unstack(names: list[str], stacks: Mapping[str, int], shapes: Mapping[str, list[tuple[int, ...]]]) -> list[_Layer]:
    """The layers one by one: those of a stack step by step, where the order has them once."""
    everything: list[_Layer] = []
    done: set[str] = set()
    for name in names:
        stack = next((s for s in stacks if name == s or name.startswith(f"{s}/") or s == ""), None)
        if stack is None:
            everything.append(_Layer(name))
        elif stack not in done:
            done.add(stack)
            members = [m for m in names if m == stack or m.startswith(f"{stack}/") or stack == ""]
            axis = stacks[stack]
            stacked = [shape for m in members for shape in shapes.get(m, [])]
            if any(not -len(shape) <= axis < len(shape) for shape in stacked):
                raise ValueError(f"scanned={dict(stacks)}: a leaf under {stack!r} has no axis {axis}, got {stacked}.")
            lengths = {shape[axis] for shape in stacked}
            if len(lengths) != 1:
                raise ValueError(
                    f"scanned={dict(stacks)}: the leaves under {stack!r} must share one length, got {sorted(lengths)}."
                )
            everything += [_Layer(m, i, stack) for i in range(lengths.pop()) for m in members]
    unused = set(stacks) - done
    if unused:
        raise ValueError(f"scanned names {sorted(unused)}, which hold none of the layers {names}.")
    return everything


def _leaf_mask(
    owner: str, shape: tuple[int, ...], everything: list[_Layer], selected: set[_Layer], stacks: Mapping[str, int]
) -> bool | np.ndarray:
    parts = [layer for layer in everything if layer.path == owner]
    chosen = np.array([layer in selected for layer in parts])
    if chosen.all() or not chosen.any():
        return bool(chosen.all())
    axis = stacks[parts[0].stack] % len(shape)
    return chosen.reshape([-1 if a == axis else 1 for a in range(len(shape))])
