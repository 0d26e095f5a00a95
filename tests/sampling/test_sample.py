"""`sample`: targets with known laws, the same run however it is cut or placed, and what it says of bad input.

A statistical check compares means of functions with their exact values, in standard errors of the effective sample size
of ArviZ, and chains with each other. It is shown to reject a σ that is 10 % off and chains that share their keys.
"""

import signal
import subprocess
import sys
import warnings
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import special, stats

import langevin_optax as lgv
from langevin_optax import sampling
from langevin_optax.sampling import _samples
from tests.cases import ALIASES, INTEGRATORS, MATRICES, OPTIMIZERS, bits, by_default, loss, params_like

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "(?s).*ArviZ is undergoing a major refactor", FutureWarning)
    import arviz

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def alone(request):
    """One device, except for the tests of several."""
    if "devices" in request.node.name:
        yield
        return
    with jax.default_device(jax.devices()[0]):
        yield


def quietly(gradient, tx, params, key=0, **kwargs):
    return sampling.sample(gradient, tx, params, key, progress=False, **kwargs)


# Laws.


class Law(NamedTuple):
    """Of each coordinate its mean, its variance, and P(x ≤ q) for q of shape (levels, coordinates)."""

    mean: np.ndarray
    variance: np.ndarray
    cdf: Any


class Target(NamedTuple):
    """What is sampled, by what, for σ or the root of the temperature times ``factor``."""

    loss: Any
    tx: Any
    start: np.ndarray
    law: Law
    settings: dict[str, Any]


def gaussian(mean, covariance):
    deviation = np.sqrt(np.diag(covariance))
    return Law(mean, deviation**2, lambda q: stats.norm.cdf((q - mean) / deviation))


def of_grid(points, density):
    """Of a density on a grid, so fine that sums are integrals: points of shape (n, coordinates)."""
    weights = density / density.sum()
    mean = weights @ points

    def cdf(q):
        edges = (points[None] <= q[:, None]).astype(float)
        return np.einsum("n,lnc->lc", weights, edges)

    return Law(mean, weights @ (points - mean) ** 2, cdf)


def plane():
    """SGLD on a Gaussian in two dimensions, whose discrete scheme has the covariance σ² (2A − γA²)⁻¹."""
    a, mean, gamma, sigma = np.array([[1.0, 0.6], [0.6, 2.0]]), np.array([1.0, -2.0]), 0.2, np.sqrt(2.0)
    law = gaussian(mean, sigma**2 * np.linalg.inv(2 * a - gamma * a @ a))
    a32, mean32 = jnp.asarray(a, jnp.float32), jnp.asarray(mean, jnp.float32)
    return Target(
        lambda x: 0.5 * (x - mean32) @ a32 @ (x - mean32),
        lambda factor: lgv.sgd(gamma, factor * sigma, key=0),
        np.zeros(2),
        law,
        dict(draws=600, chains=64, burn_in=50, thin=3),
    )


def fifty():
    """BAOAB, which is exact on quadratics, on a Gaussian in 50 dimensions with condition number 1000."""
    curvature = np.geomspace(1, 1000, 50)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 50)))[0]
    a = jnp.asarray(rotation * curvature @ rotation.T, jnp.float32)
    return Target(
        lambda x: 0.5 * x @ a @ x,
        lambda factor: lgv.baoab(0.05, factor**2, friction=1.5, key=0),
        np.zeros(50),
        gaussian(np.zeros(50), (rotation / curvature) @ rotation.T),
        dict(draws=300, chains=32, burn_in=300, thin=20),
    )


def banana():
    """x ~ N(0, 1) and y ~ N(b (x² − 1), s²)."""
    b, s = 0.5, 0.7
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def cdf(q):
        of_y = (weights * stats.norm.cdf((q[:, 1:] - b * (nodes**2 - 1)) / s)).sum(1)
        return np.stack([stats.norm.cdf(q[:, 0]), of_y], 1)

    return Target(
        lambda z: z[0] ** 2 / 2 + (z[1] - b * (z[0] ** 2 - 1)) ** 2 / (2 * s**2),
        lambda factor: lgv.baoab(0.1, factor**2, friction=1.5, key=0),
        np.zeros(2),
        Law(np.zeros(2), np.array([1.0, s**2 + 2 * b**2]), cdf),
        dict(draws=500, chains=64, burn_in=100, thin=15),
    )


