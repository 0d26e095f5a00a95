"""The optimiser, the sharding and the training loop, which goes on from the last checkpoint.

Parameters, Adam's moments and with them the noise are divided over the mesh as the model's metadata says: over "data"
(fully sharded data parallelism) and over "tensor" (tensor parallelism). Each device draws its own part of the noise.
"""

import argparse
import contextlib
import json
import math
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import langevin_optax as lgv
from examples import storage
from examples.distributed.model import Sizes, Transformer
from examples.presentation import Bar, counted, rounded

# What may differ when a run goes on; the other flags decide its numbers.
FREE = {
    "output",
    "devices",
    "tensor",
    "cluster",
    "coordinator",
    "processes",
    "process",
    "checkpoint_steps",
    "log_steps",
}


def optimizer(flags: argparse.Namespace, model: nn.Module) -> optax.GradientTransformation:
    """Adam, or its Langevin version with σ falling to 0 at 60 % of the steps, on all layers or on the first ones."""
    adam: Any = optax.adam(flags.learning_rate)
    if flags.optimizer != "adam":
        order = lgv.layer_order(model, jnp.zeros((1, 8), jnp.int32))
        first = lgv.layer_mask(json.loads(flags.noisy_layers), order, scanned={"blocks": 0})
        sigma = optax.linear_schedule(flags.sigma, 0.0, max(1, round(0.6 * flags.steps)))
        mask = first if flags.optimizer == "ll-adam" else None
        adam = lgv.adam(flags.learning_rate, sigma, key=flags.seed, mask=mask, sampler=flags.sampler)
    return optax.chain(optax.clip_by_global_norm(1.0), adam)


def make_mesh(tensor: int) -> jax.sharding.Mesh:
    """All devices of all processes: ``tensor`` of them share each layer, the rest is data parallel."""
    return jax.make_mesh((jax.device_count() // tensor, tensor), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)


class State(NamedTuple):
    step: jax.Array
    params: Any
    optimizer: Any


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
        shardings, everywhere = nn.get_sharding(boxed, mesh), NamedSharding(mesh, PartitionSpec())
        self.abstract = jax.tree.map(lambda x, s: x.update(sharding=s), nn.unbox(boxed), shardings)
        self.rows = NamedSharding(mesh, PartitionSpec("data"))
        self.init = jax.jit(lambda seed: nn.unbox(create(seed)), out_shardings=shardings)
        self.step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, everywhere))
        self.bits_per_byte = jax.jit(loss, out_shardings=everywhere)

    def shard(self, text: np.ndarray) -> jax.Array:
        """A batch that every process has, of which each device takes its rows."""
        return jax.make_array_from_callback(text.shape, self.rows, lambda index: text[index].astype(np.int32))


def train_and_evaluate(flags: argparse.Namespace) -> None:
    leads = jax.process_index() == 0  # of several processes it prints, and writes all but the checkpoints
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))  # about 5 MB of code and English
    content = b"\n".join(file.read_bytes() for file in ([Path(flags.text)] if flags.text else library))
    _check(flags, len(content))
    model = Transformer(Sizes(flags.layers, flags.width, flags.heads), jnp.dtype(flags.dtype))
    try:
        training = Training(model, optimizer(flags, model), make_mesh(flags.tensor))
    except ValueError as error:
        sys.exit(f"error: --noisy-layers: {error}")
    settings = {name: value for name, value in vars(flags).items() if name not in FREE}
    settings |= {"text": zlib.crc32(content), "keys": str(jax.random.key_impl(jax.random.key(0)))}
    storage.check(flags.output, settings)

    folder, metrics = flags.output / "checkpoints", flags.output / "metrics.jsonl"
    options = ocp.CheckpointManagerOptions(save_interval_steps=flags.checkpoint_steps, max_to_keep=2)
    checkpoints = ocp.CheckpointManager(folder.absolute(), options=options)
    first = checkpoints.latest_step() or 0
    if first:
        with _in_one_line(f"cannot read the checkpoint {folder / str(first)}; delete it to go on from the one before"):
            state = checkpoints.restore(first, args=ocp.args.StandardRestore(training.abstract))
    else:
        state = training.init(flags.seed)
    if leads:
        storage.keep(flags.output, settings)
        # What came after the checkpoint is trained again, and a kill may have cut the last line.
        lines = metrics.read_text().split("\n")[:-1] if metrics.exists() else []
        storage.write_whole(metrics, "".join(line + "\n" for line in lines if json.loads(line)["step"] <= first))
        millions = rounded(sum(p.size for p in jax.tree.leaves(state.params)) / 1e6)
        where = f"{counted(jax.device_count(), 'device')} of {counted(jax.process_count(), 'process')}"
        print(f"{millions} million parameters on {where}, from step {first} to {flags.steps}.", flush=True)

    windows = np.lib.stride_tricks.sliding_window_view  # of all places in the text, as views
    parts = np.split(np.frombuffer(content, np.uint8), [-max(len(content) // 20, flags.length + 1)])
    text, held_out = (windows(part, flags.length + 1) for part in parts)
    unwritten = f"cannot write a checkpoint to {folder}; those before are whole"
    with Bar(total=flags.steps - first) if leads else contextlib.nullcontext() as bar:
        for step in range(first, flags.steps):
            # A function of the step and the seed alone: a run that goes on needs no state of the data.
            places = np.random.default_rng((flags.seed, step)).integers(len(text), size=flags.batch_size)
            state, loss = training.step(state, training.shard(text[places]))
            if (step + 1) % flags.log_steps == 0:
                bits = float(loss)
                if bar is not None:
                    line = {"step": step + 1, "bits_per_byte": bits if math.isfinite(bits) else None}
                    with metrics.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    bar.set_description_str(f"{bits:.3f} bits per byte", refresh=False)
            if bar is not None:
                bar.update(1)
            with _in_one_line(unwritten):  # or what the background wrote since
                checkpoints.save(step + 1, args=ocp.args.StandardSave(state), force=step + 1 == flags.steps)
        with _in_one_line(unwritten):
            checkpoints.close()
    places = np.linspace(0, len(held_out) - 1, flags.batch_size).astype(int)
    bits = float(training.bits_per_byte(state.params, training.shard(held_out[places])))
    if leads:
        print(f"{bits:.3f} bits per byte on held-out text after {counted(flags.steps, 'step')}: {flags.output}")


def _check(flags: argparse.Namespace, size: int) -> None:
    """What only the text and the devices tell."""
    if size < 2 * flags.length + 2:
        sys.exit(f"error: the text has {size} bytes, which is too short for --length {flags.length}")
    data, rest = divmod(jax.device_count(), flags.tensor)
    if rest or flags.heads % flags.tensor:
        sys.exit(f"error: --tensor {flags.tensor} must divide the {jax.device_count()} devices and the --heads")
    width = math.lcm(data, 2 * flags.heads)
    if flags.batch_size % data or flags.width % width:
        sys.exit(f"error: on this mesh --batch-size must be a multiple of {data}, --width of {width}")


@contextlib.contextmanager
def _in_one_line(message: str) -> Iterator[None]:
    """Orbax has as many kinds of errors as there are ways to spoil a file."""
    try:
        yield
    except Exception as error:
        sys.exit(f"error: {message} ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})")
