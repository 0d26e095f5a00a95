"""Noise of its own for each chain of an ensemble."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from langevin_optax.noise._state import has_noise

State = TypeVar("State")


def fold_in(state: State, data: jax.typing.ArrayLike) -> State:
    """The state of an optimiser with ``data`` folded into every noise key: another chain, with noise of its own.

    ``jax.vmap(tx.init)`` gives all chains one key, and with it one noise. Folding the number of the chain into the keys
    makes their noises independent. A chain's noise depends on the key of ``tx`` and on its number, not on how many
    chains there are, or on which devices. A state that is made anew (in every epoch, after a warm restart) repeats its
    noise likewise, until the number of the restart is folded in.

    Args:
      state: the state of an optimiser or integrator of this package, however wrapped (``optax.chain``,
        ``optax.partition``, ``TrainState``, ``nnx.Optimizer``, ``nnx.state``).
      data: the number of the chain, an integer scalar; may be traced.

    Returns:
      The state, with other keys: ``jax.random.fold_in(key, data)``. All else is untouched, parameters that are called
      ``key`` too.

    Raises:
      ValueError: if there is no noise in ``state``.

    Example:
      Four chains, and the first step of each:

      >>> import jax, jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> tx, params = lgv.adam(1e-3, sigma=1e-3, key=0), jnp.ones(3)
      >>> states = jax.vmap(lambda chain: lgv.fold_in(tx.init(params), chain))(jnp.arange(4))
      >>> updates, states = jax.vmap(lambda state: tx.update(jnp.zeros(3), state, params))(states)
      >>> len(set(updates[:, 0].tolist()))
      4

    References:
      Salmon et al., `Parallel random numbers: as easy as 1, 2, 3 <https://doi.org/10.1145/2063384.2063405>`_, 2011.
    """
    found = 0

    def fold(node: Any) -> Any:
        nonlocal found
        if has_noise(node):
            found += 1
            # A key within the variable that nnx.Optimizer has around it is a tree too.
            return node._replace(key=jax.tree.map(lambda key: jax.random.fold_in(key, data), node.noise_key))
        if _is_flattened(node):
            found += 1
            rest = {name: value for name, value in node.items() if name != "key"}
            folded = jax.tree.map(lambda key: jax.random.fold_in(key, data), node["key"])
            return type(node)({**rest, "key": folded})
        return node

    folded: State = jax.tree.map(fold, state, is_leaf=lambda node: has_noise(node) or _is_flattened(node))
    if not found:
        raise ValueError(f"fold_in needs a state with noise in it, found none in {jax.tree.structure(state)}.")
    return folded


def _is_flattened(node: Any) -> bool:
    """A state that ``nnx.state`` has turned into a mapping, known by its count beside a typed key.

    Those of ``nnx.Rngs``, of Dropout for example, have counts without a sign.
    """
    if not isinstance(node, Mapping) or not {"count", "key"} <= set(node):
        return False
    counts, keys = jax.tree.leaves(node["count"]), jax.tree.leaves(node["key"])
    return (
        len(counts) == len(keys) == 1
        and jnp.issubdtype(jnp.result_type(counts[0]), jnp.signedinteger)
        and jnp.issubdtype(jnp.result_type(keys[0]), jax.dtypes.prng_key)
    )
