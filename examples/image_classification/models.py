"""The models."""

from typing import Any

import flax.linen as nn


class Dense(nn.Module):
    """A plain dense network, with nothing that helps depth: no residual connections, no normalisation."""

    hidden_layers: int
    width: int
    classes: int = 10

    @nn.compact
    def __call__(self, x):
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
    def __call__(self, x):
        x = nn.relu(nn.Dense(self.width)(x))
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
