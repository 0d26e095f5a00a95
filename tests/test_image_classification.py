"""The example examples/image_classification: what it compares, and that it reports what it measured."""

import contextlib
import csv
import io
from collections import defaultdict
from dataclasses import replace
from statistics import median

import jax
import matplotlib.image
import numpy as np
import optax
import pytest

from examples.image_classification import __main__ as demo
from examples.image_classification import data, models, report, train

DIGITS = data.digits()
SMALL = train.Settings(depths=(2,), seeds=2, epochs=2, adam_eps=1e-6)  # the eps of lgv.adam
NAMES = ["Adam", "L-Adam", "LL-Adam 30 %"]


@pytest.fixture(autouse=True)
def compile_fast(monkeypatch):
    """What runs for a moment only is not worth optimising."""
    compile_ = jax.stages.Lowered.compile
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda lowered: compile_(lowered, options))


def curves(name, settings, depth=2):
    model = models.Dense(depth, settings.width)
    tx = train.optimizers(model, DIGITS, settings)[name]
    chunks = list(train.compile_training(model, tx, DIGITS, settings))
    return train.Curves(*map(np.hstack, zip(*chunks, strict=True)))


def test_the_study_end_to_end(tmp_path):
    stdout, stderr = io.StringIO(), io.StringIO()
    flags = ["--depths", "2", "1", "2", "--seeds", "2", "--epochs", "2", "--output", str(tmp_path / "new" / "folder")]
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        demo.main(flags)
    output = tmp_path / "new" / "folder"

    with (output / "runs.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    assert [(r["depth"], r["optimiser"], r["seed"]) for r in runs] == [
        (depth, name, seed) for depth in "12" for name in NAMES for seed in "01"
    ]
    assert all(0 <= float(r["final"]) <= float(r["best"]) <= 1 for r in runs)
    assert all(int(r["trained"]) == (float(r["final"]) > 0.5) and float(r["final_loss"]) > 0 for r in runs)

    final, trained = defaultdict(list), defaultdict(int)
    for r in runs:
        final[r["depth"], r["optimiser"]].append(float(r["final"]))
        trained[r["depth"], r["optimiser"]] += int(r["trained"])
    cells = {
        cell: "{} ({} to {}) {}/2".format(
            *(f"{a:.3f}"[1:] for a in (median(accuracies), min(accuracies), max(accuracies))), trained[cell]
        )
        for cell, accuracies in final.items()
    }

    with (output / "summary.csv").open(encoding="utf-8") as file:
        summary = {(r["depth"], r["optimiser"]): r for r in csv.DictReader(file)}
    assert list(summary) == list(cells)
    for cell, r in summary.items():
        assert float(r["final_median"]) == pytest.approx(median(final[cell]), abs=1e-6)
        assert (float(r["final_worst"]), float(r["final_best"])) == (min(final[cell]), max(final[cell]))
        assert (int(r["trained"]), int(r["seeds"])) == (trained[cell], 2)

    markdown, printed = (output / "results.md").read_text(encoding="utf-8"), stdout.getvalue()
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    assert rows[0] == ["Hidden layers", *NAMES]
    assert rows[2:] == [[depth, *(cells[depth, name] for name in NAMES)] for depth in "12"]
    table = [line for line in printed.splitlines() if "/2" in line]
    assert ["  ".join(row) for row in rows[2:]] == [line.strip() for line in table]
    assert table[0].index(cells["1", "L-Adam"]) == table[1].index(cells["2", "L-Adam"])

    a, l, ll = (trained["2", name] for name in NAMES)  # noqa: E741
    sentence = f"At 2 hidden layers Adam trained {a} of 2 seeds, L-Adam {l} of 2, LL-Adam 30 % {ll} of 2."
    assert sentence in printed and sentence in markdown
    for name in ("results.md", "summary.csv", "runs.csv", "learning_curves.png", "accuracy_against_depth.png"):
        assert str(output / name) in printed
    for name in ("learning_curves.png", "accuracy_against_depth.png"):
        picture = matplotlib.image.imread(output / name)
        assert min(picture.shape[:2]) > 400 and picture.std() > 0.05
    # No terminal: a line each time, the last one for all the work.
    assert "\r" not in stderr.getvalue() and "100% " in stderr.getvalue().strip().splitlines()[-1]


