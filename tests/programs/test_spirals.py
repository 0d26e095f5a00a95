"""The example examples/spirals: its data, its settings, and that it reports what it measured."""

import csv
import re
import shlex
import signal
import threading
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

import langevin_optax as lgv
from examples.spirals import __main__ as demo
from examples.spirals import figures, pictures, train
from examples.spirals.train import Method, Perceptron, Result, Task
from tests.programs import processes
from tests.programs.drawn import figures as drawn_figures

HERE = Path(demo.__file__).parent
TINY = Task(turns=2, nodes=5, steps=40, records=2)
FULL = figures.figures(short=False)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_spirals_lie_on_their_arms(power):
    """θ = 2bπ r/a on the arm of class 1, half a turn further on that of class 0, and r = a tᵖ."""
    x, y = map(np.asarray, train.draw(Task(4, 1, 1, power=power), jax.random.key(0), 4000))
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
    result = train.train(TINY, figures.plain()[0], seeds=2, keep=True)
    params, points, batch_key, _ = jax.tree.map(lambda leaf: leaf[0], train.prepare(TINY, 2))
    assert not np.any(np.isin(points.train_x, points.test_x))
    losses, model = [], Perceptron(5)
    gradient = jax.jit(jax.value_and_grad(lambda p, x, y: train.loss(model, p, x, y)))
    for epoch in range(2):
        shuffled = jax.random.permutation(jax.random.fold_in(batch_key, epoch), 500)
        for batch in np.split(np.asarray(shuffled), 20):
            loss, gradients = gradient(params, np.asarray(points.train_x)[batch], np.asarray(points.train_y)[batch])
            params = jax.tree.map(lambda p, g: np.asarray(p) - np.float32(0.1) * np.asarray(g), params, gradients)
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
    plain = train.train(TINY, figures.plain()[0], seeds=2)
    grid = train.train(TINY, Method("SGLD", figures.sgld, [{"sigma": 0.0}, {"sigma": 1.0}]), seeds=2)
    alone = train.train(TINY, Method("SGLD", lambda order, key: lgv.sgd(0.1, 1.0, key)), seeds=2)
    assert grid.accuracy.shape == grid.loss.shape == (2, 2, 2)
    np.testing.assert_allclose(grid.loss[0], plain.loss[0], rtol=1e-4)
    np.testing.assert_allclose(grid.loss[1], alone.loss[0], rtol=1e-4)
    assert np.all(np.abs(grid.loss[1] / grid.loss[0] - 1) > 1e-3)


def settings(name, method):
    (part,) = {p.make for _, p in FULL[name].parts if p.name == method}
    return part.keywords


def test_settings_are_those_of_the_captions():
    assert [FULL[name].seeds for name in ("8", "14", "15")] == [100, 100, 10]
    assert settings("7", "SGD") == {"h": 0.2} and settings("14", "SGD") == {"h": 0.25}
    assert settings("8", "SGLD") == {"sigma": 0.1} and settings("7", "SGLD") == {"sigma": 0.01}
    assert settings("16", "LOL") == {"h": 0.8, "friction": 1.0} and settings("13", "LOL") == {"h": 0.1, "friction": 1.0}
    assert settings("13", "AdLaLa") == {"friction": 1000.0, "h": 0.1, "rest_tau": 1e-8}
    assert settings("10", "AdLaLa") == {"friction": 0.1, "coupling": 0.05}
    assert {task.noise for task, _ in FULL["13"].parts} == {0.1}
    nine, fourteen = (list(dict.fromkeys(task for task, _ in FULL[name].parts)) for name in ("9", "14"))
    assert [(t.power, t.batch_size, t.nodes, t.init_sd) for t in nine] == [(1, 10, 500, 0.5), (1, 10, 500, 0.01)]
    assert [(t.batch_size, t.init_sd) for t in fourteen] == [(10, None), (10, 0.01)]
    short = figures.figures(short=True).values()
    assert all(task.steps <= 3000 and study.seeds <= 20 for study in short for task, _ in study.parts)


@pytest.mark.slow
def test_methods_are_those_of_the_package():
    """AdLaLa with a thermostat per part is lgv.adlala; per tensor there are two, which start at 0.1."""
    x = jnp.ones((1, 2))
    order, params = lgv.layer_order(Perceptron(7), x), Perceptron(7).init(jax.random.key(0), x)
    rest = {"temperature": 1e-4, "sigma": 0.01, "coupling": 0.1, "friction": 0.5, "order": order}
    mine, theirs = figures.adlala(order, 3, friction=0.5), lgv.adlala(0.25, 3, **rest)
    states = [mine.init(params), theirs.init(params)]
    for _ in range(2):
        found = [tx.update(params, state, params) for tx, state in zip((mine, theirs), states, strict=True)]
        (updates, expected), states = zip(*found, strict=True)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
    each = figures.adlala(order, 3, friction=0.5, per_tensor=True).init(params).inner_states["first"].inner_state
    parts = {name: inner.inner_state for name, inner in each.inner_states.items()}
    sizes = {name: [m.size for m in jax.tree.leaves(part.momentum)] for name, part in parts.items()}
    assert sizes == {"kernel": [14], "bias": [7]}
    assert {float(part.thermostat) for part in parts.values()} == {np.float32(0.1)}


def tiny(name):
    parts = [(task._replace(nodes=3, steps=40, records=3), method) for task, method in FULL[name].parts]
    return FULL[name]._replace(seeds=2, parts=parts)


