"""Partitioned Langevin integrators on spirals: ``python -m examples.spirals``."""

import argparse
import os
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from examples.presentation import Bar, as_text
from examples.spirals import report
from examples.spirals.studies import NAMES, Study, studies
from examples.spirals.train import Method, Result, Task, train

_COMPILATION = 3e6  # µs


def main(argv: Sequence[str] | None = None) -> None:
    preset, chosen, output = _parse(argv)
    print(f"{preset} preset: {', '.join(study.name for study in chosen)}", flush=True)
    results = run(chosen)
    for study in chosen:
        heading, rows = report.table(study, results[study.name])
        print("", textwrap.fill(heading, 100), as_text(rows), sep="\n\n", flush=True)
    print("\nWritten:", *report.write(chosen, results, preset, output), sep="\n  ")


def run(chosen: Sequence[Study]) -> dict[str, list[Result]]:
    """Every part of every study; as many at a time as there are cores, since each program uses little more than one."""
    parts = [(study, task, method) for study in chosen for task, method in study.parts]
    with (
        Bar(total=sum(_COMPILATION + _cost(*part) for part in parts)) as bar,
        ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads,
    ):

        def one(part):
            study, task, method = part
            bar.update(_COMPILATION)

            def progress(steps):
                bar.set_description_str(f"{study.name}: {task.title}, {method.name}", refresh=False)
                bar.update(_cost(*part) * steps / task.steps)

            return train(task, method, study.seeds, progress, keep_last=study.regions)

        found = list(threads.map(one, parts))
    return {
        study.name: [result for part, result in zip(parts, found, strict=True) if part[0] is study] for study in chosen
    }


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
