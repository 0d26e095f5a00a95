"""The order of a model's layers, and the masks that select the first of them."""

import functools
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import langevin_optax as lgv


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


X = shape(2, 4)
IMAGE = shape(2, 8, 8, 3)
TOKENS = shape(2, 5, dtype=jnp.int32)
Dense = functools.partial(nn.Dense, 4)


class Deep(nn.Module):
    n: int = 12

    @nn.compact
    def __call__(self, x):
        for _ in range(self.n):
            x = nn.relu(Dense()(x))
        return x


class ConvBlock(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train):
        y = nn.Conv(self.features, (3, 3), use_bias=False)(x)
        y = nn.relu(nn.BatchNorm(use_running_average=not train)(y))
        y = nn.Conv(self.features, (3, 3), use_bias=False)(y)
        y = nn.BatchNorm(use_running_average=not train)(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), use_bias=False, name="shortcut")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
        x = ConvBlock(8, name="eight")(ConvBlock(4, name="four")(x, train), train)
        return nn.Dense(10)(x.mean((1, 2)))


class Setup(nn.Module):
    def setup(self):
        self.a, self.b, self.c, self.unused = Dense(), Dense(), Dense(), Dense()

    def __call__(self, x):
        return self.b(self.a(self.c(x)))

    def encode(self, x):
        return self.a(self.b(x))


