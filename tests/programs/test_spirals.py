"""The example examples/spirals: its data, its settings, and that it reports what it measured."""

import contextlib
import csv
import io
import re
import shutil
import signal
import threading
import time
import zlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.colors
import matplotlib.image
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from examples.spirals import __main__ as demo
from examples.spirals import data, pictures, report, studies, train
from examples.spirals.model import Perceptron
from examples.spirals.studies import Study
from examples.spirals.train import Method, Result, Task
from tests.programs import processes
from tests.programs.drawn import figures

TINY = Task(turns=2, nodes=5, steps=40)


@pytest.fixture(autouse=True)
def few_records(monkeypatch):
    monkeypatch.setattr(train, "RECORDS", 2)


def test_spirals_lie_on_their_arms():
    """θ = 2bπ r/a on the arm of class 1, half a turn further on that of class 0."""
    x, y = data.spirals(jax.random.key(0), 4000, turns=4)
    radius, angle = np.hypot(*x.T), np.arctan2(x[:, 1], x[:, 0])
    off = angle - 2 * 4 * np.pi * radius / 2 - np.pi * (1 - y)
    off = np.angle(np.exp(1j * off))[radius > 0.5]  # near the middle the blur turns the angle by more
    # c = 0.02 across the arm, and along the radius, where a turn takes a/b = 0.5.
    assert np.std(off) < 0.02 / 0.5 + 2 * np.pi * 0.02 / 0.5
    assert abs(np.mean(off)) < 5 * np.std(off) / np.sqrt(len(off))
    assert np.mean(y) == 0.5
    # t = (r/a)² is uniform on (0, 1).
    assert np.quantile((radius / 2) ** 2, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.04)


def test_waves_lie_on_their_curves():
    x, y = data.waves(jax.random.key(0), 4000, turns=3)
    height = np.sin(2 * 3 * np.pi * (x[:, 0] / 2 + 1) / 2) + (y - 0.5)
    # The blur of 0.02 across, and along, where the curve is at most 3π/2 steep.
    assert np.std(x[:, 1] - height) < 0.02 * np.hypot(1, 3 * np.pi / 2)
    assert np.all(np.abs(x[:, 0]) < 2.2)


def test_training_and_test_points_differ():
    points = data.generate(jax.random.key(0), "spirals", 2, 500, 500)
    assert not np.any(np.isin(points.train_x, points.test_x))


@pytest.fixture(scope="module")
def plain():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train, "RECORDS", 2)
        return train.train(TINY, Method("SGD", studies.sgd), seeds=2, keep_last=True)


@pytest.mark.slow
def test_values_and_seeds_are_runs_of_their_own(plain):
    """A grid in one program gives what each run gives alone; σ = 0 is SGD; seeds differ."""
    grid = train.train(TINY, Method("SGLD", studies.sgld, [(0.0,), (1.0,)]), seeds=2)
    alone = train.train(TINY, Method("SGLD", lambda order, key: lgv.sgd(0.1, 1.0, key)), seeds=2)
    assert grid.accuracy.shape == grid.loss.shape == (2, 2, 2)
    assert list(grid.steps) == [20, 40]
    np.testing.assert_allclose(grid.loss[0], plain.loss[0], rtol=1e-4)
    np.testing.assert_allclose(grid.loss[1], alone.loss[0], rtol=1e-4)
    assert np.all(np.abs(grid.loss[1] / grid.loss[0] - 1) > 1e-3)
    assert np.all(plain.loss[0, 0] != plain.loss[0, 1])


