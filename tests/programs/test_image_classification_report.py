"""Tables and pictures of examples/image_classification, of curves that were made up."""

import csv
import math
import re

import numpy as np
import pytest
import scipy.stats

from examples.image_classification import (
    flags,
    pictures,
    report,
)
from examples.image_classification.results import Run
from tests.programs.drawn import figures
from tests.programs.images import SMALL, curves, task

pytestmark = pytest.mark.usefixtures("one_device", "elsewhere")


def noisy_share(task):
    return float(task.noisy_layers or (task.optimizer.startswith("l-")))


def made(accuracy, loss, *argv):
    """Results of these curves, (seeds, epochs), for every task of the flags; SGD's loss is nan in the end."""
    found = []
    for own in flags.tasks(flags.parse(list(argv)), SMALL):
        end = [math.nan if own.optimizer == "sgd" else 0.0]
        runs = [
            Run(seed, np.array(a), np.array([*losses[:-1], losses[-1] + end[0]]), noisy_share(own))
            for seed, (a, losses) in enumerate(zip(accuracy, loss, strict=True))
        ]
        found.append(report.Result(own, runs, 10))
    return found


def written(found, folder):
    """results.md, and the CSV files as dictionaries."""
    note = report.caption([r.task for r in found], len(found[0].runs), SMALL)
    paths = report.write(found, note, [], folder)
    tables = {}
    for path in paths[1:]:
        with path.open(encoding="utf-8") as file:
            tables[path.name] = list(csv.DictReader(file))
    return paths[0].read_text(encoding="utf-8"), tables


FOUR = ["--depths", "1", "40", "--optimizers", "adam", "l-adam", "ll-adam", "sgd"]


def test_a_loss_that_is_not_finite_is_a_result(tmp_path):
    diverged = curves(task("--optimizers", "sgd", "--depths", "1", "--learning-rate", "sgd=1e30"))
    assert not np.isfinite(diverged[1]).all() and np.isfinite(diverged[0]).all()
    text, tables = written(made([[0.2, 0.9], [0.1, 0.7]], [[2, 1], [3, 2]], *FOUR), tmp_path)
    assert "| SGD | .800 (.700 to .900) 0/2, 2 diverged | .800 (.700 to .900) 0/2, 2 diverged |" in text
    assert "| Adam | .800 (.700 to .900) 2/2 | .800 (.700 to .900) 2/2 |" in text
    of_sgd = [r for r in tables["runs.csv"] if r["optimiser"] == "SGD"]
    assert [(r["final_loss"], r["trained"]) for r in of_sgd] == [("nan", "0")] * 4
    assert {(r["optimiser"], r["minus"]) for r in tables["differences.csv"]} == {
        ("L-Adam", "Adam"),
        ("LL-Adam 30 %", "Adam"),
        ("LL-Adam 30 %", "L-Adam"),
    }


def test_of_a_single_seed_and_epoch_nothing_is_averaged(tmp_path):
    """No standard deviation, no interval, no plural."""
    found = made([[0.9]], [[1.0]], "--seeds", "1", "--epochs", "1", *FOUR)
    text, tables = written(found, tmp_path)
    text += report.printed(found)
    assert (
        "1 seed, 1 epoch of 2 batches of 128" in text and "of 1 seed: Adam 1, L-Adam 1, LL-Adam 30 % 1, SGD 0." in text
    )
    assert not re.search(r"±|nan|\b1 (seed|epoch|batche|layer)s|[Bb]ootstrap|[Mm]ean\b|\[", text)
    assert {r["final_sd"] for r in tables["summary.csv"]} == {""}
    assert {(r["low"], r["high"]) for r in tables["differences.csv"]} == {("", "")}
    several = report.printed(made([[0.9]] * 3, [[1.0]] * 3, *FOUR))
    assert "bootstrap" in several and "of 3 seeds" in several


