"""Thermodynamic integrators: whole optimisers that sample exp(−L/τ), with one gradient a step.

A step composes pieces of `_splitting`. Where the published composition begins and ends with half a kick, both halves at
a θ share its gradient, so that a kick lasts for half of the step before and half of the step after. The state holds the
size of the step before, 0 at the start, when a kick is half a kick.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _checks, _integration
from langevin_optax._langevin import LangevinState, ScalarOrSchedule
from langevin_optax._splitting import A, B, D, O


class BaoabState(NamedTuple):
    """State of :func:`baoab`: momenta after O, before the next kick."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    key: jax.Array  # shape=(), a typed PRNG key
    momentum: Any  # like the parameters, float32 at least
    last_step: jax.Array  # shape=(), the size of the step before, 0 at the start


def overdamped_langevin(
    step_size: ScalarOrSchedule,
    temperature: ScalarOrSchedule,
    key: jax.Array | int,
    *,
    scheme: Literal["euler", "leimkuhler_matthews"] = "euler",
) -> optax.GradientTransformationExtraArgs:
    r"""Overdamped Langevin dynamics :math:`d\theta = -\nabla L\,dt + \sqrt{2\tau}\,dW`.

    .. math::
      \theta_{n+1} &= \theta_n - h\,g_n + \sqrt{2\tau h}\,\xi_n &&\text{(Euler–Maruyama)} \\
      \theta_{n+1} &= \theta_n - h\,g_n + \sqrt{2\tau h}\,(\xi_n + \xi_{n+1})/2 &&\text{(Leimkuhler–Matthews)}

    The first samples :math:`\exp(-L/\tau)` with an error of order h, on a quadratic of curvature a with variance
    :math:`\tau/(a(1 - ha/2))`; the second with an error of order h², on a quadratic exactly. It draws :math:`\xi_n` a
    second time instead of keeping it, and is exact for constant h and :math:`\tau`. Both are stable for h a < 2.

    Args:
      step_size: h > 0, a scalar or an Optax schedule, read at the count before the step. Negative values of a schedule
        count as 0.
      temperature: :math:`\tau \ge 0`, likewise. A static 0 draws nothing and is gradient descent.
      key: an ``int`` or a ``jax.random.key``.
      scheme: ``"euler"``, which is ``sgd(step_size, sqrt(2 * temperature), key)``, or ``"leimkuhler_matthews"``.

    Returns:
      An ``optax.GradientTransformationExtraArgs``, whose state is a :class:`LangevinState`: a count and a key. Updates
      have the shapes and dtypes of the gradients.

    Raises:
      ValueError: for a step size that is not positive, a negative temperature, an unknown scheme, a state of another
        integrator.
      TypeError: for arguments or a key of the wrong type, or leaves that are not real.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.overdamped_langevin(0.1, 1e-4, key=0, scheme="leimkuhler_matthews")
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Leimkuhler and Matthews, `Rational construction of stochastic numerical methods for molecular sampling
      <https://doi.org/10.1093/amrx/abs010>`_, 2013; Leimkuhler, Matthews and Tretyakov, `On the long-time integration
      of stochastic gradient systems <https://arxiv.org/abs/1402.6147>`_, 2014.
    """
    _integration.check_arguments(key, step_size, temperature=temperature)
    if scheme not in ("euler", "leimkuhler_matthews"):
        raise ValueError(f"scheme must be 'euler' or 'leimkuhler_matthews', got {scheme!r}.")

    def init_fn(params):
        _integration.zeros_like(params)  # raises for leaves that cannot carry noise
        return LangevinState(count=jnp.zeros([], jnp.int32), key=_checks.own_key(key))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        _integration.check_state(state, LangevinState, "overdamped_langevin", updates, key)
        h, tau = _integration.read(state.count, step_size, temperature)
        x = _integration.zeros_like(updates)  # the displacement
        R = _integration.draw(state.key, state.count, x, temperature)
        if scheme == "leimkuhler_matthews":
            following = _integration.draw(state.key, _integration.next_count(state.count), x, temperature)
            R = jax.tree.map(lambda now, then: (now + then) / 2, R, following)
        x = D(B(x, updates, h), R, jnp.sqrt(2 * tau), h)
        return _integration.cast_like(updates, x), LangevinState(_integration.next_count(state.count), state.key)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def baoab(
    step_size: ScalarOrSchedule,
    temperature: ScalarOrSchedule,
    friction: ScalarOrSchedule,
    key: jax.Array | int,
) -> optax.GradientTransformationExtraArgs:
    r"""Underdamped Langevin dynamics by the splitting BAOAB.

    .. math::
      d\theta = p\,dt, \qquad dp = -\nabla L\,dt - \gamma p\,dt + \sqrt{2\gamma\tau}\,dW

    .. math::
      &\text{B}:\ p \leftarrow p - h\,\nabla L(\theta) \qquad\text{(the first time for h/2)} \\
      &\text{A}:\ \theta \leftarrow \theta + \tfrac h2\,p \\
      &\text{O}:\ p \leftarrow c\,p + \sqrt{(1 - c^2)\,\tau}\,\xi, \qquad c = e^{-\gamma h} \\
      &\text{A}:\ \theta \leftarrow \theta + \tfrac h2\,p

    It samples :math:`\exp(-L/\tau)` with an error of order h², and is exact on a quadratic of curvature a for every
    stable step, :math:`h\sqrt a < 2`. Without friction it is leapfrog; without temperature it is
    ``optax.sgd(h**2 * (1 + c) / 2, momentum=c)``, after a first gradient that counts half; as the friction grows it
    becomes the Leimkuhler–Matthews scheme of step h²/2. Momenta start at 0.

    Args:
      step_size: h > 0, a scalar or an Optax schedule, read at the count before the step. (If it varies, a kick lasts
        for half of the step before and half of the step after.) Negative values of a schedule count as 0.
      temperature: :math:`\tau \ge 0`, likewise. A static 0 draws nothing.
      friction: :math:`\gamma \ge 0`, likewise.
      key: an ``int`` or a ``jax.random.key``.

    Returns:
      An ``optax.GradientTransformationExtraArgs``, whose state is a :class:`BaoabState`. Updates are θ' − θ, with the
      shapes and dtypes of the gradients; momenta are float32, or float64 for float64 parameters.

    Raises:
      ValueError: for a step size that is not positive, a negative temperature or friction, a state of another
        integrator or of parameters of other shapes.
      TypeError: for arguments or a key of the wrong type, or leaves that are not real.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.baoab(0.1, temperature=1e-4, friction=1.0, key=0)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)

    References:
      Leimkuhler and Matthews, `Rational construction of stochastic numerical methods for molecular sampling
      <https://doi.org/10.1093/amrx/abs010>`_, 2013; Leimkuhler, Matthews and Vlaar, `Partitioned integrators for
      thermodynamic parameterization of neural networks <https://arxiv.org/abs/1908.11843>`_, 2019.
    """
    _integration.check_arguments(key, step_size, temperature=temperature, friction=friction)

    def init_fn(params):
        return BaoabState(
            count=jnp.zeros([], jnp.int32),
            key=_checks.own_key(key),
            momentum=_integration.zeros_like(params),
            last_step=jnp.zeros([], jnp.result_type(float)),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        _integration.check_state(state, BaoabState, "baoab", updates, key)
        h, tau, gamma = _integration.read(state.count, step_size, temperature, friction)
        R = _integration.draw(state.key, state.count, state.momentum, temperature, friction)
        x, p = _integration.zeros_like(updates), state.momentum

        p = B(p, updates, (state.last_step + h) / 2)
        x = A(x, p, h / 2)
        p = O(p, R, gamma, tau, h)
        x = A(x, p, h / 2)
        return _integration.cast_like(updates, x), BaoabState(_integration.next_count(state.count), state.key, p, h)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
