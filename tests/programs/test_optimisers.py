"""The example examples/optimisers: what it writes, and the laws of the chains that it draws."""

import contextlib
import io

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest
from scipy import stats

import langevin_optax as lgv
from examples.optimisers import __main__ as program
from examples.optimisers import pictures, train
from examples.optimisers.methods import METHODS
from examples.optimisers.train import Result
from tests.programs.drawn import figures

METHOD = {method.name: method for method in METHODS}
LECTURE = "SGD Momentum Nesterov Rprop AdaGrad RMSProp AdaDelta Adam AdaMax PRONG".split()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Of everything a little."""
    for name, value in {"STEPS": 40, "CHAINS": 3, "DEPTH": 2, "WIDTH": 3, "SEEDS": 2, "DEEP_STEPS": 10}.items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(pictures, "SHOWN", 20)


def made_up(method, params):
    """What a run might give; the last seed of the plain network diverged."""
    rng = np.random.default_rng(len(method.words))
    deep = rng.uniform(size=(2, 2, 10))
    deep[0, 1, 5:] = np.nan
    return Result(method, rng.uniform(size=(4, 40)), rng.normal(size=(4, 40, 2)), deep)


def check_what_is_written(methods, monkeypatch, folder):
    drawn, printed = figures(monkeypatch, write=True), io.StringIO()
    with contextlib.redirect_stdout(printed):
        program.main(["--output", str(folder)])
    text = (folder / "results.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    names = [method.name for method in methods]
    assert rows[0] == list(program.HEADING) and [row[0] for row in rows[2:]] == names
    for row in rows[2:]:
        assert row[0] in printed.getvalue() and all(np.isfinite(float(cell)) for cell in row[4:8])
    (figure,) = drawn
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == names
    picture = matplotlib.image.imread(folder / "optimisers.png")
    assert min(picture.shape[:2]) > 500 and picture.std() > 0.05
    return rows[2:]


def test_the_table_and_the_picture_have_every_optimiser(monkeypatch, tmp_path):
    assert set(LECTURE) < set(METHOD)
    monkeypatch.setattr(program, "run", made_up)
    rows = check_what_is_written(METHODS, monkeypatch, tmp_path / "new" / "folder")
    assert all(row[-2].startswith("inf, ") and row[-2].endswith("/2") for row in rows)


def test_the_program_runs(monkeypatch, tmp_path):
    """With the two that are least like the others."""
    odd = METHOD["Rprop"], METHOD["PRONG"]
    monkeypatch.setattr(program, "METHODS", odd)
    check_what_is_written(odd, monkeypatch, tmp_path)


@pytest.mark.slow
def test_the_program_runs_with_every_optimiser(monkeypatch, tmp_path):
    check_what_is_written(METHODS, monkeypatch, tmp_path)


def test_a_folder_that_cannot_be(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        program.main(["--output", str(tmp_path / "file")])
    assert stop.value.code == 2 and "--output: cannot make the folder" in capsys.readouterr().err


def test_the_quadratic_is_a_regression_whose_inputs_have_its_curvatures():
    problem = train.quadratic()
    params = {"kernel": jnp.asarray(train.START, jnp.float32)[:, None]}
    covariances = lgv.input_covariances(problem.model, params, problem.x)
    loss = lambda params: problem.loss(problem.model.apply({"params": params}, problem.x))
    hessian = jax.hessian(loss)(params)["kernel"]["kernel"][:, 0, :, 0]
    np.testing.assert_allclose(covariances[""], hessian, rtol=1e-4)
    np.testing.assert_allclose(train.AXES.T @ hessian @ train.AXES, np.diag(train.CURVATURES), atol=1e-3)
    assert loss({"kernel": jnp.asarray(train.MINIMUM, jnp.float32)[:, None]}) < 1e-9


def chains(monkeypatch, name, gamma, steps, number):
    monkeypatch.setattr(train, "STEPS", steps)
    monkeypatch.setattr(train, "CHAINS", number)
    _, w = train.on_quadratic(METHOD[name]._replace(quadratic=(gamma, gamma)))
    return w


def p_values(w, law):
    """Of the squares in the end, in independent chains, along the two axes."""
    squares = np.square((w[1:, -1] - train.MINIMUM) @ train.AXES).sum(0) / law
    below = stats.chi2.cdf(squares, len(w) - 1)
    return 2 * np.minimum(below, 1 - below)


# γ so large that the law is far from exp(−L) across the valley, and so many steps that the start is forgotten.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gamma", "steps", "p"),
    [("SGD", 0.015, 600, np.ones(2)), ("PRONG", 0.5, 60, 1 / (train.CURVATURES + 1e-2))],
)
def test_a_constant_p_has_the_law_of_its_discrete_scheme(name, gamma, steps, p, monkeypatch):
    """x' = (1 − γPa)x + √(2γP) ξ along an axis of curvature a, at τ = 1: the variance is 1/a over 1 − γPa/2."""
    w = chains(monkeypatch, name, gamma, steps, 4000)
    continuous = 1 / train.CURVATURES
    law = continuous / (1 - gamma * p * train.CURVATURES / 2)
    assert np.all(p_values(w, law) > 1e-4)
    assert p_values(w, continuous)[1] < 1e-6


