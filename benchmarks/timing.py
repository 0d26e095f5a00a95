"""Ratios of times: the contenders take turns in one process, so that whatever slows the machine slows them all."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

SHORTEST = 5e-3  # seconds; programs that take less are called several times for one sample


class Quartiles(NamedTuple):
    low: float
    median: float
    high: float


class Timing(NamedTuple):
    seconds: float  # the median of a call
    ratio: Quartiles  # over the rounds, to the first contender in the same round


def alternated(programs: Mapping[str, Callable[[], Any]], seconds: float, rounds: int = 15) -> dict[str, Timing]:
    """Call the programs in turn for about ``seconds``, and for ``rounds`` rounds at least.

    A program returns what has to be waited for. The first one is the one that ratios are of.
    """
    calls = {name: max(1, round(SHORTEST / _time(program, 3))) for name, program in programs.items()}
    samples: dict[str, list[float]] = {name: [] for name in programs}
    end = time.perf_counter() + seconds
    rng = np.random.default_rng(0)
    done = 0
    while done < rounds or time.perf_counter() < end:
        for name in rng.permutation(list(programs)):  # so that nobody always runs after the same one
            samples[name].append(_time(programs[name], calls[name]))
        done += 1
    base = np.array(samples[next(iter(programs))])
    return {
        name: Timing(float(np.median(times)), Quartiles(*np.quantile(np.array(times) / base, [0.25, 0.5, 0.75])))
        for name, times in samples.items()
    }


def _time(program: Callable[[], Any], calls: int) -> float:
    # After a call that is not counted, so that all find the same caches, whoever ran before.
    jax.block_until_ready(program())
    start = time.perf_counter()
    for _ in range(calls):
        result = program()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / calls
