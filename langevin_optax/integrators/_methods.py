"""The partitioned integrators of the literature: AdLaLa, LOL and LaLa."""

from collections.abc import Sequence

import jax
import optax

from langevin_optax._types import ScalarOrSchedule
from langevin_optax.integrators import _common
from langevin_optax.integrators._adaptive_langevin import adaptive_langevin
from langevin_optax.integrators._baoab import baoab
from langevin_optax.integrators._overdamped import overdamped_langevin
from langevin_optax.integrators._partitioned import partitioned
from langevin_optax.layers._mask import Layers


def adlala(
    step_size: ScalarOrSchedule,
    key: jax.Array | int,
    *,
    temperature: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    coupling: ScalarOrSchedule,
    friction: ScalarOrSchedule,
    rest_temperature: ScalarOrSchedule | None = None,
    layers: Layers = 1,
    order: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdLaLa: :func:`adaptive_langevin` on the first layers, Langevin (:func:`baoab`) on the rest.

    .. math::
      \text{first:}\quad & d\theta = p\,dt, & dp &= -\nabla L\,dt - \xi p\,dt + \sigma\,dW, \quad
      d\xi = \varepsilon\,(\|p\|^2 - N\tau)\,dt \\
      \text{rest:}\quad & d\theta = p\,dt, & dp &= -\nabla L\,dt - \gamma p\,dt + \sqrt{2\gamma\tau_2}\,dW

    Args:
      step_size: h > 0 of both parts, a scalar or an Optax schedule.
      key: as in :func:`adam`, of both parts.
      temperature: :math:`\tau \ge 0` of the first part, likewise.
      sigma: :math:`\sigma \ge 0`, the noise of the first part, likewise.
      coupling: :math:`\varepsilon \ge 0`, the speed of its thermostat, likewise.
      friction: :math:`\gamma \ge 0` of the rest, likewise.
      rest_temperature: :math:`\tau_2` of the rest; by default that of the first part.
      layers: which layers are the first, as in :func:`partitioned`.
      order: as in :func:`partitioned`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``, as :func:`partitioned`.

    Raises:
      ValueError, TypeError: as :func:`partitioned`, :func:`adaptive_langevin` and :func:`baoab`.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> tx = lgv.adlala(0.25, key=0, temperature=1e-4, sigma=0.01, coupling=0.1, friction=0.5)
      >>> params = {f"Dense_{i}": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)} for i in range(2)}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> sorted(lgv.kinetic_temperature(state))
      ['first', 'rest']

    References:
      Leimkuhler, Matthews and Vlaar, `Partitioned integrators for thermodynamic parameterization of neural networks
      <https://arxiv.org/abs/1908.11843>`_, 2019.
    """
    tau_2 = temperature if rest_temperature is None else rest_temperature
    _common.check_arguments(key, step_size, temperature=temperature, rest_temperature=tau_2)
    return partitioned(
        adaptive_langevin(step_size, temperature, sigma, coupling, key),
        baoab(step_size, tau_2, friction, key),
        layers,
        order,
    )


def lol(
    step_size: ScalarOrSchedule,
    key: jax.Array | int,
    *,
    temperature: ScalarOrSchedule,
    friction: ScalarOrSchedule,
    rest_temperature: ScalarOrSchedule | None = None,
    layers: Layers = 1,
    order: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""LOL: Langevin (:func:`baoab`) on the first layers, overdamped Langevin on the rest.

    .. math::
      \text{first:}\quad & d\theta = p\,dt, \qquad dp = -\nabla L\,dt - \gamma p\,dt + \sqrt{2\gamma\tau}\,dW \\
      \text{rest:}\quad & \theta_{n+1} = \theta_n - \tfrac{h^2}{2}\,g_n + h\sqrt{\tau_2}\,\tfrac{\xi_n + \xi_{n+1}}{2}

    The rest is :func:`baoab` of the same h in the limit of infinite friction, which is the scheme of Leimkuhler and
    Matthews with step :math:`h^2/2`: a gradient moves it as far as it moves the first layers at rest. For another
    step, or Euler's scheme, take ``partitioned(baoab(...), overdamped_langevin(...))``.

    Args:
      step_size: h > 0 of both parts, a scalar or an Optax schedule.
      key: as in :func:`adam`, of both parts.
      temperature: :math:`\tau \ge 0` of the first part, likewise.
      friction: :math:`\gamma \ge 0` of the first part, likewise.
      rest_temperature: :math:`\tau_2` of the rest; by default that of the first part.
      layers: which layers are the first, as in :func:`partitioned`.
      order: as in :func:`partitioned`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``, as :func:`partitioned`.

    Raises:
      ValueError, TypeError: as :func:`partitioned`, :func:`baoab` and :func:`overdamped_langevin`.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> tx = lgv.lol(0.25, key=0, temperature=1e-3, friction=0.01)
      >>> params = {f"Dense_{i}": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)} for i in range(2)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Leimkuhler, Matthews and Vlaar, `Partitioned integrators for thermodynamic parameterization of neural networks
      <https://arxiv.org/abs/1908.11843>`_, 2019, and the notebook ``LOL`` that its authors published in 2020, whose
      rest has this scheme.
    """
    tau_2 = temperature if rest_temperature is None else rest_temperature
    _common.check_arguments(key, step_size, temperature=temperature, rest_temperature=tau_2)

    def half_square(count):
        (h,) = _common.read(count, step_size=step_size)
        return h**2 / 2

    return partitioned(
        baoab(step_size, temperature, friction, key),
        overdamped_langevin(
            half_square if callable(step_size) else step_size**2 / 2, tau_2, key, scheme="leimkuhler_matthews"
        ),
        layers,
        order,
    )


