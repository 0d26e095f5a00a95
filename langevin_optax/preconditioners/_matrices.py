"""Matrices along the axes of a leaf: `Kronecker` and `Rotated`, and powers of symmetric matrices."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from langevin_optax import _trees
from langevin_optax._mesh import gathered, placed_like

Array: TypeAlias = Any


@jax.tree_util.register_pytree_node_class
class Kronecker:
    r"""The root :math:`S = S_1 \otimes \dots \otimes S_k` of a preconditioner, one square matrix per axis of a leaf.

    .. math::
      S\,\xi = S_1\,\xi\,S_2^T \text{ for a matrix } \xi, \qquad P = S S^T = S_1 S_1^T \otimes S_2 S_2^T

    Shampoo, for one, has :math:`S_1 = L^{-1/8}`, since its update is :math:`L^{-1/4}\,m\,R^{-1/4}`. Any root will do: a
    Cholesky factor as well as the symmetric one.

    Args:
      *roots: for each axis an array of shape ``(n, n)``, n the size of the axis, or None for the identity. For stacked
        layers a root may have axes in front, ``(layers, n, n)``: those of the leaf, which get None themselves.

    Raises:
      ValueError: if a root is not square; at the update, if roots and leaf do not fit.
      TypeError: if a root is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> p = lgv.Kronecker(jnp.array([[1.0, 0.0], [2.0, 1.0]]), None)
      >>> p.root(jnp.array([[1.0, 10.0, 100.0], [0.0, 0.0, 0.0]])).tolist()
      [[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]]

    References:
      Gupta et al., `Shampoo <https://arxiv.org/abs/1802.09568>`_, 2018.
    """

    def __init__(self, *roots: Array | None):
        for axis, root in enumerate(roots):
            _check_square("root", axis, root)
        self.roots = roots

    def root(self, xi: Array) -> Array:
        self.check(jnp.shape(xi))
        for axis, matrix in enumerate(self.roots):
            if matrix is not None:
                xi = along(matrix, xi, axis)
        return xi

    @property
    def mixes(self) -> tuple[int, ...]:
        """The axes along which P is no diagonal."""
        return tuple(axis for axis, root in enumerate(self.roots) if root is not None)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise unless this may be the P of a leaf of ``shape``."""
        _check_axes("roots", self.roots, shape)

    def tree_flatten(self) -> tuple[Any, None]:
        return self.roots, None

    @classmethod
    def tree_unflatten(cls, aux: None, roots: Any) -> "Kronecker":
        p = object.__new__(cls)  # unchecked: the leaves need not be arrays
        p.roots = tuple(roots)
        return p


@jax.tree_util.register_pytree_node_class
class Rotated:
    r"""A preconditioner that is diagonal in a basis of its own, as that of SOAP or of the eigenvectors of K-FAC.

    .. math::
      P\,m = Q_1\,(p \circ Q_1^T m\,Q_2)\,Q_2^T, \qquad S\,\xi = Q_1\,(\sqrt p \circ \xi)\,Q_2^T

    The root leaves one rotation out: :math:`Q_1^T\xi\,Q_2` has the law of :math:`\xi`.

    Args:
      bases: for each axis of the leaf an orthogonal matrix whose columns are the basis, or None for the axis as it is;
        axes in front as in :class:`Kronecker`.
      p: the diagonal :math:`p \ge 0` in that basis, which broadcasts to the leaf.

    Raises:
      ValueError: if a basis is not square; at the update, if bases, p and leaf do not fit.
      TypeError: if a basis or p is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> lgv.Rotated((swap,), jnp.array([4.0, 9.0])).root(jnp.ones(2)).tolist()
      [3.0, 2.0]

    References:
      Vyas et al., `SOAP <https://arxiv.org/abs/2409.11321>`_, 2024.
    """

    def __init__(self, bases: tuple[Array | None, ...], p: Array):
        for axis, basis in enumerate(bases):
            _check_square("basis", axis, basis)
        if jnp.iscomplexobj(p):
            raise TypeError(f"p of Rotated must be real, got {jnp.result_type(p)}.")
        self.bases, self.p = tuple(bases), p

    def root(self, xi: Array) -> Array:
        self.check(jnp.shape(xi))
        return Kronecker(*self.bases).root(jnp.sqrt(self.p).astype(jnp.real(xi).dtype) * xi)

    @property
    def mixes(self) -> tuple[int, ...]:
        return Kronecker(*self.bases).mixes

    def check(self, shape: tuple[int, ...]) -> None:
        _check_axes("bases", self.bases, shape)
        if not _trees.broadcasts(jnp.shape(self.p), shape):
            raise ValueError(
                f"p of Rotated has shape {jnp.shape(self.p)}, which does not broadcast to the leaf's {shape}."
            )

    def tree_flatten(self) -> tuple[Any, None]:
        return (self.bases, self.p), None

    @classmethod
    def tree_unflatten(cls, aux: None, children: Any) -> "Rotated":
        p = object.__new__(cls)
        p.bases, p.p = children
        return p


