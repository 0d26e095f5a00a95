"""The layers one by one: what counts as one, the steps of those that a scan stacks, and the masks of such steps."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from langevin_optax.layers._stacks import Shape, Stack

WHOLE_LEAVES = (
    "this mask selects some of the steps of stacked layers, which are parts of leaves. optax.masked, optax.partition "
    "and the masks of Optax take whole leaves: give it as mask= to the Langevin optimiser or to its noise link."
)


class Layer(NamedTuple):
    """A layer: the path of its leaves and, for stacked layers, its index on the stacking axis."""

    path: str
    step: int | None = None
    stack: str = ""

    @property
    def name(self) -> str:
        if self.step is None:
            return self.path
        return "/".join(filter(None, [self.stack, str(self.step), self.path[len(self.stack) :].lstrip("/")]))


class Unit(NamedTuple):
    """What counts as one: a layer, or a step of a stack with all the layers in it."""

    name: str
    layers: list[Layer]


class BlockMask(np.ndarray):
    """A boolean array that selects some steps of a leaf of stacked layers, and says so where one bool is wanted."""

    def __bool__(self) -> bool:
        if self.size > 1:
            raise ValueError(WHOLE_LEAVES)
        return bool(self.item())

    def __hash__(self) -> NoReturn:  # type: ignore[override]
        raise TypeError(WHOLE_LEAVES)


def is_within(path: str, module: str) -> bool:
    return module in ("", path) or path.startswith(f"{module}/")


def stack_of(path: str, stacks: Mapping[str, Any]) -> str | None:
    """The stack that a layer is in, if it is in one."""
    return next((stack for stack in stacks if is_within(path, stack)), None)


def check_scanned(scanned: Mapping[str, int], known: Mapping[str, Stack]) -> None:
    """Raise for stacks within one another, and for axes that are not those of the order."""
    for stack, axis in scanned.items():
        if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
            raise TypeError(f"scanned={dict(scanned)}: the axis of {stack!r} must be an int, got {axis!r}.")
        if inner := next((other for other in scanned if other != stack and is_within(other, stack)), None):
            raise ValueError(f"scanned={dict(scanned)}: {inner!r} lies within {stack!r}. Name the outer of them only.")
        for path, found in known.items():
            if (is_within(path, stack) or is_within(stack, path)) and axis not in found.axes:
                raise ValueError(
                    f"scanned={dict(scanned)}: order has it from the model that the layers of {path!r} are stacked on "
                    f"axis {found.axes[0]}, not on {axis}."
                )


def units(
    names: Sequence[str], scanned: Mapping[str, int], shapes: Mapping[str, list[Shape]], known: Mapping[str, Stack]
) -> list[Unit]:
    """What counts as one, in order: a layer outside of the stacks, or a step of a stack, where its first layer is."""
    found: list[Unit] = []
    done: set[str] = set()
    for name in names:
        stack = stack_of(name, scanned)
        if stack is None:
            found.append(Unit(name, [Layer(name)]))
        elif stack not in done:
            together = [s for s in scanned if s == stack or _alternate(s, stack, known)]
            done |= set(together)
            members = [(m, s) for m in names if (s := stack_of(m, scanned)) in together]
            for step in range(_length(together, members, scanned, shapes, known)):
                name_of_step = "+".join("/".join(filter(None, [s, str(step)])) for s in together)
                found.append(Unit(name_of_step, [Layer(m, step, s) for m, s in members if s is not None]))
    if unused := set(scanned) - done:
        raise ValueError(f"scanned names {sorted(unused)}, which hold none of the layers {list(names)}.")
    return found


def _alternate(one: str, other: str, known: Mapping[str, Stack]) -> bool:
    """Whether one scan runs through both."""
    together = {stack_of(path, known) for path in (one, other)}
    return None not in together and any(together <= set(stack.together) for stack in known.values())


def _length(
    together: list[str],
    members: Sequence[tuple[str, str | None]],
    scanned: Mapping[str, int],
    shapes: Mapping[str, list[Shape]],
    known: Mapping[str, Stack],
) -> int:
    lengths: set[int] = set()
    for stack in together:
        axis, under = scanned[stack], [shape for m, s in members if s == stack for shape in shapes.get(m, [])]
        if any(not -len(shape) <= axis < len(shape) for shape in under):
            raise ValueError(f"scanned={dict(scanned)}: a leaf under {stack!r} has no axis {axis}, got {under}.")
        lengths |= {shape[axis] for shape in under}
    if not lengths:  # masked or partition hide the stack
        lengths = {found.length for path, found in known.items() for s in together if is_within(path, s)}
    if len(lengths) != 1:
        where = " and ".join(map(repr, together))
        raise ValueError(
            f"scanned={dict(scanned)}: the leaves under {where} must share one length, got {sorted(lengths)}."
        )
    return lengths.pop()


def leaf_mask(parts: list[Layer], shape: Shape, selected: set[Layer], scanned: Mapping[str, int]) -> bool | np.ndarray:
    """The mask of a leaf that holds a layer, or the steps of a stacked one."""
    chosen = np.array([layer in selected for layer in parts])
    if chosen.all() or not chosen.any():
        return bool(chosen.all())
    axis = scanned[parts[0].stack] % len(shape)
    return chosen.reshape([-1 if a == axis else 1 for a in range(len(shape))]).view(BlockMask)
