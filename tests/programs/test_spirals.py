"""The example examples/spirals: its data, its settings, and that it reports what it measured."""

import csv
import re
import shlex
import signal
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from examples.spirals import __main__ as demo
from examples.spirals import data, figures, pictures, report, train
from examples.spirals.model import Perceptron
from examples.spirals.train import Method, Result, Task
from tests.programs import processes
from tests.programs.drawn import figures as drawn_figures

HERE = Path(demo.__file__).parent
TINY = Task(turns=2, nodes=5, steps=40, records=2)
FULL = figures.figures(short=False)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_spirals_lie_on_their_arms(power):
    """θ = 2bπ r/a on the arm of class 1, half a turn further on that of class 0, and r = a tᵖ."""
    x, y = data.spirals(jax.random.key(0), 4000, 4, power, 0.02)
    radius, angle = np.hypot(*x.T), np.arctan2(x[:, 1], x[:, 0])
    off = angle - 2 * 4 * np.pi * radius / 2 - np.pi * (1 - y)
    off = np.angle(np.exp(1j * off))[radius > 0.5]  # near the middle the blur turns the angle by more
    # c = 0.02 across the arm, and along the radius, where a turn takes a/b = 0.5.
    assert np.std(off) < 0.02 / 0.5 + 2 * np.pi * 0.02 / 0.5
    assert abs(np.mean(off)) < 5 * np.std(off) / np.sqrt(len(off))
    assert np.mean(y) == 0.5
    assert np.quantile((radius / 2) ** (1 / power), [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.04)


def test_training_is_that_of_a_plain_loop():
    """One seed by hand, training and test points of its own: every epoch goes once through all points, 25 at a time."""
    result = train.train(TINY, Method("SGD", figures.sgd), seeds=2, keep=True)
    params, points, batch_key, _ = jax.tree.map(lambda leaf: leaf[0], train.prepare(TINY, 2))
    assert not np.any(np.isin(points.train_x, points.test_x))
    losses, model = [], Perceptron(5)
    gradient = jax.jit(jax.value_and_grad(lambda p, x, y: train.loss(model, p, x, y)))
    for epoch in range(2):
        shuffled = jax.random.permutation(jax.random.fold_in(batch_key, epoch), 500)
        for batch in np.split(np.asarray(shuffled), 20):
            loss, gradients = gradient(params, points.train_x[batch], points.train_y[batch])
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
            losses.append(loss)
    assert list(result.steps) == [20, 40] and np.all(result.loss[0, 0] != result.loss[0, 1])
    np.testing.assert_allclose(result.loss[0, 0], [np.mean(losses[:20]), np.mean(losses[20:])], rtol=1e-5)
    right = (model.apply(params, points.test_x) > 0) == (points.test_y > 0.5)
    assert result.final[0, 0] == pytest.approx(float(right.mean()), abs=1e-6)
    kept = result.params["params"]["Dense_0"]["kernel"]
    assert kept.shape == (1, 2, 2, train.AVERAGED_STEPS, 2, 5)
    np.testing.assert_allclose(kept[0, 0, 1, -1], params["params"]["Dense_0"]["kernel"], rtol=1e-4)
    line = train.losses_between(result, result, np.array([0.0, 0.5]))
    assert line[0] == pytest.approx(2 * [float(train.loss(model, params, points.train_x, points.train_y))], rel=1e-4)


@pytest.mark.slow
def test_settings_and_seeds_are_runs_of_their_own():
    """A grid in one program gives what each run gives alone; σ = 0 is SGD."""
    plain = train.train(TINY, Method("SGD", figures.sgd), seeds=2)
    grid = train.train(TINY, Method("SGLD", figures.sgld, [{"sigma": 0.0}, {"sigma": 1.0}]), seeds=2)
    alone = train.train(TINY, Method("SGLD", lambda order, key: lgv.sgd(0.1, 1.0, key)), seeds=2)
    assert grid.accuracy.shape == grid.loss.shape == (2, 2, 2)
    np.testing.assert_allclose(grid.loss[0], plain.loss[0], rtol=1e-4)
    np.testing.assert_allclose(grid.loss[1], alone.loss[0], rtol=1e-4)
    assert np.all(np.abs(grid.loss[1] / grid.loss[0] - 1) > 1e-3)


def settings(name, method):
    (part,) = {p.make for _, p in FULL[name].parts if p.name == method}
    return getattr(part, "keywords", {})


def test_settings_are_those_of_the_captions():
    assert tuple(FULL) == figures.NAMES == tuple(figures.figures(short=True))
    assert [FULL[name].seeds for name in ("8", "14", "15")] == [100, 100, 10]
    assert settings("7", "SGD") == {"h": 0.2} and settings("14", "SGD") == {"h": 0.25}
    assert settings("8", "SGLD") == {"sigma": 0.1} and settings("7", "SGLD") == {"sigma": 0.01}
    assert settings("16", "LOL") == {"h": 0.8, "friction": 1.0} and settings("13", "LOL") == {"h": 0.1, "friction": 1.0}
    assert settings("13", "AdLaLa") == {"friction": 1000.0, "h": 0.1, "rest_tau": 1e-8}
    assert settings("10", "AdLaLa") == {"friction": 0.1, "coupling": 0.05}
    assert {task.noise for task in FULL["13"].tasks} == {0.1}
    assert [(t.power, t.batch_size, t.nodes, t.init_sd) for t in FULL["9"].tasks] == [
        (1.0, 10, 500, 0.5),
        (1.0, 10, 500, 0.01),
    ]
    assert [(t.batch_size, t.init_sd) for t in FULL["14"].tasks] == [(10, None), (10, 0.01)]


@pytest.mark.slow
def test_methods_are_those_of_the_package():
    """AdLaLa with a thermostat per part is lgv.adlala; per tensor there are two, which start at 0.1 and part."""
    x = jnp.ones((1, 2))
    order, params = lgv.layer_order(Perceptron(7), x), Perceptron(7).init(jax.random.key(0), x)

    def twice(tx):
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(params, state, params)
        return updates, state.inner_states["first"].inner_state

    kept = {"temperature": 1e-4, "sigma": 0.01, "coupling": 0.1, "friction": 0.5, "order": order}
    mine, state = twice(figures.adlala(order, 3, friction=0.5))
    jax.tree.map(np.testing.assert_array_equal, mine, twice(lgv.adlala(0.25, 3, **kept))[0])
    assert isinstance(state, lgv.AdaptiveLangevinState)
    _, state = twice(figures.adlala(order, 3, friction=0.5, coupling=0.0, per_tensor=True))
    each = {name: inner.inner_state for name, inner in state.inner_states.items()}
    assert {name: [m.size for m in jax.tree.leaves(s.momentum)] for name, s in each.items()} == {
        "kernel": [14],
        "bias": [7],
    }
    assert {float(s.thermostat) for s in each.values()} == {np.float32(0.1)}
    euler = optax.tree.get(figures.lol_by_euler(order, 3, 0.5, 1.0, 0.0).init(params), "momentum")
    assert euler is not None


def tiny(name, short=False):
    study = FULL[name]
    parts = [(replace(task, nodes=3, steps=40, records=3), method) for task, method in study.parts]
    return study._replace(seeds=2, parts=parts)


def made_up(task, method, seeds, progress=lambda steps: None, keep=False):
    """What training might give; as different as its arguments are."""
    rng = np.random.default_rng(zlib.crc32(repr((task, method.name)).encode()))
    shape, params = (len(method.settings), seeds, 3), None
    if keep:
        params = jax.tree.map(
            lambda leaf: np.repeat(np.repeat(np.asarray(leaf)[None, :, None, None], 3, 2), 2, 3),
            train.prepare(task, seeds).params,
        )
    progress(task.steps)
    accuracy = rng.integers(500, 1001, shape) / 1000
    return Result(task, method, np.array([20, 30, 40]), accuracy, rng.uniform(size=shape), params)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """With what training might give, and quick pictures."""
    monkeypatch.setattr(demo, "figures", lambda short: {name: tiny(name) for name in figures.NAMES})
    monkeypatch.setattr(demo, "train", made_up)
    monkeypatch.setattr(pictures, "draw", lambda study, results, path: path.touch() or path)

    def run(*argv):
        demo.main(["--preset", "full", "--output", str(tmp_path / "new"), *argv])

    return run


def rows(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_the_report_is_that_of_the_runs(program, tmp_path, capsys):
    program("--figures", "16", "8")
    output, said = tmp_path / "new", capsys.readouterr()
    runs = rows(output / "figure_16.csv")
    assert len(runs) == 3 * 7 * 2 and {run["seed"] for run in runs} == {"0", "1"}
    finals = [float(run["final"]) for run in runs if run["method"] == "LOL, τ₂ = 0, τ = 1e-05"]
    found = rows(output / "results.csv")
    assert list(dict.fromkeys(row["figure"] for row in found)) == ["8", "16"]
    (row,) = (row for row in found if row["method"] == "LOL, τ₂ = 0, τ = 1e-05")
    mean, sd = np.mean(finals), np.std(finals, ddof=1)
    half = 12.706 * sd / np.sqrt(2)
    want = [mean, sd, mean - half, mean + half, min(finals), max(finals)]
    assert [float(row[name]) for name in report.NUMBERS[1:]] == pytest.approx(want, abs=1e-3)
    assert f"{mean:.3f}" in said.out and "0.934" in said.out
    assert str(output / "figure_16.png") in said.out and "100% " in said.err.strip().splitlines()[-1]


def test_a_folder_keeps_its_tables(program, tmp_path):
    """Figures may be added or made anew; another preset is refused."""
    program("--figures", "8")
    before = files(tmp_path / "new")
    with pytest.raises(SystemExit, match=r"has tables .*\(preset was 'full', is 'short'\); choose another --output"):
        program("--preset", "short")
    assert files(tmp_path / "new") == before
    program("--figures", "14")
    after = files(tmp_path / "new")
    assert set(before) < set(after) and before["results.csv"] in after["results.csv"] + b"\n"


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_what_is_finished(program, tmp_path, monkeypatch, capfd):
    stops, run = [], demo.run

    def and_remember(chosen, stop):
        stops.append(stop)
        return run(chosen, stop)

    def interrupted(task, method, *args, **kwargs):
        if method.name == "LOL":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            assert stops[-1].wait(timeout=240)
        return made_up(task, method, *args, **kwargs)

    monkeypatch.setattr(demo, "run", and_remember)
    monkeypatch.setattr(demo, "train", interrupted)
    monkeypatch.setattr(demo.os, "cpu_count", lambda: 1)
    with pytest.raises(SystemExit) as stop:
        program("--figures", "8", "16")
    said = capfd.readouterr()
    assert stop.value.code == 130 and "1 of 2 figures finished." in said.out
    assert "interrupted: what is finished is written (Ctrl-C once more ends it at once)\n" in said.err
    assert (tmp_path / "new" / "figure_08.csv").exists() and not (tmp_path / "new" / "figure_16.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_of_a_process(times, tmp_path):
    """While threads compile and train: no traceback, no fatal error, and the status that shells have for it."""
    process = processes.start("examples.spirals", "--preset", "full", "--output", tmp_path / "new")
    processes.wait_until((tmp_path / "new" / "settings.json").exists, process)
    time.sleep(5)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    status, stdout, stderr = processes.finish(process)
    assert status == 130 and "interrupted: what is finished is written" in stderr
    assert times == 2 or "0 of 13 figures finished." in stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["3", "16"])
def test_a_figure_end_to_end(name, tmp_path, monkeypatch):
    """Trained and drawn."""
    monkeypatch.setattr(demo, "figures", lambda short: {name: tiny(name) for name in figures.NAMES})
    demo.main(["--figures", name, "--output", str(tmp_path)])
    assert matplotlib.image.imread(tmp_path / f"{FULL[name].file}.png").std() > 0.05
    assert all(0 <= float(run["final"]) <= float(run["best"]) <= 1 for run in rows(tmp_path / f"{FULL[name].file}.csv"))


@pytest.mark.slow
@pytest.mark.parametrize("name", figures.NAMES)
def test_pictures(name, tmp_path, monkeypatch):
    """Panels do not overlap, and a region has the colour of its class."""
    study, path = tiny(name), tmp_path / "picture.png"
    monkeypatch.setattr(pictures, "classifier", lambda r, record, x: np.where(x[:, 0] > 0, 1.0, 0.0))
    drawn = drawn_figures(monkeypatch, write=True)
    pictures.draw(study, [made_up(*part, study.seeds, keep=study.keep) for part in study.parts], path)
    picture = matplotlib.image.imread(path)
    assert min(picture.shape[:2]) > 400 and picture.std() > 0.05
    boxes = [axis.get_tightbbox() for axis in drawn[0].axes]
    assert not any(a.shrunk(0.98, 0.98).overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    if name in ("4", "9"):
        (legend,) = drawn[0].legends
        assert [text.get_text() for text in legend.get_texts()] == ["class 0", "class 1"]
        axis, scale = drawn[0].axes[0], picture.shape[0] / (drawn[0].get_figheight() * drawn[0].dpi)
        for at, of_class in ((0.2, 0), (0.8, 1)):
            x, y = axis.transAxes.transform((at, 0.02))
            seen = picture[int(picture.shape[0] - y * scale), int(x * scale), :3]
            distances = [np.abs(seen - matplotlib.colors.to_rgb(colour)).sum() for colour in pictures.CLASSES]
            assert np.argmin(distances) == of_class


def test_the_ledger_is_that_of_the_results(tmp_path, monkeypatch):
    """Every mean ± sd of the README, with its interval, is a row of the committed results, and every command runs."""
    readme, number = (HERE / "README.md").read_text(encoding="utf-8"), r"(\d?\.\d{3})"
    columns = ("mean", "sd", "low", "high")
    found = {tuple(float(row[x]) for x in columns) for row in rows(HERE / "results" / "full.csv") if row["sd"]}
    said = re.findall(rf"{number} ± {number} \[{number}, {number}\]", readme)
    assert len(said) > 80 and not {tuple(map(float, cells)) for cells in said} - found
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^python -m examples\.spirals(.*?)(?:  #.*)?$", readme, re.M)
    assert [len(demo._parse(shlex.split(command))[1]) for command in commands] == [4, 13, 3]
    ran = [
        row.split(" | ")[2].strip("`") for row in readme.splitlines() if row.startswith("| ") and row.count(" | ") == 5
    ]
    assert [name for name in ran[1:] if name in figures.NAMES] == list(figures.NAMES)
    assert all((HERE / picture).exists() for picture in re.findall(r"\]\((\.\./\.\./docs/[^)]*)\)", readme))
