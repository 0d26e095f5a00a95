"""The example examples/image_classification: what it compares, and that it reports what it measured."""

import csv
import itertools
import math
import shutil
from collections import Counter, defaultdict
from dataclasses import asdict
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
from examples.image_classification import flags, methods, models, pictures, report, train
from examples.image_classification.sweep import Sweep
from tests.cases import by_default
from tests.programs.images import SMALL, curves, main, method, runs, task

pytestmark = pytest.mark.usefixtures("one_device", "elsewhere")
NAMES = ["Adam", "LL-Adam 30 %"]
STUDY = ["--depths", 2, 1, 2, "--seeds", 2, "--epochs", 2, "--methods", "adam", "ll-adam"]
DRAWN = ("learning_curves.png", "accuracy_against_depth.png")


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
        found = defaultdict(list)
        for r in self.rows("runs.csv"):
            found[r["method"], r["depth"]].append(float(r["final"]))
        return found

    @property
    def trained(self):
        return Counter((r["method"], r["depth"]) for r in self.rows("runs.csv") if r["trained"] == "1")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    output = tmp_path_factory.mktemp("study") / "new" / "folder"
    device = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(jax, "local_devices", lambda: device)
        return Study(*main(*STUDY, "--seeds-at-once", 1, "--output", output), output)


def test_every_run_is_reported(study):
    rows = study.rows("runs.csv")
    assert [(r["data"], r["model"], r["depth"], r["method"], r["seed"]) for r in rows] == [
        ("digits", "dense", depth, name, seed) for depth in "12" for name in NAMES for seed in "01"
    ]
    assert all(0 <= float(r["final"]) <= 1 and r["epochs"] == "2" for r in rows)
    assert all(int(r["trained"]) == (float(r["final"]) > 0.5) and float(r["final_loss"]) > 0 for r in rows)
    written = {(str(r["task"]["depth"]), r["task"]["method"]["name"], str(r["seed"])): r for r in runs(study.output)}
    assert len(written) == len(rows) == 8
    shares = {"adam": (0, 0), "ll-adam": (1 / 2, 1 / 3)}
    for r in rows:
        name = r["method"].split()[0].lower()
        line = written[r["depth"], name, r["seed"]]
        assert f"{line['accuracy'][-1]:.6f}" == r["final"] and len(line["accuracy"]) == len(line["loss"]) == 2
        assert f"{line['loss'][-1]:.6g}" == r["final_loss"] and r["sigma"] == ("" if name == "adam" else "0.001")
        assert line["task"]["data"] == "digits" and line["task"]["epochs"] == 2
        assert line["noisy_share"] == shares[name][int(r["depth"]) - 1]


def test_the_summary_is_that_of_the_runs(study):
    final, trained = study.final, study.trained
    summary = {(r["method"], r["depth"]): r for r in study.rows("summary.csv")}
    assert list(summary) == list(final)
    for (name, depth), r in summary.items():
        a, b = final[name, depth]
        assert float(r["final_median"]) == pytest.approx((a + b) / 2, abs=1e-6) == float(r["final_mean"])
        assert float(r["final_sd"]) == pytest.approx(abs(a - b) / math.sqrt(2), abs=2e-6)
        assert (float(r["final_worst"]), float(r["final_best"])) == (min(a, b), max(a, b))
        assert (int(r["trained"]), int(r["diverged"]), int(r["seeds"])) == (trained[name, depth], 0, 2)
        assert (int(r["epochs"]), float(r["learning_rate"])) == (2, 1e-3)
        if name == "Adam":
            assert r["minus"] == r["difference"] == r["low"] == r["high"] == ""
        else:
            each = np.subtract(final[name, depth], final["Adam", depth])
            assert r["minus"] == "Adam" and float(r["difference"]) == pytest.approx(each.mean(), abs=2e-6)
            assert (float(r["low"]), float(r["high"])) == pytest.approx((each.min(), each.max()), abs=2e-6)


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
    assert rows[0] == ["Method", "1 hidden layer", "2 hidden layers"]
    assert rows[2:4] == [[name, *(cells[name, depth] for depth in "12")] for name in NAMES]
    table = [line for line in study.printed.splitlines() if "/2" in line]
    assert ["  ".join(row) for row in rows[2:4]] == [line.strip() for line in table]
    assert table[0].index(cells["Adam", "2"]) == table[1].index(cells["LL-Adam 30 %", "2"])
    difference = np.subtract(final["LL-Adam 30 %", "2"], final["Adam", "2"]).mean()
    assert rows[6][0] == "LL-Adam 30 %" and rows[6][2].startswith(report.signed(difference))
    assert "digits, 1437 training and 360 test images; dense, width 64; 2 seeds, 2 epochs of 11 batches of 128; " in (
        markdown
    )
    assert "digits, 1437 training and 360 test images" in study.printed