def test_training_is_that_of_a_plain_loop(plain):
    """One seed by hand: every epoch goes once through all points, 25 at a time."""
    result = plain
    model, tx = Perceptron(TINY.nodes), optax.sgd(0.1)
    params, points, batch_key, _ = jax.tree.map(lambda leaf: leaf[0], train.prepare(TINY, 2))
    state = tx.init(params)
    losses = []
    gradient = jax.jit(
        jax.value_and_grad(lambda p, x, y: optax.losses.sigmoid_binary_cross_entropy(model.apply(p, x), y).mean())
    )
    for epoch in range(2):
        shuffled = jax.random.permutation(jax.random.fold_in(batch_key, epoch), 500)
        for batch in np.split(np.asarray(shuffled), 20):
            loss, gradients = gradient(params, points.train_x[batch], points.train_y[batch])
            updates, state = tx.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            losses.append(loss)
    np.testing.assert_allclose(result.loss[0, 0], [np.mean(losses[:20]), np.mean(losses[20:])], rtol=1e-5)
    right = (model.apply(params, points.test_x) > 0) == (points.test_y > 0.5)
    assert result.final[0, 0] == pytest.approx(float(right.mean()), abs=1e-6)
    kernels = result.last_params["params"]["Dense_0"]["kernel"]
    assert kernels.shape == (train.AVERAGED_STEPS, 2, 5)
    np.testing.assert_allclose(kernels[0], params["params"]["Dense_0"]["kernel"], atol=0.1)  # a step of 0.1 later
    assert np.ptp(train.classifier(result, np.asarray(points.test_x))) > 0


@pytest.mark.slow
def test_methods_have_the_settings_of_the_literature():
    model, x = Perceptron(7), jnp.ones((1, 2))
    order, params = lgv.layer_order(model, x), model.init(jax.random.key(0), x)
    assert order == ["Dense_0", "Dense_1"]
    published = {
        "SGD": optax.sgd(0.1),
        "Adam": optax.adam(0.005),
        "SGLD": lgv.sgd(0.1, 0.01, 3),
        "LOL": lgv.lol(0.25, 3, temperature=1e-3, friction=0.01, order=order),
        "AdLaLa 2": lgv.adlala(0.25, 3, temperature=1e-4, sigma=0.01, coupling=0.1, friction=0.5, order=order),
        "AdLaLa 4": lgv.adlala(0.25, 3, temperature=1e-4, sigma=0.01, coupling=0.1, friction=0.1, order=order),
    }

    def twice(tx):
        """The updates of two steps, and the state after them."""
        state, taken = tx.init(params), []
        for _ in range(2):
            updates, state = tx.update(params, state, params)
            taken.append(updates)
        return taken, state

    expected = {name: twice(tx)[0] for name, tx in published.items()}
    checked = set()
    for task, method in studies.studies(short=False)["accuracy"].parts:
        if method.make in checked:
            continue
        checked.add(method.make)
        want = expected.get(method.name) or expected[f"AdLaLa {4 if task.turns == 4 else 2}"]
        taken, state = twice(method.make(order, jax.random.key(3)))
        jax.tree.map(np.testing.assert_array_equal, taken, want)
    assert len(checked) == 4 + 7  # a friction of its own on each task
    first = state.inner_states["first"].inner_state  # of the last one, AdLaLa: the layer that is called first
    assert isinstance(first, lgv.AdaptiveLangevinState)
    assert [leaf.shape for leaf in jax.tree.leaves(first.momentum)] == [(7,), (2, 7)]


PARTS = {"accuracy": (0, 4), "spread": (0, 1), "temperature": (0, 1), "thermostat": (0, 1, 2), "wide": (0,)}


def tiny_studies(short):
    """Every study, with a few parts, values and steps."""
    made = []
    for study in studies.studies(short=False).values():
        parts = []
        for task, method in (study.parts[i] for i in PARTS[study.name]):
            values = method.values[:1] + method.values[-1:] if len(method.values) > 1 else method.values
            if study.name == "thermostat" and method.name == "AdLaLa":
                values = [(coupling, sigma) for coupling in (0.05, 0.1) for sigma in (0.0, 0.1)]
            parts.append((Task(task.turns, 3, 40, init_sd=task.init_sd), method._replace(values=values)))
        made.append(Study(study.name, 2, parts, study.regions))
    return {study.name: study for study in made}


