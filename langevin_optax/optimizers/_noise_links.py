"""Langevin noise as a link of a chain: with the P that the update carries, or with P = 1."""

from typing import Any

import jax
import optax

from langevin_optax import _trees
from langevin_optax._types import ArrayLike, Mask, ScalarOrSchedule
from langevin_optax.noise._samplers import Sampler
from langevin_optax.optimizers._term import langevin_term
from langevin_optax.preconditioners import _check, _diagonal
from langevin_optax.preconditioners._publish import published


def add_preconditioned_noise(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    *,
    sampler: Sampler = "normal",
    mask: Mask | None = None,
    after_learning_rate: bool = False,
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Add Langevin noise, shaped by the preconditioner of the update it is added to.

    .. math::
      u \leftarrow u + \sigma\sqrt{P/\gamma}\,\xi, \qquad \xi \sim N(0, I),

    to be scaled by the learning rate :math:`\gamma` after it, so that the parameters move by
    :math:`-\gamma u + \sigma\sqrt{\gamma P}\,\xi`. With :math:`\sigma = \sqrt{2\tau}` and exact gradients of a loss
    :math:`L`, small steps with a constant P sample :math:`\exp(-L/\tau)`.

    P is the one that this very update carries: the noise directly follows one of the ``scale_by_*`` of this package
    (or :func:`with_preconditioner`), with no link in between that changes the update. Anywhere else in the chain it
    raises ValueError.

    Hazards. The noise is additional to that of minibatches. A :math:`\sigma` that stays constant to the end can
    collapse a training, since P grows as gradients vanish: let it fall to 0. A coordinate whose gradient has always
    been 0 has :math:`P = 1/\epsilon`: choose eps with that in mind. In bfloat16 an update below 1/256 of a parameter
    rounds to nothing.

    P may be a matrix, published as an object whose ``root(xi)`` is :math:`S\xi` with :math:`S S^T = P`; the noise is
    then :math:`\sigma\sqrt{1/\gamma}\,S\xi`. ``max_noise`` wants a diagonal. A mask that selects a part of what P
    couples restricts the noise to it: its covariance is that block of P. Leaves that share an operator (such as kernel
    and bias) are selected together.

    Args:
      learning_rate: :math:`\gamma \ge 0`, the very value or schedule that the chain scales by; a scalar or an Optax
        schedule, read at the count before the step, as ``optax.scale_by_learning_rate`` reads it.
      sigma: :math:`\sigma \ge 0`, likewise. A static 0 leaves the update as it is, and draws nothing.
      key: an ``int`` or a ``jax.random.key``. ``state._replace(key=...)`` reseeds. Two noises with one key on one path
        are the same numbers, and so are those of a state that ``init`` makes anew: see :func:`fold_in`.
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
      ``preconditioner=``, a tree like the updates with leaves :math:`P \ge 0`, which takes precedence over the P that
      the updates carry. :math:`\gamma = 0`, :math:`\sigma = 0` and P = 0 add exactly nothing. The noise is drawn and
      added in float32 (float64 for float64 leaves) and the sum cast once to the dtype of the update.

    Raises:
      ValueError: for a ``learning_rate`` or ``sigma`` that is no scalar, negative or not finite (where the value is
        known; to sweep over several, use ``jax.vmap``), an unknown sampler, a mask of another structure, an update
        without P.
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
    term = langevin_term(learning_rate, sigma, key, sampler, mask, max_noise, after_learning_rate)

    def update_fn(updates, state, params=None, *, preconditioner=None, **extra_args):
        del extra_args
        return term.add(updates, state, params, lambda u: _published(u, preconditioner, after_learning_rate))

    return optax.GradientTransformationExtraArgs(term.init, update_fn)


def add_langevin_noise(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    *,
    sampler: Sampler = "normal",
    mask: Mask | None = None,
    after_learning_rate: bool = False,
    max_noise: ArrayLike | None = None,
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
    term = langevin_term(learning_rate, sigma, key, sampler, mask, max_noise, after_learning_rate)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        return term.add(updates, state, params, _diagonal.one)

    return optax.GradientTransformationExtraArgs(term.init, update_fn)


def refuse_mark(updates: Any) -> None:
    """Raise if an update that comes into a whole optimiser carries a P, which it neither uses nor ignores."""
    names, _, _ = _trees.flatten(updates)
    marked = [name for name, p in zip(names, published(updates), strict=True) if p is not None]
    if marked:
        raise ValueError(
            f"a whole optimiser was given an update that carries a preconditioner, at {marked[0]}: its own noise would "
            "be of the wrong size. After a scaler of langevin_optax write langevin_optax.trace(...), if you want "
            "momentum, then add_preconditioned_noise(...) and optax.scale_by_learning_rate(...)."
        )


def _published(updates: Any, explicit: Any, after_learning_rate: bool) -> Any:
    """The P of the updates: the one handed in, or else the one they carry."""
    if explicit is not None:
        _check.check_values(explicit)
        return _check.like(explicit, updates)
    if after_learning_rate:
        raise ValueError(
            "add_preconditioned_noise(..., after_learning_rate=True) adds to an update that is already scaled, which "
            "no longer carries its preconditioner: pass preconditioner= to update. Directly after a scaler, before "
            "scale_by_learning_rate, leave after_learning_rate away."
        )
    names, _, treedef = _trees.flatten(updates)
    preconditioner = published(updates)
    bare = [name for name, p in zip(names, preconditioner, strict=True) if p is None]
    if bare:
        raise ValueError(
            f"add_preconditioned_noise found no preconditioner on the updates {', '.join(bare[:3])}"
            f"{f' and {len(bare) - 3} more' if len(bare) > 3 else ''}. The noise must directly follow the scaler whose "
            "P shapes it, with no link in between that changes the update, within one jit: write "
            "langevin_optax.scale_by_adam() in place of optax.scale_by_adam(), and so for the other scalers, or "
            "langevin_optax.with_preconditioner(...) around a scaler of your own. For a P that you know, pass "
            "preconditioner= to update. For noise with P = 1 (behind plain gradients, or momentum alone), use "
            "add_langevin_noise."
        )
    return treedef.unflatten(preconditioner)