def test_what_is_written_is_named_and_drawn(study):
    for name in ("runs", "results.md", "summary.csv", "runs.csv", *DRAWN):
        assert str(study.output / name) in study.printed
    for name in DRAWN:
        picture = matplotlib.image.imread(study.output / name)
        assert min(picture.shape[:2]) > 400 and picture.std() > 0.05
    # No terminal: a line each time, the last one for all the work.
    assert "\r" not in study.progress and "100% " in study.progress.strip().splitlines()[-1]


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_nothing_is_run_again(study, tmp_path, monkeypatch):
    """The same command reads the runs that are there; one method more costs that one only, and may rename others."""
    output = tmp_path / "copy"
    shutil.copytree(study.output, output)
    before = files(output)
    monkeypatch.setattr(pictures, "write", lambda results, note, folder: [folder / name for name in DRAWN])
    printed, progress = main(*STUDY, "--output", output)
    assert "8 of 8 runs are in" in printed and not progress
    assert printed.split("\n\n")[1:-1] == study.printed.split("\n\n")[1:-1]  # the tables
    assert files(output) == before

    sweep = captured(main, *STUDY, "adam:eps=1e-8", "yogi", "--seeds", 3, "--output", output)
    missing = {(t.method.name, t.method.eps, t.depth): sweep.missing(t, range(3)) for t in sweep.tasks}
    adam, new, layer, yogi = ("adam", 1e-14), ("adam", 1e-8), ("ll-adam", 1e-14), ("yogi", 1e-14)
    seeds = {adam: [2], layer: [2], new: [0, 1, 2], yogi: [0, 1, 2]}
    assert missing == {(*one, depth): seeds[one] for one in seeds for depth in (1, 2)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--methods", "ll-adam"], r"\(adam:\S*eps=1e-14 is left out\)"),
        (["--depths", 1], r"\(2 hidden layers is left out\)"),
        (["--seeds", 1], r"\(seed 1 is left out\)"),
        (["--epochs", 3], r"\(epochs was 2, is 3\)"),
        (["--all", "sigma=5"], r"\(ll-adam:\S*sigma=0\.001\S* is left out\)"),
    ],
)
def test_a_folder_keeps_its_tables(changes, said, study):
    before = files(study.output)
    with pytest.raises(SystemExit, match=rf"error: .*folder has results of .*{said}; choose another --output"):
        main(*STUDY, *changes, "--output", study.output)
    assert files(study.output) == before


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


def test_methods_share_weights_batches_and_noise_and_seeds_do_not():
    adam, langevin, layer = (
        train.prepare(task(name, depth=1), SMALL).start(range(2)) for name in ("adam", "l-adam", "ll-adam")
    )

    def different(tree):  # a leaf that is not constant from the start, such as a kernel
        return [not np.array_equal(leaf[0], leaf[1]) for leaf in jax.tree.leaves(tree) if np.any(leaf)]

    for noisy in (langevin, layer):
        jax.tree.map(np.testing.assert_array_equal, noisy.params, adam.params)
        assert np.all(noisy.batch_key == adam.batch_key)
    noise_keys = optax.tree.get(langevin.opt_state, "key")
    assert np.all(noise_keys == optax.tree.get(layer.opt_state, "key"))
    assert len(different(adam.params)) == 2 and all(different(adam.params))
    assert noise_keys[0] != noise_keys[1] and adam.batch_key[0] != adam.batch_key[1]
    assert not np.any(noise_keys == adam.batch_key)


def test_noise_is_the_only_difference_of_the_methods():
    adam, silent, everywhere, all_layers = (
        after_steps(built(text, for_all="eps=1e-7"))
        for text in ("adam", "l-adam:sigma=0", "l-adam", "ll-adam:layers=1.0")
    )
    chex.assert_trees_all_close(silent, adam, rtol=1e-6)
    chex.assert_trees_all_equal(all_layers, everywhere)
    assert all(not np.allclose(a, b, rtol=1e-5) for a, b in zip(*map(jax.tree.leaves, (everywhere, adam)), strict=True))


