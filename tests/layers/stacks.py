"""Models with stacked layers, and models that look as if they had some."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from tests.layers.models import Block, Dense, NnxBlock, NnxScanned, Scanned, linear

SPLIT = {"split_rngs": {"params": True}, "variable_axes": {"params": 0}}


def scan(target, length=3, **kwargs):
    return nn.scan(target, **{**SPLIT, "length": length, **kwargs})


def vmap(target, size=5):
    """Members that each see the whole input."""
    return nn.vmap(target, in_axes=None, axis_size=size, **SPLIT)


class Around(nn.Module):
    blocks: Callable[[], Any]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(self.blocks()(name="blocks")(Dense(name="embed")(x), None)[0])


class Rematted(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.remat(nn.Dense)(4)(nn.jit(nn.Dense)(4)(x)), None


class Owning(nn.Module):
    """A block that owns a parameter besides its layers."""

    @nn.compact
    def __call__(self, x, _):
        return Dense()(x) * self.param("scale", nn.initializers.ones, (4,)), None


class Mixture(nn.Module):
    """A block with experts side by side."""

    @nn.compact
    def __call__(self, x, _):
        return Dense(name="out")(vmap(nn.Dense)(4, name="experts")(x).sum(0)), None


class Sharded(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(4, kernel_init=init)(x), None


class Uneven(nn.Module):
    """Of three steps, only the last kernel tells which axis is theirs."""

    @nn.compact
    def __call__(self, x, _):
        return Dense()(nn.Dense(3)(nn.Dense(3)(x))), None


class Coder(nn.Module):
    @nn.compact
    def __call__(self, x):
        x, _ = scan(Block)(name="encoder")(x, None)
        return scan(Block)(name="decoder")(x, None)[0]


class Body(nn.Module):
    """The body of the scan is a function of a module."""

    def setup(self):
        self.pair, self.head = nn.Sequential([Dense(), Dense()]), Dense()

    def __call__(self, x):
        body = lambda pair, x, _: (pair.layers[0](pair.layers[1](x)), None)
        return self.head(nn.scan(body, length=3, **SPLIT)(self.pair, x, None)[0])


class OwnBody(nn.Module):
    """The body of the scan is a function of the model itself."""

    def setup(self):
        self.a, self.b = Dense(), Dense()

    def __call__(self, x):
        return nn.scan(lambda own, x, _: (own.a(own.b(x)), None), length=3, **SPLIT)(self, x, None)[0]


class Transposed(nn.Module):
    """Sees its parameters otherwise than they are."""

    @nn.compact
    def __call__(self, x):
        turn = lambda params: jax.tree.map(jnp.transpose, params)
        return nn.map_variables(nn.Dense, "params", turn, turn, init=True)(6, name="dense")(x)


def stacked(block, rngs, size=3):
    return nnx.split_rngs(splits=size)(nnx.vmap(lambda rngs: block(rngs)))(rngs)


class NnxStack(nnx.Module):
    """Three blocks and a head, which ``run`` calls."""

    def __init__(self, run, rngs):
        self.blocks, self.head, self.run = stacked(NnxBlock, rngs), linear(rngs), run

    def __call__(self, x):
        return self.head(self.run(self.blocks, x))


def over(body):
    return lambda blocks, x: nnx.scan(body, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(blocks, x)


def with_lax(blocks, x):
    graph, state = nnx.split(blocks)
    return jax.lax.scan(lambda x, state: (nnx.merge(graph, state)(x), None), x, state)[0]


def with_a_loop(blocks, x):
    graph, state = nnx.split(blocks)
    for i in range(3):
        x = nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], state))(x)
    return x


def side_by_side(blocks, x):
    return nnx.vmap(lambda block, x: block(x), in_axes=(0, None))(blocks, x).sum(0)


def nnx_stack(run):
    return nnx.eval_shape(lambda: NnxStack(run, nnx.Rngs(0)))


class NnxOuter(nnx.Module):
    def __init__(self, rngs):
        self.first, self.body = linear(rngs), NnxScanned(rngs)

    def __call__(self, x):
        return self.body(self.first(x))


class NnxAlternating(nnx.Module):
    """One scan runs through two stacks."""

    def __init__(self, rngs):
        self.mlp, self.attention, self.head = stacked(linear, rngs), stacked(linear, rngs), linear(rngs)

    def __call__(self, x):
        body = lambda attention, mlp, x: mlp(attention(x))
        return self.head(nnx.scan(body, in_axes=(0, 0, nnx.Carry), out_axes=nnx.Carry)(self.attention, self.mlp, x))


class NnxCoder(nnx.Module):
    """One scan after the other."""

    def __init__(self, rngs):
        self.encoder, self.decoder = stacked(linear, rngs), stacked(linear, rngs)

    def __call__(self, x):
        run = over(lambda block, x: block(x))
        return run(self.decoder, run(self.encoder, x))


call = lambda block, x: block(x)

# What layer_order should find of the stacks of a model.
STACKS = {
    "axis 0": (Scanned(0), {"blocks": 0}),
    "axis 1": (Scanned(1), {"blocks": 1}),
    "last axis": (Scanned(-1), {"blocks": -1}),
    "within a module": (nn.Sequential([Scanned(), Dense()]), {"layers_0/blocks": 0}),
    "of remat": (Around(lambda: scan(nn.remat(Block))), {"blocks": 0}),
    "in remat": (Around(lambda: nn.remat(scan(Block))), {"blocks": 0}),
    "in and of jit": (Around(lambda: nn.jit(scan(nn.jit(Block)))), {"blocks": 0}),
    "with remat": (Around(lambda: scan(Rematted)), {"blocks": 0}),
    "with a parameter": (Around(lambda: scan(Owning)), {"blocks": 0}),
    "with experts": (Around(lambda: scan(Mixture)), {"blocks": 0}),
    "sharded": (
        Around(lambda: scan(Sharded, metadata_params={nn.PARTITION_NAME: "layers"})),
        {"blocks": 0},
    ),
    "of stacks": (Around(lambda: scan(scan(Block), length=2)), {"blocks": 0}),
    "of vmap": (Around(lambda: scan(nn.vmap(Block, in_axes=(0, None), axis_size=2, **SPLIT))), {"blocks": 0}),
    "in vmap": (Around(lambda: vmap(scan(Block))), {"blocks": 1}),
    "two": (Coder(), {"encoder": 0, "decoder": 0}),
    "of a function": (Body(), {"pair": 0}),
    "of the model": (OwnBody(), {"": 0}),
    "one size": (Around(lambda: scan(Block, length=4)), {"blocks": 0}),
    "one size, but for a leaf": (
        Around(lambda: scan(Uneven, variable_axes={"params": -1})),
        {"blocks": -1},
    ),
    "NNX, axis 0": (nnx_stack(over(call)), {"blocks": 0}),
    "NNX, within a module": (nnx.eval_shape(lambda: NnxOuter(nnx.Rngs(0))), {"body/blocks": 0}),
    "NNX, axis 1": (nnx.eval_shape(lambda: NnxScanned(nnx.Rngs(0), 1)), {"blocks": 1}),
    "NNX, last axis": (nnx.eval_shape(lambda: NnxScanned(nnx.Rngs(0), -1)), {"blocks": -1}),
    "NNX, of remat": (nnx_stack(over(nnx.remat(call))), {"blocks": 0}),
    "NNX, of a function": (nnx_stack(over(lambda block, x: block.out(block.inner(x)))), {"blocks": 0}),
    "NNX, lax.scan": (nnx_stack(with_lax), {"blocks": 0}),
    "NNX, a loop": (nnx_stack(with_a_loop), {"blocks": 0}),
    "NNX, alternating": (nnx.eval_shape(lambda: NnxAlternating(nnx.Rngs(0))), {"attention": 0, "mlp": 0}),
    "NNX, two": (nnx.eval_shape(lambda: NnxCoder(nnx.Rngs(0))), {"encoder": 0, "decoder": 0}),
}
# Models without stacks. (Those of models.py besides.)
NO_STACKS = {
    "vmap": Around(lambda: vmap(Block)),
    "vmap of remat": Around(lambda: vmap(nn.remat(Block))),
    "members that are equal": Around(
        lambda: nn.vmap(Block, in_axes=None, axis_size=5, variable_axes={"params": 0}, split_rngs={"params": False})
    ),
    "experts": Around(lambda: Mixture),
    "transposed": Transposed(),
    "one layer many times": Around(
        lambda: nn.scan(Block, variable_broadcast="params", split_rngs={"params": False}, length=3)
    ),
    "NNX, vmap": nnx_stack(side_by_side),
}
