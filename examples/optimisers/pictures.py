"""The picture: for each optimiser its paths on the quadratic, and below them its losses on the deep network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from examples.optimisers.train import AXES, CURVATURES, DEEP_STEPS, DEPTH, MINIMUM, START, Result
from examples.presentation import FONTS, STYLES, finish

PLAIN, LANGEVIN = STYLES[0][0], STYLES[1][0]
COLUMNS, SHOWN = 4, 150  # steps of a path
LIMITS = (-5.9, 3.0), (-3.6, 2.4)
NOTE = (
    f"Above: a linear regression with two parameters, whose curvatures are 1 and 100. Both paths have the same start and "
    f"the same γ, for {SHOWN} steps; dots: where 128 Langevin chains are in the end. Inside the ellipse is 86 % of "
    f"exp(−L), and its numbers are the variances of the chains along the valley and across it, over those of exp(−L). "
    f"Below: training loss of {DEPTH} layers on two moons, three seeds; noise on the first 30 % of the layers, falling "
    f"to 0 at step {int(0.6 * DEEP_STEPS)}."
)


def draw(results: Sequence[Result], output: Path) -> Path:
    rows = -(-len(results) // COLUMNS)
    with plt.rc_context(FONTS):
        figure, axes = plt.subplots(
            2 * rows, COLUMNS, figsize=(13.5, 4.35 * rows + 1), gridspec_kw={"height_ratios": [2.6, 1] * rows}
        )
        for i, result in enumerate(results):
            row, column = divmod(i, COLUMNS)
            _paths(axes[2 * row, column], result)
            _losses(axes[2 * row + 1, column], result, first=column == 0)
        title = "Optimisers and their Langevin versions"
        return finish(figure, title, NOTE, output / "optimisers.png", legend_columns=4)


def _paths(axis: Any, result: Result) -> None:
    around = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(around), np.sin(around)]) / np.sqrt(CURVATURES)[:, None]
    for size in (2, 4, 8, 16, 32):  # L = 2, 8, 32, ...
        ellipse = (MINIMUM + size * (AXES @ circle).T).T
        colour, width, name = ("black", 1.3, "exp(−L)") if size == 2 else ("0.85", 0.8, None)
        axis.plot(*ellipse, color=colour, linewidth=width, zorder=5 if size == 2 else 0, label=name)
    plain, langevin = (np.concatenate([START[None], w[:SHOWN]]) for w in result.w[:2])
    axis.plot(*result.w[1:, -1].T, "o", color=LANGEVIN, markersize=2.2, markeredgewidth=0, label="Langevin, in the end")
    axis.plot(*langevin.T, color=LANGEVIN, linewidth=0.9, label="Langevin")
    axis.plot(*plain.T, "-o", color=PLAIN, linewidth=1, markersize=2.4, label="plain")
    flat, stiff = result.spread
    axis.set_title(result.method.name, fontweight="bold")
    axis.text(0.03, 0.96, f"P: {result.method.p}", transform=axis.transAxes, va="top", fontsize=10)
    axis.text(0.97, 0.05, f"×{flat:.2f} along\n×{stiff:.2f} across", transform=axis.transAxes, ha="right", fontsize=9)
    axis.set(xticks=[], yticks=[], aspect="equal", xlim=LIMITS[0], ylim=LIMITS[1])


def _losses(axis: Any, result: Result, first: bool) -> None:
    for losses, colour in zip(result.deep_losses, (PLAIN, LANGEVIN), strict=True):
        axis.semilogy(losses.T, color=colour, linewidth=1)
    axis.set(xlim=(0, DEEP_STEPS), ylim=(1e-7, 5), yticks=[1, 1e-3, 1e-6], xticks=[0, DEEP_STEPS])
    axis.tick_params(labelsize=9, labelleft=first)
    axis.minorticks_off()
    if first:
        axis.set_ylabel("loss", fontsize=10)
