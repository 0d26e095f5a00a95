"""What a preconditioner must be: a tree like the updates, of operators and arrays that are real, ≥ 0 and broadcast."""

from typing import Any

import jax
import jax.numpy as jnp

from langevin_optax import _trees
from langevin_optax.preconditioners import _operators
from langevin_optax.preconditioners._matrices import Kronecker, Rotated
from langevin_optax.preconditioners._operators import is_operator


def like(preconditioner: Any, updates: Any) -> Any:
    """P as a tree like the updates, an operator that stands for several leaves as their parts; raises unless it fits.

    What `optax.masked` and `optax.partition` hide of the updates is hidden of P too.
    """
    treedef: Any
    ps, treedef = jax.tree.flatten(preconditioner, is_leaf=lambda p: is_operator(p) or _trees.is_masked(p))
    try:
        p = treedef.unflatten(map(_spread, ps, treedef.flatten_up_to(updates)))
    except (ValueError, TypeError) as error:
        raise ValueError(
            "the preconditioner must be a tree like the updates, in which an operator may stand for a part of it, got\n"
            f"  {jax.tree.structure(preconditioner)}\nfor updates\n  {jax.tree.structure(updates)}."
        ) from error
    names, leaves, structure = _trees.flatten(updates)
    for name, u, leaf in zip(names, leaves, structure.flatten_up_to(p), strict=True):
        _check_leaf(name, leaf, jnp.shape(u))
    return p


def _spread(p: Any, updates: Any) -> Any:
    """P for each leaf of the part of the updates where ``p`` stands."""
    if _trees.is_masked(updates):
        return updates
    if jax.tree_util.all_leaves([updates]) and not _trees.is_masked(p):
        return p
    if not is_operator(p) or isinstance(p, _operators.Axiswise):
        raise ValueError
    every = _operators.parts(p, updates, is_leaf=_trees.is_masked)
    return jax.tree.map(lambda u, part: u if _trees.is_masked(u) else part, updates, every, is_leaf=_trees.is_masked)


def _check_leaf(name: str, p: Any, shape: tuple[int, ...]) -> None:
    if isinstance(p, _operators.Part):
        return
    if is_operator(p):
        if isinstance(p, _operators.Axiswise):
            p.check(shape)
        return
    if not _trees.broadcasts(jnp.shape(p), shape):
        raise ValueError(
            f"the preconditioner of {name} has shape {jnp.shape(p)}, which does not broadcast to the update's {shape}."
        )
    if jnp.iscomplexobj(p):
        raise TypeError(f"the preconditioner of {name} must be real, got {jnp.result_type(p)}.")


def check_values(preconditioner: Any) -> None:
    """Raise for a negative P or NaN, where the values are known: constants within jit too, and on this process."""
    for path, p in jax.tree_util.tree_leaves_with_path(preconditioner, is_leaf=is_operator):
        if isinstance(p, Rotated):
            diagonal, rest = [p.p], list(p.bases)
        elif isinstance(p, Kronecker):
            diagonal, rest = [], list(p.roots)
        else:
            diagonal, rest = [] if is_operator(p) else [p], []
        name = _trees.leaf_name(path)
        if not all(holds(lambda x: x >= 0, x) for x in diagonal):
            raise ValueError(f"preconditioner must be ≥ 0, got {diagonal[0]} at {name}.")
        if not all(holds(jnp.isfinite, x) for x in rest if x is not None):
            raise ValueError(f"the matrices of a preconditioner must be finite, at {name} they are not.")


def holds(condition: Any, values: Any) -> bool:
    """Whether all values fulfil the condition, or are not known."""
    if isinstance(values, jax.core.Tracer) or (isinstance(values, jax.Array) and not values.is_fully_addressable):
        return True
    with jax.ensure_compile_time_eval():  # on the device of the values, of which one bit comes back
        return bool(jnp.all(condition(jnp.asarray(values))))
