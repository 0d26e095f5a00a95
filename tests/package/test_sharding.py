"""Many devices: the run of one device, on meshes of eight, with state and noise divided like the parameters.

The devices are simulated (`conftest.py`); partitioning, collectives and programs are those of real ones.
"""

import functools
import re
from typing import Any, NamedTuple

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
from examples.distributed.model import Sizes, Transformer
from examples.distributed.train import Training, make_mesh
from tests.cases import INTEGRATORS, OPTIMIZERS, bits, by_default, is_key

STEPS = 20
ROWS = {row.id: row.langevin(1e-2, 1e-3) for row in OPTIMIZERS} | {row.id: row.langevin(1e-2) for row in INTEGRATORS}
# ‖p‖² of the one thermostat is a sum over devices; no other update needs to hear from another device.
THERMOSTATS = {"adaptive_langevin", "adlala"}


class Layout(NamedTuple):
    """How the parameters lie on a mesh whose axis "data" divides the batch."""

    shape: dict[str, int]
    specs: Any

    def mesh(self, kind: AxisType) -> jax.sharding.Mesh:
        return jax.make_mesh(tuple(self.shape.values()), tuple(self.shape), axis_types=(kind,) * len(self.shape))


def tree(first, last):
    return {"Dense_0": {"kernel": first}, "Dense_1": {"kernel": last}}


LAYOUTS = {
    "data-parallel": Layout({"data": 8}, tree(P(), P())),
    "fully-sharded": Layout({"data": 8}, tree(P("data"), P("data"))),
    "tensor-parallel": Layout({"data": 2, "tensor": 4}, tree(P(None, "tensor"), P("tensor"))),
    "both": Layout({"data": 2, "tensor": 4}, tree(P("data", "tensor"), P("tensor", "data"))),
}
# The last one is the second and the third at once.
SOME = [name if name == "both" else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS]


def params():
    first, last = jax.random.split(jax.random.key(3))
    return tree(0.3 * jax.random.normal(first, (16, 32)), 0.2 * jax.random.normal(last, (32, 8)))


X = jax.random.normal(jax.random.key(4), (16, 16))
Y = jax.random.normal(jax.random.key(5), (16, 8))


def loss(params, x, y, gathered=lambda leaf, spec: leaf, hidden=None, out=None):
    """Of a dense network; explicit sharding asks for the weights as they are used, and for the results' shardings."""
    first = gathered(params["Dense_0"]["kernel"], (None, 1))
    last = gathered(params["Dense_1"]["kernel"], (1, None))
    h = jnp.tanh(jnp.dot(x, first, out_sharding=hidden))
    return ((jnp.dot(h, last, out_sharding=out) - y) ** 2).mean()


# All optimisers and integrators of a run are in one program, which compiles faster; by default these are.
FEW = ("sgd", "adam", "rmsprop-momentum", "baoab", "adlala")
every_row = pytest.mark.parametrize(
    "rows", [FEW, pytest.param(tuple(ROWS), marks=pytest.mark.slow)], ids=["few", "every"]
)


def init(params, rows):
    """The parameters and the state of each."""
    return dict.fromkeys(rows, params), {row: ROWS[row].init(params) for row in rows}


def step(run, x, y, loss=loss):
    new = {}
    for row, params in run[0].items():
        updates, state = ROWS[row].update(jax.grad(loss)(params, x, y), run[1][row], params)
        new[row] = optax.apply_updates(params, updates), state
    return {row: new[row][0] for row in new}, {row: new[row][1] for row in new}


def train(step, run, *data):
    for _ in range(STEPS):
        run = step(run, *data)
    return run


@functools.cache
def alone(rows):
    """The runs of a single device."""
    return train(jax.jit(step), init(params(), rows), X, Y)


def placed(layout, mesh, tree):
    return jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), tree, layout.specs)


