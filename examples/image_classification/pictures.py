"""The same in pictures: curves of every seed, accuracy against depth and against the share of the layers with noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from examples.image_classification import report
from examples.image_classification.methods import FAMILIES
from examples.image_classification.models import DEPTH_IS
from examples.image_classification.report import Result
from examples.presentation import FONTS, STYLES, finish, plural, short, side_by_side

_BEHIND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}  # a text on lines


def write(results: Sequence[Result], note: str, output: Path) -> list[Path]:
    """Returns the files."""
    with plt.rc_context(FONTS):
        paths = [
            _curves(results, note, output / "learning_curves.png"),
            _against_depth(results, note, output / "accuracy_against_depth.png"),
        ]
        if len({r.task.method.layers for r in results} - {None}) > 1:
            paths.append(_against_share(results, note, output / "accuracy_against_share.png"))
    return paths


def _curves(results: Sequence[Result], note: str, path: Path) -> Path:
    """A panel for each depth and family."""
    families = _distinct(r.family for r in results)
    panels = [(depth, family) for depth in _depths(results) for family in families]
    figure, axes = _grid(len(panels), len(families) if len(families) > 1 else min(2, len(panels)), 3.4)
    for axis, (depth, family) in zip(axes.flat, panels, strict=False):
        for r in (r for r in results if (r.depth, r.family) == (depth, family)):
            colour, line, mark = _style(results, r)
            curves = np.array([run.accuracy for run in r.runs])
            epochs = np.arange(1, curves.shape[1] + 1)
            marks: Any = {"marker": mark} if len(epochs) == 1 else {}
            axis.plot(epochs, curves.T, color=colour, linewidth=0.7, alpha=0.35, **marks)
            median = np.median(curves, axis=0)
            axis.plot(epochs, median, linestyle=line, color=colour, linewidth=2.4, zorder=3, label=r.label, **marks)
        axis.set(title=report.layers(next(r.task for r in results if r.depth == depth)), xlabel="Epoch", ylim=(0, 1.02))
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    title = "Test accuracy" + _of_seeds(results, ": median (bold) and each seed (thin)")
    return _finish(figure, axes, families, "Test accuracy", title, note, path)


def _against_depth(results: Sequence[Result], note: str, path: Path) -> Path:
    """The methods of a depth are side by side, and so are the seeds of a method: on top of each other, seeds that ended
    alike, as all those at chance do, would look like one."""
    families, depths = _distinct(r.family for r in results), _depths(results)
    figure, axes = _grid(len(families), min(3, len(families)), 5.8 if len(families) == 1 else 4.2)
    threshold = report.trained_above(results[0].classes)
    for axis, family in zip(axes.flat, families, strict=False):
        names = _distinct(r.label for r in results if r.family == family)
        width = 0.85 / len(names)
        for slot, name in zip(side_by_side(len(names), 0.85), names, strict=True):
            here = [r for r in results if r.label == name]
            places = np.array([depths.index(r.depth) for r in here]) + slot
            points = 60 * figure.get_figwidth() / axes.shape[1] / len(depths) * 0.75 * width  # about
            _seeds(axis, places, here, _style(results, here[0]), 0.75 * width, points, name)
        axis.axhline(threshold, color="0.45", linewidth=1, linestyle=":")
        at: Any = {"transform": axis.get_yaxis_transform(), "color": "0.35", "zorder": 4, "bbox": _BEHIND}
        axis.text(0.01, threshold + 0.01, f"trained: above {short(threshold)}", **at)
        axis.set_xticks(range(len(depths)), [str(depth) for depth in depths])
        unit = plural(DEPTH_IS[results[0].task.model])
        axis.set(xlabel=f"Depth: {unit}", xlim=(-0.5, len(depths) - 0.5), ylim=(0, 1.02))
        for border in range(1, len(depths)):
            axis.axvline(border - 0.5, color="0.85", linewidth=0.8)
    title = "Accuracy against depth" + _of_seeds(results, ": median (line) and each seed (mark)")
    return _finish(figure, axes, families, "Final test accuracy", title, note, path)


def _against_share(results: Sequence[Result], note: str, path: Path) -> Path:
    """The plain optimiser at 0, the Langevin version at 1; a line for each depth and choice of layers."""
    families = _distinct(r.family for r in results if r.task.method.layers)
    figure, axes = _grid(len(families), min(3, len(families)), 5.0)
    for axis, family in zip(axes.flat, families, strict=False):
        here = [r for r in results if r.family == family]
        lines = [(depth, where) for depth in _depths(here) for where in _distinct(map(_where, here)) if where]
        gap = 0.7 * min(np.diff(np.unique([round(r.runs[0].noisy_share, 1) for r in here])), default=1)
        for i, (slot, (depth, where)) in enumerate(zip(side_by_side(len(lines), gap), lines, strict=True)):
            line = [r for r in here if r.depth == depth and _where(r) in (where, "")]
            line.sort(key=lambda r: r.runs[0].noisy_share)
            places = np.array([r.runs[0].noisy_share for r in line]) + slot
            name = f"{report.layers(line[0].task)}, {where}"
            _seeds(axis, places, line, STYLES[i % len(STYLES)], 0.8 * gap / len(lines), 5, name)
        axis.set(xlabel="Share of the layers with noise", title=FAMILIES[family], ylim=(0, 1.02))
    title = "Accuracy against the share of layers" + _of_seeds(results, ": median (line) and each seed (mark)")
    return _finish(figure, axes, families, "Final test accuracy", title, note, path, columns=3)


def _where(r: Result) -> str:
    """Empty for what has noise everywhere or nowhere, and so is on every line."""
    layers = r.task.method.layers
    return "" if layers is None else layers.rpartition(":")[0] or "first"


def _seeds(
    axis: Any, places: np.ndarray, results: Sequence[Result], style: Any, width: float, points: float, label: str
) -> None:
    """A line through the medians, and a row of marks, as wide as this, for the seeds."""
    colour, line, mark = style
    final = [r.final for r in results]
    median = [np.median(f) for f in final]
    axis.plot(places, median, linestyle=line, color=colour, linewidth=2)
    axis.plot([], [], linestyle=line, marker=mark, color=colour, linewidth=2, label=label)
    if len(final[0]) > 1:
        axis.plot(places, median, "_", color=colour, markersize=16, markeredgewidth=2)
    size = max(3, min(5, 1.5 * points / len(final[0])))
    beads: Any = {"color": colour, "markeredgecolor": "white", "markeredgewidth": 0.4, "zorder": 3, "markersize": size}
    axis.plot(places[:, None] + side_by_side(len(final[0]), width), final, mark, **beads)


def _grid(panels: int, columns: int, height: float) -> tuple[Any, Any]:
    rows = -(-panels // columns)
    width = 8.5 if panels == 1 else 5.5 * columns if columns < 3 else 4.6 * columns
    figure, axes = plt.subplots(rows, columns, figsize=(width, height * rows + 1.2), squeeze=False)
    for axis in axes.flat[panels:]:
        axis.remove()
    return figure, axes


def _finish(
    figure: Any,
    axes: Any,
    families: Sequence[str],
    measure: str,
    title: str,
    note: str,
    path: Path,
    columns: int = 4,
) -> Path:
    for axis in figure.axes:
        axis.grid(alpha=0.3, axis="y" if "depth" in path.name else "both")
        if len(families) > 1:
            axis.legend(fontsize=9, loc="best")
    for axis in axes[:, 0]:
        axis.set_ylabel(measure)
    return finish(figure, title, note, path, legend=len(families) == 1, legend_columns=columns)


def _of_seeds(results: Sequence[Result], several: str) -> str:
    return several if any(len(r.runs) > 1 for r in results) else ", seed 0"


def _style(results: Sequence[Result], result: Result) -> Any:
    """Each version of a family has a style, the same in all families."""
    names = _distinct(r.label for r in results if r.family == result.family)
    return STYLES[names.index(result.label) % len(STYLES)]


def _depths(results: Sequence[Result]) -> list[int]:
    return sorted({r.depth for r in results})


def _distinct(names: Any) -> list[str]:
    return list(dict.fromkeys(names))
