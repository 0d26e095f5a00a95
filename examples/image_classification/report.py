"""What the study found: the table, as text, Markdown and CSV, and two pictures."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from examples.image_classification.data import Data
from examples.image_classification.train import Curves, Settings
from examples.presentation import FONTS, STYLES, as_markdown, finish, short, write_csv

TRAINED_ABOVE = 0.5

CELL_NOTE = (
    "Final test accuracy: median (worst to best) over the seeds, and how many of them trained. Trained: a final test "
    f"accuracy above {TRAINED_ABOVE:g}, and a training loss that stayed finite."
)


class Result(NamedTuple):
    """All seeds of one model with one optimiser."""

    depth: int
    optimizer: str
    curves: Curves

    @property
    def final(self) -> np.ndarray:
        return self.curves.accuracy[:, -1]

    @property
    def best(self) -> np.ndarray:
        return self.curves.accuracy.max(axis=1)

    @property
    def trained(self) -> np.ndarray:
        return (self.final > TRAINED_ABOVE) & np.isfinite(self.curves.loss).all(axis=1)

    @property
    def cell(self) -> str:
        median, worst, best = map(short, (np.median(self.final), self.final.min(), self.final.max()))
        return f"{median} ({worst} to {best}) {self.trained.sum()}/{len(self.trained)}"


def caption(settings: Settings, data: Data) -> str:
    steps = len(data.train_x) // settings.batch_size
    return (
        f"scikit-learn's digits, {len(data.train_x)} training and {len(data.test_x)} test images; dense networks of "
        f"{settings.width} ReLU units a layer; {settings.seeds} seeds, {settings.epochs} epochs of {steps} batches of "
        f"{settings.batch_size}; learning rate {settings.learning_rate:g}, eps {settings.adam_eps:g} "
        "for Adam and 1e-06 for its Langevin versions; sigma from "
        f"{settings.sigma:g} to 0 over the first {settings.noisy_steps * 100:g} % of the steps."
    )


def finding(results: Sequence[Result]) -> str:
    deepest = [r for r in results if r.depth == max(r.depth for r in results)]
    first, *rest = deepest
    counts = [f"{first.optimizer} trained {first.trained.sum()} of {len(first.trained)} seeds"]
    counts += [f"{r.optimizer} {r.trained.sum()} of {len(r.trained)}" for r in rest]
    return f"At {_layers(first.depth)} {', '.join(counts)}."


def table(results: Sequence[Result]) -> list[list[str]]:
    """Rows of cells, the heading first: depths down, optimisers across."""
    names, depths = _names(results), _depths(results)
    cells = {(r.depth, r.optimizer): r.cell for r in results}
    return [["Hidden layers", *names], *([str(depth), *(cells[depth, name] for name in names)] for depth in depths)]


def write(results: Sequence[Result], settings: Settings, data: Data, output: Path) -> list[Path]:
    """Write everything to ``output``; returns the files."""
    note = caption(settings, data)
    with plt.rc_context(FONTS):
        return [
            _write_markdown(results, note, output / "results.md"),
            write_csv(SUMMARY, map(_summary, results), output / "summary.csv"),
            write_csv(RUNS, (run for r in results for run in _runs(r)), output / "runs.csv"),
            _learning_curves(results, note, output / "learning_curves.png"),
            _accuracy_against_depth(results, note, output / "accuracy_against_depth.png"),
        ]


def _write_markdown(results: Sequence[Result], note: str, path: Path) -> Path:
    parts = [
        "# Depth study",
        finding(results),
        as_markdown(table(results)),
        CELL_NOTE,
        f"Settings: {note}",
        "![Learning curves](learning_curves.png)",
        "![Accuracy against depth](accuracy_against_depth.png)",
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


SUMMARY = ("depth", "optimiser", "final_median", "final_worst", "final_best", "best_epoch_median", "trained", "seeds")
RUNS = ("depth", "optimiser", "seed", "final", "best", "final_loss", "trained")


def _summary(r: Result) -> tuple[Any, ...]:
    accuracies = np.median(r.final), r.final.min(), r.final.max(), np.median(r.best)
    return r.depth, r.optimizer, *map(_figure, accuracies), r.trained.sum(), len(r.trained)


def _runs(r: Result) -> Iterable[tuple[Any, ...]]:
    for seed, (final, best, loss, trained) in enumerate(
        zip(r.final, r.best, r.curves.loss[:, -1], r.trained, strict=True)
    ):
        yield r.depth, r.optimizer, seed, _figure(final), _figure(best), f"{loss:.6g}", int(trained)


def _learning_curves(results: Sequence[Result], note: str, path: Path) -> Path:
    names, depths = _names(results), _depths(results)
    columns = min(2, len(depths))
    rows = -(-len(depths) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.5 * columns, 3.4 * rows + 1.2), squeeze=False)
    for axis, depth in zip(axes.flat, depths, strict=False):
        for r in [r for r in results if r.depth == depth]:
            colour, line, _ = STYLES[names.index(r.optimizer)]
            accuracy = r.curves.accuracy.T
            median = np.median(accuracy, axis=1)
            epochs = np.arange(1, len(accuracy) + 1)
            axis.plot(epochs, accuracy, color=colour, linewidth=0.7, alpha=0.35)
            axis.plot(epochs, median, line, color=colour, linewidth=2.4, zorder=3, label=r.optimizer)
        axis.set(title=_layers(depth), xlabel="Epoch", ylim=(0, 1.02))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("Test accuracy")
    for axis in axes.flat[len(depths) :]:
        axis.remove()
    return finish(figure, "Test accuracy: median (bold) and each seed (thin)", note, path)


def _accuracy_against_depth(results: Sequence[Result], note: str, path: Path) -> Path:
    names, depths = _names(results), _depths(results)
    figure, axis = plt.subplots(figsize=(8.5, 5.8))
    offset = 0.06 * min(np.diff(depths), default=1)
    for i, name in enumerate(names):
        colour, line, mark = STYLES[i]
        final = np.array([r.final for r in results if r.optimizer == name])
        places = np.array(depths) + (i - (len(names) - 1) / 2) * offset
        median = np.median(final, axis=1)
        axis.plot(depths, median, line, marker=mark, color=colour, linewidth=2, markevery=[], label=name)
        axis.plot(places, median, "_", color=colour, markersize=16, markeredgewidth=2)
        axis.plot(places, final, mark, color=colour, markersize=6, alpha=0.55)
    axis.axhline(TRAINED_ABOVE, color="0.45", linewidth=1, linestyle=":")
    axis.text(
        0.01,
        TRAINED_ABOVE + 0.01,
        f"trained: above {short(TRAINED_ABOVE)}",
        transform=axis.get_yaxis_transform(),
        color="0.35",
    )
    axis.margins(x=0.05 if len(depths) > 1 else 1)
    axis.set(xlabel="Hidden layers", ylabel="Final test accuracy", xticks=depths, ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    return finish(figure, "Accuracy against depth: median (line) and each seed (mark)", note, path)


def _names(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(r.optimizer for r in results))


def _depths(results: Sequence[Result]) -> list[int]:
    return sorted({r.depth for r in results})


def _layers(depth: int) -> str:
    return f"{depth} hidden layer{'s' if depth > 1 else ''}"


def _figure(accuracy: float) -> str:
    return f"{accuracy:.6f}"