def test_the_chain_without_noise_is_the_plain_optimiser(monkeypatch):
    w = chains(monkeypatch, "SGD", 0.015, 50, 1)
    hessian = train.AXES @ np.diag(train.CURVATURES) @ train.AXES.T
    at, path = train.START, []
    for _ in range(50):
        at = at - 0.015 * hessian @ (at - train.MINIMUM)
        path.append(at)
    np.testing.assert_allclose(w[0], path, atol=1e-4)
    assert np.abs(w[1] - w[0]).max() > 0.1


@pytest.mark.slow
def test_rprop_has_the_noise_of_p_one():
    learning_rate, sigma, key = 0.01, 0.3, jax.random.key(5)
    plain, langevin = optax.rprop(learning_rate), METHOD["Rprop"].make(learning_rate, sigma, key=key)
    params = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2))}
    states = plain.init(params), langevin.init(params)
    for step in range(4):
        gradients = jax.tree.map(lambda p: jnp.cos(3 * p + step), params)  # noqa: B023
        expected, plain_state = plain.update(gradients, states[0], params)
        updates, langevin_state = langevin.update(gradients, states[1], params)
        states = plain_state, langevin_state
        noise = lgv.noise_like(langevin_state[-1].key, step, params)
        difference = jax.tree.map(lambda u, e, xi: u - e - sigma * learning_rate**0.5 * xi, updates, expected, noise)
        assert optax.tree.norm(difference) < 1e-6


@pytest.mark.slow
def test_the_noise_of_soap_waits_for_gradients_that_differ(monkeypatch):
    w = chains(monkeypatch, "SOAP", 0.01, 12, 1)
    np.testing.assert_array_equal(w[0, :10], w[1, :10])
    assert np.all(w[0, 10:] != w[1, 10:])
    # Without the wait: the second gradient is the first, and beside it P = 1/ε.
    monkeypatch.setitem(METHOD, "SOAP", METHOD["SOAP"]._replace(make=lgv.soap))
    early = chains(monkeypatch, "SOAP", 0.01, 2, 1)
    assert np.abs(early[1, 1] - early[0, 1]).max() > 10


@pytest.mark.slow
def test_a_p_that_moves_spreads_too_wide_and_frozen_it_does_not(monkeypatch):
    """SOAP without momentum, whose P follows the last 20 gradients; from step 300 on it stays as it is."""

    def make(scaler):
        def soap(learning_rate, sigma, key, mask=None):
            noise = lgv.add_preconditioned_noise(learning_rate, lambda count: jnp.where(count < 10, 0, sigma), key)
            return optax.chain(scaler, noise, optax.scale_by_learning_rate(learning_rate))

        return METHOD["SOAP"]._replace(make=soap)

    monkeypatch.setattr(train, "STEPS", 4000)
    monkeypatch.setattr(train, "CHAINS", 128)
    scaler = lgv.scale_by_soap(b1=0.0)
    moving, frozen = (
        Result(METHOD["SOAP"], *train.on_quadratic(make(s)), np.array([])).spread
        for s in (scaler, lgv.freeze_preconditioner(scaler, 300))
    )
    np.testing.assert_allclose(frozen, 1, atol=0.15)
    assert moving[0] > 1.5 and moving[1] > 1.2
