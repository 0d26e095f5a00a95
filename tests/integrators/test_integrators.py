"""The integrators sample what they claim to: invariant measures, orders of convergence, temperatures, exact limits.

A statistical check measures averages over independent chains, and compares them with a law that is known exactly, in
standard errors of the spread between the chains. The same functions measure deliberately wrong versions, and must
reject them. Deterministic limits are compared with plain NumPy.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import solve_discrete_lyapunov
from scipy.optimize import brentq

import langevin_optax as lgv
from langevin_optax.integrators import _adaptive_langevin, _baoab, _common, _overdamped
from tests.cases import bits, by_default, gradients_like, loss, params_like, run

LIMIT = 5  # standard errors
ENTRIES = 500  # of a chain: as many copies of a separable problem, and degrees of freedom of a thermostat


class Estimate(NamedTuple):
    """A mean over all chains, its standard error, and the number of independent draws that it is worth."""

    mean: float
    error: float
    draws: float

    def z(self, exact):
        """The distance from ``exact`` in standard errors, of an estimate that could tell the difference."""
        assert self.draws > 50_000
        return (self.mean - exact) / self.error


def sample(tx, problem, start, observe, **kwargs):
    """Averages of ``observe(theta, state)`` over time, entries and chains with keys of their own, as estimates."""
    return samples(lambda _: tx, [0.0], problem, start, observe, **kwargs)[0]


def samples(make, values, problem, start, observe, steps=500, burn_in=150, chains=64, gradient_noise=None):
    """``sample`` of ``make(value)`` for each of the values, compiled once."""

    def chain(key, value):
        tx = make(value)
        key, key_of_gradients = jax.random.split(key)

        def step(carry, count):
            theta, state = carry
            g = jax.grad(problem)(theta)
            if gradient_noise is not None:
                noise = lgv.noise_like(key_of_gradients, count, g)
                g = jax.tree.map(lambda g, r: g + gradient_noise(value) * r, g, noise)
            updates, state = tx.update(g, state, theta)
            theta = optax.apply_updates(theta, updates)
            outputs = observe(theta, state)
            return (theta, state), jax.tree.map(lambda f: (jnp.mean(f), jnp.mean(f**2)), outputs)

        carry = start, optax.tree.set(tx.init(start), key=key)
        return jax.lax.scan(step, carry, jnp.arange(burn_in + steps))[1]

    def estimate(trace):
        f, square = (np.asarray(x, np.float64)[:, burn_in:] for x in trace)
        error = f.mean(1).std(ddof=1) / np.sqrt(chains)
        return Estimate(f.mean(), error, (square.mean() - f.mean() ** 2) / error**2)

    keys = jax.random.split(jax.random.key(5), chains)
    compiled = jax.jit(jax.vmap(chain, in_axes=(0, None)))
    return [{name: estimate(trace) for name, trace in compiled(keys, value).items()} for value in values]


def temperatures(tx, a, **kwargs):
    """a E θ² and the kinetic temperature, if there is one, on a quadratic of curvature a: both τ in equilibrium."""
    return temperatures_of(lambda _: tx, [0.0], a, **kwargs)[0]


def temperatures_of(make, values, a, **kwargs):
    """``temperatures`` of ``make(value)`` for each of the values."""

    def observe(theta, state):
        if isinstance(state, lgv.LangevinState):
            return {"position": a * theta**2}
        return {"position": a * theta**2, "kinetic": lgv.kinetic_temperature(state)}

    problem = lambda theta: a / 2 * jnp.sum(theta**2)
    # One kinetic temperature is worth ENTRIES draws of p².
    return [
        {name: x._replace(draws=x.draws * ENTRIES) if name == "kinetic" else x for name, x in measured.items()}
        for measured in samples(make, values, problem, jnp.zeros(ENTRIES), observe, **kwargs)
    ]


def quadratic(tx, a, tau, **kwargs):
    """z-scores of both temperatures against τ."""
    return {name: measured.z(tau) for name, measured in temperatures(tx, a, **kwargs).items()}


def leimkuhler_matthews(h, tau, key=0):
    return lgv.overdamped_langevin(h, tau, key, scheme="leimkuhler_matthews")


# Quadratics: exact laws at any step size.

A, TAU = 4.0, 0.5
STIFFNESS = np.array([0.2, 1.0, 1.9])  # h √a, or h a, of which 2 is too much


@pytest.mark.usefixtures("optimized")
def test_baoab_is_exact_on_a_quadratic_up_to_the_stability_limit():
    """Position and kinetic temperature are τ for all h √a < 2."""
    step_sizes = STIFFNESS / np.sqrt(A)
    for measured in temperatures_of(lambda h: lgv.baoab(h, TAU, 1.0, 0), step_sizes, A):
        assert abs(measured["position"].z(TAU)) < LIMIT
        assert abs(measured["kinetic"].z(TAU)) < LIMIT


@pytest.mark.usefixtures("optimized")
def test_leimkuhler_matthews_is_exact_and_euler_is_not():
    """Variances τ/a and τ/(a (1 − h a/2)), for all h a < 2."""
    step_sizes = STIFFNESS / A
    for measured in temperatures_of(lambda h: leimkuhler_matthews(h, TAU), step_sizes, A):
        assert abs(measured["position"].z(TAU)) < LIMIT
    euler = temperatures_of(lambda h: lgv.overdamped_langevin(h, TAU, 0), step_sizes, A)
    for h, measured in zip(step_sizes, euler, strict=True):
        assert abs(measured["position"].z(TAU / (1 - h * A / 2))) < LIMIT
        assert measured["position"].z(TAU) > 10 * LIMIT


@pytest.mark.usefixtures("optimized")
def test_the_noise_of_leimkuhler_matthews_is_shared_by_neighbours():
    """Without a gradient an increment √(2τh) (ξ_n + ξ_{n+1})/2 has variance τh, and correlation ½ with the next."""
    h, n = 0.3, 50_000
    x = np.stack(free_updates(leimkuhler_matthews(h, TAU), n, steps=4)) / np.sqrt(TAU * h)
    assert abs((x**2).mean() - 1) < LIMIT * np.sqrt(3 / x.size)
    for lag, correlation in [(1, 0.5), (2, 0.0), (3, 0.0)]:
        products = (x[lag:] * x[:-lag]).mean(0)
        assert abs(products.mean() - correlation) < LIMIT * products.std() / np.sqrt(n), lag


def free_updates(tx, entries, steps):
    """The updates of some steps without a force."""
    zeros = jnp.zeros(entries)

    def step(state, _):
        updates, state = tx.update(zeros, state)
        return state, updates

    return np.asarray(jax.lax.scan(step, tx.init(zeros), length=steps)[1], np.float64)


# Other targets, against numerical integration.


def well(theta):
    """Two wells, at ±1."""
    return (theta**2 - 1) ** 2


def cross(x, y):
    """Strongly coupled: a cross with four arms, of which two are preferred."""
    return 2 * (x * y) ** 2 + (x**2 + y**2 + x * y) / 2


def expectations(problem, tau, functions, dimensions=1):
    """E f under exp(−L/τ), on a dense grid (exact to rounding for smooth densities that vanish at the ends)."""
    x = np.linspace(-12, 12, 1601)
    grid = np.meshgrid(*dimensions * [x], indexing="ij")
    weights = np.exp(-problem(*grid) / tau)
    return {name: (weights * f(*grid)).sum() / weights.sum() for name, f in functions.items()}


# Biases are C h² for all three. With C measured at greater step sizes, they are below the standard errors of all of the
# moments (for (xy)² under adaptive Langevin nine tenths of one, for all others half or less).
SAMPLERS = {
    "baoab": (lambda tau: lgv.baoab(0.05, tau, 1.0, 0), dict(steps=700, burn_in=300)),
    "leimkuhler_matthews": (lambda tau: leimkuhler_matthews(0.02, tau), dict(steps=700, burn_in=300)),
    "adaptive_langevin": (
        lambda tau: lgv.adaptive_langevin(0.05, tau, 1.0, 0.01, 0, initial_thermostat=1.0),
        dict(steps=700, burn_in=300),
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("integrator", SAMPLERS)
def test_moments_of_a_double_well(integrator):
    tau = 0.5  # the barrier is 2τ
    moments = {"mean": lambda x: x, "square": lambda x: x**2, "fourth": lambda x: x**4}
    exact = expectations(well, tau, moments)
    make, kwargs = SAMPLERS[integrator]
    measured = sample(
        make(tau),
        lambda theta: well(theta).sum(),
        jnp.resize(jnp.array([-1.0, 1.0]), ENTRIES),
        lambda theta, state: {name: f(theta) for name, f in moments.items()},
        **kwargs,
    )
    z = {name: measured[name].z(exact[name]) for name in moments}
    assert all(abs(z) < LIMIT for z in z.values()), z
    # A fifth of the temperature would show, and so would a single well.
    colder = expectations(well, 0.8 * tau, moments)
    single = expectations(lambda x: well(x) + 10 * (x < 0), tau, {"mean": lambda x: x})
    assert measured["fourth"].z(colder["fourth"]) > LIMIT
    assert measured["mean"].z(single["mean"]) < -10 * LIMIT


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("integrator", by_default(["baoab"], SAMPLERS))
def test_moments_of_two_coupled_variables(integrator):
    tau = 0.5  # cold enough for no step to be unstable in the narrow ends of the arms
    moments = {"square": lambda x, y: x**2, "fourth": lambda x, y: y**4, "xy": lambda x, y: x * y}
    moments["coupling"] = lambda x, y: (x * y) ** 2
    exact = expectations(cross, tau, moments, dimensions=2)
    make, kwargs = SAMPLERS[integrator]
    measured = sample(
        make(tau),
        lambda theta: cross(**theta).sum(),
        {"x": jnp.zeros(ENTRIES // 2), "y": jnp.zeros(ENTRIES // 2)},
        lambda theta, state: {name: f(**theta) for name, f in moments.items()},
        **kwargs,
    )
    z = {name: measured[name].z(exact[name]) for name in moments}
    assert all(abs(z) < LIMIT for z in z.values()), z
    # Neither do independent variables pass, nor the Gaussian without the coupling.
    assert exact["xy"] < -0.02
    uncoupled = expectations(lambda x, y: (x**2 + y**2 + x * y) / 2, tau, moments, dimensions=2)
    assert all(abs(measured[name].z(uncoupled[name])) > 10 * LIMIT for name in moments)


# Orders of convergence of the invariant measure.


def bumpy(theta):
    """Curvature between −1 and 3."""
    return theta**2 / 2 + jnp.cos(2 * theta) / 2


def order_of_bias(make, step_sizes, **kwargs):
    """The slope of log |bias| over log h, from weighted least squares, and its standard error."""
    # cos 3θ + 2 cos θ, whose bias is large where the terms of higher order are still small.
    f = lambda theta: (4 * jnp.cos(theta) ** 2 - 1) * jnp.cos(theta)
    exact = expectations(bumpy, 1.0, {"f": f})["f"]
    problem, observe = lambda theta: bumpy(theta).sum(), lambda theta, _: {"f": f(theta)}
    measured = [m["f"] for m in samples(make, step_sizes, problem, jnp.zeros(ENTRIES), observe, **kwargs)]
    assert all(abs(m.z(exact)) > LIMIT for m in measured)  # there is a bias to measure
    biases = np.array([abs(m.mean - exact) for m in measured])
    y, errors = np.log(biases), np.array([m.error for m in measured]) / biases
    weights = 1 / np.square(errors)
    x = np.log(step_sizes) - np.average(np.log(step_sizes), weights=weights)
    return np.sum(weights * x * y) / np.sum(weights * x**2), np.sum(weights * x**2) ** -0.5


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("steps", [600, pytest.param(4000, marks=pytest.mark.slow)])
def test_orders_of_convergence_of_the_invariant_measure(steps):
    """1 for Euler–Maruyama; 2 for Leimkuhler–Matthews and BAOAB. (The ends of the range are enough for short runs.)"""
    some = slice(None, None, 2 if steps < 1000 else 1)
    euler, error = order_of_bias(lambda h: lgv.overdamped_langevin(h, 1.0, 0), [0.1, 0.06, 0.035][some], steps=steps)
    assert abs(euler - 1) < LIMIT * error + 0.15
    for make, step_sizes in [
        (lambda h: leimkuhler_matthews(h, 1.0), [0.4, 0.3, 0.2]),
        (lambda h: lgv.baoab(h, 1.0, 1.0, 0), [0.6, 0.47, 0.35]),
    ]:
        order, own_error = order_of_bias(make, step_sizes[some], steps=steps, burn_in=100)
        assert abs(order - 2) < LIMIT * own_error + 0.15
        assert order - euler > LIMIT * np.hypot(error, own_error) + 0.15


# Adaptive Langevin: its thermostat.


def adaptive(h=0.1, tau=TAU, sigma=1.0, coupling=0.01, key=0, **kwargs):
    return lgv.adaptive_langevin(h, tau, sigma, coupling, key, **kwargs)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_adaptive_langevin_holds_its_temperature_under_gradient_noise():
    """τ at E whatever the noise; at the positions up to terms of the order of (h ξ)²."""
    h, a, sizes = 0.05, 1.0, [1.0, 3.0, 6.0]
    kwargs = dict(gradient_noise=lambda size: size, steps=600, burn_in=400, chains=40)
    for size, measured in zip(sizes, temperatures_of(lambda _: adaptive(h), sizes, a, **kwargs), strict=True):
        assert abs(measured["kinetic"].z(TAU)) < LIMIT
        xi = (1 + h * size**2) / (2 * TAU)  # the friction that balances both noises
        position = measured["position"]
        assert abs(position.mean - TAU) < LIMIT * position.error + (h * xi) ** 2 * TAU
    # Constant friction does not know of the noise, and heats up by h s²/2γ, more or less.
    hot = temperatures_of(lambda _: lgv.baoab(h, TAU, 1.0, 0), sizes, a, **kwargs)
    for size, measured in zip(sizes, hot, strict=True):
        for name in ("kinetic", "position"):
            assert measured[name].z(TAU) > 3 * LIMIT
            assert measured[name].mean - TAU > 0.8 * h * size**2 / 2


@pytest.mark.usefixtures("optimized")
def test_the_thermostat_balances_at_half_of_sigma_squared_over_tau():
    """Free momenta balance where e^(−2hξ) = (τ − s)/(τ + s), s = σ²h/2: at σ²/2τ up to a factor of 1 + O(h²)."""
    h, sigmas = 0.05, [0.5, 1.0]
    observe = lambda _, state: {"xi": state.thermostat}
    free = lambda theta: jnp.zeros(())
    measured = samples(lambda sigma: adaptive(h, sigma=sigma), sigmas, free, jnp.zeros(ENTRIES), observe, 1500, 500)
    for sigma, xi in zip(sigmas, [m["xi"] for m in measured], strict=True):
        balance = sigma**2 / (2 * TAU)
        tolerance = LIMIT * xi.error + h**2 * balance
        assert abs(xi.mean - balance) < tolerance < 0.02 * balance


def test_a_thermostat_counts_the_entries_that_a_mask_leaves_to_it():
    """A masked leaf changes nothing, to the bit; N is the rest, so that ‖p‖²/N is held at τ."""
    params = {"seen": jnp.ones((20, 30)), "hidden": jnp.full(1000, 7.0)}
    alone = {"seen": params["seen"]}
    masked = optax.masked(adaptive(key=3), {"seen": True, "hidden": False})

    def trajectory(tx, params, steps=2000):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.tree.map(lambda x: 0.7 * x, params), state, params)
            inner = state.inner_state if isinstance(state, optax.MaskedState) else state
            theta = params["seen"] + updates["seen"]
            outputs = inner.thermostat, inner.kinetic, theta
            return ({**params, "seen": theta}, state), outputs

        return jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[1])((params, tx.init(params)))

    both, one = trajectory(masked, params), trajectory(adaptive(key=3), alone)
    assert bits(both) == bits(one)
    xi, kinetic, _ = (np.asarray(x, np.float64) for x in both)
    # ξ moves by h ε (‖p‖² − Nτ), which fixes N.
    entries = (np.diff(xi) / (0.1 * 0.01)) / (kinetic[1:] - TAU)
    assert abs(np.median(entries) - params["seen"].size) < 0.5
    # The mean over T steps is τ plus the change of ξ over h ε N T.
    change = (xi[-1] - xi[499]) / (0.1 * 0.01 * 600 * 1500)
    assert abs(kinetic[500:].mean() - TAU - change) < 1e-5
    assert abs(change) < 2e-3 * TAU


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_one_thermostat_for_the_whole_tree():
    """Two leaves of different noise share one ξ: the mean over both is τ, the leaves themselves are not."""
    size = {"quiet": 0.0, "loud": 4.0}

    def step(carry, count):
        theta, state = carry
        noise = lgv.noise_like(8, count, theta)
        g = jax.tree.map(lambda x, s, r: x + s * r, theta, size, noise)
        updates, state = tx.update(g, state, theta)
        parts = jax.tree.map(lambda p: jnp.mean(p**2), state.momentum)
        return (optax.apply_updates(theta, updates), state), (state.kinetic, parts)

    tx, h = adaptive(0.05), 0.05
    theta = {"quiet": jnp.zeros(2000), "loud": jnp.zeros(2000)}
    kinetic, parts = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(4000))[1])((theta, tx.init(theta)))
    assert tx.init(theta).thermostat.shape == ()
    assert abs(np.asarray(kinetic[1000:], np.float64).mean() - TAU) < 2e-3 * TAU
    # In balance ξ is near (σ² + h s²/2)/2τ, a compromise.
    xi = (1 + h * 4.0**2 / 2) / (2 * TAU)
    assert abs(np.mean(parts["quiet"][1000:]) / (1 / (2 * xi)) - 1) < 0.1
    assert np.mean(parts["loud"][1000:]) > 1.5 * np.mean(parts["quiet"][1000:])


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_adaptive_langevin_without_coupling_is_langevin_dynamics():
    """Constant friction γ and σ = √(2γτ): temperatures τ up to O(h²), and the exact ones of the linear scheme."""
    h, gamma, a = 0.2, 1.5, 2.0
    sigma = np.sqrt(2 * gamma * TAU)
    position, kinetic = linear_temperatures(h, gamma, sigma, a)
    assert abs(position / TAU - 1) < h**2
    assert abs(kinetic / TAU - 1) < h**2
    measured = temperatures(adaptive(h, sigma=sigma, coupling=0.0, initial_thermostat=gamma), a)
    assert abs(measured["position"].z(position)) < LIMIT
    assert abs(measured["kinetic"].z(kinetic)) < LIMIT
    assert np.all(free_state(adaptive(coupling=0, initial_thermostat=gamma)).thermostat == np.float32(gamma))


def test_adaptive_langevin_is_of_second_order_for_exact_gradients():
    """The exact position temperature of the linear scheme, with ξ where the kinetic one is τ: its bias falls as h²."""

    def bias(h):
        xi = brentq(lambda xi: linear_temperatures(h, xi, 1.0, 1.0)[1] - 1.0, 1e-4, 100.0)
        return linear_temperatures(h, xi, 1.0, 1.0)[0] - 1.0

    biases = [bias(h) for h in (0.4, 0.2, 0.1, 0.05)]
    np.testing.assert_allclose(np.log2(np.divide(biases[:-1], biases[1:])), 2, atol=0.05)


def linear_temperatures(h, xi, sigma, a):
    """Position and kinetic temperature of the linear scheme of constant ξ on a quadratic of curvature a."""
    kick, drift = np.array([[1.0, 0.0], [-h * a, 1.0]]), np.array([[1.0, h / 2], [0.0, 1.0]])
    damp, noise = np.diag([1.0, np.exp(-h * xi / 2)]), np.diag([0.0, sigma**2 * h / 2])
    before, after = damp @ drift @ kick, drift @ damp
    covariance = solve_discrete_lyapunov(after @ before, after @ (2 * noise) @ after.T)
    return a * covariance[0, 0], (before @ covariance @ before.T + noise)[1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        # h √(2εNτ) = 0.25 √(2 · 0.1 · 400) = 2.24, and 1/(2Nτh²) = 0.02.
        (dict(temperature=1.0, sigma=0.5, coupling=0.1), r"√\(2εNτ\) = 2\.24, N = 400 entries.* at most .* 0\.02\."),
        pytest.param(
            dict(temperature=1e-4, sigma=0.05, coupling=0.1),
            r"σ²h/2 = 0\.00031. and τ = 0\.0001 does not sample",
            marks=pytest.mark.slow,
        ),
        (dict(temperature=0.0, sigma=0.05, coupling=0.1), r"σ²h/2 = 0\.00031. and τ = 0 does not sample"),
    ],
)
def test_thermostats_that_find_no_balance_are_warned_of(settings, message):
    """And rightly: on a quadratic their positions are nowhere near τ."""
    params = jnp.zeros(400)
    tx = lgv.adaptive_langevin(0.25, **settings, key=0)
    with pytest.warns(UserWarning, match=message):
        state = tx.init(params)

    def step(carry, _):
        theta, state = carry
        updates, state = tx.update(theta, state)
        return (theta + updates, state), jnp.mean(theta**2)

    variances = jax.jit(lambda carry: jax.lax.scan(step, carry, length=20_000)[1])((params, state))
    assert variances[10_000:].mean() < 0.5 * settings["temperature"] or settings["temperature"] == 0
    scheduled = {name: optax.constant_schedule(value) for name, value in settings.items()}
    lgv.adaptive_langevin(0.25, **scheduled, key=0).init(params)  # not known: no warning
    lgv.adaptive_langevin(0.25, 1e-4, 0.01, 0.1, key=0).init(jnp.zeros(10_000))  # within the limits


def free_state(tx, steps=3):
    state = tx.init(jnp.zeros(4))
    for _ in range(steps):
        _, state = tx.update(jnp.ones(4), state)
    return state


def momentum_increments(steps=4, sigma=0.7, h=0.2, entries=20_000):
    """z-scores of free momenta: variance σ²h of an increment, no correlation of the increments of two steps."""
    tx = adaptive(h, sigma=sigma, coupling=0, initial_thermostat=0.0)
    state = tx.init(jnp.zeros(entries))
    momenta = [state.momentum]
    for _ in range(steps):
        _, state = tx.update(jnp.zeros(entries), state)
        momenta.append(state.momentum)
    x = np.diff(np.asarray(momenta, np.float64), axis=0) / np.sqrt(sigma**2 * h)
    z = {"variance": ((x**2).mean() - 1) / np.sqrt(2 / x.size)}
    for i in range(steps):
        z |= {f"steps {i}, {j}": (x[i] * x[j]).mean() * np.sqrt(entries) for j in range(i)}
    return z


def test_the_two_draws_of_a_step_repeat_nothing(monkeypatch):
    z = momentum_increments()
    assert all(abs(z) < LIMIT for z in z.values()), z
    draw = _common.draw
    # Wrong: one R for both draws of a step.
    monkeypatch.setattr(_common, "draw", lambda key, number, *args: draw(key, number // 2, *args))
    assert momentum_increments()["variance"] > 10 * LIMIT
    # Wrong: the second draw is the first of the next step.
    neighbour = lambda key, number, *args: draw(key, number // 2 + number % 2, *args)
    monkeypatch.setattr(_common, "draw", neighbour)
    z = momentum_increments()
    assert abs(z["variance"]) < LIMIT
    assert min(z["steps 1, 0"], z["steps 2, 1"]) > 10 * LIMIT


# Negative controls: wrong pieces, measured by the functions above.

PIECES = {
    "baoab": (_baoab, lambda: lgv.baoab(0.2, TAU, 1.0, 0), {}),
    "leimkuhler_matthews": (_overdamped, lambda: leimkuhler_matthews(0.1, TAU), {}),
    "adaptive_langevin": (_adaptive_langevin, lambda: adaptive(0.05, initial_thermostat=1.5), {"burn_in": 400}),
}


def temperature_for_its_root(O):  # noqa: E741
    return lambda p, R, friction, tau, h: O(p, R, friction, tau**2, h)


def norm_for_its_square(E):
    def wrong(xi, p, tau, coupling, h):
        norm = jnp.sqrt(_adaptive_langevin.mean_square(p) * ENTRIES)
        return xi + h * coupling * (norm - ENTRIES * tau)

    return wrong


WRONG = {
    "baoab, τ for √τ": ("baoab", "O", temperature_for_its_root, ("position", "kinetic")),
    "baoab, half a kick": ("baoab", "B", lambda B: lambda p, g, h: B(p, g, h / 2), ("position",)),
    "baoab, half a drift": ("baoab", "A", lambda A: lambda x, p, h: A(x, p, h / 2), ("position",)),
    "lm, half a kick": ("leimkuhler_matthews", "B", lambda B: lambda p, g, h: B(p, g, h / 2), ("position",)),
    "lm, τ for 2τ": (
        "leimkuhler_matthews",
        "D",
        lambda D: lambda p, R, sigma, h: D(p, R, sigma / 2**0.5, h),
        ("position",),
    ),
    "adaptive, ‖p‖ for ‖p‖²": ("adaptive_langevin", "E", norm_for_its_square, ("position", "kinetic")),
    "adaptive, no friction": ("adaptive_langevin", "C", lambda C: lambda p, xi, h: p, ("position", "kinetic")),
    "adaptive, no thermostat": ("adaptive_langevin", "E", lambda E: lambda xi, *rest: xi, ("position", "kinetic")),
    "adaptive, half a kick": ("adaptive_langevin", "B", lambda B: lambda p, g, h: B(p, g, h / 2), ("position",)),
}
OFTEN_WRONG = ["baoab, τ for √τ", "lm, τ for 2τ", "adaptive, ‖p‖ for ‖p‖²"]  # one of each; all with -m slow


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("integrator", PIECES)
def test_right_pieces_give_the_temperature(integrator):
    _, make, kwargs = PIECES[integrator]
    # Exact but for the positions of adaptive Langevin, whose bias of τ h²/4 or so is below a standard error.
    z = quadratic(make(), 1.0, TAU, **kwargs)
    assert all(abs(z) < LIMIT for z in z.values()), z


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("version", by_default(OFTEN_WRONG, WRONG))
def test_wrong_pieces_are_rejected(version, monkeypatch):
    integrator, name, change, rejected = WRONG[version]
    module, make, kwargs = PIECES[integrator]
    monkeypatch.setattr(module, name, change(getattr(module, name)))
    z = quadratic(make(), 1.0, TAU, **kwargs)
    assert all(abs(z[name]) > 4 * LIMIT for name in rejected), z


# References in NumPy, float64, with the noise of `noise_like`.


def schedule(value):
    return value if callable(value) else lambda count: value


def noises(key, number, theta):
    return np.asarray(lgv.noise_like(key, number, jnp.asarray(theta, jnp.float32)), np.float64)


def reference_baoab(theta, gradient, steps, h, tau, gamma, key=0):
    h, tau, gamma = map(schedule, (h, tau, gamma))
    theta, p, before, thetas = np.asarray(theta, np.float64), 0.0, 0.0, []
    for n in range(steps):
        c = np.exp(-gamma(n) * h(n))
        p = p - (before + h(n)) / 2 * gradient(theta)
        middle = theta + h(n) / 2 * p
        p = c * p + np.sqrt((1 - c**2) * tau(n)) * noises(key, n, theta)
        theta = middle + h(n) / 2 * p
        before = h(n)
        thetas.append(theta)
    return thetas


def reference_adaptive(theta, gradient, steps, h, tau, sigma, coupling, xi, key=0):
    h, tau, sigma, coupling = map(schedule, (h, tau, sigma, coupling))
    theta, p, before, thetas = np.asarray(theta, np.float64), 0.0, 0.0, []
    for n in range(steps):
        p = p - (before + h(n)) / 2 * gradient(theta)
        middle = theta + h(n) / 2 * p
        p = np.exp(-h(n) / 2 * xi) * p + sigma(n) * np.sqrt(h(n) / 2) * noises(key, 2 * n, theta)
        xi = xi + h(n) * coupling(n) * (np.sum(p**2) - p.size * tau(n))
        p = np.exp(-h(n) / 2 * xi) * (p + sigma(n) * np.sqrt(h(n) / 2) * noises(key, 2 * n + 1, theta))
        theta = middle + h(n) / 2 * p
        before = h(n)
        thetas.append(theta)
    return thetas


def reference_overdamped(theta, gradient, steps, h, tau, key=0, shared=False):
    h, tau = map(schedule, (h, tau))
    theta, thetas = np.asarray(theta, np.float64), []
    for n in range(steps):
        R = noises(key, n, theta)
        R = (R + noises(key, n + 1, theta)) / 2 if shared else R
        theta = theta - h(n) * gradient(theta) + np.sqrt(2 * tau(n) * h(n)) * R
        thetas.append(theta)
    return thetas


def gradient(theta):
    """Of the loss of the other tests."""
    return 3 * np.cos(3 * theta) + 0.2 * theta


START = jnp.linspace(-2.0, 2.0, 7)


def positions(tx, steps, start=START, problem=loss, state=None):
    """θ after each step."""

    def step(carry, _):
        theta, state = carry
        updates, state = tx.update(jax.grad(problem)(theta), state, theta)
        return (theta + updates, state), theta + updates

    state = tx.init(start) if state is None else state
    (_, state), thetas = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))((start, state))
    return np.asarray(thetas), state


# One schedule for every scalar, no two of them alike.
H = lambda count: 0.05 + 0.02 * count - 0.002 * count**2
T = lambda count: 0.3 / (1 + count)
G = lambda count: 0.5 + 0.25 * count
S = lambda count: 0.2 + 0.1 * count
C = lambda count: 0.1 / (1 + count)
SCHEDULED = {
    "overdamped_langevin": (lgv.overdamped_langevin(H, T, 0), reference_overdamped, (H, T), {}),
    "leimkuhler_matthews": (leimkuhler_matthews(H, T), reference_overdamped, (H, T), {"shared": True}),
    "baoab": (lgv.baoab(H, T, G, 0), reference_baoab, (H, T, G), {}),
    "leapfrog": (lgv.baoab(H, 0, 0, 0), reference_baoab, (H, 0, 0), {}),
    "adaptive_langevin": (
        lgv.adaptive_langevin(H, T, S, C, 0, initial_thermostat=0.4),
        reference_adaptive,
        (H, T, S, C),
        {"xi": 0.4},
    ),
}


@pytest.mark.parametrize("integrator", SCHEDULED)
def test_schedules_are_read_before_the_step_and_kicks_last_half_of_two_steps(integrator):
    """Step for step the reference, whose kicks last (h_{n−1} + h_n)/2, h₀/2 at first."""
    tx, reference, scalars, kwargs = SCHEDULED[integrator]
    actual, _ = positions(tx, 8)
    expected = reference(START, gradient, 8, *scalars, **kwargs)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)
    # Schedules read after the step, or the scalars of the start, are far off.
    late = [(lambda count, s=s: s(count + 1)) if callable(s) else s for s in scalars]
    frozen = [s(0) if callable(s) else s for s in scalars]
    for wrong in (late, frozen):
        assert np.abs(actual - reference(START, gradient, 8, *wrong, **kwargs)).max() > 1e-2


def test_a_kick_of_one_step_alone_is_rejected(monkeypatch):
    """The control for the kicks: h_n for (h_{n−1} + h_n)/2."""
    calls = []

    def wrong(p, g, h):
        calls.append(h)
        return jax.tree.map(lambda p, g: p - jnp.float32(H(len(calls) - 1)) * g, p, g)

    monkeypatch.setattr(_baoab, "B", wrong)
    tx, theta = lgv.baoab(H, 0, 0, 0), START
    state = tx.init(theta)
    for _ in range(4):
        updates, state = tx.update(jax.grad(loss)(theta), state)
        theta = theta + updates
    assert np.abs(theta - reference_baoab(START, gradient, 4, H, 0, 0)[-1]).max() > 1e-3


# Temperature 0.


def test_baoab_at_temperature_zero_is_sgd_with_momentum():
    """optax.sgd(h² (1 + c)/2, momentum=c), c = e^(−γh), whose first gradient counts half."""
    h, friction, params = 0.2, 1.5, params_like()
    c = np.exp(-friction * h)
    ours, theirs = lgv.baoab(h, 0.0, friction, 0), optax.sgd(h**2 * (1 + c) / 2, momentum=c)
    state, their_state = ours.init(params), theirs.init(params)
    for count, g in enumerate(gradients_like(params, 20)):
        updates, state = ours.update(g, state)
        expected, their_state = theirs.update(jax.tree.map(lambda g: g / 2, g) if count == 0 else g, their_state)
        jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-4, atol=1e-7), updates, expected)


def test_baoab_at_temperature_zero_is_damped_momentum():
    """The deterministic half kick, kick, kick, ... of NumPy, whatever the key."""
    h, gamma = 0.1, 0.8
    actual, _ = positions(lgv.baoab(h, 0.0, gamma, 1), 20)
    np.testing.assert_allclose(actual, reference_baoab(START, gradient, 20, h, 0.0, gamma), rtol=2e-5, atol=2e-5)
    assert bits(actual) == bits(positions(lgv.baoab(h, 0.0, gamma, 2), 20)[0])
    warm = lambda key: bits(positions(lgv.baoab(h, 0.1, gamma, key), 20)[0])
    assert bits(actual) != warm(1) != warm(2)


NOISELESS = {
    "euler": lambda tau, key: lgv.overdamped_langevin(0.1, tau, key),
    "leimkuhler_matthews": lambda tau, key: leimkuhler_matthews(0.1, tau, key),
    "baoab": lambda tau, key: lgv.baoab(0.1, tau, 0.8, key),
    "leapfrog": lambda tau, key: lgv.baoab(0.1, 0.5, tau, key),  # without friction there is no noise either
    "nose_hoover": lambda tau, key: lgv.adaptive_langevin(0.1, 0.5, tau, 0.1, key),
}


@pytest.mark.parametrize("name", by_default(["baoab", "nose_hoover"], NOISELESS))
def test_a_static_zero_draws_nothing_and_a_traced_one_is_the_same(name):
    params, make = params_like(), NOISELESS[name]
    jaxpr = lambda tx: str(jax.make_jaxpr(tx.update)(params, tx.init(params)))
    assert "random" not in jaxpr(make(0, 0))
    assert "random" not in jaxpr(make(0.0, 0))
    assert "random_pairs" not in jaxpr(make(jnp.zeros(()), 0))  # the key may move
    assert "random_pairs" in jaxpr(make(0.1, 0))
    assert "random_pairs" in jaxpr(make(lambda count: 0.0, 0))
    static, scheduled = (run(make(value, 0), START, 30)[0] for value in (0, lambda count: 0.0))
    traced = jax.jit(lambda size, key: run(make(size, key), START, 30)[0])
    # To the bit from one key to another; to rounding (sums may be fused otherwise) without the draw.
    np.testing.assert_allclose(traced(0.0, 5), static, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scheduled, static, rtol=1e-5, atol=1e-5)
    assert bits(traced(0.0, 5)) == bits(traced(0.0, 6))
    assert np.abs(traced(0.1, 5) - traced(0.1, 6)).max() > 1e-3
    assert np.abs(traced(0.1, 5) - static).max() > 1e-3


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("scheme", ["euler", "leimkuhler_matthews"])
def test_overdamped_langevin_at_temperature_zero_is_gradient_descent_to_the_bit(scheme):
    expected = bits(run(optax.sgd(0.02), START, 100)[0])
    for tau in (0, 0.0, lambda count: 0.0):
        assert bits(run(lgv.overdamped_langevin(0.02, tau, 0, scheme=scheme), START, 100)[0]) == expected
    assert bits(run(lgv.overdamped_langevin(0.02, 1e-6, 0, scheme=scheme), START, 100)[0]) != expected


FALLING = {
    "euler": lambda tau: lgv.overdamped_langevin(0.1, tau, 0),
    "leimkuhler_matthews": lambda tau: leimkuhler_matthews(0.1, tau),
    "baoab": lambda tau: lgv.baoab(0.1, tau, 0.8, 0),
}


@pytest.mark.usefixtures("optimized")
def test_a_temperature_that_falls_to_zero_leaves_the_deterministic_steps():
    """Those of a static 0 from the same state: to the bit, or to rounding if the momenta are damped."""
    g = jax.grad(loss)(START)
    fall = lambda count: jnp.where(count < 3, 0.5, 0.0)
    for make in FALLING.values():
        tx = make(fall)
        _, state = run(tx, START, 3)
        assert int(state.count) == 3
        step = lambda tx, state: np.asarray(jax.jit(tx.update)(g, state, START)[0])
        if isinstance(state, lgv.LangevinState):
            assert bits(step(tx, state)) == bits(step(make(0), state))
        np.testing.assert_allclose(step(tx, state), step(make(0), state), rtol=1e-5, atol=1e-6)
        assert np.abs(step(tx, state._replace(count=jnp.int32(2))) - step(make(0), state)).max() > 1e-2


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", by_default(["baoab"], FALLING))
def test_a_linear_schedule_to_zero_gives_no_nan(name):
    """1 − n (1/n), fused, is below 0 by a rounding."""
    params, (g,) = jnp.ones(3), gradients_like(jnp.ones(3), 1)
    for transition_steps in (3, 5, 10):
        tx = FALLING[name](optax.linear_schedule(0.5, 0.0, transition_steps))
        state = tx.init(params)._replace(count=jnp.int32(transition_steps))
        updates, _ = jax.jit(tx.update)(g, state, params)
        assert np.all(np.isfinite(updates)), transition_steps


# Friction 0: leapfrog.


def verlet(theta, gradient, h, steps):
    """Velocity Verlet, as in textbooks, from rest: positions and velocities at whole steps."""
    v, thetas, velocities = np.zeros_like(theta), [], []
    for _ in range(steps):
        v = v - h / 2 * gradient(theta)
        theta = theta + h * v
        v = v - h / 2 * gradient(theta)
        thetas.append(theta)
        velocities.append(v)
    return np.array(thetas), np.array(velocities)


def test_baoab_without_friction_is_velocity_verlet():
    """Positions, and momenta after half a kick more, so that energies stay within O(h²)."""
    h, steps = 0.05, 200
    energy = lambda theta, v: np.sum(v**2 / 2 + np.sin(3 * theta) + 0.1 * theta**2, -1)
    with jax.enable_x64(True):
        start = jnp.linspace(-2.0, 2.0, 7)
        expected, velocities = verlet(np.asarray(start), gradient, h, steps)
        tx = lgv.baoab(h, 1.0, 0.0, 0)
        thetas, _ = positions(tx, steps, start)
        np.testing.assert_allclose(thetas, expected, rtol=1e-10, atol=1e-10)
        for n in (1, 10, steps):
            _, state = positions(tx, n, start)
            v = np.asarray(state.momentum) - h / 2 * gradient(thetas[n - 1])
            np.testing.assert_allclose(v, velocities[n - 1], rtol=1e-9, atol=1e-9)
            assert abs(energy(thetas[n - 1], v) - energy(np.asarray(start), 0 * v)) < 5 * h**2
    # In float32 too, over a shorter time.
    np.testing.assert_allclose(positions(tx, 20)[0], expected[:20], rtol=1e-6, atol=1e-6)


def order_of_leapfrog(last_step):
    """The order of the global error on a harmonic oscillator from rest, when the state of init is altered."""
    omega, time, errors = 1.3, 2.0, []
    step_sizes = time / np.array([40, 80, 160])
    with jax.enable_x64(True):
        for h in step_sizes:
            tx, start = lgv.baoab(h, 0.0, 0.0, 0), jnp.ones(1)
            state = tx.init(start)._replace(last_step=jnp.asarray(last_step * h))
            thetas, _ = positions(tx, round(time / h), start, lambda x: omega**2 / 2 * jnp.sum(x**2), state)
            errors.append(abs(thetas[-1, 0] - np.cos(omega * time)))
    return np.polyfit(np.log(step_sizes), np.log(errors), 1)[0]


def test_the_first_kick_is_half_a_kick():
    """Order 2; a first kick that is whole or missing leaves order 1."""
    assert abs(order_of_leapfrog(last_step=0) - 2) < 0.05
    assert abs(order_of_leapfrog(last_step=1) - 1) < 0.05
    assert abs(order_of_leapfrog(last_step=-1) - 1) < 0.05


def test_leapfrog_is_reversible():
    """With the missing half kick, and the momenta turned round, it comes back to its start."""
    h, steps = 0.1, 100
    with jax.enable_x64(True):
        start = jnp.linspace(-2.0, 2.0, 7)
        tx = lgv.baoab(h, 0.0, 0.0, 0)
        thetas, state = positions(tx, steps, start)
        end = jnp.asarray(thetas[-1])
        half = lambda theta, state: state.momentum - h / 2 * jax.grad(loss)(theta)
        back = state._replace(momentum=-half(end, state), last_step=jnp.zeros(()))
        returned, state_back = positions(tx, steps, end, state=back)
        np.testing.assert_allclose(returned[-1], start, rtol=0, atol=1e-10)
        np.testing.assert_allclose(half(jnp.asarray(returned[-1]), state_back), 0, atol=1e-10)
        assert np.abs(thetas[-1] - start).max() > 0.1
        # Without the missing half kick it does not.
        wrong, _ = positions(tx, steps, end, state=back._replace(momentum=-state.momentum))
        assert np.abs(wrong[-1] - start).max() > 1e-2


# Friction without bound: overdamped dynamics.


def test_baoab_of_infinite_friction_is_leimkuhler_matthews():
    """Step n of BAOAB has ξ_{n−1} before and ξ_n behind, and is step n − 1 of the scheme with h²/2, from θ₁ onward."""
    h, tau, steps = 0.2, 0.3, 30
    thetas, _ = positions(lgv.baoab(h, tau, 1e9, 3), steps)
    xi = noises(3, 0, START)
    np.testing.assert_allclose(thetas[0], START - h**2 / 4 * gradient(START) + h / 2 * np.sqrt(tau) * xi, rtol=1e-5)
    expected, _ = positions(leimkuhler_matthews(h**2 / 2, tau, 3), steps - 1, jnp.asarray(thetas[0]))
    np.testing.assert_allclose(thetas[1:], expected, rtol=2e-5, atol=2e-5)
    # Friction that is merely large, or the scheme of step h², is another thing.
    other, _ = positions(lgv.baoab(h, tau, 1 / h, 3), steps)
    assert np.abs(thetas - other).max() > 0.1
    double, _ = positions(leimkuhler_matthews(h**2, tau, 3), steps - 1, jnp.asarray(thetas[0]))
    assert np.abs(thetas[1:] - double).max() > 0.1


def test_euler_maruyama_is_sgd_with_langevin_noise():
    """h and σ = √(2τ), to rounding."""
    params, h, tau = params_like(), 0.02, 0.3
    actual, _ = run(lgv.overdamped_langevin(h, tau, 4), params, 50)
    expected, _ = run(lgv.sgd(h, np.sqrt(2 * tau), 4), params, 50)
    for x, y in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5)
    other, _ = run(lgv.sgd(h, np.sqrt(tau), 4), params, 50)
    assert np.abs(other["Dense_0"]["kernel"] - actual["Dense_0"]["kernel"]).max() > 1e-2


# Partitions.

TREE = {
    "Dense_0": {"kernel": jnp.zeros((15, 20)), "bias": jnp.zeros(200)},
    "Dense_1": {"kernel": jnp.zeros((15, 20)), "bias": jnp.zeros(200)},
}
CURVATURES = {"Dense_0": 1.0, "Dense_1": 2.0}
TAU_2 = 0.2
PARTITIONED = {
    "adlala": (lgv.adlala, dict(temperature=TAU, sigma=1.0, coupling=0.01, friction=1.0), {"rest_temperature": TAU}),
    "lol": (lgv.lol, dict(temperature=TAU, friction=1.0), {"rest_temperature": TAU}),
    "lala": (lgv.lala, dict(temperature=TAU, friction=0.8), {"rest_temperature": TAU, "rest_friction": 0.8}),
}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", by_default(["adlala"], PARTITIONED))
def test_each_part_has_a_temperature_of_its_own(name):
    h = 0.1
    make, kwargs, _ = PARTITIONED[name]

    def problem(theta):
        return sum(a / 2 * sum(jnp.sum(x**2) for x in jax.tree.leaves(theta[k])) for k, a in CURVATURES.items())

    def observe(theta, state):
        flat = {k: jnp.concatenate([x.ravel() for x in jax.tree.leaves(theta[k])]) for k in theta}
        values = {layer: a * flat[layer] ** 2 for layer, a in CURVATURES.items()}
        values["both"] = flat["Dense_0"] * flat["Dense_1"]
        return values | lgv.kinetic_temperature(state)

    tx = make(h, 0, rest_temperature=TAU_2, **kwargs)
    measured = sample(tx, problem, TREE, observe, steps=800, burn_in=300)
    for part in ("first", "rest"):
        if part in measured:
            measured[part] = measured[part]._replace(draws=measured[part].draws * ENTRIES)
    # Exact on quadratics, but within O(h²) of τ for the positions of adaptive Langevin.
    z = {"Dense_1": measured["Dense_1"].z(TAU_2), "both": measured["both"].z(0.0), "first": measured["first"].z(TAU)}
    if name == "adlala":
        first = measured["Dense_0"]
        assert abs(first.mean - TAU) < LIMIT * first.error + h**2 * TAU
    else:
        z["Dense_0"] = measured["Dense_0"].z(TAU)
    assert ("rest" in measured) == (name != "lol")  # overdamped dynamics has no momenta
    if name != "lol":
        z["rest"] = measured["rest"].z(TAU_2)
    assert all(abs(z) < LIMIT for z in z.values()), z


@pytest.mark.parametrize("step_size", [0.3, lambda count: 0.3 / (1 + count)], ids=["constant", "schedule"])
def test_the_rest_of_lol_is_leimkuhler_matthews_with_step_half_h_squared(step_size):
    """Its formula, with the noise of key, step and path."""
    params = {layer: {"kernel": jnp.ones((3, 4))} for layer in TREE}
    tx = lgv.lol(step_size, 0, temperature=TAU, friction=1.0, rest_temperature=TAU_2)
    state = tx.init(params)
    for n in range(4):
        h = step_size(n) if callable(step_size) else step_size
        now, then = (lgv.noise_like(jax.random.key(0), jnp.asarray(n + i), params)["Dense_1"]["kernel"] for i in (0, 1))
        updates, state = tx.update(params, state, params)
        expected = -(h**2) / 2 + h * np.sqrt(TAU_2) * (now + then) / 2
        np.testing.assert_allclose(updates["Dense_1"]["kernel"], expected, rtol=1e-5, atol=1e-6)


def test_baoab_of_infinite_friction_moves_by_half_h_squared():
    tx, gradient = lgv.baoab(0.3, 0.0, 1e6, 0), jnp.ones(3)
    _, state = tx.update(gradient, tx.init(gradient))  # whose first kick is half of one
    np.testing.assert_allclose(tx.update(gradient, state)[0], -(0.3**2) / 2, rtol=1e-4)


@pytest.mark.parametrize("name", by_default(["adlala"], PARTITIONED))
def test_the_rest_falls_back_to_the_first_part(name):
    """To the bit; and another value makes a difference to the rest alone."""
    make, kwargs, fallbacks = PARTITIONED[name]
    params = {layer: {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(3)} for layer in TREE}
    default, _ = run(make(0.1, 0, **kwargs), params, 5)
    assert bits(run(make(0.1, 0, **kwargs, **fallbacks), params, 5)[0]) == bits(default)
    for argument, value in fallbacks.items():
        other, _ = run(make(0.1, 0, **kwargs, **{argument: value / 2}), params, 5)
        assert bits(other["Dense_0"]) == bits(default["Dense_0"])
        assert bits(other["Dense_1"]) != bits(default["Dense_1"])


@pytest.mark.parametrize("name", PARTITIONED)
def test_one_key_gives_both_parts_noises_of_their_own(name):
    """Free first updates of two leaves of one shape are uncorrelated."""
    make, kwargs, _ = PARTITIONED[name]
    params = {layer: {"kernel": jnp.zeros((100, 200))} for layer in TREE}
    tx = make(0.1, 0, **kwargs)
    updates, _ = tx.update(params, tx.init(params), params)
    first, rest = (np.asarray(updates[layer]["kernel"], np.float64).ravel() for layer in TREE)
    assert first.std() > 0 < rest.std()
    assert abs(np.corrcoef(first, rest)[0, 1]) < LIMIT / np.sqrt(first.size)
