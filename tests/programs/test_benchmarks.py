"""The benchmarks run, and what they report is what they measured. No times are asserted."""

import contextlib
import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import langevin_optax as lgv
from benchmarks import (
    coefficient,
    contenders,
    matrices,
    measures,
    networks,
    posterior,
    report,
    sampling,
    sections,
    timing,
    trees,
    turns,
)
from benchmarks.__main__ import main
from tests.programs.drawn import figures

SIZES = measures.Sizes(seconds=0, entries=1000, dtypes=("float32",), curve=(10,), leaves=(1, 3))
COMMAND = ["--only", "large", "--seconds", "0", "--entries", "1e3"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the command printed, and its folder. Of the contenders that are of one kind, one."""
    folder, printed = tmp_path_factory.mktemp("benchmarks") / "new" / "folder", io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(printed):
        monkeypatch.setattr(contenders, "OTHERS", contenders.OTHERS[:1])
        main([*COMMAND, "--output", str(folder)])
    return printed.getvalue(), folder


def test_the_command_writes_the_table(written):
    printed, folder = written
    text = (folder / "results.md").read_text()
    assert f"`python -m benchmarks {' '.join(COMMAND)} --output {folder}`" in text
    for name in ("optax.adam", "lgv.adam, normal", "lgv.adam, rademacher", "optax.rmsprop", "optax.noisy_sgd"):
        assert f"| {name} |" in text
        assert name in printed
    for part in ("jax ", "Python ", "cores", "float32"):
        assert part in text
    lines = (folder / "results.csv").read_text().splitlines()
    assert len(lines) > 20
    assert printed.endswith(f"{folder / 'results.md'}\n{folder / 'results.csv'}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "section", [name for name in sections.SECTIONS if name not in ("training", "matrices", "posterior", "sampling")]
)
def test_every_section_with_every_contender(section, tmp_path, monkeypatch):
    """But for the training of whole networks, which takes minutes, and of which each is tested by itself."""
    monkeypatch.setattr(measures, "Sizes", lambda *sizes: SIZES)
    main(["--only", section, "--output", str(tmp_path)])
    assert (tmp_path / "results.md").exists()


def row(section):
    return measures.Row("update", f"of {section}", "optax.adam", 0.1)


@pytest.fixture
def quick(monkeypatch):
    """Sections that measure nothing."""
    for section in sections.SECTIONS:
        monkeypatch.setitem(sections.SECTIONS, section, lambda sizes, section=section: iter([row(section)] * 2))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_keeps_its_tables(tmp_path, quick, monkeypatch):
    """Sections may be added; what would drop or change one is refused, and nothing is measured."""
    command = ["--seconds", "1", "--output", str(tmp_path), "--only"]
    main([*command, "large"])
    before = files(tmp_path)
    for other, said in (
        (["highway"], "section large is left out"),
        (["large", "--entries", "7"], "entries was .*, is 7"),
    ):
        with pytest.raises(SystemExit, match=rf"error: .*{said}.*; choose another --output"):
            main([*command, *other])
        assert files(tmp_path) == before
    main([*command, "large", "highway"])
    assert "| of highway |" in (tmp_path / "results.md").read_text()


def test_what_has_ended_is_written(tmp_path, quick, monkeypatch):
    def fails(sizes):
        yield row("highway")
        raise RuntimeError("the lights went out")

    monkeypatch.setitem(sections.SECTIONS, "highway", fails)
    with pytest.raises(RuntimeError, match="the lights went out"):
        main(["--only", "large", "highway", "--output", str(tmp_path)])
    text = (tmp_path / "results.md").read_text()
    assert text.count("| of large |") == 2 and "of highway" not in text


def test_what_is_there_stays_until_all_of_it_is_there_anew(tmp_path, quick, monkeypatch):
    command = ["--only", "large", "highway", "--output", str(tmp_path)]
    main(command)
    before = files(tmp_path)

    def fails(sizes):
        raise RuntimeError("the lights went out")

    monkeypatch.setitem(sections.SECTIONS, "highway", fails)
    with pytest.raises(RuntimeError, match="the lights went out"):
        main(command)
    assert files(tmp_path) == before


def test_values_can_be_read():
    cells = [report.cells(measures.Row("update", "case", "adam", seconds))[3] for seconds in (0.2304, 0.99996, 1234.5)]
    assert cells == ["230 ms", "1 s", "1,230 s"]  # and not 1e+03 ms


def test_ratios_are_those_of_the_calls(monkeypatch):
    """With a clock that the programs themselves move."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def taking(seconds):
        def program():
            now[0] += seconds

        return program

    calls = timing.alternated({"one": taking(2.0), "three": taking(6.0), "short": taking(1e-4)}, seconds=60)
    np.testing.assert_allclose(calls["one"].ratio, 1)
    np.testing.assert_allclose(calls["three"].ratio, 3)
    np.testing.assert_allclose(calls["short"].ratio, 5e-5)
    np.testing.assert_allclose([c.seconds for c in calls.values()], [2, 6, 1e-4])


def test_a_step_is_that_of_the_optimizer():
    params = trees.highway(layers=2, width=4)
    gradients = trees.gradients(params)
    carry, step = contenders.ADAM.start(params), measures.steps(contenders.ADAM, params, gradients)
    for _ in range(3):
        carry = contenders.ADAM.step(carry, gradients)
        taken = step()
    for a, b in zip(jax.tree.leaves(taken), jax.tree.leaves(carry), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_memory_of_the_state_and_of_the_update(optimized):
    """A count and a key; and no more than a copy of the leaves that are drawn together beside them."""
    params = trees.highway(layers=8, width=32)
    rows = list(measures.memory("", measures.MAIN, params))
    states = {row.contender: row.value for row in rows if row.measure == "state"}
    assert len(states) == len(measures.MAIN)
    for size in states.values():
        assert 0 <= size - states["optax.adam"] <= 64
    temporary = {row.contender: row.value for row in rows if row.measure == "temporary memory"}
    for size in temporary.values():
        assert size - temporary["optax.adam"] <= 16 * (32 * 32 + 32) * 4 + 1000


def test_networks_have_first_layers():
    names = []
    for network in networks.networks():
        variables = jax.eval_shape(network.model.init, jax.random.key(0), network.x)
        mask = network.first_layers(variables["params"])
        noisy = sum(np.sum(np.broadcast_to(m, p.shape)) for m, p in _pairs(mask, variables["params"]))
        assert 0 < noisy < sum(p.size for p in jax.tree.leaves(variables["params"]))
        names.append(network.name)
    assert len(names) == 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ResNet", "transformer"])
def test_networks_of_unusual_state_train(kind):
    (network,) = (network for network in networks.networks() if kind in network.name)
    small = network._replace(x=network.x[:2], y=network.y[:2])
    state = small.start(contenders.NORMAL)
    (stats, carry), loss = jax.jit(small.step(contenders.NORMAL))(state, small.x, small.y)
    assert math.isfinite(loss)
    assert any(bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, (carry[0], state[1][0])), strict=True))
    assert bool(stats) == (kind == "ResNet")


