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


def _sharded(initializer: Any, *axes: str | None) -> Any:
    """The axes of the mesh over which each axis of a parameter is divided."""
    return nn.with_partitioning(initializer, axes)


class Block(nn.Module):
    sizes: Sizes
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        types: Any = {"dtype": self.dtype, "param_dtype": self.dtype}
        init = nn.initializers.lecun_normal()
        # Into the residual stream: smaller the more blocks there are.
        residual = nn.initializers.variance_scaling(0.5 / self.sizes.layers, "fan_in", "truncated_normal")
        normed = nn.LayerNorm(name="norm_1", **types)(x)
        x += nn.MultiHeadDotProductAttention(
            self.sizes.heads,
            kernel_init=_sharded(init, "data", "tensor", None),
            out_kernel_init=_sharded(residual, "tensor", None, "data"),
            use_bias=False,
            name="attention",
            **types,
        )(normed, normed, mask=mask)
        hidden = nn.LayerNorm(name="norm_2", **types)(x)
        hidden = nn.Dense(4 * self.sizes.width, kernel_init=_sharded(init, "data", "tensor"), name="up", **types)(
            hidden
        )
        x += nn.Dense(self.sizes.width, kernel_init=_sharded(residual, "tensor", "data"), name="down", **types)(
            nn.gelu(hidden)
        )
        return x, None


class Transformer(nn.Module):
    """Bytes of shape (batch, length) to logits of shape (batch, length, 256)."""

    sizes: Sizes = Sizes()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        types: Any = {"dtype": self.dtype, "param_dtype": self.dtype}
        embedding = _sharded(nn.initializers.normal(0.02), "tensor", "data")
        x = nn.Embed(VOCABULARY, self.sizes.width, embedding_init=embedding, name="embed", **types)(text)
        x += _positions(text.shape[-1], self.sizes.width).astype(x.dtype)
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
        head = _sharded(nn.initializers.lecun_normal(), "data", "tensor")
        return nn.Dense(VOCABULARY, use_bias=False, kernel_init=head, name="head", **types)(x)


def _positions(length: int, width: int) -> jax.Array:
    """Sines and cosines of the position, of wavelengths from 2π to 10⁴ · 2π."""
    rates = 1e-4 ** (jnp.arange(width // 2) / (width // 2))
    angles = jnp.arange(length)[:, None] * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
