"""Which leaves the first layers are: masks for `optax.masked` and for `mask=`."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax.layers import _blocks, _names
from langevin_optax.layers._select import Layers as Layers
from langevin_optax.layers._select import check_layers, counts, select
from langevin_optax.layers._stacks import Shape, Stack


def layer_mask(
    layers: Layers, order: Sequence[str] | None = None, *, scanned: Mapping[str, int] | None = None
) -> Callable[[Any], Any]:
    """A mask that selects layers: for ``optax.masked``, ``optax.partition`` and ``mask=``.

    Args:
      layers: an int k (the first k layers), a float f (the first max(1, ⌊f n⌋) of n layers, 0 < f ≤ 1), a slice or a
        sequence of indices, a predicate on the path, or a regular expression, which must match the whole path.
      order: the paths of the layers in the order in which the model calls them, from :func:`layer_order` or, for a
        model that is not Flax's, written by hand. Without it a layer is what holds a leaf (the names in a flat dict may
        hold slashes: ``"Dense_0/kernel"``), and layers are taken in the natural order of their names (``Dense_2``
        before ``Dense_10``), if these differ in their numbers only; a predicate or a regular expression needs no order,
        and sees a leaf that nothing holds by its own name.
      scanned: the axis on which ``nn.scan`` or ``nnx.scan`` stacks layers, for each path that holds such layers
        (``{"blocks": 0}``). A number, a share, a slice and indices then count blocks: each step of a stack is one,
        however many layers it holds, and so is each layer outside of the stacks. A predicate or a regular expression
        sees the layers in them as ``blocks/0/Dense_0``, ``blocks/0/Dense_1``, ``blocks/1/Dense_0``, …, so that
        ``r"blocks/[0-3](/.*)?"`` is the first four blocks wherever they stand. Leaves of which a part is selected get a
        boolean array that broadcasts against them: ``mask=`` takes such masks, ``optax.masked`` does not. ``{}`` takes
        nothing apart: the layers in a stack then count once, as in ``order``, all their steps together.

    Returns:
      A function from the parameters, or anything of their structure, to a tree of bools, or of boolean arrays where
      ``scanned`` asks for them. Parameters may be those of Linen (with or without the collection ``"params"`` around
      them), NNX, or any tree. Layers that ``optax.masked`` or ``optax.partition`` hide keep their place; None is none,
      if it cannot be a hidden layer (an activation of Equinox, a bias that is not used).

    Raises:
      TypeError: for ``layers``, ``order`` or ``scanned`` of another type, or parameters that hold functions.
      ValueError: for a fraction outside (0, 1], an int below 1, a string that is no regular expression, an empty
        ``order``, layers to be counted that ``order`` knows to be stacked, without ``scanned`` or with another axis;
        and at the call, with the layers that were found: if nothing is selected, if there are fewer layers than asked
        for, if names or None do not say which leaves are a layer and in which order, if a leaf belongs to no layer of
        ``order``, or if ``order`` names layers that are neither there nor hidden.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> params = {f"Dense_{i}": {"kernel": jnp.zeros((2, 2))} for i in (0, 1, 2, 10)}
      >>> mask = lgv.layer_mask(0.75)(params)
      >>> [name for name, layer in mask.items() if layer["kernel"]]
      ['Dense_0', 'Dense_1', 'Dense_2']

      The first 4 of 12 scanned blocks, and the embedding with the first 4:

      >>> params = {"embed": {"w": jnp.zeros(3)}, "blocks": {"w": jnp.zeros((12, 3))}, "head": {"w": jnp.zeros(3)}}
      >>> mask = lgv.layer_mask(r"blocks/[0-3](/.*)?", scanned={"blocks": 0})(params)
      >>> mask["embed"]["w"], int(mask["blocks"]["w"].sum()), mask["blocks"]["w"].shape
      (False, 4, (12, 1))
      >>> mask = lgv.layer_mask(5, ["embed", "blocks", "head"], scanned={"blocks": 0})(params)
      >>> mask["embed"]["w"], int(mask["blocks"]["w"].sum())
      (True, 4)

    References:
      Bras, `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    check_layers(layers)
    if isinstance(order, str):
        raise TypeError(f"order must be a sequence of paths, got the string {order!r}.")
    ordered = None if order is None else [_as_path(path) for path in order]
    if ordered is not None and len(set(ordered)) != len(ordered):
        raise ValueError(f"order must name each layer once, got {ordered}.")
    if ordered is not None and not ordered:
        raise ValueError("order must name at least one layer, got none.")
    if scanned is not None and not isinstance(scanned, Mapping):
        raise TypeError(
            f'scanned must say on which axis each path is stacked, as {{"blocks": 0}} does, got {scanned!r}.'
        )
    stacks = {_as_path(path): axis for path, axis in (scanned or {}).items()}
    known: dict[str, Stack] = getattr(order, "stacks", {})
    hinted = known and not stacks
    _blocks.check_scanned(stacks, known)
    if counts(layers) and (scanned is None or stacks):
        _check_that_stacks_are_taken_apart(layers, ordered or [], stacks, known)

    def mask(params: Any) -> Any:
        leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
        if not leaves:
            return params
        tree = _names.read(params, ordered)
        owners = [_names.owner(path, ordered) for path in tree.paths]
        if ordered is not None:
            _names.check_that_all_are_there(ordered, owners, tree.hidden)
        names = ordered or (_names.in_natural_order(layers, tree, stacks) if counts(layers) else dict.fromkeys(owners))
        shapes: dict[str, list[Shape]] = {}
        for owner, (_, leaf) in zip(owners, leaves, strict=True):
            if _blocks.stack_of(owner, stacks) is not None:
                shapes.setdefault(owner, []).append(jnp.shape(leaf))
        units = _blocks.units(list(names), stacks, shapes, known)
        selected = set(select(layers, units))
        parts: dict[str, list[_blocks.Layer]] = {}
        for layer in (layer for unit in units for layer in unit.layers):
            parts.setdefault(layer.path, []).append(layer)
        masks = [
            _blocks.leaf_mask(parts[owner], np.shape(leaf) if owner in shapes else (), selected, stacks)
            for owner, (_, leaf) in zip(owners, leaves, strict=True)
        ]
        if not any(np.any(m) for m in masks):
            found = [x.name for unit in units for x in ([unit] if counts(layers) else unit.layers)]
            hints = [f"(With scanned={_written(known)} the steps of those that are stacked have names.)"] * bool(hinted)
            like = [name for name in found if isinstance(layers, (str, re.Pattern)) and re.search(layers, name)]
            if like:
                hints.append(f"(An expression must match the whole path, as {like[0]!r} does, and not a part of it.)")
            if selected:
                hints.append("(The selected ones are hidden, as frozen layers are in optax.partition: they count too.)")
            raise ValueError(" ".join([f"layers={layers!r} selects none of the layers {found}.", *hints]))
        return jax.tree.unflatten(treedef, masks)

    return mask


def whole_leaves(layers: Layers, order: Sequence[str] | None) -> Callable[[Any], Any]:
    """:func:`layer_mask` for what gives whole leaves to one of two parts: it counts blocks, and may not cut a stack."""
    mask = layer_mask(layers, order, scanned=(getattr(order, "scanned", None) or None) if counts(layers) else None)

    def whole(params: Any) -> Any:
        selected = mask(params)
        if any(isinstance(m, np.ndarray) for m in jax.tree.leaves(selected)):
            raise ValueError(
                f"layers={layers!r} takes some of the steps of the stacked layers and leaves the others (scanned="
                f"{getattr(order, 'scanned', {})}), but a partition gives whole leaves to each of its parts, and takes "
                "no scanned=. Select whole leaves, as by a regular expression on the paths of order, or take the first "
                "of the stacked layers out, into modules of their own."
            )
        return selected

    return whole


def _check_that_stacks_are_taken_apart(
    layers: Layers, order: list[str], scanned: Mapping[str, int], known: Mapping[str, Stack]
) -> None:
    stacked = [name for name in order if _blocks.stack_of(name, known) is not None]
    left_out = [name for name in stacked if _blocks.stack_of(name, scanned) is None]
    if left_out:
        raise ValueError(
            f"layers={layers!r} counts layers, and {left_out} are stacked: each is many, one after the other, in one "
            f"leaf. To count them step by step, write scanned={_written(known)}; to count each once, with all its "
            "steps, scanned={}."
        )


def _written(known: Mapping[str, Stack]) -> str:
    return json.dumps({path: stack.axes[0] for path, stack in known.items()})


def _as_path(path: Any) -> str:
    return path if isinstance(path, str) else "/".join(map(str, path))
