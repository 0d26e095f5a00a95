"""The pictures of the studies, one each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from examples.presentation import FONTS, STYLES, finish, seeds, short, side_by_side
from examples.spirals.figures import Study
from examples.spirals.train import AVERAGED_STEPS, Result, classifier, losses_between, prepare

CLASSES = ("#D55E00", "#0072B2")  # of the points; the regions have them lighter
Drawn = tuple[Any, str]  # the figure, and what its note says first


def draw(study: Study, results: Sequence[Result], path: Path) -> Path:
    picture = _PICTURES.get(study.name, _curves)
    shown = seeds(1 if picture in (_regions, _evolution) else study.seeds)
    with plt.rc_context(FONTS):
        figure, note = picture(study, results)
        note += f" {results[0].task.steps} steps; 500 points, batches of 5 % unless stated; {shown}; data, initial "
        note += "weights and batches depend on the seed alone."
        title = f"Figure {study.name}: " * study.name.isdecimal() + study.title
        return finish(figure, title, note, path, legend=picture in (_curves, _temperature, _regions))


def _axes(rows: int, columns: int, width: float, height: float) -> tuple[Any, np.ndarray]:
    return plt.subplots(rows, columns, figsize=(max(8, width * columns), height * rows + 1.8), squeeze=False)


def _curves(study: Study, results: Sequence[Result]) -> Drawn:
    tasks = list(dict.fromkeys(r.task for r in results))
    figure, axes = _axes(1, len(tasks), 4.4, 3.6)
    for axis, task in zip(axes[0], tasks, strict=True):
        of = [(r, i, setting) for r in results if r.task == task for i, setting in enumerate(r.method.settings)]
        for (r, i, setting), (colour, line, _) in zip(of, STYLES, strict=False):
            mean, sd = r.accuracy[i].mean(axis=0), r.accuracy[i].std(axis=0, ddof=1)
            axis.plot(r.steps, mean, linestyle=line, color=colour, linewidth=2, label=r.method.label(setting))
            axis.fill_between(r.steps, mean - sd, mean + sd, color=colour, alpha=0.12, linewidth=0)
        axis.set(title=task.title, xlabel="Step", ylabel="Test accuracy", ylim=(0.45, 1.02))
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=True)
        axis.grid(alpha=0.3)
    return figure, "Lines: mean; bands: one standard deviation."


def _spread(study: Study, results: Sequence[Result]) -> Drawn:
    figure, ((axis,),) = _axes(1, 1, 1.1 * len(results), 4.6)
    dark = {"color": "0.2", "linewidth": 1.5}
    box: Any = {f"{part}props": dark for part in ("box", "median", "whisker", "cap")}
    axis.boxplot([r.final[0] for r in results], positions=range(len(results)), widths=0.55, whis=(0, 100), **box)
    styles = dict(zip(dict.fromkeys(r.method.name for r in results), STYLES, strict=False))
    for place, r in enumerate(results):
        # Side by side rather than on top of each other, in an order that says nothing.
        offset = 0.3 * (np.modf(np.arange(study.seeds) * 0.618)[0] - 0.5)
        colour, _, mark = styles[r.method.name]
        axis.plot(place + offset, np.sort(r.final[0]), mark, color=colour, markersize=4, alpha=0.5)
    common = results[0].task.title
    names = [(r.method.name + r.task.title.removeprefix(common)).replace(", ", ",\n") for r in results]
    axis.set_xticks(range(len(results)), names, fontsize=9)
    axis.set_ylabel("Final test accuracy")
    axis.grid(axis="y", alpha=0.3)
    return figure, f"{common}. Box: quarters; whiskers: all; marks: each seed."


def _temperature(study: Study, results: Sequence[Result]) -> Drawn:
    figure, ((axis,),) = _axes(1, 1, 9, 4)
    for r, shift, (colour, line, mark) in zip(results, side_by_side(len(results), 0.6), STYLES, strict=False):
        places = np.arange(len(r.method.settings)) + shift
        axis.plot(places[:, None] + side_by_side(study.seeds, 0.15), r.final, mark, color=colour, ms=4, alpha=0.4)
        axis.plot(places, r.final.mean(axis=1), linestyle=line, color=colour, linewidth=2, label=r.method.name)
    axis.set_xticks(range(len(results[0].method.settings)), [f"{s['tau']:g}" for s in results[0].method.settings])
    axis.set(xlabel="Temperature", ylabel="Final test accuracy")
    axis.grid(axis="y", alpha=0.3)
    return figure, f"{results[0].task.title}. Line: mean; marks: each seed."


def _heat(study: Study, results: Sequence[Result]) -> Drawn:
    (r,) = results
    rows, columns = (list(dict.fromkeys(s[name] for s in r.method.settings)) for name in ("tau", "sigma"))
    of_settings = r.final.reshape(len(rows), len(columns), -1)
    means, sds = of_settings.mean(axis=-1), of_settings.std(axis=-1, ddof=1)
    figure, ((axis,),) = _axes(1, 1, 8, 4)
    image = axis.imshow(means, cmap="viridis", vmin=0.5, aspect="auto")
    for (row, column), mean in np.ndenumerate(means):
        colour = "black" if mean > 0.5 + 0.7 * (means.max() - 0.5) else "white"
        axis.text(
            column, row, f"{short(mean)}\n± {short(float(sds[row, column]))}", ha="center", va="center", color=colour
        )
    axis.set_xticks(range(len(columns)), [f"{x:g}" for x in columns])
    axis.set_yticks(range(len(rows)), [f"{x:g}" for x in rows])
    axis.set(xlabel="σ of the first layer", ylabel="Temperature of the first layer")
    figure.colorbar(image, label="Final test accuracy")
    return figure, f"{r.task.title}. Mean ± standard deviation."


def _regions(study: Study, results: Sequence[Result]) -> Drawn:
    """Three in a row: the methods on one task, or in figure 9 one method at three times."""
    times = (1 / 3, 2 / 3, 1) if study.name == "9" else (1,)
    panels = [(r, round(len(r.steps) * time) - 1) for r in results for time in times]
    figure, axes = _axes(len(panels) // 3, 3, 3.2, 3.6)
    shades = LinearSegmentedColormap.from_list("", [CLASSES[0], "white", CLASSES[1]])
    for axis, (r, record) in zip(axes.flat, panels, strict=True):
        points = jax.tree.map(lambda leaf: np.asarray(leaf[0]), prepare(r.task, study.seeds).points)
        side = np.linspace(-1, 1, 200, dtype=np.float32) * 1.1 * float(np.abs(points.train_x).max())
        probability = classifier(r, record, np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)).reshape(200, 200)
        axis.contourf(side, side, probability, np.linspace(0, 1, 11), cmap=shades, vmin=-0.4, vmax=1.4)
        for label, colour in enumerate(CLASSES):
            axis.plot(*points.train_x[points.train_y == label].T, ".", color=colour, markersize=2)
            axis.plot([], [], "o", color=colour, markersize=7, label=f"class {label}")  # for the legend
        above = f"{r.method.name}{r.task.start}\nstep {r.steps[record]}: {short(r.accuracy[0, 0, record])}"
        axis.set_title(above, fontsize=10)
        axis.set(xticks=[], yticks=[], aspect="equal")
    common = results[0].task._replace(init_sd=None).title
    return figure, f"{common}. The likelier class, mean classifier of {AVERAGED_STEPS} steps. Above: test accuracy."


def _evolution(study: Study, results: Sequence[Result]) -> Drawn:
    """A row for each tensor, a column for each method; a line for each of 40 parameters."""
    rows = ("Weights,\nhidden", 0, "kernel"), ("Biases,\nhidden", 0, "bias"), ("Weights,\noutput", 1, "kernel")
    figure, axes = _axes(len(rows), len(results), 3.2, 2.3)
    for row, (name, layer, leaf) in zip(axes, rows, strict=True):
        for axis, r in zip(row, results, strict=True):
            values = r.params["params"][f"Dense_{layer}"][leaf][0, 0, :, -1].reshape(len(r.steps), -1)[:, :40]
            axis.plot(r.steps / 1000, values, linewidth=0.7, alpha=0.8)
        row[0].set_ylabel(name)
    for top, bottom, r in zip(axes[0], axes[-1], results, strict=True):
        top.set_title(f"{r.method.name}: {short(r.final[0, 0])}")
        bottom.set_xlabel("Thousand steps")
    return figure, f"{results[0].task.title}. A line for each of 40 parameters. Above: final test accuracy."


def _between(study: Study, results: Sequence[Result]) -> Drawn:
    figure, axes = _axes(1, len(results) - 1, 4.6, 3.6)
    places = np.linspace(-0.5, 1.5, 81)
    for axis, other in zip(axes[0], results[1:], strict=True):
        losses = losses_between(results[0], other, places)
        axis.semilogy(places, losses.T, color=STYLES[0][0], alpha=0.35, linewidth=1)
        axis.semilogy(places, losses.mean(axis=0), color="black", linewidth=2)
        axis.set(title=other.method.name, ylabel="Training loss")
        axis.set_xticks([0, 1], [results[0].method.name, "AdLaLa"])
        axis.grid(alpha=0.3)
    return figure, f"{results[0].task.title}. The line through the last parameters. Thin: each seed; thick: mean."


_PICTURES: dict[str, Callable] = {"3": _between, "4": _regions, "6": _evolution, "8": _spread, "9": _regions}
_PICTURES |= {"14": _spread, "15": _heat, "16": _temperature}
