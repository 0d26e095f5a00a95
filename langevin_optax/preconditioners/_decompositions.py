"""Decompositions of the statistics of matrix preconditioners, in the steps in which they are due."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from langevin_optax._mesh import varying_like

Array: TypeAlias = Any


def refreshed(due: jax.Array, refresh: Callable[..., Any], values: Any, *given: Any) -> Any:
    """``refresh(values, *given)`` if that is due, else ``values``.

    A loop of one turn or none, and no `cond`: under `vmap` a cond becomes a choice between two values that are both
    computed, so that chains would pay for eigenvectors in every step. Such a loop runs if it is due for one of them.
    """

    def alike(carry):  # within shard_map, where values that do not vary yet may vary when they are refreshed
        return jax.tree.map(lambda x: varying_like(x, due, values, given), carry)

    def turn(carry):
        return alike((jnp.zeros_like(due), refresh(carry[1], *given)))

    return jax.lax.while_loop(lambda carry: carry[0], turn, alike((due, values)))[1]


def one_by_one(decompose: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """``decompose`` of one matrix or a stack of them, one after the other, under `vmap` too.

    Batches of decompositions that LAPACK does on several threads can hang XLA for CPU (jaxlib 0.10.2, matrices of 128).
    """
    one = jax.custom_batching.sequential_vmap(decompose)

    def every(matrices):
        if jnp.ndim(matrices) == 2:
            return one(matrices)
        *stack, n, m = jnp.shape(matrices)
        parts = jax.lax.map(one, matrices.reshape(-1, n, m))
        return jax.tree.map(lambda x: x.reshape(*stack, *x.shape[1:]), parts)

    return every


eigh = one_by_one(lambda matrix: tuple(jnp.linalg.eigh(matrix)))
orthogonal_factor = one_by_one(lambda matrix: jnp.linalg.qr(matrix)[0])


def symmetric_power(matrix: Array, power: float, eps: Any) -> tuple[Array, Array]:
    """(max(A, 0) + ε I)^power of symmetric matrices, and how many of their eigenvalues are below 0, by rounding."""
    eigenvalues, vectors = eigh(matrix)
    powers = (jnp.maximum(eigenvalues, 0) + eps) ** power
    result = jnp.matmul(vectors * powers[..., None, :], jnp.swapaxes(vectors, -1, -2), precision="highest")
    return result.astype(matrix.dtype), jnp.sum(eigenvalues < 0, dtype=jnp.int32)
