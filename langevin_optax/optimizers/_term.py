"""The Langevin term σ√(γP) ξ, added to an update: what the noise links and the engine share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _checks, _trees
from langevin_optax._types import ArrayLike, Mask, ScalarOrSchedule
from langevin_optax.layers import _where
from langevin_optax.noise import _keys, _samplers
from langevin_optax.noise._draw import noise_like
from langevin_optax.noise._state import LangevinState
from langevin_optax.preconditioners import _operators


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
        if _checks.is_known_zero(sigma_now):  # the program is that of the plain optimiser, to the last rounding
            return updates, new_state

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
    scale = scale.astype(dtype)
    size = jnp.where(scale == 0, 0, scale * jnp.sqrt(jnp.asarray(p, dtype)))
    if limit is not None:
        size = jnp.minimum(size, jnp.asarray(limit, dtype))
    size = size.astype(xi.dtype)
    noisy = (jnp.asarray(u, xi.dtype) + size * xi).astype(jnp.result_type(u))
    return jnp.where(size != 0, noisy, u)