@pytest.mark.slow
def test_noise_is_the_only_difference_of_the_trainings():
    adam, silent = curves(task("adam:eps=1e-6")), curves(task("l-adam:sigma=0"))  # eps of lgv.adam
    everywhere, all_layers = curves(task("l-adam")), curves(task("ll-adam:layers=1.0"))
    # Two programs round alike on some machines only.
    np.testing.assert_allclose(silent[0], adam[0], atol=1.5 / 128)
    np.testing.assert_allclose(silent[1], adam[1], rtol=1e-6)
    np.testing.assert_array_equal(all_layers, everywhere)
    assert not np.array_equal(everywhere[1], adam[1])
    assert not np.array_equal(adam[1][:, 0], adam[1][:, 1])


@pytest.mark.slow
def test_step_by_step_is_the_compiled_epoch(monkeypatch):
    """What convolutions get on a CPU; the last batch of test images is a small one."""
    own = task("adam:learning_rate=0.01", depth=1, epochs=6, batch_size=96, augment=True)
    whole = curves(own)
    monkeypatch.setattr(models, "CONVOLUTIONAL", ("dense",))
    np.testing.assert_allclose(curves.__wrapped__(own), whole, rtol=1e-4, atol=1.5 / 128)
    assert not hasattr(train.prepare(own, SMALL).epoch, "lower")  # it was no compiled program, this time


# The methods


LAYERS = ["Dense_0", "Dense_1", "Dense_2"]
TEN = [f"Dense_{i}" for i in range(10)]


def after_steps(tx):
    """Parameters of three layers after two steps, one entry of each without gradient."""
    params = {name: {"kernel": jnp.array([0.5, -1.5, 1.0])} for name in LAYERS}
    state = tx.init(params)
    for scale in (1.0, -0.3):
        grads = {name: {"kernel": jnp.array([0.1, 0.0, 2.0]) * scale} for name in LAYERS}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def built(text, key=0, for_all=""):
    return methods.build(method(text, for_all), LAYERS, steps=10)(key)


@pytest.mark.parametrize("name", by_default(["sgd", "adam"], methods.FAMILIES))
def test_names_are_the_optimisers_of_that_name(name):
    eps, given = ({}, "") if name == "sgd" else ({"eps": 1e-3}, ",eps=1e-3")
    given = f"learning_rate=0.5,learning_rate_schedule=cosine{given}"
    gamma, sigma = optax.cosine_decay_schedule(0.5, 10), optax.linear_schedule(0.2, 0.0, 6)
    plain = after_steps(built(f"{name}:{given}"))
    chex.assert_trees_all_close(plain, after_steps(getattr(optax, name)(gamma, **eps)), rtol=1e-6)

    langevin = getattr(lgv, name)
    expected, silent = (after_steps(langevin(gamma, s, key=7, **eps)) for s in (sigma, 0.0))
    chex.assert_trees_all_close(after_steps(built(f"l-{name}:{given},sigma=0.2", 7)), expected, rtol=1e-6)
    first = after_steps(built(f"ll-{name}:{given},sigma=0.2,layers=2", 7))
    chex.assert_trees_all_close(first, {**expected, "Dense_2": silent["Dense_2"]}, rtol=1e-6)
    assert not np.allclose(expected["Dense_2"]["kernel"], silent["Dense_2"]["kernel"])


def test_names_of_the_others():
    order, thermostat = {"order": LAYERS}, {"sigma": 0.02, "coupling": 0.05}
    for name, tx in {
        "baoab": lgv.baoab(0.5, 0.3, 0.7, 3),
        "adlala": lgv.adlala(0.5, 3, temperature=0.3, friction=0.7, **thermostat, **order),
        "lol": lgv.lol(0.5, 3, temperature=0.3, friction=0.7, **order),
    }.items():
        given = "learning_rate=0.5,temperature=0.3,friction=0.7,thermostat_sigma=0.02,coupling=0.05"
        chex.assert_trees_all_close(after_steps(built(name, 3, given)), after_steps(tx), rtol=1e-6)


