"""One contract for every optimiser and integrator: whatever Optax, JAX and Flax do to an optimiser works."""

import inspect

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
from tests.cases import (
    ADLA,
    ALIASES,
    BAOAB,
    COVARIANCES,
    INTEGRATORS,
    MATRICES,
    OPTIMIZERS,
    bits,
    loss,
    params_like,
    run,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:`optimistic_adam` is deprecated"),
    pytest.mark.filterwarnings("ignore:prong has no covariances"),  # of the leaf that is no layer
]

# Wrappers see one engine, and one update of each integrator: they meet these rows by default, and all with -m slow.
REPRESENTATIVE = {"adam", "adlala"}


def rows(name, *tables, default=REPRESENTATIVE, without=()):
    every = [row for table in tables for row in table if row.name not in without]
    slow = [() if default is None or row.id in default else pytest.mark.slow for row in every]
    params = [pytest.param(row, marks=mark) for row, mark in zip(every, slow, strict=True)]
    return pytest.mark.parametrize(name, params, ids=lambda row: row.id)


# Shapes and dtypes, of one of each kind by default.
KINDS = {
    *("sgd", "adam", "rmsprop-centered-eps_in_sqrt", "adagrad", "adadelta-weight_decay"),
    *("adafactor", "lamb-weight_decay", "ademamix", "sophia-update_interval", "prodigy-estim_lr0"),
    *("soap", "shampoo", "prong", "overdamped_langevin-leimkuhler_matthews", "baoab", "adlala"),
}
# With momenta or without, one dynamics or two.
FEW_INTEGRATORS = {"overdamped_langevin-leimkuhler_matthews", "baoab", "adaptive_langevin", "adlala", "lol"}

some_row = rows("row", OPTIMIZERS, ALIASES, MATRICES, INTEGRATORS, default=KINDS)
some_integrator = rows("integrator", INTEGRATORS, default=FEW_INTEGRATORS)
every_optimizer = rows("optimizer", OPTIMIZERS, ALIASES, MATRICES, default=None)
every_integrator = rows("integrator", INTEGRATORS, default=None)
wrapped_row = rows("row", OPTIMIZERS, ALIASES, MATRICES, INTEGRATORS)
# Where one of the two is enough: by turns.
wrapped_adam = rows("row", OPTIMIZERS, ALIASES, MATRICES, INTEGRATORS, default={"adam"})
wrapped_adlala = rows("row", OPTIMIZERS, ALIASES, MATRICES, INTEGRATORS, default={"adlala"})
wrapped_optimizer = rows("optimizer", OPTIMIZERS, ALIASES, MATRICES)
wrapped_integrator = rows("integrator", INTEGRATORS)
# Their P is 0 in the first step, in which there is no noise.
NO_FIRST_NOISE = {"adopt", "sophia", "soap"}
moving_row = rows("row", OPTIMIZERS, ALIASES, MATRICES, INTEGRATORS, without=NO_FIRST_NOISE)
moving_adam = rows("row", OPTIMIZERS, ALIASES, MATRICES, INTEGRATORS, default={"adam"}, without=NO_FIRST_NOISE)
moving_baoab = rows("row", OPTIMIZERS, ALIASES, MATRICES, INTEGRATORS, default={"baoab"}, without=NO_FIRST_NOISE)
# Flax hands no value, loss or covariances on; and these have noise in the first step.
NOT_IN_FLAX = NO_FIRST_NOISE | {"prong", "polyak_sgd", "momo", "momo_adam"}
flax_optimizer = rows("optimizer", OPTIMIZERS, ALIASES, MATRICES, without=NOT_IN_FLAX)
# The state of Optax's Prodigy begins as the parameters themselves, which cannot be donated twice.
donated_row = rows("row", OPTIMIZERS, ALIASES, MATRICES, INTEGRATORS, default={"adam"}, without={"prodigy"})

gradients_of = jax.jit(jax.grad(loss))
GRADIENTS = gradients_of(params_like())
EXTRA = {"value": 1.0, "obj_fn": loss, "input_covariances": COVARIANCES}  # what some optimisers ask for


