"""What the runs found, in tables: printed, as Markdown and as CSV."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from examples.image_classification import optimizers
from examples.image_classification.data import Data
from examples.image_classification.models import DEPTH_IS
from examples.image_classification.results import Run
from examples.image_classification.task import Task
from examples.presentation import as_markdown, as_text, counted, short, write_csv


class Result(NamedTuple):
    """All seeds of a task."""

    task: Task
    runs: Sequence[Run]
    classes: int

    @property
    def depth(self) -> int:
        return self.task.depth

    @property
    def optimizer(self) -> str:
        return optimizers.label(self.task)

    @property
    def family(self) -> str:
        return optimizers.family(self.task.optimizer)

    @property
    def final(self) -> np.ndarray:
        return np.array([run.accuracy[-1] for run in self.runs])

    @property
    def best(self) -> np.ndarray:
        return np.array([run.accuracy.max() for run in self.runs])

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


def trained_above(classes: int) -> float:
    """Five times chance; with few classes, halfway from chance to 1."""
    return min(5 / classes, (1 + 1 / classes) / 2)


def caption(tasks: Sequence[Task], seeds: int, data: Data) -> str:
    task = tasks[0]
    steps = len(data.train_x) // task.batch_size
    parts = [
        f"{data.name}, {len(data.train_x)} training and {len(data.test_x)} test images"
        + (", augmented" if task.augment else ""),
        f"{task.model}, width {task.width}" + ("" if task.dtype == "float32" else f", {task.dtype}"),
        f"{counted(seeds, 'seed')}, {counted(task.epochs, 'epoch')} of {counted(steps, 'batch')} of {task.batch_size}"
        + (f", stopped early after {task.early_stopping}" if task.early_stopping is not None else ""),
        f"learning rate {_by_optimizer(tasks, 'learning_rate')}, {task.learning_rate_schedule}",
    ]
    noisy = [t for t in tasks if t.sigma is not None]
    if noisy:
        steps_with_noise = noisy[0].noisy_steps
        share = "" if steps_with_noise is None else f" over the first {steps_with_noise * 100:g} % of the steps"
        bound = "" if noisy[0].max_noise is None else f", noise of at most {noisy[0].max_noise:g} per step"
        parts.append(f"sigma {_by_optimizer(noisy, 'sigma')}, {noisy[0].sigma_schedule}{share}{bound}")
    eps = next((t.plain_eps for t in tasks if t.plain_eps is not None), None)
    if noisy and eps is None:
        parts.append("eps the default of each library")
    elif eps is not None:
        parts.append(f"eps {eps:g} for plain optimisers")
    integrators = [t for t in tasks if t.temperature is not None]
    if integrators:
        friction = next((t.friction for t in integrators if t.friction is not None), None)
        temperature = f"temperature {integrators[0].temperature:g}"
        parts.append(temperature + ("" if friction is None else f", friction {friction:g}"))
    adlala = next((t for t in integrators if t.thermostat_sigma is not None), None)
    if adlala is not None:
        parts.append(f"AdLaLa's sigma {adlala.thermostat_sigma:g} and coupling {adlala.coupling:g}")
    return "; ".join(parts) + "."


def _by_optimizer(tasks: Sequence[Task], field: str) -> str:
    values: dict[float, list[str]] = {}
    for task in tasks:
        family = optimizers.family(task.optimizer)
        name = optimizers.FAMILIES.get(family) or optimizers.INTEGRATORS[task.optimizer]
        names = values.setdefault(getattr(task, field), [])
        if name not in names:
            names.append(name)
    if len(values) == 1:
        return f"{next(iter(values)):g}"
    return ", ".join(f"{value:g} ({' and '.join(names)})" for value, names in values.items())


def finding(results: Sequence[Result]) -> str:
    deepest = [r for r in results if r.depth == max(r.depth for r in results)]
    counts = ", ".join(f"{r.optimizer} {r.trained.sum()}" for r in deepest)
    return f"Trained with {layers(deepest[0].task)}, of {counted(len(deepest[0].runs), 'seed')}: {counts}."


def layers(task: Task) -> str:
    return counted(task.depth, DEPTH_IS[task.model])


def settings(tasks: Sequence[Task], seeds: int) -> dict[str, Any]:
    """What the tables show: every task with each of the seeds."""
    of_tasks = {f"{layers(task)}, {optimizers.label(task)}": asdict(task) for task in tasks}
    return of_tasks | {f"seed {seed}": True for seed in range(seeds)}


def cell_note(classes: int) -> str:
    return (
        "Final test accuracy: median (worst to best) over the seeds, and how many of them trained. Trained: a final "
        f"test accuracy above {trained_above(classes):g}, and a training loss that stayed finite."
    )


def difference_note(seeds: int) -> str:
    what = "Final test accuracy minus that of the plain optimiser (for SGLD, SGD)"
    if seeds == 1:
        return f"{what}."
    return (
        f"{what}, seed by seed: the mean, and its 95 % interval by the percentile bootstrap over the seeds, which says "
        "little where there are only three."
    )


def table(results: Sequence[Result]) -> list[list[str]]:
    """Rows of cells, the heading first: optimisers down, depths across."""
    return _matrix(results, {(r.optimizer, r.depth): r.cell for r in results})


def means(results: Sequence[Result]) -> list[list[str]]:
    """The same for mean and standard deviation."""
    return _matrix(results, {(r.optimizer, r.depth): f"{short(r.final.mean())} ± {short(_sd(r))}" for r in results})


def _sd(r: Result) -> float:
    return r.final.std(ddof=1) if len(r.final) > 1 else np.nan


def differences(results: Sequence[Result]) -> list[list[str]] | None:
    """The same for the difference from the plain optimiser; None if there is nothing to compare."""
    plain = {(r.task.optimizer, r.depth): r for r in results}
    compared = [r for r in results if r.family != r.task.optimizer and (r.family, r.depth) in plain]
    if not compared:
        return None
    return _matrix(compared, {(r.optimizer, r.depth): _difference(r, plain[r.family, r.depth]) for r in compared})


def _difference(result: Result, plain: Result) -> str:
    mean, low, high = paired_difference(result.final, plain.final)
    interval = "" if np.isnan(low) else f" [{signed(low)}, {signed(high)}]"
    return signed(mean) + interval


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


def _matrix(results: Sequence[Result], cells: dict[tuple[str, int], str]) -> list[list[str]]:
    names, depths = list(dict.fromkeys(r.optimizer for r in results)), sorted({r.depth for r in results})
    return [
        ["Optimiser", *(layers(next(r.task for r in results if r.depth == depth)) for depth in depths)],
        *([name, *(cells[name, depth] for depth in depths)] for name in names),
    ]


def printed(results: Sequence[Result]) -> str:
    classes = results[0].classes
    return "\n\n".join(part if isinstance(part, str) else as_text(part) for part in _parts(results, classes))


def _parts(results: Sequence[Result], classes: int) -> list[Any]:
    against_plain = differences(results)
    parts: list[Any]
    parts = [table(results), cell_note(classes)]
    if against_plain is not None:
        parts += [against_plain, difference_note(len(results[0].runs))]
    return [*parts, finding(results)]


def write(results: Sequence[Result], note: str, pictures: Sequence[Path], output: Path) -> list[Path]:
    """Write the tables to ``output``; returns the files."""
    return [
        _write_markdown(results, note, pictures, output / "results.md"),
        write_csv(SUMMARY, map(_summary, results), output / "summary.csv"),
        write_csv(RUNS, (run for r in results for run in _runs(r)), output / "runs.csv"),
        write_csv(DIFFERENCES, _differences(results), output / "differences.csv"),
    ]


def _write_markdown(results: Sequence[Result], note: str, pictures: Sequence[Path], path: Path) -> Path:
    every = _parts(results, results[0].classes)
    if len(results[0].runs) > 1:
        every += [means(results), "Mean and standard deviation over the seeds."]
    parts = [part if isinstance(part, str) else as_markdown(part) for part in every]
    links = [f"![{picture.stem.replace('_', ' ').capitalize()}]({picture.name})" for picture in pictures]
    path.write_text("\n\n".join(["# Results", f"Settings: {note}", *parts, *links]) + "\n", encoding="utf-8")
    return path


_OF_ALL = ("data", "model", "depth", "optimiser", "learning_rate", "sigma")
SUMMARY = (
    *_OF_ALL,
    *("final_mean", "final_sd", "final_median", "final_worst", "final_best", "best_epoch_median"),
    *("trained", "diverged", "seeds", "epochs"),
)
DIFFERENCES = ("data", "model", "depth", "optimiser", "minus", "mean", "low", "high", "seed", "difference")
RUNS = (*_OF_ALL, *("seed", "noisy_share", "epochs", "final", "best", "final_loss", "trained"))


def _of_all(r: Result) -> tuple[Any, ...]:
    sigma = "" if r.task.sigma is None else f"{r.task.sigma:g}"
    return r.task.data, r.task.model, r.depth, r.optimizer, f"{r.task.learning_rate:g}", sigma


def _summary(r: Result) -> tuple[Any, ...]:
    accuracies = r.final.mean(), _sd(r), np.median(r.final), r.final.min(), r.final.max(), np.median(r.best)
    return *_of_all(r), *map(_figure, accuracies), r.trained.sum(), r.diverged.sum(), len(r.runs), r.task.epochs


def _runs(r: Result) -> Iterable[tuple[Any, ...]]:
    for run, final, best, trained in zip(r.runs, r.final, r.best, r.trained, strict=True):
        where = run.seed, f"{run.noisy_share:.4g}", len(run.accuracy)
        yield *_of_all(r), *where, _figure(final), _figure(best), f"{run.loss[-1]:.6g}", int(trained)


def _differences(results: Sequence[Result]) -> Iterable[tuple[Any, ...]]:
    """Of each version from the plain optimiser, and of Layer Langevin from Langevin."""
    by_name = {(r.task.optimizer, r.depth): r for r in results}
    for r in results:
        langevin = "l-" + r.family if r.task.optimizer.startswith("ll-") else r.family
        for name in dict.fromkeys((r.family, langevin)):
            other = by_name.get((name, r.depth))
            if other is not None and other is not r:
                mean, low, high = map(_figure, paired_difference(r.final, other.final))
                for run, difference in zip(r.runs, r.final - other.final, strict=True):
                    where = r.task.data, r.task.model, r.depth, r.optimizer, other.optimizer
                    yield *where, mean, low, high, run.seed, _figure(difference)


def _figure(accuracy: float) -> str:
    """Empty for what a single seed does not have."""
    return "" if np.isnan(accuracy) else f"{accuracy:.6f}"
