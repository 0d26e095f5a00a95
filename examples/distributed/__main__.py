"""A language model on all devices of all processes: ``python -m examples.distributed --help``."""

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import jax
import jax.numpy as jnp
import optax

import langevin_optax as lgv
from examples import interrupts, values
from examples.distributed.model import Sizes, Transformer
from examples.distributed.text import Text
from examples.distributed.train import CheckpointError, Checkpoints, State, Training, make_mesh
from examples.presentation import Bar, counted, duration, rounded
from examples.storage import StorageError, alone, write_whole


@interrupts.in_one_line()
def main(argv: Sequence[str] | None = None) -> State:
    parser = _parser()
    options = parser.parse_args(argv)
    if (options.coordinator is None) != (options.processes is None) or (options.processes is None) != (
        options.process is None
    ):
        parser.error("--coordinator, --processes and --process belong together")
    if options.cluster and options.coordinator is not None:
        parser.error("--cluster and --coordinator exclude each other")
    if options.process is not None and options.process >= options.processes:
        parser.error(
            f"argument --process: must be below --processes, which is {options.processes}, got {options.process}"
        )
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: cannot make the folder {str(options.output)!r}: {error.strerror}")
    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
    try:
        _join(options)
        _check(options)
        _check_layers(options, parser)
        with alone(options.output) if jax.process_index() == 0 else contextlib.nullcontext():
            return _train(options)
    except (CheckpointError, StorageError) as error:
        sys.exit(f"error: {error}")


def _join(options: argparse.Namespace) -> None:
    """The other processes."""
    try:
        if options.cluster:
            jax.distributed.initialize()
        elif options.coordinator is not None:
            jax.distributed.initialize(options.coordinator, options.processes, options.process)
    except (ValueError, RuntimeError) as error:
        what = "--cluster: JAX finds none" if options.cluster else f"--coordinator {options.coordinator}: no answer"
        raise StorageError(f"{what} ({str(error).splitlines()[0]})") from None


def optimizer(options: argparse.Namespace, model: Transformer) -> optax.GradientTransformation:
    """Adam, or its Langevin version with σ falling to 0 at 60 % of the steps, on all layers or on the first ones."""
    if options.optimizer == "adam":
        adam: Any = optax.adam(options.learning_rate)
    else:
        order = lgv.layer_order(model, jnp.zeros((1, 8), jnp.int32))
        adam = lgv.adam(
            options.learning_rate,
            optax.linear_schedule(options.sigma, 0.0, max(1, round(0.6 * options.steps))),
            key=options.seed,
            mask=lgv.layer_mask(json.loads(options.noisy_layers), order, scanned={"blocks": 0})
            if options.optimizer == "ll-adam"
            else None,
            sampler=options.sampler,
        )
    return optax.chain(optax.clip_by_global_norm(1.0), adam)


def _model(options: argparse.Namespace) -> Transformer:
    return Transformer(Sizes(options.layers, options.width, options.heads), jnp.dtype(options.dtype))


def _train(options: argparse.Namespace) -> State:
    text = Text(options.text, options.length)
    model = _model(options)
    mesh = make_mesh(options.tensor)
    training = Training(model, optimizer(options, model), mesh)
    _same_settings(options, text)
    checkpoints = Checkpoints(options.output / "checkpoints", options.checkpoint_steps)
    state = checkpoints.restore(training.abstract)
    if state is None:
        state = training.init(options.seed)
    first = int(state.step)
    metrics = _Metrics(options.output / "metrics.jsonl", first)
    parameters = sum(p.size for p in jax.tree.leaves(state.params))
    _say(
        f"{rounded(parameters / 1e6)} million parameters in {options.dtype} on {dict(mesh.shape)} "
        f"{jax.devices()[0].device_kind} devices of {counted(jax.process_count(), 'process')}, from step {first} to "
        f"{options.steps}."
    )

    bar = Bar(total=options.steps - first) if jax.process_index() == 0 else None
    began, compiled_at = time.monotonic(), first
    with _interrupts() as stop:
        for step in range(first, options.steps):
            state, bits = training.step(state, training.shard(text.batch(options.batch_size, step, options.seed)))
            if step == first:
                jax.block_until_ready(bits)
                began, compiled_at = time.monotonic(), step + 1
            if (step + 1) % options.log_steps == 0:
                metrics.append(step + 1, float(bits))
                if bar is not None:
                    bar.set_description_str(f"{float(bits):.3f} bits per byte", refresh=False)
            if bar is not None:
                bar.update(1)
            checkpoints.save(state)
            if stop.is_set():
                break
        jax.block_until_ready(state)
        seconds = time.monotonic() - began
        if bar is not None:
            bar.close()
        checkpoints.save(state, at_last=True)
    if int(state.step) < options.steps:
        _say(f"Step {int(state.step)} of {options.steps} is saved; the same command goes on from there.")
        sys.exit(interrupts.STATUS)
    held_out = float(training.bits_per_byte(state.params, training.shard(text.held_out(options.batch_size))))
    if options.steps > compiled_at:
        seconds /= options.steps - compiled_at
        speed = rounded(options.batch_size * options.length / seconds)
        _say(f"{duration(seconds)} per step, {speed} bytes per second.")
    _say(f"{held_out:.3f} bits per byte on held-out text after {counted(options.steps, 'step')}.")
    _say(f"Written: {', '.join(str(path) for path in (metrics.path, checkpoints.folder) if path.exists())}")
    return state


@contextlib.contextmanager
def _interrupts() -> Iterator[Event]:
    """Ctrl-C saves the step that is done; of several processes, which would wait for each other, it ends this one."""
    if jax.process_count() == 1:
        with interrupts.stopping("saving the step that is done") as stop:
            yield stop
    else:
        message = "the same command goes on from the last checkpoint"
        with interrupts.ending(message if jax.process_index() == 0 else None):
            yield Event()


