"""One contract for every optimiser of the package: whatever Optax, JAX and Flax do to an optimiser works."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import langevin_optax as lgv
from tests.cases import OPTIMIZERS, bits, loss, params_like, run

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.id)
GRADIENTS = jax.grad(loss)(params_like())


def one_step(tx, params=None, gradients=None, state=None, **extra_args):
    params = params_like() if params is None else params
    gradients = GRADIENTS if gradients is None else gradients
    state = tx.init(params) if state is None else state
    return tx.update(gradients, state, params, **extra_args)


def noise_state(state):
    return next(s for s in jax.tree.leaves(state, is_leaf=is_noise) if is_noise(s))


def is_noise(x):
    return isinstance(x, lgv.LangevinState)


@every_optimizer
def test_jit_extra_args_and_no_second_compilation(optimizer):
    params, tx = params_like(), optimizer.langevin()
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(None)
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params, value=value, nobody_expects=1)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    first, state = step(params, state)
    step(*step(first, state))
    assert len(traces) == 1
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    plain = optax.apply_updates(params, one_step(tx, params, jax.grad(loss)(params))[0])
    chex.assert_trees_all_close(first, plain, rtol=1e-5, atol=1e-6)


@every_optimizer
def test_scan_equals_a_loop(optimizer):
    params, tx = params_like(), optimizer.langevin()
    scanned = run(tx, params, 3)
    looped = (params, tx.init(params))
    step = jax.jit(lambda params, state: run(tx, params, 1, state))
    for _ in range(3):
        looped = step(*looped)
    chex.assert_trees_all_close(scanned[0], looped[0], rtol=1e-5, atol=1e-6)
    assert bits(scanned[1][-1]) == bits(looped[1][-1])
    assert int(noise_state(scanned[1]).count) == 3


@every_optimizer
def test_inject_hyperparams(optimizer):
    params = params_like()
    factory = lambda learning_rate, sigma, key: optimizer.langevin(learning_rate, sigma, key)
    for key in (5, jax.random.key(5)):
        tx = optax.inject_hyperparams(factory)(learning_rate=1e-2, sigma=1e-1, key=key)
        updates, state = jax.jit(tx.update)(GRADIENTS, tx.init(params), params)
        chex.assert_trees_all_close(updates, one_step(optimizer.langevin(1e-2, 1e-1, 5))[0], rtol=1e-5, atol=1e-6)
        # Changed in mid-run: without noise it goes on as the stock optimiser, with γ = 0 it stands still.
        quiet = optax.tree.set(state, sigma=jnp.zeros_like(state.hyperparams["sigma"]))
        stock_state = state.inner_state[:-1]
        expected, _ = one_step(optimizer.stock(), params, state=stock_state)
        chex.assert_trees_all_close(one_step(tx, params, state=quiet)[0], expected, rtol=1e-5, atol=1e-6)
        still = optax.tree.set(state, learning_rate=jnp.zeros_like(state.hyperparams["learning_rate"]))
        updates, _ = one_step(tx, params, state=still)
        if "momentum" not in optimizer.kwargs or optimizer.name == "sgd":
            assert all(np.all(u == 0) for u in jax.tree.leaves(updates))
    # Injected schedules are the schedules.
    gamma, sigma = optax.linear_schedule(1e-2, 0.0, 5), optax.linear_schedule(0.0, 1e-1, 5)
    tx = optax.inject_hyperparams(factory, static_args="key")(learning_rate=gamma, sigma=sigma, key=5)
    direct = optimizer.langevin(gamma, sigma, 5)
    state, direct_state = tx.init(params), direct.init(params)
    for _ in range(2):
        (updates, state), (expected, direct_state) = one_step(tx, state=state), one_step(direct, state=direct_state)
        chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-6)


@every_optimizer
def test_multi_steps_draws_one_noise_a_step(optimizer):
    params, tx = params_like(), optax.MultiSteps(optimizer.langevin(), 3)
    state, update = tx.init(params), jax.jit(tx.update)
    for i in range(3):
        updates, state = update(GRADIENTS, state, params)
        assert int(noise_state(state).count) == (i == 2)
        assert all(np.all(u == 0) for u in jax.tree.leaves(updates)) is (i < 2)
    chex.assert_trees_all_close(updates, one_step(optimizer.langevin(), params)[0], rtol=1e-4, atol=1e-6)


@every_optimizer
def test_masked_partition_and_named_chain(optimizer):
    params, tx = params_like(), optimizer.langevin()
    labels = {"Dense_0": "noisy", "Dense_1": "frozen", "scale": "noisy"}
    alone, _ = one_step(tx)
    masked, _ = one_step(optax.masked(tx, jax.tree.map(lambda label: label == "noisy", labels)))
    split, state = one_step(optax.partition({"noisy": tx, "frozen": optax.set_to_zero()}, labels))
    named, _ = one_step(optax.named_chain(("clip", optax.clip(1e9)), ("langevin", tx)))
    assert bits(named) == bits(alone)
    for name, label in labels.items():
        kept = alone if label == "noisy" else GRADIENTS
        assert bits(masked[name]) == bits(kept[name])
        zero = jax.tree.map(jnp.zeros_like, params[name])
        assert bits(split[name]) == bits(alone[name] if label == "noisy" else zero)
    assert int(noise_state(state).count) == 1


@every_optimizer
def test_apply_if_finite_skips_the_step_and_its_noise(optimizer):
    params, tx = params_like(), optax.apply_if_finite(optimizer.langevin(), 3)
    update = jax.jit(tx.update)
    updates, state = update(jax.tree.map(lambda g: g * jnp.nan, GRADIENTS), tx.init(params), params)
    assert all(np.all(u == 0) for u in jax.tree.leaves(updates))
    assert int(noise_state(state).count) == 0
    updates, state = update(GRADIENTS, state, params)
    chex.assert_trees_all_close(updates, one_step(optimizer.langevin())[0], rtol=1e-5, atol=1e-6)
    assert int(noise_state(state).count) == 1


@every_optimizer
def test_conditionally_transform(optimizer):
    params, tx = params_like(), optax.conditionally_transform(optimizer.langevin(), lambda step: step % 2 == 1)
    update = jax.jit(tx.update)
    updates, state = update(GRADIENTS, tx.init(params), params)
    assert bits(updates) == bits(GRADIENTS)
    updates, state = update(GRADIENTS, state, params)
    chex.assert_trees_all_close(updates, one_step(optimizer.langevin())[0], rtol=1e-5, atol=1e-6)


@every_optimizer
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_are_kept_and_stable_under_cond(optimizer, dtype):
    with jax.enable_x64(dtype == "float64"):
        params = params_like(jnp.dtype(dtype))
        gradients = jax.tree.map(lambda p: 0.1 * p, params)
        tx = optimizer.langevin(1e-2, 1e-2, 0)
        state = tx.init(params)

        def step(params, state):
            updates, state = tx.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        maybe = lambda carry, go: (jax.lax.cond(go, step, lambda p, s: (p, s), *carry), None)
        carry, _ = jax.lax.scan(maybe, (params, state), jnp.array([True, False, True]))
        chex.assert_trees_all_equal_shapes_and_dtypes(carry, (params, state))
        assert all(np.all(np.isfinite(np.asarray(p, np.float32))) for p in jax.tree.leaves(carry[0]))
        quiet = optax.apply_updates(params, optimizer.langevin(1e-2, 0.0, 0).update(gradients, state, params)[0])
        assert bits(quiet) != bits(step(params, state)[0])


@every_optimizer
def test_chains_with_their_own_keys_under_vmap(optimizer):
    params, tx = params_like(), optimizer.langevin()
    keys = jax.random.split(jax.random.key(9), 3)

    def chain(key):
        return tx.update(GRADIENTS, optax.tree.set(tx.init(params), key=key), params)[0]

    together = jax.jit(jax.vmap(chain))(keys)
    for i, key in enumerate(keys):
        alone = chain(key)
        chex.assert_trees_all_close(jax.tree.map(lambda u, i=i: u[i], together), alone, rtol=1e-5, atol=1e-6)
    kernels = together["Dense_0"]["kernel"].reshape(3, -1)
    assert np.all(kernels[0] != kernels[1])
    assert np.all(kernels[1] != kernels[2])


@every_optimizer
def test_map_params(optimizer):
    params = params_like()
    tx = optimizer.langevin(mask=lgv.layer_mask("Dense_0"))
    state = tx.init(params)
    doubled = optax.tree.map_params(tx, lambda x: x + 1, state)
    assert bits(doubled[-1]) == bits(state[-1])
    stock = optimizer.stock()
    assert bits(doubled[:-1]) == bits(optax.tree.map_params(stock, lambda x: x + 1, stock.init(params)))


@every_optimizer
def test_buffer_donation(optimizer):
    params, tx = jax.tree.map(jnp.copy, params_like()), optimizer.langevin()

    def step(params, state):
        updates, state = tx.update(GRADIENTS, state, params)
        return optax.apply_updates(params, updates), state

    expected = jax.jit(step)(params, tx.init(params))
    actual = jax.jit(step, donate_argnums=(0, 1))(params, tx.init(params))
    assert bits(actual) == bits(expected)


@every_optimizer
def test_none_scalar_and_missing_leaves(optimizer):
    tx = optimizer.langevin()
    updates, _ = one_step(tx, {}, {})
    assert updates == {}
    params = {"none": None, "scalar": jnp.float32(2.0), "empty": jnp.zeros((0, 3)), "nested": {}}
    updates, _ = one_step(tx, params, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert updates["scalar"].shape == ()
    assert updates["empty"].shape == (0, 3)
    if optimizer.name not in ("yogi", "adagrad"):  # Optax's take no Python scalars
        updates, _ = tx.update(0.5, tx.init(0.5), 0.5)
        assert jnp.shape(updates) == ()


@every_optimizer
def test_typed_keys_of_every_kind(optimizer):
    params = params_like()
    for impl in ("threefry2x32", "rbg"):
        key = jax.random.key(3, impl=impl)
        updates, state = one_step(optimizer.langevin(key=key), params)
        assert state[-1].key == key
        assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))
    assert bits(one_step(optimizer.langevin(key=3))[0]) == bits(one_step(optimizer.langevin(key=jax.random.key(3)))[0])
    assert bits(one_step(optimizer.langevin(key=3))[0]) != bits(one_step(optimizer.langevin(key=4))[0])


class Mlp(nn.Module):
    """The layer that is called first is made second, and so is named Dense_1."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Dense(8)(x)))