def marks(axis):
    """Places and values of what is drawn as marks."""
    drawn = [line for line in axis.lines if line.get_linestyle() == "None" and line.get_marker() not in ("_", "None")]
    return [(x, y) for line in drawn for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_one_epoch_makes_marks_and_not_empty_axes(tmp_path, monkeypatch):
    for seeds in (1, 3):
        drawn = figures(monkeypatch)
        pictures.write(made([[0.3]] * seeds, [[2.0]] * seeds, *FOUR, "--epochs", "1"), "note", tmp_path)
        for figure, tasks in zip(drawn, ((3, 1, 3, 1), (3, 0, 3, 0), (6, 2)), strict=True):
            assert [len(set(marks(axis))) for axis in figure.axes] == [n * seeds for n in tasks]
            for axis in figure.axes:
                low, high = sorted(axis.get_xlim())
                assert all(low < x < high for x, _ in marks(axis))
            title = figure.texts[0].get_text()
            assert ("seed 0" in title) == (seeds == 1) and ("each seed" in title) == (seeds > 1)
        never = [[text.get_text() for text in axis.texts] for axis in drawn[1].axes]
        assert never == [[], ["never finite"]] * 2


@pytest.mark.parametrize("seeds", [2, 20])
def test_seeds_that_end_alike_are_side_by_side(seeds, tmp_path, monkeypatch):
    """In the pictures against depth and share: each is seen, next to its depth, and no optimiser is on another's."""
    drawn = figures(monkeypatch)
    shares = ["--noisy-layers", "0.1", "0.3"]
    pictures.write(made([[0.1, 0.1]] * seeds, [[2.0, 2.0]] * seeds, *FOUR[:-1], *shares), "note", tmp_path)
    against_depth, against_share = drawn[-2].axes[0], drawn[-1].axes[0]
    assert against_depth.get_xticks().tolist() == [0, 1]
    assert [label.get_text() for label in against_depth.get_xticklabels()] == ["1", "40"]
    for axis, places in ((against_depth, [0, 1]), (against_share, [0, 0.1, 0.3, 1])):
        dots = [axis.transData.transform(mark) for mark in marks(axis)]
        assert len(dots) == 2 * 4 * seeds
        x = np.sort(np.array(dots)[:, 0]) * 72 / axis.figure.dpi
        assert np.diff(x).min() > 0.3  # points
        near = np.abs(np.subtract.outer([place for place, _ in marks(axis)], places)).min(axis=1)
        assert near.max() < np.diff(sorted(places)).min() / 2


def test_a_legend_of_two_rows_is_above_the_axes(tmp_path, monkeypatch):
    drawn = figures(monkeypatch)
    argv = ["--depths", "2", "--optimizers", "adam", "ll-adam", "--noisy-layers", *(f"0.{i}" for i in range(1, 6))]
    pictures.write(made([[0.1, 0.2]], [[2.0, 1.0]], *argv), "note", tmp_path)
    for figure in drawn:
        legends = figure.legends + [axis.get_legend() for axis in figure.axes if axis.get_legend()]
        (legend,) = legends
        (axis,) = figure.axes
        top = max(box.y1 for box in (axis.get_window_extent(), axis.title.get_window_extent()))
        assert legend.get_window_extent().y0 >= top


def test_trained_is_accurate_at_the_end_and_finite_throughout():
    accuracy = np.array([[0.2, 0.9], [0.2, 0.9], [0.9, 0.5], [0.2, 0.51]])
    loss = np.array([[2.0, 1.0], [np.nan, 1.0], [2.0, 1.0], [2.0, 1.0]])
    runs = [Run(seed, *curve, 0.0) for seed, curve in enumerate(zip(accuracy, loss, strict=True))]
    result = report.Result(task("--depths", "3", "--optimizers", "adam"), runs, 10)
    assert result.trained.tolist() == [True, False, False, True]
    assert result.cell == ".705 (.500 to .900) 2/4, 1 diverged"
    assert result.best.tolist() == [0.9, 0.9, 0.9, 0.51]
    assert report.finding([result]) == "Trained with 3 hidden layers, of 4 seeds: Adam 2."
    assert [report.trained_above(classes) for classes in (2, 10, 100)] == [0.75, 0.5, 0.05]


def test_the_paired_difference():
    ours, theirs = np.array([0.9, 0.8, 0.7]), np.array([0.5, 0.5, 0.5])
    mean, low, high = report.paired_difference(ours, theirs)
    assert mean == pytest.approx(0.3) and 0.2 <= low + 1e-9 < mean < high <= 0.4 + 1e-9
    assert report.paired_difference(theirs, theirs) == (0, 0, 0)
    assert np.isnan(report.paired_difference(ours[:1], theirs[:1])[1])
    # It covers the true difference about as often as it says; without pairing it would almost never miss.
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        common = rng.normal(size=30)
        _, low, high = report.paired_difference(common + rng.normal(0.1, 0.1, 30), common)
        covered += low <= 0.1 <= high
    assert scipy.stats.binomtest(covered, 200, 0.94).pvalue > 1e-3
    assert (report.signed(0.0123), report.signed(-0.5), report.signed(-0.0001)) == ("+.012", "−.500", "+.000")


def test_four_families_and_more_versions_than_styles(tmp_path, monkeypatch):
    figures(monkeypatch)
    names = [prefix + name for name in ("adam", "sgd", "rmsprop", "yogi") for prefix in ("", "ll-")]
    shares = [f"0.{i}" for i in range(1, 9)]
    options = flags.parse(["--depths", "9", "--optimizers", *names, "--noisy-layers", *shares])
    drawn = [
        report.Result(t, [Run(0, np.array([0.1, 0.2]), np.array([2.0, 1.0]), float(t.noisy_layers or 0))], 10)
        for t in flags.tasks(options, SMALL)
    ]
    assert len(pictures.write(drawn, "note", tmp_path)) == 4
    assert len({pictures._style(drawn, r) for r in drawn[:8]}) == 8
