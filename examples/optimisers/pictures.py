"""The picture: for each optimiser its paths on the quadratic, and below them its losses on the deep network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from examples.optimisers import train
from examples.optimisers.train import Result
from examples.presentation import FONTS, STYLES, finish, seeds

PLAIN, LANGEVIN = STYLES[0][0], STYLES[1][0]
COLUMNS, SHOWN = 4, 150  # of a path, the first steps
LIMITS = (-4.9, 3.9), (-3.3, 2.4)


def draw(results: Sequence[Result], output: Path) -> Path:
    rows = -(-len(results) // COLUMNS)
    noisy, until = (f"{100 * share:.0f} %" for share in (train.NOISY_LAYERS, train.NOISY_STEPS))
    note = (
        f"Above: a linear regression with two parameters, of curvatures 1 and 100; {SHOWN} steps from one start with "
        f"one γ. The ellipse holds 86 % of exp(−L). Dots: {train.CHAINS} Langevin chains in the end; numbers: their "
        "variance along the valley and across it, over that of exp(−L). Below: training loss against step, of "
        f"{train.DEPTH} ReLU layers on two moons, {seeds(train.SEEDS)}; the noise is on the first {noisy} of the "
        f"layers, and falls to 0 at {until} of the steps."
    )
    with plt.rc_context(FONTS):
        figure, axes = plt.subplots(rows, COLUMNS, figsize=(13, 3.35 * rows + 1.2))
        for i, (axis, result) in enumerate(zip(axes.flat, results, strict=False)):
            _paths(axis, result)
            _losses(axis.inset_axes((0, -0.49, 1, 0.42)), result, first=i % COLUMNS == 0)
        title = "The optimisers of the lecture, Shampoo and SOAP: plain and Langevin"
        return finish(figure, title, note, output / "optimisers.png", legend_columns=4)


def _paths(axis: Any, result: Result) -> None:
    around = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(around), np.sin(around)]) / np.sqrt(train.CURVATURES)[:, None]
    for size in (4, 8, 16, 32):  # L = 8, 32, ...
        axis.plot(*_placed(size * circle), color="0.85", linewidth=0.8, zorder=0)
    plain, langevin = (np.concatenate([train.START[None], w[:SHOWN]]) for w in result.w[:2])
    axis.plot(*plain.T, "-o", color=PLAIN, linewidth=1, markersize=2.2, label="plain", zorder=3)
    axis.plot(*langevin.T, color=LANGEVIN, linewidth=0.9, label="Langevin", zorder=2)
    axis.plot(*result.w[1:, -1].T, "o", color=LANGEVIN, markersize=2, markeredgewidth=0, label="Langevin in the end")
    axis.plot(*_placed(2 * circle), color="black", linewidth=1.2, label="exp(−L)", zorder=4)
    along, across = result.spread
    axis.set_title(result.method.name, fontweight="bold")
    corner = {"transform": axis.transAxes, "fontsize": 10}
    axis.text(0.03, 0.96, f"P = {result.method.p}" if result.method.p != "–" else "no P", va="top", **corner)
    axis.text(0.97, 0.04, f"× {along:.2f} along\n× {across:.2f} across", ha="right", **corner)
    axis.set(xticks=[], yticks=[], aspect="equal", anchor="N", xlim=LIMITS[0], ylim=LIMITS[1])


def _placed(points: np.ndarray) -> np.ndarray:
    return train.MINIMUM[:, None] + train.AXES @ points


def _losses(axis: Any, result: Result, first: bool) -> None:
    for losses, colour in zip(result.deep_losses, (PLAIN, LANGEVIN), strict=True):
        axis.semilogy(losses.T, color=colour, linewidth=0.9, alpha=0.8)
    last = result.deep_losses.shape[-1]
    axis.set(xlim=(0, last), ylim=(1e-7, 9), xticks=[0, last], yticks=[1, 1e-3, 1e-6])
    axis.tick_params(labelsize=9, labelleft=first)
    axis.minorticks_off()
    if first:
        axis.set_ylabel("loss", fontsize=10)
