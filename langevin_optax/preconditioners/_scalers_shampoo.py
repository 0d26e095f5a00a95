"""Shampoo, which publishes its P."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _checks
from langevin_optax._mesh import varying_like
from langevin_optax._types import ArrayLike
from langevin_optax.preconditioners import _decompositions, _diagonal, _layout, _matrices, _operators, _publish
from langevin_optax.preconditioners._layout import Layout


class ShampooState(NamedTuple):
    """The state of :func:`scale_by_shampoo`. Statistics and roots have, for each leaf, those of its axes, raveled."""

    count: Any  # shape=(), dtype=int32
    mu: Any  # like the parameters, float32 at least
    statistics: Any
    roots: Any
    clipped: jax.Array  # shape=(), dtype=int32: the eigenvalues that rounding left below 0, when roots were last taken


def scale_by_shampoo(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    *,
    precondition_frequency: int = 10,
    max_dimension: int = 1024,
    merge_dimension: int = 0,
    scanned: Mapping[str, int] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Shampoo, with statistics that average.

    For a matrix with gradient g, :math:`L \leftarrow \beta_2 L + (1 - \beta_2) g g^T`,
    :math:`R \leftarrow \beta_2 R + (1 - \beta_2) g^T g`,

    .. math::
      u = P\hat\mu = (\hat L + \epsilon I)^{-1/4}\,\hat\mu\,(\hat R + \epsilon I)^{-1/4}, \qquad
      S\,\xi = (\hat L + \epsilon I)^{-1/8}\,\xi\,(\hat R + \epsilon I)^{-1/8},

    where the hats divide by :math:`1 - \beta^t`. A tensor of k axes has :math:`-1/(2k)` and :math:`-1/(4k)` for them.
    An axis longer than ``max_dimension``, and that of a vector, has the diagonal of its statistics for these; so a
    vector's P is :math:`(\hat\nu + \epsilon)^{-1/2}`. The roots are taken, by eigenvectors, every
    ``precondition_frequency`` steps from the first one on, before the update, and kept in between. No grafting.

    Statistics and roots are float32 (float64 for float64 leaves). mu is of the parameters' shapes, and sharded as these
    are; the matrices of a leaf are on each device: where it is sharded, XLA gathers its gradient for the products along
    the sharded axis.

    Args:
      b1, b2: decay of the momentum, and of the statistics. ``b2=1`` sums them, as published first.
      eps: :math:`\epsilon`. A direction without gradient has :math:`P = \epsilon^{-1/2}`, and noise to match.
      precondition_frequency: the steps between two roots.
      max_dimension, merge_dimension, scanned: as in :func:`scale_by_soap`.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with the state ``ShampooState(count, mu, statistics, roots,
      clipped)``, which hands on its P as a :class:`Kronecker` (an array for vectors). It is no state of another
      implementation of Shampoo.

    Raises:
      TypeError, ValueError: as :func:`scale_by_soap`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> noise = lgv.add_preconditioned_noise(1e-2, 1e-3, key=0)
      >>> tx = optax.chain(lgv.scale_by_shampoo(), noise, optax.scale_by_learning_rate(1e-2))
      >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Gupta et al., `Shampoo: Preconditioned Stochastic Tensor Optimization <https://arxiv.org/abs/1802.09568>`_, 2018;
      Yu et al., `Scalable Stochastic Gradient Riemannian Langevin Dynamics in Non-Diagonal Metrics
      <https://arxiv.org/abs/2303.05101>`_, 2023 (the root of its P).
    """
    every = _checks.check_whole("precondition_frequency", precondition_frequency, 1)
    sizes = (
        _checks.check_whole("max_dimension", max_dimension, 1),
        _checks.check_whole("merge_dimension", merge_dimension, 0),
    )
    _layout.check_scanned(scanned)
    _checks.check_decay("b1", b1)
    _checks.check_decay("b2", b2, one=True)
    _checks.check_positive("eps", eps)

    def init_fn(params):
        treedef: Any = jax.tree.structure(params)
        layouts = _layout.layouts(params, *sizes, scanned)
        leaves = [_diagonal.wide(p) for p in jax.tree.leaves(params)]
        statistics = [
            varying_like(layout.pack(_squares(layout, jnp.zeros(layout.shape, p.dtype)), p.dtype), p)
            for layout, p in zip(layouts, leaves, strict=True)
        ]
        return ShampooState(
            count=jnp.zeros([], jnp.int32),
            mu=treedef.unflatten(map(jnp.zeros_like, leaves)),
            statistics=treedef.unflatten(statistics),
            roots=treedef.unflatten(map(jnp.copy, statistics)),
            clipped=varying_like(jnp.zeros([], jnp.int32), leaves),
        )

    def step(updates, state, freeze_after, **extra_args):
        del extra_args
        treedef: Any = jax.tree.structure(updates)
        layouts = _layout.layouts(updates, *sizes, scanned)
        gs = [_diagonal.wide(g) for g in treedef.flatten_up_to(updates)]
        statistics, roots = treedef.flatten_up_to(state.statistics), treedef.flatten_up_to(state.roots)
        learns, learned = _publish.learning(state.count, freeze_after)

        def learn(statistics, gs):
            squares = [
                layout.pack(_squares(layout, layout.inward(g)), g.dtype) for layout, g in zip(layouts, gs, strict=True)
            ]
            sums = [s + square for s, square in zip(statistics, squares, strict=True)]
            averages = [_diagonal.average_of_finite(*pair, b2) for pair in zip(statistics, squares, strict=True)]
            return [jnp.where(b2 == 1, *both) for both in zip(sums, averages, strict=True)]

        if freeze_after is None:
            statistics = learn(statistics, gs)
        else:
            statistics = _decompositions.refreshed(learns, learn, statistics, gs)
        correction = jnp.where(b2 == 1, 1, 1 - b2**learned)
        roots, clipped = _decompositions.refreshed(
            learns & (state.count % every == 0),
            lambda old, statistics: _roots(layouts, statistics, correction, eps),
            (roots, state.clipped),
            statistics,
        )

        mus = [_diagonal.average(mu, g, b1) for mu, g in zip(treedef.flatten_up_to(state.mu), gs, strict=True)]
        debias = 1 - b1 ** optax.safe_increment(state.count)
        momenta = [(mu / debias).astype(mu.dtype) for mu in mus]
        new_state = ShampooState(
            count=optax.safe_increment(state.count),
            mu=treedef.unflatten(mus),
            statistics=treedef.unflatten(statistics),
            roots=treedef.unflatten(roots),
            clipped=clipped,
        )
        return momenta, [_preconditioner(layout, r) for layout, r in zip(layouts, roots, strict=True)], new_state

    return _publish.scaler(init_fn, step)


