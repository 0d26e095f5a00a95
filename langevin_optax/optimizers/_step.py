"""What a formula for P may look at: the arguments of the alias, and one step of it."""

import dataclasses
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of an alias: its arguments by name, what came in, and its states around it."""

    arguments: dict[str, Any]
    updates: Any
    old: Any
    new: Any
    params: Any
    extra_args: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def before(self, field: str) -> Any:
        """The part of the old state that has a field of this name."""
        return _part(self.old, field)

    def after(self, field: str) -> Any:
        """The part of the new state that has a field of this name."""
        return _part(self.new, field)


def _part(state: Any, field: str) -> Any:
    def has_field(node):
        return field in getattr(node, "_fields", ())

    return next(node for node in jax.tree.leaves(state, is_leaf=has_field) if has_field(node))
