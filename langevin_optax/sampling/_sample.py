"""`sample`: chains of any optimiser, from a gradient to draws."""

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from langevin_optax._checks import check_whole
from langevin_optax._mesh import gathered
from langevin_optax.noise import _keys
from langevin_optax.sampling import _samples
from langevin_optax.sampling._samples import SamplerState, Samples

_MINIBATCH = 0x6D696E69  # folded into the key of the run, so that a noise with the same key has other numbers


def sample(
    gradient: Callable[[Any, jax.Array], tuple[Any, Any]],
    tx: optax.GradientTransformation,
    params: Any,
    key: jax.Array | int,
    *,
    draws: int,
    chains: int = 1,
    burn_in: int = 0,
    thin: int = 1,
    keep: Callable[[Any], Any] | None = None,
    state: SamplerState | None = None,
    progress: bool = True,
) -> Samples:
    r"""Draws of a posterior, from a gradient and any optimiser or integrator.

    .. math::
      \theta^{(c)}_{t+1} = \theta^{(c)}_t + u(\nabla L_t(\theta^{(c)}_t), \xi^{(c)}_t), \qquad
      \text{draw}_i = \text{keep}(\theta_{b + k i}), \quad i = 1, \dots, n

    for the chains c, with b = ``burn_in``, k = ``thin``, n = ``draws``; u is the update of ``tx``. With a mean loss
    over N data (1/N of the prior in it) and :math:`\sigma = \sqrt{2/N}`, or temperature 1/N, that is their posterior.

    Randomness. ``key`` and the number of the chain are folded into every noise key of ``tx``, those of Optax's own
    noises too, and with the number of the step they make the key of a minibatch. So chain c is a function of both keys
    and c, not of how many there are; two halves, the second with ``params`` and ``state`` of the first, are the whole
    bit for bit, also through a checkpoint. A noise of your own whose key is not in its state is one for all chains.

    Memory: chains × (P + S + draws × (K + 4) + G) bytes, with P bytes of parameters, S of the state of ``tx``, K of
    what ``keep`` returns, and G of what one gradient takes; and chains × (P + S) more where a run goes on.
    A large model keeps what is asked of it (predictions, a layer), or has ``snapshots`` in ``tx``.

    Cost: one gradient a step, and one loss a draw (at the draw itself, with the minibatch of the next step). Each call
    compiles its program anew, once for burn-in and draws of any number.

    Devices: where this process has several, the chains are divided among the largest number of them that divides
    ``chains``. Parameters that lie on several devices stay as they are (their draws are whole on each of them), and all
    is on one device under ``jax.default_device``.

    Args:
      gradient: a function ``(params, key) -> (loss, grads)`` of one chain that draws its minibatch with ``key``,
        ``lambda params, key: jax.value_and_grad(loss)(params, data[jax.random.choice(key, n, (32,))])``.
      tx: a transformation of this package or of Optax. Its update gets ``value=loss`` too.
      params: where all chains start, a tree of arrays; with ``state``, each leaf with the chains in front.
      key: an int or a typed ``jax.random.key``. For another run with the same ``tx`` another one.
      draws: how many draws of each chain are kept.
      chains: how many chains; with ``state`` as many as that has.
      burn_in: how many steps come first and are not kept.
      thin: each how manieth step is kept.
      keep: what of the parameters of one chain is kept of a draw: a tree of arrays; by default the parameters.
      state: ``Samples.state`` of an earlier call, to go on from; ``key`` is then that of the earlier call.
      progress: whether to show a bar on stderr, where tqdm is installed (extra ``sampling``).

    Returns:
      ``Samples(draws, losses, params, state)``, draws and losses with the axes (chain, draw, ...). Chains that diverged
      are in it, and ``.diverged`` marks them; ``.to_arviz()`` leads to R-hat, ESS and plots.

    Raises:
      ValueError: for numbers out of range; for a gradient without a scalar loss or with grads unlike ``params``; for a
        ``params`` or ``state`` of another run; if chains share their noise.
      TypeError: for a ``tx`` or ``state`` of another kind, a ``keep`` that does not return arrays, and as :func:`adam`
        for a key.
      FloatingPointError: if all chains are NaN or infinite from the first step on.

    Warns:
      UserWarning: for an optimiser without noise, two noises with one key, chains that diverged or are all the same, a
        ``key`` that is not used, and chains that leave half of the devices idle.

    Example:
      The posterior of the mean of ten data, whose variance is 1/10:

      >>> import jax, jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> from langevin_optax import sampling
      >>> data = jax.random.normal(jax.random.key(1), (10,))
      >>> gradient = jax.value_and_grad(lambda mean, key: ((data - mean) ** 2).mean() / 2)
      >>> tx = lgv.baoab(0.5, temperature=1 / 10, friction=1.0, key=0)
      >>> samples = sampling.sample(gradient, tx, jnp.zeros(()), key=0, draws=500, chains=4, burn_in=20)
      >>> samples.draws.shape, f"{samples.draws.var():.1f}"
      ((4, 500), '0.1')

    References:
      Welling and Teh, *Bayesian Learning via Stochastic Gradient Langevin Dynamics*, 2011.
    """
    for name, value, least in (("draws", draws, 1), ("chains", chains, 1), ("burn_in", burn_in, 0), ("thin", thin, 1)):
        check_whole(name, value, least)
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"tx must be an optax.GradientTransformation, got {tx!r}.")
    key, tx = _keys.as_key(key), optax.with_extra_args_support(tx)
    fresh = state is None
    if state is None:
        carry = start(tx, params, key, chains, devices_for(params, chains))
    else:
        chains = _samples.check_resumed(params, state, tx.init, key, chains)
        sharding = devices_for((params, state), chains)
        carry = jax.tree.map(jnp.copy, (params, state))  # whose memory the program takes, and not the user's
        carry = carry if sharding is None else jax.device_put(carry, sharding)
    _samples.check_keys(carry[1].tx_state)
    program = Program(gradient, tx, lambda params, tx_state: params if keep is None else keep(params), *carry)
    with bar(burn_in + draws * thin, progress) as shown:
        samples = program(*carry, draws, burn_in, thin, shown, fresh)
    _samples.warn_of_chains(samples)
    return samples


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

    ``keep(params, tx_state)`` is what is kept of a draw of one chain.
    """

    def __init__(self, gradient: Any, tx: Any, keep: Any, params: Any, state: SamplerState):
        self.shapes = _samples.check_functions(gradient, keep, params, state)
        self.shardings, self.kept = _shardings((params, state))

        def step(_, carry):
            return jax.vmap(functools.partial(_step, gradient, tx))(*carry)

        def look(params, state):
            return keep(params, state.tx_state), gradient(params, _minibatch_key(state))[0]

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
        # What is stored of the burn-in is where the first draw comes.
        for steps, number in [*((n, 0) for n in _parts(burn_in, 20)), *((thin, n) for n in _parts(draws, 80))]:
            carry, stored = self.run(carry, stored, done, number or 1, steps)
            done += number
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


def _minibatch_key(state: SamplerState) -> jax.Array:
    base = jax.random.fold_in(jax.random.fold_in(state.key, _MINIBATCH), state.chain)
    return jax.random.fold_in(base, state.step)


def _step(gradient: Any, tx: Any, params: Any, state: SamplerState) -> tuple[Any, SamplerState]:
    loss, grads = gradient(params, _minibatch_key(state))
    updates, tx_state = tx.update(grads, state.tx_state, params, value=loss)
    fine = jnp.isfinite(loss) & (state.finite_steps == state.step)
    finite_steps = state.finite_steps + fine.astype(jnp.int32)
    new = SamplerState(tx_state, state.key, state.chain, state.step + 1, finite_steps)
    return optax.apply_updates(params, updates), new


def devices_for(tree: Any, chains: int) -> NamedSharding | None:
    """The chains divided among devices, or None where all stays as it is."""
    config: Any = jax.config  # whose flags some versions of JAX declare, and some do not
    if config.jax_default_device is not None or _spans_devices(tree):
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


def _spans_devices(tree: Any) -> bool:
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
