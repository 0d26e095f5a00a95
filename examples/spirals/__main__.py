"""Partitioned Langevin integrators on spirals: ``python -m examples.spirals``."""

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from examples import interrupts
from examples.presentation import Bar, as_text, counted
from examples.spirals import report
from examples.spirals.studies import NAMES, Study, studies
from examples.spirals.train import Method, Result, Task, train
from examples.storage import Shown, StorageError, alone

_COMPILATION = 3e6  # µs


@interrupts.in_one_line()
def main(argv: Sequence[str] | None = None) -> None:
    preset, chosen, output = _parse(argv)
    try:
        with alone(output):
            _compare(preset, chosen, output)
    except StorageError as error:
        sys.exit(f"error: {error}")


def _compare(preset: str, chosen: Sequence[Study], output: Path) -> None:
    shown = Shown(output)
    shown.check(_settings(preset, chosen))
    print(f"{preset} preset: {', '.join(study.name for study in chosen)}", flush=True)
    with interrupts.stopping("writing what is finished") as stop:
        results = run(chosen, stop)
        finished = [study for study in chosen if len(results[study.name]) == len(study.parts)]
        if len(finished) < len(chosen):
            print(f"\n{len(finished)} of {counted(len(chosen), 'study')} finished.", flush=True)
            if not shown.holds(_settings(preset, finished)):  # what was begun has it all, but not what is finished
                print(f"Nothing is written: {output} shows more.", flush=True)
                sys.exit(interrupts.STATUS)
        for study in finished:
            heading, rows = report.table(study, results[study.name])
            print("", textwrap.fill(heading, 100), as_text(rows), sep="\n\n", flush=True)
        if any(results.values()):
            shown.write(_settings(preset, finished))
            print("\nWritten:", *report.write(finished, results, preset, output), sep="\n  ")
        if stop.is_set():
            sys.exit(interrupts.STATUS)


def _settings(preset: str, chosen: Sequence[Study]) -> dict[str, Any]:
    return {"preset": preset} | {f"study {study.name}": True for study in chosen}


def run(chosen: Sequence[Study], stop: Event) -> dict[str, list[Result]]:
    """Every part of every study that was finished before ``stop`` was set.

    As many parts at a time as there are cores, since each program uses little more than one.
    """
    parts = [(study, task, method) for study in chosen for task, method in study.parts]
    with (
        Bar(total=sum(_COMPILATION + _cost(*part) for part in parts)) as bar,
        ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads,
    ):

        def one(part):
            study, task, method = part
            if stop.is_set():
                return None
            bar.update(_COMPILATION)

            def progress(steps):
                if stop.is_set():
                    raise _Stopped
                bar.set_description_str(f"{study.name}: {task.title}, {method.name}", refresh=False)
                bar.update(_cost(*part) * steps / task.steps)

            try:
                return train(task, method, study.seeds, progress, keep_last=study.regions)
            except _Stopped:
                return None

        found = list(threads.map(one, parts))
    finished = [(part[0], result) for part, result in zip(parts, found, strict=True) if result is not None]
    return {study.name: [result for of, result in finished if of is study] for study in chosen}


class _Stopped(Exception):
    """In the middle of a part."""


def _cost(study: Study, task: Task, method: Method) -> float:
    """About how long a part runs, in µs on one core."""
    return (30 + 0.006 * task.nodes * task.batch_size) * task.steps * study.seeds * len(method.values)


def _parse(argv: Sequence[str] | None) -> tuple[str, list[Study], Path]:
    parser = argparse.ArgumentParser(
        prog="python -m examples.spirals",
        description="Train perceptrons on generated spirals with SGD, Adam, SGLD, LOL, BAOAB and AdLaLa, and compare "
        "their test accuracy, with the settings of the literature.",
    )
    parser.add_argument(
        "--preset",
        choices=("short", "full"),
        default="short",
        help="short (default): under two minutes on two cores; full: the networks, lengths and seeds of the literature",
    )
    parser.add_argument(
        "--studies",
        choices=NAMES,
        nargs="+",
        metavar="STUDY",
        help=f"which ones to run, of {', '.join(NAMES)} (default: all of the preset)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/spirals"),
        metavar="DIR",
        help="where files go (default: results/spirals)",
    )
    flags = parser.parse_args(argv)
    try:
        flags.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: cannot make the folder {str(flags.output)!r}: {error.strerror}")
    everything = studies(short=flags.preset == "short")
    names = flags.studies or list(everything)
    absent = [name for name in names if name not in everything]
    if absent:
        parser.error(f"argument --studies: {', '.join(absent)} only runs with --preset full")
    return flags.preset, [study for name, study in everything.items() if name in names], flags.output


if __name__ == "__main__":
    main()
