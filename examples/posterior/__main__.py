"""Posteriors of small networks, by Langevin samplers and others: ``python -m examples.posterior``."""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from examples import interrupts, storage
from examples.posterior import report
from examples.posterior.compare import FULL, QUICK, Sizes, run
from examples.posterior.methods import METHODS
from examples.presentation import as_text


@interrupts.ending()
def main(argv: Sequence[str] | None = None) -> None:
    output, sizes = _parse(argv)
    settings = {"sizes": sizes._asdict(), "step sizes": {method.name: method.step_sizes for method in METHODS}}
    storage.check(output, settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*estimates have warnings", UserWarning)  # the table and the picture say so
        outcomes, learning = run(sizes)
    for title, rows in report.tables(outcomes, learning).items():
        print("", title, as_text(rows), sep="\n\n", flush=True)
    storage.keep(output, settings)
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
        type=storage.folder,
        default="results/posterior",
        metavar="DIR",
        help="where files go (default: results/posterior)",
    )
    flags = parser.parse_args(argv)
    return flags.output, QUICK if flags.quick else FULL


if __name__ == "__main__":
    main()
