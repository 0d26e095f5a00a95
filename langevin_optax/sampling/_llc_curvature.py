"""The largest curvature that the steps of the sampler see, which says whether they are too large."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from langevin_optax.sampling._llc_sampler import norm

_TURNS = 20


def step_times_curvature(
    loss_fn: Callable[[Any, Any], Any],
    params: Any,
    direction: Any,
    batch: Any,
    preconditioner: Any,
    learning_rate: Any,
    strength: Any,
    nbeta: float,
) -> jax.Array:
    r""":math:`\eta\lambda_1(\sqrt P (H + s) \sqrt P)` at params, s the strength of the localisation; stable below 2.

    By power iterations from a direction. H times a vector is a difference of gradients, as far apart as the chains
    reach where the result is 1: what counts is the curvature there, and a loss need not be differentiable twice. A
    coordinate with P = 0 does not move.
    """
    reach = jnp.sqrt(learning_rate / nbeta)
    roots = jax.tree.map(lambda p: jnp.sqrt(p) * reach, preconditioner)
    gradient = jax.grad(loss_fn)

    def turn(_: Any, both: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        vector, _ = both
        away = jax.tree.map(lambda r, v: r * v, roots, vector)
        above = gradient(jax.tree.map(jnp.add, params, away), batch)
        below = gradient(jax.tree.map(jnp.subtract, params, away), batch)
        product = jax.tree.map(lambda r, a, b, d: r * ((a - b) / 2 + strength * d), roots, above, below, away)
        size = norm(product)
        return jax.tree.map(lambda x: x / jnp.maximum(size, jnp.finfo(size.dtype).tiny), product), size

    size = norm(direction)
    first = jax.tree.map(lambda x: x / size, direction)
    # √P H √P η = (reach √P) H (reach √P) nβ: of the product of the two roots nβ is left.
    return nbeta * jax.lax.fori_loop(0, _TURNS, turn, (first, jnp.zeros_like(size)))[1]
