"""The size of the noise, measured: σ√(γP) for every scaler, independent of all else, and exactly 0 in the limits.

Each statistical check is a function that says whether draws are consistent with a law, with tolerances from the number
of draws, and each is shown to reject deliberately wrong versions.
"""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from langevin_optax.preconditioners._marks import read
from tests.cases import ALIASES, OPTIMIZERS, SCALERS, bits, by_default, gradients_like, params_like, run

GAMMA, SIGMA = 0.05, 0.3
STRICT = ("sgd", "rmsprop", "adagrad", "adadelta")  # of Optax: its Adam promotes
# What the engine does once for all is tested on these, and with -m slow on all.
FEW = [
    pytest.param(o, marks=() if o.id in ("sgd", "adam", "rmsprop-momentum") else pytest.mark.slow) for o in OPTIMIZERS
]
DRAWS = 4000
HISTORY = 8  # long enough for RAdam's rectification to set in


def standardised(tx, noiseless, params, history, size, draws=DRAWS, steps=2):
    """Noise over its claimed size, for many keys and ``steps`` steps from one state: (draws, steps * entries)."""

    def last_state(t):
        state = t.init(params)
        for g in history[:-1]:
            state = t.update(g, state, params)[1]
        return state

    def increments(state):
        xs = []
        for _ in range(steps):
            # The same gradient and the same state of the scaler, so that only count and key differ.
            updates, new = tx.update(history[-1], state, params)
            xs += [(u - v).ravel() for u, v in zip(jax.tree.leaves(updates), jax.tree.leaves(quiet), strict=True)]
            state = jax.tree.map(
                lambda s, n: n if isinstance(n, lgv.LangevinState) else s, state, new, is_leaf=is_noise
            )
        return jnp.concatenate(xs)

    quiet, _ = jax.jit(noiseless.update)(history[-1], last_state(noiseless), params)
    state = last_state(tx)
    keys = jax.random.split(jax.random.key(11), draws)
    xs = jax.jit(jax.vmap(lambda k: increments(optax.tree.set(state, key=k))))(keys)
    scale = np.concatenate(
        [np.broadcast_to(s, np.shape(u)).ravel() for s, u in zip(*map(jax.tree.leaves, (size, quiet)), strict=True)]
    )
    return np.asarray(xs, np.float64) / np.tile(scale, steps)


def is_noise(x):
    return isinstance(x, lgv.LangevinState)


def has_unit_variance(z, limit=5):
    """Mean 0 and variance 1 of every column, within ``limit`` standard errors (as estimated from the draws)."""
    n = len(z)
    mean_ok = np.abs(z.mean(0)) < limit / np.sqrt(n)
    square = z**2
    error = np.maximum(square.std(0) / np.sqrt(n), 2e-3)  # at least the rounding of float32 differences
    return bool(np.all(mean_ok) and np.all(np.abs(square.mean(0) - 1) < limit * error))


def is_uncorrelated(z, limit=5.5):
    """No two columns (entries, leaves, steps) correlate, within ``limit`` standard errors; 700 pairs or so."""
    r = np.corrcoef(z.T) - np.eye(z.shape[1])
    return bool(np.abs(r).max() < limit / np.sqrt(len(z)))


ADAM = next(i for i, s in enumerate(SCALERS) if s.name == "scale_by_adam")


@functools.cache
def setting(index):
    scaler = SCALERS[index]
    params = params_like()
    history = gradients_like(params, HISTORY)
    # P from stock Optax alone: its update over the momentum of these gradients.
    state = scaler.stock().init(params)
    for g in history:
        update, state = scaler.stock().update(g, state, params)
    p = jax.tree.map(
        lambda u, *gs: np.asarray(u, np.float64) / scaler.momentum([np.asarray(g, np.float64) for g in gs]),
        update,
        *history,
    )
    return scaler, params, history, p


def chain(scaler, gamma=GAMMA, sigma=SIGMA, **kwargs):
    noise = lgv.add_preconditioned_noise(gamma, sigma, 0, **kwargs)
    return optax.chain(scaler, noise, optax.scale_by_learning_rate(GAMMA))


