"""The same in pictures: curves of every seed, accuracy against depth and against the share of the layers with noise."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from examples.image_classification import optimizers, report
from examples.image_classification.report import Result
from examples.presentation import FONTS, STYLES, finish, short


def write(results: Sequence[Result], note: str, output: Path) -> list[Path]:
    """Returns the files."""
    with plt.rc_context(FONTS):
        paths = [
            _curves(results, "accuracy", "Test accuracy", note, output / "learning_curves.png"),
            _curves(results, "loss", "Training loss", note, output / "training_loss.png"),
            _against_depth(results, note, output / "accuracy_against_depth.png"),
        ]
        if len({r.task.noisy_layers for r in results} - {None}) > 1:
            paths.append(_against_share(results, note, output / "accuracy_against_share.png"))
    return paths


def _curves(results: Sequence[Result], what: str, title: str, note: str, path: Path) -> Path:
    depths, families = _depths(results), _families(results)
    if len(families) == 1:
        columns = min(2, len(depths))
        panels = [(depth, families[0]) for depth in depths]
    else:
        columns = len(families)
        panels = [(depth, family) for depth in depths for family in families]
    figure, axes = _grid(len(panels), columns, 3.4)
    for axis, (depth, family) in zip(axes.flat, panels, strict=False):
        here = [r for r in results if (r.depth, r.family) == (depth, family)]
        for r in here:
            colour, line, _ = STYLES[_style(results, r)]
            curves = _padded(getattr(run, what) for run in r.runs)
            epochs = np.arange(1, curves.shape[1] + 1)
            seen = np.isfinite(curves).any(axis=0)
            axis.plot(epochs, curves.T, color=colour, linewidth=0.7, alpha=0.35)
            median = np.nanmedian(curves[:, seen], axis=0)
            axis.plot(epochs[seen], median, linestyle=line, color=colour, linewidth=2.4, zorder=3, label=r.optimizer)
        axis.set(title=report.layers(here[0].task) if here else "", xlabel="Epoch")
        if what == "accuracy":
            axis.set(ylim=(0, 1.02))
        else:
            axis.set(yscale="log")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        if len(families) > 1:
            axis.legend(fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel(title)
    title = f"{title}: median (bold) and each seed (thin)"
    return finish(figure, title, note, path, legend=len(families) == 1, legend_columns=4)


def _against_depth(results: Sequence[Result], note: str, path: Path) -> Path:
    families, depths = _families(results), _depths(results)
    figure, axes = _grid(len(families), min(3, len(families)), 5.8 if len(families) == 1 else 4.2)
    offset = 0.06 * min(np.diff(depths), default=1)
    threshold = report.trained_above(results[0].classes)
    for axis, family in zip(axes.flat, families, strict=False):
        names = list(dict.fromkeys(r.optimizer for r in results if r.family == family))
        for i, name in enumerate(names):
            here = [r for r in results if r.optimizer == name]
            colour, line, mark = STYLES[_style(results, here[0])]
            final = [r.final for r in here]
            places = np.array([r.depth for r in here]) + (i - (len(names) - 1) / 2) * offset
            median = [np.median(f) for f in final]
            axis.plot([r.depth for r in here], median, linestyle=line, color=colour, linewidth=2)
            axis.plot([], [], linestyle=line, marker=mark, color=colour, linewidth=2, label=name)
            axis.plot(places, median, "_", color=colour, markersize=16, markeredgewidth=2)
            axis.plot(places, final, mark, color=colour, markersize=6, alpha=0.55)
        axis.axhline(threshold, color="0.45", linewidth=1, linestyle=":")
        note_at = axis.get_yaxis_transform()
        axis.text(0.01, threshold + 0.01, f"trained: above {short(threshold)}", transform=note_at, color="0.35")
        axis.margins(x=0.05 if len(depths) > 1 else 1)
        unit = report.DEPTH_IS[results[0].task.model]
        axis.set(
            xlabel=f"Depth: {unit}s" if unit.endswith("layer") else f"Depth: {unit}", xticks=depths, ylim=(0, 1.02)
        )
        axis.grid(alpha=0.3)
        if len(families) > 1:
            axis.legend(fontsize=9, loc="lower left")
    for axis in axes[:, 0]:
        axis.set_ylabel("Final test accuracy")
    title = "Accuracy against depth: median (line) and each seed (mark)"
    return finish(figure, title, note, path, legend=len(families) == 1, legend_columns=4)


def _against_share(results: Sequence[Result], note: str, path: Path) -> Path:
    """The plain optimiser at 0, the Langevin version at 1."""
    families = [family for family in _families(results) if any(r.task.noisy_layers for r in _of(results, family))]
    figure, axes = _grid(len(families), min(3, len(families)), 5.0)
    for axis, family in zip(axes.flat, families, strict=False):
        for i, depth in enumerate(_depths(results)):
            colour, line, mark = STYLES[i % len(STYLES)]
            here = sorted((r.runs[0].noisy_share, r.final.tolist()) for r in _of(results, family) if r.depth == depth)
            shares, final = [share for share, _ in here], [f for _, f in here]
            name = report.layers(next(r.task for r in results if r.depth == depth))
            axis.plot(shares, [np.median(f) for f in final], linestyle=line, color=colour, linewidth=2, label=name)
            axis.plot(shares, final, mark, color=colour, markersize=6, alpha=0.55)
        axis.set(xlabel="Share of the layers with noise, from the first on", title=optimizers.FAMILIES[family])
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("Final test accuracy")
    return finish(figure, "Accuracy against the share of layers: median (line) and each seed (mark)", note, path)


def _grid(panels: int, columns: int, height: float) -> tuple[Any, Any]:
    rows = -(-panels // columns)
    width = 8.5 if panels == 1 else 5.5 * columns if columns < 3 else 4.6 * columns
    figure, axes = plt.subplots(rows, columns, figsize=(width, height * rows + 1.2), squeeze=False)
    for axis in axes.flat[panels:]:
        axis.remove()
    return figure, axes


def _style(results: Sequence[Result], result: Result) -> int:
    """Each version of a family has a style, the same in all families."""
    versions = [list(dict.fromkeys(r.optimizer for r in _of(results, family))) for family in _families(results)]
    return next(names.index(result.optimizer) for names in versions if result.optimizer in names) % len(STYLES)


def _of(results: Sequence[Result], family: str) -> list[Result]:
    return [r for r in results if r.family == family]


def _families(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(r.family for r in results))


def _depths(results: Sequence[Result]) -> list[int]:
    return sorted({r.depth for r in results})


def _padded(curves: Iterable[np.ndarray]) -> np.ndarray:
    """Runs that were stopped early stay where they were."""
    curves = list(curves)
    longest = max(map(len, curves))
    return np.array([np.pad(curve, (0, longest - len(curve)), mode="edge") for curve in curves])