def made_up(task, method, seeds, progress=lambda steps: None, keep=False):
    """What training might give; as different as its arguments are."""
    rng = np.random.default_rng(zlib.crc32((task.title + method.name).encode()))
    shape, params = (len(method.settings), seeds, 3), None
    if keep:
        start = jax.tree.map(np.asarray, train.prepare(task, seeds).params)
        params = jax.tree.map(lambda leaf: leaf[None, :, None, None].repeat(3, 2).repeat(2, 3), start)
    progress(task.steps)
    accuracy = rng.integers(500, 1001, shape) / 1000
    return Result(task, method, np.array([20, 30, 40]), accuracy, rng.uniform(size=shape), params)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """With what training might give, on two cores, and quick pictures."""
    monkeypatch.setattr(demo, "figures", lambda short: {name: tiny(name) for name in figures.NAMES})
    monkeypatch.setattr(demo, "train", made_up)
    monkeypatch.setattr(demo.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(pictures, "draw", lambda study, results, path: path.touch() or path)
    return lambda *argv: demo.main(["--preset", "full", "--output", str(tmp_path), *argv])


def rows(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_report_is_that_of_the_runs(program, tmp_path, monkeypatch, capsys):
    pair = threading.Barrier(2, timeout=20)  # 3 and 5 parts, of which two run at a time

    def together(*args, **kwargs):
        pair.wait()
        return made_up(*args, **kwargs)

    monkeypatch.setattr(demo, "train", together)
    program("--figures", "16", "waves")
    said, runs = capsys.readouterr(), rows(tmp_path / "figure_16.csv")
    assert len(runs) == 3 * 7 * 2 and {run["seed"] for run in runs} == {"0", "1"}
    finals = [float(run["final"]) for run in runs if run["method"] == "LOL, τ₂ = 0, τ = 1e-05"]
    found = rows(tmp_path / "results.csv")
    assert list(dict.fromkeys(row["figure"] for row in found)) == ["16", "waves"]
    (row,) = (row for row in found if row["method"] == "LOL, τ₂ = 0, τ = 1e-05")
    mean, sd = np.mean(finals), np.std(finals, ddof=1)
    half = 12.706 * sd / np.sqrt(2)
    want = [mean, sd, mean - half, mean + half, min(finals), max(finals)]
    assert [float(row[name]) for name in demo.NUMBERS[1:]] == pytest.approx(want, abs=1e-3)
    assert f"{mean:.3f}" in said.out and "100% " in said.err.strip().splitlines()[-1]
    assert str(tmp_path / "figure_16.png") in said.out and (tmp_path / "waves.png").exists()


def test_a_folder_keeps_what_is_finished(program, tmp_path, monkeypatch):
    """A figure is there whole or not at all, and those that are missing can be added; another preset is refused."""

    def torn(study, results, path):
        if study.name == "14":
            raise RuntimeError("the lights went out")
        path.touch()
        return path

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="the lights went out"):
        patch.setattr(pictures, "draw", torn)
        program("--figures", "8", "14")
    before = (tmp_path / "results.csv").read_text()
    assert (tmp_path / "figure_08.png").exists() and not list(tmp_path.glob("figure_14*"))
    with pytest.raises(SystemExit, match=r"results of another command \(preset was 'full', is 'short'\)"):
        program("--preset", "short")
    program("--figures", "14")
    after = (tmp_path / "results.csv").read_text()
    assert after.startswith(before) and after.count("\n14,") == 9 and (tmp_path / "figure_14.png").exists()


@pytest.mark.slow
def test_ctrl_c_of_a_process(tmp_path):
    """While threads compile and train: no traceback, no fatal error, and the status that shells have for it."""
    process = processes.start("examples.spirals", "--preset", "full", "--output", tmp_path)
    processes.wait_until((tmp_path / "settings.json").exists, process)
    process.send_signal(signal.SIGINT)
    status, _, stderr = processes.finish(process)
    assert status == 130 and "interrupted: figures that are finished are written" in stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["3", "16"])
def test_a_figure_end_to_end(name, tmp_path, monkeypatch):
    """Trained and drawn."""
    monkeypatch.setattr(demo, "figures", lambda short: {name: tiny(name) for name in figures.NAMES})
    demo.main(["--figures", name, "--output", str(tmp_path)])
    assert matplotlib.image.imread(tmp_path / f"figure_{name:0>2}.png").std() > 0.05
    assert all(0 <= float(run["final"]) <= 1 for run in rows(tmp_path / f"figure_{name:0>2}.csv"))
    measures = ["loss at 0", "loss at 1", "highest loss between"] if name == "3" else []
    assert set(measures) == {row["measure"] for row in rows(tmp_path / "results.csv")} - {"test accuracy"}


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
    """Every mean ± sd of a figure, with its interval, is a row of that figure's results, and every command runs."""
    readme, number = (HERE / "README.md").read_text(encoding="utf-8"), r"(\d?\.\d{3})"
    found = rows(HERE / "results" / "full.csv")
    cells = [row.split(" | ") for row in readme.splitlines() if row.startswith("| ") and row.count(" | ") == 5]
    ledger = {row[2].strip("`"): re.findall(rf"{number} ± {number} \[{number}, {number}\]", row[4]) for row in cells}
    assert set(ledger) >= set(figures.NAMES) and sum(map(len, ledger.values())) > 80
    for figure, said in ledger.items():
        of_figure = {tuple(row[x] for x in ("mean", "sd", "low", "high")) for row in found if row["figure"] == figure}
        assert not {tuple(f"{float(x):.3f}" for x in numbers) for numbers in said} - of_figure, figure
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^python -m examples\.spirals(.*?)(?:  #.*)?$", readme, re.M)
    assert [len(demo.parse(shlex.split(command))[1]) for command in commands] == [4, 13, 3]
    assert all((HERE / picture).exists() for picture in re.findall(r"\]\((\.\./\.\./docs/[^)]*)\)", readme))
