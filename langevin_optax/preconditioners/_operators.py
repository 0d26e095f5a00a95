"""P that is no diagonal: an object with ``root(xi)``, which gives S ξ, where S Sᵀ = P.

Whatever needs P itself applies S and its transpose. An operator may stand for several leaves, such as the kernel and
the bias of a layer: each of them then carries its `Part`.
"""

import abc
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp

Array: TypeAlias = Any


class Operator(Protocol):
    """A preconditioner P of a leaf, or of a tree of leaves, by its root."""

    def root(self, xi: Any) -> Any:
        """S ξ, of the structure and the shapes of ξ; linear, with S Sᵀ = P."""


def is_operator(p: Any) -> bool:
    return callable(getattr(type(p), "root", None))  # of its type: variables of NNX pass on what they hold


class Axiswise(abc.ABC):
    """An operator of one leaf that knows its axes."""

    @property
    @abc.abstractmethod
    def mixes(self) -> tuple[int, ...]:
        """The axes along which P is no diagonal."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise unless this may be the P of a leaf of ``shape``; those made of a leaf's own parts always may."""
        del shape


class Scaled(Axiswise):
    """d P, for a diagonal d that commutes with P: S is √d times that of P."""

    def __init__(self, operator: Operator, d: Array, mixes: tuple[int, ...]):
        self.operator, self.d, self._mixes = operator, d, mixes

    @property
    def mixes(self) -> tuple[int, ...]:
        return self._mixes

    def root(self, xi: Array) -> Array:
        return jnp.sqrt(self.d).astype(jnp.real(xi).dtype) * self.operator.root(xi)


class Couple:
    """An operator at one place of a tree, where it stands for several leaves."""

    def __init__(self, operator: Operator, treedef: Any):
        self.operator, self.treedef = operator, treedef


class Part:
    """What one of these leaves carries."""

    def __init__(self, couple: Couple, index: int):
        self.couple, self.index = couple, index


def is_matrix(p: Any) -> bool:
    """Whether the P that a leaf carries is no array."""
    return is_operator(p) or isinstance(p, Part)


def parts(joint: Operator, tree: Any, is_leaf: Any = None) -> Any:
    """A tree like ``tree`` of the parts of ``joint``."""
    treedef: Any = jax.tree.structure(tree, is_leaf=is_leaf)
    couple = Couple(joint, treedef)
    return treedef.unflatten([Part(couple, index) for index in range(treedef.num_leaves)])


def shaped(preconditioner: list[Any], xis: list[Array], names: list[str]) -> tuple[list[Any], list[Array]]:
    """P and ξ of each leaf; where P is an operator, 1 and S ξ."""

    def joint(operator, tree):
        shaped, structure = operator.root(tree), jax.tree.structure(tree)
        if str(jax.tree.structure(shaped)) != str(structure):
            raise ValueError(f"root(xi) must be a tree like xi, {structure}, got {jax.tree.structure(shaped)}.")
        return jax.tree.map(_checked, shaped, tree)

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
    couples: dict[int, dict[int, int]] = {}
    for i, (p, x) in enumerate(zip(preconditioner, xs, strict=True)):
        if isinstance(p, Part):
            couples.setdefault(id(p.couple), {})[p.index] = i
        else:
            result[i] = of_leaf(p, x)
    for places in couples.values():
        couple = preconditioner[next(iter(places.values()))].couple
        if len(places) < couple.treedef.num_leaves:
            raise ValueError(
                f"the preconditioner couples {couple.treedef.num_leaves} leaves, of which only {len(places)} are here: "
                f"{', '.join(names[i] for i in places.values())}. A mask or a partition must take all of them, such as "
                "the kernel and the bias of a layer, or none."
            )
        tree = couple.treedef.unflatten([xs[places[index]] for index in range(len(places))])
        for index, x in enumerate(jax.tree.leaves(of_joint(couple.operator, tree))):
            result[places[index]] = x
    return result


def _square(p: Operator, m: Any) -> Any:
    """P m = S Sᵀ m."""
    return p.root(jax.linear_transpose(p.root, m)(m)[0])


def _checked(shaped: Array, xi: Array) -> Array:
    if jnp.shape(shaped) != jnp.shape(xi):
        raise ValueError(f"root(xi) must have the shape of xi, {jnp.shape(xi)}, got {jnp.shape(shaped)}.")
    if jnp.iscomplexobj(shaped) and not jnp.iscomplexobj(xi):
        raise TypeError(f"root(xi) must be real as xi is, got {jnp.result_type(shaped)}.")
    return jnp.asarray(shaped, xi.dtype)


def product(own: Any, incoming: Any, shape: tuple[int, ...]) -> Any:
    """The P of u = own · incoming · m, a leaf of ``shape``; raises where that is not symmetric."""
    if incoming is None or _is_one(incoming):
        return own
    if _is_one(own):
        return incoming
    matrix, d = (own, incoming) if is_operator(own) else (incoming, own)
    if is_operator(matrix) and not is_matrix(d):
        sizes = (1,) * (len(shape) - jnp.ndim(d)) + jnp.shape(d)
        mixes = matrix.mixes if isinstance(matrix, Axiswise) else tuple(range(len(shape)))
        if all(sizes[axis] == 1 for axis in mixes):
            return Scaled(matrix, d, mixes)
    elif not is_matrix(matrix) and not is_matrix(d):
        return own * incoming
    raise ValueError(
        f"of two preconditioners in a row, of a leaf of shape {shape}, one is a matrix: the product of the two has no "
        "root, since it is not symmetric. Beside the matrix of one leaf there may be one number per matrix, beside one "
        "that couples several leaves nothing."
    )


def _is_one(p: Any) -> bool:
    return isinstance(p, (int, float)) and p == 1
