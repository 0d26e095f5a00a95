"""Masks: where to add noise, as `optax.masked` takes them, and as arrays for layers that share a leaf."""

import numbers
import re
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
            f"  {jax.tree.structure(tree)}\nfor parameters\n  {jax.tree.structure(updates)}.\n"
            "langevin_optax.layer_mask makes such a tree."
        ) from error
    for (path, u), w in zip(jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(where), strict=True):
        if not _trees.broadcasts(jnp.shape(w), jnp.shape(u)):
            raise ValueError(
                f"the mask of {_trees.leaf_name(path)} has shape {jnp.shape(w)}, "
                f"which does not broadcast to the leaf's {jnp.shape(u)}."
            )
    return jax.tree.map(_plain, where)


def check_leaves(mask: Any) -> None:
    for path, m in jax.tree_util.tree_leaves_with_path(mask):
        if not isinstance(m, (bool, np.bool_)) and getattr(m, "dtype", None) != jnp.bool_:
            raise TypeError(
                f"mask must hold bools or boolean arrays, got {m!r} at {_trees.leaf_name(path)}. {_way_out(mask)}"
            )


def is_function(mask: Any) -> bool:
    """A function, rather than a tree of bools that happens to be callable (an Equinox module)."""
    leaves = jax.tree.leaves(mask)
    return bool(leaves) and all(callable(m) for m in leaves)


def _plain(w: Any) -> Any:
    if isinstance(w, np.bool_):
        return bool(w)
    return np.asarray(w) if isinstance(w, np.ndarray) else w


def _way_out(mask: Any) -> str:
    """What to write for a selection of layers that stands where a mask belongs."""
    names = [mask] if isinstance(mask, str) else list(mask) if isinstance(mask, (list, tuple, set, frozenset)) else []
    if names and all(isinstance(name, str) for name in names):
        return f"To select layers by their paths, write mask=langevin_optax.layer_mask({'|'.join(sorted(names))!r})."
    if isinstance(mask, re.Pattern):
        return f"To select layers by their paths, write mask=langevin_optax.layer_mask({mask!r})."
    if isinstance(mask, (numbers.Real, slice)) or (names and all(isinstance(i, numbers.Integral) for i in names)):
        selection = mask.item() if isinstance(mask, np.generic) else mask
        return (
            f"To select layers by their number, write mask=langevin_optax.layer_mask({selection!r}, order), with "
            "order=langevin_optax.layer_order(model, *args), or written by hand: the list of the paths of the layers."
        )
    return "langevin_optax.layer_mask makes such a tree."