def mixture():
    """0.3 N(−1.5, 0.6²) + 0.7 N(1, 0.8²)."""
    weights, means, widths = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.6, 0.8])
    mean = weights @ means
    law = Law(
        np.array([mean]),
        np.array([weights @ (widths**2 + means**2) - mean**2]),
        lambda q: (weights * stats.norm.cdf((q - means) / widths)).sum(1, keepdims=True),
    )
    w, m, s = (jnp.asarray(x, jnp.float32) for x in (weights, means, widths))
    return Target(
        lambda x: -jax.nn.logsumexp(-((x - m) ** 2) / (2 * s**2) + jnp.log(w / s)),
        lambda factor: lgv.baoab(0.15, factor**2, friction=1.0, key=0),
        np.zeros(1),
        law,
        dict(draws=800, chains=64, burn_in=100, thin=10),
    )


def logistic():
    """The posterior of slope and intercept for 40 data and a normal prior, from a mean loss at the temperature 1/N."""
    n, rng = 40, np.random.default_rng(1)
    x = rng.standard_normal(n)
    y = rng.random(n) < special.expit(1.5 * x - 0.5)
    axes = np.meshgrid(np.linspace(-3, 2.5, 300), np.linspace(-1, 6, 300), indexing="ij")
    grid = np.stack(axes, -1).reshape(-1, 2)
    logits = grid[:, :1] + grid[:, 1:] * x
    energy = np.logaddexp(0, np.where(y, -logits, logits)).sum(1) + (grid**2).sum(1) / (2 * 2.0**2)
    x32, sign = jnp.asarray(x, jnp.float32), jnp.where(y, -1.0, 1.0)
    return Target(
        lambda w: jax.nn.softplus(sign * (w[0] + w[1] * x32)).mean() + (w**2).sum() / (2 * 2.0**2 * n),
        lambda factor: lgv.baoab(0.6, factor**2 / n, friction=0.6, key=0),
        np.zeros(2),
        of_grid(grid, np.exp(energy.min() - energy)),
        dict(draws=500, chains=64, burn_in=100, thin=10),
    )


TARGETS = {target.__name__: target for target in (plane, fifty, banana, mixture, logistic)}


def run_of(target, factor=1.0):
    start = jnp.asarray(target.start, jnp.float32)
    gradient = jax.value_and_grad(lambda x, key: target.loss(x if start.shape != (1,) else x[0]))
    return quietly(gradient, target.tx(factor), start, key=1, **target.settings)


def standard_error(f):
    """Of the mean of draws of shape (chains, draws)."""
    return f.std() / np.sqrt(float(arviz.ess(f, method="mean")))


def agrees(draws, law, limit=5):
    """Means, variances and shares below four levels of every coordinate, within ``limit`` standard errors."""
    draws = np.asarray(draws, np.float64)
    levels = law.mean + np.sqrt(law.variance) * np.array([[-1.5], [-0.5], [0.5], [1.5]])
    shares, off = law.cdf(levels), []
    for i in range(draws.shape[-1]):
        x = draws[..., i]
        functions = [(x, law.mean[i]), ((x - law.mean[i]) ** 2, law.variance[i])]
        functions += [((x <= q).astype(float), p) for q, p in zip(levels[:, i], shares[:, i], strict=True)]
        off += [(f.mean() - exact) / standard_error(f) for f, exact in functions]
    return bool(np.max(np.abs(off)) < limit)


def are_independent(draws, limit=5):
    """The mean over the chains has the variance of one chain over their number, within ``limit`` standard errors."""
    draws = np.asarray(draws, np.float64)
    for x in np.moveaxis(draws - draws.mean((0, 1)), -1, 0):
        square = x.mean(0) ** 2 * len(x) / (x**2).mean()
        if abs(square.mean() - 1) > limit * standard_error(square[None]):
            return False
    return True


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", by_default(["plane", "mixture"], TARGETS))
def test_targets_with_known_laws(name):
    target = TARGETS[name]()
    draws = run_of(target).draws
    assert agrees(draws, target.law)
    assert are_independent(draws)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", by_default(["plane"], TARGETS))
