"""Tables and pictures of examples/image_classification, of curves that were made up."""

import csv
import math
import re

import numpy as np
import pytest
import scipy.stats

from examples.image_classification import methods, pictures, report
from examples.image_classification.sweep import Run
from tests.programs.drawn import figures
from tests.programs.images import SMALL, curves, task

pytestmark = pytest.mark.usefixtures("one_device", "elsewhere")


def made(accuracy, loss, texts, depths=(2,), **changes):
    """Results of these curves, (seeds, epochs), for every depth and method; SGD's loss is nan in the end."""
    tasks, found = [task(text, depth=depth, **changes) for depth in depths for text in texts], []
    for own in tasks:
        layers = [str(i) for i in range(10)]
        share = len(methods.selected(own.method, layers)) / 10
        end = math.nan if own.method.name == "sgd" else 0.0
        found.append(
            [
                Run(seed, np.array(a), np.array([*losses[:-1], losses[-1] + end]), share)
                for seed, (a, losses) in enumerate(zip(accuracy, loss, strict=True))
            ]
        )
    return report.of_tasks(tasks, found, 10)


def written(found, folder):
    """results.md, and the CSV files as dictionaries."""
    note = report.caption([r.task for r in found], len(found[0].runs), SMALL)
    paths = report.write(found, note, [], folder)
    tables = {}
    for path in paths[1:]:
        with path.open(encoding="utf-8") as file:
            tables[path.name] = list(csv.DictReader(file))
    return paths[0].read_text(encoding="utf-8"), tables


FOUR = ["adam", "l-adam", "ll-adam", "sgd"]


def test_a_loss_that_is_not_finite_is_a_result(tmp_path):
    diverged = curves(task("sgd:learning_rate=1e30", depth=1))
    assert not np.isfinite(diverged[1]).all() and np.isfinite(diverged[0]).all()
    text, tables = written(made([[0.2, 0.9], [0.1, 0.7]], [[2, 1], [3, 2]], FOUR, (1, 40)), tmp_path)
    assert "| SGD | .800 (.700 to .900) 0/2, 2 diverged | .800 (.700 to .900) 0/2, 2 diverged |" in text
    assert "| Adam | .800 (.700 to .900) 2/2 | .800 (.700 to .900) 2/2 |" in text
    of_sgd = [r for r in tables["runs.csv"] if r["method"] == "SGD"]
    assert [(r["final_loss"], r["trained"]) for r in of_sgd] == [("nan", "0")] * 4
    assert [r["diverged"] for r in tables["summary.csv"] if r["method"] == "SGD"] == ["2", "2"]


def test_differences_are_from_the_strongest_plain_optimiser(tmp_path):
    """Of the same family, at each depth."""
    texts = ["adam:eps=1e-8", "adam:eps=1e-6", "l-adam", "ll-adam", "sgd", "l-sgd", "baoab", "ll-yogi"]
    found = made([[0.5], [0.6]], [[2.0], [2.0]], texts, (1, 40))
    final = {"Adam, eps 1e-8": (0.7, 0.1), "Adam, eps 1e-6": (0.6, 0.3), "L-Adam": (0.8, 0.8), "SGD": (0.9, 0.9)}
    for r in found:
        for run in r.runs:
            run.accuracy[-1] = final.get(r.label, (0.5, 0.5))[r.depth > 1] + 0.02 * run.seed * (r.label == "L-Adam")
    text, tables = written(found, tmp_path)
    minus = {(r["method"], int(r["depth"])): r["minus"] for r in tables["summary.csv"] if r["minus"]}
    adams = {1: "Adam, eps 1e-8", 40: "Adam, eps 1e-6"}
    langevin = {(name, depth): adams[depth] for name in ("L-Adam", "LL-Adam 30 %") for depth in adams}
    assert minus == langevin | {("L-SGD", depth): "SGD" for depth in adams}
    assert "| L-Adam | +.110 [+.100, +.120] | +.510 [+.500, +.520] |" in text
    assert "| LL-Adam 30 % | −.200 [−.200, −.200] | +.200 [+.200, +.200] |" in text
    (row,) = [r for r in tables["summary.csv"] if (r["method"], r["depth"]) == ("L-Adam", "40")]
    assert [row[k] for k in ("difference", "low", "high")] == ["0.510000", "0.500000", "0.520000"]
    assert "that of the best plain optimiser there, seed by seed: the mean, and its 95 % interval" in text
    assert "minus" not in report.printed([r for r in found if r.family in ("integrators", "yogi")])


