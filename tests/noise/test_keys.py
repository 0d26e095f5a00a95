"""Keys: the noise of a seed, a step and a path is its own, and never comes again."""

import dataclasses
import hashlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import langevin_optax as lgv
from tests.cases import ALIASES, INTEGRATORS, OPTIMIZERS, bits, by_default, params_like

KEY = jax.random.key(7)
LAST = 2**31 - 1
EVERYTHING = {row.id: row for row in (*OPTIMIZERS, *ALIASES, *INTEGRATORS)}


def draw(key=0, step=0, sampler="normal"):
    return np.asarray(lgv.noise_like(key, step, {"w": jnp.zeros(64)}, sampler)["w"])


def draw_of(key):
    return lgv.noise_like(key, 0, {"w": jnp.zeros(64)})["w"]


def differ(*draws):
    return all(not np.array_equal(a, b) for i, a in enumerate(draws) for b in draws[:i])


def test_the_signs_are_their_definition():
    """Written with `jax.random` alone: fold in the step, and two words of the hashed path; then 32 signs per word."""
    digest = hashlib.blake2b(b"Dense_0/kernel", digest_size=8).digest()
    key = jax.random.fold_in(jax.random.key(3), 11)
    for word in np.frombuffer(digest, np.uint32):
        key = jax.random.fold_in(key, word)
    with jax.threefry_partitionable(True):
        words = np.asarray(jax.random.bits(key, (2, 3), jnp.uint32))
    expected = 1 - 2 * ((words[:, None, :] >> np.arange(32, dtype=np.uint32)[:, None]) & 1).reshape(64, 3).astype(float)
    tree = {"Dense_0": {"kernel": jnp.zeros((64, 3))}}
    np.testing.assert_array_equal(lgv.noise_like(3, 11, tree, "rademacher")["Dense_0"]["kernel"], expected)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """As an Equinox module holds its parameters."""

    kernel: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Model:
    Dense_0: Layer


def containers(kernel):
    """One leaf, Dense_0/kernel, in every container."""
    variables = nnx.Dict(Dense_0=nnx.Dict(kernel=nnx.Param(kernel)))
    return {
        "dict": {"Dense_0": {"kernel": kernel}},
        "flat dict": {"Dense_0/kernel": kernel},
        "flat dict of tuples": {("Dense_0", "kernel"): kernel},
        "dataclass": Model(Layer(kernel)),
        "nnx": nnx.state(variables, nnx.Param),
        "nnx, pure": nnx.to_pure_dict(nnx.state(variables, nnx.Param)),
        "linen, partitioned": {"Dense_0": {"kernel": nn.Partitioned(kernel, ("x", "y"))}},
    }