@pytest.mark.parametrize("factor", [1.1, pytest.param(0.9, marks=pytest.mark.slow)])
def test_a_sigma_that_is_ten_per_cent_off_is_rejected(name, factor):
    target = TARGETS[name]()
    assert not agrees(run_of(target, factor=factor).draws, target.law)


@pytest.mark.usefixtures("optimized")
def test_chains_that_share_their_keys_are_rejected(monkeypatch):
    """Three times: by their keys, by their equality, and by the law of their mean."""
    target = plane()
    monkeypatch.setattr(_samples, "own_keys", lambda tx_state, *numbers: tx_state)
    with pytest.raises(ValueError, match="several chains of state have one key"):
        run_of(target)
    monkeypatch.setattr(_samples, "check_keys", lambda tx_state: None)
    with pytest.warns(UserWarning, match="all chains are the same to the bit"):
        draws = run_of(target).draws
    assert not are_independent(draws)


# One run, however it is cut.


def noisy(params, key):
    """A loss with a minibatch: its numbers depend on the key."""
    shift = jax.tree.map(lambda p: jax.random.normal(key, p.shape, p.dtype), params)
    return jax.value_and_grad(lambda p: loss(jax.tree.map(jnp.add, p, shift)))(params)


def of_key(params, key):
    """A loss that is the key of its minibatch."""
    return jax.random.uniform(key), jax.tree.map(jnp.zeros_like, params)


def joined(first, second):
    return jax.tree.map(lambda a, b: np.concatenate([a, b], 1), first[:2], second[:2])


SETTINGS = dict(chains=3, thin=2)


def start(dtype=jnp.float32):
    return {"bias": jnp.arange(3, dtype=dtype), "kernel": jnp.ones((3, 2), dtype), "scale": jnp.ones((1,), dtype)}


ROWS = {row.id: row for row in (*OPTIMIZERS, *INTEGRATORS, *MATRICES, *ALIASES)}


def several():
    """An integrator and two optimisers, each on a part of the parameters; the last one needs the loss."""
    names = {"bias": "adam", "kernel": "baoab", "scale": "polyak_sgd-f_min"}
    labels = lambda params: {label: label for label in params}
    return optax.partition({label: ROWS[name].langevin(1e-2, 1e-1) for label, name in names.items()}, labels)


MAKE = {"several": several} | {name: lambda name=name: ROWS[name].langevin(1e-2, 1e-1) for name in ROWS}


def halves(tx, dtype=jnp.float32):
    """The whole, and its first half."""
    whole = quietly(noisy, tx, start(dtype), key=7, draws=5, burn_in=3, **SETTINGS)
    return whole, quietly(noisy, tx, start(dtype), key=7, draws=3, burn_in=3, **SETTINGS)


def assert_second_half(tx, whole, first, params, state):
    second = quietly(noisy, tx, params, key=7, state=state, draws=2, **SETTINGS)
    assert bits(joined(first, second)) == bits(whole[:2])
    assert bits(second[2:]) == bits(whole[2:])
    assert not whole.diverged.any()


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    tx = lgv.baoab(0.1, 1.0, 1.0, key=0)
    run = lambda params=None, **kwargs: quietly(noisy, tx, jnp.ones(3) if params is None else params, 7, **kwargs)
    whole, first = run(draws=5, burn_in=3, **SETTINGS), run(draws=3, burn_in=3, **SETTINGS)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", (first.params, first.state))
        checkpointer.wait_until_finished()
        params, state = checkpointer.restore(tmp_path / "run", jax.eval_shape(lambda: (first.params, first.state)))
    assert_second_half(tx, whole, first, params, state)


def test_the_update_gets_the_loss():
    """Which the state of this optimiser is."""
    tx = optax.GradientTransformationExtraArgs(
        lambda params: jnp.zeros(()), lambda grads, state, params, value: (grads, value)
    )
    with pytest.warns(UserWarning, match="not a sampler"):
        samples = quietly(of_key, tx, jnp.ones(2), draws=2)
    assert samples.state.tx_state[0] == samples.losses[0, 0]  # the loss at a draw is that of the next step