class Highway(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal()
        transform, gate = self.param("transform", init, (4, 4)), nn.sigmoid(x @ self.param("gate", init, (4, 4)))
        return gate * nn.relu(x @ transform) + (1 - gate) * x


class Highways(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Dense()(Highway()(Highway()(x)))


class Scaled(nn.Module):
    """Owns a parameter, and submodules besides."""

    @nn.compact
    def __call__(self, x):
        x = Dense(name="in")(x)
        x = x * self.param("scale", nn.initializers.ones, (4,))
        return Dense(name="out")(x)


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Sequential([Dense(), nn.relu, Setup(name="encoder")])(x)
        return Scaled(name="decoder")(x)


class Twice(nn.Module):
    def setup(self):
        self.a, self.b = Dense(), Dense()

    def __call__(self, x):
        return self.b(self.a(self.b(x)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = nn.relu(Dense()(x))
        return Dense()(x), None


class Scanned(nn.Module):
    axis: int = 0

    @nn.compact
    def __call__(self, x):
        x = Dense(name="embed")(x)
        blocks = nn.scan(Block, variable_axes={"params": self.axis}, split_rngs={"params": True}, length=3)
        return nn.Dense(2, name="head")(blocks(name="blocks")(x, None)[0])


class Lifted(nn.Module):
    @nn.compact
    def __call__(self, x):
        x, _ = nn.remat(Block)(name="second")(Dense(name="first")(x), None)
        x, _ = nn.jit(Block)(name="third")(x, None)
        ensemble = nn.vmap(
            nn.Dense, in_axes=None, axis_size=5, variable_axes={"params": 0}, split_rngs={"params": True}
        )
        return ensemble(4, name="fourth")(x)


class Attend(nn.Module):
    def setup(self):
        self.embed, self.dense = nn.Embed(7, 4), Dense()

    def __call__(self, x):
        return self.embed.attend(self.dense(x))


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        return Dense()(nn.Dropout(0.5, deterministic=deterministic)(Dense()(x)))


class Static(nn.Module):
    """Branches on its arguments, which must therefore arrive as they are."""

    @nn.compact
    def __call__(self, x, flag, mask, mode, *, extra):
        assert flag is True and mask is None and mode == "both" and extra == {"n": 2, "x": extra["x"]}
        for _ in range(extra["n"]):
            x = Dense()(x)
        return x + extra["x"]


class Containers(nn.Module):
    def setup(self):
        self.layers = [Dense() for _ in range(2)]
        self.heads = {"z": Dense(), "y": Dense()}

    def __call__(self, x):
        return self.heads["y"](self.layers[0](self.heads["z"](self.layers[1](x))))


class Sized(nn.Module):
    """Has parameters, and a size to be read, from the moment it is set up."""

    def setup(self):
        self.size, self.w = 4, self.param("w", nn.initializers.ones, (4,))

    def __call__(self, x):
        return x * self.w


class ReadAhead(nn.Module):
    def setup(self):
        self.a, self.b = Sized(), Sized()

    def __call__(self, x):
        return self.a(self.b(x[..., : self.a.size]))


class Library(nn.Module):
    """Layers of Flax that are made of layers, or that name their parameters in their own way."""

    @nn.compact
    def __call__(self, x):
        x = nn.MultiHeadDotProductAttention(2, name="attention")(x)
        x = nn.RNN(nn.SimpleCell(4), name="rnn")(x)
        return nn.WeightNorm(Dense(name="dense"), name="norm")(x)


class Checked(nn.Module):
    """Calls a method of its own before it is bound."""

    features: int

    def __post_init__(self):
        self.check()
        super().__post_init__()

    def check(self):
        assert self.features > 0

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features)(x)


class Teaching(nn.Module):
    """Runs another model within itself, whose layers have names of its own layers."""

    @nn.compact
    def __call__(self, x):
        x = Dense(name="Dense_1")(x)
        x = x + Deep(1, parent=None).apply({"params": {"Dense_0": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}}, x)
        return Dense(name="Dense_0")(Dense(name="Dense_2")(x))


BOTH = "bias kernel"
NORM = "bias scale"
BLOCK = {"Conv_0": "kernel", "BatchNorm_0": NORM, "Conv_1": "kernel", "BatchNorm_1": NORM}


class Case(NamedTuple):
    """A model, and by hand its layers in the order of their calls, with the leaves of each."""

    name: str
    model: Any
    layers: dict[str, str]
    args: tuple = (X,)
    kwargs: dict[str, Any] = {}

    @property
    def order(self):
        return list(self.layers)

    @property
    def leaves(self):
        return [{f"{path}/{leaf}".lstrip("/") for leaf in names.split()} for path, names in self.layers.items()]

    def build(self):
        return self.model if isinstance(self.model, nn.Module) else nnx.eval_shape(lambda: self.model(nnx.Rngs(0)))

    def params(self):
        model = self.build()
        if isinstance(model, nnx.Module):
            return nnx.state(model, nnx.Param)
        init = functools.partial(model.init, jax.random.key(0), **self.kwargs)
        static = {i: arg for i, arg in enumerate(self.args) if not hasattr(arg, "shape")}
        call = lambda *xs: init(*(static.get(i, x) for i, x in enumerate(xs)))
        return jax.eval_shape(call, *(None if i in static else x for i, x in enumerate(self.args)))["params"]


LINEN = [
    Case("root", nn.Dense(3), {"": BOTH}),
    Case("deep", Deep(), {f"Dense_{i}": BOTH for i in range(12)}),
    Case(
        "resnet",
        ResNet(),
        {"Conv_0": BOTH, "BatchNorm_0": NORM}
        | {f"four/{name}": leaves for name, leaves in BLOCK.items()}
        | {f"eight/{name}": leaves for name, leaves in (BLOCK | {"shortcut": "kernel"}).items()}
        | {"Dense_0": BOTH},
        (IMAGE,),
        {"train": True},
    ),
    Case("setup", Setup(), {"c": BOTH, "a": BOTH, "b": BOTH}),
    Case("method", Setup(), {"b": BOTH, "a": BOTH}, kwargs={"method": "encode"}),
    Case("method-function", Setup(), {"b": BOTH, "a": BOTH}, kwargs={"method": Setup.encode}),
    Case("highway", Highways(), {"Highway_1": "gate transform", "Highway_0": "gate transform", "Dense_0": BOTH}),
    Case("owner", Scaled(), {"": "scale", "in": BOTH, "out": BOTH}),
    Case(
        "nested",
        Nested(),
        dict.fromkeys(["Dense_0", "encoder/c", "encoder/a", "encoder/b"], BOTH)
        | {"decoder": "scale", "decoder/in": BOTH, "decoder/out": BOTH},
    ),
    Case("twice", Twice(), {"b": BOTH, "a": BOTH}),
    Case("scan", Scanned(), dict.fromkeys(["embed", "blocks/Dense_0", "blocks/Dense_1", "head"], BOTH)),
    Case(
        "lifted",
        Lifted(),
        dict.fromkeys(
            ["first", "second/Dense_0", "second/Dense_1", "third/Dense_0", "third/Dense_1", "fourth"],
            BOTH,
        ),
    ),
    Case("attend", Attend(), {"dense": BOTH, "embed": "embedding"}),
    Case("dropout", Dropped(), {"Dense_1": BOTH, "Dense_0": BOTH}, kwargs={"deterministic": False}),
    Case(
        "static",
        Static(),
        {"Dense_0": BOTH, "Dense_1": BOTH},
        (X, True, None, "both"),
        {"extra": {"n": 2, "x": np.ones(4)}},
    ),
    Case("containers", Containers(), {"layers_1": BOTH, "heads_z": BOTH, "layers_0": BOTH, "heads_y": BOTH}),
    Case("read-ahead", ReadAhead(), {"b": "w", "a": "w"}),
    Case(
        "library",
        Library(),
        {f"attention/{name}": BOTH for name in ("query", "key", "value", "out")}
        | {"SimpleCell_0/i": BOTH, "SimpleCell_0/h": "kernel", "norm": "dense/kernel/scale", "dense": BOTH},
        (shape(2, 5, 4),),
    ),
    Case("checked", nn.Sequential([Checked(4), Checked(4)]), {f"layers_{i}/Dense_0": BOTH for i in range(2)}),
    Case("teaching", Teaching(), {"Dense_1": BOTH, "Dense_2": BOTH, "Dense_0": BOTH}),
]


def linear(rngs):
    return nnx.Linear(4, 4, rngs=rngs)


class Reversed(nnx.Module):
    """Two blocks that hold their layers in one order and call them in the other."""

    def __init__(self, rngs):
        self.a = nnx.List([linear(rngs) for _ in range(11)])
        self.b = nnx.Dict(y=linear(rngs), z=linear(rngs))
        self.c = linear(rngs)

    def __call__(self, x):
        x = self.b["y"](self.b["z"](self.c(x)))
        for layer in reversed(self.a):
            x = layer(x)
        return x


class Tied(nnx.Module):
    """One layer under two names, called three times."""

    def __init__(self, rngs):
        self.a, self.m = linear(rngs), linear(rngs)
        self.z = self.a

    def __call__(self, x):
        return self.a(self.z(self.m(self.z(x))))


class Owner(nnx.Module):
    """Owns parameters in containers, and a layer besides."""

    def __init__(self, rngs):
        self.layer, self.gain = linear(rngs), nnx.Dict(scale=nnx.Param(jnp.ones(4)))
        self.shifts = nnx.List([nnx.Param(jnp.zeros(4)) for _ in range(2)])

    def __call__(self, x):
        return self.gain["scale"] * self.layer(x) + self.shifts[0] + self.shifts[1]


class Owners(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = Owner(rngs), Owner(rngs)

    def __call__(self, x):
        return self.first(self.second(x))


class Regular(nnx.Module):
    """Carries statistics and random streams, which a call changes."""

    def __init__(self, rngs):
        self.linear, self.norm = linear(rngs), nnx.BatchNorm(4, rngs=rngs)
        self.dropout, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x, rngs=None, *, train=True):
        assert train is True
        return self.head(self.dropout(self.norm(self.linear(x)), rngs=rngs))


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.out, self.inner, self.dropout = linear(rngs), linear(rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(self.inner(x)))


class NnxScanned(nnx.Module):
    def __init__(self, rngs, axis=0):
        create = nnx.vmap(lambda rngs: NnxBlock(rngs), out_axes=nnx.StateAxes({nnx.Param: axis, ...: 0}))
        self.blocks = nnx.split_rngs(splits=3)(create)(rngs)
        self.axis, self.head, self.embed = axis, nnx.Linear(4, 2, rngs=rngs), linear(rngs)

    def __call__(self, x):
        axes = nnx.StateAxes({nnx.Param: self.axis, ...: 0})
        scan = nnx.scan(lambda block, x: block(x), in_axes=(axes, nnx.Carry), out_axes=nnx.Carry)
        return self.head(scan(self.blocks, self.embed(x)))


class NnxLifted(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b, self.c = linear(rngs), linear(rngs), linear(rngs)

    def __call__(self, x):
        call = lambda layer, x: layer(x)
        return nnx.jit(call)(self.a, nnx.remat(call)(self.b, nnx.jit(call)(self.c, x)))


class Weight(nnx.Module):
    def __init__(self, rngs):
        self.w = nnx.Param(rngs.normal((4, 4)))


class NnxJitted(Weight):
    @nnx.jit
    def __call__(self, x):
        return x @ self.w[...]


class JaxJitted(Weight):
    @jax.jit
    def __call__(self, x):
        return x @ self.w[...]


class Rematted(Weight):
    @nnx.remat
    def __call__(self, x):
        return x @ self.w[...]


class Decorated(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b, self.c, self.d = Rematted(rngs), linear(rngs), JaxJitted(rngs), NnxJitted(rngs)

    def __call__(self, x):
        return self.a(self.b(self.c(self.d(x))))


class Helpers(nnx.Module):
    """Methods of every kind, and layers that are reached through others than ``__call__``."""

    def __init__(self, rngs):
        self.embed, self.linear, self.coder = nnx.Embed(7, 4, rngs=rngs), linear(rngs), Coder(rngs)

    @staticmethod
    def halve(x):
        return x / 2

    @classmethod
    def double(cls, x):
        return 2 * x

    @property
    def width(self):
        return self.linear.out_features

    def __call__(self, x):
        x = self.coder.encode(self.halve(x))
        assert x.shape[-1] == self.width == self.embed.features
        return self.embed.attend(self.linear(self.double(x)))


class Coder(Weight):
    def encode(self, x):
        return x @ self.w[...]


class Legacy(nnx.Module, pytree=False):
    """Plain containers, as before Flax 0.12."""

    def __init__(self, rngs):
        self.layers = [linear(rngs) for _ in range(2)]
        self.heads = {"z": linear(rngs), "y": linear(rngs)}

    def __call__(self, x):
        return self.heads["y"](self.heads["z"](self.layers[0](self.layers[1](x))))


class NnxLibrary(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs, decode=False)
        self.cell = nnx.RNN(nnx.SimpleCell(4, 4, rngs=rngs))
        self.body = nnx.Sequential(linear(rngs), nnx.relu, nnx.LayerNorm(4, rngs=rngs))

    def __call__(self, x):
        return self.attention(self.cell(self.body(x)))


class Partial(nnx.Module):
    def __init__(self, rngs):
        self.a, self.unused, self.z = linear(rngs), linear(rngs), linear(rngs)

    def __call__(self, x):
        return self.a(self.z(x))


NNX = [
    Case("root", linear, {"": BOTH}),
    Case("reversed", Reversed, dict.fromkeys(["c", "b/z", "b/y", *(f"a/{i}" for i in range(10, -1, -1))], BOTH)),
    Case("tied", Tied, {"a": BOTH, "m": BOTH}),
    Case("owner", Owner, {"": "gain/scale shifts/0 shifts/1", "layer": BOTH}),
    Case(
        "owners",
        Owners,
        {"second": "gain/scale shifts/0 shifts/1", "second/layer": BOTH}
        | {"first": "gain/scale shifts/0 shifts/1", "first/layer": BOTH},
    ),
    Case("regular", Regular, {"linear": BOTH, "norm": NORM, "head": BOTH}),
    Case(
        "sequential",
        lambda rngs: nnx.Sequential(linear(rngs), nnx.Dropout(0.5), linear(rngs)),
        {"layers/0": BOTH, "layers/2": BOTH},
        kwargs={"rngs": nnx.Rngs(0)},
    ),
    Case("scan", NnxScanned, dict.fromkeys(["embed", "blocks/inner", "blocks/out", "head"], BOTH)),
    Case("lifted", NnxLifted, {"c": BOTH, "b": BOTH, "a": BOTH}),
    Case("decorated", Decorated, {"d": "w", "c": "w", "b": BOTH, "a": "w"}),
    Case("helpers", Helpers, {"coder": "w", "linear": BOTH, "embed": "embedding"}),
    Case("legacy", Legacy, {"layers/1": BOTH, "layers/0": BOTH, "heads/z": BOTH, "heads/y": BOTH}),
    Case(
        "library",
        NnxLibrary,
        {"body/layers/0": BOTH, "body/layers/2": NORM, "cell/cell/dense_i": BOTH, "cell/cell/dense_h": "kernel"}
        | {f"attention/{name}": BOTH for name in ("query", "key", "value", "out")},
        (shape(2, 5, 4),),
    ),
]

CASES = [pytest.param(c, id=f"{kind}-{c.name}") for kind, cases in [("linen", LINEN), ("nnx", NNX)] for c in cases]


def flat(tree):
    """The leaves of parameters or of a mask by their paths, without the help of the package."""
    tree = nnx.to_pure_dict(tree) if isinstance(tree, nnx.State) else flax.core.unfreeze(tree)
    tree = flax.traverse_util.flatten_dict(tree.get("params", tree))
    return {"/".join(map(str, path)): leaf for path, leaf in tree.items()}


def chosen(mask):
    """The paths of the leaves that a mask of bools selects."""
    mask = flat(mask)
    assert all(type(m) is bool for m in mask.values())
    return {path for path, m in mask.items() if m}


@pytest.mark.parametrize("case", CASES)
def test_layer_order_is_that_of_the_calls(case):
    assert lgv.layer_order(case.build(), *case.args, **case.kwargs) == case.order


@pytest.mark.parametrize("case", CASES)
def test_masks_partition_the_parameters_by_layer(case):
    params, order = case.params(), lgv.layer_order(case.build(), *case.args, **case.kwargs)
    assert set(flat(params)) == set().union(*case.leaves)
    trees = [params, nnx.to_pure_dict(params)] if isinstance(params, nnx.State) else [params, {"params": params}]
    for tree in trees if isinstance(params, nnx.State) else [*trees, flax.core.freeze(trees[0])]:
        for k in range(1, len(order) + 1):
            mask = lgv.layer_mask(k, order)(tree)
            assert jax.tree.structure(mask) == jax.tree.structure(tree)
            assert chosen(mask) == set().union(*case.leaves[:k])
        assert [chosen(lgv.layer_mask([i], order)(tree)) for i in range(len(order))] == case.leaves


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
    with pytest.raises(TypeError, match=rf"model must be a flax.linen.Module or a flax.nnx.Module, got {got}"):
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


# The masks.


def tree(*names):
    """Parameters with two leaves a layer."""
    leaves = {f"{name}/{leaf}": jnp.zeros(2) for name in names for leaf in ("bias", "kernel")}
    return flax.traverse_util.unflatten_dict(leaves, sep="/")


def numbered(n, prefix="Dense_"):
    return [f"{prefix}{i}" for i in range(n)]


def layers(mask):
    """The layers that a mask selects, each with both of its leaves."""
    selected = chosen(mask)
    names = {path.rpartition("/")[0] for path in selected}
    assert selected == {f"{name}/{leaf}" for name in names for leaf in ("bias", "kernel")}
    return names


# Neither sorted nor natural.
ORDER = ["Dense_3", "Dense_0", "Conv_1", "Dense_2", "Dense_10", "Dense_1"]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (1, ORDER[:1]),
        (4, ["Dense_3", "Dense_0", "Conv_1", "Dense_2"]),
        (6, ORDER),
        (np.int64(2), ["Dense_3", "Dense_0"]),
        (0.5, ["Dense_3", "Dense_0", "Conv_1"]),
        (np.float32(0.5), ["Dense_3", "Dense_0", "Conv_1"]),
        (Fraction(2, 3), ["Dense_3", "Dense_0", "Conv_1", "Dense_2"]),
        (0.1, ["Dense_3"]),
        (1.0, ORDER),
        (slice(2), ["Dense_3", "Dense_0"]),
        (slice(-2, None), ["Dense_10", "Dense_1"]),
        (slice(None, None, 2), ["Dense_3", "Conv_1", "Dense_10"]),
        (slice(4, 99), ["Dense_10", "Dense_1"]),
        ([0, -1], ["Dense_3", "Dense_1"]),
        ((5, 2, 2), ["Conv_1", "Dense_1"]),
        ([-6], ["Dense_3"]),
        (range(1, 3), ["Dense_0", "Conv_1"]),
        ([np.int32(3)], ["Dense_2"]),
        (lambda path: path.endswith("_1"), ["Conv_1", "Dense_1"]),
        ("Dense_1", ["Dense_1"]),
        ("Dense_.*", ["Dense_3", "Dense_0", "Dense_2", "Dense_10", "Dense_1"]),
        ("Conv_1|Dense_1", ["Conv_1", "Dense_1"]),
        (re.compile("dense_1", re.IGNORECASE), ["Dense_1"]),
    ],
)
@pytest.mark.parametrize("paths", [ORDER, [(name,) for name in ORDER]], ids=["str", "tuple"])
def test_which_layers(which, expected, paths):
    assert layers(lgv.layer_mask(which, paths)(tree(*ORDER))) == set(expected)
    assert layers(lgv.layer_mask(which, paths)({"params": tree(*ORDER)})) == set(expected)


@pytest.mark.parametrize(
    ("fraction", "n", "count"),
    [
        *[(0.29, 100, 29), (0.57, 100, 57), (0.58, 50, 29), (0.7, 10, 7), (0.99, 100, 99)],
        *[(0.34, 3, 1), (0.66, 3, 1), (0.67, 3, 2), (0.2899, 100, 28), (0.999999, 10, 9)],
        *[(0.1, 3, 1), (1e-12, 5, 1), (0.3, 1, 1), (1.0, 7, 7)],
    ],
)
def test_a_fraction_rounds_down_but_not_below_its_decimal(fraction, n, count):
    assert layers(lgv.layer_mask(fraction, numbered(n))(tree(*numbered(n)))) == set(numbered(count))


def test_every_percentage_of_100_layers():
    params = tree(*numbered(100))
    assert [len(layers(lgv.layer_mask(i / 100, numbered(100))(params))) for i in range(1, 101)] == list(range(1, 101))


def test_predicates_and_regular_expressions_see_whole_paths():
    params, seen = tree("enc/block_1/Dense_0", "enc/block_10/Dense_0", "head"), []
    lgv.layer_mask(lambda path: seen.append(path) or True)({"params": params})
    assert seen == ["enc/block_1/Dense_0", "enc/block_10/Dense_0", "head"]
    for order in (None, ["head", "enc/block_10/Dense_0", "enc/block_1/Dense_0"]):
        mask = lambda which, order=order: layers(lgv.layer_mask(which, order)(params))
        assert mask("enc/block_1/.*") == {"enc/block_1/Dense_0"}
        assert mask("enc/.*") == {"enc/block_1/Dense_0", "enc/block_10/Dense_0"}
        assert mask(lambda path: "block_10" in path) == {"enc/block_10/Dense_0"}
        with pytest.raises(ValueError, match="layers='Dense_0' selects none of the layers"):
            mask("Dense_0")


@pytest.mark.parametrize(
    ("names", "k", "expected"),
    [
        (["Dense_10", "Dense_2", "Dense_1"], 2, ["Dense_1", "Dense_2"]),
        (["block_10/Dense_0", "block_2/Dense_0"], 1, ["block_2/Dense_0"]),
        (["block_2/Dense_10", "block_10/Dense_2", "block_2/Dense_9"], 2, ["block_2/Dense_9", "block_2/Dense_10"]),
        (["layers_0", "layers_2", "layers_11", "layers_1"], 0.75, ["layers_0", "layers_1", "layers_2"]),
        (["Dense_2", "Dense_10"], slice(-1, None), ["Dense_10"]),
        (["head"], 1, ["head"]),
        (["head"], 0.01, ["head"]),
    ],
)
def test_natural_order(names, k, expected):
    assert layers(lgv.layer_mask(k)(tree(*names))) == set(expected)
    assert layers(lgv.layer_mask(k)({"params": tree(*names)})) == set(expected)


def test_natural_order_of_other_trees():
    assert lgv.layer_mask(1)(jnp.zeros(3)) is True
    assert lgv.layer_mask(1)({"w": jnp.zeros(3), "b": jnp.zeros(())}) == {"w": True, "b": True}
    assert lgv.layer_mask(2)([{"w": 0.0} for _ in range(12)]) == [{"w": i < 2} for i in range(12)]
    state = nnx.state(nnx.eval_shape(lambda: nnx.List([linear(nnx.Rngs(0)) for _ in range(11)])))
    assert chosen(lgv.layer_mask([2, -1])(state)) == {"2/bias", "2/kernel", "10/bias", "10/kernel"}


@pytest.mark.parametrize(
    "names", [["Conv_0", "Dense_0"], ["Dense_0", "Dense_1/Dense_0"], ["layer", "layer_1"], ["a", "b"]]
)
def test_names_that_do_not_say_their_order_raise(names):
    for which in (1, 0.5, slice(1), [0]):
        with pytest.raises(
            ValueError, match=re.escape(f"called: {names}. Pass order=langevin_optax.layer_order(model")
        ):
            lgv.layer_mask(which)(tree(*names))
    assert layers(lgv.layer_mask(names[1])(tree(*names))) == {names[1]}


def test_paths_of_order_within_the_tree():
    params = {"blocks": [{"w": 0.0, "sub": {"w": 0.0}}, {"w": 0.0, "sub": {"w": 0.0}}]}
    select = lambda which, order: jax.tree.leaves(lgv.layer_mask(which, order)(params))  # sub of 0, w of 0, …
    assert select(1, [("blocks", 1), ("blocks", 0)]) == [False, False, True, True]
    assert select(1, ["blocks/1/sub", ("blocks", 1), "blocks/0"]) == [False, False, True, False]
    assert select([1], ["blocks/1/sub", ("blocks", 1), "blocks/0"]) == [False, False, False, True]
    assert select(1, ["", "blocks/0/sub"]) == [False, True, True, True]
    assert select(1, [("blocks",)]) == [True, True, True, True]


def test_a_collection_is_only_taken_off_where_it_is_one():
    params = {"params": tree("Dense_0", "Dense_1")}
    assert layers(lgv.layer_mask(1, ["params/Dense_1", "params/Dense_0"])(params)) == {"Dense_1"}
    assert layers(lgv.layer_mask(1, ["Dense_1", "Dense_0"])(params)) == {"Dense_1"}
    mask = lgv.layer_mask(1, ["params", "head"])(tree("params", "head"))
    assert mask == {"params": {"bias": True, "kernel": True}, "head": {"bias": False, "kernel": False}}


def test_partitioned_parameters_of_linen():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    model = nn.Sequential([nn.Dense(4, kernel_init=init), nn.Dense(4, kernel_init=init)])
    params = jax.eval_shape(model.init, jax.random.key(0), X)
    mask = lgv.layer_mask(1, lgv.layer_order(model, X))(params)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    assert jax.tree.leaves(mask) == [True, True, False, False]


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        (0, ValueError, "layers as a number of layers must be ≥ 1, got 0."),
        (-1, ValueError, "layers as a number of layers must be ≥ 1, got -1."),
        (np.int64(0), ValueError, "layers as a number of layers must be ≥ 1, got 0."),
        (True, TypeError, "not a bool, got True."),
        (np.False_, TypeError, "not a bool, got False."),
        (0.0, ValueError, "layers as a fraction must lie in (0, 1], got 0.0."),
        (-0.5, ValueError, "layers as a fraction must lie in (0, 1], got -0.5."),
        (1.5, ValueError, "layers as a fraction must lie in (0, 1], got 1.5."),
        (float("nan"), ValueError, "layers as a fraction must lie in (0, 1], got nan."),
        (float("inf"), ValueError, "layers as a fraction must lie in (0, 1], got inf."),
        (
            ["Dense_0"],
            TypeError,
            "layers as a sequence must hold indices, got ['Dense_0']. For paths, write a predicate.",
        ),
        ([0, 1.0], TypeError, "layers as a sequence must hold indices, got [0, 1.0]."),
        ([True], TypeError, "layers as a sequence must hold indices, got [True]."),
        (None, TypeError, "layers must be an int, a fraction, a slice, a sequence of indices, a predicate"),
        (1j, TypeError, "or a regular expression, got 1j."),
        ({"Dense_0"}, TypeError, "or a regular expression, got {'Dense_0'}."),
    ],
)
def test_wrong_layers_raise_at_construction(which, error, message):
    for order in (None, ["Dense_0"]):
        with pytest.raises(error, match=re.escape(message)):
            lgv.layer_mask(which, order)


def test_wrong_orders_raise_at_construction():
    with pytest.raises(ValueError, match="order must name at least one layer, got none"):
        lgv.layer_mask(1, [])
    for order in (["a/b", "c", "a/b"], ["a/b", "c", ("a", "b")]):
        with pytest.raises(ValueError, match=re.escape("order must name each layer once, got ['a/b', 'c', 'a/b'].")):
            lgv.layer_mask(1, order)


@pytest.mark.parametrize("which", [4, [3], [-4], [0, 7]])
def test_more_layers_than_there_are_raise(which):
    message = f"layers={which} asks for more than the 3 layers ['Dense_0', 'Dense_1', 'Dense_2']."
    for order in (None, numbered(3)):
        with pytest.raises(ValueError, match=re.escape(message)):
            lgv.layer_mask(which, order)(tree(*numbered(3)))


@pytest.mark.parametrize("which", ["Dense", "dense_0", "ense_0", [], slice(0), slice(3, None), lambda path: False])
def test_selecting_nothing_raises(which):
    message = f"layers={which!r} selects none of the layers ['Dense_0', 'Dense_1', 'Dense_2']."
    for order in (None, numbered(3)):
        with pytest.raises(ValueError, match=re.escape(message)):
            lgv.layer_mask(which, order)(tree(*numbered(3)))


def test_a_leaf_outside_the_order_raises():
    for order in (["Dense_0"], ["Dense_0", "Dense_10"], ["Dense_0", "Dense"]):
        message = f"the parameter 'Dense_1/bias' belongs to none of the layers of order, {order}."
        for which in (1, "Dense_0", slice(1)):
            with pytest.raises(ValueError, match=re.escape(message)):
                lgv.layer_mask(which, order)({"params": tree("Dense_0", "Dense_1")})


# Masks at work.


def moved(tx, params):
    """Which entries of the parameters a transformation moves, with gradients of zero."""
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    return jax.tree.map(lambda u: np.asarray(u) != 0, updates)


def moved_layers(tx, params):
    leaves = {path: set(u.ravel().tolist()) for path, u in flat(moved(tx, params)).items()}
    assert all(len(values) == 1 for values in leaves.values())
    names = {path.rpartition("/")[0] for path, values in leaves.items() if values == {True}}
    assert all((path.rpartition("/")[0] in names) == (values == {True}) for path, values in leaves.items())
    return names


# Noise that is nowhere 0.
NOISE = functools.partial(lgv.add_langevin_noise, 0.1, 0.1, 0, sampler="rademacher")
SGD = functools.partial(lgv.sgd, 0.1, 0.1, 0, sampler="rademacher")


@pytest.mark.parametrize(
    "tx",
    [
        lambda mask: SGD(mask=mask),
        lambda mask: NOISE(mask=mask),
        lambda mask: optax.masked(NOISE(), mask),
        lambda mask: optax.chain(
            lgv.scale_by_adam(), optax.masked(lgv.add_preconditioned_noise(0.1, 0.1, 0), mask), optax.scale(-0.1)
        ),
        lambda mask: optax.partition({True: SGD(), False: optax.sgd(0.1)}, mask),
    ],
    ids=["sgd", "mask", "masked", "chain", "partition"],
)
def test_noise_goes_to_the_selected_layers_only(tx):
    params = tree(*ORDER)
    assert moved_layers(tx(lgv.layer_mask(2, ORDER)), params) == {"Dense_3", "Dense_0"}
    assert moved_layers(tx(lgv.layer_mask("Dense_1")), {"params": params}) == {"Dense_1"}


def test_masks_within_masks():
    params, last = tree(*ORDER), lgv.layer_mask(slice(1, None), ORDER)
    for inner in (SGD(mask=lgv.layer_mask(2, ORDER)), optax.masked(SGD(), lgv.layer_mask(2, ORDER))):
        assert moved_layers(optax.masked(inner, last), params) == {"Dense_0"}
        assert moved_layers(optax.partition({True: inner, False: optax.sgd(0.1)}, last), params) == {"Dense_0"}
    nothing = optax.masked(SGD(mask=lgv.layer_mask(1, ORDER)), last)
    with pytest.raises(ValueError, match=re.escape(f"layers=1 selects none of the layers {ORDER}.")):
        nothing.init(params)


def test_a_tree_without_leaves_is_returned_as_it_is():
    for empty in ({}, [], {"Dense_0": optax.MaskedNode()}, {"params": {}}):
        assert lgv.layer_mask(3, ["Dense_0"], scanned={"blocks": 0})(empty) is empty
    assert lgv.layer_mask(1)(None) is None


def test_map_params_of_a_masked_noise():
    params, mask = tree(*ORDER), lgv.layer_mask(2, ORDER)
    for tx in (optax.masked(NOISE(), mask), SGD(mask=mask)):
        state = tx.init(params)
        assert jax.tree.structure(optax.tree.map_params(tx, lambda leaf: leaf + 1, state)) == jax.tree.structure(state)
    tx = optax.chain(lgv.scale_by_adam(), optax.masked(lgv.add_preconditioned_noise(0.1, 0.1, 0), mask))
    scaler, noise = optax.tree.map_params(tx, lambda leaf: leaf + 1, tx.init(params))
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves((scaler.mu, scaler.nu)))
    assert len(jax.tree.leaves(scaler.mu)) == 12
    assert noise.inner_state.count == 0 and noise.inner_state.key == jax.random.key(0)


