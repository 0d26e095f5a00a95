"""Langevin, Layer Langevin and plain optimisers side by side: ``python -m examples.image_classification --help``."""

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from examples.image_classification import data, flags, models, optimizers, pictures, report, train
from examples.image_classification.results import Results
from examples.image_classification.sweep import Observer, Sweep
from examples.image_classification.task import Task
from examples.presentation import Bar


def main(argv: Sequence[str] | None = None) -> None:
    options = flags.parse(argv)
    try:
        images = data.load(options.data, options.data_dir)
    except data.DataError as error:
        sys.exit(f"error: {error}")
    tasks, seeds = flags.tasks(options, images), range(options.seeds)
    _check(options, tasks, images)
    note = report.caption(tasks, len(seeds), images)
    print(textwrap.fill(note, 100), flush=True)

    sweep = Sweep(
        images,
        Results(options.output / "runs.jsonl"),
        options.output / "checkpoints",
        lambda task: options.seeds_at_once or (1 if task.model in models.CONVOLUTIONAL else len(seeds)),
        options.checkpoint_minutes,
    )
    todo = sum(len(sweep.missing(task, seeds)) for task in tasks)
    there = len(tasks) * len(seeds) - todo
    if there:
        print(f"{there} of {there + todo} runs are in {sweep.results.path} already.", flush=True)
    if todo:
        _run(sweep, tasks, seeds, [Tensorboard(options.output / "tensorboard")] if options.tensorboard else [])

    runs = [sweep.results.runs(task) for task in tasks]
    results = [
        report.Result(task, [of_task[seed] for seed in seeds], images.classes)
        for task, of_task in zip(tasks, runs, strict=True)
    ]
    print("", report.printed(results), sep="\n", flush=True)
    drawn = pictures.write(results, note, options.output)
    written = [sweep.results.path, *report.write(results, note, drawn, options.output), *drawn]
    print("\nWritten:", *written, sep="\n  ")


def _run(sweep: Sweep, tasks: Sequence[Task], seeds: Sequence[int], observers: Sequence[Observer]) -> None:
    progress = Progress(sweep, tasks, seeds)
    sweep.observers = [progress, *observers]
    began = time.monotonic()
    with progress.bar:
        sweep.run(tasks, seeds)
    seconds = time.monotonic() - began
    where = f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"
    print(
        f"{progress.steps} steps in {seconds:.0f} s, compilation and tests included: "
        f"{seconds / progress.steps * 1e3:.2g} ms a step, on {where}."
    )


class Progress:
    """A bar in layers times steps, to which time is proportional."""

    _COMPILATION = 8_000  # a layer takes about as long to compile as this many steps of it on digits

    def __init__(self, sweep: Sweep, tasks: Sequence[Task], seeds: Sequence[int]):
        self._data, self._done, self.steps = sweep.data, dict[Any, int](), 0
        missing = [(task, len(sweep.missing(task, seeds))) for task in tasks]
        self.bar = Bar(total=sum(self._work(t, t.epochs * n) + self._COMPILATION for t, n in missing if n))

    def epoch(self, task: Task, seeds: Sequence[int], number: int, accuracy: Any, loss: Any) -> None:
        if task not in self._done:
            self._done[task] = 0
            self.bar.update(self._COMPILATION)
        run = task, *seeds
        since = number + 1 - self._done.get(run, 0)  # more than 1 if it was taken up from a checkpoint
        self._done[run] = number + 1
        self.bar.set_description_str(f"{report.layers(task)}, {optimizers.label(task)}", refresh=False)
        self.bar.update(self._work(task, since * len(seeds)))
        self.steps += len(seeds) * train.steps_an_epoch(task, self._data)

    def _work(self, task: Task, epochs: int) -> int:
        return task.depth * train.steps_an_epoch(task, self._data) * epochs


class Tensorboard:
    """Event files, one folder a run."""

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            sys.exit("error: --tensorboard needs tensorboardX: pip install tensorboardX")
        self._open = lambda *names: SummaryWriter(str(folder.joinpath(*names)))
        self._writers: dict[Any, Any] = {}

    def epoch(self, task: Task, seeds: Sequence[int], number: int, accuracy: Any, loss: Any) -> None:
        for seed, *values in zip(seeds, accuracy, loss, strict=True):
            run = task, seed
            if run not in self._writers:
                names = report.layers(task), optimizers.label(task), f"seed {seed}"
                self._writers[run] = self._open(*names)
            for name, value in zip(("test accuracy", "training loss"), values, strict=True):
                self._writers[run].add_scalar(name, value, number + 1)
            if number + 1 == task.epochs:
                self._writers.pop(run).close()


def _check(options: argparse.Namespace, tasks: Sequence[Task], images: data.Data) -> None:
    """What only the data and the models tell."""
    if train.steps_an_epoch(tasks[0], images) == 0:
        sys.exit(f"error: argument --batch-size: {images.name} has only {len(images.train_x)} training images")
    size, memory = images.train_x.nbytes + images.test_x.nbytes, _memory()
    if memory is not None and size > memory:
        sys.exit(
            f"error: the images of {images.name} take {size / 1e9:.3g} GB and stay on the device, which has "
            f"{memory / 1e9:.3g} GB"
        )
    for task in {task.depth: task for task in tasks}.values():
        order = train.layers(task, images)
        most = max((task.layers for task in tasks if isinstance(task.layers, int)), default=0)
        if most > len(order):
            sys.exit(
                f"error: argument --noisy-layers: {task.model} with {report.layers(task)} has {len(order)} layers "
                f"with parameters, got {most}"
            )


def _memory() -> int | None:
    """Of a device, in bytes; None for a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


if __name__ == "__main__":
    # One task on each core: networks as small as these leave most of a second core idle.
    jax.config.update("jax_num_cpu_devices", min(os.cpu_count() or 1, 8))
    main()