ALL = [
    "several",
    "adam",
    "rmsprop-momentum",
    "baoab",
    "adaptive_langevin",
    "soap",
    "shampoo",
    "polyak_sgd-f_min",
    "adafactor",
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ALL)
def test_two_halves_are_the_whole(name, dtype):
    tx = MAKE[name]()
    whole, first = halves(tx, dtype)
    before = bits(first)
    assert_second_half(tx, whole, first, first.params, first.state)
    assert bits(first) == before  # nor was it taken by the second half
    assert {leaf.dtype for leaf in jax.tree.leaves(whole.draws)} == {jnp.dtype(dtype)}


KILLED = """
import os, pathlib, signal, sys
import jax, orbax.checkpoint as ocp
from tests.sampling.test_sample import SETTINGS, noisy, quietly, several, start

tx = several()
with jax.default_device(jax.devices()[0]), ocp.StandardCheckpointer() as checkpointer:
    first = quietly(noisy, tx, start(), key=7, draws=3, burn_in=3, **SETTINGS)
    checkpointer.save(pathlib.Path(sys.argv[1]) / "run", (first.params, first.state))
    checkpointer.wait_until_finished()
    keep = lambda params: jax.debug.callback(os.kill, os.getpid(), signal.SIGKILL) or params
    quietly(noisy, tx, first.params, key=7, state=first.state, draws=2, keep=keep, **SETTINGS)
"""


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-3000:]
    tx = several()
    whole, first = halves(tx)
    with ocp.StandardCheckpointer() as checkpointer:
        like = jax.eval_shape(lambda: (first.params, first.state))
        restored = checkpointer.restore(tmp_path / "run", like)
    assert_second_half(tx, whole, first, *restored)


@pytest.mark.slow
def test_it_is_the_loop_that_users_write():
    """Which steps are kept, and that a loss is the loss at its draw."""
    params, tx = params_like(), optax.adam(1e-2)
    gradient = lambda params, key: jax.value_and_grad(loss)(params)
    with (
        pytest.warns(UserWarning, match="an optimiser, not a sampler"),
        pytest.warns(UserWarning, match="are the same"),
    ):
        samples = quietly(gradient, tx, params, draws=3, chains=2, burn_in=2, thin=4)
    state, step = tx.init(params), jax.jit(lambda p, s: tx.update(jax.grad(loss)(p), s, p))
    for number in range(1, 15):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
        if number in (6, 10, 14):
            for leaf, p in zip(jax.tree.leaves(samples.draws), jax.tree.leaves(params), strict=True):
                np.testing.assert_allclose(leaf[1, (number - 6) // 4], p, rtol=1e-5)
    np.testing.assert_allclose(samples.losses, jax.vmap(jax.vmap(loss))(samples.draws), rtol=1e-5)
    assert samples.losses.shape == (2, 3)
    assert samples.state.step.tolist() == [14, 14]
    assert bits(jax.tree.map(lambda leaf: leaf[:, -1], samples.draws)) == bits(samples.params)


def test_keys():
    """Each chain and step has its own minibatch and noise; both keys count, and the number of chains does not."""
    run = lambda seed=0, key=0, chains=4: quietly(
        of_key, lgv.sgd(1.0, 1.0, seed), jnp.zeros(()), key, draws=5, chains=chains
    )
    samples, steps = run(), lambda s: np.diff(np.asarray(s.draws), axis=1, prepend=0)
    everything = np.concatenate([samples.losses.ravel(), steps(samples).ravel()])
    assert len(set(everything.tolist())) == 40
    for other, minibatches in [(run(seed=1), True), (run(key=1), False), (run(key=jax.random.key(1)), False)]:
        assert (bits(other.losses) == bits(samples.losses)) is minibatches
        assert not np.intersect1d(steps(other), steps(samples)).size
    fewer = run(chains=2)
    assert bits(fewer[:2]) == bits(jax.tree.map(lambda leaf: leaf[:2], samples[:2]))
    assert bits(run()) == bits(samples)


def test_all_parts_are_one_program(caplog):
    """Between which the bar moves, burn-in and rest included."""
    run = lambda draws, **kwargs: quietly(noisy, lgv.sgd(1e-2, 0.1, 0), jnp.ones(3), draws=draws, chains=2, **kwargs)
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        many = run(997, burn_in=501)
        messages = [record.getMessage() for record in caplog.records]
    assert sum(message.startswith("Finished XLA compilation of jit(run)") for message in messages) == 1
    assert bits(run(3, burn_in=501).draws) == bits(many.draws[:, :3])


# Where chains and parameters lie.


@pytest.mark.slow
def test_chains_on_several_devices_are_those_of_one():
    run = lambda: quietly(noisy, lgv.sgd(0.1, 1.0, 0), jnp.ones(3), draws=2, chains=8)
    with jax.default_device(jax.devices()[0]):
        one = run()
    divided = run()
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(one)} == {1}
    for leaf in jax.tree.leaves(divided):
        assert len(leaf.sharding.device_set) == 8
        assert leaf.addressable_shards[0].data.shape[0] == 1
    assert bits(divided) == bits(one)


@pytest.mark.slow
def test_how_many_devices_take_chains():
    run = lambda params, **kwargs: quietly(of_key, lgv.sgd(1.0, 1.0, 0), params, draws=2, **kwargs)
    devices = lambda samples: {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(samples)}
    samples = run(jnp.zeros(()), chains=12)
    assert devices(samples) == {6}
    again = run(samples.params, state=samples.state)
    assert devices(again) == {6}
    with pytest.warns(UserWarning, match="9 chains run on 3 of 8 devices, the largest number that divides them"):
        assert devices(run(jnp.zeros(()), chains=9)) == {3}
    on_one = jax.device_put((samples.params, samples.state), jax.devices()[1])
    assert bits(run(on_one[0], state=on_one[1])) == bits(again)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Explicit, pytest.param(AxisType.Auto, marks=pytest.mark.slow)])
