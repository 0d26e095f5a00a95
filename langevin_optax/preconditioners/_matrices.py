"""Operators of a leaf that are made of a matrix per axis: `Kronecker` and `Rotated`."""

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax import _trees
from langevin_optax._mesh import gathered, placed_like
from langevin_optax.preconditioners._operators import Axiswise

Array: TypeAlias = Any


@jax.tree_util.register_pytree_node_class
class Kronecker(Axiswise):
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
        self.roots = tuple(_square("root", axis, root) for axis, root in enumerate(roots))

    def root(self, xi: Array) -> Array:
        self.check(jnp.shape(xi))
        for axis, matrix in enumerate(self.roots):
            if matrix is not None:
                xi = along(matrix, xi, axis)
        return xi

    @property
    def mixes(self) -> tuple[int, ...]:
        return tuple(axis for axis, root in enumerate(self.roots) if root is not None)

    def check(self, shape: tuple[int, ...]) -> None:
        _check_axes("roots", self.roots, shape)

    def tree_flatten(self) -> tuple[Any, None]:
        return self.roots, None

    @classmethod
    def tree_unflatten(cls, aux: None, roots: Any) -> "Kronecker":
        p = object.__new__(cls)  # unchecked: the leaves need not be arrays
        p.roots = tuple(roots)
        return p


@jax.tree_util.register_pytree_node_class
class Rotated(Axiswise):
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
        if jnp.iscomplexobj(p):
            raise TypeError(f"p of Rotated must be real, got {jnp.result_type(p)}.")
        self.bases, self.p = tuple(_square("basis", axis, basis) for axis, basis in enumerate(bases)), p

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


def _square(name: str, axis: int, matrix: Any) -> Any:
    if matrix is None:
        return None
    matrix = matrix if hasattr(matrix, "shape") else np.asarray(matrix)
    shape = jnp.shape(matrix)
    if jnp.iscomplexobj(matrix):
        raise TypeError(f"the {name} of axis {axis} must be real, got {jnp.result_type(matrix)}.")
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"the {name} of axis {axis} must be square, (..., n, n), or None, got shape {shape}.")
    return matrix


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
