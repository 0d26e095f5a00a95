"""The layers that the paths of a tree name: which one holds a leaf, which are hidden, and which comes first."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import optax

from langevin_optax._trees import is_hidden, leaf_name, path_names
from langevin_optax.layers._blocks import is_within, stack_of

Path = tuple[str, ...]

HOW = (
    "Pass order=langevin_optax.layer_order(model, *args), or for a model that is not Flax's the list of the paths of "
    "its layers, written by hand, in the order in which it calls them"
)


class Hidden(NamedTuple):
    """A placeholder: what optax.masked and optax.partition leave, or a None, which may stand for no parameter."""

    path: Path
    masked: bool
    listed: bool


class Tree(NamedTuple):
    paths: list[Path]
    hidden: list[Hidden]


def read(params: Any, order: Sequence[str] | None) -> Tree:
    """The paths of the leaves and of the placeholders, within Linen's collection if the tree has it around them."""
    nodes, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_hidden)
    for path, node in nodes:
        if callable(node) and not hasattr(node, "shape") and not isinstance(node, type):
            raise TypeError(
                f"the leaf {leaf_name(path)} is a function, {node!r}. Leave what is no array out of the parameters: "
                "for Equinox, equinox.filter(model, equinox.is_inexact_array)."
            )
    paths = [path_names(path, params) for path, node in nodes if not is_hidden(node)]
    hidden = [
        Hidden(
            path_names(path, params),
            isinstance(node, optax.MaskedNode),
            isinstance(path[-1], jax.tree_util.SequenceKey),
        )
        for path, node in nodes
        if is_hidden(node)
    ]
    named = any(name.split("/")[0] == "params" for name in order or [])
    if named or not all(path[:1] == ("params",) for path in paths):
        return Tree(paths, hidden)
    inside = [h._replace(path=h.path[1:]) if h.path[:1] == ("params",) else h for h in hidden]
    return Tree([path[1:] for path in paths], inside)


def owner(path: Path, order: Sequence[str] | None) -> str:
    """The layer that a leaf belongs to: the innermost of ``order``; without one what holds the leaf, or it itself."""
    if order is None:
        return "/".join(path[:-1] or path)
    prefixes = ["/".join(path[:i]) for i in range(len(path), -1, -1)]
    known = set(order)
    found = next((prefix for prefix in prefixes if prefix in known), None)
    if found is None:
        raise ValueError(
            f"the parameter {'/'.join(path)!r} belongs to none of the layers of order, {list(order)}. Was the order "
            "made from another model, or is its layer never called? Then add its path where it belongs. "
            "To select a few layers keep the order whole, and name them by indices, a predicate or an expression. "
            "(optax.inject_hyperparams takes functions for schedules: write static_args='mask'.)"
        )
    return found


def check_that_all_are_there(order: Sequence[str], owners: Sequence[str], hidden: list[Hidden]) -> None:
    """Raise if a layer of ``order`` has no leaf, nor a placeholder that may stand for it or for one of its leaves."""
    places = ["/".join(h.path) for h in hidden]
    missing = [name for name in order if name not in set(owners)]
    absent = [name for name in missing if not any(is_within(p, name) or is_within(name, p) for p in places)]
    if absent:
        raise ValueError(
            f"order names the layers {absent}, which the parameters do not hold; they hold {sorted(set(owners))}. "
            "Was the order made from another model? Layers that do not train, such as those that wrt= of nnx.Optimizer "
            "leaves out, do not belong in it."
        )


def in_natural_order(layers: Any, tree: Tree, scanned: Mapping[str, int]) -> list[str]:
    """The layers by the numbers in their names, a stack's in its place; raises where the names do not tell."""
    owners = list(dict.fromkeys(owner(path, None) for path in tree.paths))
    _check_that_layers_hold_the_leaves(layers, tree, owners, scanned)
    names = [*owners, *_hidden_layers(layers, tree, owners)]
    found: dict[str, list[str]] = {}
    for name in names:
        stack = stack_of(name, scanned)
        found.setdefault(name if stack is None else stack, []).append(name)
    if len({_kind(name) for name in found}) > 1:
        raise ValueError(
            f"the names of the layers do not say in which order they are called: {list(dict.fromkeys(names))}. {HOW}: "
            "these, if each of them is a layer."
        )
    ordered = sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    return list(dict.fromkeys(name for place in ordered for name in found[place]))


def _check_that_layers_hold_the_leaves(layers: Any, tree: Tree, owners: list[str], scanned: Mapping[str, int]) -> None:
    """Raise for leaves of which nothing says what layer they are in: in one place alone they are one, or several."""
    place, named = "", " Select by a predicate or a regular expression, which see these names."
    loose = [path for path in tree.paths if len(path) < 2 and stack_of("/".join(path), scanned) is None]
    if not loose and len(owners) == 1 and not tree.hidden and stack_of(owners[0], scanned) is None:
        loose, place, named = tree.paths, owners[0], ""
    if loose:
        raise ValueError(
            f"layers={layers!r} counts layers, but nothing says which layers the parameters {_some(loose)} belong to. "
            f"{HOW}: these, or {[place]} if all is one layer.{named} Or write the mask as a tree of bools."
        )


def _hidden_layers(layers: Any, tree: Tree, owners: list[str]) -> list[str]:
    """The layers that are hidden: which one is the first must stay the same.

    A placeholder stands for a leaf, or for a whole layer: then its path is named like the layers. A None may be
    neither, but an activation, a function in a list of layers, or a bias that is not used.
    """
    kinds, leaves = {_kind(name) for name in owners}, {path[-1] for path in tree.paths}
    found, doubtful = [], []
    for path, masked, listed in tree.hidden:
        whole = _kind("/".join(path)) in kinds
        name = "/".join(path) if whole else owner(path, None)
        if masked:
            found.append(name)
        elif name not in owners and (not listed if whole else path[-1] in leaves):
            doubtful.append(path)
    if doubtful:
        raise ValueError(
            f"layers={layers!r} counts layers, and the parameters hold None at {_some(doubtful)}: of hidden layers, "
            f"which count, or of none? {HOW}. Those that hold parameters are {owners}."
        )
    return found


def _kind(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _some(paths: list[Path]) -> str:
    names = ["/".join(path) for path in paths]
    return repr(names) if len(names) <= 12 else f"{names[:12]} and {len(names) - 12} more"