def test_parameters_on_several_devices_stay_as_they_are(kind):
    mesh = jax.make_mesh((4,), ("model",), axis_types=(kind,))
    params, tx = jnp.ones((3, 8)), lgv.sgd(1e-2, 0.1, 0, momentum=0.5)
    run = lambda params, **state: quietly(noisy, tx, params, draws=3, chains=2, **state)
    with jax.set_mesh(mesh):
        samples = run(jax.device_put(params, NamedSharding(mesh, P(None, "model"))))
        more = run(samples.params, state=samples.state)
    for theta, momentum in [(s.params, s.state.tx_state[0].trace) for s in (samples, more)]:
        assert theta.sharding.spec == momentum.sharding.spec == P(None, None, "model")
    with jax.default_device(jax.devices()[0]):
        np.testing.assert_allclose(samples.draws, run(params).draws, rtol=1e-5, atol=1e-6)


# What is kept, and in which containers.


@pytest.mark.slow
def test_what_keep_keeps_and_what_arviz_makes_of_it():
    model = nn.Sequential([nn.Dense(3), nn.Dense(1)])
    x = jnp.linspace(-1, 1, 5)[:, None]
    params = model.init(jax.random.key(0), x)["params"]
    predict = lambda params: model.apply({"params": params}, x)[:, 0]
    gradient = jax.value_and_grad(lambda params, key: (predict(params) ** 2).mean())
    keep = lambda params: {"f": predict(params), "layers": [params["layers_0"]["bias"].astype(jnp.bfloat16)]}
    samples = quietly(gradient, lgv.sgd(1e-2, 0.1, 0), params, draws=6, chains=2, keep=keep)
    np.testing.assert_allclose(samples.draws["f"][:, -1], jax.vmap(predict)(samples.params), rtol=1e-5)
    data = samples.to_arviz()
    assert {name: values.shape for name, values in data.posterior.items()} == {"f": (2, 6, 5), "layers.0": (2, 6, 3)}
    assert data.posterior["layers.0"].dtype == np.float32
    assert data.sample_stats["loss"].shape == (2, 6)
    assert len(arviz.summary(data)) == 8
    bare = quietly(of_key, lgv.sgd(1e-2, 0.1, 0), jnp.ones(2), draws=4)
    assert list(bare.to_arviz().posterior) == ["draws"]