def one_step(tx, params=None, gradients=None, state=None, **extra_args):
    params = params_like() if params is None else params
    gradients = gradients_of(params) if gradients is None else gradients
    state = tx.init(params) if state is None else state
    return tx.update(gradients, state, params, **(EXTRA | extra_args))


def stock_part(row, state):
    """The stock state within that of an optimiser: of a chain, or of a single transformation."""
    return state[0] if row.name in ("prodigy", "dadapt_adamw", "momo", "momo_adam") else state[:-1]


def jitted(tx):
    """The update, compiled, with what some of Optax's optimisers ask for."""
    return jax.jit(lambda updates, state, params: tx.update(updates, state, params, **EXTRA))


def noise_states(state):
    return [s for s in jax.tree.leaves(state, is_leaf=is_noise) if is_noise(s)]


def is_noise(x):
    return isinstance(x, (lgv.LangevinState, lgv.BaoabState, lgv.AdaptiveLangevinState))


def count(state):
    """The count of the noise, which all parts of a partition share."""
    (number,) = {int(s.count) for s in noise_states(state)}
    return number


@wrapped_adam
def test_jit_extra_args_and_no_second_compilation(row):
    params, tx = params_like(row=row), row.langevin()
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(None)
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params, **(EXTRA | {"value": value}), nobody_expects=1)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    first, state = step(params, state)
    step(*step(first, state))
    assert len(traces) == 1
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    value, gradients = jax.value_and_grad(loss)(params)
    updates, _ = tx.update(gradients, tx.init(params), params, **(EXTRA | {"value": value}))
    plain = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(first, plain, rtol=1e-5, atol=1e-6)


@wrapped_adlala
def test_scan_equals_a_loop(row):
    params, tx = params_like(row=row), row.langevin()
    scanned = run(tx, params, 3)
    looped = (params, tx.init(params))
    step = jax.jit(lambda params, state: run(tx, params, 1, state))
    for _ in range(3):
        looped = step(*looped)
    chex.assert_trees_all_close(scanned[0], looped[0], rtol=1e-5, atol=1e-6)
    for a, b in zip(noise_states(scanned[1]), noise_states(looped[1]), strict=True):
        assert bits((a.count, a.key)) == bits((b.count, b.key))
    assert count(scanned[1]) == 3


@wrapped_optimizer
def test_inject_hyperparams(optimizer):
    params = params_like(row=optimizer)
    factory = lambda learning_rate, sigma, key: optimizer.langevin(learning_rate, sigma, key)
    for key in (5, jax.random.key(5)):
        tx = optax.inject_hyperparams(factory)(learning_rate=1e-2, sigma=1e-1, key=key)
        updates, state = jitted(tx)(gradients_of(params), tx.init(params), params)
        chex.assert_trees_all_close(
            updates, one_step(optimizer.langevin(1e-2, 1e-1, 5), params)[0], rtol=1e-5, atol=1e-6
        )
        # Changed in mid-run: without noise it goes on as the stock optimiser, with γ = 0 it stands still.
        quiet = optax.tree.set(state, sigma=jnp.zeros_like(state.hyperparams["sigma"]))
        expected, _ = one_step(optimizer.stock(), params, state=stock_part(optimizer, state.inner_state))
        chex.assert_trees_all_close(one_step(tx, params, state=quiet)[0], expected, rtol=1e-5, atol=1e-6)
        still = optax.tree.set(state, learning_rate=jnp.zeros_like(state.hyperparams["learning_rate"]))
        updates, _ = one_step(tx, params, state=still)
        if optimizer in OPTIMIZERS and ("momentum" not in optimizer.kwargs or optimizer.name == "sgd"):
            assert all(np.all(u == 0) for u in jax.tree.leaves(updates))
    if not getattr(optimizer, "schedules", True):
        return
    # Injected schedules are the schedules.
    gamma, sigma = optax.linear_schedule(1e-2, 0.0, 5), optax.linear_schedule(0.0, 1e-1, 5)
    tx = optax.inject_hyperparams(factory, static_args="key")(learning_rate=gamma, sigma=sigma, key=5)
    direct = optimizer.langevin(gamma, sigma, 5)
    state, direct_state = tx.init(params), direct.init(params)
    for _ in range(2):
        (updates, state), (expected, direct_state) = one_step(tx, state=state), one_step(direct, state=direct_state)
        chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@wrapped_integrator
