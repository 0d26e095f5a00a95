"""What Langevin costs against Optax and the peers that are installed: one table, and a picture."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks import measures, report, samplers

DRAWS = 10**7  # of each sampler, for its statistics


def main(arguments: Sequence[str] | None = None) -> None:
    gpu = jax.default_backend() == "gpu"
    sections = [*measures.SECTIONS, "samplers"]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=sections,
        default=sections,
        metavar="SECTION",
        help="large (one leaf), highway (320 leaves), training (whole training steps), parameters and leaves (the "
        "curves, both needed for the picture), samplers (default: all)",
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
        help="size of the large leaf, of large and samplers (default: 1e9 on a GPU, 1e7 elsewhere)",
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
    print(f"{report.machine()}\n{report.line(report.HEADING)}", flush=True)
    rows: list[measures.Row] = []
    statistics: list[samplers.Statistics] = []
    for section in dict.fromkeys(options.only):
        for row in samplers.times(sizes) if section == "samplers" else measures.SECTIONS[section](sizes):
            print(report.line(report.cells(row)), flush=True)
            rows.append(row)
        if section == "samplers":
            statistics = list(samplers.statistics(min(options.entries, DRAWS)))
        written = report.write(rows, statistics, command, options.output)  # after each, so that none is lost
    print(*written, sep="\n")


def _entries(text: str) -> int:
    number = _number(text)
    if not 1 <= number < 2**40 or number != int(number):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, such as 1e7, got {text}")
    return int(number)


def _seconds(text: str) -> float:
    number = _number(text)
    if not 0 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text}") from None


if __name__ == "__main__":
    main()
