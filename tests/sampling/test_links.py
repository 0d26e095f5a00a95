"""The links that record, `moments` and `snapshots`: exact numbers, in whatever loop and wrapper."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import langevin_optax as lgv
from langevin_optax import sampling
from tests.cases import bits

PARAMS = {"a": jnp.zeros((2, 3)), "b": {"c": jnp.zeros(())}}


def both(capacity=3, **kwargs):
    return optax.chain(sampling.moments(**kwargs), sampling.snapshots(capacity, **kwargs))


def walk(tx, steps, params=PARAMS, seed=0):
    """All parameters of a walk with these steps, and the last state."""
    rng, state, update, seen = np.random.default_rng(seed), tx.init(params), jax.jit(tx.update), []
    for _ in range(steps):
        step = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), params)
        updates, state = update(step, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *seen), state


def assert_recorded(state, kept, capacity=3):
    """That the links recorded these parameters, of shape (records, ...)."""
    mean, variance = sampling.mean_and_variance(state)
    for m, v, leaf in zip(*map(jax.tree.leaves, (mean, variance, kept)), strict=True):
        np.testing.assert_allclose(m, leaf.astype(np.float64).mean(0), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(v, leaf.astype(np.float64).var(0), rtol=1e-5, atol=1e-6)
    assert bits(sampling.snapshots_of(state)) == bits(jax.tree.map(lambda leaf: leaf[-capacity:], kept))


def compiled_moments(xs):
    """Of the rows of ``xs``, which are the parameters of the steps, in one scan."""
    tx, start = sampling.moments(), jnp.zeros(xs.shape[1])
    scan = jax.jit(lambda xs: jax.lax.scan(lambda s, x: (tx.update(start, s, x)[1], None), tx.init(start), xs)[0])
    return sampling.mean_and_variance(scan(xs))


def naive_moments(xs):
    """Welford's recursion in float32 as it stands."""

    def step(carry, x):
        n, mean, squares = carry
        deviation = x - mean
        mean = mean + deviation / (n + 1)
        return (n + 1, mean, squares + deviation * (x - mean)), None

    start = jnp.zeros(xs.shape[1])
    n, mean, squares = jax.jit(lambda xs: jax.lax.scan(step, (jnp.float32(0), start, start), xs)[0])(xs)
    return mean, squares / n


@pytest.mark.usefixtures("optimized")
def test_moments_are_exact_over_a_million_steps():
    """To the last bits of float32, for means that are large beside the deviation too; plain sums are not."""
    rng, size, deviation = np.random.default_rng(0), np.array([1e3, -1.0, 0.0, 1e-3]), np.array([1e-2, 1.0, 1e-4, 10.0])
    xs = (size + deviation * rng.standard_normal((10**6, 4))).astype(np.float32)
    exact = xs.astype(np.float64)

    def are_exact(mean, variance):
        of_mean = np.abs(mean - exact.mean(0)) / np.maximum(np.abs(exact.mean(0)), exact.std(0))
        return bool(np.all(of_mean < 1e-7) and np.all(np.abs(variance / exact.var(0) - 1) < 1e-6))

    assert are_exact(*compiled_moments(xs))
    assert not are_exact(*naive_moments(xs))


