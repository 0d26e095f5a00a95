"""Every optimiser of the lecture notes, plain and Langevin: ``python -m examples.optimisers``."""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from examples import interrupts, storage
from examples.optimisers import pictures, train
from examples.optimisers.methods import METHODS, Method
from examples.optimisers.train import Result, initial, run
from examples.presentation import Bar, as_markdown, as_text, rounded

HEADING = (
    *("Optimiser", "P", "Update", "Quadratic: γ", "L plain", "L Langevin", "Var. along", "Var. across"),
    *("Deep: γ", "Loss plain", "Loss Langevin"),
)
TRAINED = 0.1


@interrupts.ending()
def main(argv: Sequence[str] | None = None) -> None:
    output = _parse(argv)
    results = _run()
    rows = [HEADING, *map(_row, results)]
    print("", as_text(rows), sep="\n")
    storage.write_whole(output / "results.md", f"{as_markdown(rows)}\n\n![optimisers](optimisers.png)\n")
    print("\nWritten:", output / "results.md", pictures.draw(results, output), sep="\n  ")


def _run() -> list[Result]:
    params = initial()
    # One more than cores: Python traces one program while XLA compiles others.
    with Bar(total=len(METHODS)) as bar, ThreadPoolExecutor(max_workers=1 + (os.cpu_count() or 1)) as threads:

        def one(method: Method) -> Result:
            result = run(method, params)
            bar.set_description_str(method.name, refresh=False)
            bar.update(1)
            return result

        return [*threads.map(one, reversed(METHODS))][::-1]  # the longest first


def _row(r: Result) -> list[str]:
    first, last = r.method.quadratic
    return [
        r.method.name,
        r.method.p,
        r.method.words,
        f"{first:g}" if first == last else f"{first:g} to {last:g}",
        _loss(r.losses[0, min(train.FALL, train.STEPS - 1)]),
        _loss(r.losses[1:, train.STEPS // 2 :].mean()),
        *(f"{ratio:.2f}" for ratio in r.spread),
        f"{r.method.deep:g}",
        *map(_of_seeds, r.deep_losses[:, :, -1]),
    ]


def _of_seeds(losses: np.ndarray) -> str:
    """Their median, and how many trained."""
    finite = np.nan_to_num(losses, nan=np.inf)
    return f"{_loss(np.median(finite))}, {(finite < TRAINED).sum()}/{len(losses)}"


def _loss(loss: float) -> str:
    return f"{loss:.0e}" if 0 < loss < 1e-3 else rounded(loss, 2)


def _parse(argv: Sequence[str] | None) -> Path:
    parser = argparse.ArgumentParser(
        prog="python -m examples.optimisers",
        description="Run every optimiser of the lecture notes, plain and Langevin, on an ill-conditioned quadratic and "
        "on a deep network, and draw their paths side by side.",
    )
    parser.add_argument(
        "--output",
        type=storage.folder,
        default="results/optimisers",
        metavar="DIR",
        help="where files go (default: results/optimisers)",
    )
    output: Path = parser.parse_args(argv).output
    return output


if __name__ == "__main__":
    main()
