"""What a preconditioner must be: a tree like the updates, whose leaves are real, ≥ 0 and broadcast."""

from typing import Any

import jax
import jax.numpy as jnp

from langevin_optax import _trees


def check_like(preconditioner: Any, updates: Any) -> None:
    """Raise unless the leaves of P match those of the updates and broadcast to them."""
    structure: Any = jax.tree.structure(preconditioner)
    if structure != jax.tree.structure(updates):
        raise ValueError(
            "the preconditioner must be a tree like the updates, got\n"
            f"  {structure}\nfor updates\n  {jax.tree.structure(updates)}."
        )
    for (path, u), p in zip(jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(preconditioner), strict=True):
        where = _trees.leaf_name(path)
        if not _trees.broadcasts(jnp.shape(p), jnp.shape(u)):
            raise ValueError(
                f"the preconditioner of {where} has shape {jnp.shape(p)}, which does not broadcast to the update's "
                f"{jnp.shape(u)}."
            )
        if jnp.iscomplexobj(p):
            raise TypeError(f"the preconditioner of {where} must be real, got {jnp.result_type(p)}.")


def check_values(preconditioner: Any) -> None:
    """Raise for a negative P or NaN, where the values are known: constants within jit too, and on this process."""
    for path, p in jax.tree_util.tree_leaves_with_path(preconditioner):
        if isinstance(p, jax.core.Tracer) or (isinstance(p, jax.Array) and not p.is_fully_addressable):
            continue
        with jax.ensure_compile_time_eval():  # on the device of P, of which one bit comes back
            valid = bool(jnp.all(jnp.asarray(p) >= 0))
        if not valid:
            raise ValueError(f"preconditioner must be ≥ 0, got {p} at {_trees.leaf_name(path)}.")
