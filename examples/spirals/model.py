"""The network of the literature: a perceptron with a single hidden layer (SHLP)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


class Perceptron(nn.Module):
    """One hidden ReLU layer; returns the logit of class 1. Weights start uniform on ±1/√fan-in, or normal."""

    nodes: int
    init_sd: float | None = None

    @nn.compact
    def __call__(self, x):
        x = nn.relu(self._dense(self.nodes, fan_in=2)(x))
        return self._dense(1, fan_in=self.nodes)(x)[..., 0]

    def _dense(self, features, fan_in):
        def init(key, shape, dtype=jnp.float32):
            if self.init_sd is not None:
                return self.init_sd * jax.random.normal(key, shape, dtype)
            return jax.random.uniform(key, shape, dtype, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

        return nn.Dense(features, kernel_init=init, bias_init=init)