@pytest.mark.parametrize("sampler", ["normal", "rademacher"])
def test_increments_have_variance_sigma_squared_gamma_p(sampler):
    scaler, params, history, p = setting(ADAM)
    size = jax.tree.map(lambda p: SIGMA * np.sqrt(GAMMA * p), p)
    quiet = optax.chain(scaler.stock(), optax.scale_by_learning_rate(GAMMA))
    z = standardised(chain(scaler.make(), sampler=sampler), quiet, params, history, size, draws=2000)
    assert has_unit_variance(z)
    assert is_uncorrelated(z)


@pytest.mark.parametrize("index", range(len(SCALERS)), ids=[s.id for s in SCALERS])
def test_the_size_of_the_noise_behind_every_scaler(index):
    """A noise whose every entry is 1 is σ√(γP), with P of stock Optax."""
    scaler, params, history, p = setting(index)
    ones = lambda key, shape, dtype: jnp.ones(shape, dtype)
    tx = chain(scaler.make(), sampler=ones)
    quiet = optax.chain(scaler.stock(), optax.scale_by_learning_rate(GAMMA))
    updates = []
    for t in (tx, quiet):
        state = t.init(params)
        for g in history:
            u, state = t.update(g, state, params)
        updates.append(u)
    for u, q, p_of_leaf in zip(*map(jax.tree.leaves, (*updates, p)), strict=True):
        np.testing.assert_allclose(q - u, SIGMA * np.sqrt(GAMMA * np.broadcast_to(p_of_leaf, u.shape)), rtol=2e-3)


def with_shared_key(gamma, sigma):
    """Wrong: every leaf draws from the key of the step."""

    def update(updates, state, params=None):
        key = jax.random.fold_in(state.key, state.count)
        size = sigma / np.sqrt(gamma)
        noisy = jax.tree.map(lambda u: u + size * jnp.sqrt(read(u)) * jax.random.normal(key, u.shape), updates)
        return noisy, lgv.LangevinState(state.count + 1, state.key)

    return optax.GradientTransformation(
        lambda p: lgv.LangevinState(jnp.zeros([], jnp.int32), jax.random.key(0)), update
    )


def with_forgotten_step(gamma, sigma):
    """Wrong: the same noise at every step."""
    right = lgv.add_preconditioned_noise(gamma, sigma, 0)
    return optax.GradientTransformation(
        right.init, lambda u, s, p=None: (right.update(u, s)[0], lgv.LangevinState(s.count, s.key))
    )


def adam(noise):
    return optax.chain(lgv.scale_by_adam(eps=1e-4), noise, optax.scale_by_learning_rate(GAMMA))


def explicit(transform_p):
    """Wrong, by a P that is not the update's."""

    def preconditioner(g, old, new):
        return jax.tree.map(transform_p, right(new))

    def right(new):
        nu = optax.tree.bias_correction(new.nu, 0.999, new.count)
        return jax.tree.map(lambda v: 1 / (jnp.sqrt(v) + 1e-4), nu)

    scaler = lgv.with_preconditioner(optax.scale_by_adam(eps=1e-4), preconditioner)
    return chain(scaler)


VERSIONS = {
    "right": (chain(lgv.scale_by_adam(eps=1e-4)), True, True),
    "right, custom P": (explicit(lambda p: p), True, True),
    "no root of gamma": (chain(lgv.scale_by_adam(eps=1e-4), gamma=GAMMA**2), False, True),
    "no root of P": (explicit(jnp.square), False, True),
    "no P": (adam(lgv.add_langevin_noise(GAMMA, SIGMA, 0)), False, True),
    "no gamma": (chain(lgv.scale_by_adam(eps=1e-4), gamma=1.0), False, True),
    "variance for deviation": (chain(lgv.scale_by_adam(eps=1e-4), sigma=SIGMA**2), False, True),
    "a fifth too much": (chain(lgv.scale_by_adam(eps=1e-4), sigma=SIGMA * 1.2), False, True),
    # σ√(γP) added before the learning rate, and σ√(P/γ) added after it. (The library itself raises.)
    "before taken for after": (chain(lgv.scale_by_adam(eps=1e-4), sigma=SIGMA * GAMMA), False, True),
    "after taken for before": (chain(lgv.scale_by_adam(eps=1e-4), sigma=SIGMA / GAMMA), False, True),
    "a shared key": (adam(with_shared_key(GAMMA, SIGMA)), True, False),
    "a forgotten step": (adam(with_forgotten_step(GAMMA, SIGMA)), True, False),
}


