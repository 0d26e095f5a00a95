"""Langevin, Layer Langevin and plain optimisers side by side: ``python -m examples.image_classification --help``."""

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Sequence

import jax

from examples import interrupts
from examples.image_classification import data, flags, models, pictures, report, train
from examples.image_classification.sweep import Sweep
from examples.image_classification.train import Task
from examples.presentation import Bar, counted, duration
from examples.storage import Shown, StorageError, alone


@interrupts.in_one_line()
def main(argv: Sequence[str] | None = None) -> None:
    options = flags.parse(argv)
    try:
        with alone(options.output):
            _compare(options)
    except (data.DataError, StorageError) as error:
        sys.exit(f"error: {error}")


def _compare(options: argparse.Namespace) -> None:
    images = data.load(options.data, options.data_dir)
    tasks, seeds = flags.tasks(options, images), range(options.seeds)
    shown, settings = Shown(options.output), report.settings(tasks, options.seeds)
    shown.check(settings, renamed=True)  # a method is named by what others of its name differ in
    _check(tasks, images)
    note = report.caption(tasks, len(seeds), images)
    print(textwrap.fill(note, 100), flush=True)

    sweep = Sweep(
        images,
        options.output / "runs",
        lambda task: options.seeds_at_once or (1 if task.model in models.CONVOLUTIONAL else len(seeds)),
    )
    todo = sum(len(sweep.missing(task, seeds)) for task in tasks)
    there = len(tasks) * len(seeds) - todo
    if there:
        print(f"{there} of {there + todo} runs are in {sweep.folder} already.", flush=True)
    if todo:
        _run(sweep, tasks, seeds)

    runs = [[sweep.read(task, seed) for seed in seeds] for task in tasks]
    results = report.of_tasks(tasks, runs, images.classes)
    print("", report.printed(results), sep="\n", flush=True)
    shown.write(settings)
    drawn = pictures.write(results, note, options.output)
    written = [sweep.folder, *report.write(results, note, drawn, options.output), *drawn]
    print("\nWritten:", *written, sep="\n  ")


def _run(sweep: Sweep, tasks: Sequence[Task], seeds: Sequence[int]) -> None:
    progress = Progress(sweep, tasks, seeds)
    sweep.on_epoch = progress.epoch
    began = time.monotonic()
    with progress.bar, interrupts.ending("runs that have ended are kept; the same command goes on from there"):
        sweep.run(tasks, seeds)
    seconds = time.monotonic() - began
    where = f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"
    print(
        f"{counted(progress.steps, 'step')}, of all seeds, in {duration(seconds)} on {where}, with compilation and "
        f"tests: {duration(seconds / progress.steps, digits=2)} per step."
    )


class Progress:
    """A bar in layers times steps, to which time is proportional."""

    _COMPILATION = 8_000  # takes about as long as this many steps of a layer on digits

    def __init__(self, sweep: Sweep, tasks: Sequence[Task], seeds: Sequence[int]):
        self._data, self.steps, self._labels = sweep.data, 0, report.labels(tasks)
        self._compiled = set[Task]()
        missing = [(task, len(sweep.missing(task, seeds))) for task in tasks]
        self.bar = Bar(total=sum(self._work(t, t.epochs * n) + self._COMPILATION for t, n in missing if n))

    def epoch(self, task: Task, seeds: Sequence[int]) -> None:
        if task not in self._compiled:
            self._compiled.add(task)
            self.bar.update(self._COMPILATION)
        self.bar.set_description_str(f"{report.layers(task)}, {self._labels[task.method]}", refresh=False)
        self.bar.update(self._work(task, len(seeds)))
        self.steps += len(seeds) * train.steps_per_epoch(task, self._data)

    def _work(self, task: Task, epochs: int) -> int:
        return task.depth * train.steps_per_epoch(task, self._data) * epochs


def _check(tasks: Sequence[Task], images: data.Data) -> None:
    """What only the data and the models tell."""
    if train.steps_per_epoch(tasks[0], images) == 0:
        raise data.DataError(f"--batch-size: {images.name} has only {len(images.train_x)} training images")
    size, memory = images.train_x.nbytes + images.test_x.nbytes, _memory()
    if memory is not None and size > memory:
        raise data.DataError(
            f"the images of {images.name} take {size / 1e9:.3g} GB and stay on the device, which has "
            f"{memory / 1e9:.3g} GB"
        )
    labels = report.labels(tasks)
    for task in tasks:
        try:
            train.prepare(task, images)
        except (ValueError, ZeroDivisionError) as error:
            where = f"{task.model} with {report.layers(task)} and {labels[task.method]} on {images.name}"
            raise data.DataError(f"{where}: {error}") from None


def _memory() -> int | None:
    """Of a device, in bytes; None for a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


if __name__ == "__main__":
    # One task on each core: networks as small as these leave most of a second core idle.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(cores, 8))
    main()
