"""`cyclical_schedules`: the formula of the paper, and modes that one cycle does not find."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from langevin_optax import sampling


@pytest.mark.parametrize(
    ("steps", "cycles", "exploration"), [(12, 3, 0.5), (100, 7, 0.7), (10, 10, 0.0), (50, 1, 0.1), (7, 2, 0.99)]
)
def test_it_is_the_formula_of_the_paper(steps, cycles, exploration):
    """Equation (1) and algorithm 1, whose k counts from 1; for counts one by one, in an array, and under jit."""
    gamma, sigma, keep = sampling.cyclical_schedules(0.3, 1.5, steps, cycles, exploration)
    length = -(-steps // cycles)
    for k in range(1, 2 * steps):
        r = ((k - 1) % length) / length
        np.testing.assert_allclose(gamma(k - 1), 0.3 / 2 * (np.cos(np.pi * r) + 1), rtol=1e-5)
        assert sigma(k - 1) == (0 if r < exploration else 1.5)
        assert bool(keep(k - 1)) is (r >= exploration)
    counts = np.arange(steps)
    assert keep(counts).tolist() == [bool(keep(count)) for count in counts]
    for schedule in (gamma, sigma):
        np.testing.assert_allclose(jax.jit(schedule)(counts), [schedule(count) for count in counts], rtol=1e-6)


def test_shares_that_are_whole_numbers_of_steps_are_not_rounded_up():
    for part in range(60):
        _, _, keep = sampling.cyclical_schedules(0.1, 1.0, 60, 1, part / 60)
        assert keep(np.arange(60)).tolist() == [count >= part for count in range(60)]


@pytest.mark.slow
def test_exploration_is_the_optimiser_without_noise():
    gamma, sigma, keep = sampling.cyclical_schedules(0.1, 1.0, steps=20, cycles=2)
    tx, quiet = lgv.adam(gamma, sigma, key=0), optax.adam(gamma, eps=1e-6)
    params, state, other = jnp.ones(3), tx.init(jnp.ones(3)), quiet.init(jnp.ones(3))
    for count in range(20):
        updates, state = tx.update(params, state, params)
        theirs, other = quiet.update(params, other, params)
        assert bool((updates == theirs).all()) is not bool(keep(count))
        params = optax.apply_updates(params, updates)


MODES, WIDTH, STEPS = jnp.asarray([-2.0, 2.0]), 0.4, 1800


def kept(cycles, chains=64):
    """What chains keep of the same number of steps, on two modes ten widths apart: (chains, cycles, draws)."""
    gradient = jax.value_and_grad(lambda x, key: -jax.nn.logsumexp(-((x - MODES) ** 2) / (2 * WIDTH**2)))
    gamma, sigma, keep = sampling.cyclical_schedules(2.5 * WIDTH**2, np.sqrt(2), STEPS, cycles, exploration=0.75)
    with jax.default_device(jax.devices()[0]):
        start = jnp.asarray(-1.5)
        samples = sampling.sample(
            gradient, lgv.sgd(gamma, sigma, 0), start, 1, draws=STEPS, chains=chains, progress=False
        )
    draws = np.asarray(samples.draws)[:, keep(np.arange(STEPS))]
    return draws.reshape(chains, cycles, -1)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_three_cycles_find_all_modes_where_one_finds_one():
    """Chaotic steps leave a mode, and the next is a toss of a coin: three cycles of which the first has no noise before
    it find both with probability 3/4, in 64 chains at least 31 times but for five standard deviations."""
    one, three = kept(1), kept(3)
    number = lambda draws: (draws.min((1, 2)) < 0).astype(int) + (draws.max((1, 2)) > 0)
    assert (number(one) == 1).all()
    assert (number(three) == 2).sum() >= 31
    assert number(three)[0] == 2
    within = three.reshape(-1, three.shape[-1])
    assert ((within > 0).all(1) | (within < 0).all(1)).all()  # a cycle stays in the mode that it found
    assert abs((np.abs(three) - 2).std() / WIDTH - 1) < 0.1  # and samples it


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be > 0"),
        ({"learning_rate": optax.constant_schedule(0.1)}, TypeError, "learning_rate must be a number"),
        ({"sigma": -1.0}, ValueError, "sigma must be ≥ 0"),
        ({"steps": 0}, ValueError, "steps must be ≥ 1"),
        ({"cycles": 0}, ValueError, "cycles must be ≥ 1"),
        ({"cycles": 1.5}, TypeError, "cycles must be an integer"),
        ({"cycles": 11}, ValueError, "cycles must be at most steps = 10, got 11"),
        ({"exploration": 1.0}, ValueError, "exploration must be a share ≥ 0 and < 1, got 1.0"),
        ({"exploration": -0.1}, ValueError, "exploration must be a share"),
    ],
)
def test_bad_arguments(changed, error, message):
    with pytest.raises(error, match=message):
        sampling.cyclical_schedules(**dict(learning_rate=0.1, sigma=1.0, steps=10, cycles=2) | changed)