# The others are rejected with -m slow.
OFTEN = [
    *("right", "right, custom P", "no root of gamma", "no root of P", "a fifth too much"),
    *("a shared key", "a forgotten step"),
]


@pytest.mark.parametrize("version", by_default(OFTEN, VERSIONS))
def test_wrong_versions_are_rejected(version):
    tx, variance, independence = VERSIONS[version]
    scaler, params, history, p = setting(ADAM)
    size = jax.tree.map(lambda p: SIGMA * np.sqrt(GAMMA * p), p)
    quiet = optax.chain(scaler.stock(), optax.scale_by_learning_rate(GAMMA))
    z = standardised(tx, quiet, params, history, size)
    assert has_unit_variance(z) is variance
    assert is_uncorrelated(z) is independence


@pytest.mark.parametrize(
    "row", [OPTIMIZERS[2], pytest.param(ALIASES[5], marks=pytest.mark.slow)], ids=lambda row: row.name
)
def test_the_noise_of_whole_optimisers_is_independent(row):
    """Of any two entries, leaves and steps. (test_engine.py has its size, for each alias.)"""
    params = params_like()
    history = gradients_like(params, HISTORY)

    def last(tx):
        state = tx.init(params)
        for g in history:
            updates, state = tx.update(g, state, params)
        return updates

    ones = lambda key, shape, dtype: jnp.ones(shape, dtype)
    size = jax.tree.map(jnp.subtract, last(row.langevin(GAMMA, SIGMA, sampler=ones)), last(row.stock(GAMMA)))
    z = standardised(row.langevin(GAMMA, SIGMA), row.stock(GAMMA), params, history, size, draws=2000)
    assert has_unit_variance(z)
    assert is_uncorrelated(z)


def stationary_variance(tx, a, p=None, chains=20_000, steps=400):
    """Variance of θ under the loss a θ²/2 after many steps, over independent coordinates, and its standard error."""
    theta = jnp.zeros(chains)

    def step(carry, _):
        theta, state = carry
        kwargs = {} if p is None else {"preconditioner": jnp.asarray(p)}
        updates, state = tx.update(a * theta, state, theta, **kwargs)
        return (optax.apply_updates(theta, updates), state), None

    (theta, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=steps))((theta, tx.init(theta)))
    theta = np.asarray(theta, np.float64)
    return theta.var(), theta.var() * np.sqrt(2 / chains)


@pytest.mark.parametrize("sampler", ["normal", "rademacher"])
@pytest.mark.parametrize(
    ("a", "gamma"),
    [(1.0, 0.02), *(pytest.param(*v, marks=pytest.mark.slow) for v in ((1.0, 1.0), (4.0, 0.4))), (0.5, 3.0)],
)
def test_long_run_variance_on_a_quadratic_is_the_discrete_schemes_own(a, gamma, sampler):
    exact = SIGMA**2 / (a * (2 - gamma * a))
    variance, error = stationary_variance(lgv.sgd(gamma, SIGMA, 0, sampler=sampler), a)
    assert abs(variance - exact) < 5 * error
    # Neither the continuous limit nor the noise of a wrong γ passes, where they differ.
    if gamma * a >= 1:
        assert abs(variance - SIGMA**2 / (2 * a)) > 5 * error
    wrong, error = stationary_variance(
        optax.chain(optax.sgd(gamma), lgv.add_langevin_noise(gamma**2, SIGMA, 0, after_learning_rate=True)), a
    )
    assert gamma == 1.0 or abs(wrong - exact) > 5 * error


def test_long_run_variance_with_a_constant_preconditioner():
    """θ' = θ − γ P a θ + σ√(γP) ξ has variance σ²/(a (2 − γ P a))."""
    a, gamma, p = 2.0, 0.1, 4.0
    scaler = lgv.with_preconditioner(optax.scale(p), lambda g, old, new: jax.tree.map(lambda _: p, g))
    tx = optax.chain(scaler, lgv.add_preconditioned_noise(gamma, SIGMA, 0), optax.scale_by_learning_rate(gamma))
    variance, error = stationary_variance(tx, a)
    assert abs(variance - SIGMA**2 / (a * (2 - gamma * p * a))) < 5 * error


