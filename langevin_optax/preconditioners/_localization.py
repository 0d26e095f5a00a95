"""A Gaussian prior around a point, within the preconditioned drift."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _trees
from langevin_optax._checks import check_nonnegative, read
from langevin_optax._types import ScalarOrSchedule
from langevin_optax.preconditioners import _operators, _publish


class LocalizationState(NamedTuple):
    """The state of :func:`add_localization`."""

    count: Any  # shape=(), dtype=int32
    center: Any  # like the parameters


def add_localization(strength: ScalarOrSchedule, center: Any = None) -> optax.GradientTransformationExtraArgs:
    r"""Pull the parameters to a point, by the gradient of :math:`\tfrac{\lambda}{2}\|\theta - \theta_0\|^2`.

    .. math::
      u \leftarrow u + P\,\lambda\,(\theta - \theta_0)

    directly behind the scaler whose P it is, which it hands on to the noise behind it. The chain then samples
    :math:`\exp(-L/\tau - \tfrac{\lambda}{2\tau}\|\theta - \theta_0\|^2)`: for :math:`\tfrac{\gamma}{2}\|\theta -
    \theta_0\|^2` in :math:`-\log` of a prior, :math:`\lambda = \gamma\tau`.

    In front of the scaler the pull would enter momentum and statistics; behind :func:`trace` it would be too weak, by
    the factor 1/(1 − decay) of that. (Behind plain gradients, where P = 1, it is that of
    :math:`L + \tfrac{\lambda}{2}\|\theta - \theta_0\|^2` itself: add it to the loss.)

    Args:
      strength: :math:`\lambda \ge 0`, a scalar or an Optax schedule.
      center: :math:`\theta_0`, like the parameters; by default the parameters at ``init``.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with the state ``LocalizationState(count, center)``. Its update needs
      ``params``.

    Raises:
      ValueError: at ``init`` for a ``center`` of another structure or other shapes than the parameters; at the update
        without ``params``, or for an update that carries no P.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> pull = lgv.add_localization(100.0)
      >>> noise = lgv.add_preconditioned_noise(1e-4, 1.0, key=0)
      >>> tx = optax.chain(lgv.scale_by_rms(), pull, noise, optax.scale_by_learning_rate(1e-4))
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Lau et al., `The Local Learning Coefficient <https://arxiv.org/abs/2308.12108>`_, 2023 (the localised posterior).
    """
    check_nonnegative("strength", strength)

    def init_fn(params):
        if center is None:
            return LocalizationState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.array, params))
        try:
            seen = jax.tree.map(lambda p, c: p if _trees.is_masked(p) else c, params, center, is_leaf=_trees.is_masked)
            same = jax.tree.map(lambda p, c: jnp.shape(p) == jnp.shape(c), params, seen)
        except (ValueError, TypeError):
            same = False
        if not jax.tree.all(same):
            raise ValueError(
                "center must be like the parameters, got\n"
                f"  {jax.tree.map(jnp.shape, center)}\nfor parameters\n  {jax.tree.map(jnp.shape, params)}."
            )
        moved = jax.tree.map(lambda p, c: jnp.array(c, jnp.result_type(p)), params, seen)
        return LocalizationState(jnp.zeros([], jnp.int32), moved)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("add_localization needs the parameters: call update(updates, state, params).")
        names, leaves, treedef = _trees.flatten(updates)
        preconditioner = _publish.published(updates)
        if bare := [name for name, p in zip(names, preconditioner, strict=True) if p is None]:
            raise ValueError(
                f"add_localization found no preconditioner on the updates {', '.join(bare[:3])}. It must directly "
                "follow a scaler of langevin_optax. Behind plain gradients, add the pull to the loss."
            )
        weight = read("strength", strength, state.count)
        pairs = zip(treedef.flatten_up_to(params), treedef.flatten_up_to(state.center), strict=True)
        pulls = [_times(weight, p, c) for p, c in pairs]
        scaled = _operators.times(preconditioner, pulls, names)
        pulled = [(u + pull).astype(u.dtype) for u, pull in zip(leaves, scaled, strict=True)]
        new_state = LocalizationState(optax.safe_increment(state.count), state.center)
        return _publish.publish(treedef.unflatten(pulled), treedef.unflatten(preconditioner)), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _times(weight: jax.Array, params: Any, center: Any) -> jax.Array:
    """weight (θ − θ₀), in float32 at least."""
    dtype = jnp.promote_types(jnp.result_type(params), jnp.float32)
    return (weight * (jnp.asarray(params, dtype) - jnp.asarray(center, dtype))).astype(dtype)