def test_inject_hyperparams_into_integrators(integrator):
    params, factory = params_like(row=integrator), getattr(lgv, integrator.name)
    static = {"scheme", "layers", "order"} & set(inspect.signature(factory).parameters)
    arguments = integrator.arguments(**integrator.called_in(["Dense_0", "Dense_1", ""]))
    expected, _ = one_step(integrator.langevin(key=5))
    for key in (5, jax.random.key(5)):
        tx = optax.inject_hyperparams(factory, static_args=tuple(static))(**{**arguments, "key": key})
        update = jitted(tx)
        updates, state = update(gradients_of(params), tx.init(params), params)
        assert set(state.hyperparams) >= {*arguments} - static
        chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-6)
    # Changed in mid-run: with a noise of size 0 it goes on without noise, with h = 0 it stands still.
    quiet = optax.tree.set(state, **dict.fromkeys(integrator.sizes, jnp.zeros([])))
    expected, _ = one_step(integrator.quiet(), params, state=state.inner_state)
    chex.assert_trees_all_close(update(gradients_of(params), quiet, params)[0], expected, rtol=1e-5, atol=1e-6)
    updates, _ = update(gradients_of(params), optax.tree.set(state, step_size=jnp.zeros([])), params)
    assert all(np.all(u == 0) for u in jax.tree.leaves(updates))
    # Injected schedules are the schedules.
    schedules = optax.linear_schedule(0.1, 0.0, 5), optax.linear_schedule(0.0, 0.1, 5), 5
    tx = optax.inject_hyperparams(factory, static_args=tuple(static))(**integrator.arguments(*schedules))
    direct = integrator.langevin(*schedules)
    state, direct_state = tx.init(params), direct.init(params)
    for _ in range(2):
        (updates, state), (expected, direct_state) = one_step(tx, state=state), one_step(direct, state=direct_state)
        chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-6)


@moving_adam
def test_multi_steps_draws_one_noise_per_step(row):
    params, tx = params_like(row=row), optax.MultiSteps(row.langevin(), 3)
    state, update = tx.init(params), jitted(tx)
    for i in range(3):
        updates, state = update(gradients_of(params), state, params)
        assert count(state) == (i == 2)
        assert all(np.all(u == 0) for u in jax.tree.leaves(updates)) is (i < 2)
    chex.assert_trees_all_close(updates, one_step(row.langevin(), params)[0], rtol=1e-4, atol=1e-6)


@wrapped_row
def test_masked_partition_and_named_chain(row):
    params, tx = params_like(row=row), row.langevin()
    labels = {"Dense_0": "noisy", "Dense_1": "frozen", "scale": "noisy"}
    whole, _ = one_step(tx, params)
    without = [{name: tree[name] for name in ("Dense_0", "scale")} for tree in (params, gradients_of(params))]
    alone, _ = one_step(tx, *without, input_covariances={"Dense_0": COVARIANCES["Dense_0"]})
    # Freezing a layer changes nothing of the others, unless they share a thermostat with it.
    assert (bits(alone) == bits({name: whole[name] for name in alone})) is (row != ADLA)
    masked, _ = one_step(optax.masked(tx, jax.tree.map(lambda label: label == "noisy", labels)), params)
    split, state = one_step(optax.partition({"noisy": tx, "frozen": optax.set_to_zero()}, labels), params)
    named, _ = one_step(optax.named_chain(("clip", optax.clip(1e9)), ("langevin", tx)), params)
    assert bits(named) == bits(whole)
    for name, label in labels.items():
        kept = alone if label == "noisy" else gradients_of(params)
        assert bits(masked[name]) == bits(kept[name])
        zero = jax.tree.map(jnp.zeros_like, params[name])
        assert bits(split[name]) == bits(alone[name] if label == "noisy" else zero)
    assert count(state) == 1


