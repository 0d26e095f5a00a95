"""The example examples/image_classification: what it compares, and that it reports what it measured."""

import csv
import itertools
import math
import re
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest
import scipy.stats

import langevin_optax as lgv
from examples.image_classification import __main__ as demo
from examples.image_classification import (
    flags,
    models,
    optimizers,
    presets,
    report,
    train,
)
from examples.image_classification.sweep import Sweep
from tests.cases import by_default
from tests.programs.images import SMALL, curves, lines, main, task

pytestmark = pytest.mark.usefixtures("one_device", "elsewhere")
NAMES = ["Adam", "LL-Adam 30 %"]
STUDY = ["--depths", 2, 1, 2, "--seeds", 2, "--epochs", 2]
OPTIMIZERS = ["adam", "ll-adam"]


class Study(NamedTuple):
    """What the program printed, its progress, and where it wrote."""

    printed: str
    progress: str
    output: Path

    def rows(self, name):
        with (self.output / name).open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @property
    def final(self):
        final = defaultdict(list)
        for r in self.rows("runs.csv"):
            final[r["optimiser"], r["depth"]].append(float(r["final"]))
        return final

    @property
    def trained(self):
        trained = defaultdict(int)
        for r in self.rows("runs.csv"):
            trained[r["optimiser"], r["depth"]] += int(r["trained"])
        return trained


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    output = tmp_path_factory.mktemp("study") / "new" / "folder"
    device = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(jax, "local_devices", lambda: device)
        said = main(*STUDY, "--optimizers", *OPTIMIZERS, "--seeds-at-once", 1, "--tensorboard", "--output", output)
    return Study(*said, output)


def test_every_run_is_reported(study):
    runs = study.rows("runs.csv")
    assert [(r["data"], r["model"], r["depth"], r["optimiser"], r["seed"]) for r in runs] == [
        ("digits", "dense", depth, name, seed) for depth in "12" for name in NAMES for seed in "01"
    ]
    assert all(0 <= float(r["final"]) <= float(r["best"]) <= 1 for r in runs)
    assert all(int(r["trained"]) == (float(r["final"]) > 0.5) and float(r["final_loss"]) > 0 for r in runs)
    written = {
        (str(r["task"]["depth"]), r["task"]["optimizer"], str(r["seed"])): r for r in lines(study.output / "runs.jsonl")
    }
    assert len(written) == len(runs) == 8
    shares = {"adam": (0, 0), "ll-adam": (1 / 2, 1 / 3)}
    for r in runs:
        line = written[r["depth"], r["optimiser"].split()[0].lower(), r["seed"]]
        assert f"{line['accuracy'][-1]:.6f}" == r["final"] and len(line["accuracy"]) == len(line["loss"]) == 2
        assert line["task"]["data"] == "digits" and line["task"]["epochs"] == 2
        assert line["noisy_share"] == shares[line["task"]["optimizer"]][int(r["depth"]) - 1]


def test_the_summary_is_that_of_the_runs(study):
    final, trained = study.final, study.trained
    summary = {(r["optimiser"], r["depth"]): r for r in study.rows("summary.csv")}
    assert list(summary) == list(final)
    for cell, r in summary.items():
        a, b = final[cell]
        assert float(r["final_median"]) == pytest.approx((a + b) / 2, abs=1e-6) == float(r["final_mean"])
        assert float(r["final_sd"]) == pytest.approx(abs(a - b) / math.sqrt(2), abs=2e-6)
        assert (float(r["final_worst"]), float(r["final_best"])) == (min(a, b), max(a, b))
        assert (int(r["trained"]), int(r["diverged"]), int(r["seeds"])) == (trained[cell], 0, 2)
        assert (int(r["epochs"]), float(r["learning_rate"])) == (2, 1e-3)

    differences = {(r["optimiser"], r["minus"], r["depth"], int(r["seed"])): r for r in study.rows("differences.csv")}
    assert len(differences) == 2 * 2
    for (ours, theirs, depth, seed), r in differences.items():
        assert float(r["difference"]) == pytest.approx(final[ours, depth][seed] - final[theirs, depth][seed], abs=2e-6)
    assert {key[:2] for key in differences} == {(NAMES[1], "Adam")}


