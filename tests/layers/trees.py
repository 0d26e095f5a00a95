"""Trees of parameters, and what a mask selects of them, found without the help of the package."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import langevin_optax as lgv


def flat(tree):
    """The leaves of parameters or of a mask by their paths, without the help of the package."""
    tree = nnx.to_pure_dict(tree) if isinstance(tree, nnx.State) else flax.core.unfreeze(tree)
    tree = flax.traverse_util.flatten_dict(tree.get("params", tree))
    return {"/".join(map(str, path)): leaf for path, leaf in tree.items()}


def chosen(mask):
    """The paths of the leaves that a mask of bools selects."""
    mask = flat(mask)
    assert all(type(m) is bool for m in mask.values())
    return {path for path, m in mask.items() if m}


def tree(*names):
    """Parameters with two leaves a layer."""
    leaves = {f"{name}/{leaf}": jnp.zeros(2) for name in names for leaf in ("bias", "kernel")}
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def numbered(n, prefix="Dense_"):
    return [f"{prefix}{i}" for i in range(n)]


def layers(mask):
    """The layers that a mask selects, each with both of its leaves."""
    selected = chosen(mask)
    names = {path.rpartition("/")[0] for path in selected}
    assert selected == {f"{name}/{leaf}" for name in names for leaf in ("bias", "kernel")}
    return names


def moved(tx, params):
    """Which entries of the parameters a transformation moves, with gradients of zero."""
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    return jax.tree.map(lambda u: np.asarray(u) != 0, updates)


def moved_layers(tx, params):
    leaves = {path: set(u.ravel().tolist()) for path, u in flat(moved(tx, params)).items()}
    assert all(len(values) == 1 for values in leaves.values())
    names = {path.rpartition("/")[0] for path, values in leaves.items() if values == {True}}
    assert all((path.rpartition("/")[0] in names) == (values == {True}) for path, values in leaves.items())
    return names


# Noise that is nowhere 0.
NOISE = functools.partial(lgv.add_langevin_noise, 0.1, 0.1, 0, sampler="rademacher")
SGD = functools.partial(lgv.sgd, 0.1, 0.1, 0, sampler="rademacher")
