"""The benchmarks run, and what they report is what they measured. No times are asserted."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import contenders, measures, networks, report, samplers, timing, trees
from benchmarks.__main__ import main

SIZES = measures.Sizes(seconds=0, entries=1000, dtypes=("float32",), curve=(10, 100), leaves=(1, 3))


def test_the_command_writes_the_table(tmp_path, capsys):
    main(["--only", "large", "samplers", "--seconds", "0", "--entries", "1e3", "--output", str(tmp_path)])
    text = (tmp_path / "results.md").read_text()
    printed = capsys.readouterr().out
    assert "python -m benchmarks --only large samplers" in text
    for name in ("optax.adam", "lgv.adam, normal", "lgv.adam, rademacher", "optax.rmsprop", "optax.noisy_sgd"):
        assert f"| {name} |" in text
        assert name in printed
    for part in ("jax ", "Python ", "cores", "float32", "binomial"):
        assert part in text
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert len(lines) > 20


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--entries", "0"], "expected a whole number of at least 1, such as 1e7, got 0"),
        (["--entries", "1.5"], "expected a whole number"),
        (["--entries", "1e400"], "expected a whole number"),
        (["--entries", "many"], "expected a number, got many"),
        (["--seconds", "-1"], "expected a number of at least 0, got -1"),
        (["--seconds", "inf"], "expected a number of at least 0"),
        (["--only", "everything"], "invalid choice: 'everything'"),
    ],
)
def test_bad_flags(flags, message, capsys):
    with pytest.raises(SystemExit):
        main(flags)
    assert message in capsys.readouterr().err


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
    assert len(states) == 3
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


def test_the_picture_and_the_curves(tmp_path):
    rows = [*measures.parameters(SIZES)]
    for number in (1, 3):
        for measure in ("update", "compile"):
            for c in measures.CURVES:
                ratio = timing.Quartiles(0.9, 1.0, 1.1)
                rows.append(
                    measures.Row(measure, f"curve: {number} leaves, 1e+06 parameters in all", c.name, 1e-3, ratio)
                )
    assert {r.case for r in rows[:16]} == {"curve: 1 leaf, 1e+01 parameters", "curve: 1 leaf, 1e+02 parameters"}
    written = report.write(rows, [], "python -m benchmarks", tmp_path)
    assert (tmp_path / "cost.png") in written
    assert (tmp_path / "cost.png").stat().st_size > 10_000


def test_compile_times_of_few_leaves():
    rows = list(measures.compile_times("case", measures.MAIN, trees.equal_leaves(3, 30), rounds=1))
    assert [row.contender for row in rows] == [c.name for c in measures.MAIN]
    assert rows[0].ratio.median == 1
    assert all(row.value > 0 for row in rows)


@pytest.mark.parametrize("shape", [(), (7,), (5, 3)])
def test_samplers_of_the_study_have_mean_0_and_variance_1(shape):
    n = 40_000
    for candidate in samplers.candidates():
        if not callable(candidate.sampler):
            continue
        draw = jax.vmap(lambda key, sampler=candidate.sampler: sampler(key, shape, jnp.dtype(jnp.float32)))
        xi = np.asarray(draw(jax.random.split(jax.random.key(1), n)), np.float64)
        assert xi.shape == (n, *shape)
        assert abs(xi.mean()) < 5 / math.sqrt(xi.size), candidate.name
        assert abs((xi**2).mean() - 1) < 5 * math.sqrt(2 / xi.size), candidate.name