def test_momentum_cools_by_its_own_factor():
    """θ' = θ − γ v' + σ√γ ξ, v' = βv + aθ: the Lyapunov equation's variance, for small γ that of τ = (1 − β)σ²/2."""
    from scipy.linalg import solve_discrete_lyapunov

    a, gamma, beta = 1.0, 0.001, 0.9
    step = np.array([[1 - gamma * a, -gamma * beta], [a, beta]])
    exact = solve_discrete_lyapunov(step, np.diag([SIGMA**2 * gamma, 0.0]))[0, 0]
    variance, error = stationary_variance(lgv.sgd(gamma, SIGMA, 0, momentum=beta), a, steps=1000)
    assert abs(variance - exact) < 5 * error
    assert abs(exact / ((1 - beta) * SIGMA**2 / (2 * a)) - 1) < 0.1
    assert variance < SIGMA**2 / (2 * a) / 5  # the formula without momentum is far off
    page = Path(__file__).parents[2] / "docs" / "which_sigma.md"  # σ² = 2τ/(1 − β) with τ = 1/N
    assert "| σ = √(2/((1 − β)N)), or √(2/(1 − β)) for the sum |" in page.read_text(encoding="utf-8")


def test_temperature_is_half_of_sigma_squared():
    """σ = √(2τ) samples exp(−L/τ): on θ⁴/4 the second moment is τ^½ · 2 Γ(3/4) / Γ(1/4), up to the step size."""
    from scipy.special import gamma as euler

    tau, h, chains = 0.25, 0.01, 20_000
    tx = lgv.sgd(h, np.sqrt(2 * tau), 0)
    theta = jnp.zeros(chains)

    def step(carry, _):
        theta, state = carry
        updates, state = tx.update(theta**3, state, theta)
        return (theta + updates, state), None

    (theta, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=1500))((theta, tx.init(theta)))
    square = np.asarray(theta, np.float64) ** 2
    exact = np.sqrt(tau) * 2 * euler(0.75) / euler(0.25)
    assert abs(square.mean() - exact) < 5 * square.std() / np.sqrt(chains) + h * exact


@pytest.mark.parametrize("optimizer", FEW, ids=lambda o: o.id)
def test_a_sigma_that_falls_to_zero_leaves_optax_updates_bit_for_bit(optimizer):
    params = params_like()
    (g,) = gradients_like(params, 1)
    tx, stock = optimizer.langevin(1e-2, optax.linear_schedule(1.0, 0.0, 3)), optimizer.stock(1e-2)
    _, state = run(tx, params, 3)
    assert bits(tx.update(g, state, params)[0]) == bits(stock.update(g, state[:-1], params)[0])


@pytest.mark.parametrize("optimizer", by_default(["adam"], OPTIMIZERS))
def test_warm_up_from_zero_gives_no_noise_and_no_nan(optimizer):
    params = params_like()
    warm_up = optax.linear_schedule(0.0, 1e-2, 5)
    tx = optimizer.langevin(warm_up, 1.0)
    first, _ = run(tx, params, 1)
    assert bits(first) == bits(params)
    later, _ = run(tx, params, 20)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(later))
    assert bits(later) != bits(run(optimizer.stock(warm_up), params, 20)[0])


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dtype", by_default(["bfloat16"], ["bfloat16", "float16", "float32"]))
def test_zero_limits_are_exact(after, dtype):
    u = {"w": jnp.asarray([1.5, -0.0, 0.0, -3.0], dtype)}

    def noisy(gamma, sigma, p):
        tx = lgv.add_preconditioned_noise(gamma, sigma, 0, after_learning_rate=after)
        return jax.jit(tx.update)(u, tx.init(u), preconditioner={"w": jnp.asarray(p)})[0]

    for gamma, sigma, p in [(0.0, 1.0, 1.0), (0.1, 0.0, 1.0), (0.1, 1.0, 0.0), (0.0, 1.0, 1e30), (0.1, 0.0, np.inf)]:
        assert bits(noisy(gamma, sigma, p)) == bits(u), (gamma, sigma, p)
    half = noisy(0.1, 1.0, [0.0, 0.0, 1.0, 1.0])["w"]
    assert bits(half[:2]) == bits(u["w"][:2])
    assert np.all(np.asarray(half[2:], np.float32) != np.asarray(u["w"][2:], np.float32))


