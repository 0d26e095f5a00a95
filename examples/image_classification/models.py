"""The models."""

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