@wrapped_row
def test_apply_if_finite_skips_the_step_and_its_noise(row):
    params, tx = params_like(row=row), optax.apply_if_finite(row.langevin(), 3)
    update = jitted(tx)
    updates, state = update(jax.tree.map(lambda g: g * jnp.nan, gradients_of(params)), tx.init(params), params)
    assert all(np.all(u == 0) for u in jax.tree.leaves(updates))
    assert count(state) == 0
    updates, state = update(gradients_of(params), state, params)
    chex.assert_trees_all_close(updates, one_step(row.langevin(), params)[0], rtol=1e-5, atol=1e-6)
    assert count(state) == 1


@wrapped_row
def test_conditionally_transform(row):
    params, tx = params_like(row=row), optax.conditionally_transform(row.langevin(), lambda step: step % 2 == 1)
    update = jitted(tx)
    updates, state = update(gradients_of(params), tx.init(params), params)
    assert bits(updates) == bits(gradients_of(params))
    updates, state = update(gradients_of(params), state, params)
    chex.assert_trees_all_close(updates, one_step(row.langevin(), params)[0], rtol=1e-5, atol=1e-6)


@some_row
@pytest.mark.parametrize(
    "dtype", ["bfloat16", *(pytest.param(d, marks=pytest.mark.slow) for d in ("float16", "float32", "float64"))]
)
def test_shapes_and_dtypes_are_kept(row, dtype):
    """Of parameters, updates and states, as `jax.lax.cond` asks it; nothing is computed."""
    with jax.enable_x64(dtype == "float64"):
        params, tx = params_like(jnp.dtype(dtype), row), row.langevin()
        state = tx.init(params)
        updates, after = jax.eval_shape(lambda g, s, p: tx.update(g, s, p, **EXTRA), params, state, params)
        stock, _ = jax.eval_shape(lambda g, s, p: row.quiet().update(g, s, p, **EXTRA), params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, stock)
        kept = jax.eval_shape(optax.apply_updates, params, updates)
        chex.assert_trees_all_equal_shapes_and_dtypes(kept, params)


@some_row
def test_ranks_are_never_promoted(row):
    """But those of scalars."""
    params, tx = params_like(row=row), row.langevin()
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda g, s, p: tx.update(g, s, p, **EXTRA), params, tx.init(params), params)


@wrapped_adlala
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float64", marks=pytest.mark.slow)])
def test_steps_under_cond_in_other_dtypes(row, dtype):
    with jax.enable_x64(dtype == "float64"):
        params = params_like(jnp.dtype(dtype), row)
        gradients = jax.tree.map(lambda p: 0.1 * p, params)
        tx = row.langevin()

        def step(params, state):
            updates, state = tx.update(gradients, state, params, **EXTRA)
            return optax.apply_updates(params, updates), state

        maybe = lambda carry, go: (jax.lax.cond(go, step, lambda p, s: (p, s), *carry), None)
        (params, state), _ = jax.lax.scan(maybe, (params, tx.init(params)), jnp.array([True, False, True]))
        assert all(np.all(np.isfinite(np.asarray(p, np.float32))) for p in jax.tree.leaves(params))
        # The first step of some has no noise.
        quiet = optax.apply_updates(params, row.quiet().update(gradients, state, params, **EXTRA)[0])
        assert bits(quiet) != bits(step(params, state)[0])


@some_integrator
@pytest.mark.parametrize(
    ("dtype", "wide"),
    [
        ("bfloat16", "float32"),
        *(pytest.param(d, "float32", marks=pytest.mark.slow) for d in ("float16", "float32")),
        ("float64", "float64"),
    ],
)
def test_momenta_and_thermostats_are_float32_at_least(integrator, dtype, wide):
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        params, tx = params_like(jnp.dtype(dtype), integrator), integrator.langevin(optax.linear_schedule(0.1, 0.0, 5))
        state = tx.init(params)
        updates, after = jax.eval_shape(tx.update, params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        floats = [x for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.floating)]
        assert {x.dtype.name for x in floats} == (set() if integrator.name == "overdamped_langevin" else {wide})