def test_before_and_after_the_learning_rate_are_the_same_step():
    params = params_like()
    (g,) = gradients_like(params, 1)
    gamma = 0.02
    before = optax.chain(
        lgv.scale_by_adam(eps=1e-6), lgv.add_preconditioned_noise(gamma, SIGMA, 0), optax.scale_by_learning_rate(gamma)
    )
    u, _ = before.update(g, before.init(params), params)
    v, _ = (tx := lgv.adam(gamma, SIGMA, 0)).update(g, tx.init(params), params)
    quiet, _ = (tx := optax.adam(gamma, eps=1e-6)).update(g, tx.init(params), params)
    # The same noise, with the sign that the learning rate gives it.
    for a, b, q in zip(*map(jax.tree.leaves, (u, v, quiet)), strict=True):
        np.testing.assert_allclose(a - q, -(b - q), rtol=1e-3, atol=1e-6)


def test_noise_is_added_in_float32_and_rounded_once():
    u = {"w": jnp.full(1000, 1.0, jnp.bfloat16)}
    tx = lgv.add_langevin_noise(1.0, 0.01, 0)
    noisy, _ = tx.update(u, tx.init(u))
    expected = (1.0 + 0.01 * lgv.noise_like(0, 0, u)["w"]).astype(jnp.bfloat16)
    assert bits(noisy["w"]) == bits(expected)


def test_langevin_and_layer_langevin_share_the_noise_of_the_layers_they_share():
    params = params_like()
    (g,) = gradients_like(params, 1)
    everywhere = lgv.adam(1e-2, SIGMA, 3)
    first = lgv.adam(1e-2, SIGMA, 3, mask=lgv.layer_mask("Dense_0"))
    stock = optax.adam(1e-2, eps=1e-6)
    u, v, w = (jax.jit(tx.update)(g, tx.init(params), params)[0] for tx in (everywhere, first, stock))
    assert bits(u["Dense_0"]) == bits(v["Dense_0"]) != bits(w["Dense_0"])
    assert bits(v["Dense_1"]) == bits(w["Dense_1"]) != bits(u["Dense_1"])


def test_masks():
    params = {"a": jnp.zeros((2, 3)), "b": {"c": jnp.zeros(3), "d": jnp.zeros(())}}

    def noisy_leaves(mask, tree=params):
        tx = lgv.add_langevin_noise(0.1, SIGMA, 0, mask=mask)
        return jax.tree.map(lambda u: np.asarray(u) != 0, jax.jit(tx.update)(tree, tx.init(tree))[0])

    assert noisy_leaves(None)["b"]["d"]
    for mask in ({"a": True, "b": False}, lambda p: {"a": np.True_, "b": jax.tree.map(lambda _: False, p["b"])}):
        noisy = noisy_leaves(mask)
        assert noisy["a"].all()
        assert not noisy["b"]["c"].any()
        assert not noisy["b"]["d"]
    rows = noisy_leaves({"a": np.array([[True], [False]]), "b": True})
    assert rows["a"].tolist() == [[True] * 3, [False] * 3]
    assert noisy_leaves({"a": jnp.array([True, False, True]), "b": False})["a"].tolist() == [[True, False, True]] * 2


