"""The second moments of the inputs of layers, against NumPy in float64 and against what the layers give."""

import itertools
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

import langevin_optax as lgv
from tests.layers.models import Legacy, NnxLifted, Regular

EPS = float(np.finfo(np.float32).eps)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def randomized(variables, seed=0):
    """Random values for all variables, biases as well."""
    leaves, treedef = jax.tree.flatten(variables)
    rng = np.random.default_rng(seed)
    return treedef.unflatten([np.asarray(rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves])


def variables_of(model, *args, seed=0, **kwargs):
    """Random variables of a Linen model."""
    init = lambda: model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, *args, **kwargs)
    return randomized(jax.eval_shape(init), seed)


def explains(covariance, outputs, kernel, bias=None):
    """Whether Σ is the second moment of the h̃ that give these outputs: E[y yᵀ] = [W; b]ᵀ Σ [W; b].

    With more outputs than inputs no other Σ is.
    """
    n = len(covariance) - (bias is not None)
    w = np.reshape(np.asarray(kernel, np.float64), (n, -1))
    if bias is not None:
        w = np.concatenate([w, np.reshape(bias, (1, -1))])
    assert np.linalg.matrix_rank(w) == len(w)
    y = np.asarray(outputs, np.float64).reshape(-1, w.shape[1])
    return np.allclose(w.T @ np.asarray(covariance) @ w, y.T @ y / len(y), rtol=1e-11, atol=1e-11)


class Layer(NamedTuple):
    name: str
    build: Any
    shape: tuple[int, ...]
    nnx: bool = False


def conv(size, channels, **kwargs):
    return nn.Conv(int(np.prod(size)) * channels + 1, size, param_dtype=jnp.float64, **kwargs)


def dense(features, **kwargs):
    return nn.DenseGeneral(features, param_dtype=jnp.float64, **kwargs)