def along(matrix: Array, x: Array, axis: int) -> Array:
    """``matrix``, or a batch of matrices for the first axes of ``x``, times ``x`` along an axis."""
    moved = jnp.moveaxis(gathered(x), axis, -1)
    batch = moved.shape[: jnp.ndim(matrix) - 2]
    rows = moved.reshape(*batch, math.prod(moved.shape[len(batch) : -1]), moved.shape[-1])
    turned = jnp.matmul(rows, jnp.swapaxes(matrix, -1, -2).astype(x.dtype), precision="highest")
    return placed_like(jnp.moveaxis(turned.reshape(moved.shape), -1, axis), x)


def _check_square(name: str, axis: int, matrix: Any) -> None:
    if matrix is None:
        return
    shape = jnp.shape(matrix)
    if jnp.iscomplexobj(matrix):
        raise TypeError(f"the {name} of axis {axis} must be real, got {jnp.result_type(matrix)}.")
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"the {name} of axis {axis} must be square, (..., n, n), or None, got shape {shape}.")


def _check_axes(name: str, matrices: tuple[Any, ...], shape: tuple[int, ...]) -> None:
    if len(matrices) != len(shape):
        raise ValueError(
            f"{len(matrices)} {name} for a leaf of shape {shape}: there must be a matrix, or None, for each axis."
        )
    for axis, matrix in enumerate(matrices):
        if matrix is None:
            continue
        *batch, n, _ = jnp.shape(matrix)
        fits = n == shape[axis] and len(batch) <= axis and all(m is None for m in matrices[: len(batch)])
        if not fits or tuple(batch) != shape[: len(batch)]:
            raise ValueError(
                f"{name} do not fit the leaf of shape {shape}: that of axis {axis} has shape {jnp.shape(matrix)}, "
                f"where ({shape[axis]}, {shape[axis]}) belongs, or before that first axes of the leaf that have None."
            )


def refreshed(due: jax.Array, refresh: Callable[[Any], Any], values: Any) -> Any:
    """``refresh(values)`` if that is due, else ``values``.

    A loop of one turn or none, and no `cond`: under `vmap` a cond becomes a choice between two values that are both
    computed, so that chains would pay for eigenvectors in every step. Such a loop runs if it is due for one of them.
    """

    def turn(carry):
        due, values = carry
        return jnp.zeros_like(due), refresh(values)

    return jax.lax.while_loop(lambda carry: carry[0], turn, (due, values))[1]


def symmetric_power(matrix: Array, power: float, eps: Any) -> tuple[Array, Array]:
    """(max(A, 0) + ε I)^power of symmetric matrices, and how many of their eigenvalues are below 0, by rounding."""
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    powers = (jnp.maximum(eigenvalues, 0) + eps) ** power
    result = jnp.matmul(vectors * powers[..., None, :], jnp.swapaxes(vectors, -1, -2), precision="highest")
    return result.astype(matrix.dtype), jnp.sum(eigenvalues < 0, dtype=jnp.int32)