def _squares(layout: Layout, g: jax.Array) -> list[jax.Array]:
    """g gᵀ along each axis, or its diagonal."""

    def diagonal(axis):
        return jnp.sum(jnp.square(g), axis=tuple(a for a in layout.coupled if a != axis))

    return [_layout.outer_product(g, a, layout) if a in layout.axes else diagonal(a) for a in layout.coupled]


def _roots(layouts: list[Layout], statistics: Any, correction: jax.Array, eps: ArrayLike) -> Any:
    """(s/correction + ε)^(−1/4k) of all statistics, and how many eigenvalues were below 0."""
    roots, clipped = [], jnp.zeros([], jnp.int32)
    for layout, packed in zip(layouts, statistics, strict=True):
        power = -1 / (4 * len(layout.coupled))
        new = []
        for axis, s in zip(
            layout.coupled, layout.unpack(packed / correction.astype(packed.dtype), layout.coupled), strict=True
        ):
            if axis in layout.axes:
                root, below = _decompositions.symmetric_power(s, power, eps)
                new.append(root)
                clipped += below
            else:
                new.append(((s + eps) ** power).astype(s.dtype))
        roots.append(layout.pack(new, packed.dtype))
    return roots, clipped


def _preconditioner(layout: Layout, packed: jax.Array) -> Any:
    d: Any = 1.0
    matrices = []
    for axis, root in zip(layout.coupled, layout.unpack(packed, layout.coupled), strict=True):
        if axis in layout.axes:
            matrices.append(root)
        else:
            front = layout.shape[: layout.coupled.start]
            rest = [n if a == axis else 1 for a, n in enumerate(layout.shape) if a in layout.coupled]
            d *= jnp.square(root).reshape(*front, *rest)
    if not layout.axes:
        return layout.outward(jnp.broadcast_to(d, layout.shape))
    p = _matrices.Kronecker(*layout.along_axes(matrices))
    return layout.outer_operator(_operators.product(d, p, layout.shape))
