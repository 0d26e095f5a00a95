"""The Langevin term σ√(γP) ξ, added to an update: what the noise links and the engine share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax import _checks, _trees
from langevin_optax._mesh import manual_axes, number_of_shards, placed_like, sum_over_shards
from langevin_optax._types import ArrayLike, Mask, ScalarOrSchedule
from langevin_optax.layers import _where
from langevin_optax.noise import _keys, _samplers
from langevin_optax.noise._draw import noise_like
from langevin_optax.noise._state import LangevinState
from langevin_optax.preconditioners import _operators


class Measured(NamedTuple):
    """What a term added in one step: sums for each leaf, None where it added nothing, in units of the updates."""

    updates: Any
    leaves: list[Any]  # n, Σ|noise|², Σ|update|², the number of bounded coordinates, over the n with noise
    sigma: jax.Array
    learning_rate: jax.Array
    unit: jax.Array | float  # of the updates, in units of the parameters


@jax.tree_util.register_pytree_node_class
class MeteredState(LangevinState):
    """A LangevinState whose term is measured, and what ``meter(Measured, what it made before)`` made of the last step.

    `langevin_optax.sampling` puts it in the place of a LangevinState for one update. What is measured goes with the
    state, and so comes out of every ``jit``, ``cond`` and ``vmap`` that a wrapper has around the term.
    """

    measured: Any
    meter: Callable[[Measured, Any], Any]

    def __new__(cls, count: Any, key: Any, measured: Any, meter: Any) -> "MeteredState":
        state = super().__new__(cls, count, key)
        state.measured, state.meter = measured, meter
        return state

    @property
    def plain(self) -> LangevinState:
        return LangevinState(self.count, self.key)

    def tree_flatten(self) -> Any:
        return (self.count, self.key, self.measured), self.meter

    @classmethod
    def tree_unflatten(cls, meter: Any, children: Any) -> "MeteredState":
        count, key, measured = children
        return cls(count, key, measured, meter)


class LangevinTerm(NamedTuple):
    """``init(params)`` makes its state; ``add(updates, state, params, preconditioner)`` adds it.

    ``preconditioner`` is a function from the updates that get noise, the others hidden, to P.
    """

    init: Callable[..., Any]
    add: Callable[[Any, LangevinState, Any, Callable[[Any], Any]], tuple[Any, LangevinState]]


def langevin_term(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    sampler: _samplers.Sampler,
    mask: Mask | None,
    max_noise: ArrayLike | None,
    after_learning_rate: bool,
) -> LangevinTerm:
    """σ√(P/γ) ξ, to be scaled by γ; or σ√(γP) ξ for an update that is scaled already."""
    _checks.check_nonnegative("learning_rate", learning_rate)
    _checks.check_nonnegative("sigma", sigma)
    _keys.as_key(key)
    _samplers.as_sampler(sampler)
    if callable(max_noise):
        raise TypeError(f"max_noise must be a number or a scalar array, got {max_noise!r}.")
    if max_noise is not None:
        _checks.check_nonnegative("max_noise", max_noise)
    if not _where.is_function(mask):
        _where.check_leaves(mask)

    def init_fn(params):
        where = _where.resolve(mask, params)
        # Raises for leaves that cannot carry noise.
        jax.tree_util.tree_map_with_path(lambda path, p, w: w is False or _trees.noise_dtype(path, p), params, where)
        return LangevinState(count=jnp.zeros([], jnp.int32), key=_keys.own_key(key))

    def add_fn(updates, state, params, preconditioner):
        _keys.check_state(state, key)
        where = _where.resolve(mask, updates, params)
        selected = jax.tree.map(lambda u, w: optax.MaskedNode() if w is False else u, updates, where)
        p = preconditioner(selected)
        new_state = LangevinState(*_keys.advance(state.count, state.key, moves=not _checks.is_static_zero(sigma)))
        sigma_now = sigma(state.count) if callable(sigma) else sigma

        def metered(p, noise, scale, limit):
            _, leaves, treedef = _trees.flatten(updates)
            columns = map(treedef.flatten_up_to, (where, p, noise))
            rows = [
                (u, None) if w is False else _add_and_measure(u, scale, p, xi, limit, None if w is True else w)
                for u, w, p, xi in zip(leaves, *columns, strict=True)
            ]
            gamma = _checks.read("learning_rate", learning_rate, state.count)
            level = _checks.read("sigma", sigma_now, state.count)
            sums = Measured(updates, [row for _, row in rows], level, gamma, 1.0 if after_learning_rate else gamma)
            measured = state.meter(sums, state.measured)
            noisy = treedef.unflatten([u for u, _ in rows])
            return noisy, MeteredState(new_state.count, new_state.key, measured, state.meter)

        if _checks.is_known_zero(sigma_now):  # the program is that of the plain optimiser, to the last rounding
            if not isinstance(state, MeteredState):
                return updates, new_state
            nothing = jax.tree.map(lambda u: jnp.zeros([], np.promote_types(jnp.result_type(u), np.float32)), selected)
            return updates, metered(jax.tree.map(jnp.real, nothing), nothing, jnp.zeros([]), None)[1]

        gamma = _checks.read("learning_rate", learning_rate, state.count)
        # γ = 0, as in a warm-up, is no noise rather than ∞ · 0.
        safe = jnp.where(gamma == 0, 1, gamma)
        root = jnp.sqrt(gamma) if after_learning_rate else jnp.where(gamma == 0, 0, jax.lax.rsqrt(safe))
        scale = _checks.read("sigma", sigma_now, state.count) * root
        # In units of the updates; where γ = 0 there is no noise to bound.
        limit = None if max_noise is None else max_noise / (1 if after_learning_rate else safe)
        p, noise = shape_noise(p, noise_like(state.key, state.count, selected, sampler), selected, limit)

        def add(w, u, p, xi):
            if w is False:
                return u
            noisy = _add_to_leaf(u, scale, p, xi, limit)
            return noisy if w is True else jnp.where(w, noisy, u)

        if isinstance(state, MeteredState):
            return metered(p, noise, scale, limit)
        return jax.tree.map(add, where, updates, p, noise), new_state

    return LangevinTerm(init_fn, add_fn)


def shape_noise(preconditioner: Any, noise: Any, updates: Any, limit: Any) -> tuple[Any, Any]:
    """P and ξ; where P is an operator, 1 and S ξ."""
    names, _, treedef = _trees.flatten(updates)
    ps, xis = treedef.flatten_up_to(preconditioner), treedef.flatten_up_to(noise)
    if limit is not None and any(map(_operators.is_matrix, ps)):
        raise ValueError(
            "max_noise bounds the noise of each coordinate for itself, but here P is a matrix, at "
            f"{names[[*map(_operators.is_matrix, ps)].index(True)]}: to bound its noise is to change its directions. "
            "Leave max_noise away, and give the scaler a larger eps."
        )
    diagonal, shaped = _operators.shaped(ps, xis, names)
    return treedef.unflatten(diagonal), treedef.unflatten(shaped)


@jax.jit  # traced once per shape, not once per leaf
def _add_to_leaf(u: Any, scale: jax.Array, p: Any, xi: jax.Array, limit: Any) -> jax.Array:
    """u + scale √P ξ, where that is not u + 0, in the dtype of ξ and cast once."""
    dtype = jnp.finfo(xi.dtype).dtype
    _, size = _sizes(scale, p, limit, dtype)
    size = size.astype(xi.dtype)
    noisy = (jnp.asarray(u, xi.dtype) + size * xi).astype(jnp.result_type(u))
    return jnp.where(size != 0, noisy, u)


@jax.jit
def _add_and_measure(u: Any, scale: jax.Array, p: Any, xi: Any, limit: Any, where: Any) -> tuple[Any, list[Any]]:
    """The same where that is asked for, and the sums of `Measured`.

    It looks at the noise in place of its size: what the sum and the measure share goes through memory.
    """
    xi = jnp.asarray(xi)
    dtype = jnp.finfo(xi.dtype).dtype
    size, bounded = _sizes(scale, p, limit, dtype)
    noise = placed_like(jnp.broadcast_to(bounded.astype(xi.dtype) * xi, jnp.shape(u)), u)
    noisy = jnp.where(noise != 0, (jnp.asarray(u, xi.dtype) + noise).astype(jnp.result_type(u)), u)

    def total(x):
        """Over the leaf; within `jax.shard_map` over all its shards."""
        part = jnp.sum(jnp.broadcast_to(x, jnp.shape(u)), where=where, dtype=dtype).astype(float)
        same = tuple(axis for axis in manual_axes(u) if axis not in manual_axes(part))
        return sum_over_shards(part, manual_axes(part)) * number_of_shards(same)

    n = jnp.size(u) * float(number_of_shards(manual_axes(u))) if where is None else total(jnp.ones([]))
    squares = [total(jnp.square(jnp.abs(x).astype(dtype))) for x in (noise, u)]
    sums = [n, *squares, 0.0 if limit is None else total(size > bounded)]
    return noisy if where is None else jnp.where(where, noisy, u), sums


def _sizes(scale: jax.Array, p: Any, limit: Any, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """scale √P, without and with its bound."""
    scale = scale.astype(dtype)
    size = jnp.where(scale == 0, 0, scale * jnp.sqrt(jnp.asarray(p, dtype)))
    return size, size if limit is None else jnp.minimum(size, jnp.asarray(limit, dtype))