def test_the_tables_are_those_of_the_runs(study):
    final, trained = study.final, study.trained
    cells = {
        cell: "{} ({} to {}) {}/2".format(
            *(f"{a:.3f}"[1:] for a in (median(accuracies), min(accuracies), max(accuracies))), trained[cell]
        )
        for cell, accuracies in final.items()
    }
    markdown = (study.output / "results.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    assert rows[0] == ["Optimiser", "1 hidden layer", "2 hidden layers"]
    assert rows[2:4] == [[name, *(cells[name, depth] for depth in "12")] for name in NAMES]
    table = [line for line in study.printed.splitlines() if "/2" in line]
    assert ["  ".join(row) for row in rows[2:4]] == [line.strip() for line in table]
    assert table[0].index(cells["Adam", "2"]) == table[1].index(cells["LL-Adam 30 %", "2"])
    difference = np.subtract(final["LL-Adam 30 %", "2"], final["Adam", "2"]).mean()
    assert rows[6][0] == "LL-Adam 30 %" and rows[6][2].startswith(report.signed(difference))
    counts = ", ".join(f"{name} {trained[name, '2']}" for name in NAMES)
    sentence = f"Trained with 2 hidden layers, of 2 seeds: {counts}."
    assert sentence in study.printed and sentence in markdown
    assert "digits, 1437 training and 360 test images" in study.printed
    assert "2 seeds, 2 epochs of 11 batches of 128" in markdown


def test_what_is_written_is_named_and_drawn(study):
    drawn = ("learning_curves.png", "training_loss.png", "accuracy_against_depth.png")
    for name in ("runs.jsonl", "results.md", "summary.csv", "runs.csv", "differences.csv", *drawn):
        assert str(study.output / name) in study.printed
    for name in drawn:
        picture = matplotlib.image.imread(study.output / name)
        assert min(picture.shape[:2]) > 400 and picture.std() > 0.05
    # No terminal: a line each time, the last one for all the work.
    assert "\r" not in study.progress and "100% " in study.progress.strip().splitlines()[-1]
    assert re.search(r"^176 steps, of all seeds, in [\d.,]+ m?s on .*: [\d.]+ m?s per step\.$", study.printed, re.M)
    assert not list((study.output / "checkpoints").iterdir())


def test_tensorboard(study):
    (run,) = (study.output / "tensorboard" / "1 hidden layer" / "Adam").glob("seed 0, *")
    (events,) = run.iterdir()
    written = events.read_bytes()
    line = lines(study.output / "runs.jsonl")[0]
    assert (line["task"]["optimizer"], line["task"]["depth"], line["seed"]) == ("adam", 1, 0)
    assert written.count(b"test_accuracy") == written.count(b"training_loss") == 2
    for value in line["accuracy"] + line["loss"]:
        assert np.float32(value).tobytes() in written


def without_lock(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_nothing_is_run_again(study, tmp_path):
    """The same command reads the runs that are there; one optimiser more costs that one only."""
    output = tmp_path / "copy"
    shutil.copytree(study.output, output)
    before = without_lock(output)
    printed, progress = main(*STUDY, "--optimizers", *OPTIMIZERS, "--output", output)
    assert "8 of 8 runs are in" in printed and not progress
    assert printed.split("\n\n")[1:-1] == study.printed.split("\n\n")[1:-1]  # the tables
    after = without_lock(output)
    changed = {path.suffix for path in before if after[path] != before[path]}
    assert changed <= {".png"} and set(after) == set(before)

    more = ["--optimizers", "yogi", *OPTIMIZERS]
    sweep = captured(main, *STUDY, *more, "--seeds", 3, "--output", output)
    missing = {(t.optimizer, t.depth): sweep.missing(t, range(3)) for t in sweep.tasks}
    assert missing == {(name, depth): [0, 1, 2] if name == "yogi" else [2] for depth in (1, 2) for name in more[1:]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--optimizers", "ll-adam"], r"\(1 hidden layer, Adam is left out, 2 hidden layers, Adam is left out\)"),
        (["--depths", 1], "2 hidden layers, Adam is left out, 2 hidden layers, LL-Adam 30 % is left out"),
        (["--seeds", 1], r"\(seed 1 is left out\)"),
        (["--epochs", 3], "1 hidden layer, Adam: epochs was 2, is 3, .* and 1 more"),
        (["--sigma", 5], "1 hidden layer, LL-Adam 30 %: sigma was 0.001, is 5.0"),
    ],
)
def test_a_folder_keeps_its_tables(changes, said, study):
    before = without_lock(study.output)
    command = [*STUDY, "--optimizers", *OPTIMIZERS, *changes]
    with pytest.raises(SystemExit, match=rf"error: .*folder has tables .*{said}.*; choose another --output, or ask"):
        main(*command, "--output", study.output)
    assert without_lock(study.output) == before


def captured(main, *argv):
    """The sweep that the program would run, with its tasks."""

    class Captured(Exception):
        pass

    def run(sweep, tasks, seeds):
        sweep.tasks = tasks
        raise Captured(sweep)

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(Captured) as found:
        monkeypatch.setattr(Sweep, "run", run)
        main(*argv)
    return found.value.args[0]


def test_how_many_seeds_train_together(tmp_path):
    def at_once(*argv):
        sweep = captured(main, *argv, "--seeds", 5, "--depths", 1, "--output", tmp_path)
        return sweep.seeds_at_once(sweep.tasks[0])

    assert at_once() == 5 and at_once("--seeds-at-once", 3) == 3
    np.savez("tiny.npz", x_train=np.ones((200, 8, 8)), y_train=[0] * 200, x_test=np.ones((2, 8, 8)), y_test=[0, 1])
    conv = ["--model", "conv-dense", "--data", "tiny.npz"]
    assert at_once(*conv) == 1 and at_once(*conv, "--seeds-at-once", 3) == 3


def test_optimisers_share_weights_batches_and_noise_and_seeds_do_not():
    adam, langevin, layer = (
        train.prepare(task("--optimizers", name), SMALL).start(range(2)) for name in ("adam", "l-adam", "ll-adam")
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


def test_noise_is_the_only_difference_of_the_optimisers():
    eps = ["--plain-eps", "1e-6"]  # that of lgv.adam
    adam, silent = (after_steps(built("--optimizers", *name, *eps)) for name in (["adam"], ["l-adam", "--sigma", "0"]))
    everywhere, all_layers = (
        after_steps(built("--optimizers", *name)) for name in (["l-adam"], ["ll-adam", "--noisy-layers", "1.0"])
    )
    chex.assert_trees_all_close(silent, adam, rtol=1e-6)
    chex.assert_trees_all_equal(all_layers, everywhere)
    assert all(not np.allclose(a, b, rtol=1e-5) for a, b in zip(*map(jax.tree.leaves, (everywhere, adam)), strict=True))


@pytest.mark.slow
def test_noise_is_the_only_difference_of_the_trainings():
    adam, silent = curves(task("--optimizers", "adam")), curves(task("--optimizers", "l-adam", "--sigma", "0"))
    everywhere = curves(task("--optimizers", "l-adam"))
    all_layers = curves(task("--optimizers", "ll-adam", "--noisy-layers", "1.0"))
    # Two programs round alike on some machines only.
    np.testing.assert_allclose(silent[0], adam[0], atol=1.5 / 128)
    np.testing.assert_allclose(silent[1], adam[1], rtol=1e-6)
    np.testing.assert_array_equal(all_layers, everywhere)
    assert not np.array_equal(everywhere[1], adam[1])
    assert not np.array_equal(adam[1][:, 0], adam[1][:, 1])


def test_a_seed_does_not_depend_on_the_others():
    together, alone = curves(task()), curves(task(), seeds=(1,))
    np.testing.assert_allclose(together[1][:, 1:], alone[1], rtol=1e-5)


FAST = ["--optimizers", "adam", "--depths", "1", "--epochs", "6", "--learning-rate", "0.01", "--batch-size", "96"]


@pytest.mark.slow
def test_step_by_step_is_the_compiled_epoch(monkeypatch):
    """What convolutions get on a CPU; the last batch of test images is a small one."""
    own = task(*FAST, "--augment")
    whole = curves(own)
    monkeypatch.setattr(models, "CONVOLUTIONAL", ("dense",))
    np.testing.assert_allclose(curves.__wrapped__(own), whole, rtol=1e-4, atol=1.5 / 128)
    assert not hasattr(train.prepare(own, SMALL).epoch, "lower")  # it was no compiled program, this time


# The optimisers


LAYERS = ["Dense_0", "Dense_1", "Dense_2"]


def after_steps(tx):
    """Parameters of three layers after two steps, one entry of each without gradient."""
    params = {name: {"kernel": jnp.array([0.5, -1.5, 1.0])} for name in LAYERS}
    state = tx.init(params)
    for scale in (1.0, -0.3):
        grads = {name: {"kernel": jnp.array([0.1, 0.0, 2.0]) * scale} for name in LAYERS}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def built(*argv, key=0):
    return optimizers.build(task(*argv), LAYERS, steps=10)(key)


@pytest.mark.parametrize("name", by_default(["sgd", "adam"], optimizers.FAMILIES))
def test_names_are_the_optimisers_of_that_name(name):
    eps = {} if name == "sgd" else {"eps": 1e-3}
    gamma = optax.linear_schedule(0.5, 0.0, 10)
    plain = built(
        "--optimizers", name, "--plain-eps", "1e-3", "--learning-rate", "0.5", "--learning-rate-schedule", "linear"
    )
    chex.assert_trees_all_close(after_steps(plain), after_steps(getattr(optax, name)(gamma, **eps)), rtol=1e-6)

    langevin, sigma = getattr(lgv, name), optax.linear_schedule(0.2, 0.0, 6)
    noisy = ["--learning-rate", "0.5", "--learning-rate-schedule", "linear", "--sigma", "0.2"]
    expected = after_steps(langevin(gamma, sigma, key=7))
    chex.assert_trees_all_close(after_steps(built("--optimizers", f"l-{name}", *noisy, key=7)), expected, rtol=1e-6)
    first = after_steps(built("--optimizers", f"ll-{name}", "--noisy-layers", "2", *noisy, key=7))
    silent = after_steps(langevin(gamma, 0.0, key=7))
    chex.assert_trees_all_close(first, {**expected, "Dense_2": silent["Dense_2"]}, rtol=1e-6)
    assert not np.allclose(expected["Dense_2"]["kernel"], silent["Dense_2"]["kernel"])


def test_names_of_the_others():
    noisy = ["--learning-rate", "0.5", "--sigma", "0.2"]
    expected = after_steps(built("--optimizers", "l-sgd", *noisy))
    chex.assert_trees_all_equal(after_steps(built("--optimizers", "sgld", *noisy)), expected)
    integrator = ["--learning-rate", "0.5", "--temperature", "0.3", "--friction", "0.7", "--optimizers"]
    order = {"order": LAYERS}
    thermostat = {"sigma": 0.02, "coupling": 0.05}
    for name, tx in {
        "baoab": lgv.baoab(0.5, 0.3, 0.7, 3),
        "overdamped": lgv.overdamped_langevin(0.5, 0.3, 3),
        "adlala": lgv.adlala(0.5, 3, temperature=0.3, friction=0.7, **thermostat, **order),
        "lol": lgv.lol(0.5, 3, temperature=0.3, friction=0.7, **order),
        "lala": lgv.lala(0.5, 3, temperature=0.3, friction=0.7, **order),
    }.items():
        got = built(*integrator, name, "--thermostat-sigma", "0.02", "--coupling", "0.05", key=3)
        chex.assert_trees_all_close(after_steps(got), after_steps(tx), rtol=1e-6)


def test_a_bound_on_the_noise():
    bounded = ["--max-noise", "1e-3", "--learning-rate", "0.5", "--optimizers"]
    expected = after_steps(lgv.adam(0.5, 1e-3, 3, max_noise=1e-3))
    got = after_steps(built(*bounded, "l-adam", "--sigma-schedule", "constant", key=3))
    free = after_steps(built(*bounded[2:], "l-adam", "--sigma-schedule", "constant", key=3))
    chex.assert_trees_all_close(got, expected, rtol=1e-6)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, (got, free)), strict=True))
    assert task(*bounded, "adam").max_noise is None
    assert "noise of at most 0.001 per step" in report.caption([task(*bounded, "l-adam")], 1, SMALL)