def lala(
    step_size: ScalarOrSchedule,
    key: jax.Array | int,
    *,
    temperature: ScalarOrSchedule,
    friction: ScalarOrSchedule,
    rest_temperature: ScalarOrSchedule | None = None,
    rest_friction: ScalarOrSchedule | None = None,
    layers: Layers = 1,
    order: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""LaLa: Langevin (:func:`baoab`) on both parts, each with its own temperature and friction.

    .. math::
      d\theta = p\,dt, \qquad dp = -\nabla L\,dt - \gamma_i p\,dt + \sqrt{2\gamma_i\tau_i}\,dW, \qquad i = 1, 2

    Args:
      step_size: h > 0 of both parts, a scalar or an Optax schedule.
      key: as in :func:`adam`, of both parts.
      temperature: :math:`\tau_1 \ge 0` of the first part, likewise.
      friction: :math:`\gamma_1 \ge 0` of the first part, likewise.
      rest_temperature: :math:`\tau_2` of the rest; by default that of the first part.
      rest_friction: :math:`\gamma_2` of the rest; by default that of the first part.
      layers: which layers are the first, as in :func:`partitioned`.
      order: as in :func:`partitioned`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``, as :func:`partitioned`.

    Raises:
      ValueError, TypeError: as :func:`partitioned` and :func:`baoab`.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> tx = lgv.lala(0.1, key=0, temperature=1e-4, friction=1.0, rest_friction=10.0)
      >>> params = {f"Dense_{i}": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)} for i in range(2)}
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Leimkuhler, Matthews and Vlaar, `Partitioned integrators for thermodynamic parameterization of neural networks
      <https://arxiv.org/abs/1908.11843>`_, 2019.
    """
    tau_2 = temperature if rest_temperature is None else rest_temperature
    gamma_2 = friction if rest_friction is None else rest_friction
    _common.check_arguments(
        key, step_size, temperature=temperature, rest_temperature=tau_2, friction=friction, rest_friction=gamma_2
    )
    return partitioned(
        baoab(step_size, temperature, friction, key),
        baoab(step_size, tau_2, gamma_2, key),
        layers,
        order,
    )
