"""The pictures of the studies."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from examples.presentation import FONTS, STYLES, counted, finish, seeds, short, side_by_side
from examples.spirals.studies import Study
from examples.spirals.train import AVERAGED_STEPS, Result, classifier, prepare

CLASSES = ("#0072B2", "#D55E00")  # of the points; the regions have them lighter


def draw(study: Study, results: Sequence[Result], output: Path) -> list[Path]:
    """The pictures of a study; returns the files."""
    with plt.rc_context(FONTS):
        return [picture(study, results, output) for picture in _PICTURES[study.name]]


def settings(study: Study, of: str | None = None) -> str:
    """The settings of a study, as one sentence; ``of`` are the seeds, if not all of them."""
    tasks = [task for task, _ in study.parts]
    first = tasks[0]

    def all_of(values: Iterable[Any]) -> str:
        return ", ".join(str(value) for value in dict.fromkeys(values))

    return (
        f"{all_of(task.steps for task in tasks)} steps on batches of {all_of(task.batch_size for task in tasks)} of "
        f"{first.points} points, {all_of(task.nodes for task in tasks)} hidden ReLU nodes, "
        f"{of or seeds(study.seeds)}; data, initial weights and batches depend on the seed alone."
    )


def _accuracy_against_step(study: Study, results: Sequence[Result], output: Path) -> Path:
    tasks, methods = study.tasks, study.methods
    figure, axes = _grid(len(tasks), columns=3, size=(4.2, 3.2))
    for axis, task in zip(axes, tasks, strict=True):
        for r in (r for r in results if r.task == task):
            colour, line, _ = STYLES[methods.index(r.method.name)]
            mean, sd = r.accuracy[0].mean(axis=0), r.accuracy[0].std(axis=0)
            axis.plot(r.steps, mean, linestyle=line, color=colour, linewidth=2, label=r.method.name)
            axis.fill_between(r.steps, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
        axis.set(title=task.title, xlabel="Step", ylabel="Test accuracy", ylim=(0.45, 1.02))
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 3), useMathText=True)
        axis.grid(alpha=0.3)
    several = study.seeds > 1
    note = settings(study) + " Bands: one standard deviation." * several
    path = output / "accuracy_against_step.png"
    title = "Test accuracy against step" + ": mean over the seeds" * several
    return finish(figure, title, note, path, legend_columns=len(methods))


def _decision_regions(study: Study, results: Sequence[Result], output: Path) -> Path:
    tasks, methods = study.tasks, study.methods
    figure, axes = plt.subplots(
        len(tasks), len(methods), figsize=(2.5 * len(methods) + 0.3, 2.9 * len(tasks) + 1.0), squeeze=False
    )
    for row, task in zip(axes, tasks, strict=True):
        for axis, name in zip(row, methods, strict=True):
            (r,) = (r for r in results if r.task == task and r.method.name == name)
            _regions(axis, r)
            axis.set_title(f"{name}: {short(r.final[0, 0])}", fontsize=10)
        row[0].set_ylabel(task.title.replace(", ", ",\n"), fontsize=10)
    path = output / "decision_regions.png"
    return finish(figure, "Decision regions and training points", _regions_note(study), path)


def _regions_in_time(study: Study, results: Sequence[Result], output: Path) -> Path:
    figure, axes = plt.subplots(1, len(results), figsize=(3.6 * len(results) + 0.4, 5.2), squeeze=False)
    for axis, r in zip(axes[0], results, strict=True):
        _regions(axis, r)
        axis.set_title(f"{r.steps[-1]} steps: {short(r.final[0, 0])}")
    title = f"{results[0].method.name}, {results[0].task.nodes} nodes"
    return finish(figure, title, _regions_note(study), output / "wide_regions.png")


def _regions_note(study: Study) -> str:
    return (
        f"Regions: the likelier class, the paler the nearer to ½ its probability is, by the mean classifier of "
        f"{AVERAGED_STEPS} steps after the last. Above each panel: test accuracy. {settings(study, of=seeds(1))}"
    )


def _regions(axis: Any, r: Result) -> None:
    given = jax.tree.map(lambda leaf: np.asarray(leaf[0]), prepare(r.task, r.final.shape[1]).points)
    limit = 1.1 * float(np.abs(given.train_x).max())
    side = np.linspace(-limit, limit, 200, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    probability = classifier(r, grid.reshape(-1, 2)).reshape(len(side), len(side))
    shades = LinearSegmentedColormap.from_list("", [CLASSES[1], "white", CLASSES[0]])
    axis.contourf(side, side, probability, np.linspace(0, 1, 11), cmap=shades, vmin=-0.4, vmax=1.4)
    for label, colour in ((0, CLASSES[1]), (1, CLASSES[0])):
        axis.plot(*given.train_x[given.train_y == label].T, ".", color=colour, markersize=2)
        axis.plot([], [], "o", color=colour, markersize=7, label=f"class {label}")  # for the legend
    axis.set(xticks=[], yticks=[], aspect="equal")


def _spread(study: Study, results: Sequence[Result], output: Path) -> Path:
    figure, axis = plt.subplots(figsize=(9, 5))
    for place, r in enumerate(results):
        final = np.sort(r.final[0])
        # Side by side rather than on top of each other, in an order that says nothing.
        offset = 0.3 * (np.modf(np.arange(len(final)) * 0.618)[0] - 0.5)
        axis.plot(place + offset, final, STYLES[place][2], color=STYLES[place][0], markersize=4, alpha=0.5)
    box = {"color": "0.2", "linewidth": 1.5}
    axis.boxplot(
        [r.final[0] for r in results],
        positions=range(len(results)),
        widths=0.55,
        whis=(0, 100),
        boxprops=box,
        medianprops=box,
        whiskerprops=box,
        capprops=box,
    )
    axis.set(ylabel="Final test accuracy", ylim=(min(0.5, axis.get_ylim()[0]), 1.01))
    axis.set_xticks(range(len(results)), [r.method.name.replace(", ", ",\n") for r in results])
    axis.grid(axis="y", alpha=0.3)
    note = f"{results[0].task.title}. {settings(study)} Box: quarters; whiskers: all."
    return finish(figure, f"Spread over {counted(study.seeds, 'run')}", note, output / "spread.png", legend=False)


def _accuracy_against_temperature(study: Study, results: Sequence[Result], output: Path) -> Path:
    figure, axes = _grid(len(results), columns=2, size=(4.6, 3.8))
    for axis, r in zip(axes, results, strict=True):
        places = np.arange(len(r.method.values))
        colour = STYLES[0][0]
        axis.plot(places[:, None] + side_by_side(study.seeds, 0.3), r.final, "o", color=colour, markersize=4, alpha=0.4)
        axis.plot(places, r.final.mean(axis=1), color=colour, linewidth=2)
        axis.set_xticks(places, [f"{tau:g}" for (tau,) in r.method.values])
        axis.set(title=f"{r.method.name}, {r.task.nodes} nodes", xlabel="Temperature", ylabel="Final test accuracy")
        axis.set_ylim(0.45, 1.02)
        axis.grid(alpha=0.3)
    note = settings(study) + " Line: mean; marks: each seed, side by side." * (study.seeds > 1)
    title = "Accuracy against temperature, 4-turn spirals"
    return finish(figure, title, note, output / "accuracy_against_temperature.png", legend=False)


def _thermostat(study: Study, results: Sequence[Result], output: Path) -> Path:
    adlala, sgld, adam = results
    sigmas = [value for (value,) in sgld.method.values]
    couplings = list(dict.fromkeys(coupling for coupling, _ in adlala.method.values))
    means = adlala.final.mean(axis=1).reshape(len(couplings), len(sigmas))
    means = np.vstack([means, sgld.final.mean(axis=1), np.full(len(sigmas), adam.final.mean())])
    figure, axis = plt.subplots(figsize=(8, 5.4))
    image = axis.imshow(means, cmap="viridis", vmin=0.5, aspect="auto")
    bright = 0.5 + 0.7 * (means.max() - 0.5)
    middle = (len(sigmas) - 1) / 2
    cells = [(place, mean) for place, mean in np.ndenumerate(means[:-1])] + [((len(means) - 1, middle), means[-1, 0])]
    for (row, column), mean in cells:
        axis.text(column, row, short(mean), ha="center", va="center", color="black" if mean > bright else "white")
    axis.set_xticks(range(len(sigmas)), [f"{sigma:g}" for sigma in sigmas])
    names = [f"AdLaLa, coupling {coupling:g}" for coupling in couplings]
    axis.set_yticks(range(len(means)), [*names, "SGLD (SGD at σ = 0)", "Adam (no σ)"])
    axis.set(xlabel="σ")
    figure.colorbar(image, label="Final test accuracy")
    note = settings(study) + " Mean over the seeds." * (study.seeds > 1)
    return finish(figure, "The thermostat's settings, 4-turn spirals", note, output / "thermostat.png", legend=False)


_PICTURES: dict[str, list[Callable[[Study, Sequence[Result], Path], Path]]] = {
    "accuracy": [_accuracy_against_step, _decision_regions],
    "spread": [_spread],
    "temperature": [_accuracy_against_temperature],
    "thermostat": [_thermostat],
    "wide": [_regions_in_time],
}


def _grid(panels: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(size[0] * columns, size[1] * rows + 1.2), squeeze=False)
    for axis in axes.flat[panels:]:
        axis.remove()
    return figure, list(axes.flat[:panels])