def test_a_bound_on_the_noise_and_the_eps_of_the_package():
    given = "l-adam:learning_rate=0.5,sigma_schedule=constant"
    bounded, free = (after_steps(built(given + more, 3)) for more in (",max_noise=1e-3", ""))
    chex.assert_trees_all_close(bounded, after_steps(lgv.adam(0.5, 1e-3, 3, max_noise=1e-3)), rtol=1e-6)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, (bounded, free)), strict=True))


@pytest.mark.slow
def test_an_integrator_learns():
    _, loss = curves(task("adlala:learning_rate=0.25", depth=1, epochs=8), (0,))
    assert loss[-1] < loss[0] - 0.3


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("constant", (2, 2, 2, 2)),
        ("cosine", (2, 1 + math.cos(math.pi / 4), 1 + math.cos(0.51 * math.pi), 0)),
        ("inverse-time", (2, 2 / 1.5, 2 / 2.02, 2 / 3)),
    ],
)
def test_learning_rates(name, values):
    schedule = methods.LEARNING_RATE_SCHEDULES[name](2, 100)
    for count, value in zip((0, 25, 51, 100), values, strict=True):
        assert (schedule(count) if callable(schedule) else schedule) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("constant", (2, 2, 2)),
        ("linear", (2, 1, 0)),
        ("inverse-sqrt-log", (2, 2 / math.sqrt(math.log(math.e + 0.4)), 2 / math.sqrt(math.log(math.e + 1.8)))),
    ],
)
def test_sigmas(name, values):
    """Of 100 steps, 40 with noise."""
    schedule = methods.SIGMA_SCHEDULES[name](2, 100, 40)
    for count, value in zip((0, 20, 90), values, strict=True):
        assert (schedule(count) if callable(schedule) else schedule) == pytest.approx(value, rel=1e-6)


def test_settings_are_a_methods_own_then_those_for_all_then_its_defaults():
    """And none that it does not have."""

    def of(text, for_all=""):
        return " ".join(f"{key}={value}" for key, value in asdict(method(text, for_all)).items() if value is not None)

    rate, noise = "learning_rate=0.001 learning_rate_schedule=constant", "sigma_schedule=linear noisy_steps=0.6"
    assert of("adam") == f"name=adam {rate}"
    assert of("l-adam") == f"name=l-adam {rate} sigma=0.001 {noise}"
    rate = "learning_rate=0.1 learning_rate_schedule=constant"
    assert of("ll-adadelta") == f"name=ll-adadelta {rate} sigma=0.05 {noise} layers=0.3"
    thermostat = "thermostat_sigma=0.01 coupling=0.1"
    assert of("adlala") == f"name=adlala {rate} temperature=0.0001 friction=1.0 {thermostat}"

    for_all = "learning_rate=2,eps=1e-9,sigma=3,max_noise=4,layers=5,temperature=6,sigma_schedule=constant"
    rate = "learning_rate=2.0 learning_rate_schedule=constant"
    assert of("adam:eps=1e-8", for_all) == f"name=adam {rate} eps=1e-08"
    assert of("sgd", for_all) == f"name=sgd {rate}"
    assert of("baoab", for_all) == f"name=baoab {rate} temperature=6.0 friction=1.0"
    noise = "sigma=3.0 sigma_schedule=constant max_noise=4.0"  # constant: no last step
    given = "learning_rate=7,layers=last:0.30"
    rate = rate.replace("2.0", "7.0")
    assert of(f"ll-adam:{given}", for_all) == f"name=ll-adam {rate} eps=1e-09 {noise} layers=last:0.3"