@pytest.mark.slow
def test_an_integrator_learns():
    _, loss = curves(task("--optimizers", "adlala", "--depths", "1", "--epochs", "8", "--learning-rate", "0.25"), (0,))
    assert loss[-1] < loss[0] - 0.3
    assert task("--optimizers", "overdamped", "--friction", "3").friction is None
    assert task("--optimizers", "baoab", "--friction", "3").friction == 3


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("constant", (2, 2, 2, 2)),
        ("linear", (2, 1.5, 0.98, 0)),
        ("cosine", (2, 1 + math.cos(math.pi / 4), 1 + math.cos(0.51 * math.pi), 0)),
        ("inverse-time", (2, 2 / 1.5, 2 / 2.02, 2 / 3)),
        ("step", (2, 2, 0.2, 0.2)),
    ],
)
def test_learning_rates(name, values):
    schedule = optimizers.learning_rate_schedule(
        task("--learning-rate", "2", "--learning-rate-schedule", name), steps=100
    )
    for count, value in zip((0, 25, 51, 100), values, strict=True):
        assert (schedule(count) if callable(schedule) else schedule) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("constant", (2, 2, 2)),
        ("linear", (2, 1, 0)),
        ("inverse-sqrt-log", (2, 2 / math.sqrt(math.log(math.e + 0.4)), 2 / math.sqrt(math.log(math.e + 1.8)))),
        ("step", (2, 2, 0)),
    ],
)
def test_sigmas(name, values):
    own = task("--optimizers", "l-adam", "--sigma", "2", "--sigma-schedule", name, "--noisy-steps", "0.4")
    schedule = optimizers.sigma_schedule(own, steps=100)
    for count, value in zip((0, 20, 90), values, strict=True):
        assert (schedule(count) if callable(schedule) else schedule) == pytest.approx(value, rel=1e-6)


