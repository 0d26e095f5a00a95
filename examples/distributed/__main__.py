"""A language model on all devices of all processes: ``python -m examples.distributed --help``."""

import argparse
import sys
from collections.abc import Sequence

import jax

from examples import interrupts, storage, values
from examples.distributed.train import train_and_evaluate


@interrupts.ending("the same command goes on from the last checkpoint")
def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(argv)
    if flags.devices:
        jax.config.update("jax_num_cpu_devices", flags.devices)
    several = (flags.coordinator, flags.processes, flags.process)
    if flags.cluster or several != (None, None, None):
        try:
            jax.distributed.initialize(*several)
        except (ValueError, RuntimeError, IndexError) as error:
            rule = "--cluster, or --coordinator HOST:PORT with --processes and --process"
            sys.exit(f"error: JAX does not find the other processes by {rule} ({str(error).splitlines()[0]})")
    try:
        train_and_evaluate(flags)
    except OSError as error:
        sys.exit(f"error: {error}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.distributed",
        description="Train a language model of bytes, sharded over all devices of all processes, with Layer Langevin "
        "Adam. A run that was killed goes on when the command is given again, on as many devices as there are then.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    # What to train, and how.
    add("--text", metavar="FILE", help="to learn (None: the modules of Python's standard library)")
    add("--layers", type=values.positive, default=6, metavar="N", help="blocks, scanned")
    add("--width", type=values.positive, default=256, metavar="N", help="of the residual stream")
    add("--heads", type=values.positive, default=8, metavar="N", help="of the attention")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the parameters too")
    add("--steps", type=values.positive, default=200, metavar="N", help="to train")
    add("--batch-size", type=values.positive, default=16, metavar="N", help="sequences in a batch")
    add("--length", type=values.positive, default=128, metavar="N", help="bytes in a sequence")
    add("--optimizer", choices=("adam", "l-adam", "ll-adam"), default="ll-adam", help="to train with")
    add("--learning-rate", type=values.rate, default=1e-3, metavar="X", help="constant")
    add("--sigma", type=values.rate, default=1e-4, metavar="X", help="falls to 0 at 60 %% of the steps")
    add("--noisy-layers", type=values.layers, default="0.3", metavar="K|SHARE", help="of ll-adam")
    add("--sampler", choices=("normal", "rademacher", "three_point"), default="normal", help="of the noise")
    add("--seed", type=values.index, default=0, metavar="N", help="of weights, batches and noise")
    # Where, and what to write.
    add("--tensor", type=values.positive, default=1, metavar="N", help="devices that share each layer")
    add("--devices", type=values.positive, metavar="N", help="CPU devices that a process simulates")
    add("--cluster", action="store_true", help="one of several processes that JAX finds (TPU, Slurm, …)")
    add("--coordinator", metavar="HOST:PORT", help="of several processes: where the first one listens")
    add("--processes", type=values.positive, metavar="N", help="with --coordinator: how many")
    add("--process", type=values.index, metavar="I", help="with --coordinator: which one this is, from 0")
    add("--output", type=storage.folder, default="results/distributed", metavar="DIR", help="for the files")
    add("--checkpoint-steps", type=values.positive, default=50, metavar="N", help="between checkpoints")
    add("--log-steps", type=values.positive, default=10, metavar="N", help="between lines of metrics")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
