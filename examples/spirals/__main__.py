"""The figures of the partitioned integrators, on spirals: ``python -m examples.spirals --figures 8 14 16``."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Event

from examples import interrupts
from examples.presentation import Bar, as_text, counted
from examples.spirals import report
from examples.spirals.figures import NAMES, Study, figures
from examples.spirals.train import Result, train
from examples.storage import Shown, StorageError, alone


@interrupts.in_one_line()
def main(argv: Sequence[str] | None = None) -> None:
    preset, chosen, output = _parse(argv)
    shown, finished = Shown(output), 0
    try:
        with alone(output), interrupts.stopping("what is finished is written") as stop:
            shown.check({"preset": preset})
            shown.write({"preset": preset})
            for study, results in run(chosen, stop):
                files = report.update(study, results, output)
                rows = [row[1:] for row in (report.SUMMARY, *report.summary(study, results))]
                print(f"\n{study.name}. {study.title}\n", as_text(rows), "\nWritten:", *files, sep="\n", flush=True)
                finished += 1
            if stop.is_set():
                print(f"\n{finished} of {counted(len(chosen), 'figure')} finished.", flush=True)
                sys.exit(interrupts.STATUS)
    except StorageError as error:
        sys.exit(f"error: {error}")


def run(chosen: Sequence[Study], stop: Event) -> Iterator[tuple[Study, list[Result]]]:
    """Every study that is finished before ``stop`` is set, as soon as it is.

    As many parts at a time as there are cores, since each program uses little more than one.
    """

    def cost(study, task, method):  # in µs on one core, compilation included
        return 3e6 + (15 + 0.004 * task.nodes * task.batch_size) * task.steps * study.seeds * len(method.settings)

    parts = [(study, task, method) for study in chosen for task, method in study.parts]
    with (
        Bar(total=sum(cost(*part) for part in parts)) as bar,
        ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as threads,
    ):

        def one(part):
            study, task, method = part

            def progress(steps):
                if stop.is_set():
                    raise CancelledError
                bar.set_description_str(f"{study.name}: {task.title}, {method.name}", refresh=False)
                bar.update(cost(*part) * steps / task.steps)

            try:
                progress(0)
                return train(task, method, study.seeds, progress, keep=study.keep)
            except CancelledError:
                return None

        found = threads.map(one, parts)
        for study in chosen:
            results = [result for result in islice(found, len(study.parts)) if result is not None]
            if len(results) == len(study.parts):
                yield study, results


def _parse(argv: Sequence[str] | None) -> tuple[str, list[Study], Path]:
    parser = argparse.ArgumentParser(
        prog="python -m examples.spirals",
        description="Reproduce the figures of Leimkuhler, Matthews and Vlaar (arXiv 1908.11843) on generated spirals.",
    )
    parser.add_argument(
        "--figures",
        choices=NAMES,
        nargs="+",
        metavar="FIGURE",
        help=f"which ones, of {', '.join(NAMES)} (default: all with --preset full, 4, 8, 15 and 16 with short); the "
        "formula of the data of 1, 2, 11 and 12 is not known",
    )
    parser.add_argument(
        "--preset",
        choices=("short", "full"),
        default="short",
        help="full: the steps and seeds of the literature; short (default): few of either, to see how it works",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where files go (default: results/spirals/PRESET)")
    flags = parser.parse_args(argv)
    output = flags.output or Path("results/spirals", flags.preset)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: cannot make the folder {str(output)!r}: {error.strerror}")
    everything = figures(short=flags.preset == "short")
    names = flags.figures or (NAMES if flags.preset == "full" else ("4", "8", "15", "16"))
    return flags.preset, [everything[name] for name in dict.fromkeys(names)], output


if __name__ == "__main__":
    main()
