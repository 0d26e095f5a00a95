"""What Langevin costs against Optax and the peers that are installed: one table, and a picture."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks import measures, report, samplers


def main(arguments: Sequence[str] | None = None) -> None:
    gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    sections = [*measures.SECTIONS, "samplers"]
    parser.add_argument("--only", nargs="+", choices=sections, default=sections, help="which measures to take")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each comparison (default: 10)")
    parser.add_argument(
        "--entries",
        type=lambda text: int(float(text)),
        default=10**9 if gpu else 10**7,
        help="of the large leaf (default: 1e9 on a GPU, 1e7 elsewhere)",
    )
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=["float32", "bfloat16"],
        default=["float32", "bfloat16"] if gpu else ["float32"],
        help="of the large leaf (default: both on a GPU, float32 elsewhere)",
    )
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"), help="where the files go")
    options = parser.parse_args(arguments)

    sizes = measures.Sizes(options.seconds, options.entries, tuple(options.dtypes))
    print(report.machine(), flush=True)
    rows: list[measures.Row] = []
    for section in options.only:
        for row in samplers.times(sizes) if section == "samplers" else measures.SECTIONS[section](sizes):
            print(report.line(row), flush=True)
            rows.append(row)
    found = list(samplers.statistics(options.entries)) if "samplers" in options.only else []
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if arguments is None else arguments)])
    for path in report.write(rows, found, options.entries, command, options.output):
        print(path)


if __name__ == "__main__":
    main()
