"""The example examples/control: what is left after hedging, whose noise is where, and what the program writes."""

import contextlib
import csv
import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from examples.control import __main__ as program
from examples.control import hedging

RETURNS = hedging.log_returns(jax.random.key(0), 3, 50)


def wealth(params, returns):
    """The same in NumPy, path by path and step by step."""
    of_steps = jax.tree.map(np.asarray, params["params"]["steps"])
    price, held, left = np.ones(50), np.zeros(50), np.zeros(50)
    for k, r in enumerate(np.asarray(returns)):
        x = np.stack([np.log(price) / 0.2, held], -1)
        for i in range(2):
            x = np.maximum(x @ of_steps[f"Dense_{i}"]["kernel"][k] + of_steps[f"Dense_{i}"]["bias"][k], 0)
        new = 1 / (1 + np.exp(-(x @ of_steps["Dense_2"]["kernel"][k] + of_steps["Dense_2"]["bias"][k])[:, 0]))
        left += new * price * (np.exp(r) - 1) - 0.002 * price * np.abs(new - held)
        price, held = price * np.exp(r), new
    return left - np.maximum(price - 1, 0)


def test_what_is_left_is_that_of_the_formula():
    params = hedging.Hedge().init(jax.random.key(1), RETURNS)
    np.testing.assert_allclose(hedging.Hedge().apply(params, RETURNS), wealth(params, RETURNS), rtol=1e-4, atol=1e-6)
    assert hedging.expected_shortfall(jnp.array([3.0, -1.0, 2.0, -2.0])) == 1.5


def test_hedging_without_costs_is_worth_the_price_of_black_and_scholes(monkeypatch):
    """2 Φ(ς/2) − 1 at the money; what steps of finite length leave is little, and a loss."""
    monkeypatch.setattr(hedging, "COST", 0.0)
    price = 2 * stats.norm.cdf(0.1) - 1
    risks = [hedging.black_scholes(steps) for steps in (20, 500)]
    assert price < risks[1] < 1.05 * price < risks[0] < 1.2 * price


@pytest.mark.parametrize(
    ("name", "noisy"),
    [("LL-Adam", 3), *(pytest.param(*row, marks=pytest.mark.slow) for row in (("Adam", 0), ("L-Adam", 10)))],
)
def test_the_noise_is_in_the_first_time_steps(name, noisy):
    params = hedging.Hedge().init(jax.random.key(1), jnp.zeros((10, 1)))
    tx = hedging.optimizer(name, 1e-3, 10, 100, jax.random.key(2))
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for leaf in jax.tree.leaves(updates):
        assert [bool(step.any()) for step in leaf] == [k < noisy for k in range(10)]
    assert optax.tree.norm(updates, ord=jnp.inf) <= 5 * hedging.MAX_NOISE


@pytest.mark.slow
def test_the_program_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(hedging, "TEST", 200)
    printed = io.StringIO()
    argv = ["--steps", "2", "3", "--seeds", "2", "--updates", "4", "--output", str(tmp_path)]
    with contextlib.redirect_stdout(printed):
        program.main(argv)
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 2 * 4
    last = [100 * float(r["risk"]) for r in rows if (r["steps"], r["method"], r["record"]) == ("3", "L-Adam", "4")]
    cell = f"{np.mean(last):.3f} ({min(last):.3f} to {max(last):.3f})"
    table = (tmp_path / "results.md").read_text()
    assert cell in table and cell in printed.getvalue()
    assert (tmp_path / "risk.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="has results of another command"):
        program.main([*argv[:4], "1", *argv[5:]])
