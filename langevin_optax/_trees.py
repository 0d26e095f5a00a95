"""Trees of parameters: the names along a path, and the dtype and the shape that a leaf may have."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def path_names(path: Any, tree: Any) -> tuple[str, ...]:
    """The names along a leaf's path in ``tree``, whatever the containers: ``Dense_0``, ``kernel``.

    A key that is a tuple or holds slashes, as those of a flat dict do, is several names; the ``.value`` that NNX
    variables and Linen's partitioned parameters add is none.
    """
    if path and path[-1] == jax.tree_util.GetAttrKey("value") and _is_box(_node_at(path[:-1], tree)):
        path = path[:-1]
    return tuple(name for entry in path for name in _names_of(entry).split("/"))


def _names_of(entry: Any) -> str:
    key = getattr(entry, "key", None)
    return "/".join(map(str, key)) if isinstance(key, tuple) else jax.tree_util.keystr((entry,), simple=True)


def _node_at(path: Any, tree: Any) -> Any:
    """The node at a path, or None where an entry does not say how to get there."""
    for entry in path:
        if isinstance(entry, jax.tree_util.GetAttrKey):
            tree = getattr(tree, entry.name, None)
        elif isinstance(entry, (jax.tree_util.DictKey, jax.tree_util.SequenceKey)):
            tree = tree[entry.key if isinstance(entry, jax.tree_util.DictKey) else entry.idx]
        else:
            return None
    return tree


def _is_box(node: Any) -> bool:
    """A variable of NNX or a box of Linen, which can only come from a Flax that is imported."""
    nnx, meta = sys.modules.get("flax.nnx"), sys.modules.get("flax.core.meta")
    return bool(nnx and isinstance(node, nnx.Variable)) or bool(meta and isinstance(node, meta.AxisMetadata))


def leaf_name(path: Any) -> str:
    """How a message names a leaf: ``['Dense_0']['kernel']``."""
    return jax.tree_util.keystr(path) or "(root)"


def flatten(tree: Any) -> tuple[list[str], list[Any], Any]:
    """The names of the leaves, as a message has them, the leaves, and the structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [leaf_name(path) for path, _ in leaves], [leaf for _, leaf in leaves], structure


def noise_dtype(path: Any, leaf: Any) -> np.dtype:
    """The dtype in which the noise of a leaf is drawn and added; raises for leaves that cannot carry noise."""
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"noise needs real or complex leaves, but the leaf {leaf_name(path)} is {dtype}. "
            "Leave such leaves out with mask=, optax.masked or optax.partition."
        )
    return np.promote_types(dtype, np.float32)


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of ``shape`` broadcasts to the shape ``to`` as it stands."""
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))


def is_masked(node: Any) -> bool:
    """Whether a node stands for what `optax.masked` or `optax.partition` hide."""
    return isinstance(node, optax.MaskedNode)


def has_masked(tree: Any) -> bool:
    return any(map(is_masked, jax.tree.leaves(tree, is_leaf=is_masked)))


def is_hidden(node: Any) -> bool:
    """Whether it is such a node, or None."""
    return node is None or is_masked(node)
