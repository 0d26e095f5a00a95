"""The sharded training state, its step and its checkpoints: JAX's own sharding, nothing home-made.

Parameters, Adam's moments and with them the noise are divided over the mesh as the model's metadata says: over "data"
(fully sharded data parallelism) and over "tensor" (tensor parallelism). Each device draws its own part of the noise.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec


class State(NamedTuple):
    step: jax.Array
    params: Any
    optimizer: Any


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message is for the user."""


def make_mesh(tensor: int) -> jax.sharding.Mesh:
    """All devices of all processes: ``tensor`` of them share each layer, the rest is data parallel."""
    return jax.make_mesh((jax.device_count() // tensor, tensor), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


class Training:
    """A model, an optimiser and a mesh, compiled."""

    def __init__(self, model: nn.Module, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh):
        def create(seed):
            params = model.init(jax.random.key(seed), jnp.zeros((1, 8), jnp.int32))["params"]
            return State(jnp.zeros([], jnp.int32), params, tx.init(params))

        def loss(params, text):
            logits = model.apply({"params": params}, text[:, :-1]).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:]).mean() / np.log(2)

        def step(state, text):
            value, gradients = jax.value_and_grad(loss)(state.params, text)
            updates, optimizer = tx.update(gradients, state.optimizer, state.params)
            return State(state.step + 1, optax.apply_updates(state.params, updates), optimizer), value

        boxed = jax.eval_shape(create, 0)  # each parameter, and each moment, with the axes that it is divided over
        shardings = jax.tree.map(
            lambda spec: NamedSharding(mesh, spec),
            nn.get_partition_spec(boxed),
            is_leaf=lambda x: isinstance(x, PartitionSpec),
        )
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._rows = NamedSharding(mesh, PartitionSpec("data"))
        self.abstract = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), nn.unbox(boxed), shardings
        )
        self.init: Callable[[int], State] = jax.jit(lambda seed: nn.unbox(create(seed)), out_shardings=shardings)
        self.step: Callable[[State, jax.Array], tuple[State, jax.Array]] = jax.jit(
            step, donate_argnums=0, out_shardings=(shardings, everywhere)
        )
        self.bits_per_byte = jax.jit(loss, out_shardings=everywhere)

    def shard(self, text: np.ndarray) -> jax.Array:
        """A batch that every process has, of which each device takes its rows."""
        return jax.make_array_from_callback(text.shape, self._rows, lambda index: text[index])


class Checkpoints:
    """The last two checkpoints of a run; one that was not finished does not count."""

    def __init__(self, folder: Path, every: int):
        self.folder = folder
        options = ocp.CheckpointManagerOptions(save_interval_steps=every, max_to_keep=2)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def restore(self, like: State) -> State | None:
        """The newest one, on the mesh of ``like``, however many devices wrote it; None if there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(like))
        except Exception as error:  # as many kinds as there are ways to spoil a file
            raise CheckpointError(
                f"the checkpoint {self.folder / str(step)} cannot be read ({_first_line(error)}); delete that folder "
                "to go on from the one before"
            ) from error

    def save(self, state: State, *, at_last: bool = False) -> None:
        """In the background, if it is time; the last one in any case, and to its end."""
        step = int(state.step)
        try:
            if step != self._manager.latest_step():
                self._manager.save(step, args=ocp.args.StandardSave(state), force=at_last)
            if at_last:
                self._manager.close()
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint of step {step} cannot be written to {self.folder} ({_first_line(error)}); those "
                "before are whole"
            ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