def test_optimisers_share_weights_batches_and_noise_and_seeds_do_not():
    model = models.Dense(2, SMALL.width)
    adam, langevin, layer = (
        train.start(model, tx, DIGITS, 2) for tx in train.optimizers(model, DIGITS, SMALL).values()
    )

    def different(tree):  # a leaf that is not constant from the start, such as a kernel
        return [not np.array_equal(leaf[0], leaf[1]) for leaf in jax.tree.leaves(tree) if np.any(leaf)]

    for runs in (langevin, layer):
        jax.tree.map(np.testing.assert_array_equal, runs.params, adam.params)
        assert np.all(runs.batch_key == adam.batch_key)
    noise_keys = optax.tree.get(langevin.opt_state, "key")
    assert np.all(noise_keys == optax.tree.get(layer.opt_state, "key"))
    assert len(different(adam.params)) == 3 and all(different(adam.params))
    assert noise_keys[0] != noise_keys[1] and adam.batch_key[0] != adam.batch_key[1]
    assert not np.any(noise_keys == adam.batch_key)


def test_noise_is_the_only_difference():
    adam, silent = curves("Adam", SMALL), curves("L-Adam", replace(SMALL, sigma=0.0))
    everywhere, all_layers = curves("L-Adam", SMALL), curves("LL-Adam 100 %", replace(SMALL, noisy_layers=1.0))
    np.testing.assert_array_equal(silent.accuracy, adam.accuracy)
    np.testing.assert_allclose(silent.loss, adam.loss, rtol=1e-6)  # two programs round alike on some machines only
    np.testing.assert_array_equal(all_layers, everywhere)
    assert not np.array_equal(everywhere.loss, adam.loss)
    assert not np.array_equal(adam.loss[0], adam.loss[1])


def test_the_length_of_a_call_changes_nothing():
    one_at_a_time, together = curves("Adam", replace(SMALL, epochs=7), 1), curves("Adam", replace(SMALL, epochs=4), 1)
    assert one_at_a_time.loss.shape == one_at_a_time.accuracy.shape == (2, 7)
    np.testing.assert_allclose(one_at_a_time.loss[:, :4], together.loss, rtol=1e-4)
    assert np.all(np.diff(one_at_a_time.loss) < 0) and np.all(one_at_a_time.accuracy[:, -1] > 0.7)


def test_a_loss_that_is_not_finite_is_a_result(tmp_path):
    settings = replace(SMALL, learning_rate=1e30)
    broken = report.Result(2, "Adam", curves("Adam", settings))
    assert not np.isfinite(broken.curves.loss[:, -1]).any()
    assert broken.cell.endswith(" 0/2")
    report.write([broken], settings, DIGITS, tmp_path)
    with (tmp_path / "runs.csv").open(encoding="utf-8") as file:
        assert [(r["final_loss"], r["trained"]) for r in csv.DictReader(file)] == [("nan", "0")] * 2


def test_trained_is_accurate_at_the_end_and_finite_throughout():
    accuracy = np.array([[0.2, 0.9], [0.2, 0.9], [0.9, 0.5], [0.2, 0.51]])
    loss = np.array([[2.0, 1.0], [np.inf, 1.0], [2.0, 1.0], [2.0, 1.0]])
    result = report.Result(3, "Adam", train.Curves(accuracy, loss))
    assert result.trained.tolist() == [True, False, False, True]
    assert result.cell == ".705 (.500 to .900) 2/4"
    assert result.best.tolist() == [0.9, 0.9, 0.9, 0.51]
    deeper = report.Result(7, "Adam", train.Curves(1 - accuracy, loss))
    assert report.finding([result, deeper]) == "At 7 hidden layers Adam trained 0 of 4 seeds."


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--depths", "10", "0"], "--depths: must be a whole number of at least 1, got '0'"),
        (["--depths", "-3"], "--depths: must be a whole number of at least 1, got '-3'"),
        (["--depths"], "--depths: expected at least one argument"),
        (["--seeds", "0"], "--seeds: must be a whole number of at least 1, got '0'"),
        (["--epochs", "1.5"], "--epochs: must be a whole number of at least 1, got '1.5'"),
        (["--epochs", "many"], "--epochs: must be a whole number of at least 1, got 'many'"),
        (["--adam-eps", "-1"], "--adam-eps: must be a number of at least 0, got '-1'"),
        (["--adam-eps", "nan"], "--adam-eps: must be a number of at least 0, got 'nan'"),
        (["--output", __file__], "--output: cannot make the folder"),
    ],
)
def test_nonsense_is_refused(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        demo.main(flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_digits():
    assert DIGITS.train_x.shape == (1437, 64) and DIGITS.test_x.shape == (360, 64)
    assert DIGITS.train_x.min() == 0 and DIGITS.train_x.max() == 1
    train_counts, test_counts = np.bincount(DIGITS.train_y), np.bincount(DIGITS.test_y)
    np.testing.assert_allclose(test_counts, (train_counts + test_counts) * 360 / 1797, atol=1)
