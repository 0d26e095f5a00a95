"""The state of a noise: a count of steps and a key. Every state with a noise of its own declares its `noise_key`."""

from typing import Any, NamedTuple

import jax


class LangevinState(NamedTuple):
    """State of the noise: what fixes its next draw, and nothing of the parameters' size."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=jnp.int32
    key: jax.Array  # shape=(), a typed PRNG key

    @property
    def noise_key(self) -> jax.Array:
        return self.key


def has_noise(node: Any) -> bool:
    """Whether a node of a tree is a state that draws noise: it has a ``key``, and says so by ``noise_key``."""
    return hasattr(type(node), "noise_key")
