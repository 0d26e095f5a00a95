"""P that is no diagonal: an object with ``root(xi)``, which gives S ξ, where S Sᵀ = P.

Whatever needs P itself applies S and its transpose. An operator may stand for several leaves, such as the kernel and
the bias of a layer: each of them then carries its `Part`.
"""

import math
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from langevin_optax import _trees

Array: TypeAlias = Any


class Operator(Protocol):
    """A preconditioner P of a leaf, or of a tree of leaves, by its root."""

    def root(self, xi: Any) -> Any:
        """S ξ, of the structure and the shapes of ξ; linear, with S Sᵀ = P."""


def is_operator(p: Any) -> bool:
    return callable(getattr(p, "root", None))


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


class Scaled:
    """d P, for a diagonal d that commutes with P: S is √d times that of P."""

    def __init__(self, operator: Operator, d: Array):
        self.operator, self.d = operator, d

    def root(self, xi: Array) -> Array:
        return jnp.sqrt(self.d).astype(jnp.real(xi).dtype) * self.operator.root(xi)

    @property
    def mixes(self) -> tuple[int, ...] | None:
        return getattr(self.operator, "mixes", None)


class Part:
    """What one of several leaves carries of an operator that stands for all of them."""

    def __init__(self, joint: Operator, treedef: Any, index: int):
        self.joint, self.treedef, self.index = joint, treedef, index


def is_matrix(p: Any) -> bool:
    """Whether the P that a leaf carries is no array."""
    return is_operator(p) or isinstance(p, Part)


def parts(joint: Operator, tree: Any, is_leaf: Any = None) -> Any:
    """A tree like ``tree`` of the parts of ``joint``."""
    treedef: Any = jax.tree.structure(tree, is_leaf=is_leaf)
    return treedef.unflatten([Part(joint, treedef, index) for index in range(treedef.num_leaves)])


def shaped(preconditioner: list[Any], xis: list[Array], names: list[str]) -> tuple[list[Any], list[Array]]:
    """P and ξ of each leaf; where P is an operator, 1 and S ξ."""

    def joint(operator, tree):
        return jax.tree.map(_checked, operator.root(tree), tree)

    def leaf(p, xi):
        return _checked(p.root(xi), xi) if is_operator(p) else xi

    diagonal = [1.0 if is_matrix(p) else p for p in preconditioner]
    return diagonal, _leaf_by_leaf(leaf, joint, preconditioner, xis, names)


def times(preconditioner: list[Any], momenta: list[Array], names: list[str]) -> list[Array]:
    """P m for each leaf."""

    def leaf(p, m):
        return _square(p, m) if is_operator(p) else p * m

    return _leaf_by_leaf(leaf, _square, preconditioner, momenta, names)


def _leaf_by_leaf(of_leaf, of_joint, preconditioner, xs, names):
    result: list[Any] = [None] * len(xs)
    joints: dict[int, dict[int, int]] = {}
    for i, (p, x) in enumerate(zip(preconditioner, xs, strict=True)):
        if isinstance(p, Part):
            joints.setdefault(id(p.joint), {})[p.index] = i
        else:
            result[i] = of_leaf(p, x)
    for places in joints.values():
        part = preconditioner[next(iter(places.values()))]
        if len(places) < part.treedef.num_leaves:
            raise ValueError(
                f"the preconditioner couples {part.treedef.num_leaves} leaves, of which only {len(places)} are here: "
                f"{', '.join(names[i] for i in places.values())}. A mask or a partition must take all of them, such as "
                "the kernel and the bias of a layer, or none."
            )
        tree = part.treedef.unflatten([xs[places[index]] for index in range(len(places))])
        for index, x in enumerate(jax.tree.leaves(of_joint(part.joint, tree))):
            result[places[index]] = x
    return result


def _square(p: Operator, m: Any) -> Any:
    """P m = S Sᵀ m."""
    return p.root(jax.linear_transpose(p.root, m)(m)[0])


def _checked(shaped: Array, xi: Array) -> Array:
    if jnp.shape(shaped) != jnp.shape(xi):
        raise ValueError(f"root(xi) must have the shape of xi, {jnp.shape(xi)}, got {jnp.shape(shaped)}.")
    return shaped.astype(xi.dtype)


def product(own: Any, incoming: Any, shape: tuple[int, ...]) -> Any:
    """The P of u = own · incoming · m, a leaf of ``shape``; raises where that is not symmetric."""
    if incoming is None or _is_one(incoming):
        return own
    if _is_one(own):
        return incoming
    matrix, d = (own, incoming) if is_operator(own) else (incoming, own)
    if is_operator(matrix) and not is_matrix(d):
        sizes = (1,) * (len(shape) - jnp.ndim(d)) + jnp.shape(d)
        mixes = getattr(matrix, "mixes", None)
        if all(sizes[axis] == 1 for axis in (range(len(shape)) if mixes is None else mixes)):
            return Scaled(matrix, d)
    elif not is_matrix(matrix) and not is_matrix(d):
        return own * incoming
    raise ValueError(
        f"of two preconditioners in a row, of a leaf of shape {shape}, one is a matrix: the product of the two has no "
        "root, since it is not symmetric. Beside a matrix there may be a factor of one number per matrix alone."
    )


def _is_one(p: Any) -> bool:
    return isinstance(p, (int, float)) and p == 1


def along(matrix: Array, x: Array, axis: int) -> Array:
    """``matrix``, or a batch of matrices for the first axes of ``x``, times ``x`` along an axis."""
    moved = jnp.moveaxis(x, axis, -1)
    batch = moved.shape[: jnp.ndim(matrix) - 2]
    rows = moved.reshape(*batch, math.prod(moved.shape[len(batch) : -1]), moved.shape[-1])
    turned = jnp.matmul(rows, jnp.swapaxes(matrix, -1, -2).astype(x.dtype), precision="highest")
    return jnp.moveaxis(turned.reshape(moved.shape), -1, axis)


def _check_square(name: str, axis: int, matrix: Any) -> None:
    shape = jnp.shape(matrix)
    if matrix is not None and (len(shape) < 2 or shape[-1] != shape[-2]):
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


def symmetric_power(matrix: Array, power: float, eps: Any) -> tuple[Array, Array]:
    """(max(A, 0) + ε I)^power of symmetric matrices, and how many of their eigenvalues are below 0, by rounding."""
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    powers = (jnp.maximum(eigenvalues, 0) + eps) ** power
    result = jnp.matmul(vectors * powers[..., None, :], jnp.swapaxes(vectors, -1, -2), precision="highest")
    return result.astype(matrix.dtype), jnp.sum(eigenvalues < 0, dtype=jnp.int32)
