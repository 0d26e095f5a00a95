"""Cyclical schedules: explore without noise, sample with it, begin anew."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _checks
from langevin_optax._checks import check_whole


def cyclical_schedules(
    learning_rate: float, sigma: float, steps: int, cycles: int, exploration: float = 0.5
) -> tuple[optax.Schedule, optax.Schedule, Callable[[Any], jax.Array]]:
    r"""The step size, the noise and when to keep, of a chain that goes from mode to mode.

    .. math::
      \gamma_k = \frac{\gamma_0}{2}\left(\cos(\pi r_k) + 1\right), \qquad
      \sigma_k = \sigma\,[r_k \ge \beta], \qquad r_k = \frac{k \bmod L}{L}, \quad L = \lceil K / M \rceil

    with K = ``steps``, M = ``cycles``, β = ``exploration`` and k the count of steps from 0. Each cycle begins without
    noise, with steps so large that they leave a mode, and ends with small ones that sample the mode that was found. The
    chain weighs a mode by how often it is found, not by its mass.

    Args:
      learning_rate: :math:`\gamma_0 > 0`, the largest step size, that of the first step of a cycle.
      sigma: :math:`\sigma \ge 0` while sampling, as of :func:`sgd`.
      steps: the number of steps of all cycles together; after them cycles go on.
      cycles: their number.
      exploration: :math:`0 \le \beta < 1`, the share of a cycle without noise.

    Returns:
      Two Optax schedules, of the learning rate and of σ, and a function of the count (an integer, or an array of them)
      that says whether the parameters after that step are to be kept: where σ is not 0.

    Raises:
      ValueError: for numbers out of range, or more cycles than steps.
      TypeError: for what is no number, or schedules.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> from langevin_optax import sampling
      >>> gamma, sigma, keep = sampling.cyclical_schedules(0.1, 1.0, steps=600, cycles=3)
      >>> gradient = lambda params, key: jax.value_and_grad(lambda x: jnp.cos(x) + x**2 / 50)(params)
      >>> samples = sampling.sample(gradient, lgv.sgd(gamma, sigma, key=0), jnp.ones(()), key=0, draws=600)
      >>> samples.draws[:, keep(jnp.arange(600))].shape
      (1, 300)

    References:
      Zhang et al., `Cyclical Stochastic Gradient MCMC for Bayesian Deep Learning <https://arxiv.org/abs/1902.03932>`_,
      2020, equation (1) and algorithm 1.
    """
    for name, value in (("learning_rate", learning_rate), ("sigma", sigma), ("exploration", exploration)):
        _checks.check_finite(name, value, "a number")
    _checks.check_positive("learning_rate", learning_rate)
    _checks.check_nonnegative("sigma", sigma)
    if not 0 <= exploration < 1:
        raise ValueError(f"exploration must be a share ≥ 0 and < 1, got {exploration}.")
    check_whole("steps", steps, 1)
    if check_whole("cycles", cycles, 1) > steps:
        raise ValueError(f"cycles must be at most steps = {steps}, got {cycles}.")
    length = math.ceil(steps / cycles)
    # The first k with k/L ≥ β: a β L that is whole must not round up to the next one.
    start = math.ceil(exploration * length - 1e-9 * length)

    def position(count):
        return jnp.asarray(count) % length

    def learning_rate_schedule(count):
        # (cos πr + 1)/2, without the difference that loses digits at the end of a cycle.
        return learning_rate * jnp.sin(jnp.pi / 2 * ((length - position(count)) / length)) ** 2

    def keep(count):
        return position(count) >= start

    def sigma_schedule(count):
        return jnp.where(keep(count), jnp.asarray(sigma, float), 0)

    return learning_rate_schedule, sigma_schedule, keep
