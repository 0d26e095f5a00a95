"""The compiled steps of chains: their start, their minibatches, and the devices that they are on."""

import contextlib
import functools
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from langevin_optax._mesh import gathered
from langevin_optax.sampling import _samples
from langevin_optax.sampling._samples import SamplerState, Samples

_MINIBATCH = 0x6D696E69  # folded into the key of the run, so that a noise with the same key has other numbers


def start(tx: Any, params: Any, key: Any, chains: int, sharding: NamedSharding | None) -> tuple[Any, SamplerState]:
    """Parameters and state of all chains, each with keys of its own, divided among the devices."""

    def start(chain, params, key):
        words = jax.random.bits(jax.random.fold_in(key, 0), (2,))
        tx_state = _samples.own_keys(tx.init(params), *words, chain)
        zero = jnp.zeros([], jnp.int32)
        return jax.tree.map(strong, (params, SamplerState(tx_state, key, chain, zero, zero)))

    start = jax.vmap(start, in_axes=(0, None, None), axis_size=chains)
    arguments = jnp.arange(chains, dtype=jnp.int32), params, key
    if sharding is None:
        return start(*arguments)  # not under jit, which would forget how params on several devices are divided
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.jit(start, out_shardings=sharding)(*jax.device_put(arguments, everywhere))


class Program:
    """The compiled steps of some chains, for runs of any length from any state like that of ``params`` and ``state``.

    ``keep(params, state)`` is what is kept of a draw of one chain.
    """

    def __init__(self, gradient: Any, tx: Any, keep: Any, params: Any, state: SamplerState):
        self.shapes = _samples.check_functions(gradient, keep, params, state)
        self.shardings, self.kept = _shardings((params, state))

        def step(_, carry):
            return jax.vmap(functools.partial(_step, gradient, tx))(*carry)

        def look(params, state):
            return keep(params, state), gradient(params, minibatch_key(state))[0]

        def run(carry, stored, place, number, steps):
            """Many times many steps and a draw: numbers are traced, so that all runs are of one program's bits."""

            def draw(index, both):
                carry = jax.lax.fori_loop(0, steps, step, both[0])
                new = jax.tree.map(gathered, jax.vmap(look)(*carry))
                write = functools.partial(jax.lax.dynamic_update_index_in_dim, index=place + index, axis=1)
                return carry, jax.tree.map(write, both[1], new)

            return jax.lax.fori_loop(0, number, draw, (carry, stored))

        shardings = self.shardings and (self.shardings, self.kept)
        self.run = jax.jit(run, donate_argnums=(0, 1), out_shardings=shardings)

    def __call__(
        self, params: Any, state: SamplerState, draws: int, burn_in: int, thin: int, bar: Any, fresh: bool
    ) -> Samples:
        """One run, of which ``bar`` shows the steps; ``params`` and ``state`` are used up."""
        carry, chains = (params, state), len(state.step)
        carry = jax.device_put(carry, self.shardings) if self.shardings else carry
        zeros = functools.partial(jax.tree.map, lambda x: jnp.zeros((chains, draws, *x.shape), x.dtype), self.shapes)
        stored, done = jax.jit(zeros, out_shardings=self.kept)(), 0
        if self.shardings:
            jax.block_until_ready((carry, stored))
        # What is stored of the burn-in is where the first draw comes.
        for steps, number in [*((n, 0) for n in _parts(burn_in, 20)), *((thin, n) for n in _parts(draws, 80))]:
            carry, stored = self.run(carry, stored, done, number or 1, steps)
            done += number
            if self.shardings:  # collectives of two programs at once can wait for each other for ever on a busy CPU
                jax.block_until_ready((carry, stored))
            if fresh:
                _samples.check_first_steps(*carry)
                fresh = False
            if bar is not None:
                jax.block_until_ready(carry[1].step)
                bar.update((number or 1) * steps)
        return Samples(stored[0], stored[1], *carry)


def strong(leaf: Any) -> Any:
    """Without the weak type of a Python number, for which the next part would be compiled again."""
    leaf = jnp.asarray(leaf)
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf if is_key else jax.lax.convert_element_type(leaf, leaf.dtype)


def minibatch_key(state: SamplerState) -> jax.Array:
    base = jax.random.fold_in(jax.random.fold_in(state.key, _MINIBATCH), state.chain)
    return jax.random.fold_in(base, state.step)


def _step(gradient: Any, tx: Any, params: Any, state: SamplerState) -> tuple[Any, SamplerState]:
    loss, grads = gradient(params, minibatch_key(state))
    updates, tx_state = tx.update(grads, state.tx_state, params, value=loss)
    fine = jnp.isfinite(loss) & (state.finite_steps == state.step)
    finite_steps = state.finite_steps + fine.astype(jnp.int32)
    new = SamplerState(tx_state, state.key, state.chain, state.step + 1, finite_steps)
    return optax.apply_updates(params, updates), new


def devices_for(tree: Any, chains: int) -> NamedSharding | None:
    """The chains divided among devices, or None where all stays as it is."""
    config: Any = jax.config  # whose flags some versions of JAX declare, and some do not
    if config.jax_default_device is not None or spans_devices(tree):
        return None
    devices = jax.local_devices()
    number = max(n for n in range(1, len(devices) + 1) if chains % n == 0)
    if 2 * number <= min(chains, len(devices)):
        warnings.warn(
            f"{chains} chains run on {number} of {len(devices)} devices, the largest number that divides them. Make "
            f"chains a multiple of {len(devices)}.",
            stacklevel=3,
        )
    if number == 1:
        return None
    mesh = jax.make_mesh((number,), ("chains",), (AxisType.Auto,), devices=devices[:number])
    return NamedSharding(mesh, PartitionSpec("chains"))


def spans_devices(tree: Any) -> bool:
    return any(isinstance(x, jax.Array) and len(x.sharding.device_set) > 1 for x in jax.tree.leaves(tree))


def _shardings(carry: Any) -> tuple[Any, Any]:
    """Those of a run on several devices, which no part changes, and that of what is stored; None on a single one."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, carry)
    named = [one for one in jax.tree.leaves(shardings) if isinstance(one, NamedSharding)]
    if not named:
        return None, None
    everywhere = NamedSharding(named[0].mesh, PartitionSpec())
    run = jax.tree.map(lambda one: one if isinstance(one, NamedSharding) else everywhere, shardings)
    return run, run[1].step


def _parts(number: int, parts: int) -> list[int]:
    """Between which the bar moves."""
    size = max(1, -(-number // parts))
    return [min(size, number - done) for done in range(0, number, size)]


def bar(steps: int, progress: bool) -> Any:
    """A context with the progress bar, or with None."""
    if progress:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            return tqdm(total=steps, unit="step", file=sys.stderr)
    return contextlib.nullcontext()