@pytest.mark.parametrize("name", containers(jnp.zeros(())))
def test_a_path_is_its_names_whatever_the_container(name):
    kernel = jnp.zeros((4, 8))
    (noise,) = jax.tree.leaves(lgv.noise_like(0, 0, containers(kernel)[name]))
    assert bits(noise) == bits(lgv.noise_like(0, 0, {"Dense_0": {"kernel": kernel}})["Dense_0"]["kernel"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Attention:
    query: jax.Array
    value: jax.Array


def test_a_field_that_is_called_value_is_a_name():
    """Only the one that a variable of NNX or a box of Linen adds is none."""
    leaf = jnp.zeros(8)
    noise = lgv.noise_like(0, 0, {"attention": Attention(leaf, leaf)})["attention"]
    expected = lgv.noise_like(0, 0, {"attention": {"query": leaf, "value": leaf}})["attention"]
    assert bits((noise.query, noise.value)) == bits((expected["query"], expected["value"]))


def test_two_leaves_with_one_path_raise():
    for tree in ({"a": {"b": jnp.zeros(8)}, "a/b": jnp.zeros(8)}, {"a": [jnp.zeros(8)], "a/0": jnp.zeros(8)}):
        with pytest.raises(ValueError, match=r"leaves with one path would get the same noise: \['a/"):
            lgv.noise_like(0, 0, tree)


@pytest.mark.parametrize("step", [1.2, 1.0, np.float32(3), jnp.float32(3), True, jnp.bool_(True), "1", jnp.arange(2)])
def test_a_step_that_is_no_integer_scalar_raises(step):
    with pytest.raises(TypeError, match="step must be an integer scalar"):
        lgv.noise_like(0, step, jnp.zeros(3))


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_steps_of_64_bits_are_steps_of_their_own(impl):
    key = jax.random.key(3, impl=impl)
    assert differ(*(draw(key, step) for step in (1, 2**32 + 1, 2**33 + 1, -1, 2**32 - 1)))
    with jax.enable_x64(True):
        for step in (1, 2**32 + 1, -1):
            assert np.array_equal(draw(key, jnp.int64(step)).astype(np.float32), draw(key, step).astype(np.float32))
        assert np.array_equal(draw(key, jnp.uint32(5)), draw(key, 5))
    assert np.array_equal(draw(key, np.array(2**32 + 1)), draw(key, 2**32 + 1))
    assert np.array_equal(draw(key, jnp.int32(-1)), draw(key, -1))
    assert differ(draw(jnp.int32(-1)), draw(2**32 - 1))
    with pytest.raises(ValueError, match="step must have at most 64 bits, got 9223372036854775808"):
        draw(key, 2**63)


def test_seeds_of_64_bits_are_seeds_of_their_own():
    seeds = [5, 2**32 + 5, 2**63 - 1, 2**32 - 1, -1]
    noises = [draw(seed) for seed in seeds]
    assert differ(*noises)
    for seed, noise in zip(seeds, noises, strict=True):
        assert np.array_equal(draw(np.int64(seed)), noise) and np.array_equal(draw(np.array(seed)), noise)
    for seed in (5, -1):  # as inject_hyperparams hands them on
        assert np.array_equal(draw(jnp.int32(seed)), draw(seed))
        assert np.array_equal(jax.jit(draw_of)(jnp.int32(seed)), draw(seed))
    with jax.enable_x64(True):  # where JAX itself keeps them
        keys = [jax.random.key(seed) for seed in seeds]
    assert all(np.array_equal(draw(key), noise) for key, noise in zip(keys, noises, strict=True))
    for seed in (2**63, -(2**63) - 1, np.random.SeedSequence(1).entropy + 2**70):
        with pytest.raises(ValueError, match=r"key as an int must have at most 64 bits.*wrap_key_data"):
            draw(seed)
        with pytest.raises(ValueError, match="key as an int must have at most 64 bits"):
            lgv.adam(1e-3, 1e-3, seed)
    words = np.random.SeedSequence(1).generate_state(2)
    assert draw(jax.random.wrap_key_data(words)).shape == (64,)  # what the message says to write


@pytest.mark.parametrize("row", ["sgd", "lamb-weight_decay", *(row.id for row in INTEGRATORS)])
def test_a_count_that_is_no_integer_raises(row):
    row = EVERYTHING[row]
    params, tx = params_like(row=row), row.langevin()
    state = optax.tree.map_params(tx, lambda x: x, tx.init(params))
    broken = jax.tree.map(lambda s: s._replace(count=jnp.float32(3.7)) if is_noise(s) else s, state, is_leaf=is_noise)
    with pytest.raises(TypeError, match="count of the state must be an integer scalar"):
        tx.update(params, broken, params, value=1.0, obj_fn=lambda p: 0.0)


def is_noise(node):
    return isinstance(node, (lgv.LangevinState, lgv.BaoabState, lgv.AdaptiveLangevinState))


def near_the_end(tx, params, count):
    """The state of a run that has done ``count`` steps."""
    set_count = lambda s: s._replace(count=jnp.int32(count)) if is_noise(s) else s
    return jax.tree.map(set_count, tx.init(params), is_leaf=is_noise)


ROWS_PAST_THE_END = [
    *(row for row in EVERYTHING.values() if row.id in ("sgd", "adam", "rmsprop-momentum", "lamb-weight_decay")),
    *INTEGRATORS,
]


@pytest.mark.parametrize("row", by_default(["adam", "adlala"], ROWS_PAST_THE_END))
@pytest.mark.parametrize(
    "wrap",
    [lambda tx: tx, pytest.param(lambda tx: optax.MultiSteps(tx, 1), marks=pytest.mark.slow)],
    ids=["alone", "MultiSteps"],
)
def test_the_noise_never_repeats(row, wrap):
    """Around 2³¹ − 1 steps, where counts saturate: no two steps have one noise, and a resumed run is the run."""
    params = {name: {"w": jnp.zeros(16)} for name in ("Dense_0", "Dense_1")}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = wrap(row.langevin(optax.constant_schedule(0.1), 0.1))

    def step(state, _):
        updates, state = tx.update(zeros, state, params)
        return state, (updates, state)

    run = jax.jit(lambda state, n: jax.lax.scan(step, state, length=n), static_argnums=1)
    start = near_the_end(tx, params, LAST - 3)
    end, (updates, _) = run(start, 8)
    middle, (before, _) = run(start, 4)
    resumed, (after, _) = run(middle, 4)
    assert bits(resumed) == bits(end)
    assert bits(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), before, after)) == bits(updates)
    for state in jax.tree.leaves(end, is_leaf=is_noise):
        if is_noise(state):
            assert int(state.count) == LAST  # what schedules see
    for leaf in jax.tree.leaves(updates):
        leaf = np.asarray(leaf, np.float64)
        if row.id not in ("overdamped_langevin-leimkuhler_matthews", "lol"):
            leaf = np.diff(leaf, axis=0) if row in INTEGRATORS else leaf
        correlation = np.corrcoef(leaf) - np.eye(len(leaf))
        assert np.abs(correlation[np.triu_indices(len(leaf), 3)]).max() < 0.99


