"""What the integrators share around the pieces of `_splitting`: reading, drawing, zeros, checks.

Hazards, and where they are met:

1. Momenta and displacements in bfloat16 would lose small kicks: both are float32 at least (`zeros_like`).
2. Two draws in one step must repeat neither each other nor those of another step: adaptive Langevin numbers its noise
   2n and 2n + 1. Leimkuhler–Matthews shares ξ_{n+1} with the next step on purpose.
3. A thermostat counts the entries that it can see; those that `optax.masked` hides are not its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax import _checks, _noise


def zeros_like(tree: Any) -> Any:
    """Zeros like the leaves of ``tree``, in the dtype of their noise."""

    def zeros(path, leaf):
        dtype = _noise.noise_dtype(path, leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"integrators need real leaves, but {jax.tree_util.keystr(path) or '(root)'} is {dtype}. Wrap the "
                "integrator in optax.contrib.split_real_and_imaginary."
            )
        return jnp.zeros_like(leaf, dtype=dtype)

    return jax.tree_util.tree_map_with_path(zeros, tree)


def draw(key: jax.Array, number: jax.Array, p: Any, *sizes: Any) -> Any:
    """ξ of that number; zeros, without a draw, if a factor of its size is a static 0."""
    if any(not isinstance(s, jax.core.Tracer) and not callable(s) and np.all(np.asarray(s) == 0) for s in sizes):
        return jax.tree.map(lambda leaf: 0.0, p)
    return _noise.noise_like(key, number, p)


def read(count: jax.Array, *values: Any) -> list[jax.Array]:
    """Scalars, and schedules at ``count``, in float32 (float64 under x64).

    A schedule that falls to 0 can round to −1e-8 when it is fused, which has no root.
    """
    scalars = (jnp.asarray(v(count) if callable(v) else v, jnp.result_type(float)) for v in values)
    return [jnp.maximum(scalar, 0) for scalar in scalars]


def next_count(count: jax.Array) -> jax.Array:
    return jnp.asarray(optax.safe_increment(count))


def cast_like(updates: Any, x: Any) -> Any:
    return jax.tree.map(lambda u, x: x.astype(jnp.result_type(u)), updates, x)


def check_arguments(key: Any, step_size: Any, **others: Any) -> None:
    _checks.check_positive("step_size", step_size)
    for name, value in others.items():
        _checks.check_nonnegative(name, value)
    for name, value in {"step_size": step_size, **others}.items():
        _checks.check_scalar(name, value)
    _checks.as_key(key)


def check_state(state: Any, kind: type, integrator: str, updates: Any) -> None:
    if not isinstance(state, kind):
        raise ValueError(
            f"{integrator} needs a state of its own, {kind.__name__}, got {type(state).__name__}. Was the checkpoint "
            "written by another integrator, or restored without its structure?"
        )
    structure: Any = jax.tree.structure(getattr(state, "momentum", updates))
    if structure != jax.tree.structure(updates):
        raise ValueError(
            f"the momenta of {integrator} are like the parameters of init, got\n  {structure}\nfor gradients\n"
            f"  {jax.tree.structure(updates)}."
        )
