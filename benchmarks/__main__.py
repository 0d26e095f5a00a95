"""What Langevin costs against Optax and the peers that are installed: one table, and a picture."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import measures, report
from examples import interrupts
from examples.storage import Shown, StorageError, alone


@interrupts.in_one_line()
def main(arguments: Sequence[str] | None = None) -> None:
    gpu = jax.default_backend() == "gpu"
    sections = list(measures.SECTIONS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=sections,
        default=sections,
        metavar="SECTION",
        help="large (one leaf), highway (320 leaves), training (whole training steps), parameters and leaves (the "
        "curves, both needed for the picture) (default: all)",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=10.0,
        help="how long the contenders of a comparison take turns, for 15 rounds at least (default: 10)",
    )
    parser.add_argument(
        "--entries",
        type=_entries,
        default=10**9 if gpu else 10**7,
        help="size of the large leaf (default: 1e9 on a GPU, 1e7 elsewhere)",
    )
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=["float32", "bfloat16"],
        default=["float32", "bfloat16"] if gpu else ["float32"],
        metavar="DTYPE",
        help="of the large leaf, float32 or bfloat16 (default: both on a GPU, float32 elsewhere)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/benchmarks"),
        help="where the files go (default: results/benchmarks)",
    )
    options = parser.parse_args(arguments)

    sizes = measures.Sizes(options.seconds, options.entries, tuple(options.dtypes))
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: cannot make the folder {str(options.output)!r}: {error.strerror}")
    try:
        with alone(options.output):
            _measure(list(dict.fromkeys(options.only)), sizes, command, options.output)
    except StorageError as error:
        sys.exit(f"error: {error}")


def _measure(sections: Sequence[str], sizes: measures.Sizes, command: str, output: Path) -> None:
    shown = Shown(output)
    shown.check(_settings(sections, sizes))
    print(f"{report.machine()}\n{report.line(report.HEADING)}", flush=True)
    rows: list[measures.Row] = []
    written: list[Path] = []
    with interrupts.stopping("writing the comparisons that are finished") as stop:
        for number, section in enumerate(sections, 1):
            for row in measures.SECTIONS[section](sizes):
                print(report.line(report.cells(row)), flush=True)
                rows.append(row)
                if stop.is_set():
                    break
            done = _settings(sections[: number - stop.is_set()], sizes)
            if shown.holds(done):  # after each section, so that none is lost: neither one of these nor an earlier one
                shown.write(done)
                written = report.write(rows, command, output)
            if stop.is_set():
                break
    print(*written, sep="\n")
    if stop.is_set():
        sys.exit(interrupts.STATUS)


def _settings(sections: Sequence[str], sizes: measures.Sizes) -> dict[str, Any]:
    each = {"seconds": sizes.seconds, "entries": sizes.entries, "dtypes": list(sizes.dtypes)}
    return each | {f"section {section}": True for section in sections}


def _entries(text: str) -> int:
    number = _number(text)
    if not 1 <= number <= 1e12 or number != int(number):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 1e12, such as 1e7, got {text!r}")
    return int(number)


def _seconds(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 1e6:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1e6, got {text!r}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


if __name__ == "__main__":
    main()