class _Metrics:
    """The bits per byte of every few steps, one JSON line each, in the order of the steps; the first process writes."""

    def __init__(self, path: Path, step: int):
        self.path = path
        if jax.process_index() == 0 and path.exists():
            # What came after the checkpoint is trained again, and a kill may have cut the last line.
            lines = [line for line in path.read_text().split("\n")[:-1] if json.loads(line)["step"] <= step]
            write_whole(path, "".join(line + "\n" for line in lines))

    def append(self, step: int, bits: float) -> None:
        if jax.process_index() == 0:
            line = {"step": step, "bits_per_byte": bits if math.isfinite(bits) else None}
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def _same_settings(options: argparse.Namespace, text: Text) -> None:
    """A folder belongs to one run: what decides its numbers is written down, and must be the same when it goes on."""
    how = {"output", "devices", "tensor", "cluster", "coordinator", "processes", "process", "checkpoint_steps", "text"}
    settings = {name: value for name, value in vars(options).items() if name not in how}
    settings |= {"text": text.checksum, "keys": str(jax.random.key_impl(jax.random.key(0)))}
    path = options.output / "settings.json"
    if path.exists():
        there = json.loads(path.read_text())
        changed = [name for name in sorted(settings | there) if settings.get(name) != there.get(name)]
        if changed:
            differences = ", ".join(f"{name} was {there.get(name)!r}, is {settings.get(name)!r}" for name in changed)
            raise StorageError(
                f"{options.output} holds a run with other settings ({differences}); choose another --output"
            )
    elif jax.process_index() == 0:
        write_whole(path, json.dumps(settings, indent=2) + "\n")


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)


def _check(options: argparse.Namespace) -> None:
    """What only the devices tell."""
    data, rest = divmod(jax.device_count(), options.tensor)
    if rest:
        raise StorageError(f"--tensor {options.tensor} does not divide the {jax.device_count()} devices")
    for flag, value, axis in (
        ("--width", options.width, data),
        ("--batch-size", options.batch_size, data),
        ("--heads", options.heads, options.tensor),
    ):
        if value % axis:
            raise StorageError(f"{flag} {value} is no multiple of the {axis} devices that it is divided over")
    if options.width % (2 * options.heads):
        raise StorageError(f"--width {options.width} is no multiple of twice the --heads {options.heads}")


def _check_layers(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    first = json.loads(options.noisy_layers)
    if options.optimizer != "ll-adam" or isinstance(first, float):
        return
    order = lgv.layer_order(_model(options), jnp.zeros((1, 8), jnp.int32))
    outside = sum(not path.startswith("blocks/") for path in order)
    if first > outside + options.layers:
        parser.error(
            f"argument --noisy-layers: must be a share, or at most {outside + options.layers}, since there are "
            f"{counted(options.layers, 'block')} and {outside} layers outside of them, got {first}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.distributed",
        description="Train a language model of bytes, sharded over all devices of all processes, with Layer Langevin "
        "Adam. A run that was killed goes on when the command is given again, on as many devices as there are then.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    group = parser.add_argument_group("what to train")
    group.add_argument("--text", type=Path, help="a file (None: the modules of Python's standard library)")
    group.add_argument("--layers", type=values.positive, default=6, metavar="N", help="blocks, scanned")
    group.add_argument("--width", type=values.positive, default=256, metavar="N", help="of the residual stream")
    group.add_argument("--heads", type=values.positive, default=8, metavar="N", help="of the attention")
    group.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the parameters too")

    group = parser.add_argument_group("how to train")
    group.add_argument("--steps", type=values.positive, default=200, metavar="N", help="to train")
    group.add_argument("--batch-size", type=values.positive, default=16, metavar="N", help="sequences in a batch")
    group.add_argument("--length", type=values.positive, default=128, metavar="N", help="bytes in a sequence")
    group.add_argument("--optimizer", choices=("adam", "l-adam", "ll-adam"), default="ll-adam", help="to train with")
    group.add_argument("--learning-rate", type=values.rate, default=1e-3, metavar="X", help="constant")
    group.add_argument("--sigma", type=values.rate, default=1e-4, metavar="X", help="falls to 0 at 60 %% of the steps")
    group.add_argument("--noisy-layers", type=values.layers, default="0.3", metavar="K|SHARE", help="of ll-adam")
    group.add_argument(
        "--sampler", choices=("normal", "rademacher", "three_point"), default="normal", help="of the noise"
    )
    group.add_argument("--seed", type=values.index, default=0, metavar="N", help="of weights, batches and noise")

    group = parser.add_argument_group("where to train")
    group.add_argument("--tensor", type=values.positive, default=1, metavar="N", help="devices that share each layer")
    group.add_argument("--devices", type=values.positive, metavar="N", help="CPU devices that a process simulates")
    group.add_argument("--cluster", action="store_true", help="one of several processes that JAX finds (TPU, Slurm, …)")
    group.add_argument(
        "--coordinator",
        type=values.address,
        metavar="HOST:PORT",
        help="of several processes: where the first one listens",
    )
    group.add_argument("--processes", type=values.positive, metavar="N", help="with --coordinator: how many")
    group.add_argument(
        "--process", type=values.index, metavar="I", help="with --coordinator: which one this is, from 0"
    )

    group = parser.add_argument_group("what to write")
    group.add_argument("--output", type=Path, default=Path("results/distributed"), metavar="DIR", help="for the files")
    group.add_argument("--checkpoint-steps", type=values.positive, default=50, metavar="N", help="between checkpoints")
    group.add_argument("--log-steps", type=values.positive, default=10, metavar="N", help="between lines of metrics")
    return parser


if __name__ == "__main__":
    main()