def made_up(task, method, seeds, progress=lambda steps: None, keep_last=False):
    """What training might give; as different as its arguments are."""
    rng = np.random.default_rng(zlib.crc32(repr((task, method.name, method.values)).encode()))
    shape = len(method.values), seeds, 2
    initial = train.prepare(task, seeds).params if keep_last else None
    kept = jax.tree.map(lambda leaf: np.repeat(leaf[:1], 3, axis=0), initial)
    progress(task.steps)
    return Result(
        task, method, np.array([20, 40]), rng.integers(500, 1001, shape) / 1000, rng.uniform(size=shape), kept
    )


class Program(NamedTuple):
    stdout: str
    stderr: str
    output: Path

    def rows(self, name):
        with (self.output / name).open(encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @property
    def final(self):
        final = defaultdict(list)
        for run in self.rows("runs.csv"):
            final[run["study"], run["method"], run["values"]].append(float(run["final"]))
        return final


def program(output, *argv, studies=tiny_studies, train=made_up):
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        monkeypatch.setattr(demo, "studies", studies)
        monkeypatch.setattr(demo, "train", train)
        demo.main(["--preset", "full", "--output", str(output), *argv])
    return Program(stdout.getvalue(), stderr.getvalue(), output)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Every study, of curves that were made up."""
    return program(tmp_path_factory.mktemp("reported") / "new" / "folder")


def check_report(found):
    runs, final = found.rows("runs.csv"), found.final
    assert len(runs) == sum(2 * len(m.values) for study in tiny_studies(False).values() for _, m in study.parts)
    assert all(0 <= float(run["final"]) <= float(run["best"]) <= 1 for run in runs)

    def cell(*where):
        mean, sd = np.mean(final[where]), np.std(final[where])
        return f"{mean:.3f} ± {sd:.3f}".replace("0.", ".")

    markdown = (found.output / "results.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    names = ["SGD", "AdLaLa"]
    assert rows[0] == ["Task", *names]
    assert rows[2] == ["2-turn spirals, 3 nodes", *(cell("accuracy", name, "") for name in names)]
    assert ["0.001", *(cell("temperature", name, "temperature=0.001") for name in ("LOL", "BAOAB"))] in rows
    assert [
        "AdLaLa, coupling 0.1",
        cell("thermostat", "AdLaLa", "coupling=0.1 sigma=0"),
        cell("thermostat", "AdLaLa", "coupling=0.1 sigma=0.1"),
    ] in rows
    assert ["SGLD", *(cell("thermostat", "SGLD", f"sigma={sigma}") for sigma in ("0", "0.1"))] in rows
    assert "  ".join(rows[2]) in found.stdout

    curves = found.rows("curves.csv")
    last = {(c["study"], c["method"], c["values"]): float(c["mean"]) for c in curves if c["step"] == "40"}
    assert last["accuracy", "SGD", ""] == pytest.approx(np.mean(final["accuracy", "SGD", ""]), abs=1e-3)
    pictures = sorted(path.name for path in found.output.glob("*.png"))
    assert pictures == sorted(
        f"{name}.png"
        for name in (
            *("accuracy_against_step", "decision_regions", "spread", "accuracy_against_temperature"),
            *("thermostat", "wide_regions"),
        )
    )
    for name in pictures:
        assert f"]({name})" in markdown
        assert str(found.output / name) in found.stdout
        picture = matplotlib.image.imread(found.output / name)
        assert min(picture.shape[:2]) > 400
        assert picture.std() > 0.05
    # No terminal: a line each time, the last one for all the work.
    assert "\r" not in found.stderr
    assert "100% " in found.stderr.strip().splitlines()[-1]


def test_the_report_is_that_of_the_runs(reported):
    check_report(reported)


@pytest.mark.slow
def test_every_study_end_to_end(tmp_path):
    check_report(program(tmp_path / "new" / "folder", train=train.train))


def test_a_study_end_to_end(tmp_path):
    """Trained, too."""
    trained = {}

    def and_remember(task, method, *args, **kwargs):
        return trained.setdefault(method.name, train.train(task, method, *args, **kwargs))

    found = program(tmp_path, "--studies", "spread", train=and_remember)
    assert list(trained) == ["SGD", "Adam"]
    for name, result in trained.items():
        assert found.final["spread", name, ""] == pytest.approx(result.final[0].tolist(), abs=5e-4)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_a_folder_keeps_its_tables(tmp_path):
    """Studies may be added; what would drop one, or change the preset, is refused."""
    program(tmp_path, "--studies", "spread")
    before = files(tmp_path)
    for argv, said in (
        (["--studies", "thermostat"], "study spread is left out"),
        (["--studies", "spread", "--preset", "short"], "preset was 'full', is 'short'"),
    ):
        with pytest.raises(SystemExit, match=rf"error: .* has tables .*\({said}\); choose another --output"):
            program(tmp_path, *argv)
        assert files(tmp_path) == before
    program(tmp_path, "--studies", "spread", "thermostat")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "## Spread" in text and "## Thermostat" in text and set(before) < set(files(tmp_path))


def interrupting(monkeypatch, when):
    """A train that gets a Ctrl-C before it trains that method, and goes on when the program knows of it."""
    stops, run = [], demo.run

    def and_remember(chosen, stop):
        stops.append(stop)
        return run(chosen, stop)

    def train(task, method, seeds, progress, keep_last=False):
        if method.name == when:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            assert stops[-1].wait(timeout=240)
        return made_up(task, method, seeds, progress, keep_last)

    monkeypatch.setattr(demo, "run", and_remember)
    monkeypatch.setattr(demo.os, "cpu_count", lambda: 1)
    return train


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_writes_what_is_finished(tmp_path, monkeypatch, capfd):
    with pytest.raises(SystemExit) as stop:
        program(tmp_path, "--studies", "spread", "thermostat", train=interrupting(monkeypatch, "SGLD"))
    assert stop.value.code == 130
    assert capfd.readouterr().err == "interrupted: writing what is finished (Ctrl-C once more ends it at once)\n"
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "## Spread" in text and "## Thermostat" not in text
    runs = Program("", "", tmp_path).rows("runs.csv")
    finished = [("spread", "SGD"), ("spread", "Adam"), ("thermostat", "AdLaLa")]
    assert list(dict.fromkeys((run["study"], run["method"]) for run in runs)) == finished
    assert (tmp_path / "spread.png").exists() and not (tmp_path / "thermostat.png").exists()


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_takes_nothing_away(reported, tmp_path, monkeypatch):
    shutil.copytree(reported.output, tmp_path / "copy")
    before = files(tmp_path / "copy")
    with pytest.raises(SystemExit) as stop:
        program(tmp_path / "copy", train=interrupting(monkeypatch, "LOL"))
    assert stop.value.code == 130 and files(tmp_path / "copy") == before


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_of_a_process(times, tmp_path):
    """While threads compile and train: no traceback, no fatal error, and the status that shells have for it."""
    process = processes.start("examples.spirals", "--preset", "full", "--output", tmp_path)
    process.stdout.readline()
    time.sleep(10)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    status, stdout, stderr = processes.finish(process)
    assert status == 130 and "interrupted: writing what is finished" in stderr
    assert times == 2 or "0 of 5 studies finished." in stdout


def test_decision_regions_have_a_legend_and_name_their_seed(tmp_path, monkeypatch):
    drawn = figures(monkeypatch)
    program(tmp_path, "--studies", "accuracy", "wide")
    regions = [figure for figure in drawn if "egions" in "".join(t.get_text() for t in figure.texts)]
    assert len(regions) == 2
    for figure in regions:
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == ["class 0", "class 1"]
        colours = {
            label: {line.get_color() for line in figure.axes[0].lines if line.get_label() == label}
            for label in ("class 0", "class 1")
        }
        handles = {
            text.get_text(): handle for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)
        }
        points = [line for line in figure.axes[0].lines if len(line.get_xdata())]
        assert [{line.get_color()} for line in points] == list(colours.values())
        assert [{handle.get_color()} for handle in handles.values()] == list(colours.values())
        note = " ".join(figure.texts[-1].get_text().split())
        assert "seed 0; data, initial weights" in note and "seeds" not in note
        assert legend.get_window_extent().y0 >= max(axis.title.get_window_extent().y1 for axis in figure.axes)


def test_the_colour_of_a_region_is_that_of_its_class(tmp_path, monkeypatch):
    """A classifier that is sure of class 1 on the right, of class 0 on the left."""
    study = tiny_studies(False)["wide"]
    (result,) = (made_up(task, method, study.seeds, keep_last=True) for task, method in study.parts)
    monkeypatch.setattr(pictures, "classifier", lambda r, x: np.where(x[:, 0] > 0, 1.0, 0.0))
    drawn = figures(monkeypatch, write=True)
    pictures.draw(study, [result], tmp_path)
    axis = drawn[0].axes[0]
    left, right = (axis.transAxes.transform((x, 0.02)) for x in (0.2, 0.8))
    picture = matplotlib.image.imread(tmp_path / "wide_regions.png")
    for (x, y), of_class in ((left, 0), (right, 1)):
        scale = picture.shape[0] / (drawn[0].get_figheight() * drawn[0].dpi)
        seen = picture[int(picture.shape[0] - y * scale), int(x * scale), :3]
        distances = [np.abs(seen - matplotlib.colors.to_rgb(c)).sum() for c in reversed(pictures.CLASSES)]
        assert np.argmin(distances) == of_class


def test_seeds_are_side_by_side_against_temperature(tmp_path, monkeypatch):
    def alike(*args, **kwargs):
        result = made_up(*args, **kwargs)
        return result._replace(accuracy=np.full_like(result.accuracy, 0.5))

    drawn = figures(monkeypatch)
    program(tmp_path, "--studies", "temperature", train=alike)
    (figure,) = drawn
    for axis in figure.axes:
        places = [x for line in axis.lines if line.get_marker() == "o" for x in line.get_xdata()]
        assert len(places) == 2 * 2 and np.diff(sorted(places)).min() > 0.1
        assert np.abs(np.array(places) - np.round(places)).max() < 0.4


def one_seed(short):
    return {name: study._replace(seeds=1, regions=False) for name, study in tiny_studies(short).items()}


def test_of_a_single_seed_nothing_is_averaged(tmp_path, monkeypatch):
    drawn = figures(monkeypatch)
    monkeypatch.setattr(pictures, "_regions", lambda axis, result: None)
    found = program(tmp_path, studies=one_seed)
    text = found.stdout + (tmp_path / "results.md").read_text(encoding="utf-8")
    text += "".join(text.get_text() for figure in drawn for text in figure.texts)
    assert "seed 0" in text and "Spread over 1 run" in text
    assert not re.search(r"±|nan|seeds|1 runs|[Mm]ean (over|±)|standard deviation", text)


def test_the_presets_hold_every_study():
    short, full = studies.studies(short=True), studies.studies(short=False)
    assert tuple(full) == studies.NAMES
    assert tuple(short) == studies.NAMES[:4]
    widths = {(task.turns, task.nodes) for task in full["accuracy"].tasks if task.shape == "spirals"}
    assert widths == {(turns, nodes) for turns in (2, 4) for nodes in (20, 100, 500)}
    assert full["spread"].seeds == 100
    for study in [*short.values(), *full.values()]:
        assert set(report._TABLES) >= {study.name}
