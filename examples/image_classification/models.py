"""The models of the literature. Each takes images, flat or not, and has a depth and a width."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class Dense(nn.Module):
    """A plain dense network, with nothing that helps depth: no residual connections, no normalisation."""

    hidden_layers: int
    width: int
    classes: int = 10

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = x.reshape(len(x), -1)
        for _ in range(self.hidden_layers):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.classes)(x)


class ConvDense(nn.Module):
    """One convolution of 32 filters 4×4 and a 2×2 max-pool, then a plain dense network."""

    hidden_layers: int
    width: int
    classes: int = 10

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = _max_pool(nn.relu(nn.Conv(32, (4, 4))(x))).reshape(len(x), -1)
        for _ in range(self.hidden_layers):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(self.classes)(x)


class Highway(nn.Module):
    """y = T(x) D(x) + (1 − T(x)) x, with gates T that start nearly closed.

    Srivastava et al., Highway networks, 2015.
    """

    hidden_layers: int
    width: int
    classes: int = 10
    gate_bias: float = -3.0

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1)))
        bias_init = nn.initializers.constant(self.gate_bias)
        for _ in range(self.hidden_layers):
            gate = nn.sigmoid(nn.Dense(self.width, bias_init=bias_init)(x))
            x = gate * nn.relu(nn.Dense(self.width)(x)) + (1 - gate) * x
        return nn.Dense(self.classes)(x)


class ResNet(nn.Module):
    """The residual network for small images; ResNet-20 has three stages of three blocks.

    He et al., Deep residual learning for image recognition, 2015, section 4.2.
    """

    blocks: tuple[int, ...] = (3, 3, 3)
    filters: int = 16
    classes: int = 10

    @nn.compact
    def __call__(self, x, train: bool = True):
        def conv(x, filters, size=3, stride=1):
            x = nn.Conv(filters, (size, size), stride, use_bias=False)(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = nn.relu(conv(x, self.filters))
        for stage, blocks in enumerate(self.blocks):
            filters: Any = self.filters * 2**stage
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                y = conv(nn.relu(conv(x, filters, stride=stride)), filters)
                if x.shape != y.shape:
                    x = conv(x, filters, size=1, stride=stride)
                x = nn.relu(x + y)
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


class VGG(nn.Module):
    """Three stages of 3×3 convolutions, each halved by a max-pool, then one dense layer; no normalisation, as there.

    Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, 2014.
    """

    convolutions: tuple[int, ...] = (2, 2, 2)
    filters: int = 32
    classes: int = 10

    @nn.compact
    def __call__(self, x, train: bool = True):
        for stage, convolutions in enumerate(self.convolutions):
            for _ in range(convolutions):
                x = nn.relu(nn.Conv(self.filters * 2**stage, (3, 3))(x))
            x = _max_pool(x)
        x = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
        return nn.Dense(self.classes)(x)


class DenseNet(nn.Module):
    """Dense blocks, in which each convolution adds ``growth`` channels to what it read, and pools between them.

    Huang et al., Densely connected convolutional networks, 2016.
    """

    layers: tuple[int, ...] = (6, 6, 6)
    growth: int = 5
    classes: int = 10

    @nn.compact
    def __call__(self, x, train: bool = True):
        def norm(x):
            return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))

        def conv(x, filters, size=3):
            return nn.Conv(filters, (size, size), use_bias=False)(x)

        x = conv(x, 2 * self.growth)
        for block, layers in enumerate(self.layers):
            if block:
                x = nn.avg_pool(conv(norm(x), x.shape[-1], size=1), (2, 2), (2, 2))
            for _ in range(layers):
                x = jnp.concatenate([x, conv(norm(x), self.growth)], axis=-1)
        return nn.Dense(self.classes)(norm(x).mean(axis=(1, 2)))


def _max_pool(x):
    """2×2, as a maximum of slices: on CPU the gradient of ``nn.max_pool`` takes seven times as long."""
    if min(x.shape[1:3]) < 2:  # some versions of Flax would train what is left of it
        raise ValueError(f"the images are too small for this model: {x.shape[1]} × {x.shape[2]} are to be pooled 2×2.")
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    return functools.reduce(jnp.maximum, [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])


# From depth, width and number of classes.
MODELS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "dense": Dense,
    "conv-dense": ConvDense,
    "highway": Highway,
    "resnet": lambda depth, width, classes: ResNet((depth,) * 3, width, classes),
    "vgg": lambda depth, width, classes: VGG((depth,) * 3, width, classes),
    "densenet": lambda depth, width, classes: DenseNet((depth,) * 3, width, classes),
}
# What --depths counts in each, in the singular.
DEPTH_IS = {
    "dense": "hidden layer",
    "conv-dense": "dense layer",
    "highway": "highway layer",
    "resnet": "block per stage",
    "vgg": "convolution per stage",
    "densenet": "layer per block",
}
WIDTHS = {"resnet": 16, "vgg": 32, "densenet": 5}  # if none is given; 64 for the others
CONVOLUTIONAL = ("conv-dense", "resnet", "vgg", "densenet")