def _pairs(mask, params):
    return zip(jax.tree.leaves(mask), jax.tree.leaves(params), strict=True)


def test_the_picture_and_the_curves(tmp_path, monkeypatch):
    """Of times that were made up."""

    def made(measure):
        def rows(case, entries, params, *seconds):
            return iter([measures.Row(measure, case, c.name, 1e-3, timing.Quartiles(0.9, 1.0, 1.1)) for c in entries])

        return rows

    for measure in ("update", "step", "compile"):
        monkeypatch.setattr(measures, f"{measure}_times", made({"step": "step in place"}.get(measure, measure)))
    of_leaf = list(measures.parameters(SIZES._replace(curve=(10, 100))))
    assert list(dict.fromkeys((r.measure, r.case) for r in of_leaf)) == [
        (measure, f"curve: 1 leaf, 1e+0{power} parameters")
        for power in (1, 2)
        for measure in ("update", "step in place")
    ]
    of_leaves = list(measures.leaves(SIZES))
    cases = ["curve: 1 leaf, 1e+06 parameters in all", "curve: 3 leaves, 1e+06 parameters in all"]
    assert list(dict.fromkeys(r.case for r in of_leaves)) == cases
    drawn = figures(monkeypatch, write=True)
    written = report.write([*of_leaf, *of_leaves], "python -m benchmarks", tmp_path)
    assert (tmp_path / "cost.png") in written
    assert (tmp_path / "cost.png").stat().st_size > 10_000
    ((one, _, many, compiled),) = (figure.axes for figure in drawn)
    assert [sorted(line.get_xdata()) for line in one.lines] == [[10, 100]] * len(measures.CURVES)
    for axis in (many, compiled):
        assert [sorted(line.get_xdata()) for line in axis.lines] == [[1, 3]] * len(measures.CURVES)


@pytest.mark.slow
def test_the_curves_are_measured():
    rows = list(measures.parameters(SIZES))
    assert [r.contender for r in rows] == 2 * [c.name for c in measures.CURVES] and all(r.value > 0 for r in rows)


