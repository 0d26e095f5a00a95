"""Partitioned integrators: one on the first layers, another on the rest."""

from collections.abc import Sequence

import jax
import optax

from langevin_optax.layers._mask import Layers, whole_leaves


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
        say it. Stacked layers count block by block; a selection that cuts a stack raises, since a partition gives
        whole leaves to each part.

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
    mask = whole_leaves(layers, order)

    def labels(params):
        selected = mask(params)
        if jax.tree.leaves(selected) and all(jax.tree.leaves(selected)):
            raise ValueError(
                f"layers={layers!r} selects all the layers, and leaves none to the rest: use the first part alone, or "
                "select fewer. (Layers that optax.masked or optax.partition hide do not count.)"
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