def test_the_noise_of_several_gradients_per_step_never_repeats():
    """One noise per applied step, and none of them twice, past the end too."""
    params = {"w": jnp.zeros(16)}
    tx = optax.MultiSteps(lgv.adam(0.1, 0.1, 0), 2)
    state = near_the_end(tx, params, LAST - 1)
    update, seen = jax.jit(tx.update), []
    for _ in range(8):
        updates, state = update(params, state, params)
        seen.append(np.asarray(updates["w"]))
    assert not np.any(seen[::2]) and differ(*seen[1::2])


@pytest.mark.parametrize(
    "sigma", [0.0, jnp.zeros(()), lambda count: 0.0 * count, 0.1], ids=["0", "array", "schedule", "0.1"]
)
def test_the_key_moves_with_and_without_jit_alike(sigma):
    params = {"w": jnp.zeros(4)}
    for tx in (lgv.sgd(1.0, sigma, 0), lgv.overdamped_langevin(1.0, sigma, 0)):
        state = near_the_end(tx, params, LAST)
        eager, jitted = tx.update(params, state, params), jax.jit(tx.update)(params, state, params)
        assert bits(eager) == bits(jitted)


def test_the_moved_keys_are_those_of_no_other_step_or_chain():
    """Past the end the key moves; with the key at rest, or with that of a chain, the noise would come again."""
    params = {"w": jnp.zeros(64)}
    tx = lgv.sgd(1.0, 1.0, 0)
    state = near_the_end(tx, params, LAST - 1)
    seen = []
    for _ in range(5):
        updates, state = tx.update(params, state, params)
        seen.append(np.asarray(updates["w"]))
    others = [draw(0, step) for step in (0, LAST, 2**32 - 1)]
    others += [draw(jax.random.fold_in(jax.random.key(0), chain), LAST) for chain in (0, 1, 2**32 - 1)]
    assert np.array_equal(seen[0], draw(0, LAST - 1)) and np.array_equal(seen[1], draw(0, LAST))
    assert differ(*seen, *[other for i, other in enumerate(others) if i != 1])


def test_the_noise_that_leimkuhler_matthews_shares_past_the_end():
    """ξ of the next step is ξ of the next step, also where the key has moved."""
    params = jnp.zeros(64)
    tx = lgv.overdamped_langevin(1.0, 0.5, 0, scheme="leimkuhler_matthews")
    state = near_the_end(tx, params, LAST - 2)
    updates = []
    for _ in range(5):
        u, state = tx.update(params, state)
        updates.append(np.asarray(u, np.float64))
    # u_n = (ξ_n + ξ_{n+1})/2: the alternating sum leaves the first and the last.
    alternating = sum((-1) ** n * u for n, u in enumerate(updates))
    first = draw_root(0, LAST - 2)
    last = 2 * alternating - first  # ξ_5
    assert np.array_equal(np.round(updates[0] * 2 - first, 4), np.round(draw_root(0, LAST - 1), 4))
    assert abs(np.var(last) - 1) < 5 * np.sqrt(2 / 64)  # a ξ that is not shared makes it 1 + 2 · 4 or so


def draw_root(key, step):
    return np.asarray(lgv.noise_like(key, step, jnp.zeros(64)), np.float64)


def test_a_state_that_is_made_anew_repeats_its_noise_until_the_restart_is_folded_in():
    params = jnp.zeros(64)
    tx = lgv.sgd(1.0, 1.0, 0)

    def epoch(state):
        return np.concatenate([np.asarray(tx.update(params, s, params)[0]) for s in (state, *successors(state))])

    def successors(state):
        for _ in range(2):
            _, state = tx.update(params, state, params)
            yield state

    assert np.array_equal(epoch(tx.init(params)), epoch(tx.init(params)))
    epochs = [epoch(lgv.fold_in(tx.init(params), number)) for number in range(4)]
    correlation = np.corrcoef(epochs) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(64 * 3)


def test_fold_in_finds_the_noise_in_the_flattened_state_of_nnx():
    class Model(nnx.Module):
        def __init__(self):
            self.key = nnx.Param(jnp.ones(3))  # a parameter of that name is none

    model = Model()
    optimizer = nnx.Optimizer(model, lgv.adam(1e-3, 1e-3, 0), wrt=nnx.Param)
    dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))  # a count and a key too, which are none of ours
    assert bits(lgv.fold_in(nnx.state((dropout, optimizer)), 5)[0]) == bits(nnx.state((dropout, optimizer))[0])
    with pytest.raises(ValueError, match="fold_in needs a state with noise"):
        lgv.fold_in(nnx.state(dropout), 5)
    folded = lgv.fold_in(nnx.state(optimizer), 5)
    before, after = jax.tree.leaves_with_path(nnx.state(optimizer)), jax.tree.leaves_with_path(folded)
    assert [path for path, _ in before] == [path for path, _ in after]
    changed = [(a, b) for (_, a), (_, b) in zip(before, after, strict=True) if bits(a) != bits(b)]
    assert [(a, b) for a, b in changed] == [(jax.random.key(0), jax.random.fold_in(jax.random.key(0), 5))]
