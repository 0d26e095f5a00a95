"""Other samplers: what each costs, and what each does to the statistics."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import langevin_optax as lgv
from benchmarks import contenders, measures, trees
from langevin_optax import _noise, _threefry


def bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return _threefry.random_bits(jax.random.key_data(key), shape)


def two_of_16_bits(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Two normals from one word: the quantiles of the middles of 2¹⁶ equal parts."""
    *rest, last = shape or (1,)
    half = (*rest, -(-last // 2))
    # Through memory: in one kernel with its uses, each of the two would draw the word for itself.
    (words,) = _noise._apart(lambda key: bits(key, half), key[None])
    halves = jnp.concatenate([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=-1)[..., :last]
    return math.sqrt(2) * jax.lax.erf_inv((2 * halves.reshape(shape).astype(dtype) + 1) / 2**16 - 1)


def binomial(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """The number of ones in a word, centred and scaled: bounded by √32."""
    return (jax.lax.population_count(bits(key, shape)).astype(dtype) - 16) / math.sqrt(8)


def uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """On ±√3."""
    return (2 * (bits(key, shape) >> np.uint32(8)).astype(dtype) / 2**24 - 1) * math.sqrt(3)


class Candidate(NamedTuple):
    name: str
    sampler: Any
    key: Any = 0


def candidates() -> list[Candidate]:
    rbg = jax.random.key(0, impl="rbg")
    return [
        Candidate('"normal"', "normal"),
        Candidate('"rademacher"', "rademacher"),
        Candidate('"normal", rbg key', "normal", rbg),
        Candidate('"rademacher", rbg key', "rademacher", rbg),
        Candidate("jax.random.normal", jax.random.normal),
        Candidate("two 16-bit normals a word", two_of_16_bits),
        Candidate("binomial: ones of a word", binomial),
        Candidate("uniform", uniform),
    ]


def times(sizes: measures.Sizes) -> Iterator[measures.Row]:
    """`lgv.adam` with each of the samplers, in place."""
    entries = [
        contenders.of_optax(c.name, lgv.adam(contenders.RATE, contenders.SIGMA, c.key, sampler=c.sampler))
        for c in candidates()
    ]
    size = min(sizes.entries, measures.MEMORY)
    case = f"lgv.adam in place, 1 leaf, {size:.0e} parameters"
    params = trees.one_leaf(size)
    for row in measures.step_times(case, [contenders.ADAM, *entries], params, sizes.seconds):
        yield row._replace(measure="sampler")


class Statistics(NamedTuple):
    name: str
    draws: int
    mean: float
    variance: float
    third: float
    fourth: float
    beyond_4: float  # the share of |ξ| > 4, over that of N(0, 1)
    largest: float


def statistics(entries: int) -> Iterator[Statistics]:
    for c in candidates():
        xi = np.asarray(lgv.noise_like(c.key, 0, jnp.zeros(entries), c.sampler), np.float64)
        beyond = float((np.abs(xi) > 4).mean() / math.erfc(4 / math.sqrt(2)))
        first, second, third, fourth = (float((xi**k).mean()) for k in (1, 2, 3, 4))
        yield Statistics(c.name, entries, first, second, third, fourth, beyond, float(np.abs(xi).max()))
