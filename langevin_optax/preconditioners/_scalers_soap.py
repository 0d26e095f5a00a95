"""SOAP: Adam in the eigenbases of Shampoo, which publishes its P."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _checks
from langevin_optax._mesh import placed_like, varying_like
from langevin_optax._types import ArrayLike
from langevin_optax.preconditioners import _decompositions, _diagonal, _layout, _matrices, _publish
from langevin_optax.preconditioners._layout import Layout


class SoapState(NamedTuple):
    """The state of :func:`scale_by_soap`. The last two have, for each leaf, the matrices of its axes, raveled."""

    count: Any  # shape=(), dtype=int32
    mu: Any  # like the parameters, float32 at least
    nu: Any  # the same, in the bases
    statistics: Any
    bases: Any


def scale_by_soap(
    b1: ArrayLike = 0.95,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    *,
    precondition_frequency: int = 10,
    max_dimension: int = 10000,
    merge_dimension: int = 0,
    scanned: Mapping[str, int] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SOAP: Adam in the eigenbases of Shampoo's statistics.

    For a matrix with gradient g, :math:`L \leftarrow \beta_2 L + (1 - \beta_2) g g^T`,
    :math:`R \leftarrow \beta_2 R + (1 - \beta_2) g^T g`, and their eigenbases :math:`Q_L, Q_R`:

    .. math::
      u = P\hat\mu = Q_L\left(\frac{\sqrt{1 - \beta_2^t}}{\sqrt\nu + \epsilon} \circ
      Q_L^T\hat\mu\,Q_R\right)Q_R^T, \qquad
      \nu \leftarrow \beta_2\nu + (1 - \beta_2)(Q_L^T g\,Q_R)^2

    The noise of a Langevin step costs two matrix products more, :math:`S\xi = Q_L(\sqrt p \circ \xi)Q_R^T`. As
    published, the first step makes the statistics alone: its update and its P are 0. The bases are then eigenvectors;
    every ``precondition_frequency`` steps, after the update, one step of power iteration and a QR decomposition turns
    them, with the order of :math:`\nu` beside them. Tensors get a basis per axis, vectors and scalars none: Adam's P.

    Statistics and bases are float32 (float64 for float64 leaves). mu and nu are of the parameters' shapes, and sharded
    as these are. Each device has all matrices of a leaf; where the leaf is sharded, XLA gathers its gradient for the
    products along the sharded axis.

    Args:
      b1, b2: decay of the momentum, and of :math:`\nu` and the statistics.
      eps: :math:`\epsilon`. A direction without gradient has P = 1/eps in the end, and noise to match.
      precondition_frequency: the steps between two turns of the bases.
      max_dimension: axes longer than this keep their own basis.
      merge_dimension: neighbouring axes are one axis while their product is at most this, e.g. 512 makes of a
        convolution's kernel ``(3, 3, 32, 64)`` a matrix ``(288, 64)``.
      scanned: stacked layers, as in :func:`layer_mask`, e.g. ``layer_order(...).scanned``: each has bases of its own.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with the state ``SoapState(count, mu, nu, statistics, bases)``, which
      hands on its P as a :class:`Rotated` (an array for vectors). It is no state of another implementation of SOAP.

    Raises:
      TypeError, ValueError: for a frequency or dimension that is no positive integer; at ``init`` for leaves that are
        complex or integers, or a path in ``scanned`` that holds no leaf.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(3e-3, 1e-3, key=0)
      >>> tx = optax.chain(lgv.scale_by_soap(), noise, optax.scale_by_learning_rate(3e-3))
      >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> state[0].bases["kernel"].shape  # a matrix of 4 × 4 and one of 3 × 3
      (25,)

    References:
      Vyas et al., `SOAP: Improving and Stabilizing Shampoo using Adam <https://arxiv.org/abs/2409.11321>`_, 2024.
    """
    every = _checks.check_whole("precondition_frequency", precondition_frequency, 1)
    sizes = (
        _checks.check_whole("max_dimension", max_dimension, 1),
        _checks.check_whole("merge_dimension", merge_dimension, 0),
    )
    _layout.check_scanned(scanned)
    _checks.check_decay("b1", b1)
    _checks.check_decay("b2", b2)

    def init_fn(params):
        treedef: Any = jax.tree.structure(params)
        layouts = _layout.layouts(params, *sizes, scanned)
        leaves = [_diagonal.wide(p) for p in jax.tree.leaves(params)]
        bases = [
            varying_like(layout.pack([_identities(layout, axis, p.dtype) for axis in layout.axes], p.dtype), p)
            for layout, p in zip(layouts, leaves, strict=True)
        ]
        return SoapState(
            count=jnp.zeros([], jnp.int32),
            mu=treedef.unflatten(map(jnp.zeros_like, leaves)),
            nu=treedef.unflatten(map(jnp.zeros_like, leaves)),
            statistics=treedef.unflatten(map(jnp.zeros_like, bases)),
            bases=treedef.unflatten(bases),
        )

    def step(updates, state, freeze_after, **extra_args):
        del extra_args
        if isinstance(freeze_after, int) and freeze_after < 2:
            raise ValueError(
                f"SOAP has its first P in its second step: freeze it after 2 steps at least, got {freeze_after}."
            )
        treedef: Any = jax.tree.structure(updates)
        layouts = _layout.layouts(updates, *sizes, scanned)
        gs, mus, nus = (
            [layout.inward(_diagonal.wide(x)) for layout, x in zip(layouts, treedef.flatten_up_to(tree), strict=True)]
            for tree in (updates, state.mu, state.nu)
        )
        statistics, bases = treedef.flatten_up_to(state.statistics), treedef.flatten_up_to(state.bases)
        count, first = state.count, state.count == 0
        learns, learned = _publish.learning(count, freeze_after)

        def learn(values, gs, bases):
            nus, statistics = values
            for i, (layout, g) in enumerate(zip(layouts, gs, strict=True)):
                square = jnp.square(_turned(layout, bases[i], g))
                nus[i] = jnp.where(first, nus[i], _diagonal.average(nus[i], square, b2))
                products = layout.pack([_layout.outer_product(g, axis, layout) for axis in layout.axes], g.dtype)
                statistics[i] = _diagonal.average_of_finite(statistics[i], products, b2)
            return nus, statistics

        if freeze_after is None:
            nus, statistics = learn((nus, statistics), gs, bases)
        else:
            nus, statistics = _decompositions.refreshed(learns, learn, (nus, statistics), gs, bases)

        t, t_nu = jnp.maximum(count, 1), jnp.maximum(learned - 1, 1)  # the first step is none of ν's, nor of μ's
        momenta, preconditioner = [], []
        for i, (layout, g) in enumerate(zip(layouts, gs, strict=True)):
            mus[i] = jnp.where(first, mus[i], _diagonal.average(mus[i], g, b1))
            p = jnp.where(first, 0, jnp.sqrt(1 - b2**t_nu) / (jnp.sqrt(nus[i]) + eps)).astype(g.dtype)
            momenta.append(layout.outward((mus[i] / (1 - b1**t)).astype(g.dtype)))
            rotated = _matrices.Rotated(layout.along_axes(layout.unpack(bases[i], layout.axes)), p)
            preconditioner.append(layout.outer_operator(rotated) if layout.axes else layout.outward(p))

        bases = _decompositions.refreshed(first, functools.partial(_eigenvectors, layouts), bases, statistics)
        due = ~first & learns & (count % every == 0)
        turn = functools.partial(_power_iteration, layouts)
        nus, bases = _decompositions.refreshed(due, turn, (nus, bases), statistics)

        def tree(xs, old):
            pairs = zip(layouts, xs, treedef.flatten_up_to(old), strict=True)
            return treedef.unflatten([placed_like(layout.outward(x), before) for layout, x, before in pairs])

        new_state = SoapState(
            count=optax.safe_increment(count),
            mu=tree(mus, state.mu),
            nu=tree(nus, state.nu),
            statistics=treedef.unflatten(statistics),
            bases=treedef.unflatten(bases),
        )
        return momenta, preconditioner, new_state

    return _publish.scaler(init_fn, step)


