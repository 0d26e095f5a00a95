"""Points in the plane in two classes, generated: the paper's spirals, and parallel waves of our own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SCALE = 2.0  # a of the formula, as in the authors' notebook


class Data(NamedTuple):
    train_x: Any  # (n, 2), float32
    train_y: Any  # (n,), 0.0 or 1.0
    test_x: Any
    test_y: Any


def spirals(key: jax.Array, n: int, turns: float, power: float, noise: float) -> tuple[jax.Array, jax.Array]:
    """x = ±a tᵖ (cos 2bπtᵖ, sin 2bπtᵖ) + c N(0, 1): two arms, b turns each, t uniform on (0, 1)."""
    t, sign, blur = _draws(key, n)
    radius = t**power
    angle = 2 * turns * jnp.pi * radius
    arm = SCALE * radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    return (sign * arm).T + noise * blur, (sign + 1) / 2


def waves(key: jax.Array, n: int, turns: float, power: float, noise: float) -> tuple[jax.Array, jax.Array]:
    """Not the paper's. x = (a (2t − 1), sin 2bπt ± 1/2) + c N(0, 1), t = uᵖ: two waves of b periods, one on top."""
    t, sign, blur = _draws(key, n)
    t = t**power
    wave = jnp.stack([SCALE * (2 * t - 1), jnp.sin(2 * turns * jnp.pi * t) + sign / 2])
    return wave.T + noise * blur, (sign + 1) / 2


def _draws(key: jax.Array, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """t, the class as ±1 (as many of each), and the blur."""
    t_key, blur_key = jax.random.split(key)
    sign = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)
    return jax.random.uniform(t_key, (n,)), sign, jax.random.normal(blur_key, (n, 2))


SHAPES = {"spirals": spirals, "waves": waves}
