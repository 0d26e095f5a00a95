"""Samplers that take turns, each with few steps and with ten times as many.

The difference is what the steps cost, and the rest is what it takes to begin: compilation for the most part.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.measures import Row
from benchmarks.timing import Quartiles

FEWEST = 10  # steps


class Contender(NamedTuple):
    name: str
    run: Callable[[int], Any]  # from a number of steps to draws or losses, shape=(chains, draws, ...)
    share: float = (
        1.0  # of the steps, in the turns: less where steps take long, more where they are short beside compilation
    )


class Turns(NamedTuple):
    step: np.ndarray  # seconds of a step of all chains, by round
    start: np.ndarray
    result: np.ndarray  # of all steps


def in_turn(contenders: Sequence[Contender], steps: int, rounds: int) -> dict[str, Turns]:
    times: dict[str, list[Any]] = {c.name: [] for c in contenders}
    results = {}
    rng = np.random.default_rng(0)
    for c in contenders:
        c.run(FEWEST)  # what a process compiles once, for whoever comes first
    for _ in range(rounds):
        for i in rng.permutation(len(contenders)):
            name, run, share = contenders[i]
            few = max(FEWEST, int(share * steps) // 10 // FEWEST * FEWEST)
            short, _ = _timed(run, few)
            long, results[name] = _timed(run, 10 * few)
            step = (long - short) / (9 * few)
            times[name].append((step, short - few * step))
    results |= {c.name: np.asarray(c.run(steps)) for c in contenders if c.share != 1}
    columns = {name: np.array(pairs).T for name, pairs in times.items()}
    return {name: Turns(step, start, results[name]) for name, (step, start) in columns.items()}


def _timed(run: Callable[[int], Any], steps: int) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    result = np.asarray(run(steps))
    return time.perf_counter() - start, result


def rows(measure: str, case: str, values: Mapping[str, np.ndarray], notes: Mapping[str, str] = {}) -> Iterator[Row]:
    first = next(iter(values.values()))
    for name, each in values.items():
        ratio = Quartiles(*np.quantile(each / first, [0.25, 0.5, 0.75]))
        yield Row(measure, case, name, float(np.median(each)), ratio, notes.get(name, ""))


def of_peers(peers: Sequence[Callable[..., Iterator[Contender]]], *arguments: Any) -> Iterator[Contender]:
    """The contenders of these peers, but for those that cannot be imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or torch's threads spin on the cores of whoever comes next
    for peer in peers:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = list(peer(*arguments))
        except ImportError as error:
            print(f"left out: {peer.__name__} cannot be imported ({error})", flush=True)
        else:
            yield from found


def minibatch(key: jax.Array, data: Any, size: int) -> Any:
    chosen = jax.random.randint(key, (size,), 0, len(data[0]))
    return jax.tree.map(lambda x: x[chosen], data)
