"""The mark: an update carries its preconditioner P, weakly, from the scaler that made it to the noise link behind it.

Optax wrappers (`chain`, `masked`, `partition`, …) hand the arrays of an update on untouched, so a mark by identity
reaches the link that follows. Whatever changes the update makes a new object, which has no mark.

Hazards, and where they are handled:

1. A mark must not outlive its array: the table holds a weak reference, whose callback removes the entry.
2. P refers to the trace that made it, and that trace to the marked tracer: a table that owned P would keep both alive
   for ever once an exception ends a trace. So the trace owns P, in the name of the `checkpoint_name` that makes the
   marked tracer, and lets go of it with the tracer (`mark`).
3. A transformation may return the very array it was given (`identity`, masked-out leaves) or keep it in its state
   (`trace`). Marks go on a copy, so the caller's gradients and the state are never marked. The copy lowers to nothing.
4. An address is used again after its object is gone: an entry counts only for the object that it was made for (`read`),
   and only its own callback removes it (`forget`).
"""

import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

_marks: dict[int, tuple[weakref.ref[Any], Callable[[], Any]]] = {}


class _Name(str):
    """The name of a marked tracer, which also holds its P."""

    preconditioner: Any


def mark(leaf: Any, preconditioner: Any) -> jax.Array:
    """A copy of ``leaf`` that carries ``preconditioner``."""
    name = _Name("langevin_optax.preconditioned_update")
    name.preconditioner = preconditioner
    if isinstance(leaf, jax.core.Tracer):
        # Prime JAX's parameter cache with an equal plain string: it would otherwise keep `name`, and with it P, alive.
        checkpoint_name(leaf, str(name))
        copy = checkpoint_name(leaf, name)
    else:
        copy = jnp.copy(leaf)
    address, name_ref = id(copy), weakref.ref(name)
    del name

    def forget(ref: weakref.ref[Any]) -> None:
        if _marks.get(address, (None,))[0] is ref:
            del _marks[address]
        if (name := name_ref()) is not None:
            name.preconditioner = None  # the name lives on in the jaxpr

    # Concrete arrays and the tracers of vmap and grad are recorded by no jaxpr, nor is their name: the table owns P.
    owned_by_trace = name_ref() is not None
    _marks[address] = (
        weakref.ref(copy, forget),
        ((lambda: getattr(name_ref(), "preconditioner", None)) if owned_by_trace else (lambda: preconditioner)),
    )
    return copy


def read(leaf: Any) -> Any | None:
    """The P that made this very array or tracer, or None."""
    ref, preconditioner = _marks.get(id(leaf), (lambda: None, lambda: None))
    return preconditioner() if ref() is leaf else None
