"""Whole training steps: the networks, their batches, and the step of each."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax

import langevin_optax as lgv
from benchmarks.contenders import Contender
from examples.image_classification import models


class Transformer(nn.Module):
    """A causal language model whose layers are stacked and scanned."""

    layers: int = 6
    width: int = 128
    heads: int = 4
    vocabulary: int = 256

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.vocabulary, self.width, name="embedding")(tokens)
        scanned = nn.scan(_Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers)
        x, _ = scanned(self.heads, name="blocks")(x, None)
        return nn.Dense(self.vocabulary, name="head")(nn.LayerNorm(name="norm")(x))


class _Block(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x, _):
        mask = nn.make_causal_mask(x[..., 0])
        x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
        y = nn.gelu(nn.Dense(4 * x.shape[-1])(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(y), None


class Network(NamedTuple):
    name: str
    model: nn.Module
    x: jax.Array
    y: jax.Array
    scanned: dict[str, int] | None = None

    @property
    def first_layers(self) -> Callable[[Any], Any]:
        return lgv.layer_mask(0.3, lgv.layer_order(self.model, self.x), scanned=self.scanned)

    def start(self, contender: Contender) -> tuple[Any, Any]:
        """Statistics of batches, and the optimiser with its parameters."""
        variables = self.model.init(jax.random.key(0), self.x)
        return variables.get("batch_stats", {}), contender.start(variables["params"])

    def step(self, contender: Contender) -> Callable[..., Any]:
        """From what start returned and a batch to the same after one step, and the loss."""

        def loss_fn(params, stats, x, y):
            variables = {"params": params} | ({"batch_stats": stats} if stats else {})
            logits, new = self.model.apply(variables, x, mutable=["batch_stats"])
            loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            return loss, new.get("batch_stats", stats)

        def step(carry, x, y):
            stats, optimizer = carry
            (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(optimizer[0], stats, x, y)
            return (stats, contender.step(optimizer, grads)), loss

        return step


def networks() -> Iterator[Network]:
    images, labels, tokens = (jax.random.key(i) for i in range(3))

    def classes(batch):
        return jax.random.randint(labels, (batch,), 0, 10)

    flat, pixels = jax.random.normal(images, (512, 784)), jax.random.normal(images, (128, 32, 32, 3))
    yield Network("dense 40, batch 512", models.Dense(40, 64), flat, classes(512))
    yield Network("highway 80, batch 512", models.Highway(80, 64), flat, classes(512))
    yield Network("ResNet-20, batch 128", models.ResNet(), pixels, classes(128))
    text = jax.random.randint(tokens, (16, 65), 0, 256)
    yield Network("transformer, 6 scanned layers, 1024 tokens", Transformer(), text[:, :-1], text[:, 1:], {"blocks": 0})
