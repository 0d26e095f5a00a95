"""Adam, Langevin Adam and Layer Langevin Adam on ever deeper networks: ``python -m examples.image_classification``."""

import argparse
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from examples.image_classification import data, models, report, train
from examples.presentation import Bar, as_text

# Progress counts layers times epochs, to which time is proportional; compiling takes about as long as this many.
_COMPILATION = 800


def main(argv: Sequence[str] | None = None) -> None:
    settings, output = _parse(argv)
    digits = data.digits()
    print(textwrap.fill(report.caption(settings, digits), 100), flush=True)
    results = study(digits, settings)
    note, finding = textwrap.fill(report.CELL_NOTE, 100), report.finding(results)
    print("", as_text(report.table(results)), note, finding, sep="\n\n", flush=True)
    print("\nWritten:", *report.write(results, settings, digits, output), sep="\n  ")


def study(digits: data.Data, settings: train.Settings) -> list[report.Result]:
    """Every depth with every optimiser."""
    tasks = []
    for depth in settings.depths:
        model = models.Dense(depth, settings.width)
        tasks += [(depth, model, name, tx) for name, tx in train.optimizers(model, digits, settings).items()]

    def compiled(task):
        depth, model, name, tx = task
        return depth, name, train.compile_training(model, tx, digits, settings)

    results = []
    with Bar(total=sum(_COMPILATION + depth * settings.epochs for depth, *_ in tasks)) as bar:
        for depth, name, training in _one_ahead(compiled, tasks):
            bar.set_description_str(f"depth {depth}, {name}", refresh=False)
            bar.update(_COMPILATION)
            chunks = []
            for curves in training:
                chunks.append(curves)
                bar.update(depth * curves.loss.shape[1])
            results.append(report.Result(depth, name, train.Curves(*map(np.hstack, zip(*chunks, strict=True)))))
    return results


def _one_ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """``map``, with the next result under way in a thread while the current one is in use."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        futures = (thread.submit(function, item) for item in items)
        current = next(futures)
        for following in futures:
            yield current.result()
            current = following
        yield current.result()


def _parse(argv: Sequence[str] | None) -> tuple[train.Settings, Path]:
    default = train.Settings()
    parser = argparse.ArgumentParser(
        prog="python -m examples.image_classification",
        description="Train dense networks of several depths with Adam, Langevin Adam and Layer Langevin Adam, from the "
        "same initial weights on the same batches, and compare their test accuracy.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--depths", type=_positive, nargs="+", default=default.depths, metavar="N", help="hidden layers"
    )
    parser.add_argument("--seeds", type=_positive, default=default.seeds, metavar="N", help="number of seeds")
    parser.add_argument("--epochs", type=_positive, default=default.epochs, metavar="N", help="epochs of each run")
    parser.add_argument("--adam-eps", type=_eps, default=default.adam_eps, metavar="EPS", help="eps of plain Adam")
    parser.add_argument("--output", type=Path, default=Path("results"), metavar="DIR", help="where the files go")
    flags = parser.parse_args(argv)
    try:
        flags.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: cannot make the folder {str(flags.output)!r}: {error.strerror}")
    depths = tuple(sorted(set(flags.depths)))
    return train.Settings(depths=depths, seeds=flags.seeds, epochs=flags.epochs, adam_eps=flags.adam_eps), flags.output


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _eps(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return value


if __name__ == "__main__":
    main()