def _identities(layout: Layout, axis: int, dtype: Any) -> jax.Array:
    n = layout.shape[axis]
    return jnp.broadcast_to(jnp.eye(n, dtype=dtype), (*layout.shape[: layout.coupled.start], n, n))


def _turned(layout: Layout, bases: jax.Array, x: jax.Array) -> jax.Array:
    """``x`` in these bases."""
    matrices = [jnp.swapaxes(q, -1, -2) for q in layout.unpack(bases, layout.axes)]
    return _matrices.Kronecker(*layout.along_axes(matrices)).root(x)


def _eigenvectors(layouts: list[Layout], bases: list[jax.Array], statistics: list[jax.Array]) -> list[jax.Array]:
    def vectors(s):
        return _decompositions.eigh(s)[1][..., ::-1]

    return [
        layout.pack([vectors(s) for s in layout.unpack(packed, layout.axes)], packed.dtype)
        for layout, packed in zip(layouts, statistics, strict=True)
    ]


def _power_iteration(layouts: list[Layout], both: Any, statistics: list[jax.Array]) -> Any:
    """One step of orthogonal iteration; first the columns, and ν with them, go by falling eigenvalue."""
    nus, bases = both
    for i, layout in enumerate(layouts):
        turned = []
        pairs = zip(layout.unpack(statistics[i], layout.axes), layout.unpack(bases[i], layout.axes), strict=True)
        for axis, (s, q) in zip(layout.axes, pairs, strict=True):
            eigenvalues = jnp.sum(q * jnp.matmul(s, q, precision="highest"), axis=-2)
            order = jnp.argsort(-eigenvalues, axis=-1, stable=True)
            places = [n if a in (axis, *range(layout.coupled.start)) else 1 for a, n in enumerate(layout.shape)]
            nus[i] = jnp.take_along_axis(nus[i], order.reshape(places), axis=axis)
            q = jnp.take_along_axis(q, order[..., None, :], axis=-1)
            turned.append(_decompositions.orthogonal_factor(jnp.matmul(s, q, precision="highest")))
        bases[i] = layout.pack(turned, bases[i].dtype)
    return nus, bases
