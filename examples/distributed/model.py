"""A decoder-only transformer over bytes, whose blocks are one scanned block with stacked parameters."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

VOCABULARY = 256


@dataclass(frozen=True)
class Sizes:
    layers: int = 6
    width: int = 256
    heads: int = 8


class Block(nn.Module):
    sizes: Sizes
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        types: Any = {"dtype": self.dtype, "param_dtype": self.dtype}
        init = nn.initializers.lecun_normal()
        # Into the residual stream: smaller the more blocks there are.
        residual = nn.initializers.variance_scaling(0.5 / self.sizes.layers, "fan_in", "truncated_normal")
        # With the axes of the mesh over which each axis of a parameter is divided.
        heads_in = nn.with_partitioning(init, ("data", "tensor", None))
        heads_out = nn.with_partitioning(residual, ("tensor", None, "data"))
        up = nn.with_partitioning(init, ("data", "tensor"))
        down = nn.with_partitioning(residual, ("tensor", "data"))

        attention: Any = {"kernel_init": heads_in, "out_kernel_init": heads_out, "use_bias": False, "name": "attention"}
        y = nn.LayerNorm(name="norm_1", **types)(x)
        x += nn.MultiHeadDotProductAttention(self.sizes.heads, **attention, **types)(y, y, mask=mask)
        y = nn.LayerNorm(name="norm_2", **types)(x)
        y = nn.Dense(4 * self.sizes.width, kernel_init=up, name="up", **types)(y)
        return x + nn.Dense(self.sizes.width, kernel_init=down, name="down", **types)(nn.gelu(y)), None


class Transformer(nn.Module):
    """Bytes of shape (batch, length) to logits of shape (batch, length, 256)."""

    sizes: Sizes = Sizes()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        types: Any = {"dtype": self.dtype, "param_dtype": self.dtype}
        init = nn.with_partitioning(nn.initializers.normal(0.02), ("tensor", "data"))
        x = nn.Embed(VOCABULARY, self.sizes.width, embedding_init=init, name="embed", **types)(text)
        # Sines and cosines of the position, of wavelengths from 2π to 10⁴ · 2π.
        half = self.sizes.width // 2
        angles = jnp.arange(text.shape[-1])[:, None] * 1e-4 ** (jnp.arange(half) / half)
        x += jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(x.dtype)
        blocks = nn.scan(
            nn.remat(Block, prevent_cse=False),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.sizes.layers,
            metadata_params={nn.PARTITION_NAME: None},
        )
        x, _ = blocks(self.sizes, self.dtype, name="blocks")(x, nn.make_causal_mask(text))
        x = nn.LayerNorm(name="norm", **types)(x)
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("data", "tensor"))
        return nn.Dense(VOCABULARY, use_bias=False, kernel_init=init, name="head", **types)(x)
