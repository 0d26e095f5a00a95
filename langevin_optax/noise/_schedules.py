"""Schedules of the literature that Optax lacks."""

import math

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _checks


def inverse_sqrt_log_schedule(init_value: float, decay_rate: float) -> optax.Schedule:
    r"""The noise level of Layer Langevin, which falls like the inverse root of a logarithm.

    .. math::
      \sigma_t = \frac{\sigma_0}{\sqrt{\log(e + r t)}}

    Args:
      init_value: :math:`\sigma_0 \ge 0`, the value at step 0.
      decay_rate: :math:`r \ge 0`, per step; 1/r is the time scale in steps.

    Returns:
      A schedule, a function from the step count to a float32 scalar.

    Raises:
      ValueError: for a negative or non-finite argument.

    Example:
      >>> import langevin_optax as lgv
      >>> sigma = lgv.inverse_sqrt_log_schedule(5e-3, decay_rate=1 / 100)
      >>> [f"{sigma(t):.5f}" for t in (0, 100, 10_000)]
      ['0.00500', '0.00436', '0.00232']

    References:
      Bras, `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    _checks.check_nonnegative("init_value", init_value)
    _checks.check_nonnegative("decay_rate", decay_rate)

    def schedule(count):
        return init_value * jax.lax.rsqrt(jnp.log(math.e + decay_rate * count))

    return schedule