class NnxMlp(nnx.Module):
    def __init__(self, rngs):
        self.second = nnx.Linear(8, 1, rngs=rngs)
        self.first = nnx.Linear(4, 8, rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.first(x)))


X = jax.random.normal(jax.random.key(2), (16, 4))


@every_optimizer
def test_linen_train_state(optimizer):
    model = Mlp()
    params = model.init(jax.random.key(0), X)["params"]
    order = lgv.layer_order(model, X)
    assert order == ["Dense_1", "Dense_0"]
    tx = optimizer.langevin(mask=lgv.layer_mask(1, order))
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def step(state):
        gradients = jax.grad(lambda p: jnp.mean(state.apply_fn({"params": p}, X) ** 2))(state.params)
        return state.apply_gradients(grads=gradients)

    first = step(state)
    assert int(noise_state(step(first).opt_state).count) == 2
    quiet = step(TrainState.create(apply_fn=model.apply, params=params, tx=optimizer.stock()))
    chex.assert_trees_all_close(first.params["Dense_0"], quiet.params["Dense_0"], rtol=1e-5, atol=1e-6)
    assert np.all(first.params["Dense_1"]["kernel"] != quiet.params["Dense_1"]["kernel"])


@every_optimizer
def test_nnx_optimizer_under_nnx_jit(optimizer):
    def trained(tx, steps):
        model = NnxMlp(nnx.Rngs(0))
        optim = nnx.Optimizer(model, tx, wrt=nnx.Param)

        @nnx.jit
        def step(model, optim):
            gradients = nnx.grad(lambda m: jnp.mean(m(X) ** 2))(model)
            optim.update(model, gradients)

        for _ in range(steps):
            step(model, optim)
        return model, optim

    order = lgv.layer_order(NnxMlp(nnx.Rngs(0)), X)
    assert order == ["first", "second"]
    noisy, optim = trained(optimizer.langevin(mask=lgv.layer_mask(1, order)), 1)
    quiet, _ = trained(optimizer.stock(), 1)
    chex.assert_trees_all_close(noisy.second.kernel[...], quiet.second.kernel[...], rtol=1e-5, atol=1e-6)
    assert np.all(noisy.first.kernel[...] != quiet.first.kernel[...])
    assert int(optim.opt_state[-1].count[...]) == 1


def test_nnx_gives_the_noise_of_linen():
    """The path of a leaf makes its noise, in whatever container it comes."""
    linen = lgv.noise_like(0, 0, {"first": {"kernel": jnp.zeros((4, 8))}})
    state = nnx.as_pure(nnx.state(NnxMlp(nnx.Rngs(0)), nnx.Param))
    assert bits(lgv.noise_like(0, 0, state)["first"]["kernel"]) == bits(linen["first"]["kernel"])


def test_complex_parameters():
    params = {"w": jnp.asarray([1 + 2j, 0.5j])}
    for optimizer in OPTIMIZERS:
        if optimizer.name == "adadelta" or optimizer.kwargs.get("centered"):
            continue
        updates, _ = one_step(optimizer.langevin(), params, params)
        assert updates["w"].dtype == jnp.complex64
        assert np.all(np.isfinite(updates["w"])), optimizer.id
