"""The pictures: bands of the regression, gains in the log score, the learning coefficient along a training."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from examples.posterior import compare, llc, problems, report
from examples.posterior.compare import NUTS, POINT, Outcome
from examples.presentation import FONTS, STYLES, finish

BLUE, RED, GREEN = (STYLES[i][0] for i in range(3))


def draw(outcomes: Sequence[Outcome], learning: llc.Result, sizes: compare.Sizes, output: Path) -> list[Path]:
    with plt.rc_context(FONTS):
        of_gap = [outcome for outcome in outcomes if outcome.problem == "gap"]
        others = [outcome for outcome in outcomes if outcome.problem != "gap"]
        return [bands(of_gap, sizes, output), gains(others, sizes, output), coefficient(learning, sizes, output)]


def bands(outcomes: Sequence[Outcome], sizes: compare.Sizes, output: Path) -> Path:
    problem, x = problems.gap(), problems.GRID
    (reference,) = [outcome for outcome in outcomes if outcome.method == NUTS]
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.6), sharex=True, sharey=True)
    for axis, outcome in zip(axes.flat, outcomes, strict=True):
        axis.axvspan(*problems.GAP, color="0.95", zorder=0)
        low, middle, high = outcome.band
        axis.fill_between(x, low, high, color=BLUE, alpha=0.3, linewidth=0, label="90 % of the draws")
        axis.plot(x, middle, color=BLUE, label="their median")
        axis.plot(x, reference.band[0], color="black", linewidth=0.9, label="90 % by NUTS")
        axis.plot(x, reference.band[2], color="black", linewidth=0.9)
        axis.plot(x, problems.truth(x), "--", color=RED, linewidth=1.2, label="truth")
        axis.plot(problem.x[:, 0], problem.y, "o", color="0.2", markersize=3, label="data")
        axis.set_title(outcome.method)
        if outcome.method not in (NUTS, POINT):
            ratio = compare.width_in_gap(outcome) / compare.width_in_gap(reference)
            axis.text(0.03, 0.95, f"× {ratio:.2f} in the gap", transform=axis.transAxes, va="top")
        axis.set(xlim=(x[0], x[-1]), ylim=(-2.3, 2.3))
    note = (
        f"A network with 50 tanh units, {problems.POINTS} points, noise {problems.NOISE} that is known; {sizes.chains} "
        "chains or members. The number is the width of the band in the gap (grey) over that of NUTS."
    )
    title = "A regression with a gap: what the posterior leaves open"
    return finish(figure, title, note, output / "bands.png", legend_columns=5)


def gains(outcomes: Sequence[Outcome], sizes: compare.Sizes, output: Path) -> Path:
    names = [*dict.fromkeys(outcome.problem for outcome in outcomes)]
    figure, axes = plt.subplots(1, len(names), figsize=(12, 4.2), sharey=True)
    for axis, name in zip(axes, names, strict=True):
        group = [outcome for outcome in outcomes if outcome.problem == name]
        compared = [outcome for outcome in group if outcome.method != POINT]
        values, errors = np.transpose([report.gain_over_point(outcome, group) for outcome in compared])
        places = np.arange(len(compared))
        axis.axvline(0, color=RED, linestyle="--", linewidth=1.2)
        axis.errorbar(values, places, xerr=2 * errors, fmt="o", color=BLUE, capsize=3)
        axis.set_yticks(places, [outcome.method for outcome in compared])
        axis.set(title=name.capitalize(), xlabel="nats per test example")
        axis.grid(axis="x", color="0.9")
        axis.locator_params(axis="x", nbins=5)
    axes[0].invert_yaxis()
    note = (
        "The mean log score of test examples, less that of the point estimate (dashed), ± 2 standard errors over test "
        "examples: to the right is better. One division into training and test data."
    )
    return finish(figure, "Gain over the point estimate", note, output / "gains.png", legend=False)


def coefficient(r: llc.Result, sizes: compare.Sizes, output: Path) -> Path:
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 7), sharex=True)
    steps = np.arange(1, r.losses.shape[1])
    for losses, colour, line, name in zip(r.losses, (BLUE, RED), ("-", "--"), ("training", "test"), strict=True):
        above.semilogy(steps, losses[1:], line, color=colour, label=f"{name} loss")
    above.plot([], [], "-.", color=GREEN, label="test accuracy (right)")
    right = above.twinx()
    right.plot(steps, r.test_accuracy[1:], "-.", color=GREEN)
    right.set(ylim=(0, 1.02), ylabel="test accuracy")
    above.set(ylabel="loss")
    means, errors = np.transpose([(found.mean, found.standard_error) for found in r.llcs])
    below.errorbar(r.steps, means, yerr=errors, color="0.5", ecolor=BLUE, capsize=3, zorder=1)
    warned = np.array([bool(found.warnings) for found in r.llcs])
    above.plot([], [], "o", color=BLUE, label="LLC ± standard error")
    above.plot([], [], "o", color=BLUE, markerfacecolor="white", label="the same, at no minimum yet")
    below.plot(r.steps[~warned], means[~warned], "o", color=BLUE)
    below.plot(r.steps[warned], means[warned], "o", color=BLUE, markerfacecolor="white")
    below.set(
        xscale="log", xlabel="step", ylabel="local learning coefficient", ylim=(0, None), xlim=(r.steps[0] / 2, None)
    )
    note = (
        f"a + b mod {llc.MODULUS} from {100 * llc.TRAINED:.0f} % of the pairs, by AdamW with the whole training data. "
        f"Each coefficient: {llc.CHAINS} chains of {sizes.llc[2]:,} draws, localisation {llc.LOCALIZATION:g}."
    )
    return finish(figure, "The learning coefficient along a training", note, output / "llc.png")