def test_names_and_values_of_optimisers():
    given = ["--optimizers", "ll-adam", "adadelta", "ll-adadelta", "--noisy-layers", "4", "0.30", "1", "1.0", "4"]
    given += ["--sigma", "5"]
    tasks = flags.tasks(flags.parse([*given, "adadelta=7", "--depths", "2"]), SMALL)
    assert [(optimizers.label(t), t.learning_rate, t.sigma) for t in tasks] == [
        ("LL-Adam first 4", 1e-3, 5),
        ("LL-Adam 30 %", 1e-3, 5),
        ("LL-Adam first layer", 1e-3, 5),
        ("LL-Adam 100 %", 1e-3, 5),
        ("Adadelta", 0.1, None),
        ("LL-Adadelta first 4", 0.1, 7),
        ("LL-Adadelta 30 %", 0.1, 7),
        ("LL-Adadelta first layer", 0.1, 7),
        ("LL-Adadelta 100 %", 0.1, 7),
    ]
    shares = [train.prepare(t, SMALL).noisy_share for t in flags.tasks(flags.parse([*given, "--depths", "9"]), SMALL)]
    assert shares == [0.4, 0.3, 0.1, 1.0, 0.0, 0.4, 0.3, 0.1, 1.0]


# The models


def count(model, image):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image))))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_sizes_of_the_models():
    build = {name: lambda *a, name=name: models.MODELS[name](*a, 10, jnp.float32) for name in models.MODELS}
    dense = 784 * 64 + 64 + 39 * (64 * 64 + 64) + 64 * 10 + 10
    assert count(build["dense"](40, 64), (28, 28, 1)) == dense
    pooled = 14 * 14 * 32
    convolution = 4 * 4 * 32 + 32
    assert count(build["conv-dense"](10, 64), (28, 28, 1)) == convolution + dense + (pooled - 784) * 64 - 30 * 4160
    assert count(build["highway"](80, 64), (28, 28, 1)) == 784 * 64 + 64 + 160 * 4160 + 650
    # He et al., table 6: 0.27 million for ResNet-20.
    assert 265_000 < count(build["resnet"](3, 16), (32, 32, 3)) < 275_000
    order = lgv.layer_order(models.ResNet(), jnp.zeros((1, 32, 32, 3)))
    assert sum("Conv" in path for path in order) == 1 + 18 + 2 and len(order) == 2 * 21 + 1
    vgg = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    head = 4 * 4 * 128 * 128 + 128 + 1290
    assert count(build["vgg"](2, 32), (32, 32, 3)) == sum(9 * a * b + b for a, b in vgg) + head
    # Every layer adds growth channels to what it reads.
    channels, kernels, norms = 10, 3 * 9 * 10, 0
    for block in range(3):
        if block:
            kernels, norms = kernels + channels**2, norms + channels
        for _ in range(6):
            kernels, norms, channels = kernels + 9 * channels * 5, norms + channels, channels + 5
    head = 2 * (norms + channels) + channels * 10 + 10
    assert count(build["densenet"](6, 5), (32, 32, 3)) == kernels + head


