"""The order of a model's layers: that of the calls."""

import threading
from concurrent.futures import ThreadPoolExecutor

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import langevin_optax as lgv
from tests.layers.models import CASES, Dense, NnxLifted, Partial, Regular, Setup, Static, X, linear, shape
from tests.layers.trees import chosen, flat


@pytest.mark.parametrize("case", CASES)
def test_layer_order_is_that_of_the_calls(case):
    order = lgv.layer_order(case.build(), *case.args, **case.kwargs)
    assert order == case.order and order.scanned == case.scanned


@pytest.mark.parametrize("case", CASES)
def test_masks_partition_the_parameters_by_layer(case):
    params, order = case.params(), lgv.layer_order(case.build(), *case.args, **case.kwargs)
    assert set(flat(params)) == set().union(*case.leaves)
    trees = [params, nnx.to_pure_dict(params)] if isinstance(params, nnx.State) else [params, {"params": params}]
    scanned = {} if case.scanned else None  # a stacked layer counts once, with all its steps
    for tree in trees if isinstance(params, nnx.State) else [*trees, flax.core.freeze(trees[0])]:
        for k in range(1, len(order) + 1):
            mask = lgv.layer_mask(k, order, scanned=scanned)(tree)
            assert jax.tree.structure(mask) == jax.tree.structure(tree)
            assert chosen(mask) == set().union(*case.leaves[:k])
        masks = [lgv.layer_mask([i], order, scanned=scanned)(tree) for i in range(len(order))]
        assert [chosen(mask) for mask in masks] == case.leaves


def test_arrays_and_shapes_as_arguments_give_one_order():
    for x in (X, np.ones((2, 4), np.float32), jnp.ones((2, 4))):
        assert lgv.layer_order(Setup(), x) == ["c", "a", "b"]
        assert lgv.layer_order(NnxLifted(nnx.Rngs(0)), x) == ["c", "b", "a"]


def test_arrays_enter_with_their_shapes_only():
    class Looks(nn.Module):
        @nn.compact
        def __call__(self, x, *, y):
            assert isinstance(x, jax.core.Tracer) and isinstance(y[0], jax.core.Tracer) and y[1] == 3
            return Dense()(x)

    for x in (X, np.ones((2, 4), np.float32), jnp.ones((2, 4))):
        assert lgv.layer_order(Looks(), x, y=(x, 3)) == ["Dense_0"]


def test_random_keys_as_arguments():
    class Keyed(nn.Module):
        @nn.compact
        def __call__(self, x, *, key):
            return Dense()(Dense()(x) + jax.random.normal(key, (4,)))

    assert lgv.layer_order(Keyed(), X, key=jax.random.key(0)) == ["Dense_1", "Dense_0"]


def test_a_layer_whose_parameters_are_only_read_is_not_the_model_itself():
    class Read(nn.Module):
        def setup(self):
            self.embed, self.dense = nn.Embed(7, 4), Dense()

        def __call__(self, x):
            return self.dense(x) @ self.embed.embedding.T

    assert "" not in lgv.layer_order(Read(), X)


def test_nothing_is_computed():
    ran = []

    def effects(x):
        jax.debug.callback(lambda: ran.append("debug"))
        return jax.pure_callback(lambda x: ran.append("pure") or x, x, x)

    class Effects(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2**18)(effects(nn.Dense(2**17)(x)))

    class NnxEffects(nnx.Module):
        def __init__(self, rngs):
            self.b = nnx.Linear(2**16, 2**17, rngs=rngs)
            self.a = nnx.Linear(2**17, 2**18, rngs=rngs)

        def __call__(self, x):
            return self.a(effects(self.b(x)))

    huge = shape(2**20, 2**16)  # 256 GiB
    assert lgv.layer_order(Effects(), huge) == ["Dense_1", "Dense_0"]
    assert lgv.layer_order(nnx.eval_shape(lambda: NnxEffects(nnx.Rngs(0))), huge) == ["b", "a"]
    jax.effects_barrier()
    assert not ran


def snapshot(model):
    """All of an NNX model: its modules with their classes, and its variables, by identity and by value."""
    graphdef, state = nnx.split(model)
    modules = [(path, id(module), type(module)) for path, module in nnx.iter_modules(model)]
    values = [
        jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in jax.tree.leaves(state)
    ]
    return graphdef, modules, [np.asarray(v).tobytes() for v in values]


