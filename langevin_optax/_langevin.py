"""The Langevin term: σ √γ √P ξ, added to an update."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax import _checks, _masks, _noise, _preconditioning, _samplers

# Optax has no py.typed, so that its Schedule is Any for users.
ScalarOrSchedule: TypeAlias = float | jax.Array | Callable[[jax.typing.ArrayLike], jax.typing.ArrayLike]
Mask: TypeAlias = Any | Callable[[optax.Params], Any]


class LangevinState(NamedTuple):
    """State of the noise: what fixes its next draw, and nothing of the parameters' size."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    key: jax.Array  # shape=(), a typed PRNG key


def add_preconditioned_noise(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    *,
    sampler: _samplers.Sampler = "normal",
    mask: Mask | None = None,
    after_learning_rate: bool = False,
    max_noise: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Add Langevin noise, shaped by the preconditioner of the update it is added to.

    .. math::
      u \leftarrow u + \sigma\sqrt{P/\gamma}\,\xi, \qquad \xi \sim N(0, I),

    to be scaled by the learning rate :math:`\gamma` after it, so that the parameters move by
    :math:`-\gamma u + \sigma\sqrt{\gamma P}\,\xi`. With :math:`\sigma = \sqrt{2\tau}` and exact gradients of a loss
    :math:`L`, small steps with a constant P sample :math:`\exp(-L/\tau)`.

    P is the one that this very update carries: the noise directly follows one of the ``scale_by_*`` of this package
    (or :func:`with_preconditioner`), with no link in between that changes the update. Out of place it raises.

    Hazards. The noise is additional to that of minibatches. A :math:`\sigma` that stays constant to the end can
    collapse a training, since P grows as gradients vanish: let it fall to 0. A coordinate whose gradient has always
    been 0 has :math:`P = 1/\epsilon`: choose eps with that in mind. In bfloat16 an update below 1/256 of a parameter
    rounds to nothing.

    Args:
      learning_rate: :math:`\gamma \ge 0`, the very value or schedule that the chain scales by; a scalar, an array or
        an Optax schedule, read at the count before the step, as ``optax.scale_by_learning_rate`` reads it.
      sigma: :math:`\sigma \ge 0`, likewise. A static 0 leaves the update as it is, and draws nothing.
      key: an ``int`` or a ``jax.random.key``. ``state._replace(key=...)`` reseeds. Two noises with one key on one path
        are the same numbers.
      sampler: as in :func:`noise_like`.
      mask: where to add noise: a tree of bools, or of boolean arrays that broadcast against the leaves, like the
        parameters or a prefix of them; or a function from the parameters to one, such as :func:`layer_mask`. (The
        function gets the updates if ``params`` is not passed to ``update``.)
      after_learning_rate: add :math:`\sigma\sqrt{\gamma P}\,\xi`, in units of the parameters, to an update that is
        already scaled. The scaling has removed the mark, so P must come as ``preconditioner=``.
      max_noise: the most that :math:`\sigma\sqrt{\gamma P}` may be, in units of the parameters; None is no bound. A
        coordinate where it binds (without gradient, or late in a training at constant :math:`\sigma`) is at the lower
        temperature :math:`\text{max\_noise}^2/(2\gamma P)`; the noise of the others is the same to the bit.

    Returns:
      An ``optax.GradientTransformationExtraArgs``, whose state is a step count and a key. Its update takes
      ``preconditioner=``, a tree like the updates with leaves :math:`P \ge 0`, which goes before the marks.
      :math:`\gamma = 0`, :math:`\sigma = 0` and P = 0 add exactly nothing. The noise is drawn and added in float32
      (float64 for float64 leaves) and the sum cast once to the dtype of the update.

    Raises:
      ValueError: for a negative or non-finite ``learning_rate`` or ``sigma`` (where the value is known), an unknown
        sampler, a mask of another structure, an update without P.
      TypeError: for a key, a mask or leaves of the wrong type.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> learning_rate, sigma = 1e-3, optax.linear_schedule(1e-3, 0.0, 1000)
      >>> tx = optax.chain(
      ...     optax.clip_by_global_norm(1.0),
      ...     lgv.scale_by_adam(eps=1e-6),
      ...     lgv.add_preconditioned_noise(learning_rate, sigma, key=0),
      ...     optax.add_decayed_weights(1e-4),
      ...     optax.scale_by_learning_rate(learning_rate),
      ... )
      >>> params = {"w": jnp.ones(3)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> int(state[2].count)
      1

    References:
      Welling and Teh, `Bayesian learning via stochastic gradient Langevin dynamics
      <https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf>`_, 2011; Li et al., `Preconditioned
      Stochastic Gradient Langevin Dynamics <https://arxiv.org/abs/1512.07666>`_, 2015; Bras, `Langevin algorithms for
      very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    return _add_noise(_published, learning_rate, sigma, key, sampler, mask, after_learning_rate, max_noise)


def add_langevin_noise(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    *,
    sampler: _samplers.Sampler = "normal",
    mask: Mask | None = None,
    after_learning_rate: bool = False,
    max_noise: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Add Langevin noise with P = 1, after anything.

    .. math::
      u \leftarrow u + \frac{\sigma}{\sqrt{\gamma}}\,\xi, \qquad \xi \sim N(0, I),

    to be scaled by the learning rate after it, or :math:`u \leftarrow u + \sigma\sqrt{\gamma}\,\xi` with
    ``after_learning_rate=True``. After plain gradients this is SGLD.

    Args:
      learning_rate: as in :func:`add_preconditioned_noise`.
      sigma: as in :func:`add_preconditioned_noise`.
      key: as in :func:`add_preconditioned_noise`.
      sampler: as in :func:`noise_like`.
      mask: as in :func:`add_preconditioned_noise`.
      after_learning_rate: as in :func:`add_preconditioned_noise`, but no P is asked for.
      max_noise: as in :func:`add_preconditioned_noise`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``, whose state is a step count and a key.

    Raises:
      ValueError: as :func:`add_preconditioned_noise`, but for P.
      TypeError: as :func:`add_preconditioned_noise`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = optax.chain(optax.sgd(0.1), lgv.add_langevin_noise(0.1, 0.01, key=0, after_learning_rate=True))
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Welling and Teh, `Bayesian learning via stochastic gradient Langevin dynamics
      <https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf>`_, 2011.
    """
    return _add_noise(_one, learning_rate, sigma, key, sampler, mask, after_learning_rate, max_noise)


def _add_noise(preconditioner_for, learning_rate, sigma, key, sampler, mask, after_learning_rate, max_noise):
    _checks.check_nonnegative("learning_rate", learning_rate)
    _checks.check_nonnegative("sigma", sigma)
    _checks.as_key(key)
    _samplers.as_sampler(sampler)
    if max_noise is not None:
        _checks.check_nonnegative("max_noise", max_noise)
        _checks.check_scalar("max_noise", max_noise)
    if not _masks.is_function(mask):
        _masks.check_leaves(mask)

    def init_fn(params):
        where = _masks.resolve(mask, params)
        jax.tree_util.tree_map_with_path(lambda path, p, w: w is False or _noise.noise_dtype(path, p), params, where)
        return LangevinState(count=jnp.zeros([], jnp.int32), key=_checks.own_key(key))

    def update_fn(updates, state, params=None, *, preconditioner=None, **extra_args):
        del extra_args
        _checks.check_state_key(state.key, key)
        where = _masks.resolve(mask, updates, params)
        selected = jax.tree.map(lambda u, w: optax.MaskedNode() if w is False else u, updates, where)
        p = preconditioner_for(selected, preconditioner, after_learning_rate)
        new_state = LangevinState(count=jnp.asarray(optax.safe_increment(state.count)), key=state.key)
        gamma, sigma_now = (x(state.count) if callable(x) else x for x in (learning_rate, sigma))
        if not isinstance(sigma_now, jax.core.Tracer) and np.all(np.asarray(sigma_now) == 0):
            return updates, new_state  # the compiled program is that of the plain optimiser, to the last rounding

        gamma = jnp.maximum(_wide_scalar(gamma), 0)  # a schedule that falls to 0 can round to −1e-8 when it is fused
        # γ = 0, as in a warm-up, is no noise rather than ∞ · 0.
        root = (
            jnp.sqrt(gamma)
            if after_learning_rate
            else jnp.where(gamma == 0, 0, jax.lax.rsqrt(jnp.where(gamma == 0, 1, gamma)))
        )
        scale = _wide_scalar(sigma_now) * root
        # In units of the updates; where γ = 0 there is no noise to bound.
        limit = (
            None if max_noise is None else max_noise / (1 if after_learning_rate else jnp.where(gamma == 0, 1, gamma))
        )
        noise = _noise.noise_like(state.key, state.count, selected, sampler)

        def add(w, u, p, xi):
            if w is False:
                return u
            noisy = _add(u, scale, p, xi, limit)
            return noisy if w is True else jnp.where(w, noisy, u)

        updates = jax.tree.map(add, where, updates, p, noise)
        return updates, new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@jax.jit  # traced once a shape, not once a leaf
def _add(u: Any, scale: jax.Array, p: Any, xi: jax.Array, limit: Any) -> jax.Array:
    """u + scale √P ξ, where that is not u + 0, in the dtype of ξ and cast once."""
    dtype = jnp.finfo(xi.dtype).dtype
    scale = scale.astype(dtype)
    size = jnp.where(scale == 0, 0, scale * jnp.sqrt(jnp.asarray(p, dtype)))
    if limit is not None:
        size = jnp.minimum(size, jnp.asarray(limit, dtype))
    size = size.astype(xi.dtype)
    noisy = (jnp.asarray(u, xi.dtype) + size * xi).astype(jnp.result_type(u))
    return jnp.where(size != 0, noisy, u)


def _wide_scalar(x: Any) -> jax.Array:
    return jnp.asarray(x, np.promote_types(jnp.result_type(x), jnp.result_type(float)))


def _one(updates: Any, explicit: Any, scaled: bool) -> Any:
    del explicit, scaled
    return jax.tree.map(lambda u: 1.0, updates)


def _published(updates: Any, explicit: Any, scaled: bool) -> Any:
    """The P of the updates: the one handed in, or else the one they carry."""
    if explicit is not None:
        _preconditioning.check_values(explicit)
        return _handed_in(updates, explicit, scaled)
    if scaled:
        raise ValueError(
            "add_preconditioned_noise(..., after_learning_rate=True) adds to an update that is already scaled, which "
            "no longer carries its preconditioner: pass preconditioner= to update. Directly after a scaler, before "
            "scale_by_learning_rate, leave after_learning_rate away."
        )
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    bare = [
        jax.tree_util.keystr(path) or "(root)" for path, u in leaves if _preconditioning.preconditioner_of(u) is None
    ]
    if bare:
        raise ValueError(
            f"add_preconditioned_noise found no preconditioner on the updates {', '.join(bare[:3])}"
            f"{f' and {len(bare) - 3} more' if len(bare) > 3 else ''}. The noise must directly follow the scaler whose "
            "P shapes it, with no link in between that changes the update, within one jit: write "
            "langevin_optax.scale_by_adam() in place of optax.scale_by_adam(), and so for the other scalers, or "
            "langevin_optax.with_preconditioner(...) around a scaler of your own. For a P that you know, pass "
            "preconditioner= to update. For noise with P = 1, use add_langevin_noise."
        )
    return jax.tree.map(_preconditioning.preconditioner_of, updates)


def _handed_in(updates: Any, explicit: Any, scaled: bool) -> Any:
    del scaled
    # masked and partition hide leaves of the updates, not of the extra arguments.
    try:
        p = jax.tree.map(lambda u, p: u if _masks.is_masked(u) else p, updates, explicit, is_leaf=_masks.is_masked)
    except (ValueError, TypeError):
        p = explicit
    _preconditioning.check_like(p, updates)
    return p


def langevin(
    scaler: optax.GradientTransformationExtraArgs,
    learning_rate: ScalarOrSchedule | None,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    mask: Mask | None,
    sampler: _samplers.Sampler,
    max_noise: jax.typing.ArrayLike | None,
    *,
    before: tuple[optax.GradientTransformation, ...] = (),
    between: tuple[optax.GradientTransformation, ...] = (),
    after: tuple[optax.GradientTransformation, ...] = (),
) -> optax.GradientTransformationExtraArgs:
    """The chain (*before, scaler, *between, learning rate, *after), and noise on its result by the scaler's P.

    The state is that of the stock chain, with the noise's behind it.
    """
    gamma = 1.0 if learning_rate is None else learning_rate
    noise = _add_noise(_handed_in, gamma, sigma, key, sampler, mask, True, max_noise)
    stock = (*before, scaler, *between, optax.scale_by_learning_rate(learning_rate), *after)
    links = [optax.with_extra_args_support(link) for link in stock]

    def init_fn(params):
        return (*(link.init(params) for link in links), noise.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        if len(state) != len(links) + 1 or not isinstance(state[-1], LangevinState):
            raise ValueError(
                f"this optimiser's state has {len(links)} parts and then a LangevinState, got {len(state)} parts. "
                "The state of the stock optimiser is carried over by (*stock_state, LangevinState(count, key))."
            )
        new_state: list[Any] = []
        published = None
        for link, link_state in zip(links, state[:-1], strict=True):
            updates, link_state = link.update(updates, link_state, params, **extra_args)
            new_state.append(link_state)
            if link is scaler:
                published = jax.tree.map(_preconditioning.preconditioner_of, updates)
        if extra_args.get("preconditioner") is None:
            extra_args["preconditioner"] = published  # NaN for a gradient that is, as in Optax
        else:
            _preconditioning.check_values(extra_args["preconditioner"])
        updates, noise_state = noise.update(updates, state[-1], params, **extra_args)
        return updates, (*new_state, noise_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