def test_labels_tell_methods_of_one_name_apart():
    texts = ["adam", "adam:eps=1e-8", "adam:eps=1e-14,learning_rate=0.1", "l-adam:sigma=5", "l-sgd", "baoab", "adlala"]
    texts += [f"ll-adam:layers={layers}" for layers in ("4", "0.30", "1", "1.0", "last:1", "last:0.3", "random:2")]
    texts += ["ll-adadelta:max_noise=0.03", "ll-adadelta:max_noise=0.01", "ll-adadelta:layers=2"]
    assert list(methods.labels([method(text) for text in texts]).values()) == [
        "Adam, learning rate 0.001, eps default",
        "Adam, learning rate 0.001, eps 1e-8",
        "Adam, learning rate 0.1, eps 1e-14",
        *("L-Adam", "L-SGD", "BAOAB", "AdLaLa"),
        *("LL-Adam first 4", "LL-Adam 30 %", "LL-Adam first layer", "LL-Adam 100 %"),
        *("LL-Adam last layer", "LL-Adam last 30 %", "LL-Adam random 2"),
        *("LL-Adadelta 30 %, max noise 0.03", "LL-Adadelta 30 %, max noise 0.01", "LL-Adadelta first 2"),
    ]


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        ("4", [0, 1, 2, 3]),
        ("0.3", [0, 1, 2]),
        ("0.39", [0, 1, 2]),
        ("0.01", [0]),
        ("1.0", range(10)),
        ("last:1", [9]),
        ("last:0.3", [7, 8, 9]),
        ("random:0.3", [0, 6, 9]),  # drawn once and for all, so that seeds, depths and σ have the same
        ("random:4", [0, 2, 6, 9]),
    ],
)
def test_which_layers_have_noise(layers, chosen):
    own = task(f"ll-adam:layers={layers}", depth=9)
    assert methods.selected(own.method, TEN) == [TEN[i] for i in chosen]
    assert train.prepare(own, SMALL).noisy_share == len(chosen) / 10


def test_noise_is_on_those_layers_alone():
    assert methods.selected(method("ll-adam:layers=0.29"), [str(i) for i in range(100)])[-1] == "28"  # 0.29 · 100 < 29
    for name, noisy in (("adam", []), ("l-adam", TEN), ("l-sgd", TEN), ("adlala", TEN)):
        assert methods.selected(method(name), TEN) == noisy
        assert train.prepare(task(name, depth=9), SMALL).noisy_share == len(noisy) / 10
    with pytest.raises(ValueError, match="layers=last:4, but there are 3 layers with parameters"):
        built("ll-sgd:layers=last:4")
    quiet, everywhere = (after_steps(built(f"l-sgd:sigma={sigma}")) for sigma in (0, 0.2))
    for layers, noisy in (("last:1", "Dense_2"), ("random:1", "Dense_1")):
        got = after_steps(built(f"ll-sgd:sigma=0.2,layers={layers}"))
        chex.assert_trees_all_close(got, {**quiet, noisy: everywhere[noisy]}, rtol=1e-6)


# The models


def count(model, image):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image))))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_sizes_of_the_models():
    build = {name: lambda *a, name=name: models.MODELS[name](*a, 10) for name in models.MODELS}
    dense = 784 * 64 + 64 + 3 * (64 * 64 + 64) + 64 * 10 + 10
    assert count(build["dense"](4, 64), (28, 28, 1)) == dense
    pooled = 14 * 14 * 32
    convolution = 4 * 4 * 32 + 32
    assert count(build["conv-dense"](3, 64), (28, 28, 1)) == convolution + dense + (pooled - 784) * 64 - 4160
    assert count(build["highway"](5, 64), (28, 28, 1)) == 784 * 64 + 64 + 10 * 4160 + 650
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
        for _ in range(2):
            kernels, norms, channels = kernels + 9 * channels * 5, norms + channels, channels + 5
    head = 2 * (norms + channels) + channels * 10 + 10
    assert count(build["densenet"](2, 5), (32, 32, 3)) == kernels + head


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
    monkeypatch.setitem(models.MODELS, "normalized", lambda depth, width, classes: Normalized())
    training = train.prepare(task(model=name, depth=1, width=4, epochs=1, batch_size=64), SMALL)
    before = training.start([0])
    kept = jax.tree.map(np.array, before.batch_stats)
    after, (accuracy, _) = training.epoch(before, np.int32(0), training.images)
    changed = jax.tree.map(lambda a, b: not np.allclose(a, b), kept, after.batch_stats)
    assert jax.tree.leaves(changed) and all(jax.tree.leaves(changed))
    model = models.MODELS[name](1, 4, 10)
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