def test_masks_under_jit_and_eval_shape_are_bools():
    mask, seen = lgv.layer_mask(2, ORDER), []

    def look(params):
        seen.append(layers(mask(params)))
        return params

    jax.eval_shape(look, tree(*ORDER))
    jax.jit(lambda params: look(params))(tree(*ORDER))
    assert seen == [{"Dense_3", "Dense_0"}] * 2


@pytest.mark.parametrize("wrap", [lambda mask: SGD(mask=mask), lambda mask: optax.masked(SGD(), mask)])
def test_an_nnx_optimizer(wrap):
    model = NnxLifted(nnx.Rngs(0))
    before = flat(jax.tree.map(np.array, nnx.state(model, nnx.Param)))
    optimizer = nnx.Optimizer(model, wrap(lgv.layer_mask(2, lgv.layer_order(model, X))), wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    after = flat(nnx.state(model, nnx.Param))
    changed = {path for path, leaf in before.items() if np.all(leaf != after[path])}
    unchanged = {path for path, leaf in before.items() if np.all(leaf == after[path])}
    assert changed == {"c/bias", "c/kernel", "b/bias", "b/kernel"}
    assert unchanged == {"a/bias", "a/kernel"}


# Stacked layers.

STACK = ["embed", "blocks/Dense_0", "blocks/Dense_1", "head"]
NNX_STACK = ["embed", "blocks/inner", "blocks/out", "head"]
NONE, ALL = [0, 0, 0], [1, 1, 1]


def stack(axis=0, nnx_model=False):
    """Parameters with three stacked blocks of two layers, and the paths of these layers."""
    if nnx_model:
        model = NnxScanned(nnx.Rngs(0), axis)
        assert lgv.layer_order(model, X) == NNX_STACK
        return nnx.state(model, nnx.Param), NNX_STACK
    model = Scanned(axis)
    assert lgv.layer_order(model, X) == STACK
    params = jax.eval_shape(model.init, jax.random.key(0), X)["params"]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params), STACK


