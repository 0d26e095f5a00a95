"""The guard itself: its p-values are what they claim to be, and deliberately wrong versions are found."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import langevin_optax as lgv
from langevin_optax.noise import _samplers
from tests import guard, guard_laws
from tests.guard import CHECKS, SIGMA, TAU, smallest

THRESHOLD = guard.ALPHA / len(CHECKS)
KEY = jax.random.key(1)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_guard(check):
    assert check(guard.SEED) >= THRESHOLD


def test_every_check_has_draws_of_its_own():
    assert len({check.name for check in CHECKS}) == len(CHECKS)


def test_what_is_no_number_is_an_alarm():
    assert smallest({"a": 0.5, "b": np.array([0.1, np.nan])}) == 0
    assert smallest({"a": 0.5, "b": np.array([0.1, 0.7])}) == pytest.approx(0.3)


# Wrong versions, with a hundredth of the draws of the guard and by its threshold.


def shifted(xi):
    return xi + 0.02


def too_small(xi):
    return xi * np.sqrt(0.97)


def one_byte(xi):
    """Box and Muller's formula with eight random bits for the radius, so that nothing is beyond 3.5."""
    radius, angle = jax.random.bits(KEY, (2, *xi.shape))
    return _samplers.box_muller(radius & np.uint32(0xFF000000), angle)


def one_noise_for_two_leaves(xi):
    return np.concatenate([xi[:, :, :128], xi[:, :, :128]], 2)


def one_noise_for_two_steps(xi):
    return np.repeat(xi[:, ::2], 2, 1)


def one_noise_for_two_chains(xi):
    return np.repeat(xi[::2], 2, 0)


def one_size_for_two_entries(xi):
    """Uncorrelated, and not independent."""
    return np.repeat(np.abs(xi[:, :, ::2]), 2, 2) * np.sign(xi)


def a_bit_in_32_is_stuck(xi):
    return np.where(np.arange(256) % 32 == 7, 1.0, xi)


def every_third_sign_is_a_product(xi):
    """Fair, and uncorrelated in pairs."""
    x, y = xi[:, :, ::4], xi[:, :, 1::4]
    return np.stack([x, y, x * y, xi[:, :, 3::4]], -1).reshape(xi.shape)


WRONG_DRAWS = [
    *(("normal", wrong) for wrong in (shifted, too_small, one_byte, one_size_for_two_entries)),
    *(("rademacher", wrong) for wrong in (too_small, a_bit_in_32_is_stuck, every_third_sign_is_a_product)),
    *(
        (law, wrong)
        for wrong in (one_noise_for_two_leaves, one_noise_for_two_steps, one_noise_for_two_chains)
        for law in guard.LAWS
    ),
]


@pytest.fixture(scope="module")
def draws():
    """Right ones, of 32 chains, 16 steps and 2 leaves of 128 entries."""
    keys, tree = jax.random.split(KEY, 32), {"a": jnp.zeros((8, 16)), "b": jnp.zeros((8, 16))}
    return {law: np.asarray(guard.noise(keys, 16, tree, law), np.float64) for law in guard.LAWS}


@pytest.mark.parametrize("law", guard.LAWS)
def test_right_draws_pass(draws, law):
    assert smallest(guard.independent_draws(draws[law], law)) > THRESHOLD


@pytest.mark.parametrize(("law", "wrong"), WRONG_DRAWS)
def test_wrong_draws_are_found(draws, law, wrong):
    assert smallest(guard.independent_draws(wrong(draws[law]), law)) < THRESHOLD


def adam(gamma, sigma, in_noise=lambda gamma: gamma, in_p=lambda p: p):
    """Adam whose noise has another γ, or another P."""

    def p(updates, old, new):
        return jax.tree.map(lambda nu: in_p(1 / (jnp.sqrt(nu / (1 - 0.999**new.count)) + 1e-6)), new.nu)

    scaler = lgv.with_preconditioner(optax.scale_by_adam(eps=1e-6), p)
    noise = lgv.add_preconditioned_noise(lambda count: in_noise(gamma(count)), sigma, KEY)
    return optax.chain(scaler, noise, optax.scale_by_learning_rate(gamma))


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({}, False),
        pytest.param({"in_noise": jnp.square}, True, marks=pytest.mark.slow),
        ({"in_p": jnp.square}, True),
    ],
    ids=["right", "γ for its root", "P for its root"],
)
def test_wrong_optimisers_are_found(wrong, found):
    right = partial(optax.adam, eps=1e-6)
    make, quiet = partial(adam, **wrong), lambda gamma, sigma: right(gamma)
    xi = guard.standardised(make, quiet, guard_laws.adam, guard.RANDOM[:10], 1, 1000)
    assert (smallest(guard.independent_draws(xi, "normal")) < THRESHOLD) is found


@pytest.mark.parametrize(
    ("name", "make", "found"),
    [
        ("BAOAB", partial(lgv.baoab, 0.7, TAU, 1.0), False),
        ("BAOAB", partial(lgv.baoab, 0.7, 0.97 * TAU, 1.0), True),
        pytest.param("BAOAB", partial(lgv.baoab, 0.7, TAU, 1.1), True, marks=pytest.mark.slow),
        pytest.param("Leimkuhler–Matthews", partial(lgv.overdamped_langevin, 0.25, TAU), True, marks=pytest.mark.slow),
        ("sgd", partial(lgv.sgd, 0.25, SIGMA, sampler=lambda *args: 0.98 * _samplers.normal(*args)), True),
    ],
    ids=["right", "temperature", "friction", "noise of Euler–Maruyama", "noise of 0.98"],
)
def test_wrong_schemes_are_found(name, make, found):
    p = guard.quadratic(name, make=make)(KEY, steps=200, chains=32, entries=64)
    assert (smallest(p) < THRESHOLD) is found