@pytest.mark.slow
def test_parameters_of_nnx():
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    gradient = jax.value_and_grad(lambda params, key: (nnx.merge(graph, params)(jnp.ones((1, 2))) ** 2).mean())
    samples = quietly(gradient, lgv.adam(1e-2, 0.1, 0), params, draws=4, chains=2)
    assert samples.draws["kernel"].get_value().shape == (2, 4, 2, 1)
    assert set(samples.to_arviz().posterior) == {"kernel", "bias"}
    last = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[0], samples.params))
    assert last(jnp.ones((1, 2))).shape == (1, 1)


# Noises.


def test_the_noise_of_optax_is_each_chains_own():
    gradient = lambda params, key: (params.sum(), jnp.zeros_like(params))
    samples = quietly(gradient, optax.noisy_sgd(0.1, 0.1, key=0), jnp.zeros(3), draws=5, chains=4)
    assert len(set(np.asarray(samples.draws).ravel().tolist())) == 60


@pytest.mark.slow
def test_two_noises_with_one_key():
    """Each has its own part of the parameters in a partition; elsewhere nobody can tell."""
    run = lambda tx, params: quietly(of_key, tx, params, draws=1)
    noise = lambda key: lgv.add_langevin_noise(0.1, 0.1, key, after_learning_rate=True)
    with pytest.warns(UserWarning, match="two noises in tx have one key"):
        run(optax.chain(noise(0), noise(jax.random.key(0))), jnp.ones(2))
    run(optax.chain(noise(0), noise(1)), jnp.ones(2))
    _samples.check_keys(jax.vmap(lambda _: ROWS["lala"].langevin().init(params_like()))(jnp.arange(1)))


# What is not a number, and what is no input.


@pytest.mark.slow
def test_chains_that_diverge_are_marked_and_kept():
    """A cliff at 1, over which some chains of a random walk fall."""
    gradient = lambda x, key: (jnp.where(x > 1, jnp.nan, 0.0), jnp.where(x > 1, jnp.nan, 0.0))
    with pytest.warns(
        UserWarning, match=r"\d of 6 chains diverged.*: \d \(finite for \d+ steps\).*samples.diverged marks"
    ):
        samples = quietly(gradient, lgv.sgd(1.0, 0.3, 0), jnp.zeros(()), draws=12, chains=6, burn_in=2)
    bad = np.isnan(np.asarray(samples.draws)).any(1) | np.isnan(np.asarray(samples.losses)).any(1)
    assert samples.diverged.tolist() == bad.tolist()
    assert 0 < bad.sum() < 6
    assert samples.draws.shape == (6, 12)
    assert samples.to_arviz().posterior["draws"].shape == (6, 12)
    with pytest.warns(UserWarning, match="chains diverged"):
        more = quietly(gradient, lgv.sgd(1.0, 0.3, 0), samples.params, state=samples.state, draws=1)
    assert (more.diverged >= samples.diverged).all()


def test_not_a_number_at_once():
    run = lambda gradient: quietly(gradient, lgv.sgd(1e30, 0.1, 0), jnp.ones(2), draws=200, chains=2)
    with pytest.raises(
        FloatingPointError, match=r"after their first step. The step size \(learning rate\) is too large"
    ):
        run(jax.value_and_grad(lambda x, key: (x**4).sum() * 1e10))
    with pytest.raises(FloatingPointError, match="the loss is not finite at the params where the chains start"):
        run(jax.value_and_grad(lambda x, key: jnp.log(x - 1).sum()))