@pytest.mark.slow
def test_they_record_what_sample_keeps():
    """Chains in front; burn-in and thinning are those of `sample`."""
    tx = optax.chain(lgv.sgd(0.1, 1.0, 0), both(burn_in=2, thin=3))
    gradient = lambda params, key: (jnp.zeros(()), jax.tree.map(lambda p: p - 1, params))
    samples = sampling.sample(gradient, tx, PARAMS, 0, draws=7, chains=2, burn_in=2, thin=3, progress=False)
    mean, variance = sampling.mean_and_variance(samples.state)
    for m, v, draws in zip(*map(jax.tree.leaves, (mean, variance, samples.draws)), strict=True):
        np.testing.assert_allclose(m, draws.mean(1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(v, draws.var(1), rtol=1e-5, atol=1e-6)
    assert bits(sampling.snapshots_of(samples.state)) == bits(jax.tree.map(lambda leaf: leaf[:, -3:], samples.draws))


@pytest.mark.slow
def test_updates_pass_and_parameters_after_them_are_recorded():
    seen, state = walk(both(burn_in=3, thin=2), 4)
    with pytest.raises(ValueError, match=r"moments has recorded nothing yet: burn_in \+ thin steps"):
        sampling.mean_and_variance(state)
    assert jnp.isnan(jax.jit(sampling.mean_and_variance)(state)[0]["a"]).all()
    assert sampling.snapshots_of(state)["a"].shape == (0, 2, 3)
    for steps in (5, 8, 14):
        seen, state = walk(both(burn_in=3, thin=2), steps)
        assert_recorded(state, jax.tree.map(lambda leaf: leaf[4::2], seen))
    updates = jax.tree.map(jnp.ones_like, PARAMS)
    assert bits(both().update(updates, both().init(PARAMS), PARAMS)[0]) == bits(updates)


def test_low_precision_and_complex_parameters():
    params = {"w": jnp.zeros(4, jnp.bfloat16)}
    seen, state = walk(both(), 30, params)
    assert_recorded(state, seen)
    assert sampling.mean_and_variance(state)[0]["w"].dtype == jnp.float32
    assert sampling.snapshots_of(state)["w"].dtype == jnp.bfloat16
    xs = np.random.default_rng(0).standard_normal((9, 2, 3)) @ np.array([1, 1j, 0])
    tx, start = sampling.moments(), jnp.zeros(2, jnp.complex64)
    state = tx.init(start)
    for x in xs:
        _, state = tx.update(jnp.asarray(x, jnp.complex64), state, start)
    mean, variance = sampling.mean_and_variance(state)
    np.testing.assert_allclose(mean, xs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, xs.var(0), rtol=1e-5)
    assert variance.dtype == jnp.float32


def test_within_multi_steps_and_masked():
    """One record an applied step, and of the leaves that the mask shows."""
    tx = optax.MultiSteps(optax.chain(optax.scale(1.0), both()), every_k_schedule=2)
    seen, state = walk(tx.gradient_transformation(), 9)
    assert_recorded(state, jax.tree.map(lambda leaf: leaf[1::2], seen))
    seen, state = walk(optax.masked(both(), {"a": True, "b": False}), 4)
    assert_recorded(state, {"a": seen["a"]})


@pytest.mark.slow
def test_in_the_loops_of_flax():
    x = jnp.ones((4, 2))
    model = nn.Dense(1)
    tx = optax.chain(optax.sgd(0.1), both())
    state = TrainState.create(apply_fn=model.apply, params=model.init(jax.random.key(0), x)["params"], tx=tx)
    net = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)
    step = nnx.jit(lambda net, opt: opt.update(net, nnx.grad(lambda n: ((n(x) - 1) ** 2).mean())(net)))
    seen, of_net = [], []
    for _ in range(5):
        loss = lambda p, s=state: ((s.apply_fn({"params": p}, x) - 1) ** 2).mean()
        state = state.apply_gradients(grads=jax.grad(loss)(state.params))
        seen.append(state.params)
        step(net, optimizer)
        of_net.append(nnx.to_pure_dict(nnx.state(net, nnx.Param)))
    stack = lambda trees: jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
    assert_recorded(state, stack(seen))
    assert_recorded(state.opt_state, stack(seen))
    assert_recorded(optimizer.opt_state, stack(of_net))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_they_are_divided_like_the_parameters_and_can_be_donated(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        params = {"w": jax.device_put(jnp.ones((16, 3)), NamedSharding(mesh, P("data")))}
        tx = both(2)
        step = jax.jit(lambda p, s: tx.update(p, s, p), donate_argnums=1)
        state = tx.init(params)
        for _ in range(3):
            _, state = step(params, state)
        assert "all-" not in step.lower(params, state).compile().as_text()
    moments, snapshots = state
    for tree in (moments.mean, moments.squares, moments.squares_rest):
        assert tree["w"].sharding.spec in (P("data"), P("data", None))
    assert snapshots.buffer["w"].sharding.spec in (P(None, "data"), P(None, "data", None))
    assert (sampling.snapshots_of(state)["w"] == 2).all()


def test_within_shard_map():
    """Each shard records its own part."""
    mesh, tx = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,)), both(2)
    x = jax.device_put(jnp.arange(16.0), NamedSharding(mesh, P("data")))

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    def last(x):
        state = tx.init(x)
        for factor in (1, 2):
            _, state = tx.update(factor * x, state, x)
        return sampling.mean_and_variance(state)

    mean, variance = last(x)
    np.testing.assert_allclose(mean, 2.5 * np.arange(16))
    np.testing.assert_allclose(variance, 0.25 * np.arange(16) ** 2)


def test_counts_never_overflow():
    """After 2³¹ − 1 records moments are what they were, and snapshots go on."""
    tx, one = both(2), jnp.ones(())
    _, (moments, snapshots) = tx.update(one, tx.init(one), one)
    largest = jnp.asarray(2**31 - 1, jnp.int32)
    _, (moments, snapshots) = tx.update(one, (moments._replace(count=largest), snapshots), 3 * one)
    assert (moments.count, moments.mean) == (largest, 2)
    assert sampling.snapshots_of(snapshots).tolist() == [2, 4]
    far = both(2, burn_in=2**31 - 2)
    _, state = far.update(one, far.init(one), one)
    assert state[0].wait == state[1].wait == 2**31 - 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sampling.moments(burn_in=-1), ValueError, "burn_in must be ≥ 0"),
        (lambda: sampling.moments(thin=0), ValueError, "thin must be ≥ 1"),
        (lambda: sampling.moments(thin=1.5), TypeError, "thin must be an integer"),
        (lambda: sampling.snapshots(0), ValueError, "capacity must be ≥ 1"),
        (lambda: sampling.snapshots(1, -1), ValueError, "burn_in must be ≥ 0"),
        (lambda: sampling.snapshots(1, 0, 0), ValueError, "thin must be ≥ 1"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_bad_calls():
    one, state = jnp.ones(()), both().init(jnp.ones(()))
    for link, part in zip((sampling.moments(), sampling.snapshots(3)), state, strict=True):
        with pytest.raises(ValueError, match=r"records the parameters.*update\(updates, state, params\)"):
            link.update(one, part)
    for read, name in ((sampling.mean_and_variance, "moments"), (sampling.snapshots_of, "snapshots")):
        with pytest.raises(ValueError, match=f"one of {name} in it, found 0"):
            read(optax.adam(0.1).init(one))
        with pytest.raises(ValueError, match=f"one of {name} in it, found 2"):
            read((state, state))
    with pytest.raises(ValueError, match=r"snapshots_of must be called outside of jax\.jit"):
        jax.jit(sampling.snapshots_of)(state)
    chains = jax.tree.map(lambda a, b: jnp.stack([a, b]), state, both().update(one, state, one)[1])
    with pytest.raises(ValueError, match=r"the chains have different numbers of snapshots, \[0, 1\]"):
        sampling.snapshots_of(chains)