def test_compile_times_of_few_leaves():
    entries = [contenders.ADAM, contenders.NORMAL]
    rows = list(measures.compile_times("case", entries, trees.equal_leaves(3, 30), rounds=1))
    assert [row.contender for row in rows] == [c.name for c in entries]
    assert rows[0].ratio.median == 1
    assert all(row.value > 0 for row in rows)


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_step_sizes_of_the_posterior_are_those_of_a_bias_of_5_percent(b1):
    """Without momentum a variance of θ ← θ − γpaθ + √(2τγp)ξ is 1/(1 − γpa/2) times τ/a; with it, by its recursion."""
    hessian, p, tau = np.diag([3.0, 0.1]), np.diag([0.5, 2.0]), 0.7
    rate = posterior.step_size(hessian, p, b1, tau)
    if not b1:
        assert rate == pytest.approx(2 * (1 - 1 / 1.05) / 1.5, rel=1e-6)
        return
    errors = []
    for a, q in ((3.0, 0.5), (0.1, 2.0)):  # curvature and P of one coordinate, from the sum of what all steps added
        forward = np.array([[1 - rate * (1 - b1) * q * a, -rate * b1 * q], [(1 - b1) * a, b1]])
        added, covariance = np.array([1.0, 0.0]) * np.sqrt(2 * tau * rate * q), 0.0
        for _ in range(200_000):
            covariance += added[0] ** 2
            added = forward @ added
        errors.append(covariance * a / tau - 1)
    assert max(map(abs, errors)) == pytest.approx(0.05, rel=1e-3)


def test_the_frozen_preconditioners_of_the_posterior_are_what_they_say():
    """For PRONG the inverse of its input covariance, which on the quadratic is the Hessian."""
    problem = posterior.quadratic(4, 2, 10.0)
    root = posterior._root(*frozen(problem, lgv.scale_by_prong(eps=1e-4, precondition_frequency=1)), problem)
    inverse = np.linalg.inv(problem.hessian + 1e-4 * np.eye(8))
    np.testing.assert_allclose(root @ root.T, inverse, rtol=1e-3, atol=1e-4)


def frozen(problem, scaler):
    scaler = lgv.freeze_preconditioner(scaler, 1)
    state = scaler.init(problem.mode)
    gradient = jax.tree.map(jnp.ones_like, problem.mode)
    return scaler, scaler.update(gradient, state, input_covariances=problem.input_covariances)[1]


@pytest.mark.slow
def test_effective_samples():
    """A short run has every preconditioner, and PRONG far ahead on its own problem."""
    rows = [
        row for row in posterior.posterior(None, steps=2000) if row.measure.startswith("effective samples per 1000")
    ]
    values = {(row.case.split(",")[0], row.contender): row.value for row in rows}
    assert len(values) == 12
    assert values["quadratic", "PRONG"] > 50 * values["quadratic", "P = 1"]


@pytest.mark.slow
def test_every_optimiser_of_matrices_takes_a_step():
    params = matrices.dense_layers(2, 4)
    for contender in matrices.entries(params, 2):
        after, _ = contender.step(contender.start(params), jax.tree.map(jnp.ones_like, params))
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, params), contender.name


@pytest.mark.slow
def test_samplers_without_their_peers(monkeypatch, capsys):
    """Every row of what is always there, and a line for what is not."""

    def missing(*arguments):
        raise ModuleNotFoundError("No module named 'missing'")

    for module in (sampling, coefficient):
        monkeypatch.setattr(module, "PEERS", [missing])
    rows = list(sampling.sampling(None, steps=1000, llc_steps=100, rounds=1))
    regression = ["lgv.sampling, SGLD", "lgv.sampling, BAOAB"]
    perceptron = ["lgv.sampling, chains vmapped", "JAX, chain after chain, scan", "JAX, chain after chain, Python loop"]
    assert [row.contender for row in rows] == 3 * regression + 2 * perceptron
    assert all("R-hat" in row.note for row in rows[:2]) and all("estimate" in row.note for row in rows[6:9])
    assert all(row.value > 0 for row in rows if row.measure == "compile and begin")
    said = "left out: missing cannot be imported (No module named 'missing')\n"
    assert capsys.readouterr().out == 2 * said


def test_steps_of_samplers_are_what_is_left_without_their_beginning(monkeypatch):
    """With a clock that they move: 3 s to begin, and 0.5 s or 1 s for a step."""
    now = [0.0]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])

    def taking(step):
        def run(steps):
            now[0] += 3 + step * steps
            return np.full((2, steps), step)

        return run

    found = turns.in_turn([turns.Contender("one", taking(0.5)), turns.Contender("two", taking(1.0), 0.1)], 1000, 3)
    np.testing.assert_allclose([turn.step for turn in found.values()], [[0.5] * 3, [1.0] * 3])
    np.testing.assert_allclose([turn.start for turn in found.values()], 3)
    assert [turn.result.shape for turn in found.values()] == [(2, 1000)] * 2
    first, second = turns.rows("sampling step", "case", {name: turn.step for name, turn in found.items()})
    assert first.ratio.median == 1 and second.ratio == (2, 2, 2)
