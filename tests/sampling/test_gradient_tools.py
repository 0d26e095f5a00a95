"""Thermometers, the scale of a posterior, control variates: against exact laws, each of which rejects wrong versions.

Chains are independent, so that the error of a mean is known; the laws are those of the discrete schemes.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import langevin_optax as lgv
from langevin_optax.sampling._control_variate import control_variate
from langevin_optax.sampling._posterior_scale import tempered_posterior
from langevin_optax.sampling._thermometers import configurational_temperature
from tests.cases import bits, by_default

# Thermometers.

CURVATURES = np.array([0.5, 1.0, 2.0, 4.0])
MEAN = np.array([3.0, -1.0, 0.5, 2.0])
TAU, H = 0.7, 0.4


def readings(make, taus=(TAU,), chains=1500, steps=30, burn_in=50, center=MEAN, late=False, grad_noise=0.0):
    """Configurational and kinetic temperature, on ½ Σ a (θ − m)², in the mean of each chain, for each τ."""
    a, mean = jnp.float32(CURVATURES), jnp.float32(MEAN)

    def chain(tau, i):
        tx = make(tau)

        def step(run, t):
            params, state = run
            grads = a * (params - mean)
            if grad_noise:
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(7), i), t)
                grads += grad_noise * jax.random.normal(key, params.shape)
            updates, state = tx.update(grads, state, params)
            new = params + updates
            kinetic = lgv.kinetic_temperature(state) if hasattr(state, "momentum") else 0.0
            return (new, state), (configurational_temperature(new if late else params, grads, center), kinetic)

        _, both = jax.lax.scan(step, (mean, lgv.fold_in(tx.init(mean), i)), jnp.arange(burn_in + steps))
        return jax.tree.map(lambda x: x[burn_in:].mean(), both)

    every = jax.jit(jax.vmap(jax.vmap(chain, (None, 0)), (0, None)))
    configurational, kinetic = every(jnp.float32(taus), jnp.arange(chains))
    return [*zip(np.asarray(configurational), np.asarray(kinetic), strict=True)]


def reads(values, expected):
    """Whether the mean over independent chains is ``expected``, within five standard errors."""
    return abs(values.mean() - expected) < 5 * values.std(ddof=1) / math.sqrt(len(values))


EULER = np.mean(TAU / (1 - H * CURVATURES / 2))  # of the scheme's own law, a⟨(θ − m)²⟩ in the mean over coordinates
SAMPLERS = {
    "baoab": (lambda tau: lgv.baoab(H, tau, 1.0, 0), TAU),
    "euler": (lambda tau: lgv.overdamped_langevin(H, tau, 0), EULER),
    "leimkuhler_matthews": (lambda tau: lgv.overdamped_langevin(H, tau, 0, scheme="leimkuhler_matthews"), TAU),
}


@pytest.mark.parametrize("name", by_default(["baoab"], SAMPLERS))
def test_the_thermometers_read_the_temperature(name):
    """Both, of BAOAB; and they see a temperature that is 5 % off."""
    make, expected = SAMPLERS[name]
    (configurational, kinetic), (wrong, wrong_kinetic) = readings(make, (TAU, 1.05 * TAU))
    assert reads(configurational, expected)
    assert not reads(wrong, expected)
    if name == "baoab":
        assert reads(kinetic, TAU)
        assert not reads(wrong_kinetic, TAU)
    if name == "euler":
        assert not reads(configurational, TAU)  # that the step is large is seen


@pytest.mark.slow
def test_the_thermometer_needs_the_gradient_of_these_parameters():
    """With those of the step before it reads another temperature, from any center it reads the same."""
    make, _ = SAMPLERS["leimkuhler_matthews"]
    ((late, _),) = readings(make, late=True)
    assert not reads(late, TAU)
    ((near, _),), ((far, _),) = readings(make), readings(make, center=None)
    assert reads(far, TAU)
    assert far.std() > 2 * near.std()


@pytest.mark.slow
def test_the_thermometers_disagree_where_momenta_hide_what_positions_suffer():
    """Much gradient noise, under a thermostat: the momenta are at τ, the positions are hotter."""
    make = lambda tau: lgv.adaptive_langevin(H, tau, 0.1, 2.0, 0, initial_thermostat=4.0)
    ((configurational, kinetic),) = readings(make, chains=300, steps=400, burn_in=400, grad_noise=6.0)
    assert abs(kinetic.mean() / TAU - 1) < 0.05
    assert configurational.mean() / TAU > 1.2


def test_the_temperature_of_a_tree():
    rng = np.random.default_rng(0)
    theta, g, center = ({"w": rng.normal(size=(3, 4)), "b": [rng.normal(size=5), None]} for _ in range(3))
    expected = sum(((x - c) * y).sum() for x, y, c in zip(*map(jax.tree.leaves, (theta, g, center)), strict=True)) / 17
    found = configurational_temperature(*(jax.tree.map(jnp.float32, tree) for tree in (theta, g, center)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    small = configurational_temperature(jnp.full(3000, 1.0, jnp.bfloat16), jnp.full(3000, 1.0, jnp.bfloat16))
    assert small.dtype == jnp.float32
    assert small == 1.0
    assert configurational_temperature({}, {}) == 0
    x = jnp.arange(16.0)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.shard_map(configurational_temperature, mesh=mesh, in_specs=P("data"), out_specs=P())
    np.testing.assert_allclose(jax.jit(split)(x, x), np.mean(np.arange(16.0) ** 2), rtol=1e-6)


def test_what_the_thermometer_does_not_take():
    theta = {"w": jnp.ones(3)}
    for grads, center, name in (({"v": jnp.ones(3)}, None, "grads"), (theta, {"w": jnp.ones(1)}, "center")):
        with pytest.raises(ValueError, match=f"{name} must be like the parameters"):
            configurational_temperature(theta, grads, center)
    with pytest.raises(TypeError, match=r"needs real leaves, got a complex one at \['w'\]"):
        configurational_temperature({"w": 1j * jnp.ones(3)}, {"w": 1j * jnp.ones(3)})


# The scale of a posterior: linear regression with known noise, whose posterior is normal.

N, DIM, NOISE, PRECISION = 40, 3, 0.5, 20.0
DRAW = np.random.default_rng(1)
X = DRAW.normal(size=(N, DIM)) * [1.0, 0.6, 0.3]
Y = X @ [1.0, -2.0, 0.5] + NOISE * DRAW.normal(size=N)


def exact(temperature=1.0, precision=PRECISION):
    """Mean and covariance of the posterior, to the power 1/T."""
    inverse = X.T @ X / NOISE**2 + precision * np.eye(DIM)
    return np.linalg.solve(inverse, X.T @ Y / NOISE**2), temperature * np.linalg.inv(inverse)


def mean_loss(w, x, y):
    return jnp.mean((y - x @ w) ** 2) / (2 * NOISE**2)


def draws(loss, sigma, chains=3000, steps=100):
    """The last parameters of independent chains of BAOAB, which is exact on a quadratic."""
    tx, x, y, start = lgv.baoab(0.5, sigma**2 / 2, 2.0, 0), jnp.float32(X), jnp.float32(Y), jnp.float32(exact()[0])

    def chain(i):
        def step(_, run):
            updates, state = tx.update(jax.grad(loss)(run[0], x, y), run[1])
            return run[0] + updates, state

        return jax.lax.fori_loop(0, steps, step, (start, lgv.fold_in(tx.init(start), i)))[0]

    return jax.vmap(chain)(jnp.arange(chains))


def follow(draws, mean, covariance):
    """Whether draws have this mean and covariance, within five standard errors of each entry, whitened."""
    z = np.linalg.solve(np.linalg.cholesky(covariance), (np.asarray(draws, np.float64) - mean).T)
    deviations = z @ z.T / len(draws) - np.eye(DIM)
    errors = np.where(np.eye(DIM), math.sqrt(2 / len(draws)), math.sqrt(1 / len(draws)))
    return bool(np.all(np.abs(z.mean(1)) < 5 / math.sqrt(len(draws))) and np.all(np.abs(deviations) < 5 * errors))


@pytest.mark.slow
def test_the_posterior_of_a_linear_regression():
    loss, sigma = tempered_posterior(mean_loss, N, prior_precision=PRECISION)
    assert follow(jax.jit(draws, static_argnums=0)(loss, sigma), *exact())

    @jax.jit
    @jax.vmap
    def wrong(decay, sigma):
        return draws(lambda w, x, y: mean_loss(w, x, y) + decay / 2 * jnp.sum(w**2), sigma)

    # A forgotten 1/N in the prior, in σ, in both; no prior; half the data for N; a temperature that is 20 % off.
    decays = jnp.float32([PRECISION, PRECISION / N, PRECISION, 0, 2 * PRECISION / N, PRECISION / N, PRECISION / N])
    sigmas = jnp.float32([sigma, math.sqrt(2), math.sqrt(2), sigma, math.sqrt(4 / N), math.sqrt(1.2) * sigma, sigma])
    found = [follow(x, *exact()) for x in wrong(decays, sigmas)]
    assert found == [*[False] * 6, True]


@pytest.mark.slow
def test_a_cold_posterior():
    cold = jax.jit(draws, static_argnums=0)(
        *tempered_posterior(mean_loss, N, prior_precision=PRECISION, temperature=0.3)
    )
    assert follow(cold, *exact(0.3))
    assert not follow(cold, *exact())
    assert not follow(cold, *exact(0.3, PRECISION / 0.3))  # a prior that is not tempered with the likelihood


def test_the_loss_is_the_negative_log_posterior_over_the_examples():
    w, x, y = jnp.float32([0.3, -0.2, 1.0]), jnp.float32(X), jnp.float32(Y)
    likelihood = np.sum((Y - X @ np.asarray(w)) ** 2) / (2 * NOISE**2)
    prior = PRECISION / 2 * np.sum(np.asarray(w) ** 2)
    loss, sigma = posterior = tempered_posterior(mean_loss, N, prior_precision=PRECISION)
    np.testing.assert_allclose(N * loss(w, x, y), likelihood + prior, rtol=1e-5)
    assert sigma == posterior.sigma == math.sqrt(2 / N)
    by_function = tempered_posterior(mean_loss, N, log_prior=lambda w: -PRECISION / 2 * jnp.sum(w**2)).loss
    np.testing.assert_allclose(N * by_function(w, x, y=y), likelihood + prior, rtol=1e-5)
    tree = {"a": {"w": jnp.ones(2), "v": jnp.ones(3)}, "b": jnp.float32(2.0)}
    by_parts = tempered_posterior(lambda p: jnp.float32(0.0), 10, prior_precision={"a": 2.0, "b": 3.0}).loss
    np.testing.assert_allclose(10 * by_parts(tree), 2 / 2 * 5 + 3 / 2 * 4, rtol=1e-6)
    none = tempered_posterior(mean_loss, N, prior_precision=0.0).loss
    assert bits(none(w, x, y)) == bits(mean_loss(w, x, y))
    with_aux = tempered_posterior(lambda w, x: (jnp.sum(w * x), "more"), 4, prior_precision=2.0, has_aux=True).loss
    assert with_aux(2.0, 3.0) == (7.0, "more")
    (value, aux), gradient = jax.value_and_grad(with_aux, has_aux=True)(2.0, 3.0)
    assert (value, gradient, aux) == (7.0, 3.0 + 2.0 * 2.0 / 4, "more")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "needs a prior, either"),
        ({"prior_precision": 1.0, "log_prior": lambda w: 0.0}, ValueError, "and not both"),
        ({"prior_precision": -1.0}, ValueError, "prior_precision must be ≥ 0, got -1"),
        ({"prior_precision": {"a": "1"}}, TypeError, r"prior_precision\['a'\] must be a number"),
        ({"log_prior": 1.0}, TypeError, "log_prior must be a function"),
        ({"prior_precision": 1.0, "examples": 0}, ValueError, "examples must be ≥ 1"),
        ({"prior_precision": 1.0, "examples": 10.0}, TypeError, "examples must be an integer"),
        ({"prior_precision": 1.0, "temperature": 0.0}, ValueError, "temperature must be > 0"),
        ({"prior_precision": 1.0, "mean_loss": None}, TypeError, "mean_loss must be a function"),
    ],
)
def test_what_makes_no_posterior(arguments, error, message):
    with pytest.raises(error, match=message):
        tempered_posterior(**({"mean_loss": mean_loss, "examples": N} | arguments))


def test_losses_that_are_no_scalars():
    each = tempered_posterior(lambda w, x: x * w, 4, prior_precision=1.0).loss
    with pytest.raises(ValueError, match=r"mean_loss must return a scalar, the mean over the batch, .* shape \(3,\)"):
        each(1.0, jnp.ones(3))
    with pytest.raises(ValueError, match="log_prior must return a scalar"):
        tempered_posterior(lambda w: 0.0, 4, log_prior=lambda w: w).loss(jnp.ones(3))


# Control variates.


def logistic(params, x, y):
    return jnp.mean(jnp.logaddexp(0.0, -y * (x @ params["w"] + params["b"])))


LABELS = np.where(Y > 0, 1.0, -1.0)
DATA = jnp.float32(X), jnp.float32(LABELS)
CENTER = {"w": jnp.float32([1.0, -1.5, 0.3]), "b": jnp.float32(0.1)}
NEAR = jax.tree.map(lambda c: c + 0.05, CENTER)
GRADIENT = jax.grad(logistic)
FULL = GRADIENT(CENTER, *DATA)


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def by_example(gradient, params):
    """The gradients of all minibatches of one example, in float64."""
    one = jax.vmap(lambda x, y: gradient(params, x[None], y[None]))(*DATA)
    return np.stack([flat(jax.tree.map(lambda g, i=i: g[i], one)) for i in range(N)]).astype(np.float64)


def test_the_correction_keeps_the_mean_and_takes_the_noise():
    better = control_variate(GRADIENT, CENTER, FULL)
    expected = flat(GRADIENT(NEAR, *DATA))
    unbiased = lambda gradients: np.allclose(gradients.mean(0), expected, atol=1e-6)
    plain, corrected = by_example(GRADIENT, NEAR), by_example(better, NEAR)
    assert unbiased(plain)
    assert unbiased(corrected)
    noise = [np.sum(g.var(0)) for g in (plain, corrected)]
    assert noise[1] < 0.01 * noise[0]  # of the order of ‖θ − θ₀‖²
    # At the point itself none but rounding; far off there is more than without.
    assert np.sum(by_example(better, CENTER).var(0)) < 1e-10 * noise[0]
    far = jax.tree.map(lambda c: 20 * c, CENTER)
    assert np.sum(by_example(better, far).var(0)) > np.sum(by_example(GRADIENT, far).var(0))
    # Without the full gradient, or with the other sign, the mean is another: both are seen.
    zero = jax.tree.map(jnp.zeros_like, CENTER)
    assert not unbiased(by_example(control_variate(GRADIENT, CENTER, zero), NEAR))
    turned = lambda *args: jax.tree.map(lambda g, c: 2 * g - c, GRADIENT(*args), better(*args))
    wrong = by_example(turned, NEAR)
    assert np.sum(wrong.var(0)) > 3 * noise[0]


def test_with_the_whole_data_it_is_the_gradient():
    """Bit for bit, for each form of a gradient."""
    for gradient in (GRADIENT, jax.value_and_grad(logistic)):
        better = control_variate(gradient, CENTER, FULL)
        assert bits(better(NEAR, *DATA)) == bits(gradient(NEAR, *DATA))
    pair = control_variate(jax.value_and_grad(logistic), CENTER, FULL)
    value, gradients = pair(NEAR, DATA[0][:5], y=DATA[1][:5])
    assert value == logistic(NEAR, DATA[0][:5], DATA[1][:5])
    assert bits(gradients) == bits(control_variate(GRADIENT, CENTER, FULL)(NEAR, DATA[0][:5], DATA[1][:5]))
    # Parameters that are a pair themselves, and gradients in bfloat16.
    two = lambda p, x: jax.grad(lambda p: jnp.sum(p[0] * p[1] * x))(p)
    center = (jnp.bfloat16(1.0), jnp.bfloat16(2.0))
    better = control_variate(two, center, two(center, jnp.bfloat16(3.0)))
    out = better((jnp.bfloat16(1.5), jnp.bfloat16(2.0)), jnp.bfloat16(3.0))
    assert out == (6.0, 4.5)
    assert {x.dtype.name for x in out} == {"bfloat16"}


def test_a_key_draws_the_same_minibatch_for_both():
    def drawn(params, key):
        i = jax.random.randint(key, (4,), 0, N)
        return jax.value_and_grad(logistic)(params, DATA[0][i], DATA[1][i])

    better = jax.jit(control_variate(drawn, CENTER, FULL))
    keys = jax.random.split(jax.random.key(0), 300)
    spread = [np.std(jax.vmap(lambda k, g=g: g(NEAR, k)[1]["w"])(keys), axis=0).max() for g in (jax.jit(drawn), better)]
    assert spread[1] < 0.1 * spread[0]


def stationary(gamma, sigma, batch, corrected):
    """The exact covariance of SGLD with minibatches on the regression, around the mean of the posterior.

    Δ ← (1 − γH_b)Δ − γg_b + σ√γ ξ, where H_b and g_b, which a control variate takes away, are means over the batch.
    """
    mean = exact()[0]
    hessians = X[:, :, None] * X[:, None, :] / NOISE**2
    gradients = X * (X @ mean - Y)[:, None] / NOISE**2
    h, added = hessians.mean(0) + PRECISION / N * np.eye(DIM), sigma**2 * gamma * np.eye(DIM)
    if not corrected:
        added += gamma**2 * np.cov(gradients.T, bias=True) / batch
    step, covariance = np.eye(DIM) - gamma * h, np.zeros((DIM, DIM))
    for _ in range(5000):
        deviations = hessians - hessians.mean(0)
        noise = np.mean(deviations @ covariance @ deviations, axis=0) / batch
        covariance = step @ covariance @ step + gamma**2 * noise + added
    return covariance


@pytest.mark.slow
def test_sampling_with_minibatches():
    """SGLD of two examples a step has its exact law, which with control variates is nearly the posterior."""
    loss, sigma = tempered_posterior(mean_loss, N, prior_precision=PRECISION)
    mean, covariance = exact()
    gradient, x, y, start = jax.grad(loss), jnp.float32(X), jnp.float32(Y), jnp.float32(mean)
    gamma, chains = 0.03, 3000
    tx = lgv.sgd(gamma, sigma, 0)

    @functools.partial(jax.jit, static_argnums=0)
    def sampled(gradient):
        def chain(i):
            def step(t, run):
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), i), t)
                batch = jax.random.randint(key, (2,), 0, N)
                updates, state = tx.update(gradient(run[0], x[batch], y[batch]), run[1])
                return run[0] + updates, state

            return jax.lax.fori_loop(0, 200, step, (start, lgv.fold_in(tx.init(start), i)))[0]

        return jax.vmap(chain)(jnp.arange(chains))

    plain, better = sampled(gradient), sampled(control_variate(gradient, start, gradient(start, x, y)))
    laws = {corrected: stationary(gamma, sigma, 2, corrected) for corrected in (True, False)}
    assert follow(better, mean, laws[True])
    assert follow(plain, mean, laws[False])
    assert not follow(better, mean, laws[False])
    assert not follow(plain, mean, laws[True])
    excess = {c: np.max(np.diag(law) / np.diag(covariance)) - 1 for c, law in laws.items()}
    assert excess[True] < 0.2 < 1 < excess[False]


def test_what_is_no_control_variate():
    with pytest.raises(TypeError, match="gradient must be a function"):
        control_variate(FULL, CENTER, FULL)
    with pytest.raises(ValueError, match="full_gradient must be like"):
        control_variate(GRADIENT, CENTER, (0.0, FULL))
    with pytest.raises(ValueError, match="what gradient returns must be like"):
        control_variate(lambda p: p["w"], CENTER, FULL)(CENTER)
