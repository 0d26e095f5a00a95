"""Where the layers of natural neural networks are in a tree, and which covariances are theirs."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax import _trees
from langevin_optax.preconditioners import _check, _layout


class Layer(NamedTuple):
    """The places of a layer's leaves among all leaves."""

    kernel: int
    bias: int | None


def real_leaves(tree: Any) -> tuple[list[Any], Any]:
    names, leaves, treedef = _trees.flatten(tree)
    for name, leaf in zip(names, leaves, strict=True):
        _layout.check_real(name, leaf)
    return leaves, treedef


def _leaves(tree: Any) -> tuple[dict[str, dict[str, int]], list[Any]]:
    """For each layer the places of its leaves by their names; and all leaves."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    layers: dict[str, dict[str, int]] = {}
    for i, (path, _) in enumerate(paths):
        *layer, leaf = _layout.layer_names(path, tree)
        layers.setdefault("/".join(layer), {})[leaf] = i
    return layers, [leaf for _, leaf in paths]


def inputs_of(params: Any, most: int, like: Mapping[str, Any] | None) -> list[int]:
    """For each leaf, if it is the kernel of a layer, the number of inputs, with the 1 for the bias; else 0."""
    layers, leaves = _leaves(params)
    inputs = [0] * len(leaves)
    unknown = [name for name in like or {} if "kernel" not in layers.get(name, {})]
    if unknown and not _trees.has_masked(params):
        raise ValueError(f"like has layers {unknown}, where the parameters have no kernel. They have {sorted(layers)}.")
    for name, places in layers.items():
        if (kernel := places.get("kernel")) is None:
            continue
        shape, n = jnp.shape(leaves[kernel]), 0
        if like is not None and name in like:
            if not hasattr(like[name], "shape"):
                raise TypeError(f"like must hold arrays or jax.ShapeDtypeStruct, got {like[name]!r} for {name!r}.")
            n = like[name].shape[0]
        elif like is None and len(shape) >= 2 and len(shape) != 3:
            n = math.prod(shape[:-1]) + ("bias" in places)
        inputs[kernel] = n if n <= most else 0
    return inputs


def checked(covariances: Any) -> dict[str, Any]:
    if covariances is None:
        raise ValueError(
            "prong needs the covariances of the inputs of the layers in every update: pass input_covariances=, from "
            "langevin_optax.input_covariances(model, variables, batch)."
        )
    if not isinstance(covariances, Mapping):
        raise TypeError(
            f"input_covariances must be a dict from the paths of layers to matrices, got {type(covariances).__name__}."
        )
    for name, matrix in covariances.items():
        if not _check.holds(jnp.isfinite, matrix):
            raise ValueError(f"the input covariance of {name!r} is not finite.")
    return dict(covariances)


def layers_of(updates: Any, given: dict[str, Any], covariances: list[Any]) -> dict[str, Layer]:
    """The layers that have covariances; raises for those of another model, and warns of leaves that have none."""
    found, leaves = _leaves(updates)
    layers: dict[str, Layer] = {}
    for name, matrix in given.items():
        if name not in found or "kernel" not in found[name]:
            if _trees.has_masked(updates):
                continue
            raise ValueError(
                f"input_covariances has a layer {name!r}, where the updates have no kernel. They have {sorted(found)}: "
                "are these the covariances of another model?"
            )
        kernel, bias = found[name]["kernel"], found[name].get("bias")
        if not covariances[kernel].size:  # a layer that keeps P = 1
            continue
        shape, expected = jnp.shape(matrix), jnp.shape(covariances[kernel])
        if shape != expected or shape[0] - (bias is not None) not in np.cumprod(jnp.shape(leaves[kernel])):
            raise ValueError(
                f"the input covariance of {name!r} has shape {shape}, the state has {expected}, and the "
                f"kernel {jnp.shape(leaves[kernel])}. For an attention's kernel, or a convolution's of three axes, "
                "pass like= to prong; else, are these the covariances of another model? (Or does "
                "optax.masked hide the bias from prong?)"
            )
        layers[name] = Layer(kernel, bias)
    taken = {i for layer in layers.values() for i in (layer.kernel, layer.bias)}
    if bare := [name for i, name in enumerate(_trees.flatten(updates)[0]) if i not in taken]:
        warnings.warn(
            f"prong has no covariances for {', '.join(bare)}: there P = 1. (For a kernel of three axes pass like=.)",
            stacklevel=2,
        )
    return layers
