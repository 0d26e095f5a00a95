"""What the integrators share around the pieces A, B, C, D, E, O: reading, drawing, zeros, checks.

Hazards, and where they are handled:

1. Momenta and displacements in bfloat16 would lose small kicks: both are float32 at least (`zeros_like`).
2. Two draws in one step must repeat neither each other nor those of another step: adaptive Langevin numbers its noise
   2n and 2n + 1. Leimkuhler–Matthews shares ξ_{n+1} with the next step on
   purpose.
3. A thermostat counts the entries that it can see; those that `optax.masked` hides are not its own.
4. A thermostat of N entries swings with the frequency √(2εNτ), which the step must resolve, and cannot cool what one
   draw of its own noise heats: `check_thermostat`.
"""

import math
import numbers
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from langevin_optax import _checks, _trees
from langevin_optax.noise import _keys
from langevin_optax.noise._draw import noise_like


def zeros_like(tree: Any) -> Any:
    """Zeros like the leaves of ``tree``, in the dtype of their noise."""

    def zeros(path, leaf):
        dtype = _trees.noise_dtype(path, leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"integrators need real leaves, but {_trees.leaf_name(path)} is {dtype}. Wrap the "
                "integrator in optax.contrib.split_real_and_imaginary."
            )
        return jnp.zeros_like(leaf, dtype=dtype)

    return jax.tree_util.tree_map_with_path(zeros, tree)


def draw(key: jax.Array, number: jax.Array, p: Any, *sizes: Any) -> Any:
    """The draw of that number; zeros, and no draw, when one of ``sizes`` is known to be 0."""
    if any(map(_checks.is_known_zero, sizes)):
        return jax.tree.map(lambda leaf: 0.0, p)
    return noise_like(key, number, p)


def advance(state: Any, *sizes: Any) -> tuple[jax.Array, jax.Array]:
    """The count and the key of the next step, for a noise whose size has these factors."""
    return _keys.advance(state.count, state.key, moves=not any(map(_checks.is_static_zero, sizes)))


def read(count: jax.Array, **values: Any) -> list[jax.Array]:
    """Scalars, and schedules at ``count``, in float32 (float64 under x64), and at least 0."""
    return [_checks.read(name, value, count) for name, value in values.items()]


def cast_like(updates: Any, x: Any) -> Any:
    return jax.tree.map(lambda u, x: x.astype(jnp.result_type(u)), updates, x)


def check_arguments(key: Any, step_size: Any, **others: Any) -> None:
    _checks.check_positive("step_size", step_size)
    for name, value in others.items():
        _checks.check_nonnegative(name, value)
    _keys.as_key(key)


def check_state(state: Any, kind: type[Any], integrator: str, updates: Any, key: Any) -> None:
    if not isinstance(state, kind):
        raise ValueError(
            f"{integrator} needs a state of its own, {kind.__name__}, got {type(state).__name__}. Was the checkpoint "
            "written by another integrator, or restored without its structure?"
        )
    _keys.check_state(state, key)
    if not hasattr(state, "momentum"):
        return
    structure: Any = jax.tree.structure(state.momentum)
    if structure != jax.tree.structure(updates):
        raise ValueError(
            f"the momenta of {integrator} are like the parameters of init, got\n  {structure}\nfor gradients\n"
            f"  {jax.tree.structure(updates)}."
        )
    for (path, u), p in zip(jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(state.momentum), strict=True):
        if jnp.shape(u) != jnp.shape(p):
            raise ValueError(
                f"the momenta of {integrator} are like the parameters of init, got shape {jnp.shape(p)} for a gradient "
                f"of shape {jnp.shape(u)} at {_trees.leaf_name(path)}."
            )


def check_thermostat(step_size: Any, temperature: Any, sigma: Any, coupling: Any, n: float) -> None:
    """Warn if a thermostat of N entries, all of whose settings are known, does not find its balance."""
    if not all(isinstance(x, numbers.Real) for x in (step_size, temperature, sigma, coupling)):
        return
    h, tau = step_size, temperature
    least = sigma**2 * h / 2
    if sigma > 0 and least >= tau:
        warnings.warn(
            f"adaptive_langevin with σ²h/2 = {least:.3g} and τ = {tau:.3g} does not sample: one draw heats the momenta "
            "beyond τ, so that the thermostat grows for ever and freezes the parameters. Choose σ²h/2 well below τ.",
            stacklevel=4,
        )
    stiffness = h * math.sqrt(2 * coupling * n * tau)
    if stiffness > 1.5:
        warnings.warn(
            f"adaptive_langevin with h √(2εNτ) = {stiffness:.3g}, N = {n:.0f} entries, does not sample: the thermostat "
            "swings faster than the step, and freezes the parameters. Choose a coupling of at most 1/(2Nτh²) = "
            f"{1 / (2 * n * tau * h**2):.2g}.",
            stacklevel=4,
        )