def along(axis, steps, ndim):
    """A boolean array of rank ``ndim`` that has ``steps`` on ``axis``, or one bool if they are all the same."""
    if len(set(steps)) == 1:
        return bool(steps[0])
    return np.array(steps, bool).reshape([3 if a == axis % ndim else 1 for a in range(ndim)])


# What is selected: of embed, of the steps of the first and of the second layer of each block, of head.
SCANNED = [
    (1, (1, NONE, NONE, 0)),
    (2, (1, [1, 0, 0], NONE, 0)),
    (3, (1, [1, 0, 0], [1, 0, 0], 0)),
    (4, (1, [1, 1, 0], [1, 0, 0], 0)),
    (6, (1, ALL, [1, 1, 0], 0)),
    (7, (1, ALL, ALL, 0)),
    (8, (1, ALL, ALL, 1)),
    (0.5, (1, [1, 1, 0], [1, 0, 0], 0)),
    (1.0, (1, ALL, ALL, 1)),
    ([-1, -2, 1], (0, [1, 0, 0], [0, 0, 1], 1)),
    (slice(1, None, 2), (0, ALL, NONE, 1)),
    (slice(2, 4), (0, [0, 1, 0], [1, 0, 0], 0)),
    ("blocks/0/.*", (0, [1, 0, 0], [1, 0, 0], 0)),
    ("blocks/[12]/(Dense_1|out)|head", (0, NONE, [0, 1, 1], 1)),
    (lambda path: path.startswith(("blocks/1/Dense_0", "blocks/1/inner")), (0, [0, 1, 0], NONE, 0)),
]


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("nnx_model", [False, True], ids=["linen", "nnx"])
def test_stacked_layers_count_one_by_one(nnx_model, axis):
    params, order = stack(axis, nnx_model)
    assert flat(params)[f"{order[1]}/kernel"].shape == {0: (3, 4, 4), 1: (4, 3, 4), -1: (4, 4, 3)}[axis]
    for which, (embed, first, second, head) in SCANNED:
        expected = dict(zip(order, ([embed], first, second, [head]), strict=True))
        mask = lgv.layer_mask(which, order, scanned={"blocks": axis})(params)
        assert jax.tree.structure(mask) == jax.tree.structure(params)
        for path, m in flat(mask).items():
            want = along(axis, expected[path.rpartition("/")[0]], flat(params)[path].ndim)
            assert type(m) is type(want), (which, path)
            np.testing.assert_array_equal(m, want, err_msg=f"{which} {path}", strict=True)


