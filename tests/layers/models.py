"""Models whose layers are known by hand, for Linen and NNX."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx


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
    scanned: dict[str, int] = {}

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
    Case(
        "scan",
        Scanned(),
        dict.fromkeys(["embed", "blocks/Dense_0", "blocks/Dense_1", "head"], BOTH),
        scanned={"blocks": 0},
    ),
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
    Case(
        "scan",
        NnxScanned,
        dict.fromkeys(["embed", "blocks/inner", "blocks/out", "head"], BOTH),
        scanned={"blocks": 0},
    ),
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
