"""What the runs found, in tables: printed, as Markdown and as CSV."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from examples.image_classification import methods
from examples.image_classification.data import Data
from examples.image_classification.methods import Method
from examples.image_classification.models import DEPTH_IS
from examples.image_classification.sweep import Run
from examples.image_classification.train import Task
from examples.presentation import as_markdown, as_text, counted, short, write_csv
from examples.storage import write_whole


@dataclass
class Result:
    """All seeds of a task."""

    task: Task
    label: str  # of its method
    runs: Sequence[Run]
    classes: int

    @property
    def depth(self) -> int:
        return self.task.depth

    @property
    def family(self) -> str:
        return self.task.method.family

    @property
    def final(self) -> np.ndarray:
        return np.array([run.accuracy[-1] for run in self.runs])

    @property
    def diverged(self) -> np.ndarray:
        return np.array([not np.isfinite(run.loss).all() for run in self.runs])

    @property
    def trained(self) -> np.ndarray:
        return (self.final > trained_above(self.classes)) & ~self.diverged

    @property
    def cell(self) -> str:
        median, worst, best = map(short, (np.median(self.final), self.final.min(), self.final.max()))
        diverged = f", {self.diverged.sum()} diverged" if self.diverged.any() else ""
        return f"{median} ({worst} to {best}) {self.trained.sum()}/{len(self.runs)}{diverged}"


def of_tasks(tasks: Sequence[Task], runs: Sequence[Sequence[Run]], classes: int) -> list[Result]:
    names = labels(tasks)
    return [Result(task, names[task.method], found, classes) for task, found in zip(tasks, runs, strict=True)]


def labels(tasks: Sequence[Task]) -> dict[Method, str]:
    return methods.labels(list(dict.fromkeys(task.method for task in tasks)))


def layers(task: Task) -> str:
    return counted(task.depth, DEPTH_IS[task.model])


def trained_above(classes: int) -> float:
    """Five times chance; with few classes, halfway from chance to 1."""
    return min(5 / classes, (1 + 1 / classes) / 2)


def settings(tasks: Sequence[Task], seeds: int) -> dict[str, Any]:
    """What the tables show: every depth and method, with each of the seeds."""
    common = {key: value for key, value in asdict(tasks[0]).items() if key not in ("depth", "method")}
    shown = [*(layers(task) for task in tasks), *(str(task.method) for task in tasks)]
    return common | dict.fromkeys([*shown, *(f"seed {seed}" for seed in range(seeds))], True)


def caption(tasks: Sequence[Task], seeds: int, data: Data) -> str:
    task, names = tasks[0], labels(tasks)
    steps = len(data.train_x) // task.batch_size
    parts = [
        f"{data.name}, {len(data.train_x)} training and {len(data.test_x)} test images"
        + (", augmented" if task.augment else ""),
        f"{task.model}, width {task.width}",
        f"{counted(seeds, 'seed')}, {counted(task.epochs, 'epoch')} of {counted(steps, 'batch')} of {task.batch_size}",
        *filter(None, (_setting(key, names) for key in methods.SETTINGS if key != "layers")),
    ]
    return "; ".join(parts) + "."


def _setting(key: str, names: dict[Method, str]) -> str:
    """The value of most methods that have it, and the others with their names; not of those whose names say it."""
    values = {m: methods.setting(key, getattr(m, key)) for m in names if key in methods.own(m.name)}
    if all(getattr(m, key) is None for m in values):
        return ""
    values = {m: text for m, text in values.items() if f", {text}" not in names[m]}
    words = f"{key.replace('_', ' ')} "
    parts: list[str] = []
    for text, _ in Counter(values.values()).most_common():
        whose = f" ({' and '.join(names[m] for m in values if values[m] == text)})" if parts else ""
        parts.append(text.removeprefix(words) + whose)
    return words + ", ".join(parts) if parts else ""


def printed(results: Sequence[Result]) -> str:
    return "\n\n".join(part if isinstance(part, str) else as_text(part) for part in _parts(results))


def write(results: Sequence[Result], note: str, pictures: Sequence[Path], output: Path) -> list[Path]:
    """Write the tables to ``output``; returns the files."""
    parts = [part if isinstance(part, str) else as_markdown(part) for part in _parts(results)]
    links = [f"![{picture.stem.replace('_', ' ').capitalize()}]({picture.name})" for picture in pictures]
    text = "\n\n".join(["# Results", f"Settings: {note}", *parts, *links]) + "\n"
    page = write_whole(output / "results.md", text)
    rows = [row for result in results for row in _runs(result)]
    return [
        page,
        write_csv(SUMMARY, [_summary(result, _plain(results, result)) for result in results], output / "summary.csv"),
        write_csv(RUNS, rows, output / "runs.csv"),
    ]


def _parts(results: Sequence[Result]) -> list[Any]:
    """Tables, as rows of cells with the heading first, and sentences."""
    parts: list[Any] = [
        _matrix(results, {(r.label, r.depth): r.cell for r in results}),
        "Final test accuracy: median (worst to best) over the seeds, and how many of them trained. Trained: a final "
        f"test accuracy above {trained_above(results[0].classes):g}, and a training loss that stayed finite.",
    ]
    compared = {(r.label, r.depth): _difference(r, plain) for r in results if (plain := _plain(results, r)) is not None}
    if compared:
        interval = ", and its 95 % interval by the percentile bootstrap over the seeds" * (len(results[0].runs) > 1)
        parts += [
            _matrix([r for r in results if any(r.label == label for label, _ in compared)], compared),
            f"Final test accuracy minus that of the best plain optimiser there, seed by seed: the mean{interval}.",
        ]
    return parts


def _matrix(results: Sequence[Result], cells: dict[tuple[str, int], str]) -> list[list[str]]:
    names, depths = list(dict.fromkeys(r.label for r in results)), sorted({r.depth for r in results})
    return [
        ["Method", *(layers(next(r.task for r in results if r.depth == depth)) for depth in depths)],
        *([name, *(cells[name, depth] for depth in depths)] for name in names),
    ]


def _plain(results: Sequence[Result], result: Result) -> Result | None:
    """The strongest plain optimiser that it is a version of, at its depth."""
    if not result.task.method.is_langevin:
        return None
    found = [r for r in results if r.task.method.name == result.family and r.depth == result.depth]
    return max(found, key=lambda r: r.final.mean(), default=None)


def _difference(result: Result, plain: Result) -> str:
    mean, low, high = paired_difference(result.final, plain.final)
    return signed(mean) + ("" if np.isnan(low) else f" [{signed(low)}, {signed(high)}]")


def paired_difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """The mean of ours − theirs, and its 95 % bootstrap interval; nan for a single pair."""
    difference = ours - theirs
    if len(difference) == 1:
        return difference[0], np.nan, np.nan
    if np.ptp(difference) == 0:
        return difference[0], difference[0], difference[0]
    low, high = scipy.stats.bootstrap(
        (difference,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(0)
    ).confidence_interval
    return difference.mean(), low, high


def signed(value: float) -> str:
    return ("−" if round(value, 3) < 0 else "+") + short(abs(value))


_OF_ALL = ("data", "model", "depth", "method", "learning_rate", "sigma")
SUMMARY = (
    *_OF_ALL,
    *("final_mean", "final_sd", "final_median", "final_worst", "final_best", "trained", "diverged", "seeds", "epochs"),
    *("minus", "difference", "low", "high"),
)
RUNS = (*_OF_ALL, *("seed", "noisy_share", "epochs", "final", "final_loss", "trained"))


def _of_all(r: Result) -> tuple[Any, ...]:
    sigma = "" if r.task.method.sigma is None else f"{r.task.method.sigma:g}"
    return r.task.data, r.task.model, r.depth, r.label, f"{r.task.method.learning_rate:g}", sigma


def _summary(r: Result, plain: Result | None) -> tuple[Any, ...]:
    sd = r.final.std(ddof=1) if len(r.final) > 1 else np.nan
    accuracies = r.final.mean(), sd, np.median(r.final), r.final.min(), r.final.max()
    counts = r.trained.sum(), r.diverged.sum(), len(r.runs), r.task.epochs
    against = ("", np.nan, np.nan, np.nan) if plain is None else (plain.label, *paired_difference(r.final, plain.final))
    return *_of_all(r), *map(_figure, accuracies), *counts, against[0], *map(_figure, against[1:])


def _runs(r: Result) -> list[tuple[Any, ...]]:
    return [
        (*_of_all(r), run.seed, f"{run.noisy_share:.4g}", len(run.accuracy), _figure(final), f"{run.loss[-1]:.6g}", t)
        for run, final, t in zip(r.runs, r.final, r.trained.astype(int), strict=True)
    ]


def _figure(accuracy: float) -> str:
    """Empty for what a single seed does not have."""
    return "" if np.isnan(accuracy) else f"{accuracy:.6f}"