@pytest.mark.parametrize(("nnx_model", "axis", "case"), [(False, 0, 3), (False, 1, -3), (False, -1, -2), (True, 1, 3)])
def test_noise_on_stacked_layers(nnx_model, axis, case):
    params, order = stack(axis, nnx_model)
    which, (embed, first, second, head) = SCANNED[case]
    expected = dict(zip(order, ([embed], first, second, [head]), strict=True))
    tx = SGD(mask=lgv.layer_mask(which, order, scanned={"blocks": axis}))
    for path, entries in flat(moved(tx, params)).items():
        want = along(axis, expected[path.rpartition("/")[0]], entries.ndim)
        np.testing.assert_array_equal(entries, np.broadcast_to(want, entries.shape), err_msg=path)


def test_noise_on_a_slice_is_that_of_the_whole():
    params = {"blocks": {"kernel": jnp.zeros((3, 40))}}
    updates = lambda tx: jax.jit(tx.update)(params, tx.init(params), params)[0]["blocks"]["kernel"]
    part = updates(SGD(mask=lgv.layer_mask("blocks/1", scanned={"blocks": 0})))
    np.testing.assert_array_equal(part[1], updates(SGD())[1])
    assert not np.any(part[0]) and not np.any(part[2])


def test_stacks_without_an_order():
    params, _ = stack()
    blocks = {"blocks": params["blocks"]}
    steps = lambda mask, name: np.ravel(mask["blocks"][name]["bias"]).tolist()
    mask = lgv.layer_mask(3, scanned={"blocks": 0})(blocks)
    assert steps(mask, "Dense_0") == [True, True, False] and steps(mask, "Dense_1") == [True, False, False]
    mask = lgv.layer_mask("blocks/2/Dense_0", scanned={"blocks": 0})(params)
    assert steps(mask, "Dense_0") == [False, False, True] and steps(mask, "Dense_1") == [False]
    with pytest.raises(ValueError, match=r"'embed', 'head'\]\. Pass order="):
        lgv.layer_mask(3, scanned={"blocks": 0})(params)


