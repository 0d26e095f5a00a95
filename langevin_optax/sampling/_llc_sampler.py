"""The sampler behind the local learning coefficient: RMSprop-preconditioned Langevin dynamics around a point."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _trees
from langevin_optax._types import Mask
from langevin_optax.layers import _where
from langevin_optax.optimizers._noise_links import add_preconditioned_noise
from langevin_optax.preconditioners import _publish
from langevin_optax.preconditioners._freeze import FreezeState, freeze_preconditioner
from langevin_optax.preconditioners._localization import LocalizationState, add_localization
from langevin_optax.preconditioners._scalers_rms import scale_by_rms

_Optimizer = Callable[..., optax.GradientTransformation]


class LocalState(NamedTuple):
    """State of :func:`local_sampler`. The two settings are in it, so that all settings are one compiled program."""

    learning_rate: Any  # shape=()
    strength: Any  # shape=(), γ/(nβ)
    inner: Any


def local_sampler(
    sigma: float, key: Any, burn_in: int, optimizer: _Optimizer | None, mask: Mask | None, passes_learning_rate: bool
) -> optax.GradientTransformationExtraArgs:
    """The default sampler, or that of the user, around the parameters of ``init``."""

    def build(learning_rate, strength):
        if optimizer is None:
            scaler = scale_by_rms(0.99, eps=0.1, eps_in_sqrt=False, initial_scale=1.0)
            links = [
                freeze_preconditioner(scaler, max(burn_in, 1)),
                add_localization(strength),
                _averaged(add_preconditioned_noise(learning_rate, sigma, key)),
                optax.scale_by_learning_rate(learning_rate),
            ]
        else:
            numbers = (sigma, key, learning_rate) if passes_learning_rate else (sigma, key)
            links = [_pull(strength), optimizer(*numbers)]
        return optax.chain(*links, *([] if mask is None else [_only(mask)]))

    def init_fn(params):
        zero = jnp.zeros([], float)
        return LocalState(zero, zero, build(zero, zero).init(params))

    def update_fn(updates, state, params=None, **extra_args):
        tx = build(state.learning_rate, state.strength)
        updates, inner = tx.update(updates, state.inner, params, **extra_args)
        return updates, state._replace(inner=inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def center(state: LocalState) -> Any:
    """θ₀."""
    return _part(state, LocalizationState).center


def frozen(state: LocalState) -> Any:
    """P of the default sampler."""
    return _part(state, FreezeState).preconditioner


def _part(state: LocalState, kind: type) -> Any:
    def found(node):
        return isinstance(node, kind)

    return next(filter(found, jax.tree.leaves(state.inner, is_leaf=found)))


def norm(tree: Any) -> jax.Array:
    """In float32 at least."""
    squares = [jnp.sum(jnp.square(x.astype(jnp.promote_types(x.dtype, jnp.float32)))) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, start=jnp.zeros([])))


def _averaged(noise: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Half of the noise of this step and half of the last: the scheme of Leimkuhler and Matthews.

    Where the loss is quadratic and P constant its stationary law is exact, of every step size that is stable; the law
    of Euler's scheme is too wide, by the share ηPa/2 at the curvature a.
    """

    def init_fn(params):
        return noise.init(params), jax.tree.map(jnp.zeros_like, params)

    def update_fn(updates, state, params=None, **extra_args):
        inner, last = state
        _, leaves, treedef = _trees.flatten(updates)
        preconditioner = treedef.unflatten(_publish.published(updates))
        zeros = _publish.publish(treedef.unflatten(map(jnp.zeros_like, leaves)), preconditioner)
        new, inner = noise.update(zeros, inner, params, **extra_args)
        return jax.tree.map(lambda u, a, b: u + (a + b) / 2, updates, last, new), (inner, new)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _pull(strength: jax.Array) -> optax.GradientTransformationExtraArgs:
    """The localisation as a part of the gradient, in front of any optimiser."""

    def init_fn(params):
        return LocalizationState(jnp.zeros([], jnp.int32), params)

    def update_fn(updates, state, params=None, **extra_args):
        pulled = jax.tree.map(lambda g, t, c: (g + strength * (t - c)).astype(g.dtype), updates, params, state.center)
        return pulled, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _only(mask: Mask) -> optax.GradientTransformation:
    """Updates of 0 where the mask is False."""

    def update(updates, params):
        where = _where.resolve(mask, updates, params)
        return jax.tree.map(lambda u, w: jnp.where(w, u, jnp.zeros_like(u)), updates, where)

    return optax.stateless(update)
