"""Posteriors of small networks, by Langevin samplers and others: ``python -m examples.posterior``."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from examples import interrupts
from examples.posterior import report
from examples.posterior.compare import FULL, QUICK, Sizes, run
from examples.posterior.methods import METHODS
from examples.presentation import as_text
from examples.storage import Shown, StorageError, alone


def main(argv: Sequence[str] | None = None) -> None:
    output, sizes = _parse(argv)
    try:
        with alone(output), interrupts.ending("nothing is written"):
            _compare(sizes, output)
    except StorageError as error:
        sys.exit(f"error: {error}")


def _compare(sizes: Sizes, output: Path) -> None:
    shown = Shown(output)
    settings = {"sizes": sizes._asdict(), "step sizes": {method.name: method.step_sizes for method in METHODS}}
    shown.check(settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*estimates have warnings", UserWarning)  # the table and the picture say so
        outcomes, learning = run(sizes)
    for title, rows in report.tables(outcomes, learning).items():
        print("", title, as_text(rows), sep="\n\n", flush=True)
    shown.write(settings)
    print("\nWritten:", *report.write(outcomes, learning, sizes, output), sep="\n  ")


def _parse(argv: Sequence[str] | None) -> tuple[Path, Sizes]:
    parser = argparse.ArgumentParser(
        prog="python -m examples.posterior",
        description="Sample the posteriors of small networks: the bands of a regression against NUTS, scores on data "
        "of scikit-learn against a point estimate and an ensemble, and the local learning coefficient of a training.",
    )
    parser.add_argument("--quick", action="store_true", help="a few steps of everything, to see whether it runs")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/posterior"),
        metavar="DIR",
        help="where files go (default: results/posterior)",
    )
    flags = parser.parse_args(argv)
    output: Path = flags.output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: cannot make the folder {str(output)!r}: {error.strerror}")
    return output, QUICK if flags.quick else FULL


if __name__ == "__main__":
    main()