def test_a_stack_may_be_one_layer_the_whole_tree_or_one_of_two():
    def names(order, scanned, params):
        seen = []
        lgv.layer_mask(lambda path: seen.append(path) or True, order, scanned=scanned)(params)
        return seen

    leaf = lambda n: {"w": jnp.zeros((n, 4))}
    assert names(["a", "b"], {"a": 0}, {"a": leaf(2), "b": leaf(3)}) == ["a/0", "a/1", "b"]
    assert names([("x", "a"), "b"], {("x", "a"): 0}, {"x": {"a": leaf(2)}, "b": leaf(3)}) == ["x/a/0", "x/a/1", "b"]
    assert names(["b", "a"], {"a": 0, "b": 0}, {"a": leaf(2), "b": leaf(3)}) == ["b/0", "b/1", "b/2", "a/0", "a/1"]
    assert names(["b", "a"], {"": 0}, {"a": leaf(2), "b": leaf(2)}) == ["0/b", "0/a", "1/b", "1/a"]
    # A name that merely begins like the stack's is not of the stack.
    assert names(["a", "ab"], {"a": 0}, {"a": leaf(2), "ab": leaf(3)}) == ["a/0", "a/1", "ab"]


@pytest.mark.parametrize("scanned", [{"block": 0}, {"blocks": 0, "blocks_2": 0}, {("params", "blocks"): 0}])
def test_scanned_that_holds_no_layer_raises(scanned):
    params, order = stack()
    wrong = "/".join(path) if isinstance(path := next(reversed(scanned)), tuple) else path
    with pytest.raises(
        ValueError, match=re.escape(f"scanned names ['{wrong}'], which hold none of the layers {order}.")
    ):
        lgv.layer_mask(1, order, scanned=scanned)(params)