def equations(jaxpr):
    """All equations, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize(("sampler", "words"), [("normal", 64 * 32 + 32), ("rademacher", 64 + 1)])
def test_only_the_layers_that_get_noise_pay_for_it(sampler, words):
    params = {f"Dense_{i}": {"kernel": jnp.zeros((64, 32)), "bias": jnp.zeros(32)} for i in range(10)}

    def drawn(mask):
        tx = lgv.add_langevin_noise(0.1, SIGMA, 0, sampler=sampler, mask=mask)
        jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params)).jaxpr
        shapes = {e.outvars[0].aval.shape for e in equations(jaxpr) if e.primitive.name == "xor"}
        return sum(math.prod(shape) for shape in shapes if len(shape) > 1)  # the rest are keys

    assert drawn(None) == 10 * words
    assert drawn(lgv.layer_mask(0.3)) == 3 * words
    assert drawn(False) == 0


def test_the_state_is_a_count_and_a_key():
    params = {"w": jnp.zeros((1000, 1000))}
    state = lgv.add_langevin_noise(0.1, 0.1, 3).init(params)
    assert jax.tree.leaves(state) == [state.count, state.key]
    assert state.count.shape == state.key.shape == ()
    assert state.count.dtype == jnp.int32
    assert state.key == jax.random.key(3)
    extra = sum(x.nbytes for x in jax.tree.leaves(lgv.adam(0.1, 0.1, 3).init(params))) - sum(
        x.nbytes for x in jax.tree.leaves(optax.adam(0.1).init(params))
    )
    assert extra <= 64


def test_one_rule_for_counts_of_gamma_and_sigma():
    """Both schedules are read at the count before the step, as Optax reads its learning rate."""
    seen = []
    gamma = lambda count: jnp.asarray([0.1, 0.2, 0.4])[count]
    sigma = lambda count: jnp.asarray([1.0, 2.0, 0.0])[count]
    tx = lgv.sgd(gamma, sigma, 0)
    params = jnp.zeros(5)
    state = tx.init(params)
    for count in range(3):
        updates, state = tx.update(jnp.ones(5), state, params)
        xi = lgv.noise_like(0, count, params)
        seen.append(np.allclose(updates, -gamma(count) + sigma(count) * np.sqrt(gamma(count)) * xi, rtol=1e-5))
    assert seen == [True] * 3


def test_a_mask_function_gets_the_parameters():
    params, gradients = {"w": jnp.array([0.0, 0.0, 1.0, 1.0])}, {"w": jnp.zeros(4)}
    tx = lgv.sgd(1.0, 1.0, 0, mask=lambda p: jax.tree.map(lambda x: x != 0, p))
    for update in (tx.update, jax.jit(tx.update)):
        updates, _ = update(gradients, tx.init(params), params)
        assert (updates["w"] != 0).tolist() == [False, False, True, True]


def test_integer_leaves_that_the_mask_leaves_out_pass():
    params = {"w": jnp.ones(3), "steps": jnp.arange(3)}
    tx = lgv.add_langevin_noise(0.1, SIGMA, 0, mask={"w": True, "steps": False})
    updates, _ = tx.update(params, tx.init(params))
    assert updates["steps"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("optimizer", [o for o in OPTIMIZERS if o.name in STRICT], ids=lambda o: o.id)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_strict_dtype_promotion_where_optax_allows_it(optimizer, dtype):
    params = {"w": jnp.ones(3, dtype)}
    with jax.numpy_dtype_promotion("strict"):
        stock, tx = optimizer.stock(), optimizer.langevin()
        stock.update(params, stock.init(params), params)
        updates, _ = tx.update(params, tx.init(params), params)
    assert updates["w"].dtype == dtype


def test_the_noise_is_differentiable_in_gamma_also_at_zero():
    tx = lambda gamma: lgv.add_langevin_noise(gamma, SIGMA, 0)
    u = jnp.ones(3)
    slope = jax.grad(lambda gamma: (gamma * tx(gamma).update(u, tx(0.1).init(u))[0]).sum())(0.0)
    assert np.isfinite(slope)


def test_donating_a_state_loses_nobody_his_key():
    """A typed key, given to two noises, is in each state as a copy, so that the whole state can be donated."""
    key, params = jax.random.key(3), {"w": jnp.ones(3)}
    tx = optax.chain(*(lgv.add_langevin_noise(0.1, 0.1, key) for _ in range(2)))
    step = jax.jit(lambda state: tx.update(params, state, params)[1], donate_argnums=0)
    state = step(tx.init(params))
    assert state[0].key == state[1].key == key
    assert step(state)[0].count == 2


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("after_learning_rate", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_learning_rate_that_falls_to_zero_gives_no_nan(after_learning_rate):
    """1 − n (1/n), fused, is below 0 by a rounding, and has no root."""
    params = {"w": jnp.ones(3)}
    for transition_steps in (3, 5, 10):
        gamma = optax.linear_schedule(0.5, 0.0, transition_steps)
        tx = lgv.add_langevin_noise(gamma, 0.1, 0, after_learning_rate=after_learning_rate)
        state = tx.init(params)._replace(count=jnp.int32(transition_steps))
        updates, _ = jax.jit(tx.update)(params, state, params)
        assert np.all(np.isfinite(updates["w"])), transition_steps
        if after_learning_rate:
            np.testing.assert_allclose(updates["w"], params["w"], atol=1e-4)
