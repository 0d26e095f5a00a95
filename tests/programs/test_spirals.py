"""The example examples/spirals: its data, its settings, and that it reports what it measured."""

import contextlib
import csv
import io
from collections import defaultdict

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from examples.spirals import __main__ as demo
from examples.spirals import data, report, studies, train
from examples.spirals.model import Perceptron
from examples.spirals.studies import Study
from examples.spirals.train import Method, Task

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


def test_values_and_seeds_are_runs_of_their_own():
    """A grid in one program gives what each run gives alone; σ = 0 is SGD; seeds differ."""
    grid = train.train(TINY, Method("SGLD", studies.sgld, [(0.0,), (1.0,)]), seeds=2)
    alone = train.train(TINY, Method("SGLD", lambda order, key: lgv.sgd(0.1, 1.0, key)), seeds=2)
    plain = train.train(TINY, Method("SGD", studies.sgd), seeds=2)
    assert grid.accuracy.shape == grid.loss.shape == (2, 2, 2)
    assert list(grid.steps) == [20, 40]
    np.testing.assert_allclose(grid.loss[0], plain.loss[0], rtol=1e-4)
    np.testing.assert_allclose(grid.loss[1], alone.loss[0], rtol=1e-4)
    assert np.all(np.abs(grid.loss[1] / grid.loss[0] - 1) > 1e-3)
    assert np.all(plain.loss[0, 0] != plain.loss[0, 1])


def test_training_is_that_of_a_plain_loop():
    """One seed by hand: every epoch goes once through all points, 25 at a time."""
    result = train.train(TINY, Method("SGD", studies.sgd), seeds=2, keep_last=True)
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
    for task, method in studies.studies(short=False)["accuracy"].parts:
        expected = published.get(method.name) or published[f"AdLaLa {4 if task.turns == 4 else 2}"]
        actual = method.make(order, jax.random.key(3))
        state, expected_state = actual.init(params), expected.init(params)
        for _ in range(2):
            updates, state = actual.update(params, state, params)
            want, expected_state = expected.update(params, expected_state, params)
            jax.tree.map(np.testing.assert_array_equal, updates, want)
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


def test_the_studies_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "studies", tiny_studies)
    stdout, stderr = io.StringIO(), io.StringIO()
    output = tmp_path / "new" / "folder"
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        demo.main(["--preset", "full", "--output", str(output)])

    with (output / "runs.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == sum(2 * len(m.values) for study in tiny_studies(False).values() for _, m in study.parts)
    final = defaultdict(list)
    for run in runs:
        assert 0 <= float(run["final"]) <= float(run["best"]) <= 1
        final[run["study"], run["method"], run["values"]].append(float(run["final"]))

    def cell(*where):
        mean, sd = np.mean(final[where]), np.std(final[where])
        return f"{mean:.3f} ± {sd:.3f}".replace("0.", ".")

    markdown = (output / "results.md").read_text(encoding="utf-8")
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
    assert "  ".join(rows[2]) in stdout.getvalue()

    with (output / "curves.csv").open(encoding="utf-8") as file:
        curves = list(csv.DictReader(file))
    last = {(c["study"], c["method"], c["values"]): float(c["mean"]) for c in curves if c["step"] == "40"}
    assert last["accuracy", "SGD", ""] == pytest.approx(np.mean(final["accuracy", "SGD", ""]), abs=1e-5)
    pictures = sorted(path.name for path in output.glob("*.png"))
    assert pictures == sorted(
        f"{name}.png"
        for name in (
            *("accuracy_against_step", "decision_regions", "spread", "accuracy_against_temperature"),
            *("thermostat", "wide_regions"),
        )
    )
    for name in pictures:
        assert f"]({name})" in markdown
        assert str(output / name) in stdout.getvalue()
        picture = matplotlib.image.imread(output / name)
        assert min(picture.shape[:2]) > 400
        assert picture.std() > 0.05
    # No terminal: a line each time, the last one for all the work.
    assert "\r" not in stderr.getvalue()
    assert "100% " in stderr.getvalue().strip().splitlines()[-1]


def test_the_presets_hold_every_study():
    short, full = studies.studies(short=True), studies.studies(short=False)
    assert tuple(full) == studies.NAMES
    assert tuple(short) == studies.NAMES[:4]
    widths = {(task.turns, task.nodes) for task in full["accuracy"].tasks if task.shape == "spirals"}
    assert widths == {(turns, nodes) for turns in (2, 4) for nodes in (20, 100, 500)}
    assert full["spread"].seeds == 100
    for study in [*short.values(), *full.values()]:
        assert set(report._TABLES) >= {study.name}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--studies", "wide"], "only runs with --preset full"),
        (["--studies", "spirals"], "invalid choice"),
        (["--preset", "long"], "invalid choice"),
        (["--output", "/dev/null/x"], "cannot make the folder"),
    ],
)
def test_bad_flags(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        demo.main(flags)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