def test_an_nnx_model_is_left_as_it_was():
    rngs, passed = nnx.Rngs(0), nnx.Rngs(dropout=1)
    model = nnx.Sequential(Regular(rngs), nnx.Linear(2, 4, rngs=rngs), Regular(rngs))
    before, passed_before = snapshot(model), snapshot(passed)
    order = lgv.layer_order(model, X)
    assert order == [f"layers/{i}" for i in ("0/linear", "0/norm", "0/head", "1", "2/linear", "2/norm", "2/head")]
    assert lgv.layer_order(model.layers[0], jnp.ones((2, 4)), rngs=passed) == ["linear", "norm", "head"]
    assert lgv.layer_order(model.layers[0], jnp.ones((2, 4)), passed) == ["linear", "norm", "head"]
    assert snapshot(model) == before
    assert snapshot(passed) == passed_before
    model(jnp.ones((2, 4)))
    assert snapshot(model) != before  # a real call does leave its traces


def test_an_abstract_model_is_left_abstract():
    model = nnx.eval_shape(lambda: Regular(nnx.Rngs(0)))
    assert lgv.layer_order(model, X) == ["linear", "norm", "head"]
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(model)))
    assert type(model) is Regular and type(model.linear) is nnx.Linear


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_two_threads_at_once(kind):
    barrier = threading.Barrier(2)

    class Meeting(nn.Module):
        n: int

        @nn.compact
        def __call__(self, x):
            for i in range(3):
                x = Dense(name=f"layer_{self.n}_{i}")(x)
                barrier.wait(60)
            return x

    class NnxMeeting(nnx.Module):
        def __init__(self, n, rngs):
            for i in (2, 1, 0):
                setattr(self, f"layer_{n}_{i}", linear(rngs))
            self.n = n

        def __call__(self, x):
            for i in range(3):
                x = getattr(self, f"layer_{self.n}_{i}")(x)
                barrier.wait(60)
            return x

    make = Meeting if kind == "linen" else lambda n: NnxMeeting(n, nnx.Rngs(0))
    models = [make(0), make(1)]
    with ThreadPoolExecutor(2) as pool:
        orders = list(pool.map(lambda model: lgv.layer_order(model, X), models))
    assert orders == [[f"layer_{n}_{i}" for i in range(3)] for n in range(2)]


@pytest.mark.parametrize("model", [Static(), nnx.eval_shape(lambda: NnxLifted(nnx.Rngs(0)))], ids=["linen", "nnx"])
def test_a_call_that_fails_leaves_nothing_behind(model):
    with pytest.raises(TypeError):
        lgv.layer_order(model)
    assert lgv.layer_order(Setup(), X) == ["c", "a", "b"]


def test_modules_that_are_not_called():
    model = nnx.eval_shape(lambda: Partial(nnx.Rngs(0)))
    order = lgv.layer_order(model, X)
    assert order == ["z", "a"]
    with pytest.raises(
        ValueError, match=r"'unused/bias' belongs to none of the layers of order, \['z', 'a'\].*never called"
    ):
        lgv.layer_mask(1, order)(nnx.state(model, nnx.Param))
    mask = lgv.layer_mask(1, [*order, "unused"])(nnx.state(model, nnx.Param))
    assert chosen(mask) == {"z/bias", "z/kernel"}


def test_modules_that_are_not_called_do_not_pass_for_a_part_of_their_parent():
    class Parent(Partial):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.scale = nnx.Param(jnp.ones(4))

        def __call__(self, x):
            return self.scale * super().__call__(x)

    model = nnx.eval_shape(lambda: Parent(nnx.Rngs(0)))
    with pytest.raises(ValueError, match="unused"):
        lgv.layer_mask(1, lgv.layer_order(model, X))(nnx.state(model, nnx.Param))


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (lambda x: x, "function"),
        ({"Dense_0": 1}, "dict"),
        (nn.Dense, "type"),
        (None, "NoneType"),
        (optax.sgd(1), "Grad"),
    ],
)
def test_layer_order_of_no_flax_model_raises(model, got):
    message = rf"model must be a flax.linen.Module or a flax.nnx.Module, got {got}.*write the order by hand: the list"
    with pytest.raises(TypeError, match=message):
        lgv.layer_order(model, X)


def test_layer_order_without_parameters_raises():
    class Plain(nn.Module):
        def __call__(self, x):
            return x

    class NnxPlain(nnx.Module):
        def __call__(self, x):
            return x

    class NnxIdle(NnxPlain):
        def __init__(self, rngs):
            self.unused = linear(rngs)

    for model in (Plain(), NnxPlain(), NnxIdle(nnx.Rngs(0))):
        with pytest.raises(ValueError, match=f"{type(model).__name__} calls no module that owns a parameter"):
            lgv.layer_order(model, X)


def test_numpy_scalars_are_static_arguments():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train, times):
            for _ in range(times):
                x = nn.Dense(2)(x)
            return x if train else -x

    assert lgv.layer_order(Model(), jnp.ones((1, 2)), np.bool_(True), np.int64(2)) == ["Dense_0", "Dense_1"]
