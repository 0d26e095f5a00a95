"""What the studies found: tables, as text, Markdown and CSV, and pictures."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.presentation import as_markdown, seeds, short, write_csv
from examples.spirals import pictures
from examples.spirals.studies import Study
from examples.spirals.train import Result


def table(study: Study, results: Sequence[Result]) -> tuple[str, list[list[str]]]:
    """What the table shows, and its rows, the heading first."""
    rows, what = _TABLES[study.name](study, results)
    over = f"mean ± standard deviation over {study.seeds} seeds" if study.seeds > 1 else seeds(1)
    return f"{what}: {over}.", rows


def write(studies: Sequence[Study], results: dict[str, list[Result]], preset: str, output: Path) -> list[Path]:
    """Write everything to ``output``; returns the files."""
    sections, files = [f"# Spirals, {preset} preset"], []
    for study in studies:
        heading, rows = table(study, results[study.name])
        drawn = pictures.draw(study, results[study.name], output)
        sections += [f"## {study.name.capitalize()}", heading, as_markdown(rows)]
        sections += [f"Settings: {pictures.settings(study)}"]
        sections += [f"![{picture.stem.replace('_', ' ')}]({picture.name})" for picture in drawn]
        files += drawn
    (output / "results.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    found = [(name, result) for name, group in results.items() for result in group]
    runs = write_csv(RUNS, (row for name, result in found for row in _runs(name, result)), output / "runs.csv")
    curves = write_csv(CURVES, (row for name, result in found for row in _curves(name, result)), output / "curves.csv")
    return [output / "results.md", runs, curves, *files]


def _mean_and_sd(accuracies: np.ndarray) -> str:
    """The accuracy itself, of a single seed."""
    return short(accuracies.mean()) + (f" ± {short(accuracies.std())}" if len(accuracies) > 1 else "")


def _by_task(study: Study, results: Sequence[Result]) -> tuple[list[list[str]], str]:
    cells = {(r.task, r.method.name): _mean_and_sd(r.final[0]) for r in results}
    body = [[task.title, *(cells[task, name] for name in study.methods)] for task in study.tasks]
    return [["Task", *study.methods], *body], "Final test accuracy"


def _by_method(study: Study, results: Sequence[Result]) -> tuple[list[list[str]], str]:
    body = []
    for r in results:
        final = r.final[0]
        quarters = np.percentile(final, [0, 25, 50, 75, 100])
        body.append([r.method.name, _mean_and_sd(final), *map(short, quarters)])
    what = f"Final test accuracy on {results[0].task.title}"
    return [["Method", "Mean", "Worst", "25 %", "Median", "75 %", "Best"], *body], what


def _by_temperature(study: Study, results: Sequence[Result]) -> tuple[list[list[str]], str]:
    temperatures = [value for (value,) in results[0].method.values]
    body = [[f"{tau:g}", *(_mean_and_sd(r.final[i]) for r in results)] for i, tau in enumerate(temperatures)]
    names = [f"{r.method.name}, {r.task.nodes} nodes" for r in results]
    return [["Temperature", *names], *body], "Final test accuracy on 4-turn spirals"


def _by_thermostat(study: Study, results: Sequence[Result]) -> tuple[list[list[str]], str]:
    adlala, sgld, adam = results
    sigmas = [value for (value,) in sgld.method.values]
    body = []
    for i, (coupling, sigma) in enumerate(adlala.method.values):
        if sigma == sigmas[0]:
            body.append([f"AdLaLa, coupling {coupling:g}"])
        body[-1].append(_mean_and_sd(adlala.final[i]))
    body.append(["SGLD", *(_mean_and_sd(final) for final in sgld.final)])
    body.append(["Adam", _mean_and_sd(adam.final[0]), *["" for _ in sigmas[1:]]])
    return [["", *(f"σ = {sigma:g}" for sigma in sigmas)], *body], "Final test accuracy on 4-turn spirals"


def _by_length(study: Study, results: Sequence[Result]) -> tuple[list[list[str]], str]:
    body = [[f"{r.steps[-1]}", _mean_and_sd(r.final[0])] for r in results]
    return [["Steps", results[0].method.name], *body], f"Test accuracy on {results[0].task.title}"


_TABLES: dict[str, Callable[[Study, Sequence[Result]], tuple[list[list[str]], str]]] = {
    "accuracy": _by_task,
    "spread": _by_method,
    "temperature": _by_temperature,
    "thermostat": _by_thermostat,
    "wide": _by_length,
}

RUNS = (
    "study",
    "shape",
    "turns",
    "nodes",
    "batch_size",
    "steps",
    "method",
    "values",
    "seed",
    "final",
    "best",
    "final_loss",
)
CURVES = ("study", "shape", "turns", "nodes", "batch_size", "steps", "method", "values", "step", "mean", "sd", "loss")


def _runs(study: str, r: Result) -> Iterable[tuple[Any, ...]]:
    for value, accuracies, losses in zip(r.method.values, r.accuracy, r.loss, strict=True):
        for seed, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True)):
            yield *_where(study, r, value), seed, f"{accuracy[-1]:.3f}", f"{accuracy.max():.3f}", f"{loss[-1]:.6g}"


def _curves(study: str, r: Result) -> Iterable[tuple[Any, ...]]:
    for value, accuracy, loss in zip(r.method.values, r.accuracy, r.loss, strict=True):
        for step, *figures in zip(r.steps, accuracy.mean(axis=0), accuracy.std(axis=0), loss.mean(axis=0), strict=True):
            yield *_where(study, r, value), step, *(f"{figure:.6g}" for figure in figures)


def _where(study: str, r: Result, value: Sequence[float]) -> tuple[Any, ...]:
    task, method = r.task, r.method
    names = list(inspect.signature(method.make).parameters)[2:]
    values = " ".join(f"{name}={x:g}" for name, x in zip(names, value, strict=False))
    return study, task.shape, f"{task.turns:g}", task.nodes, task.batch_size, r.steps[-1], method.name, values