@wrapped_integrator
def test_bfloat16_gradients_of_float32_parameters(integrator):
    params, tx = params_like(row=integrator), integrator.langevin()
    gradients = jax.tree.map(lambda g: g.astype(jnp.bfloat16), gradients_of(params))
    updates, state = one_step(tx, params, gradients)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, gradients)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))
    # The kick sees the rounded gradients, and the update is rounded once.
    expected, _ = one_step(tx, params, jax.tree.map(lambda g: g.astype(jnp.float32), gradients))
    assert bits(updates) == bits(jax.tree.map(lambda u: u.astype(jnp.bfloat16), expected))
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(optax.apply_updates(params, updates)))


@every_integrator
@pytest.mark.filterwarnings("ignore:adaptive_langevin")
def test_more_entries_than_an_int32_counts(integrator):
    leaf = {"kernel": jax.ShapeDtypeStruct((2**16, 2**16), jnp.bfloat16)}
    params, tx = {"Dense_0": leaf, "Dense_1": leaf}, integrator.langevin()
    updates, state = jax.eval_shape(tx.update, params, jax.eval_shape(tx.init, params))
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    if integrator.name != "overdamped_langevin":
        jax.eval_shape(lgv.kinetic_temperature, state)


@every_integrator
def test_a_count_set_by_hand(integrator):
    tx = integrator.langevin()
    expected, _ = one_step(tx, state=optax.tree.set(tx.init(params_like(row=integrator)), count=jnp.int32(7)))
    updates, state = one_step(tx, state=optax.tree.set(tx.init(params_like(row=integrator)), count=7))
    assert bits(updates) == bits(expected)
    assert count(state) == 8


@moving_baoab
def test_chains_with_their_own_keys_under_vmap(row):
    params, tx = params_like(row=row), row.langevin()
    keys = jax.random.split(jax.random.key(9), 3)

    def chain(key):
        return tx.update(gradients_of(params), optax.tree.set(tx.init(params), key=key), params, **EXTRA)[0]

    together = jax.jit(jax.vmap(chain))(keys)
    for i, key in enumerate(keys):
        alone = chain(key)
        chex.assert_trees_all_close(jax.tree.map(lambda u, i=i: u[i], together), alone, rtol=1e-5, atol=1e-6)
    kernels = together["Dense_0"]["kernel"].reshape(3, -1)
    assert np.all(kernels[0] != kernels[1])
    assert np.all(kernels[1] != kernels[2])


@every_optimizer
def test_map_params(optimizer):
    params = params_like(row=optimizer)
    tx = optimizer.langevin(mask=lgv.layer_mask("Dense_0"))
    state = tx.init(params)
    raised = optax.tree.map_params(tx, lambda x: x + 1, state)
    assert bits(raised[-1]) == bits(state[-1])
    stock = optimizer.stock()
    assert bits(raised[:-1]) == bits(optax.tree.map_params(stock, lambda x: x + 1, stock.init(params)))


@every_integrator
def test_map_params_of_integrators(integrator):
    """The momenta are like the parameters, and nothing else is."""
    tx = integrator.langevin()
    state = tx.init(params_like(row=integrator))
    raised = optax.tree.map_params(tx, lambda x: x + 1, state)
    assert jax.tree.structure(raised) == jax.tree.structure(state)
    for before, after in zip(noise_states(state), noise_states(raised), strict=True):
        for name in before._fields:
            step = int(name == "momentum")
            expected = getattr(before, name) if not step else jax.tree.map(lambda p: p + 1, before.momentum)
            assert bits(getattr(after, name)) == bits(expected)


@donated_row
def test_buffer_donation(row):
    params, tx = jax.tree.map(jnp.copy, params_like(row=row)), row.langevin()

    def step(params, state):
        updates, state = tx.update(gradients_of(params), state, params, **EXTRA)
        return optax.apply_updates(params, updates), state

    expected = jax.jit(step)(params, tx.init(params))
    actual = jax.jit(step, donate_argnums=(0, 1))(params, tx.init(params))
    assert bits(actual) == bits(expected)