LAYERS = [
    Layer("dense", nn.Dense(5, param_dtype=jnp.float64), (6, 4)),
    Layer("dense-without-bias", nn.Dense(5, use_bias=False, param_dtype=jnp.float64), (6, 4)),
    Layer("dense-of-one-example", nn.Dense(5, param_dtype=jnp.float64), (4,)),
    Layer("dense-over-axes", nn.Dense(5, param_dtype=jnp.float64), (3, 2, 5, 4)),
    Layer("general", dense((2, 3)), (6, 5)),
    Layer("general-last", dense((2, 3), axis=2, use_bias=False), (6, 2, 5)),
    Layer("general-two", dense((7, 2), axis=(-1, -2)), (5, 2, 3, 4)),
    Layer("1d", conv((3,), 2), (4, 7, 2)),
    Layer("1d-int", nn.Conv(7, 3, param_dtype=jnp.float64), (4, 7, 2)),
    Layer("1d-causal", conv((3,), 2, padding="CAUSAL", kernel_dilation=2), (4, 7, 2)),
    Layer("2d", conv((3, 2), 2), (2, 5, 4, 2)),
    Layer("2d-without-bias", conv((3, 2), 2, use_bias=False), (2, 5, 4, 2)),
    Layer("2d-strides", conv((3, 3), 2, strides=(2, 1)), (2, 6, 5, 2)),
    Layer("2d-stride-beyond-the-kernel", conv((2, 1), 3, strides=3), (2, 7, 6, 3)),
    Layer("2d-valid", conv((3, 2), 2, padding="VALID", strides=2), (2, 7, 5, 2)),
    Layer("2d-int", conv((3, 2), 2, padding=1), (2, 4, 4, 2)),
    Layer("2d-ints", conv((3, 2), 2, padding=(2, 0)), (2, 4, 4, 2)),
    Layer("2d-pairs", conv((3, 2), 2, padding=((0, 2), (1, 3))), (2, 4, 4, 2)),
    Layer("2d-circular", conv((3, 2), 2, padding="CIRCULAR", strides=2), (2, 5, 4, 2)),
    Layer("2d-reflect", conv((3, 2), 2, padding="REFLECT"), (2, 5, 4, 2)),
    Layer("2d-kernel-dilation", conv((3, 2), 2, kernel_dilation=(1, 2)), (2, 5, 6, 2)),
    Layer("2d-input-dilation", conv((3, 2), 2, input_dilation=(2, 1), padding=1), (2, 5, 4, 2)),
    Layer("2d-everything", conv((2, 3), 2, input_dilation=2, kernel_dilation=2, strides=3, padding=3), (2, 5, 6, 2)),
    Layer("2d-of-one-example", conv((3, 2), 2), (5, 4, 2)),
    Layer("2d-two-batch-axes", conv((3, 2), 2), (2, 3, 5, 4, 2)),
    Layer("3d", conv((2, 1, 3), 2, strides=(1, 2, 1)), (2, 3, 4, 3, 2)),
]
NNX_LAYERS = [
    Layer("linear", lambda **k: nnx.Linear(4, 5, **k), (6, 4)),
    Layer("linear-without-bias", lambda **k: nnx.Linear(4, 5, use_bias=False, **k), (3, 2, 4)),
    Layer("general", lambda **k: nnx.LinearGeneral((2, 3), (4, 2), axis=(-2, -1), **k), (4, 2, 3)),
    Layer("conv", lambda **k: nnx.Conv(2, 13, (3, 2), (2, 1), padding="CIRCULAR", **k), (2, 5, 4, 2)),
    Layer(
        "conv-dilated",
        lambda **k: nnx.Conv(2, 13, (2, 3), kernel_dilation=2, input_dilation=2, padding=1, **k),
        (2, 3, 4, 4, 2),
    ),
    Layer("conv-without-bias", lambda **k: nnx.Conv(2, 7, 3, padding="CAUSAL", use_bias=False, **k), (4, 7, 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize("layer", [pytest.param(layer, id=layer.name) for layer in LAYERS])
def test_the_moment_is_that_of_what_gives_the_outputs(layer, x64):
    x = jnp.asarray(normal(1, *layer.shape))
    params = variables_of(layer.build, x)["params"]
    both = lambda x: (
        lgv.input_covariances(layer.build, {"params": params}, x),
        layer.build.apply({"params": params}, x),
    )
    covariances, y = jax.jit(both)(x)
    assert list(covariances) == [""] and covariances[""].dtype == jnp.float64
    assert explains(covariances[""], y, **params)


@pytest.mark.parametrize("layer", [pytest.param(layer, id=layer.name) for layer in NNX_LAYERS])
def test_the_moment_is_that_of_what_gives_the_outputs_in_nnx(layer, x64):
    x = jnp.asarray(normal(1, *layer.shape))
    model = nnx.eval_shape(lambda: layer.build(rngs=nnx.Rngs(0), param_dtype=jnp.float64))
    graphdef, state = nnx.split(model)
    state = randomized(state)
    both = lambda x: (lgv.input_covariances(model, state, x), nnx.merge(graphdef, state)(x))
    covariances, y = jax.jit(both)(x)
    assert list(covariances) == [""]
    assert explains(covariances[""], y, **nnx.to_pure_dict(state))


def test_a_wrong_order_or_bias_explains_nothing(x64):
    layer, x = conv((3, 2), 2), jnp.asarray(normal(1, 2, 5, 4, 2))
    params = variables_of(layer, x)["params"]
    right = lgv.input_covariances(layer, params, x)[""]
    y = layer.apply({"params": params}, x)
    assert explains(right, y, **params)
    last = np.arange(12).reshape(3, 2, 2)
    orders = {
        "channels first": [*last.transpose(2, 0, 1).ravel(), 12],
        "columns before rows": [*last.transpose(1, 0, 2).ravel(), 12],
        "turned": [*last[::-1, ::-1].ravel(), 12],
        "bias first": [12, *last.ravel()],
    }
    for order in orders.values():
        assert not explains(right[np.ix_(order, order)], y, **params)
    central = right - right[:, -1:] @ right[-1:]
    assert not explains(central.at[-1, -1].set(1), y, **params)


def in_loops(x, size, strides=(1, 1), dilation=(1, 1), pads=((0, 0), (0, 0)), mode="constant"):
    """Σ of a convolution, position by position, in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *pads, (0, 0)), mode=mode)
    reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    total, count = 0, 0
    for image in x:
        for i in range(0, image.shape[0] - reach[0] + 1, strides[0]):
            for j in range(0, image.shape[1] - reach[1] + 1, strides[1]):
                taps = itertools.product(range(size[0]), range(size[1]))
                h = [image[i + a * dilation[0], j + b * dilation[1], c] for a, b in taps for c in range(x.shape[-1])]
                total, count = total + np.outer([*h, 1], [*h, 1]), count + 1
    return total / count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("conv", "loops"),
    [
        ({"padding": "VALID"}, {}),
        ({"padding": "SAME"}, {"pads": ((1, 1), (0, 1))}),
        ({"strides": 2}, {"strides": (2, 2), "pads": ((1, 1), (0, 0))}),
        ({"padding": ((2, 0), (0, 3)), "strides": (1, 3)}, {"pads": ((2, 0), (0, 3)), "strides": (1, 3)}),
        ({"kernel_dilation": (2, 3), "padding": 2}, {"dilation": (2, 3), "pads": ((2, 2), (2, 2))}),
        ({"padding": "CIRCULAR"}, {"pads": ((1, 1), (0, 1)), "mode": "wrap"}),
    ],
    ids=["valid", "same", "strided", "pairs", "dilated", "circular"],
)
def test_patches_in_loops(conv, loops):
    x = normal(2, 2, 5, 6, 3).astype(np.float32)
    layer = nn.Conv(4, (3, 2), **conv)
    sigma = lgv.input_covariances(layer, variables_of(layer, x), x)[""]
    assert sigma.dtype == jnp.float32
    np.testing.assert_allclose(sigma, in_loops(x, (3, 2), **loops), rtol=0, atol=64 * EPS)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(3, (3, 3), strides=2, name="conv")(x))
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(2, use_bias=False, name="head")(nn.relu(nn.Dense(4, name="body")(x.reshape(len(x), -1))))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (3, 3), 2, rngs=rngs)
        self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=rngs)
        self.body = nnx.Linear(12, 4, rngs=rngs)
        self.head = nnx.Linear(4, 2, use_bias=False, rngs=rngs)

    def __call__(self, x):
        x = self.norm(nnx.relu(self.conv(x)))
        return self.head(nnx.relu(self.body(x.reshape(len(x), -1))))


X = normal(3, 8, 4, 4, 2).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    return Net(), variables_of(Net(), X, seed=4) | {"batch_stats": {"norm": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}}


def same(a, b, rtol=8 * EPS):
    assert set(a) == set(b)
    for path in a:
        np.testing.assert_allclose(a[path], b[path], rtol=rtol, atol=rtol * np.abs(b[path]).max(), err_msg=path)


def test_a_model_layer_by_layer(net):
    model, variables = net
    covariances = lgv.input_covariances(model, variables, X)
    assert {path: c.shape for path, c in covariances.items()} == {"conv": (19, 19), "body": (13, 13), "head": (4, 4)}
    assert set(covariances) < set(lgv.layer_order(model, X))
    _, state = model.apply(variables, X, capture_intermediates=True)
    seen = state["intermediates"]
    body = np.asarray(seen["norm"]["__call__"][0], np.float64).reshape(8, -1)
    head = np.maximum(np.asarray(seen["body"]["__call__"][0], np.float64), 0)
    body = np.concatenate([body, np.ones((8, 1))], axis=1)
    expected = {"conv": in_loops(X, (3, 3), (2, 2), pads=((0, 1), (0, 1))), "body": body.T @ body / 8}
    same(covariances, expected | {"head": head.T @ head / 8}, rtol=32 * EPS)


def test_nnx_and_linen_agree(net):
    model, variables = net
    expected = lgv.input_covariances(model, variables, X)
    ours = NnxNet(nnx.Rngs(0))
    state = nnx.state(ours, nnx.Param)
    nnx.replace_by_pure_dict(state, variables["params"])
    same(lgv.input_covariances(ours, state, X), expected)
    same(lgv.input_covariances(ours, nnx.to_pure_dict(state), X), expected)
    same(jax.jit(lambda state: lgv.input_covariances(ours, state, X))(state), expected)
    nnx.update(ours, state)
    same(lgv.input_covariances(ours, None, X), expected)
    same(nnx.jit(lambda model, x: lgv.input_covariances(model, None, x))(ours, X), expected)


def test_variables_in_each_form(net):
    model, variables = net
    expected = lgv.input_covariances(model, variables, X)
    same(lgv.input_covariances(model, flax.core.freeze(variables), X), expected)
    same(lgv.input_covariances(model, variables, x=X), expected)
    bare = nn.Dense(3, name="head")
    params = variables_of(bare, jnp.ones((2, 4)))
    for inputs in (((x := normal(5, 2, 4)),), ()):
        named = {} if inputs else {"inputs": x}
        same(
            lgv.input_covariances(bare, params, *inputs, **named),
            lgv.input_covariances(bare, params["params"], *inputs, **named),
        )


def test_arguments_of_apply(net):
    model, variables = net
    expected = lgv.input_covariances(model, variables, X)
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        lgv.input_covariances(model, variables, X, train=True)
    for mutable in ("batch_stats", ["batch_stats"], True, nn.DenyList("intermediates")):
        trained = lgv.input_covariances(model, variables, X, train=True, mutable=mutable)
        same({"conv": trained["conv"]}, {"conv": expected["conv"]})
        assert set(trained) == set(expected) and not np.allclose(trained["body"], expected["body"])

    class Other(nn.Module):
        @nn.compact
        def encode(self, x, rate):
            return nn.Dense(3)(nn.Dropout(rate, deterministic=False)(x))

    x, rngs = np.ones((64, 4), np.float32), {"dropout": jax.random.key(1)}
    variables = variables_of(Other(), x, 0.5, method="encode")
    sigma = lgv.input_covariances(Other(), variables, x, 0.5, method="encode", rngs=rngs)["Dense_0"]
    np.testing.assert_allclose(np.diag(sigma)[:4], 2 * sigma[-1, :4], rtol=8 * EPS)  # h is 0 or 2


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(4)
        return dense(dense(x)[:3])


class NnxTwice(nnx.Module):
    def __init__(self, rngs):
        self.Dense_0 = nnx.Linear(4, 4, rngs=rngs)
        self.same = self.Dense_0

    def __call__(self, x):
        return self.Dense_0(self.same(x)[:3])


def test_several_calls_count_by_their_rows():
    x = normal(6, 5, 4).astype(np.float32)
    params = variables_of(Twice(), x)["params"]
    second = x.astype(np.float64) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    h = np.concatenate([np.concatenate([x, second[:3]]), np.ones((8, 1))], axis=1)
    expected = {"Dense_0": h.T @ h / 8}
    same(lgv.input_covariances(Twice(), params, x), expected)
    model = NnxTwice(nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    nnx.replace_by_pure_dict(state, params)
    covariances = lgv.input_covariances(model, state, x)
    same(covariances, expected)
    assert covariances["Dense_0"][-1, -1] == 1


@pytest.mark.slow
def test_under_jit_vmap_and_on_sharded_batches(net):
    model, variables = net
    call = lambda variables, x: lgv.input_covariances(model, variables, x)
    expected = call(variables, X)
    same(jax.jit(call)(variables, X), expected)
    other = randomized(variables["params"], seed=7)
    pair = {**variables, "params": jax.tree.map(lambda *leaves: jnp.stack(leaves), variables["params"], other)}
    both = jax.vmap(call, ({"params": 0, "batch_stats": None}, None))(pair, X)
    same({path: c[0] for path, c in both.items()}, expected)
    same({path: c[1] for path, c in both.items()}, call({**variables, "params": other}, X))
    for kind in (AxisType.Auto, AxisType.Explicit):
        sharding = jax.NamedSharding(jax.make_mesh((8,), ("data",), axis_types=(kind,)), jax.P("data"))
        same(jax.jit(call)(variables, jax.device_put(X, sharding)), expected)


def test_low_precision_keeps_the_ones_exact():
    x = normal(8, 1000, 4).astype(np.float32)
    for module, rows in [(nn.Dense(3, dtype=jnp.bfloat16), x), (nn.Conv(3, (1,), dtype=jnp.bfloat16), x[:, None])]:
        variables = variables_of(module, rows)
        sigma = lgv.input_covariances(module, variables, rows)[""]
        assert sigma.dtype == jnp.float32 and sigma[-1, -1] == 1
        h = np.concatenate([x.astype(jnp.bfloat16).astype(np.float64), np.ones((1000, 1))], axis=1)
        np.testing.assert_allclose(sigma, h.T @ h / 1000, rtol=0, atol=32 * EPS)
        assert not np.allclose(sigma[:4, :4], x.T @ x / 1000, rtol=0, atol=32 * EPS)


def test_integer_inputs_are_numbers():
    x = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for module in (nn.Dense(3), nn.Conv(3, (2,))):
        variables = variables_of(module, x)
        integers, reals = (lgv.input_covariances(module, variables, a) for a in (x, x.astype(np.float32)))
        same(integers, reals, rtol=0)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x)


class Transformed(nn.Module):
    """One layer outside, and one within a transformation."""

    lift: Any

    @nn.compact
    def __call__(self, x):
        return self.lift(Block(name="inside") if self.lift in JAX else Block, nn.Dense(4, name="outside")(x))


AXES = {"variable_axes": {True: 0}, "split_rngs": {"params": True}}
JAX = [
    lambda block, x: jax.vmap(block)(x),
    lambda block, x: jax.jit(lambda x: block(x))(x),
]
LIFTS = {
    "scan": lambda block, x: nn.scan(lambda m, c, _: (m(c), None), length=3, **AXES)(block(name="inside"), x, None)[0],
    "vmap": lambda block, x: nn.vmap(block, in_axes=None, axis_size=2, **AXES)(name="inside")(x),
    "jit": lambda block, x: nn.jit(block)(name="inside")(x),
    "remat-in-scan": lambda block, x: nn.scan(
        lambda m, c, _: (nn.remat(lambda m, x: m(x))(m, c), None), length=3, **AXES
    )(block(name="inside"), x, None)[0],
    "cond": lambda block, x: _cond(block(name="inside"), x),
    "weight-norm": lambda block, x: nn.WeightNorm(nn.Dense(4, name="inside"))(x),
    "vmap-of-jax": JAX[0],
    "jit-of-jax": JAX[1],
}


def _cond(block, x):
    return block(x) if block.is_initializing() else nn.cond(x.sum() > 0, lambda m, x: m(x), lambda m, x: x, block, x)


@pytest.mark.parametrize("name", LIFTS)
def test_layers_in_transformations_are_not_seen(name):
    x = jnp.asarray(normal(9, 3, 4), jnp.float32)
    model = Transformed(LIFTS[name])
    plain = variables_of(nn.Dense(4), x)["params"]
    lifted = name not in ("vmap-of-jax", "jit-of-jax")
    params = variables_of(model, x)["params"] if lifted else {"outside": plain, "inside": {"Dense_0": plain}}
    covariances = lgv.input_covariances(model, params, x)
    assert set(covariances) == {"outside"}
    same(covariances, jax.jit(lambda params: lgv.input_covariances(model, params, x))(params))


def test_rematerialized_layers_are_seen():
    class Rematted(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(2):
                x = nn.remat(Block)(name=f"Block_{i}")(x)
            return x

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Block(name="Block_1")(Block(name="Block_0")(x))

    x = jnp.asarray(normal(9, 3, 4), jnp.float32)
    params = variables_of(Plain(), x)["params"]
    expected = lgv.input_covariances(Plain(), params, x)
    assert set(expected) == {"Block_0/Dense_0", "Block_1/Dense_0"}
    same(lgv.input_covariances(Rematted(), params, x), expected)
    same(jax.jit(lambda params: lgv.input_covariances(Rematted(), params, x))(params), expected)


def test_nnx_layers_in_transformations_are_not_seen():
    class Model(nnx.Module):
        def __init__(self, rngs):
            create = nnx.vmap(lambda rngs: nnx.Linear(4, 4, rngs=rngs))
            self.blocks = nnx.split_rngs(splits=3)(create)(rngs)
            self.outside, self.lifted, self.mapped = nnx.Linear(4, 4, rngs=rngs), NnxLifted(rngs), Legacy(rngs)

        def __call__(self, x):
            x = self.lifted(nnx.scan(lambda m, x: m(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(self.blocks, x))
            return self.outside(jax.vmap(self.mapped)(x))

    x = jnp.ones((2, 4))
    model = Model(nnx.Rngs(0))
    covariances = lgv.input_covariances(model, None, x)
    assert set(covariances) == {"outside"}
    same(covariances, jax.jit(lambda x: lgv.input_covariances(model, None, x))(x))


class Own(nn.Dense):
    @nn.compact
    def __call__(self, inputs):
        return super().__call__(2 * inputs)


class Inherited(nn.Dense):
    """A layer that computes what its parent does."""


class Others(nn.Module):
    @nn.compact
    def __call__(self, x):
        teacher = nn.Dense(4, parent=None)
        x = x + teacher.apply({"params": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}, x)  # none of this model's
        x = nn.Conv(4, (3,), feature_group_count=2)(nn.Conv(4, (3,), mask=jnp.ones((3, 4, 4)))(x))
        x = nn.ConvTranspose(4, (3,))(nn.ConvLocal(4, (3,))(x))
        x = nn.Einsum((4, 4), "btc,cd->btd")(nn.LayerNorm()(x)) + nn.Embed(7, 4)(jnp.zeros(x.shape[:2], int))
        x = nn.DenseGeneral(3, axis=1)(x)  # (batch, channels, 3)
        x = nn.DenseGeneral(4, batch_dims=(0,))(x)
        x = Own(4)(nn.RNN(nn.SimpleCell(4))(x))
        return nn.Dense(4)(x.astype(complex)).real


@pytest.mark.slow
def test_other_layers_have_no_entry():
    x = jnp.ones((2, 5, 4))
    with pytest.raises(ValueError, match="Others calls no dense or convolutional layer whose inputs can be seen"):
        lgv.input_covariances(Others(), variables_of(Others(), x), x)
    model = nn.Sequential([Others(), Inherited(2)])
    variables = variables_of(model, x)
    assert list(lgv.input_covariances(model, variables, jnp.ones((2, 5, 4)))) == ["layers_1"]


def test_other_nnx_layers_have_no_entry():
    class NnxOwn(nnx.Linear):
        def __call__(self, inputs):
            return super().__call__(2 * inputs)

    rngs = nnx.Rngs(0)
    layers = [
        nnx.Conv(4, 4, 3, feature_group_count=2, rngs=rngs),
        nnx.Conv(4, 4, 3, mask=jnp.ones((3, 4, 4)), rngs=rngs),
        nnx.LinearGeneral(5, 4, axis=1, rngs=rngs),
        nnx.LinearGeneral(4, 4, batch_axis={0: 2}, rngs=rngs),
        nnx.LayerNorm(4, rngs=rngs),
        NnxOwn(4, 4, rngs=rngs),
    ]
    with pytest.raises(ValueError, match="Sequential calls no dense or convolutional layer"):
        lgv.input_covariances(nnx.Sequential(*layers), None, jnp.ones((2, 5, 4)))


def test_attention_and_containers():
    x = jnp.asarray(normal(10, 2, 5, 4), jnp.float32)
    model = nn.MultiHeadDotProductAttention(2, qkv_features=6)
    sigmas = lgv.input_covariances(model, variables_of(model, x), x)
    assert {k: s.shape[0] for k, s in sigmas.items()} == {"query": 5, "key": 5, "value": 5, "out": 7}
    same({"query": sigmas["query"]}, {"query": sigmas["value"]})
    paths = lgv.layer_order(legacy := Legacy(nnx.Rngs(0)), x)
    assert set(lgv.input_covariances(legacy, None, x)) == set(paths)


def test_an_nnx_model_and_what_it_is_called_with_are_left_as_they_were():
    model, passed = Regular(nnx.Rngs(0)), nnx.Rngs(dropout=1)
    variables = [v for _, v in nnx.to_flat_state(nnx.state(model))]
    classes = [type(m) for _, m in nnx.iter_modules(model)]
    leaves = lambda: [
        np.asarray(jax.random.key_data(v) if jax.dtypes.issubdtype(v.dtype, jax.dtypes.prng_key) else v)
        for v in jax.tree.leaves((nnx.state(model), passed))
    ]
    before = leaves()
    x = jnp.asarray(normal(11, 3, 4), jnp.float32)
    state = jax.tree.map(lambda leaf: 2 * leaf, nnx.state(model, nnx.Param))
    first, again = (lgv.input_covariances(model, state, x, rngs=passed) for _ in range(2))
    same(first, again, rtol=0)
    assert set(first) == {"linear", "head"}
    assert all(np.array_equal(a, b) for a, b in zip(before, leaves(), strict=True))
    assert all(a is b for a, b in zip(variables, [v for _, v in nnx.to_flat_state(nnx.state(model))], strict=True))
    assert [type(m) for _, m in nnx.iter_modules(model)] == classes


@pytest.mark.parametrize(("model", "got"), [(lambda x: x, "function"), (nn.Dense, "type"), (None, "NoneType")])
def test_no_flax_model_raises(model, got):
    message = rf"model must be a flax.linen.Module or a flax.nnx.Module, got {got}.*write the dict by hand"
    with pytest.raises(TypeError, match=message):
        lgv.input_covariances(model, {}, X)


def test_variables_of_another_type_raise():
    with pytest.raises(TypeError, match=r"variables must be what model.apply takes.*got NoneType"):
        lgv.input_covariances(nn.Dense(3), None, jnp.ones((2, 4)))
    with pytest.raises(TypeError, match=r"variables must be an nnx.State.*got ArrayImpl"):
        lgv.input_covariances(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), jnp.ones(3), jnp.ones((2, 4)))
