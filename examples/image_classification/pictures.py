"""The same in pictures: curves of every seed, accuracy against depth and against the share of the layers with noise."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from examples.image_classification import optimizers, report
from examples.image_classification.report import Result
from examples.presentation import FONTS, STYLES, finish, plural, short, side_by_side


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
    several = max(len(run.loss) for r in results for run in r.runs) > 1  # epochs
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
            colour, line, mark = STYLES[_style(results, r)]
            curves = _padded(getattr(run, what) for run in r.runs)
            epochs = np.arange(1, curves.shape[1] + 1)
            seen = np.isfinite(curves).any(axis=0)
            median = np.nanmedian(curves[:, seen], axis=0)
            if seen.sum() == 1:  # no line: marks, next to those of the other optimisers
                places = epochs[seen] + side_by_side(len(here), 0.8)[here.index(r)]
                axis.plot(places + side_by_side(len(curves), 0.5 / len(here)), curves[:, seen], mark, color=colour)
                if len(curves) > 1:
                    axis.plot(places, median, "_", color=colour, markersize=16, markeredgewidth=2)
                axis.plot([], [], linestyle=line, marker=mark, color=colour, linewidth=2.4, label=r.optimizer)
                continue
            axis.plot(epochs, curves.T, color=colour, linewidth=0.7, alpha=0.35)
            axis.plot(epochs[seen], median, linestyle=line, color=colour, linewidth=2.4, zorder=3, label=r.optimizer)
        if not any(np.isfinite(getattr(run, what)).any() for r in here for run in r.runs):
            axis.text(0.5, 0.5, "never finite", transform=axis.transAxes, ha="center", color="0.35")
        axis.set(title=report.layers(here[0].task) if here else "", xlabel="Epoch")
        if what == "accuracy":
            axis.set(ylim=(0, 1.02))
        elif several:
            axis.set(yscale="log")
        if several:
            axis.xaxis.get_major_locator().set_params(integer=True)
        else:
            axis.set(xlim=(0.5, 1.5), xticks=[1])
        axis.grid(alpha=0.3)
        if len(families) > 1:
            axis.legend(fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel(title)
    title += _of_seeds(
        results, f": median ({'bold' if several else 'bar'}) and each seed ({'thin' if several else 'mark'})"
    )
    return finish(figure, title, note, path, legend=len(families) == 1, legend_columns=4)


def _against_depth(results: Sequence[Result], note: str, path: Path) -> Path:
    families, depths = _families(results), _depths(results)
    figure, axes = _grid(len(families), min(3, len(families)), 5.8 if len(families) == 1 else 4.2)
    threshold = report.trained_above(results[0].classes)
    for axis, family in zip(axes.flat, families, strict=False):
        names = list(dict.fromkeys(r.optimizer for r in results if r.family == family))
        for i, name in enumerate(names):
            here = [r for r in results if r.optimizer == name]
            colour, line, mark = STYLES[_style(results, here[0])]
            final = [r.final for r in here]
            # The optimisers of a depth are side by side, and so are the seeds of an optimiser: on top of each other,
            # seeds that ended alike, as all those at chance do, would look like one.
            slots = side_by_side(len(names), 0.85)
            places = np.array([depths.index(r.depth) for r in here]) + slots[i]
            median = [np.median(f) for f in final]
            axis.plot(places, median, linestyle=line, color=colour, linewidth=2)
            axis.plot([], [], linestyle=line, marker=mark, color=colour, linewidth=2, label=name)
            if len(final[0]) > 1:
                axis.plot(places, median, "_", color=colour, markersize=16, markeredgewidth=2)
            own = side_by_side(len(final[0]), 0.75 * 0.85 / len(names))
            apart = 60 * figure.get_figwidth() / axes.shape[1] / len(depths) * np.diff(own)[:1]  # points, about
            size = min([5.0, *(1.5 * apart)])
            axis.plot(places[:, None] + own, final, mark, markersize=max(3, size), **_beads(colour))
        axis.axhline(threshold, color="0.45", linewidth=1, linestyle=":")
        note_at = axis.get_yaxis_transform()
        axis.text(0.01, threshold + 0.01, f"trained: above {short(threshold)}", transform=note_at, color="0.35")
        axis.set_xticks(range(len(depths)), [str(depth) for depth in depths])
        unit = plural(report.DEPTH_IS[results[0].task.model])
        axis.set(xlabel=f"Depth: {unit}", xlim=(-0.5, len(depths) - 0.5), ylim=(0, 1.02))
        axis.grid(axis="y", alpha=0.3)
        for border in range(1, len(depths)):
            axis.axvline(border - 0.5, color="0.85", linewidth=0.8)
        if len(families) > 1:
            axis.legend(fontsize=9, loc="lower left")
    for axis in axes[:, 0]:
        axis.set_ylabel("Final test accuracy")
    title = "Accuracy against depth" + _of_seeds(results, ": median (line) and each seed (mark)")
    return finish(figure, title, note, path, legend=len(families) == 1, legend_columns=4)


def _against_share(results: Sequence[Result], note: str, path: Path) -> Path:
    """The plain optimiser at 0, the Langevin version at 1."""
    families = [family for family in _families(results) if any(r.task.noisy_layers for r in _of(results, family))]
    figure, axes = _grid(len(families), min(3, len(families)), 5.0)
    for axis, family in zip(axes.flat, families, strict=False):
        depths = _depths(results)
        for i, depth in enumerate(depths):
            colour, line, mark = STYLES[i % len(STYLES)]
            here = sorted((r.runs[0].noisy_share, r.final.tolist()) for r in _of(results, family) if r.depth == depth)
            shares, final = np.array([share for share, _ in here]), [f for _, f in here]
            gap = 0.7 * min(np.diff(np.unique(shares)), default=1)
            shares += side_by_side(len(depths), gap)[i]
            name = report.layers(next(r.task for r in results if r.depth == depth))
            axis.plot(shares, [np.median(f) for f in final], linestyle=line, color=colour, linewidth=2, label=name)
            own = side_by_side(len(final[0]), 0.8 * gap / len(depths))
            axis.plot(shares[:, None] + own, final, mark, markersize=5, **_beads(colour))
        axis.set(xlabel="Share of the layers with noise, from the first on", title=optimizers.FAMILIES[family])
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("Final test accuracy")
    title = "Accuracy against the share of layers" + _of_seeds(results, ": median (line) and each seed (mark)")
    return finish(figure, title, note, path)


def _grid(panels: int, columns: int, height: float) -> tuple[Any, Any]:
    rows = -(-panels // columns)
    width = 8.5 if panels == 1 else 5.5 * columns if columns < 3 else 4.6 * columns
    figure, axes = plt.subplots(rows, columns, figsize=(width, height * rows + 1.2), squeeze=False)
    for axis in axes.flat[panels:]:
        axis.remove()
    return figure, axes


def _beads(colour: str) -> dict[str, Any]:
    """Marks in a row, of which each is seen, above lines."""
    return {"color": colour, "markeredgecolor": "white", "markeredgewidth": 0.4, "zorder": 3}


def _of_seeds(results: Sequence[Result], several: str) -> str:
    return several if any(len(r.runs) > 1 for r in results) else ", seed 0"


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