def square(params, key):
    return jax.value_and_grad(lambda p: (p**2).sum())(params)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"draws": 0}, ValueError, "draws must be ≥ 1, got 0"),
        ({"draws": 2.0}, TypeError, "draws must be an integer, got 2.0"),
        ({"chains": 0}, ValueError, "chains must be ≥ 1"),
        ({"thin": 0}, ValueError, "thin must be ≥ 1"),
        ({"burn_in": -1}, ValueError, "burn_in must be ≥ 0"),
        ({"key": 0.5}, TypeError, "key must be an int or a jax.random.key, got 0.5"),
        ({"key": jax.random.split(jax.random.key(0))}, ValueError, "key must be a single key"),
        ({"tx": lgv.sgd}, TypeError, "tx must be an optax.GradientTransformation"),
        ({"gradient": lambda p, key: p}, ValueError, r"gradient must return \(loss, grads\).*value_and_grad"),
        ({"gradient": lambda p, key: ((p.sum(), p), p)}, ValueError, "with a real scalar loss.*without aux"),
        ({"gradient": lambda p, key: (p, p)}, ValueError, "with a real scalar loss"),
        ({"gradient": lambda p, key: (p.sum(), {"w": p})}, ValueError, "grads of gradient must be like params"),
        ({"gradient": lambda p, key: (p.sum(), p[:1])}, ValueError, r"must be like params,\n  \(2,\)\ngot\n  \(1,\)"),
        ({"keep": lambda p: None}, TypeError, "keep must return a tree of arrays of numbers, got None"),
        ({"keep": lambda p: jax.random.key(0)}, TypeError, "keep must return a tree of arrays of numbers"),
        ({"keep": lambda p: p[p > 0]}, TypeError, "keep must be a function .* arrays of fixed shapes"),
        ({"state": ()}, TypeError, "state must be the state of earlier Samples, a SamplerState, got tuple"),
    ],
)
def test_bad_input(changed, error, message):
    arguments = dict(gradient=square, tx=lgv.sgd(0.1, 1.0, 0), params=jnp.ones(2), draws=2) | changed
    with pytest.raises(error, match="(?s)" + message):
        quietly(**arguments)


@pytest.mark.slow
def test_a_run_that_goes_on_is_that_run():
    tx, start = lgv.adam(0.1, 1.0, 0), {"w": jnp.ones(2)}
    gradient = lambda params, key: jax.value_and_grad(lambda p: (p["w"] ** 2).sum())(params)
    params, state = quietly(gradient, tx, start, draws=2, chains=3)[2:]
    go = lambda tx=tx, params=params, state=state, **changed: quietly(
        gradient, tx, params, state=state, draws=1, **changed
    )
    with pytest.raises(ValueError, match="chains must be that of the run that goes on, 3, got 2"):
        go(chains=2)
    with pytest.raises(ValueError, match="the same chains in front"):
        go(params=start)
    with pytest.raises(ValueError, match="state is that of another tx, or of other params"):
        go(tx=lgv.rmsprop(0.1, 1.0, 0))
    with pytest.raises(ValueError, match="state is that of another tx, or of other params"):
        go(params={"w": jnp.ones((3, 4))})
    with pytest.raises(ValueError, match="state is that of another tx, or of other params"):
        go(params={"v": jnp.ones((3, 2))})
    with pytest.warns(UserWarning, match="key is not that of the run that goes on, and is not used"):
        other = go(key=5)
    with pytest.warns(UserWarning, match="key is not that of the run"):
        go(key=jax.random.key(0, impl="rbg"))
    same = go(chains=3)
    assert bits(other) == bits(same)
    some = jax.tree.map(lambda leaf: leaf[1:], (params, state))
    assert bits(go(params=some[0], state=some[1])[:2]) == bits(jax.tree.map(lambda leaf: leaf[1:], same[:2]))
    one_key = state._replace(tx_state=jax.vmap(lambda _: tx.init(start))(jnp.arange(3)))
    with pytest.raises(ValueError, match="several chains of state have one key"):
        go(state=one_key)


def test_the_bar_and_arviz_are_extras(capsys, monkeypatch):
    run = lambda progress: sampling.sample(
        square, lgv.sgd(0.1, 1.0, 0), jnp.ones(2), 0, draws=3, burn_in=4, progress=progress
    )
    run(False)
    assert capsys.readouterr().err == ""
    run(True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "7/7" in err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    samples = run(True)
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"extra `sampling`.*pip install 'langevin_optax\[sampling\]'"):
        samples.to_arviz()
