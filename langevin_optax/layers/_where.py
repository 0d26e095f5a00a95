"""Masks: where to add noise, as `optax.masked` takes them, and as arrays for layers that share a leaf."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax import _trees


def resolve(mask: Any, updates: Any, params: Any = None) -> Any:
    """The mask as a tree like the updates, of bools and boolean arrays."""
    leaves = jax.tree.leaves(updates)
    if mask is None or not leaves:  # no leaves: an empty tree, or the placeholder of optax.tree.map_params
        return jax.tree.map(lambda u: True, updates)
    tree = mask(updates if params is None else params) if is_function(mask) else mask
    check_leaves(tree)
    try:
        where = jax.tree.map(lambda m, u: jax.tree.map(lambda _: m, u), tree, updates)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "mask must be a tree like the parameters, or a prefix of it, got\n"
            f"  {jax.tree.structure(tree)}\nfor parameters\n  {jax.tree.structure(updates)}."
        ) from error
    for (path, u), w in zip(jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(where), strict=True):
        if not _trees.broadcasts(jnp.shape(w), jnp.shape(u)):
            raise ValueError(
                f"the mask of {_trees.leaf_name(path)} has shape {jnp.shape(w)}, "
                f"which does not broadcast to the leaf's {jnp.shape(u)}."
            )
    return jax.tree.map(lambda w: bool(w) if isinstance(w, np.bool_) else w, where)


def check_leaves(mask: Any) -> None:
    for path, m in jax.tree_util.tree_leaves_with_path(mask):
        if not isinstance(m, (bool, np.bool_)) and getattr(m, "dtype", None) != jnp.bool_:
            raise TypeError(f"mask must hold bools or boolean arrays, got {m!r} at {_trees.leaf_name(path)}.")


def is_function(mask: Any) -> bool:
    """A function, rather than a tree of bools that happens to be callable (an Equinox module)."""
    leaves = jax.tree.leaves(mask)
    return bool(leaves) and all(callable(m) for m in leaves)
