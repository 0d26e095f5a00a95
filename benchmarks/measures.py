"""The measures: of each case all contenders, the first of which the ratios are of."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import langevin_optax as lgv
from benchmarks import contenders, networks, timing, trees
from benchmarks.contenders import Contender


class Row(NamedTuple):
    """One contender in one case."""

    measure: str
    case: str
    contender: str
    value: float  # seconds or bytes
    ratio: timing.Quartiles | None = None  # to the first contender of the case
    note: str = ""


class Sizes(NamedTuple):
    """What depends on the machine."""

    seconds: float  # for each comparison; a third of it for each point of a curve
    entries: int  # of the large leaf
    dtypes: tuple[str, ...]  # of the large leaf
    curve: tuple[int, ...] = (10**4, 10**5, 10**6, 10**7, 10**8)
    leaves: tuple[int, ...] = (1, 10, 100, 320, 1000)
    noisy_sgd_leaves: int = 320  # beyond, it takes minutes to compile


MEMORY = 10**8  # entries of a leaf up to which all contenders' states, of 12 bytes per entry, are held at once
MAIN = [contenders.ADAM, contenders.RADEMACHER, contenders.THREE_POINT, contenders.NORMAL]
CURVES = [*MAIN, contenders.NOISY_SGD]


def compiled(step: Callable[..., Any], carry: Any, *rest: Any) -> Any:
    """The program from carry and the rest to a new carry, in the buffers of the old one."""
    return jax.jit(step, donate_argnums=0).lower(carry, *rest).compile()


def updates(contender: Contender, params: Any, gradients: Any) -> Callable[[], Any]:
    """A program that computes an update, and the new state, in buffers of their own."""
    carry = contender.start(params)
    program = jax.jit(contender.update).lower(carry, gradients).compile()
    return lambda: program(carry, gradients)


def steps(contender: Contender, params: Any, gradients: Any) -> Callable[[], Any]:
    """A program that takes a step in place."""
    # A start may return the parameters themselves, which are donated then.
    state = [jax.tree.map(jnp.copy, contender.start(params))]
    program = compiled(contender.step, state[0], gradients)

    def step():
        state[0] = program(state[0], gradients)
        return state[0]

    return step


def update_times(case: str, entries: Sequence[Contender], params: Any, seconds: float) -> Iterator[Row]:
    """`tx.update`: from gradients to updates and a new state."""
    gradients = trees.gradients(params)
    programs = {c.name: updates(c, params, gradients) for c in entries}
    for name, result in timing.alternated(programs, seconds).items():
        yield Row("update", case, name, *result)


def step_times(
    case: str, entries: Sequence[Contender], params: Any, seconds: float, others: Mapping[str, Callable[[], Any]] = {}
) -> Iterator[Row]:
    """From gradients to new parameters, in place."""
    gradients = trees.gradients(params)
    programs = {c.name: steps(c, params, gradients) for c in entries} | dict(others)
    for name, result in timing.alternated(programs, seconds).items():
        yield Row("step in place", case, name, *result)


def compile_times(case: str, entries: Sequence[Contender], params: Any, rounds: int = 3) -> Iterator[Row]:
    """Tracing, lowering and compiling the update, each time from nothing."""
    gradients = trees.gradients(params)
    carries = {c.name: c.start(params) for c in entries}
    seconds: dict[str, list[float]] = {c.name: [] for c in entries}
    for _ in range(rounds):
        for c in entries:
            jax.clear_caches()
            start = time.perf_counter()
            jax.jit(c.update).lower(carries[c.name], gradients).compile()
            seconds[c.name].append(time.perf_counter() - start)
    first = np.array(seconds[entries[0].name])
    for name, times in seconds.items():
        ratio = timing.Quartiles(*np.quantile(np.array(times) / first, [0.25, 0.5, 0.75]))
        yield Row("compile", case, name, float(np.median(times)), ratio)


def memory(case: str, entries: Sequence[Contender], params: Any) -> Iterator[Row]:
    """Bytes of the optimiser's state beyond the first one's, and of what the compiled update needs beside it."""
    gradients = trees.gradients(params)
    groups: dict[Any, int] = {}
    for leaf in jax.tree.leaves(params):
        groups[leaf.shape, leaf.dtype] = groups.get((leaf.shape, leaf.dtype), 0) + leaf.nbytes
    states, temporary = {}, {}
    for c in entries:
        carry = c.start(params)
        states[c.name] = sum(_data(x).nbytes for x in jax.tree.leaves(carry[1]))
        analysis = compiled(c.step, carry, gradients).memory_analysis()
        temporary[c.name] = math.nan if analysis is None else analysis.temp_size_in_bytes
    for measure, found in (("state", states), ("temporary memory", temporary)):
        for name, size in found.items():
            more = size - found[entries[0].name]
            note = f"{more:+,.0f} bytes"
            if measure == "temporary memory" and name != entries[0].name:
                note += f"; the largest group of leaves has {max(groups.values()):,}"
            yield Row(measure, case, name, size, note=note)


def training(sizes: Sizes) -> Iterator[Row]:
    """Forward, backward and update."""
    for network in networks.networks():
        entries = [*MAIN, contenders.layer_langevin(network.first_layers), contenders.ADAM_AGAIN]
        programs = {c.name: _training(network, c) for c in entries}
        for name, result in timing.alternated(programs, sizes.seconds).items():
            yield Row("training step", network.name, name, *result)


def _training(network: networks.Network, contender: Contender) -> Callable[[], Any]:
    state = [jax.tree.map(jnp.copy, network.start(contender))]
    program = compiled(network.step(contender), state[0], network.x, network.y)

    def step():
        state[0], loss = program(state[0], network.x, network.y)
        return state[0], loss

    return step


def bandwidth(entries: int, seconds: float) -> float:
    """Bytes per second of x + 1 in place."""
    state = [jnp.zeros(entries)]
    program = compiled(lambda x: x + 1, state[0])

    def step():
        state[0] = program(state[0])
        return state[0]

    return 8 * entries / timing.alternated({"copy": step}, seconds)["copy"].seconds


def large_leaf(sizes: Sizes) -> Iterator[Row]:
    rate = bandwidth(sizes.entries, sizes.seconds / 10)
    for dtype in sizes.dtypes:
        params = trees.one_leaf(sizes.entries, dtype)
        case = f"1 leaf, {sizes.entries:.0e} parameters, {dtype}"
        entries, torch = [*MAIN, contenders.ADAM_AGAIN, contenders.rbg()], {}
        if sizes.entries <= MEMORY:
            entries += contenders.OTHERS
        if sizes.entries <= MEMORY and dtype == "float32":  # noisy_sgd makes bfloat16 parameters float32
            entries += [contenders.NOISY_SGD, *contenders.peers()]
            torch = contenders.in_torch(params, trees.gradients(params))
        yield from update_times(case, entries, params, sizes.seconds)
        rows = list(step_times(case, entries, params, sizes.seconds, torch))
        yield from rows
        if sizes.entries >= 10**7:  # below, the caches hold it
            yield _bandwidth_alone(case, rows[0], params["w"].nbytes, rate)
        yield from memory(case, MAIN, params)


def _bandwidth_alone(case: str, adam: Row, size: int, rate: float) -> Row:
    """The time in which gradients, parameters and two moments are read, and all but the gradients written."""
    limit = 7 * size / rate
    note = f"7 arrays of {size:,} bytes at {rate / 1e9:.1f} GB/s"
    ratio = timing.Quartiles(*3 * [limit / adam.value])
    return Row("step in place", case, "memory bandwidth alone", limit, ratio, note)


def highway(sizes: Sizes) -> Iterator[Row]:
    params = trees.highway()
    case = "highway 80, 320 leaves"
    first = contenders.layer_langevin(lgv.layer_mask(0.3))
    others = [contenders.NOISY_SGD, *contenders.peers()]
    entries = [*MAIN, contenders.ADAM_AGAIN, first, *contenders.OTHERS, *others]
    yield from update_times(case, entries, params, sizes.seconds)
    torch = contenders.in_torch(params, trees.gradients(params))
    yield from step_times(case, entries, params, sizes.seconds, torch)
    yield from compile_times(case, [*MAIN, first, *others], params)
    yield from memory(case, [*MAIN, first], params)


def parameters(sizes: Sizes) -> Iterator[Row]:
    for entries in sizes.curve:
        params = trees.one_leaf(entries)
        case = f"curve: 1 leaf, {entries:.0e} parameters"
        yield from update_times(case, CURVES, params, sizes.seconds / 3)
        yield from step_times(case, CURVES, params, sizes.seconds / 3)


def leaves(sizes: Sizes) -> Iterator[Row]:
    for number in sizes.leaves:
        params = trees.equal_leaves(number, 10**6)
        case = f"curve: {number} {'leaf' if number == 1 else 'leaves'}, 1e+06 parameters in all"
        entries = CURVES if number <= sizes.noisy_sgd_leaves else MAIN
        yield from update_times(case, entries, params, sizes.seconds / 3)
        yield from compile_times(case, entries, params)


def _data(x: Any) -> Any:
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