def test_the_caption_has_every_setting_and_who_differs():
    def caption(*texts, **changes):
        return report.caption([task(text, **changes) for text in texts], 2, SMALL)

    start = "small, 256 training and 128 test images"
    assert caption("sgd") == (
        f"{start}; dense, width 64; 2 seeds, 2 epochs of 2 batches of 128; learning rate 0.1; "
        "learning rate schedule constant."
    )
    text = caption("adam:eps=1e-8", "l-adam:max_noise=0.03", "ll-adam", "ll-adadelta", augment=True)
    assert text == (
        f"{start}, augmented; dense, width 64; 2 seeds, 2 epochs of 2 batches of 128; "
        "learning rate 0.001, 0.1 (LL-Adadelta 30 %); learning rate schedule constant; "
        "eps default, 1e-8 (Adam); sigma 0.001, 0.05 (LL-Adadelta 30 %); sigma schedule linear; noisy steps 0.6; "
        "max noise none, 0.03 (L-Adam)."
    )
    assert caption("adlala", "lol:temperature=1").endswith(
        "temperature 0.0001, 1 (LOL); friction 1; thermostat sigma 0.01; coupling 0.1."
    )


def test_of_a_single_seed_and_epoch_nothing_is_averaged(tmp_path):
    """No standard deviation, no interval, no plural."""
    found = made([[0.9]], [[1.0]], FOUR, (1, 40), epochs=1)
    text, tables = written(found, tmp_path)
    text += report.printed(found)
    assert "1 seed, 1 epoch of 2 batches of 128" in text
    assert not re.search(r"±|nan|\b1 (seed|epoch|batche|layer)s|[Bb]ootstrap|\[", text)
    assert {r["final_sd"] for r in tables["summary.csv"]} == {""}
    assert {(r["difference"], r["low"], r["high"]) for r in tables["summary.csv"] if r["minus"]} == {
        ("0.000000", "", "")
    }
    several = report.printed(made([[0.9]] * 3, [[1.0]] * 3, FOUR))
    assert "bootstrap" in several


