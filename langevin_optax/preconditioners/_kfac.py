"""K-FAC: the preconditioner P of kfac-jax, where that is installed, and its root, layer by layer."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _checks
from langevin_optax.preconditioners import _decompositions, _matrices, _operators, _publish


def kfac_preconditioner(preconditioner: Any) -> optax.GradientTransformationExtraArgs:
    r"""K-FAC as a scaler: the update of a ``kfac_jax.OptaxPreconditioner``, marked with its P.

    .. math::
      u = P g, \qquad P = (F + \lambda I)^{-1}, \qquad S\,\xi = (F + \lambda I)^{-1/2}\,\xi,

    where F is the Fisher matrix as kfac-jax approximates it, :math:`A \otimes G` for the kernel and the bias of a layer
    together, with A of its inputs and G of the gradients at its outputs. P couples the leaves of a layer, and no two
    layers: :func:`layer_mask` selects what it likes, a mask of kernels alone raises. The damping :math:`\lambda`, by
    default split among the factors as :math:`(A + \pi\sqrt\lambda I) \otimes (G + \sqrt\lambda/\pi\,I)`, bounds P, and
    with it the noise, where there is no curvature.

    It takes the place of ``preconditioner.as_gradient_transform()``, whose update it has, bit for bit, and is called as
    that is: the state of K-FAC is yours. Each step brings it up to date and hands it to ``update``::

        preconditioner = kfac_jax.OptaxPreconditioner(loss_fn, damping=0.1, pmap_axis_name=None)
        tx = optax.chain(
            lgv.kfac_preconditioner(preconditioner),
            lgv.add_preconditioned_noise(learning_rate, sigma, key=0),
            optax.scale_by_learning_rate(learning_rate))
        opt_state = tx.init(params)
        kfac_state = preconditioner.init((params, batch), jax.random.key(1))

        @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
        def step(params, opt_state, kfac_state, batch, key):
            grads = jax.grad(loss_fn)(params, batch)
            kfac_state = preconditioner.maybe_update(kfac_state, (params, batch), key)
            updates, opt_state = tx.update(grads, opt_state, params, precond_state=kfac_state)
            params = optax.apply_updates(params, updates)
            return params, opt_state, preconditioner.increment_count(kfac_state)

    Once ``maybe_update`` is called no more, P is constant.

    Args:
      preconditioner: the ``kfac_jax.OptaxPreconditioner``, of a loss that registers itself with kfac-jax. Outside of a
        ``pmap`` it wants ``pmap_axis_name=None``. With ``use_exact_inverses=True`` S is its own
        ``multiply_matpower(power=-0.5)``, which reuses the eigenvectors that it keeps; otherwise kfac-jax has no such
        power, and a Cholesky decomposition of both factors is taken in every step that draws noise. ``use_sqrt_inv``
        is :math:`P = (F + \lambda I)^{-1/2}`. With ``norm_constraint``, which multiplies the step by some
        :math:`c \le 1`, P is that of the shortened step, c times the one above, and the noise shrinks by √c.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` without state, whose ``update`` takes ``precond_state=``.

    Raises:
      ValueError: for ``use_sqrt_inv`` without ``use_exact_inverses``; at the update, without ``precond_state=``, before
        ``preconditioner.init`` or ``maybe_update``, for updates that are not of the structure of the parameters (such
        as within ``optax.masked``), and for curvature blocks that are neither diagonal nor Kronecker-factored.
      TypeError: if ``preconditioner`` is no ``kfac_jax.OptaxPreconditioner`` or ``precond_state`` not its state.

    References:
      Martens and Grosse, `Optimizing Neural Networks with Kronecker-factored Approximate Curvature
      <https://arxiv.org/abs/1503.05671>`_, 2015; `kfac-jax <https://github.com/google-deepmind/kfac-jax>`_.
    """
    # A preconditioner can only come from a kfac-jax that is imported, so kfac-jax is no dependency.
    kfac_jax: Any = sys.modules.get("kfac_jax")
    if kfac_jax is None or not isinstance(preconditioner, kfac_jax.OptaxPreconditioner):
        raise TypeError(
            f"preconditioner must be a kfac_jax.OptaxPreconditioner, got {type(preconditioner).__name__}. (Of a "
            "kfac_jax.Optimizer there is no Langevin version: it does the whole step itself.)"
        )
    if preconditioner._use_sqrt_inv and not preconditioner._use_exact_inverses:
        raise ValueError("use_sqrt_inv=True needs use_exact_inverses=True, for there to be a root of that root.")

    def init_fn(params):
        del params
        return optax.EmptyState()

    def update_fn(updates, state, params=None, *, precond_state=None, **extra_args):
        del params, extra_args
        _check(kfac_jax, preconditioner, precond_state, updates)
        new_updates = preconditioner.apply(updates, precond_state)
        shrinks: Any = 1.0
        if (bound := preconditioner._norm_constraint) is not None:
            # u = c P g with c = min(1, √(bound / gᵀPg)), so that c = min(1, bound / gᵀu).
            shrinks = jnp.sqrt(jnp.minimum(1, bound / kfac_jax.utils.inner_product(new_updates, updates)))
        treedef: Any = jax.tree.structure(updates)
        own: list[Any] = [None] * treedef.num_leaves
        for places, root in _roots(kfac_jax, preconditioner, precond_state):
            for i, part in zip(places, _operators.parts(_Block(root, shrinks), places), strict=True):
                own[i] = part
        return _publish.publish(new_updates, treedef.unflatten(own), updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


Root = Callable[[tuple[jax.Array, ...]], tuple[jax.Array, ...]]


class _Block:
    """P of the leaves of a layer, by the root of K-FAC and what a bound on the step makes of it."""

    def __init__(self, of_kfac: Root, shrinks: Any):
        self.of_kfac, self.shrinks = of_kfac, shrinks

    def root(self, xi: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple((self.shrinks * x).astype(x.dtype) for x in self.of_kfac(xi))


def _roots(kfac_jax: Any, preconditioner: Any, precond_state: Any) -> list[tuple[tuple[int, ...], Root]]:
    """For each block of K-FAC the places of its leaves, and the root of what ``preconditioner.apply`` multiplies by."""
    estimator = preconditioner.estimator
    places = estimator.params_vector_to_blocks_vectors(estimator.params_structure_vector_of_indices)
    states = precond_state.estimator_state.blocks_states
    damping = preconditioner.get_identity_weight(precond_state)
    norm = preconditioner._norm_to_scale_identity_weight_per_block
    roots = []
    for block, state, where in zip(estimator.blocks, states, places, strict=True):
        weight = damping if norm in (None, "none") else damping * block.norm(state, norm)
        roots.append((tuple(where), _root(kfac_jax, preconditioner, block, state, weight)))
    return roots


def _root(kfac_jax: Any, preconditioner: Any, block: Any, state: Any, weight: Any) -> Root:
    exact, cached = preconditioner._use_exact_inverses, preconditioner._use_cached_inverses
    kronecker = isinstance(block, kfac_jax.KroneckerFactored)
    if not kronecker and not isinstance(block, kfac_jax.Diagonal | kfac_jax.ScaledIdentity):
        raise ValueError(
            f"kfac_preconditioner has no root for blocks of type {type(block).__name__}, but for diagonal and "
            "Kronecker-factored ones: choose such a block in layer_tag_to_block_ctor of the OptaxPreconditioner."
        )

    def of_kfac(xi):
        power = -0.25 if preconditioner._use_sqrt_inv else -0.5
        return block.multiply_matpower(
            state=state, vector=xi, identity_weight=weight, power=power, exact_power=exact, use_cached=cached
        )

    def of_factors(xi):
        # kfac-jax keeps the inverses of the factors, or inverts them, but for their roots it calls what it lacks.
        scale = block.scale(state, cached)
        if cached:
            inverses = [state.cache["-1"][f"{i}_factor"] for i in range(len(state.factors))]
        else:
            factors = [factor.value for factor in state.factors]
            inverses = kfac_jax.utils.pi_adjusted_kronecker_inverse(*factors, damping=weight / scale)
        joined = block.parameters_shaped_list_to_array(xi)
        turned = _matrices.Kronecker(*map(_any_root, inverses)).root(joined)
        return block.array_to_parameters_shaped_list(turned / jnp.sqrt(scale))

    return of_factors if kronecker and not exact else of_kfac


def _any_root(p: jax.Array) -> jax.Array:
    """S with S Sᵀ = P: the Cholesky factor, or, where rounding has made P indefinite, the root of what is positive."""
    symmetric = (p + p.T) / 2
    lower = jnp.linalg.cholesky(symmetric)
    return _decompositions.refreshed(
        ~jnp.isfinite(lower).all(), lambda old: _decompositions.symmetric_power(symmetric, 0.5, 0)[0], lower
    )


def _check(kfac_jax: Any, preconditioner: Any, precond_state: Any, updates: Any) -> None:
    if precond_state is None:
        raise ValueError(
            "kfac_preconditioner needs the state of K-FAC in every update: pass precond_state=, from "
            "preconditioner.init((params, batch), key) and preconditioner.maybe_update(state, (params, batch), key)."
        )
    if not isinstance(precond_state, kfac_jax.OptaxPreconditionState):
        raise TypeError(f"precond_state must be a kfac_jax.OptaxPreconditionState, got {type(precond_state).__name__}.")
    if not preconditioner.estimator.finalized:
        raise ValueError(
            "this OptaxPreconditioner does not know its layers yet: call preconditioner.init((params, batch), key) "
            "once, also where its state comes from a checkpoint."
        )
    treedef: Any = jax.tree.structure(preconditioner.estimator.params_structure_vector_of_indices)
    if jax.tree.structure(updates) != treedef:
        raise ValueError(
            "K-FAC preconditions all parameters of its loss, so the updates must be a tree like them, not within "
            f"optax.masked or optax.partition. Got\n  {jax.tree.structure(updates)}\nfor parameters\n  {treedef}."
        )
    average = kfac_jax.utils.WeightedMovingAverage
    for leaf in jax.tree.leaves(precond_state.estimator_state, is_leaf=lambda leaf: isinstance(leaf, average)):
        if isinstance(leaf, average) and _checks.is_known_zero(leaf.weight):
            raise ValueError(
                "K-FAC has seen no batch yet, and its P is nothing: call "
                "preconditioner.maybe_update(state, (params, batch), key) before the update."
            )
