"""Langevin, Layer Langevin and plain optimisers side by side: ``python -m examples.image_classification --help``."""

import os
import sys
import textwrap
from collections.abc import Sequence

import jax

from examples import interrupts, storage
from examples.image_classification import data, flags, pictures, report, train
from examples.image_classification.sweep import Sweep
from examples.image_classification.train import Task
from examples.presentation import Bar


@interrupts.ending("runs that have ended are kept; the same command goes on from there")
def main(argv: Sequence[str] | None = None) -> None:
    options = flags.parse(argv)
    images = data.load(options.data, options.data_dir)
    tasks, seeds = flags.tasks(options, images), range(options.seeds)
    settings = report.settings(tasks, options.seeds)
    storage.check(options.output, settings)
    _check(tasks, images)
    note = report.caption(tasks, len(seeds), images)
    print(textwrap.fill(note, 100), flush=True)

    sweep = Sweep(images, options.output / "runs", options.seeds_at_once)
    _run(sweep, tasks, seeds)
    runs = [[sweep.read(task, seed) for seed in seeds] for task in tasks]
    results = report.of_tasks(tasks, runs, images.classes)
    print("", report.printed(results), sep="\n", flush=True)
    storage.keep(options.output, settings)
    drawn = pictures.write(results, note, options.output)
    print("\nWritten:", sweep.folder, *report.write(results, note, drawn, options.output), *drawn, sep="\n  ")


def _run(sweep: Sweep, tasks: Sequence[Task], seeds: Sequence[int]) -> None:
    """What is missing, with a bar in layers times steps, to which time is about proportional."""
    labels, missing = report.labels(tasks), {task: len(sweep.missing(task, seeds)) for task in tasks}
    there, todo = len(tasks) * len(seeds) - sum(missing.values()), [task for task in tasks if missing[task]]
    if there:
        print(f"{there} of {len(tasks) * len(seeds)} runs are in {sweep.folder} already.", flush=True)
    if not todo:
        return
    work = {task: task.depth * train.steps_per_epoch(task, sweep.data) for task in todo}
    compilation = dict.fromkeys(todo, 8_000)  # takes about as long as this many steps of a layer on digits
    with Bar(total=sum(compilation[task] + work[task] * task.epochs * missing[task] for task in todo)) as bar:

        def on_epoch(task: Task, of_seeds: Sequence[int]) -> None:
            with bar.get_lock():  # each device has a thread
                bar.set_description_str(f"{report.layers(task)}, {labels[task.method]}", refresh=False)
                bar.update(compilation.pop(task, 0) + work[task] * len(of_seeds))

        sweep.on_epoch = on_epoch
        sweep.run(todo, seeds)


def _check(tasks: Sequence[Task], images: data.Data) -> None:
    """What only the data and the models tell."""
    if train.steps_per_epoch(tasks[0], images) == 0:
        sys.exit(f"error: --batch-size: {images.name} has only {len(images.train_x)} training images")
    for task in tasks:
        try:
            train.prepare(task, images)
        except (ValueError, ZeroDivisionError) as error:
            sys.exit(f"error: {task.model} with {report.layers(task)} and {task.method} on {images.name}: {error}")


if __name__ == "__main__":
    # One task on each core: networks as small as these leave most of a second core idle.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", min(cores, 8))
    main()
