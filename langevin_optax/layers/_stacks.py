"""Which layers are stacked: what modules see of their parameters within a call, against the leaves outside."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
from jax.extend.core import get_opaque_trace_state

from langevin_optax._trees import path_names

Path = tuple[str, ...]
Shape = tuple[int, ...]


class Stack(NamedTuple):
    """Stacked layers: the axes they may be on (the likeliest first), their number, the stacks they alternate with."""

    axes: tuple[int, ...]
    length: int
    together: tuple[str, ...]


class LayerOrder(list[str]):
    """A list of the paths of layers that knows which are stacked: ``scanned``, as :func:`layer_mask` takes it."""

    def __init__(self, paths: Iterable[str] = (), stacks: Mapping[str, Stack] | None = None):
        super().__init__(paths)
        self.stacks = dict(stacks or {})

    @property
    def scanned(self) -> dict[str, int]:
        return {path: stack.axes[0] for path, stack in self.stacks.items()}


class View(NamedTuple):
    """What a call sees, from the module at ``path``: the shapes of leaves, by their paths in the model.

    ``lifts`` are the transformations around the call that may take an axis from a leaf, ``"scan"`` and ``"vmap"``, the
    outermost first; or one name, of the innermost.
    """

    path: Path
    shapes: dict[Path, Shape]
    lifts: tuple[str, ...] | str
    trace: Any


def look(path: Path, below: Path, params: Any, lifts: tuple[str, ...] | None = None) -> View:
    """What a call sees of ``params``, which lie ``below`` a path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    shapes = {(*below, *path_names(p, params)): jax.numpy.shape(leaf) for p, leaf in leaves}
    if lifts is not None:
        return View(path, shapes, lifts, get_opaque_trace_state(convention="langevin_optax"))
    # JAX exports no name for the tracers of vmap.
    mapped = any(type(leaf).__name__ == "BatchTracer" for _, leaf in leaves)
    return View(path, shapes, "vmap" if mapped else "scan", get_opaque_trace_state(convention="langevin_optax"))


def find_stacks(views: list[View], shapes: Mapping[Path, Shape]) -> dict[str, Stack]:
    """The stacks that the views of a model's calls reveal, by the path of what is stacked.

    A leaf with an axis more than a module sees of it is stacked. What vmap maps over is not: its members stand side by
    side, where the steps of a scan follow one another.
    """
    inside: dict[Path, list[View]] = {}
    for view in views:
        for leaf, shape in view.shapes.items():
            if leaf in shapes and len(shape) < len(shapes[leaf]):
                inside.setdefault(leaf, []).append(view)
    found = {leaf: stacked for leaf, seen in inside.items() if (stacked := _stacked(leaf, shapes[leaf], seen))}
    stacks: dict[str, Stack] = {}
    for group in _groups({leaf: stacked.path for leaf, stacked in found.items()}, views, shapes):
        together = tuple("/".join(path) for path in group)
        for path, leaves in group.items():
            length, likeliest = shapes[leaves[0]][found[leaves[0]].axes[0]], found[leaves[0]].axes[:2]
            common = set.intersection(*(set(found[leaf].axes) for leaf in leaves)) or likeliest
            axes = sorted(common, key=lambda axis: (axis not in likeliest, axis < 0, abs(axis)))
            stacks["/".join(path)] = Stack(tuple(axes), length, together)
    return stacks


class _Stacked(NamedTuple):
    """A stacked leaf: the outermost module that sees a step of it, and the possible axes, counted from both ends.

    The likeliest are the first two.
    """

    path: Path
    axes: list[int]


def _stacked(leaf: Path, shape: Shape, views: list[View]) -> _Stacked | None:
    axes, done = list(range(len(shape))), 0  # the axes that are not mapped away, and how many lifts have done so
    for view in sorted(views, key=lambda view: (-len(view.shapes[leaf]), len(view.lifts), len(view.path))):
        inside, outside = view.shapes[leaf], [shape[a] for a in axes]
        if (kept := _places(inside, outside)) is None:
            return None
        taken = [axis for i, axis in enumerate(axes) if i not in kept]
        lifts = view.lifts[done:] if isinstance(view.lifts, tuple) else (view.lifts,) * len(taken)
        if taken and "scan" in lifts:
            likeliest = taken[lifts.index("scan") if len(lifts) == len(taken) else 0]
            others = [a for i, a in enumerate(axes) if _places(inside, outside[:i] + outside[i + 1 :]) is not None]
            return _Stacked(view.path, [end for a in [likeliest, *others] for end in (a, a - len(shape))])
        axes, done = [axes[i] for i in kept], done + len(taken)
    return None


def _places(inside: Shape, outside: list[int]) -> list[int] | None:
    """Where the sizes ``inside`` stand in ``outside``, as far behind as they can; None if they do not."""
    places: list[int] = []
    for size in reversed(inside):
        end = places[0] if places else len(outside)
        if size not in outside[:end]:
            return None
        places.insert(0, end - 1 - outside[:end][::-1].index(size))
    return places


def _groups(
    found: Mapping[Path, Path], views: list[View], shapes: Mapping[Path, Shape]
) -> list[dict[Path, list[Path]]]:
    """The leaves of each stack, by its path. Stacks that one scan runs through, step by step, are in one group."""
    views = [view for view in views if any(leaf in found for leaf in view.shapes)]
    outside = [view for view in views if any(view.shapes.get(leaf) == shapes[leaf] for leaf in found)]
    groups = [{path} for path in dict.fromkeys(found.values())]
    for view in views:
        if any(view.trace == around.trace for around in outside):
            continue
        same = {found[leaf] for v in views if v.trace == view.trace for leaf in v.shapes if leaf in found}
        groups = [g for g in groups if not g & same] + [set().union(*(g for g in groups if g & same))]
    return [_by_path(group, found, outside, shapes) for group in groups]


def _by_path(
    group: set[Path], found: Mapping[Path, Path], outside: list[View], shapes: Mapping[Path, Shape]
) -> dict[Path, list[Path]]:
    """The leaves of a group's stacks; one stack, if they are all that a module holds, and no call sees it whole."""
    first, last = min(group), max(group)
    equal = [a == b for a, b in zip(first, last, strict=False)]
    parent = first[: equal.index(False) if False in equal else len(equal)]
    below = [leaf for leaf in shapes if leaf[: len(parent)] == parent]
    if len(group) > 1 and parent not in {view.path for view in outside} and all(found.get(p) in group for p in below):
        return {parent: below}
    return {path: [leaf for leaf in found if found[leaf] == path] for path in sorted(group)}
