"""Scalers that say which preconditioner P they used: `with_preconditioner`, and links that hand a P on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _trees
from langevin_optax._mesh import placed_like
from langevin_optax.preconditioners import _check, _marks, _operators

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
        updates, with leaves :math:`P \ge 0` (real, float32 or wider) that broadcast to the leaves of the updates. P
        need not be diagonal: in place of an array there may be an object whose ``root(xi)`` is :math:`S\xi`, where
        :math:`S S^T = P`, such as a :class:`Kronecker` or a :class:`Rotated`. Where it stands for several leaves,
        which P couples, ``root`` gets and returns the tree of them.

    Returns:
      An ``optax.GradientTransformationExtraArgs``.

    Raises:
      ValueError: at the update, if the tree of P has another structure than the updates, a leaf of P does not fit its
        leaf of the updates, or the product of a matrix and the P that comes in is not symmetric, and has no root.
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
        own = _check.like(preconditioner(updates, state, new_state), new_updates)
        return publish(new_updates, own, updates), new_state

    return optax.GradientTransformationExtraArgs(transform.init, update_fn)


def publish(updates: Any, preconditioner: Any, incoming: Any = None) -> Any:
    """The updates, marked with their P, times the P of the updates that came in."""

    def publish_leaf(u, p, g):
        return _marks.mark(u, _operators.product(p, _marks.read(g), jnp.shape(u)))

    return jax.tree.map(publish_leaf, updates, preconditioner, updates if incoming is None else incoming)


def published(updates: Any) -> Any:
    """The P that each of the updates carries, or None, as a list."""
    return [_marks.read(u) for u in jax.tree.leaves(updates)]


def scaler(init: Any, step: Callable[..., Any]) -> optax.GradientTransformationExtraArgs:
    """A scaler whose update is P m, where ``step(updates, state, freeze_after, **extra_args)`` is m, P, a new state.

    m and P are lists, of one entry per leaf. ``freeze_after`` is the number of steps whose gradients may enter P.
    """

    def update_fn(updates, state, params=None, *, freeze_after=None, **extra_args):
        del params
        names, leaves, treedef = _trees.flatten(updates)
        momenta, preconditioner, new_state = step(updates, state, freeze_after, **extra_args)
        for i, (p, g) in enumerate(zip(preconditioner, leaves, strict=True)):
            if isinstance(p, jax.Array):
                preconditioner[i] = placed_like(p, g)
        scaled = _operators.times(preconditioner, momenta, names)
        new_updates = [placed_like(u.astype(jnp.result_type(g)), g) for u, g in zip(scaled, leaves, strict=True)]
        return publish(treedef.unflatten(new_updates), treedef.unflatten(preconditioner), updates), new_state

    return optax.GradientTransformationExtraArgs(init, update_fn)


def learning(count: Any, freeze_after: Any) -> tuple[Any, Any]:
    """Whether the statistics of step ``count`` enter P, and how many steps have entered it then."""
    if freeze_after is None:
        return jnp.array(True), optax.safe_increment(count)
    return count < freeze_after, jnp.minimum(optax.safe_increment(count), freeze_after)


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