def test_a_wrong_temperature_of_the_double_well_is_found():
    kwargs = dict(steps=200, burn_in=200, chains=32, entries=128)
    make = partial(lgv.baoab, 0.2, TAU, 1.0)
    for tau, found in ((TAU, False), (0.95 * TAU, True)):
        law = partial(guard_laws.baoab_on_well, 0.2, tau, 1.0)
        assert (smallest(guard.on_a_double_well(KEY, make, law, **kwargs)) < THRESHOLD) is found


# p-values of right versions.

REPLICATES = 200


def smaller_than_uniform(p_values, alternative="greater"):
    """For each name, whether p-values of replicates are small more often than they say."""
    replicates = {name: np.array([np.ravel(p[name])[0] for p in p_values]) for name in p_values[0]}
    return {name: stats.kstest(p, "uniform", alternative=alternative).pvalue for name, p in replicates.items()}


@pytest.mark.parametrize("law", ["normal", "rademacher"])
def test_p_values_of_independent_draws(law):
    """No more often small than they say; uniform, where they are neither discrete nor the smallest of several."""
    keys = jax.random.split(KEY, REPLICATES * 4)
    xi = np.asarray(guard.noise(keys, 16, jnp.zeros(64), law)).reshape(REPLICATES, 4, 16, 64)
    p_values = [guard.independent_draws(x, law) for x in xi]
    assert smallest(smaller_than_uniform(p_values)) > 0.01
    uniform = {"Kolmogorov–Smirnov", "moment 3", "moment 4", "patterns"}
    p_values = [{name: p[name] for name in uniform & p.keys()} for p in p_values]
    assert smallest(smaller_than_uniform(p_values, "two-sided")) > 0.01
    too_small = [{name: 2 / 3 * p for name, p in values.items()} for values in p_values]
    assert smallest(smaller_than_uniform(too_small)) < THRESHOLD


def test_p_values_of_chains():
    """Student's t of autocorrelated chains, whose averages over time are no more than one draw each."""
    make, law = guard.QUADRATICS["BAOAB"]
    exact = {"theta": [law(a) for a in guard.CURVATURES]}
    chains = REPLICATES * 16
    averages, theta = guard.chains_on_quadratics(KEY, make, exact, steps=50, chains=chains, entries=16)
    one = lambda tree, i: jax.tree.map(lambda x: x[16 * i : 16 * (i + 1)], tree)
    p_values = [guard.linear(one(averages, i), one(theta, i), exact, True) for i in range(REPLICATES)]
    assert smallest(smaller_than_uniform(p_values, "two-sided")) > 0.01


# The laws.


def test_laws_in_closed_form():
    tau, a, h = 0.3, 2.0, 0.4
    assert np.isclose(guard_laws.sgd(a, h, 0.7)["square"], 0.7**2 / (a * (2 - h * a)))
    assert np.isclose(guard_laws.sgd(a, h, 0.7, p=1.5)["square"], 0.7**2 / (a * (2 - 1.5 * h * a)))
    assert np.isclose(guard_laws.euler(a, h, tau)["square"], tau / (a * (1 - h * a / 2)))
    assert np.isclose(guard_laws.leimkuhler_matthews(a, h, tau)["square"], tau / a)
    baoab = guard_laws.baoab(a, h, tau, friction=0.8)
    assert np.allclose([a * baoab["square"], baoab["kinetic"]], tau)
    # Limits of small steps: momentum cools by 1 − β, an average does not.
    small = {"a": a, "gamma": 1e-5, "sigma": np.sqrt(2 * tau)}
    for nesterov in (False, True):
        law = guard_laws.momentum_sgd(**small, beta=0.9, nesterov=nesterov)
        assert np.isclose(a * law["square"], (1 - 0.9) * tau, rtol=2e-3)
    assert np.isclose(a * guard_laws.averaged_sgd(**small, p=2.0, b=0.9)["square"], tau, rtol=2e-3)
    adaptive = guard_laws.adaptive_langevin(a, 1e-2, np.sqrt(2 * 0.8 * tau), xi=0.8)
    assert np.allclose([a * adaptive["square"], adaptive["kinetic"]], tau, rtol=1e-3)


def test_the_law_of_the_double_well_is_that_of_gibbs_to_order_two():
    """At the step of the guard the bias of BAOAB is 2.4e-4 of E θ² and below, that of Leimkuhler–Matthews 3e-6."""
    gibbs = guard_laws.gibbs_on_well(TAU)
    square = lambda law: law.mean(np.square) / gibbs.mean(np.square) - 1
    biases = [square(guard_laws.baoab_on_well(h, TAU, 1.0)) for h in (0.1, 0.2)]
    assert abs(biases[0]) < 2.5e-4
    assert np.isclose(biases[1] / biases[0], 4, rtol=0.02)
    assert abs(square(guard_laws.leimkuhler_matthews_on_well(0.02, TAU))) < 4e-6
    assert np.isclose(gibbs.cdf(0.0), 0.5)