def marks(axis):
    """Places and values of what is drawn as marks alone."""
    drawn = [line for line in axis.lines if line.get_linestyle() == "None" and line.get_marker() not in ("_", "None")]
    return [(x, y) for line in drawn for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_epoch_makes_marks_and_not_empty_axes(seeds, tmp_path, monkeypatch):
    drawn = figures(monkeypatch)
    found = made([[0.3]] * seeds, [[2.0]] * seeds, ["adam", "ll-adam", "sgd"], epochs=1)
    for r in found:
        for run in r.runs:
            run.accuracy[:] = 0.1 * run.seed + 0.1
    pictures.write(found, "note", tmp_path)
    for axis, names in zip(drawn[0].axes, (("Adam", "LL-Adam 30 %"), ("SGD",)), strict=True):
        lines = [line for line in axis.lines if line.get_marker() != "None"]
        marked = {(x, y) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
        assert {(1, run.accuracy[0]) for r in found if r.label in names for run in r.runs} <= marked
        (low, high), (bottom, top) = axis.get_xlim(), axis.get_ylim()
        assert all(low < x < high and bottom < y < top for x, y in marked)
    for figure in drawn:
        title = figure.texts[0].get_text()
        assert ("seed 0" in title) == (seeds == 1) and ("each seed" in title) == (seeds > 1)
    assert [len(marks(axis)) for axis in drawn[1].axes] == [2 * seeds, seeds]


@pytest.mark.parametrize("seeds", [pytest.param(2, marks=pytest.mark.slow), 20])
def test_seeds_that_end_alike_are_side_by_side(seeds, tmp_path, monkeypatch):
    """In the pictures against depth and share: each is seen, next to its depth, and no method is on another's."""
    drawn = figures(monkeypatch)
    texts = ["adam", "l-adam", "ll-adam:layers=0.1", "ll-adam:layers=0.3"]
    pictures.write(made([[0.1, 0.1]] * seeds, [[2.0, 2.0]] * seeds, texts, (1, 40)), "note", tmp_path)
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


def test_a_line_for_each_choice_of_layers_from_no_noise_to_noise_everywhere(tmp_path, monkeypatch):
    drawn = figures(monkeypatch)
    texts = [f"ll-adam:layers={where}{share}" for where in ("", "last:", "random:") for share in (0.5, 0.2)]
    found = made([[0.1]], [[2.0]], ["adam", "l-adam", "sgd", *texts], epochs=1)
    assert pictures.write(found, "note", tmp_path)[-1].name == "accuracy_against_share.png"
    (axis,) = drawn[-1].axes  # SGD has no layers
    named = [f"2 hidden layers, {where}" for where in ("first", "last", "random")]
    assert [line.get_label() for line in axis.lines if line.get_label()[0] != "_"] == named
    lines = [line.get_xdata() for line in axis.lines if line.get_marker() == "None"]
    assert len(lines) == 3
    for places in lines:
        np.testing.assert_allclose(places, [0, 0.2, 0.5, 1], atol=0.07)


def test_a_legend_of_two_rows_is_above_the_axes(tmp_path, monkeypatch):
    """With more versions than styles."""
    drawn = figures(monkeypatch)
    texts = ["adam", *(f"ll-adam:layers=0.{i}" for i in range(1, 9))]
    found = made([[0.1, 0.2]], [[2.0, 1.0]], texts)
    pictures.write(found, "note", tmp_path)
    for figure in drawn:
        legends = figure.legends + [axis.get_legend() for axis in figure.axes if axis.get_legend()]
        (legend,) = legends
        (axis,) = figure.axes
        top = max(box.y1 for box in (axis.get_window_extent(), axis.title.get_window_extent()))
        assert legend.get_window_extent().y0 >= top
    assert [pictures.STYLES.index(pictures._style(found, r)) for r in found] == [0, 1, 2, 3, 4, 5, 6, 7, 0]


def test_trained_is_accurate_at_the_end_and_finite_throughout():
    accuracy = np.array([[0.2, 0.9], [0.2, 0.9], [0.9, 0.5], [0.2, 0.51]])
    loss = np.array([[2.0, 1.0], [np.nan, 1.0], [2.0, 1.0], [2.0, 1.0]])
    runs = [Run(seed, *curve, 0.0) for seed, curve in enumerate(zip(accuracy, loss, strict=True))]
    (result,) = report.of_tasks([task(depth=3)], [runs], 10)
    assert result.trained.tolist() == [True, False, False, True]
    assert result.cell == ".705 (.500 to .900) 2/4, 1 diverged"
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


@pytest.mark.slow
def test_four_families_have_a_panel_each(tmp_path, monkeypatch):
    drawn = figures(monkeypatch)
    names = ("adam", "sgd", "rmsprop", "yogi")
    pictures.write(made([[0.1]], [[2.0]], [prefix + n for n in names for prefix in ("", "ll-")]), "note", tmp_path)
    assert [len(figure.axes) for figure in drawn] == [4, 4]
    for axis in (axis for figure in drawn for axis in figure.axes):  # each version has its style in all of them
        assert [line.get_color() for line in axis.get_legend().get_lines()] == ["#0072B2", "#D55E00"]