UNEVEN = [
    {"a": {"w": jnp.zeros((3, 4))}, "b": {"w": jnp.zeros((2, 4))}},
    {"a": {"v": jnp.zeros((2, 4)), "w": jnp.zeros((3, 4))}, "b": {"w": jnp.zeros((3, 4))}},
    {"a": {"v": jnp.zeros((3, 4)), "w": jnp.zeros((2, 4))}, "b": {"w": jnp.zeros((2, 4))}},
]


@pytest.mark.parametrize("params", UNEVEN, ids=["layers", "first-leaf", "last-leaf"])
def test_a_stack_of_different_lengths_raises(params):
    message = "scanned={'': 0}: the leaves under '' must share one length, got [2, 3]."
    for which in (1, "0/a"):
        with pytest.raises(ValueError, match=re.escape(message)):
            lgv.layer_mask(which, ["a", "b"], scanned={"": 0})(params)


@pytest.mark.parametrize("axis", [2, -3, 7])
@pytest.mark.parametrize("first", [(3, 3), (3, 3, 3), ()])
def test_an_axis_that_a_leaf_does_not_have_raises(axis, first):
    params = {"a": {"v": jnp.zeros(first), "w": jnp.zeros((3, 3))}}
    with pytest.raises(ValueError, match=r"scanned=\{'a': -?\d\}"):
        lgv.layer_mask(1, ["a"], scanned={"a": axis})(params)