def test_highway_carries():
    """With gates closed, the layers change nothing."""
    x, model = jnp.arange(12.0).reshape(2, 6), models.Highway(5, 6, gate_bias=-100.0)
    variables = model.init(jax.random.key(0), x)
    params = variables["params"]
    first = jax.nn.relu(x @ params["Dense_0"]["kernel"])
    expected = first @ params["Dense_11"]["kernel"]
    np.testing.assert_allclose(model.apply(variables, x), expected, rtol=1e-5)


def test_max_pool():
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    np.testing.assert_array_equal(models._max_pool(x), nn.max_pool(x, (2, 2), (2, 2)))


class Normalized(nn.Module):
    """As little as has statistics of batches."""

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x.reshape(len(x), -1))
        return nn.Dense(10)(x)


@pytest.mark.parametrize(
    "name", ["normalized", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet", "densenet"))]
)
def test_batch_statistics(name, monkeypatch):
    """They follow the batches in training, and only then; testing takes each image for itself."""
    monkeypatch.setitem(models.MODELS, "normalized", lambda depth, width, classes, dtype: Normalized())
    own = task("--depths", "1", "--width", "4", "--epochs", "1", "--batch-size", "64")
    training = train.prepare(replace(own, model=name), SMALL)
    before = training.start([0])
    kept = jax.tree.map(np.array, before.batch_stats)
    after, (accuracy, _) = training.epoch(before, np.int32(0), training.images)
    changed = jax.tree.map(lambda a, b: not np.allclose(a, b), kept, after.batch_stats)
    assert jax.tree.leaves(changed) and all(jax.tree.leaves(changed))
    model = models.MODELS[name](1, 4, 10, jnp.float32)
    variables = {"params": after.params, "batch_stats": after.batch_stats}
    variables = jax.tree.map(lambda leaf: leaf[0], variables)
    x = (SMALL.test_x / 16).astype(np.float32)
    logits = each_by_itself(model, variables, x)
    assert np.mean(logits.argmax(1) == SMALL.test_y) == pytest.approx(accuracy[0], abs=1.5 / 128)


def each_by_itself(model, variables, x):
    predict = jax.jit(lambda x: model.apply(variables, x, train=False))
    logits = predict(x)
    np.testing.assert_allclose(predict(x[:40]), logits[:40], rtol=1e-4, atol=1e-5)
    return logits


@pytest.mark.parametrize("name", ["resnet", pytest.param("densenet", marks=pytest.mark.slow)])
def test_models_normalise_by_the_batch_in_training_only(name):
    model, x = models.MODELS[name](1, 4, 10, jnp.float32), (SMALL.test_x / 16).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x[:1])
    each_by_itself(model, variables, x)
    _, new = jax.jit(lambda x: model.apply(variables, x, mutable=["batch_stats"]))(x[:40])
    changed = jax.tree.map(lambda a, b: not np.allclose(a, b), new["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(changed))


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights():
    own = task("--dtype", "bfloat16", "--optimizers", "adam")
    training = train.prepare(own, SMALL)
    runs = training.start([0])
    program = str(jax.make_jaxpr(training.epoch)(runs, np.int32(0), training.images))
    assert "bf16[1,128,64]" in program or "bf16[128,64]" in program
    assert {leaf.dtype for leaf in jax.tree.leaves(runs.params)} == {jnp.dtype("float32")}
    full, half = curves(replace(own, dtype="float32")), curves(own)
    np.testing.assert_allclose(half[1], full[1], rtol=0.02)
    assert not np.array_equal(half[1], full[1])


def test_augmentation_crops_and_flips_at_random():
    image = jnp.arange(1, 31, dtype=jnp.uint8).reshape(1, 5, 6, 1)
    images = jnp.repeat(image, 20_000, axis=0)
    got = np.asarray(jax.jit(train.augmented)(jax.random.key(0), images))
    assert got.dtype == np.uint8 and got.shape == images.shape
    padded = np.pad(np.asarray(image[0, ..., 0]), 4)
    crops = [padded[i : i + 5, j : j + 6] for i, j in itertools.product(range(9), range(9))]
    expected = Counter(c.tobytes() for crop in crops for c in (crop, np.ascontiguousarray(crop[:, ::-1])))
    counts = Counter(picture[..., 0].tobytes() for picture in got)
    assert set(counts) == set(expected)
    shares = np.array([expected[c] for c in expected]) / expected.total()
    assert scipy.stats.chisquare([counts[c] for c in expected], shares * len(got)).pvalue > 1e-3
    first, second = jax.random.split(jax.random.key(1))
    assert not np.array_equal(train.augmented(first, images[:9]), train.augmented(second, images[:9]))


def test_augmentation_is_used_in_training_only_when_asked_for():
    off, on = curves(task(*FAST)), curves(task(*FAST, "--augment"))
    assert (on[1][-1] > off[1][-1] + 0.3).all()


# The command line


def test_a_model_that_the_images_do_not_fit_is_refused():
    np.savez("tiny.npz", x_train=np.ones((200, 4, 4)), y_train=[0] * 200, x_test=np.ones((2, 4, 4)), y_test=[0, 1])
    with pytest.raises(SystemExit, match=r"vgg with Adam on tiny.*too small for this model: 1 × 1"):
        main("--model", "vgg", "--data", "tiny.npz")


def test_data_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(demo, "_memory", lambda: 100_000)
    with pytest.raises(
        SystemExit, match=r"the images of digits take 0\.000115 GB and stay on the device, which has 0\.0001 GB"
    ):
        main()


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_are_flags(name):
    options, defaults = flags.parse(["--preset", name]), flags.parse([])
    assert set(vars(options)) == set(vars(defaults))
    assert all(name in optimizers.NAMES for name in options.optimizers)
    assert flags.parse(["--preset", name, "--epochs", "1"]).epochs == 1
    assert flags.tasks(options, SMALL)
