"""Gradients that are not finite, coordinates that are dead, and precision that is low: what the noise does then."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.dynamic_scale import DynamicScale

import langevin_optax as lgv
from tests.cases import INTEGRATORS, OPTIMIZERS, bits, by_default, gradients_like, loss, params_like

EVERYTHING = {row.id: row for row in (*OPTIMIZERS, *INTEGRATORS)}
SOME = by_default(["adam", "baoab"], EVERYTHING)
BAD_STEPS = {2: np.nan, 3: np.inf, 6: -np.inf}


def poisoned(gradients):
    """The first entry of one leaf is not finite in some steps."""

    def poison(step, tree):
        leaf = tree["Dense_0"]["bias"]
        return {**tree, "Dense_0": {**tree["Dense_0"], "bias": leaf.at[0].set(BAD_STEPS.get(step, leaf[0]))}}

    return [poison(step, tree) for step, tree in enumerate(gradients)]


def train(tx, gradients):
    params = params_like()
    state = tx.init(params)
    update = jax.jit(tx.update)
    for g in gradients:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("row", SOME)
def test_a_step_that_apply_if_finite_skips_draws_no_noise(row):
    """The n-th step that is applied has the n-th noise: a run with bad steps is the run without them.

    Whether a step is skipped depends on its gradient, and not on the noise it would have had, so that this is no bias.
    """
    tx = optax.apply_if_finite(EVERYTHING[row].langevin(), max_consecutive_errors=5)
    clean = gradients_like(params_like(), 8)
    with_faults, state = train(tx, poisoned(clean))
    without, _ = train(tx, [g for step, g in enumerate(clean) if step not in BAD_STEPS])
    assert bits(with_faults) == bits(without)
    assert int(state.total_notfinite) == len(BAD_STEPS)
    assert {int(count) for _, count in optax.tree.get_all_with_path(state, "count")} == {8 - len(BAD_STEPS)}


@pytest.mark.parametrize("row", SOME)
def test_without_it_what_is_not_finite_stays_so(row):
    """The noise neither hides it nor spreads it to other leaves (but through the thermostat that they share)."""
    tx = EVERYTHING[row].langevin()
    params = params_like()
    (gradients,) = poisoned(gradients_like(params, 3))[2:]
    updates, _ = tx.update(gradients, tx.init(params), params)
    assert not np.isfinite(updates["Dense_0"]["bias"][0])
    if row not in ("adaptive_langevin", "adlala"):
        assert np.isfinite(updates["Dense_1"]["kernel"]).all() and np.isfinite(updates["Dense_0"]["bias"][1:]).all()


def test_loss_scaling_in_float16():
    """A step whose scaled gradients overflow is undone, count and all: its noise is drawn by the next one."""
    tx = lgv.adam(1e-2, 1e-2, 0, mu_dtype=jnp.float32)
    start = jax.tree.map(lambda p: p.astype(jnp.float16), params_like())

    def step(carry, _):
        params, state, scale = carry
        scale, finite, _, gradients = scale.value_and_grad(loss)(params)
        updates, new_state = tx.update(gradients, state, params)
        new = optax.apply_updates(params, updates), new_state
        kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, (params, state))
        return (*kept, scale), finite

    scale = DynamicScale(scale=2.0**20, growth_interval=5)  # beyond float16
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=40))
    (params, state, _), finite = run((start, tx.init(start), scale))
    finite = np.asarray(finite)
    assert not finite[0] and 0 < (~finite).sum() < 20
    assert int(state[-1].count) == finite.sum()
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(params))

    # The run of the steps that were applied, each with the noise of its number.
    alone, state = start, tx.init(start)
    for number in range(int(finite.sum())):
        assert int(state[-1].count) == number
        gradients = jax.tree.map(lambda g: g, jax.jit(jax.grad(loss))(alone))
        updates, state = jax.jit(tx.update)(gradients, state, alone)
        alone = optax.apply_updates(alone, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02), params, alone)


# Dead coordinates: gradient 0 for ever. README states the bounds on σ√(γP) of one step, for γ = σ = 10⁻³.
DEAD = {"adam": 0.0317, "rmsprop": 0.00179, "adagrad": 5.7e-5, "adadelta": 3.2e-5, "sgd": 3.2e-5, "yogi": 7.1e-4}


@pytest.mark.parametrize("name", by_default(["adam", "rmsprop", "sgd"], DEAD))
def test_the_noise_of_dead_coordinates_is_bounded(name):
    tx, n = getattr(lgv, name)(1e-3, 1e-3, 0), 2000
    params = jnp.zeros(n)
    state = tx.init(params)
    update = jax.jit(tx.update)
    worst = 0.0
    for _ in range(50):
        updates, state = update(jnp.zeros(n), state, params)
        worst = max(worst, float(jnp.std(updates)))
    five_errors = 1 + 5 / np.sqrt(2 * n)
    assert worst < DEAD[name] * five_errors
    if name == "adam":  # with the eps of Optax it is ten times that
        tx = lgv.adam(1e-3, 1e-3, 0, eps=1e-8)
        updates, _ = tx.update(jnp.zeros(n), tx.init(params), params)
        assert float(jnp.std(updates)) > 0.3


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(o, marks=() if o.id in ("sgd", "adam", "rmsprop-momentum") else pytest.mark.slow)
        for o in OPTIMIZERS
    ],
    ids=lambda row: row.id,
)
def test_max_noise_bounds_it(row):
    """σ√(γP) is the smaller one of itself and the bound, and where that is itself nothing changes, to the bit."""
    params = {"alive": jnp.ones(1000), "dead": jnp.ones(1000)}
    gradients = {"alive": 3.0 * jnp.ones(1000), "dead": jnp.zeros(1000)}

    def size(**kwargs):
        tx, quiet = row.langevin(1e-3, 1e-2, **kwargs), row.langevin(1e-3, 0.0)
        noisy, plain = (x.update(gradients, x.init(params), params)[0] for x in (tx, quiet))
        return noisy, jax.tree.map(lambda a, b: a - b, noisy, plain)

    free, noise = size()
    xi = lgv.noise_like(0, 0, params)
    widths = jax.tree.map(lambda n, x: float(jnp.median(jnp.abs(n / x))), noise, xi)
    between = float(np.sqrt(widths["alive"] * widths["dead"])) if widths["dead"] > 1.1 * widths["alive"] else None
    if between is not None:
        bounded, noise_ = size(max_noise=between)
        assert bits(bounded["alive"]) == bits(free["alive"])
        np.testing.assert_allclose(noise_["dead"], between * xi["dead"], rtol=1e-3, atol=1e-6)
    bounded, noise_ = size(max_noise=1e-5)
    np.testing.assert_allclose(noise_["dead"], min(1e-5, widths["dead"]) * xi["dead"], rtol=0.05, atol=1e-6)
    assert bits(size(max_noise=0.0)[0]) == bits(
        row.langevin(1e-3, 0.0).update(gradients, row.langevin(1e-3, 0.0).init(params), params)[0]
    )


def test_max_noise_before_the_learning_rate():
    """In units of the parameters too, through a warm-up from γ = 0."""
    gamma = optax.linear_schedule(0.0, 1.0, 4)
    tx = optax.chain(lgv.add_langevin_noise(gamma, 10.0, 0, max_noise=0.5), optax.scale_by_learning_rate(gamma))
    params = jnp.zeros(1000)
    state = tx.init(params)
    for number in range(4):
        updates, state = tx.update(params, state, params)
        xi = lgv.noise_like(0, number, params)
        expected = -min(0.5, 10.0 * np.sqrt(number / 4)) * xi if number else jnp.zeros(1000)
        np.testing.assert_allclose(updates, expected, rtol=1e-5)


# Precision. Parameters of a format whose spacing is 2⁻ᵐ times their binade; README has the figures.


def accumulated(dtype, theta, size, steps=1000, n=20_000):
    """Mean and standard deviation of the sum of noises of ``size``, over those that float32 would have."""
    tx = lgv.sgd(1.0, size, 0)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jnp.zeros(n, dtype), state)
        return (optax.apply_updates(params, updates), state), None

    start = jnp.full(n, theta, dtype)
    (end, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))((start, tx.init(start)))
    moved = np.asarray(end, np.float64) - np.asarray(start, np.float64)
    expected = size * np.sqrt(steps)
    return moved.mean() / expected, moved.std() / expected


def test_the_noise_accumulates_in_float32(optimized):
    n = 20_000
    for theta, size in ((0.05, 1e-3), (1.0, 1e-4)):
        mean, std = accumulated(jnp.float32, theta, size)
        assert abs(mean) < 5 / np.sqrt(n) and abs(std - 1) < 5 / np.sqrt(2 * n)


LOST = [
    # dtype, θ, size of a step's noise, the least and the most of what is left of the standard deviation
    (jnp.bfloat16, 0.05, 1e-3, 0.98, 1.02),  # four spacings
    (jnp.bfloat16, 0.05, 1e-4, 1.1, 1.2),  # half a spacing: it rounds up as often as down, but whole spacings
    (jnp.bfloat16, 1.0, 1e-3, 0.4, 0.6),  # an eighth, a quarter below 1
    (jnp.bfloat16, 1.0, 1e-4, 0.0, 0.0),  # nothing
    (jnp.float16, 0.05, 1e-4, 0.98, 1.02),
    (jnp.float16, 1.0, 1e-3, 0.98, 1.05),
    (jnp.float16, 1.0, 1e-4, 0.3, 0.4),
]


@pytest.mark.parametrize(
    ("dtype", "theta", "size", "least", "most"),
    [pytest.param(*row, marks=() if i in (0, 2, 3, 6) else pytest.mark.slow) for i, row in enumerate(LOST)],
)
def test_what_is_lost_to_rounding(dtype, theta, size, least, most, optimized):
    assert least <= accumulated(dtype, theta, size)[1] <= most


def test_stochastic_rounding_is_no_remedy(optimized):
    """It keeps the mean, and adds its own noise, of variance about E|u| times the spacing: here six times as wide."""
    n, steps, size, theta = 20_000, 1000, 1e-4, 1.0

    def rounded(x, chance):
        down = jax.lax.convert_element_type(x, jnp.bfloat16)
        other = jnp.nextafter(down, jnp.where(x > down, jnp.inf, -jnp.inf).astype(jnp.bfloat16))
        gap = other.astype(jnp.float32) - down.astype(jnp.float32)
        return jnp.where(chance < (x - down.astype(jnp.float32)) / gap, other, down)

    def step(params, number):
        u = size * lgv.noise_like(0, number, jnp.zeros(n))
        chance = lgv.noise_like(1, number, jnp.zeros(n), jax.random.uniform)
        return rounded(params.astype(jnp.float32) + u, chance), None

    start = jnp.full(n, theta, jnp.bfloat16)
    end, _ = jax.jit(lambda p: jax.lax.scan(step, p, jnp.arange(steps)))(start)
    moved = (np.asarray(end, np.float64) - theta) / (size * np.sqrt(steps))
    assert abs(moved.mean()) < 5 * moved.std() / np.sqrt(n)
    assert 6 < moved.std() < 7.5