def test_order_as_a_string_and_a_broken_regular_expression_raise_at_construction():
    with pytest.raises(TypeError, match="order must be a sequence of paths, got the string 'Dense_0'"):
        lgv.layer_mask(1, "Dense_0")
    with pytest.raises(ValueError, match=r"layers='\(' is no regular expression"):
        lgv.layer_mask("(")


def test_an_order_with_layers_that_are_not_there_raises():
    params = {f"Dense_{i}": {"kernel": jnp.ones((2, 2))} for i in range(10)}
    with pytest.raises(ValueError, match=r"order names the layers \['Dense_10', .*which the parameters do not hold"):
        lgv.layer_mask(0.1, [f"Dense_{i}" for i in range(100)])(params)
    hidden = {**params, "Dense_10": optax.MaskedNode()}
    mask = lgv.layer_mask(2, [f"Dense_{i}" for i in range(11)])(hidden)
    assert [name for name in params if mask[name]["kernel"]] == ["Dense_0", "Dense_1"]


def test_numpy_scalars_are_static_arguments():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train, times):
            for _ in range(times):
                x = nn.Dense(2)(x)
            return x if train else -x

    assert lgv.layer_order(Model(), jnp.ones((1, 2)), np.bool_(True), np.int64(2)) == ["Dense_0", "Dense_1"]


def test_hidden_layers_keep_their_place_without_an_order():
    """Freezing the first layer does not make the second one the first, with an order or without."""
    params = {f"Dense_{i}": {"kernel": jnp.ones((2, 2))} for i in range(3)}
    hidden = {**params, "Dense_0": {"kernel": optax.MaskedNode()}}
    assert jax.tree.leaves(lgv.layer_mask(2)(hidden)) == [True, False]
    tx = optax.masked(
        lgv.lol(0.1, 0, temperature=1.0, friction=1.0), {"Dense_0": False, "Dense_1": True, "Dense_2": True}
    )
    for layers in (1, [0]):
        with pytest.raises(ValueError, match="selects none of the layers"):
            lgv.layer_mask(layers)(hidden)
    with pytest.raises(ValueError, match="selects none of the layers"):
        tx.init(params)
