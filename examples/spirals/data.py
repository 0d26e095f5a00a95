"""Points in the plane in two classes, generated: spirals, and parallel waves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SCALE, NOISE = 2.0, 0.02  # a and c of the formulas, as in the authors' notebook


class Data(NamedTuple):
    train_x: Any  # (n, 2), float32
    train_y: Any  # (n,), 0.0 or 1.0
    test_x: Any
    test_y: Any


def spirals(key: jax.Array, n: int, turns: float) -> tuple[jax.Array, jax.Array]:
    """x = ±a √t (cos 2bπ√t, sin 2bπ√t) + c N(0, 1): two arms, b turns each, t uniform on (0, 1)."""
    t, sign, blur = _draws(key, n)
    angle = 2 * turns * jnp.pi * jnp.sqrt(t)
    arm = SCALE * jnp.sqrt(t) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    return (sign * arm).T + blur, (sign + 1) / 2


def waves(key: jax.Array, n: int, turns: float) -> tuple[jax.Array, jax.Array]:
    """x = (a (2t − 1), sin 2bπt ± 1/2) + c N(0, 1): two waves of b periods above each other, t uniform on (0, 1)."""
    t, sign, blur = _draws(key, n)
    wave = jnp.stack([SCALE * (2 * t - 1), jnp.sin(2 * turns * jnp.pi * t) + sign / 2])
    return wave.T + blur, (sign + 1) / 2


SHAPES = {"spirals": spirals, "waves": waves}


def generate(key: jax.Array, shape: str, turns: float, train: int, test: int) -> Data:
    """Training and test points, drawn apart from one law."""
    first, second = jax.random.split(key)
    return Data(*SHAPES[shape](first, train, turns), *SHAPES[shape](second, test, turns))


def _draws(key: jax.Array, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """t, the class as ±1 (as many of each), and the blur."""
    t_key, blur_key = jax.random.split(key)
    sign = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)
    return jax.random.uniform(t_key, (n,)), sign, NOISE * jax.random.normal(blur_key, (n, 2))