@pytest.mark.parametrize("model", [models.ResNet((1,), 2), models.DenseNet((1,), 2)], ids=["resnet", "densenet"])
def test_models_normalise_by_the_batch_in_training_only(model):
    x = (SMALL.test_x / 16).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x[:1])
    each_by_itself(model, variables, x)
    _, new = jax.jit(lambda x: model.apply(variables, x, mutable=["batch_stats"]))(x[:40])
    changed = jax.tree.map(lambda a, b: not np.allclose(a, b), new["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(changed))


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
    """With weights that stay as they are."""
    off, on = (curves(task("sgd:learning_rate=0", depth=1, epochs=1, augment=augment)) for augment in (False, True))
    assert (np.abs(on[1] - off[1]) > 1e-4).all()
    np.testing.assert_array_equal(on[0], off[0])


# The command line


def test_a_model_that_the_images_do_not_fit_is_refused():
    np.savez("tiny.npz", x_train=np.ones((200, 4, 4)), y_train=[0] * 200, x_test=np.ones((2, 4, 4)), y_test=[0, 1])
    with pytest.raises(SystemExit, match=r"vgg with 1 convolution per stage and adam:.* on tiny: .*too small for"):
        main("--model", "vgg", "--data", "tiny.npz", "--depths", 1, "--methods", "adam")


def of_preset(name, *argv):
    options = flags.parse(["--preset", name, *argv])
    return options, flags.tasks(options, SMALL)


def test_presets():
    def said(name):
        options, tasks = of_preset(name)
        (t, *_), number = tasks, len({t.method for t in tasks})
        assert {(t.depth, t.method) for t in tasks} == {(d, t.method) for d in options.depths for t in tasks}
        network = f"{options.data} {t.model} {options.depths} {t.width}"
        return f"{network}; {t.epochs} x {t.batch_size}, {options.seeds} seeds{', augmented' * t.augment}; {number}"

    cifar = "40 x 512, 3 seeds, augmented; 6"
    assert {name: said(name) for name in flags.PRESETS} == {
        "digits": "digits dense [20, 40, 60, 80] 64; 100 x 128, 4 seeds; 4",
        "mnist": "mnist dense [20, 30, 40, 60, 80, 100] 64; 8 x 512, 20 seeds; 4",
        "fashion-conv-dense": "fashion_mnist conv-dense [10, 30, 60] 64; 8 x 512, 10 seeds; 4",
        "fashion-highway": "fashion_mnist highway [80] 64; 8 x 512, 10 seeds; 4",
        "cifar10-resnet": f"cifar10 resnet [6] 8; {cifar}",
        "cifar10-densenet": f"cifar10 densenet [6] 5; {cifar}",
        "cifar10-vgg": f"cifar10 vgg [2] 32; {cifar}",
        "cifar100-resnet": f"cifar100 resnet [6] 8; {cifar}",
    }


def test_methods_of_presets():
    def of(preset, *argv):
        return {label: m for m, label in report.labels(of_preset(preset, *argv)[1]).items()}

    given = "eps=1e-14,max_noise=0.03,learning_rate_schedule=cosine"
    assert of("digits") == {
        "Adam, eps 1e-8": method("adam:eps=1e-8", given),
        "Adam, eps 1e-14": method("adam", given),
        "L-Adam": method("l-adam", given),
        "LL-Adam 30 %": method("ll-adam", given),
    }
    assert of("mnist") == of("fashion-highway") == of("digits")
    residual = of("cifar10-resnet").values()
    assert [(m.name, m.learning_rate, m.sigma) for m in residual] == [
        ("adam", 5e-3, None),
        ("ll-adam", 5e-3, 5e-3),
        ("rmsprop", 5e-3, None),
        ("ll-rmsprop", 5e-3, 5e-3),
        ("adadelta", 0.1, None),
        ("ll-adadelta", 0.1, 0.05),
    ]
    assert {m.learning_rate_schedule for m in residual} == {"inverse-time"}
    assert {m.sigma_schedule for m in residual} == {None, "inverse-sqrt-log"}


def test_flags_override_a_preset_and_settings_for_all_join_its_own():
    options, tasks = of_preset("mnist", "--depths", "7", "3", "7", "--methods", "l-adam", "l-adam:sigma=1e-3")
    own = method("l-adam", "eps=1e-14,max_noise=0.03,learning_rate_schedule=cosine")
    assert options.epochs == 8 and [(t.depth, t.method) for t in tasks] == [(d, own) for d in (3, 7)]
    given = ["--all", "max_noise=1", "--depths", "2", "--methods", "l-adam", "--all", "sigma=2,max_noise=3"]
    _, tasks = of_preset("digits", *given)
    own = method("l-adam", "eps=1e-14,learning_rate_schedule=cosine,sigma=2,max_noise=3")
    assert [t.method for t in tasks] == [own]
    assert flags.parse([]).all["max_noise"] == 0.03  # a preset stays what it is
