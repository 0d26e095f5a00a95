"""What Langevin costs against Optax and the peers that are installed: one table, and a picture."""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from benchmarks import compiled, measures, report
from benchmarks.sections import SECTIONS
from examples import interrupts, storage


@interrupts.ending("sections that have ended are written")
def main(arguments: Sequence[str] | None = None) -> None:
    sections = list(SECTIONS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=sections,
        metavar="SECTION",
        help="large (one leaf), highway (320 leaves), training (whole training steps), parameters and leaves (the "
        "curves, both needed for the picture), matrices (SOAP, Shampoo, PRONG), posterior (effective samples per "
        "gradient of six preconditioners), sampling (effective samples per second, and the local learning coefficient, "
        "beside the peers) (default: all)",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        help="how long the contenders of a comparison take turns, for 15 rounds at least (default: 10)",
    )
    parser.add_argument(
        "--entries",
        type=_entries,
        help="size of the large leaf (default: 1e9 on a GPU, 1e7 elsewhere)",
    )
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=["float32", "bfloat16"],
        metavar="DTYPE",
        help="of the large leaf, float32 or bfloat16 (default: both on a GPU, float32 elsewhere)",
    )
    parser.add_argument(
        "--compiled",
        nargs="+",
        choices=list(compiled.PLATFORMS),
        metavar="PLATFORM",
        help="measure nothing, and read off the programs that XLA compiles for a TPU v5e (tpu) or an H100 (gpu), "
        "without either, what memory they move and need",
    )
    parser.add_argument(
        "--output",
        type=storage.folder,
        help="where the files go (default: results/benchmarks, and results/compiled with --compiled)",
    )
    options = parser.parse_args(arguments)

    if options.compiled and any([options.only, options.seconds is not None, options.entries, options.dtypes]):
        parser.error("--compiled has cases of its own: leave out --only, --seconds, --entries and --dtypes")
    if options.output is None:
        options.output = storage.folder("results/compiled" if options.compiled else "results/benchmarks")
    if options.compiled:
        try:
            for name in options.compiled:
                compiled.devices(name)
        except compiled.MissingError as error:
            sys.exit(f"error: {error}")
        chosen = {f"compiled for {name}": partial(compiled.rows, name) for name in dict.fromkeys(options.compiled)}
    else:
        names = dict.fromkeys(options.only or sections)
        chosen = {name: partial(SECTIONS[name], _sizes(options)) for name in names}
    settings = {} if options.compiled else _sizes(options)._asdict()
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if arguments is None else arguments)])
    _measure(chosen, settings, command, options.output)


def _sizes(options: argparse.Namespace) -> measures.Sizes:
    gpu = jax.default_backend() == "gpu"
    entries = options.entries or (10**9 if gpu else 10**7)
    dtypes = options.dtypes or (["float32", "bfloat16"] if gpu else ["float32"])
    return measures.Sizes(10.0 if options.seconds is None else options.seconds, entries, tuple(dtypes))


def _measure(
    sections: Mapping[str, Callable[[], Iterable[measures.Row]]], settings: Any, command: str, output: Path
) -> None:
    storage.check(output, _settings(sections, settings))
    print(f"{report.machine()}\n{report.line(report.HEADING)}", flush=True)
    rows: list[measures.Row] = []
    written: list[Path] = []
    again = (output / "settings.json").exists()  # then what is there stays until all of it is there anew
    for number, rows_of in enumerate(sections.values(), 1):
        for row in rows_of():
            print(report.line(report.cells(row)), flush=True)
            rows.append(row)
        if number == len(sections) or not again:
            storage.keep(output, _settings(list(sections)[:number], settings))
            written = report.write(rows, command, output)
    print(*written, sep="\n")


def _settings(sections: Iterable[str], settings: Any) -> dict[str, Any]:
    each = {name: settings[name] for name in ("seconds", "entries", "dtypes") if name in settings}
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