def assert_same_run(ours, theirs):
    """To the rounding of sums in another order; counts and keys to the bit."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        if is_key(a) or jnp.issubdtype(a.dtype, jnp.integer):
            assert bits(a) == bits(b)
        else:
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=2e-5, err_msg=str(path))


def assert_sharded_like(state, params):
    """Every array of the state, scalars and keys apart, has the sharding of the parameter at its path."""
    shardings = {jax.tree_util.keystr(path): p.sharding for path, p in jax.tree_util.tree_leaves_with_path(params)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if leaf.ndim:
            (sharding,) = (s for suffix, s in shardings.items() if jax.tree_util.keystr(path).endswith(suffix))
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), (path, leaf.sharding, sharding)


@every_row
@pytest.mark.parametrize("name", SOME)
def test_automatic_sharding(name, rows):
    layout = LAYOUTS[name]
    mesh = layout.mesh(AxisType.Auto)
    start = placed(layout, mesh, params())
    run = init(start, rows)
    assert_sharded_like(run, start)
    # The step keeps the shardings that it was given, as the step of a training loop does.
    shardings = jax.tree.map(lambda x: x.sharding if x.ndim else NamedSharding(mesh, P()), run)
    run = train(jax.jit(step, out_shardings=shardings), run, *jax.device_put((X, Y), NamedSharding(mesh, P("data"))))
    assert_sharded_like(run, start)
    assert_same_run(run, alone(rows))


@pytest.mark.slow
@every_row
@pytest.mark.parametrize("name", SOME)
def test_explicit_sharding(name, rows):
    """Shardings are types: the state has the right ones by itself, within jit too."""
    layout = LAYOUTS[name]
    mesh = layout.mesh(AxisType.Explicit)
    tensor = "tensor" if "tensor" in layout.shape else None

    def gathered(leaf, divided):
        return jax.sharding.reshard(leaf, P(*(tensor if axis else None for axis in divided)))

    def explicit(params, x, y):
        return loss(params, x, y, gathered, P("data", tensor), P("data"))

    with jax.sharding.set_mesh(mesh):
        start = placed(layout, mesh, params())
        run = jax.jit(init, static_argnums=1)(start, rows)
        assert_sharded_like(run, start)
        data = jax.device_put((X, Y), NamedSharding(mesh, P("data")))
        run = train(jax.jit(lambda run, x, y: step(run, x, y, explicit)), run, *data)
    assert_sharded_like(run, start)
    assert_same_run(run, alone(rows))


@pytest.mark.slow
@every_row
def test_a_step_written_per_device(rows):
    """Data parallel with ``shard_map``: each device has its rows and a replica of all else, which stays one."""
    mesh = LAYOUTS["data-parallel"].mesh(AxisType.Auto)

    def mean_loss(params, x, y):
        return jax.lax.pmean(loss(params, x, y), "data")

    per_device = jax.shard_map(
        lambda run, x, y: step(run, x, y, mean_loss), mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P()
    )
    assert_same_run(train(jax.jit(per_device), init(params(), rows), X, Y), alone(rows))


def collectives(compiled):
    kinds = r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-\w+)(?:-start)?\("
    return set(re.findall(kinds, compiled.as_text()))


@every_row
def test_the_update_has_the_collectives_of_adams(rows):
    layout = LAYOUTS["both"]
    mesh = layout.mesh(AxisType.Auto)
    start = placed(layout, mesh, params())

    def of(rows):
        def update(gradients, states):
            return {row: tx.update(gradients, states[row], gradients) for row, tx in rows.items()}

        states = {row: tx.init(start) for row, tx in rows.items()}
        like = {row: (start, state) for row, state in states.items()}
        shardings = jax.tree.map(lambda x: x.sharding if x.ndim else NamedSharding(mesh, P()), like)
        return collectives(jax.jit(update, out_shardings=shardings).lower(start, states).compile())

    assert of({"": optax.adam(1e-2)}) == set()
    assert of({row: ROWS[row] for row in rows if row not in THERMOSTATS}) == set()
    assert of({row: ROWS[row] for row in rows if row in THERMOSTATS}) == {"all-reduce"}
    # The search finds what there is.
    assert of({"": optax.chain(optax.clip_by_global_norm(1.0), lgv.adam(1e-2, 1e-3, 0))}) == {"all-reduce"}


@pytest.mark.parametrize("sampler", ["normal", "rademacher"])
@pytest.mark.parametrize("name", SOME)
def test_the_noise_is_that_of_one_device_bit_for_bit(name, sampler, optimized):
    layout = LAYOUTS[name]
    alone = jax.jit(lambda tree: lgv.noise_like(7, 3, tree, sampler))(params())
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = layout.mesh(kind)
        with jax.sharding.set_mesh(mesh):
            start = placed(layout, mesh, params())
            shardings = jax.tree.map(lambda leaf: leaf.sharding, start)
            ours = jax.jit(lambda tree: lgv.noise_like(7, 3, tree, sampler), out_shardings=shardings)(start)
        assert bits(jax.device_get(ours)) == bits(alone)


# Within shard_map.


def shards_of_noise(check, fold=lambda tx: tx.init):
    """The update at gradient 0 of a leaf in eight shards and of one in replicas, per device: (8, …) each."""
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    tx = lgv.sgd(1.0, 1.0, 0)

    def per_device(leaves):
        gradients = jax.tree.map(jnp.zeros_like, leaves)
        updates, _ = tx.update(gradients, fold(tx)(leaves), leaves)
        return jax.tree.map(lambda u: u[None], updates)

    everywhere = P(("data", "tensor"))
    leaves = {"sharded": jnp.zeros((8, 1000)), "replicated": jnp.zeros((1, 1000))}
    specs = {"sharded": everywhere, "replicated": P()}
    out_specs = specs if check else jax.tree.map(lambda _: everywhere, specs)
    mapped = jax.shard_map(per_device, mesh=mesh, in_specs=(specs,), out_specs=out_specs, check_vma=check)
    return jax.tree.map(lambda u: np.asarray(u).reshape(-1, 1000), jax.jit(mapped)(leaves))


def are_independent(noises):
    """No two rows are correlated, by five standard errors."""
    n = noises.shape[1]
    correlations = np.corrcoef(noises)[np.triu_indices(len(noises), 1)]
    return np.abs(correlations).max() < 5 / np.sqrt(n) and np.abs(noises.var(axis=1) - 1).max() < 5 * np.sqrt(2 / n)


def test_shards_do_not_repeat_each_other_and_replicas_do():
    noise = shards_of_noise(check=True)
    assert noise["sharded"].shape == (8, 1000) and are_independent(noise["sharded"])
    assert noise["replicated"].shape == (1, 1000)  # JAX knows that all devices have the same

    # Without JAX's account of what varies all devices draw one noise, unless they fold their place into the keys.
    blind = shards_of_noise(check=False)
    assert not are_independent(blind["sharded"]) and (blind["sharded"] == blind["sharded"][0]).all()
    folded = shards_of_noise(
        check=False, fold=lambda tx: lambda p: lgv.fold_in(tx.init(p), jax.lax.axis_index(("data", "tensor")))
    )
    assert are_independent(folded["sharded"])


def test_one_thermostat_for_all_shards():
    """Without noise adaptive Langevin in shards is that of one device: ‖p‖² and N are those of all of them."""
    tx = lgv.adaptive_langevin(0.05, 0.1, 0.0, 0.5, 0)
    mesh = LAYOUTS["fully-sharded"].mesh(AxisType.Auto)
    start = {"a": jnp.linspace(-1.0, 2.0, 16), "b": jnp.ones(3)}
    specs = {"a": P("data"), "b": P()}

    def run(params):
        state = tx.init(params)
        for _ in range(STEPS):
            updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
            params = optax.apply_updates(params, updates)
        return params, state.thermostat, lgv.kinetic_temperature(state)

    mapped = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=(specs,), out_specs=(specs, P(), P())))
    ours, theirs = mapped(start), jax.jit(run)(start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


def test_replicas_under_pmap_stay_replicas():
    tx = lgv.adam(1e-2, 1e-2, 0)
    start = jnp.linspace(-1.0, 1.0, 6)

    def step(params, state, x):
        gradients = jax.lax.pmean(jax.grad(lambda p: ((p - x) ** 2).sum())(params), "data")
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    replicas, _ = jax.pmap(step, axis_name="data", in_axes=(None, None, 0))(start, tx.init(start), jnp.arange(8.0))
    assert (np.asarray(replicas) == np.asarray(replicas)[0]).all()


# Chains.


def chains(tx, n, fold=lgv.fold_in):
    start = {"a": {"w": jnp.zeros(500)}, "b": {"w": jnp.zeros(500)}}

    def one(chain):
        updates, _ = tx.update(start, fold(tx.init(start), chain), start)
        return jnp.concatenate(jax.tree.leaves(updates))

    return one, jnp.arange(n)


@pytest.mark.parametrize("row", by_default(["adam", "chain"], ["sgd", "adam", "baoab", "adlala", "chain"]))
def test_chains_have_independent_noises(row):
    if row == "adlala":
        tx = lgv.adlala(0.1, 0, temperature=1.0, sigma=1.0, coupling=0.0, friction=1.0, layers="b")
    elif row == "chain":  # two noises
        tx = optax.chain(lgv.add_langevin_noise(1.0, 1.0, 0), lgv.add_langevin_noise(1.0, 1.0, 1))
    else:
        tx = {"sgd": lgv.sgd(1.0, 1.0, 0), "adam": lgv.adam(1.0, 1.0, 0), "baoab": lgv.baoab(1.0, 1.0, 1.0, 0)}[row]

    def normed(noises):
        noises = np.asarray(noises).reshape(len(noises), 2, -1)
        return (noises / noises.std(axis=-1, keepdims=True)).reshape(len(noises), -1)

    one, numbers = chains(tx, 16)
    noises = jax.vmap(one)(numbers)
    assert are_independent(normed(noises))
    repeated, _ = chains(tx, 16, fold=lambda state, chain: state)
    assert not are_independent(normed(jax.vmap(repeated)(numbers)))
    # A chain is the same in an ensemble, alone, and on a device of its own.
    np.testing.assert_array_equal(noises[11], jax.jit(one)(11))
    mesh = jax.make_mesh((8,), ("chains",), axis_types=(AxisType.Auto,))
    divided = jax.jit(jax.vmap(one), out_shardings=NamedSharding(mesh, P("chains")))
    placed_numbers = jax.device_put(numbers, NamedSharding(mesh, P("chains")))
    assert collectives(divided.lower(placed_numbers).compile()) == set()
    np.testing.assert_array_equal(noises, divided(placed_numbers))


def test_fold_in_changes_the_keys_and_nothing_else():
    tx = optax.chain(
        lgv.add_langevin_noise(1.0, 1.0, 0),
        optax.partition({"a": lgv.baoab(1.0, 1.0, 1.0, 0), "b": lgv.adam(1.0, 1.0, 0)}, {"key": "a", "w": "b"}),
    )
    start = {"key": jnp.ones(2), "w": jnp.ones(2)}  # a parameter, as in attention
    before = tx.init(start)
    after = lgv.fold_in(before, 3)
    changed = 0
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        if is_key(a):
            assert bits(b) == bits(jax.random.fold_in(a, 3))
            changed += 1
        else:
            assert bits(a) == bits(b)
    assert changed == 3
    with pytest.raises(ValueError, match="fold_in needs a state with noise in it, found none in"):
        lgv.fold_in(optax.adam(1e-3).init(start), 0)


# Flax.


class Net(nn.Module):
    """With the axes of the mesh on its kernels."""

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal()
        x = nn.tanh(nn.Dense(32, kernel_init=nn.with_partitioning(init, ("data", "tensor")))(x))
        return nn.Dense(8, kernel_init=nn.with_partitioning(init, ("tensor", "data")))(x)


def test_linen_with_partitioned_parameters():
    """The noise of a boxed parameter is that of the bare one, and a TrainState is sharded as its boxes say."""
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    model = Net()
    tx = lgv.adam(1e-2, 1e-3, 0, mask=lgv.layer_mask(1, lgv.layer_order(model, X)))

    def create():
        return TrainState.create(apply_fn=model.apply, params=model.init(jax.random.key(0), X)["params"], tx=tx)

    def step(state, x, y):
        gradients = jax.grad(lambda p: ((state.apply_fn({"params": p}, x) - y) ** 2).mean())(state.params)
        return state.apply_gradients(grads=gradients)

    specs = nn.get_partition_spec(jax.eval_shape(create))
    shardings = jax.tree.map(lambda s: NamedSharding(mesh, s), specs, is_leaf=lambda s: isinstance(s, P))
    boxed = jax.jit(create, out_shardings=shardings)()
    bare = nn.unbox(create())
    boxed_step = jax.jit(step, out_shardings=shardings)
    rows = NamedSharding(mesh, P("data"))
    x, y = jax.device_put((X, Y), rows)
    for _ in range(STEPS):
        boxed, bare = boxed_step(boxed, x, y), jax.jit(step)(bare, X, Y)
    kernel = boxed.opt_state[0].mu["Dense_0"]["kernel"].value
    assert kernel.sharding.is_equivalent_to(NamedSharding(mesh, P("data", "tensor")), 2)
    assert_same_run(nn.unbox(boxed).params, bare.params)


@pytest.mark.slow
def test_nnx():
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)

    def run(place):
        model = nnx.Sequential(nnx.Linear(16, 32, rngs=nnx.Rngs(0)), jnp.tanh, nnx.Linear(32, 8, rngs=nnx.Rngs(1)))
        nnx.update(model, jax.tree.map(place, nnx.state(model)))
        optimizer = nnx.Optimizer(model, lgv.adam(1e-2, 1e-3, 0), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x, y):
            optimizer.update(model, nnx.grad(lambda m: ((m(x) - y) ** 2).mean())(model))

        for _ in range(STEPS):
            step(model, optimizer, place(X), place(Y))
        return model, optimizer

    def place(leaf):
        spec = P("data", "tensor") if leaf.ndim == 2 and leaf.shape != X.shape and leaf.shape != Y.shape else P()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    model, optimizer = run(place)
    alone, _ = run(lambda leaf: leaf)
    kernel = NamedSharding(mesh, P("data", "tensor"))
    moments = [x for x in jax.tree.leaves(nnx.state(optimizer)) if not is_key(x) and x.ndim == 2]
    assert len(moments) == 4 and all(x.sharding.is_equivalent_to(kernel, 2) for x in moments)
    assert_same_run(nnx.state(model), nnx.state(alone))


# A transformer whose layers are scanned.


@pytest.mark.parametrize(
    "dtype", [pytest.param(d, marks=pytest.mark.slow) for d in (jnp.float32, jnp.bfloat16)], ids=["float32", "bfloat16"]
)
def test_layer_langevin_on_the_first_blocks_of_a_scanned_transformer(dtype, optimized):
    model = Transformer(Sizes(layers=4, width=32, heads=4), dtype)
    order = lgv.layer_order(model, jnp.zeros((1, 8), jnp.int32))
    in_a_block = sum(path.startswith("blocks/") for path in order)
    assert order[0] == "embed" and order[-1] == "head" and in_a_block == 8
    first = lgv.layer_mask(3, order, scanned={"blocks": 0})  # the embedding and two blocks

    def update(sigma, mask, mesh):
        """The first update of the parameters, for gradients of ones."""
        tx = lgv.adam(1e-2, sigma, 0, eps=0.1, mask=mask)
        state = jax.tree.map(
            lambda x: jax.device_put(jnp.zeros(x.shape, x.dtype), x.sharding) if x.ndim else None,
            Training(model, tx, mesh).abstract,
        )
        gradients, optimizer = jax.tree.map(jnp.ones_like, state.params), tx.init(state.params)
        compiled = jax.jit(tx.update).lower(gradients, optimizer, state.params).compile()
        assert collectives(compiled) == set()
        updates, optimizer = compiled(gradients, optimizer, state.params)
        assert_sharded_like((state.optimizer, updates, optimizer), state.params)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
        return jax.tree.map(lambda u: np.asarray(u, np.float32), updates), state.params

    ours, sharded = update(1.0, first, make_mesh(2))
    plain, _ = update(0.0, None, make_mesh(2))
    langevin, _ = update(1.0, None, make_mesh(2))
    one = jax.make_mesh((1, 1), ("data", "tensor"), devices=jax.devices()[:1], axis_types=(AxisType.Auto,) * 2)
    alone, _ = update(1.0, first, one)
    assert not any(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(sharded) if leaf.ndim > 2)
    close = {"rtol": float(8 * jnp.finfo(dtype).eps), "atol": 1e-7}  # XLA contracts multiply-adds as it likes
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **close), ours, alone)
    for (path, u), quiet, loud in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(plain), jax.tree.leaves(langevin), strict=True
    ):
        noisy = path[0].key == "embed" or (np.arange(len(u)) < 2 if path[0].key == "blocks" else False)
        mask = np.broadcast_to(np.reshape(noisy, (-1,) + (1,) * (u.ndim - 1)), u.shape)
        np.testing.assert_allclose(u, np.where(mask, loud, quiet), **close)  # the noise of Langevin Adam, or none
        assert (loud != quiet).mean() > 0.99
