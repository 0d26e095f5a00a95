"""Scalers that say which preconditioner P they used: `with_preconditioner`, and links that hand a P on."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from langevin_optax.preconditioners import _check, _marks

Preconditioner = Callable[[Any, Any, Any], Any]


def with_preconditioner(
    transform: optax.GradientTransformation, preconditioner: Preconditioner
) -> optax.GradientTransformationExtraArgs:
    r"""Any Optax transformation, which also publishes the preconditioner P that it used.

    The update :math:`u = P\,m` comes out marked with P, and :func:`add_preconditioned_noise`, if it directly follows,
    shapes its noise :math:`\sigma\sqrt{\gamma P}\,\xi` by it. ``init``, ``update`` and state are those of
    ``transform``, so that a checkpoint of one loads into the other. If the incoming updates carry a P themselves, the
    product is published.

    A mark lives as long as the array or tracer that carries it and is no part of the compiled program. What changes
    the update (a scale, a clip, a cast, the boundary of a ``jit``) makes a new array without a mark, and the noise then
    raises. Two things cannot be seen: a whole optimiser under a ``jit`` of its own cannot refuse an update that was
    scaled outside; and of two scalers with a changing link in between, as in ``chain(scale_by_adam(), clip(1.0),
    scale_by_rms(), noise)``, the noise knows the P of the second alone.

    Args:
      transform: the transformation.
      preconditioner: a function ``(updates_in, old_state, new_state)`` that returns a tree of the structure of the
        updates, with leaves :math:`P \ge 0` (real, float32 or wider) that broadcast to the leaves of the updates.

    Returns:
      An ``optax.GradientTransformationExtraArgs``.

    Raises:
      ValueError: at the update, if the tree of P has another structure than the updates, or a leaf of P does not
        broadcast to its leaf of the updates.
      TypeError: if ``transform`` is no gradient transformation or ``preconditioner`` no function.

    Example:
      A diagonal preconditioner of one's own, P = 1/4:

      >>> import jax, jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> quarter = lgv.with_preconditioner(
      ...     optax.scale(0.25), lambda updates, old, new: jax.tree.map(lambda u: jnp.full_like(u, 0.25), updates))
      >>> tx = optax.chain(quarter, lgv.add_preconditioned_noise(0.1, 0.01, key=0), optax.scale_by_learning_rate(0.1))
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Li et al., `Preconditioned Stochastic Gradient Langevin Dynamics <https://arxiv.org/abs/1512.07666>`_, 2015;
      Bras, `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    if not isinstance(transform, optax.GradientTransformation):
        raise TypeError(f"transform must be an optax.GradientTransformation, got {transform!r}.")
    if not callable(preconditioner):
        raise TypeError(
            f"preconditioner must be a function (updates_in, old_state, new_state), got {preconditioner!r}."
        )

    transform = optax.with_extra_args_support(transform)

    def update_fn(updates, state, params=None, **extra_args):
        new_updates, new_state = transform.update(updates, state, params, **extra_args)
        own = preconditioner(updates, state, new_state)
        _check.check_like(own, new_updates)

        def publish(u, p, g):
            incoming = _marks.read(g)
            return _marks.mark(u, p if incoming is None else incoming * p)

        return jax.tree.map(publish, new_updates, own, updates), new_state

    return optax.GradientTransformationExtraArgs(transform.init, update_fn)


def handing_on(transform: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """``transform``, linear in the gradients, whose update has the P of the updates that come in, if they have one."""

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        new_updates, new_state = transform.update(updates, state, params)

        def hand_on(u, g):
            incoming = _marks.read(g)
            return u if incoming is None else _marks.mark(u, incoming)

        return jax.tree.map(hand_on, new_updates, updates), new_state

    return optax.GradientTransformationExtraArgs(transform.init, update_fn)
