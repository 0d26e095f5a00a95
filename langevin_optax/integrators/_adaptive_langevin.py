"""Adaptive Langevin dynamics: a thermostat that finds its friction under gradient noise of unknown size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _checks
from langevin_optax._types import ScalarOrSchedule
from langevin_optax.integrators import _common
from langevin_optax.integrators._pieces import A, B, C, D, E, degrees_of_freedom, mean_square
from langevin_optax.noise import _keys


class AdaptiveLangevinState(NamedTuple):
    """State of :func:`adaptive_langevin`: momenta before the next kick, and the thermostat."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    key: jax.Array  # shape=(), a typed PRNG key
    momentum: Any  # like the parameters, float32 at least
    last_step: jax.Array  # shape=(), the size of the step before, 0 at the start
    thermostat: jax.Array  # shape=(), ξ, the friction of the next step
    kinetic: jax.Array  # shape=(), ‖p‖²/N at E, where its mean is τ

    @property
    def noise_key(self) -> jax.Array:
        return self.key

    @property
    def kinetic_temperature(self) -> jax.Array:
        return self.kinetic


def adaptive_langevin(
    step_size: ScalarOrSchedule,
    temperature: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    coupling: ScalarOrSchedule,
    key: jax.Array | int,
    *,
    initial_thermostat: float | jax.Array = 0.1,
) -> optax.GradientTransformationExtraArgs:
    r"""Adaptive Langevin dynamics (AdLa, also SGNHT): its friction :math:`\xi` finds the temperature by itself.

    .. math::
      d\theta = p\,dt, \qquad dp = -\nabla L\,dt - \xi p\,dt + \sigma\,dW, \qquad
      d\xi = \varepsilon\,(\|p\|^2 - N\tau)\,dt

    .. math::
      &\text{B}:\ p \leftarrow p - h\,\nabla L(\theta) \qquad\text{(the first time for h/2)} \\
      &\text{A}:\ \theta \leftarrow \theta + \tfrac h2\,p \qquad
       \text{C}:\ p \leftarrow e^{-h\xi/2}\,p \qquad
       \text{D}:\ p \leftarrow p + \sigma\sqrt{h/2}\,R \\
      &\text{E}:\ \xi \leftarrow \xi + h\,\varepsilon\,(\|p\|^2 - N\tau) \\
      &\text{D, C, A}: \text{ as before, with the new } \xi \text{ and another } R

    There is one thermostat :math:`\xi` for the whole tree, and N is the number of its entries (those that
    ``optax.masked`` and ``optax.partition`` leave to it). Gradient noise of any unknown, constant size heats the
    momenta; :math:`\xi` grows until :math:`\|p\|^2/N` is :math:`\tau` all the same. In balance and without gradient
    noise :math:`\xi \approx \sigma^2/2\tau`. Momenta start at 0.

    Hazards. (1) The thermostat swings with the frequency :math:`\sqrt{2\varepsilon N\tau}`; a step that does not
    resolve it freezes the parameters, while :math:`\|p\|^2/N` still reads :math:`\tau`: keep
    :math:`\varepsilon \le 1/(2N\tau h^2)`. (2) There is no balance unless :math:`\sigma^2 h/2 < \tau`. ``init`` warns
    of both where the values are known. (3) The momenta are at :math:`\tau`, the positions up to terms of order
    :math:`(h\xi)^2`: much gradient noise, which asks for :math:`h\xi` of 1 and more, heats the positions all the same.
    Watch ``state.thermostat``.

    Args:
      step_size: h > 0, a scalar or an Optax schedule, read at the count before the step. (If it varies, a kick lasts
        for half of the step before and half of the step after.) Negative values of a schedule count as 0.
      temperature: :math:`\tau \ge 0`, likewise. The noise is that of ``sigma``: for none, set that to 0.
      sigma: :math:`\sigma \ge 0`, the noise that is added, likewise. A static 0 draws nothing (Nosé–Hoover dynamics).
      coupling: :math:`\varepsilon \ge 0`, the speed of the thermostat, likewise.
      key: as in :func:`adam`.
      initial_thermostat: :math:`\xi` at the start, any finite number.

    Returns:
      An ``optax.GradientTransformationExtraArgs``, whose state is an :class:`AdaptiveLangevinState`. Updates are
      θ' − θ, with the shapes and dtypes of the gradients; momenta are float32, or float64 for float64 parameters.

    Raises:
      ValueError: for a step size that is not positive, a negative temperature, sigma or coupling, a state of another
        integrator or of parameters of other shapes.
      TypeError: for arguments or a key of the wrong type, or leaves that are not real.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.adaptive_langevin(0.25, temperature=1e-4, sigma=0.01, coupling=0.1, key=0)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> state.thermostat.shape
      ()

    References:
      Ding et al., `Bayesian sampling using stochastic gradient thermostats
      <https://papers.nips.cc/paper/5592-bayesian-sampling-using-stochastic-gradient-thermostats>`_, 2014; Leimkuhler
      and Shang, `Adaptive thermostats for noisy gradient systems <https://arxiv.org/abs/1505.06889>`_, 2016;
      Leimkuhler, Matthews and Vlaar, `Partitioned integrators for thermodynamic parameterization of neural networks
      <https://arxiv.org/abs/1908.11843>`_, 2019.
    """
    _common.check_arguments(key, step_size, temperature=temperature, sigma=sigma, coupling=coupling)
    _checks.check_finite("initial_thermostat", initial_thermostat)

    def init_fn(params):
        momentum = _common.zeros_like(params)
        _common.check_thermostat(step_size, temperature, sigma, coupling, degrees_of_freedom(momentum))
        dtype = jnp.result_type(float)
        return AdaptiveLangevinState(
            count=jnp.zeros([], jnp.int32),
            key=_keys.own_key(key),
            momentum=momentum,
            last_step=jnp.zeros([], dtype),
            thermostat=jnp.array(initial_thermostat, dtype),
            kinetic=jnp.zeros([], dtype),
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        _common.check_state(state, AdaptiveLangevinState, "adaptive_langevin", updates, key)
        h, tau, sigma_a, epsilon = _common.read(
            state.count, step_size=step_size, temperature=temperature, sigma=sigma, coupling=coupling
        )
        number = 2 * jnp.asarray(state.count, jnp.uint32)
        R = _common.draw(state.key, number, state.momentum, sigma)
        R2 = _common.draw(state.key, number + 1, state.momentum, sigma)
        x, p, xi = _common.zeros_like(updates), state.momentum, state.thermostat

        p = B(p, updates, (state.last_step + h) / 2)
        x = A(x, p, h / 2)
        p = C(p, xi, h / 2)
        p = D(p, R, sigma_a, h / 2)
        xi, kinetic = E(xi, p, tau, epsilon, h), mean_square(p)
        p = D(p, R2, sigma_a, h / 2)
        p = C(p, xi, h / 2)
        x = A(x, p, h / 2)
        return _common.cast_like(updates, x), AdaptiveLangevinState(*_common.advance(state, sigma), p, h, xi, kinetic)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