@pytest.mark.parametrize("row", [*OPTIMIZERS[:1], *INTEGRATORS], ids=lambda row: row.id)
def test_buffer_donation_leaves_the_key_to_its_owner(row):
    """Nor do two leaves of a state share a buffer, where every leaf goes into the program."""
    key = jax.random.key(3)
    tx = row.langevin(key=key)
    step = jax.jit(lambda state, go: jax.lax.cond(go, tx.init, lambda p: state, params_like(row=row)), donate_argnums=0)
    for _ in range(2):
        step(tx.init(params_like(row=row)), False)
    assert not key.is_deleted()


@wrapped_row
def test_none_scalar_and_missing_leaves(row):
    tx, quiet = row.langevin(), row.quiet()
    layer = {"none": None, "scalar": jnp.float32(2.0), "empty": jnp.zeros((0, 3)), "nested": {}}
    trees = [{}, {"Dense_0": layer, "Dense_1": layer}, {"Dense_0": {"w": 0.5}, "Dense_1": {"w": 0.5}}]
    taken = 0
    for params in trees:
        try:  # Optax's take some of them not, or give NaN
            expected, _ = one_step(quiet, params, params)
        except (AttributeError, IndexError, TypeError, ValueError):
            assert row not in INTEGRATORS
            continue
        updates, _ = one_step(tx, params, params)
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, expected)
        for u, e in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
            assert np.array_equal(np.isfinite(u), np.isfinite(e))
        taken += 1
    assert taken == 3 or row.name in NOT_EVERY_LEAF, taken


NOT_EVERY_LEAF = {
    *("yogi", "adagrad", "adafactor", "novograd", "sm3", "sophia", "prodigy", "dadapt_adamw"),
    *("lamb", "lars", "fromage", "momo", "momo_adam", "polyak_sgd", "adopt", "prong"),
}


@moving_row
def test_typed_keys_of_every_kind(row):
    params = params_like(row=row)
    for impl in ("threefry2x32", "rbg"):
        key = jax.random.key(3, impl=impl)
        updates, state = one_step(row.langevin(key=key), params)
        assert all(s.key == key for s in noise_states(state))
        assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))
    assert bits(one_step(row.langevin(key=3), params)[0]) == bits(
        one_step(row.langevin(key=jax.random.key(3)), params)[0]
    )
    assert bits(one_step(row.langevin(key=3), params)[0]) != bits(one_step(row.langevin(key=4), params)[0])


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


@flax_optimizer
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
    assert count(step(first).opt_state) == 2
    quiet = step(TrainState.create(apply_fn=model.apply, params=params, tx=optimizer.stock()))
    chex.assert_trees_all_close(first.params["Dense_0"], quiet.params["Dense_0"], rtol=1e-5, atol=1e-6)
    assert np.all(first.params["Dense_1"]["kernel"] != quiet.params["Dense_1"]["kernel"])


def part_by_part(integrator, order, params, gradients):
    """The first step of each part by itself: of the first layer of ``order``, and of the second."""
    if not integrator.parts:
        return one_step(integrator.langevin(), params, gradients)[0]
    updates = {}
    for part, layer in zip(integrator.parts, order, strict=True):
        updates |= one_step(part.langevin(), {layer: params[layer]}, {layer: gradients[layer]})[0]
    return updates


def check_kinetic_temperature(integrator, order, state):
    """Each part with momenta has its own, of its own layer."""
    if not integrator.parts:
        assert integrator.name == "overdamped_langevin" or jnp.shape(lgv.kinetic_temperature(state)) == ()
        return
    parts = dict(zip(("first", "rest"), zip(integrator.parts, order, strict=True), strict=True))
    kinetic = lgv.kinetic_temperature(state)
    assert list(kinetic) == [label for label, (part, _) in parts.items() if part.name != "overdamped_langevin"]
    for label, (part, layer) in parts.items():
        if part == BAOAB:
            (inner,) = noise_states(state.inner_states[label])
            momenta = np.concatenate([np.ravel(p) for p in jax.tree.leaves(inner.momentum[layer])])
            np.testing.assert_allclose(kinetic[label], np.mean(momenta**2), rtol=1e-5)


