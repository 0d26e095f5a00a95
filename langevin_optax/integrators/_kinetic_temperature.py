"""The temperature of the momenta in a state."""

from typing import Any

import jax
import optax


def kinetic_temperature(state: Any) -> Any:
    r"""The kinetic temperature :math:`\|p\|^2/N`, at the substep where its mean over a long run is :math:`\tau`.

    For :func:`baoab` that is after O (with exact gradients: exactly τ on a quadratic, to order h² elsewhere), for
    :func:`adaptive_langevin` it is at E (exactly τ in balance, with gradient noise too). A single value scatters by
    :math:`\tau\sqrt{2/N}`: take the mean over many steps. To be at :math:`\tau` is necessary for sampling,
    not sufficient: see the hazards of :func:`adaptive_langevin`.

    Args:
      state: a state that holds that of one integrator with momenta, however wrapped (``optax.chain``,
        ``optax.MultiSteps``, ``TrainState``), or that of :func:`partitioned`.

    Returns:
      A scalar array; for a partition a dict with one for each label whose part has momenta, such as
      ``{"first": ..., "rest": ...}``. 0 before the first step. For several chains, ``jax.vmap`` it.

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
    return jax.tree.leaves(inner.kinetic_temperature)[0]  # without the variable that nnx.Optimizer has around it


def _integrators_in(state: Any) -> list[Any]:
    """The states that declare a `kinetic_temperature`, and the partitions that hold any."""
    found = [node for node in jax.tree.leaves(state, is_leaf=_declares_it) if _declares_it(node)]
    return [
        node
        for node in found
        if not isinstance(node, optax.transforms.PartitionState) or _integrators_in(list(node.inner_states.values()))
    ]


def _declares_it(node: Any) -> bool:
    return hasattr(type(node), "kinetic_temperature") or isinstance(node, optax.transforms.PartitionState)
