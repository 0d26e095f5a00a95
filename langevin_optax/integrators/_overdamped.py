"""Overdamped Langevin dynamics dθ = −∇L dt + √(2τ) dW, by Euler–Maruyama or by Leimkuhler–Matthews."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from langevin_optax._types import ScalarOrSchedule
from langevin_optax.integrators import _common
from langevin_optax.integrators._pieces import B, D
from langevin_optax.noise import _keys
from langevin_optax.noise._state import LangevinState


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
      key: as in :func:`adam`.
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
    _common.check_arguments(key, step_size, temperature=temperature)
    if scheme not in ("euler", "leimkuhler_matthews"):
        raise ValueError(f"scheme must be 'euler' or 'leimkuhler_matthews', got {scheme!r}.")

    def init_fn(params):
        _common.zeros_like(params)  # raises for leaves that cannot carry noise
        return LangevinState(count=jnp.zeros([], jnp.int32), key=_keys.own_key(key))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        _common.check_state(state, LangevinState, "overdamped_langevin", updates, key)
        h, tau = _common.read(state.count, step_size=step_size, temperature=temperature)
        new_state = LangevinState(*_common.advance(state, temperature))
        x = _common.zeros_like(updates)  # the displacement
        R = _common.draw(state.key, state.count, x, temperature)
        if scheme == "leimkuhler_matthews":
            following = _common.draw(new_state.key, new_state.count, x, temperature)
            R = jax.tree.map(lambda now, then: (now + then) / 2, R, following)
        x = D(B(x, updates, h), R, jnp.sqrt(2 * tau), h)
        return _common.cast_like(updates, x), new_state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