@pytest.mark.slow
@wrapped_integrator
def test_linen_train_state_of_integrators(integrator):
    model = Mlp()
    params = model.init(jax.random.key(0), X)["params"]
    order = lgv.layer_order(model, X)
    assert order == ["Dense_1", "Dense_0"]
    tx = integrator.langevin(**integrator.called_in(order))
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    gradient = jax.grad(lambda p: jnp.mean(model.apply({"params": p}, X) ** 2))
    step = jax.jit(lambda state: state.apply_gradients(grads=gradient(state.params)))
    first = step(state)
    expected = optax.apply_updates(params, part_by_part(integrator, order, params, gradient(params)))
    chex.assert_trees_all_close(first.params, expected, rtol=1e-5, atol=1e-6)
    second = step(first)
    assert count(second.opt_state) == 2
    check_kinetic_temperature(integrator, order, second.opt_state)


@wrapped_integrator
def test_nnx_optimizer_of_integrators(integrator):
    model = NnxMlp(nnx.Rngs(0))
    order = lgv.layer_order(model, X)
    assert order == ["first", "second"]
    optim = nnx.Optimizer(model, integrator.langevin(**integrator.called_in(order)), wrt=nnx.Param)

    @nnx.jit
    def step(model, optim):
        gradients = nnx.grad(lambda m: jnp.mean(m(X) ** 2))(model)
        optim.update(model, gradients)
        return gradients

    pure = lambda state: nnx.to_pure_dict(nnx.state(state, nnx.Param))
    params = pure(model)
    gradients = nnx.to_pure_dict(step(model, optim))
    expected = optax.apply_updates(params, part_by_part(integrator, order, params, gradients))
    chex.assert_trees_all_close(pure(model), expected, rtol=1e-5, atol=1e-6)
    step(model, optim)
    state = nnx.as_pure(optim.opt_state)
    assert count(state) == 2
    check_kinetic_temperature(integrator, order, state)


@pytest.mark.parametrize("integrator", [i for i in INTEGRATORS if i.name != "overdamped_langevin"], ids=lambda i: i.id)
def test_kinetic_temperature_of_wrapped_states(integrator):
    """An array, however wrapped the state is."""
    model, params = NnxMlp(nnx.Rngs(0)), params_like(row=integrator)
    nnx_tx = integrator.langevin(**integrator.called_in(["first", "second"]))
    for state in (
        optax.chain(optax.clip(1.0), integrator.langevin()).init(params),
        optax.MultiSteps(integrator.langevin(), 2).init(params),
        TrainState.create(apply_fn=None, params=params, tx=integrator.langevin()),
        nnx.Optimizer(model, nnx_tx, wrt=nnx.Param).opt_state,
    ):
        kinetic = lgv.kinetic_temperature(state)
        for value in kinetic.values() if integrator.parts else [kinetic]:
            assert isinstance(value, jax.Array)
            assert float(value) == 0.0


@flax_optimizer
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


@every_integrator
def test_complex_parameters_of_integrators(integrator):
    params = {name: {"w": jnp.asarray([1 + 2j, 0.5j])} for name in ("Dense_0", "Dense_1")}
    tx = integrator.langevin()
    with pytest.raises(TypeError, match=r"Dense_0'\]\['w'\] is complex64.*optax\.contrib\.split_real_and_imaginary"):
        tx.init(params)
    tx = integrator.langevin(**integrator.called_in(["Dense_0", "Dense_1"]))
    quiet = integrator.langevin(**dict.fromkeys(integrator.sizes, 0.0), **integrator.called_in(["Dense_0", "Dense_1"]))
    split = [optax.contrib.split_real_and_imaginary(t) for t in (tx, quiet)]
    noisy, still = (t.update(params, t.init(params), params)[0] for t in split)
    chex.assert_trees_all_equal_shapes_and_dtypes(noisy, params)
    noise = np.concatenate([noisy[name]["w"] - still[name]["w"] for name in params])
    # Each real and each imaginary part has a noise of its own.
    assert len({*noise.real, *noise.imag}) == 8
