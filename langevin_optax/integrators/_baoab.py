"""Underdamped Langevin dynamics dθ = p dt, dp = −∇L dt − γp dt + √(2γτ) dW, by BAOAB.

A step composes pieces of `_pieces`. Where the published composition begins and ends with half a kick, both halves at
one θ share its gradient, so that a kick lasts for half of the step before and half of the step after. The state holds
the size of the step before, 0 at the start, when a kick is half a kick.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_optax._types import ScalarOrSchedule
from langevin_optax.integrators import _common
from langevin_optax.integrators._pieces import A, B, O, mean_square
from langevin_optax.noise import _keys


class BaoabState(NamedTuple):
    """State of :func:`baoab`: momenta after O, before the next kick."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    key: jax.Array  # shape=(), a typed PRNG key
    momentum: Any  # like the parameters, float32 at least
    last_step: jax.Array  # shape=(), the size of the step before, 0 at the start

    @property
    def noise_key(self) -> jax.Array:
        return self.key

    @property
    def kinetic_temperature(self) -> jax.Array:
        return mean_square(self.momentum)


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
      key: as in :func:`adam`.

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
    _common.check_arguments(key, step_size, temperature=temperature, friction=friction)

    def init_fn(params):
        return BaoabState(
            count=jnp.zeros([], jnp.int32),
            key=_keys.own_key(key),
            momentum=_common.zeros_like(params),
            last_step=jnp.zeros([], jnp.result_type(float)),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        _common.check_state(state, BaoabState, "baoab", updates, key)
        h, tau, gamma = _common.read(state.count, step_size=step_size, temperature=temperature, friction=friction)
        R = _common.draw(state.key, state.count, state.momentum, temperature, friction)
        x, p = _common.zeros_like(updates), state.momentum

        p = B(p, updates, (state.last_step + h) / 2)
        x = A(x, p, h / 2)
        p = O(p, R, gamma, tau, h)
        x = A(x, p, h / 2)
        return _common.cast_like(updates, x), BaoabState(*_common.advance(state, temperature, friction), p, h)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
