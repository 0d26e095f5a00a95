"""Partitioned integrators: one on the first layers, another on the rest."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from langevin_optax import _adaptive_langevin, _integration, _integrators
from langevin_optax._adaptive_langevin import AdaptiveLangevinState
from langevin_optax._integrators import BaoabState
from langevin_optax._langevin import ScalarOrSchedule
from langevin_optax._layer_mask import Layers, layer_mask
from langevin_optax._splitting import mean_square


def partitioned(
    first: optax.GradientTransformation,
    rest: optax.GradientTransformation,
    layers: Layers = 1,
    order: Sequence[str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """One optimiser on the first layers, another on the rest, over ``optax.partition``.

    Args:
      first: the transformation of the layers that ``layers`` selects: an integrator, or any Optax optimiser.
      rest: the transformation of the others.
      layers: which layers are the first, as in :func:`layer_mask`: by default the one layer that is called first.
      order: the layers in the order in which the model calls them, from :func:`layer_order`; needed unless the names
        say it.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with the state of ``optax.partition``, labels ``"first"`` and
      ``"rest"``. With one key in both parts their noises are independent, since their leaves have other paths.

    Raises:
      TypeError: for ``first`` or ``rest`` that is no gradient transformation, ``layers`` or ``order`` of a wrong type.
      ValueError: as :func:`layer_mask`, and if the selection leaves nothing to one of the parts.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.partitioned(lgv.baoab(0.1, 1e-4, 1.0, key=0), optax.adam(1e-3))
      >>> params = {f"Dense_{i}": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)} for i in range(3)}
      >>> state = tx.init(params)
      >>> sorted(state.inner_states)
      ['first', 'rest']

    References:
      Leimkuhler, Matthews and Vlaar, `Partitioned integrators for thermodynamic parameterization of neural networks
      <https://arxiv.org/abs/1908.11843>`_, 2019.
    """
    for name, part in (("first", first), ("rest", rest)):
        if not isinstance(part, optax.GradientTransformation):
            raise TypeError(f"{name} must be an optax.GradientTransformation, got {part!r}.")
    mask = layer_mask(layers, order)

    def labels(params):
        selected = mask(params)
        if jax.tree.leaves(selected) and all(jax.tree.leaves(selected)):
            raise ValueError(
                f"layers={layers!r} selects all the layers, and leaves none to the rest: use the first part alone, or "
                "select fewer."
            )
        return jax.tree.map(lambda m: "first" if m else "rest", selected)

    both = optax.partition({"first": first, "rest": rest}, labels)

    def update_fn(updates, state, params=None, **extra_args):
        if not isinstance(state, optax.transforms.PartitionState):
            raise ValueError(
                "a partition needs a state of its own, PartitionState, got "
                f"{type(state).__name__}. Was the checkpoint written by another integrator, or restored without its "
                "structure?"
            )
        return both.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(both.init, update_fn)


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
      key: an ``int`` or a ``jax.random.key``, of both parts.
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
    _integration.check_arguments(key, step_size, temperature=temperature, rest_temperature=tau_2)
    return partitioned(
        _adaptive_langevin.adaptive_langevin(step_size, temperature, sigma, coupling, key),
        _integrators.baoab(step_size, tau_2, friction, key),
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
    r"""LOL: Langevin (:func:`baoab`) on the first layers, overdamped Langevin (Euler–Maruyama) on the rest.

    .. math::
      \text{first:}\quad & d\theta = p\,dt, \qquad dp = -\nabla L\,dt - \gamma p\,dt + \sqrt{2\gamma\tau}\,dW \\
      \text{rest:}\quad & d\theta = -\nabla L\,dt + \sqrt{2\tau_2}\,dW

    Args:
      step_size: h > 0 of both parts, a scalar or an Optax schedule. (The time of the two dynamics differs: the rest
        moves by h g, the first layers by h² g in a step.)
      key: an ``int`` or a ``jax.random.key``, of both parts.
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
      <https://arxiv.org/abs/1908.11843>`_, 2019.
    """
    tau_2 = temperature if rest_temperature is None else rest_temperature
    _integration.check_arguments(key, step_size, temperature=temperature, rest_temperature=tau_2)
    return partitioned(
        _integrators.baoab(step_size, temperature, friction, key),
        _integrators.overdamped_langevin(step_size, tau_2, key),
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
      key: an ``int`` or a ``jax.random.key``, of both parts.
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
    _integration.check_arguments(
        key, step_size, temperature=temperature, rest_temperature=tau_2, friction=friction, rest_friction=gamma_2
    )
    return partitioned(
        _integrators.baoab(step_size, temperature, friction, key),
        _integrators.baoab(step_size, tau_2, gamma_2, key),
        layers,
        order,
    )


def kinetic_temperature(state: Any) -> Any:
    r"""The kinetic temperature :math:`\|p\|^2/N`, at the substep where its mean over a long run is :math:`\tau`.

    For :func:`baoab` that is after O (exactly τ on a quadratic, to order h² elsewhere), for :func:`adaptive_langevin`
    it is at E (exactly τ in balance, whatever the loss and the gradient noise). A single value scatters by
    :math:`\tau\sqrt{2/N}`: take the mean over many steps.

    Args:
      state: a state that holds that of one integrator with momenta, however wrapped (``optax.chain``,
        ``optax.MultiSteps``, ``TrainState``), or that of :func:`partitioned`.

    Returns:
      A scalar array; for a partition a dict with one for each label whose part has momenta, such as
      ``{"first": ..., "rest": ...}``. 0 before the first step.

    Raises:
      ValueError: if there are no momenta in ``state``, or several integrators outside of a partition.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> tx, params = lgv.baoab(0.1, temperature=1.0, friction=1.0, key=0), jnp.zeros(10_000)
      >>> state = tx.init(params)
      >>> for _ in range(50):
      ...     _, state = tx.update(params, state)
      >>> print(f"{lgv.kinetic_temperature(state):.1f}")
      1.0

    References:
      Leimkuhler and Matthews, *Molecular Dynamics*, 2015, section 7.4.
    """
    found = _integrators_in(state)
    if len(found) != 1:
        raise ValueError(
            "kinetic_temperature needs a state with the momenta of one integrator (baoab, adaptive_langevin), or with "
            f"one partition, found {len(found)} in {jax.tree.structure(state)}."
        )
    (inner,) = found
    if isinstance(inner, optax.transforms.PartitionState):
        return {label: kinetic_temperature(part) for label, part in inner.inner_states.items() if _integrators_in(part)}
    if isinstance(inner, AdaptiveLangevinState):
        return jax.tree.leaves(inner.kinetic)[0]  # without the variable that nnx.Optimizer has around it
    return mean_square(inner.momentum)


def _integrators_in(state: Any) -> list[Any]:
    """The states with momenta, and the partitions that hold any."""
    kinds = (BaoabState, AdaptiveLangevinState, optax.transforms.PartitionState)
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    return [
        node
        for node in nodes
        if isinstance(node, kinds)
        and (not isinstance(node, optax.transforms.PartitionState) or _integrators_in(list(node.inner_states.values())))
    ]
