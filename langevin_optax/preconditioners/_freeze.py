"""A preconditioner that is constant from a step on, so that the chain has an exact law."""

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _checks, _trees
from langevin_optax.preconditioners import _diagonal, _operators, _publish


class FreezeState(NamedTuple):
    """The state of :func:`freeze_preconditioner`."""

    count: Any  # shape=(), dtype=int32
    preconditioner: Any  # P of the last step, like the parameters; nothing, if the scaler itself keeps it
    inner: Any  # the state of the scaler


def freeze_preconditioner(scaler: optax.GradientTransformation, after: int) -> optax.GradientTransformationExtraArgs:
    r"""A scaler whose preconditioner P is constant from step ``after`` on, and its momentum goes on.

    Where P follows the gradients, :math:`\exp(-L/\tau)` needs a drift :math:`\tau\nabla\cdot P` besides, which no
    optimiser adds. Adapt P during burn-in and freeze it: what is sampled after is then the law for that P, which for
    small steps is :math:`\exp(-L/\tau)` whatever P is.

    Steps count from 0: P comes from the gradients of the steps before ``after``, and of a scaler that refreshes it
    every k steps, from those before its last refresh. Until then updates are those of ``scaler``. A diagonal P is kept
    in the state, a matrix by the scaler itself, whose statistics then stand still. (:func:`scale_by_prong` still wants
    its ``input_covariances=``. :func:`kfac_preconditioner` is frozen by calling ``maybe_update`` no more.)

    Args:
      scaler: a scaler of this package, or one of :func:`with_preconditioner`. (One of your own whose P is a matrix must
        have an update with an argument ``freeze_after``, the number of steps whose gradients may enter P.)
      after: the number of steps, at least 1 (for :func:`scale_by_soap` 2).

    Raises:
      ValueError: if ``after`` is below 1; at the update, if the scaler publishes no P, or one that it cannot freeze.
      TypeError: if ``after`` is no integer or ``scaler`` no gradient transformation.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> scaler = lgv.freeze_preconditioner(lgv.scale_by_rms(), after=1000)
      >>> noise = lgv.add_preconditioned_noise(1e-3, 1e-2, key=0)
      >>> tx = optax.chain(scaler, noise, optax.scale_by_learning_rate(1e-3))
      >>> updates, state = tx.update(jnp.ones(3), tx.init(jnp.ones(3)))

    References:
      Ma et al., `A Complete Recipe for Stochastic Gradient MCMC <https://arxiv.org/abs/1506.04696>`_, 2015 (the drift
      of a P that depends on the parameters).
    """
    if not isinstance(scaler, optax.GradientTransformation):
        raise TypeError(f"scaler must be an optax.GradientTransformation, got {scaler!r}.")
    last = _checks.check_whole("after", after, 1)
    freezes_itself = "freeze_after" in inspect.signature(scaler.update).parameters
    inner = optax.with_extra_args_support(scaler)

    def init_fn(params):
        def zeros(p):
            return jnp.zeros_like(p, dtype=_diagonal.wide(p).dtype)

        inner_state = inner.init(params)
        if type(inner_state) is tuple or isinstance(inner_state, dict):
            raise ValueError(
                "freeze_preconditioner takes the scaler alone, whose P it holds, not a chain, whose other links would "
                "have seen updates of the P that moves: chain(freeze_preconditioner(scaler, after), trace(0.9), …)."
            )
        return FreezeState(
            count=jnp.zeros([], jnp.int32),
            preconditioner=() if freezes_itself else jax.tree.map(zeros, params),
            inner=inner_state,
        )

    def update_fn(updates, state, params=None, **extra_args):
        if freezes_itself:
            if any(p is not None for p in _publish.published(updates)):
                raise ValueError(
                    "freeze_preconditioner cannot hold the product of a matrix and a P in front of it: freeze each, "
                    "or put the other behind it."
                )
            new_updates, new_inner = inner.update(updates, state.inner, params, freeze_after=last, **extra_args)
            return new_updates, FreezeState(optax.safe_increment(state.count), (), new_inner)

        new_updates, new_inner = inner.update(updates, state.inner, params, **extra_args)
        _, leaves, treedef = _trees.flatten(new_updates)
        held, frozen = treedef.flatten_up_to(state.preconditioner), state.count >= last
        for i, (u, p) in enumerate(zip(leaves, _publish.published(new_updates), strict=True)):
            if p is None or _operators.is_matrix(p):
                raise ValueError(
                    "freeze_preconditioner takes a scaler of langevin_optax, directly, or one of with_preconditioner, "
                    f"but the update of {scaler} "
                    + (
                        "carries no preconditioner."
                        if p is None
                        else "has a matrix for a preconditioner, and no argument freeze_after."
                    )
                )
            held[i] = jnp.where(frozen, held[i], jnp.asarray(p, held[i].dtype))
            # u = P m: the momentum m, which is 0 where P is, and its update with the P that is held.
            momentum = jnp.where(p > 0, u / jnp.where(p > 0, jnp.asarray(p, held[i].dtype), 1), 0)
            leaves[i] = jnp.where(frozen, (held[i] * momentum).astype(u.dtype), u)
        preconditioner = treedef.unflatten(held)
        new_state = FreezeState(optax.safe_increment(state.count), preconditioner, new_inner)
        return _publish.publish(treedef.unflatten(leaves), preconditioner), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
