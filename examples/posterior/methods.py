"""What is compared: how each method makes its draws of a posterior, and with which step size."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import optax

import langevin_optax as lgv
from examples.posterior.problems import Problem
from langevin_optax import sampling

DECAY, EPS = 0.99, 1e-4  # of pSGLD
FRICTION = 0.3  # of BAOAB, and of Adaptive Langevin where there is no gradient noise
CYCLES, EXPLORATION = 5, 0.5
ADAM = 0.01


class Method(NamedTuple):
    """``make(problem, step size, σ, steps)`` is the sampler."""

    name: str
    make: Callable[[Problem, float, float, int], optax.GradientTransformation]
    step_sizes: dict[str, float]  # by problem
    temperature: float = 1.0
    cyclical: bool = False


def sgld(problem: Problem, step_size: float, sigma: float, steps: int) -> Any:
    return lgv.sgd(step_size, sigma, key=0)


def psgld(problem: Problem, step_size: float, sigma: float, steps: int) -> Any:
    return lgv.rmsprop(step_size, sigma, key=0, decay=DECAY, eps=EPS)


def baoab(problem: Problem, step_size: float, sigma: float, steps: int) -> Any:
    return lgv.baoab(step_size, temperature=sigma**2 / 2, friction=FRICTION, key=0)


def adaptive_langevin(problem: Problem, step_size: float, sigma: float, steps: int) -> Any:
    temperature = sigma**2 / 2
    noise = math.sqrt(2 * FRICTION * temperature)
    coupling = 0.01 / (problem.parameters * temperature * step_size**2)  # the thermostat swings once in 45 steps
    return lgv.adaptive_langevin(step_size, temperature, noise, coupling, key=0, initial_thermostat=FRICTION)


def cyclical_sgld(problem: Problem, step_size: float, sigma: float, steps: int) -> Any:
    rate, noise, _ = sampling.cyclical_schedules(step_size, sigma, steps, CYCLES, EXPLORATION)
    return lgv.sgd(rate, noise, key=0)


# The README says how step sizes were chosen.
METHODS = (
    Method("SGLD", sgld, {"gap": 0.003, "diabetes": 0.5, "breast cancer": 0.3, "digits": 0.3}),
    Method("pSGLD", psgld, {"gap": 0.005, "diabetes": 0.03, "breast cancer": 0.02, "digits": 0.02}),
    Method("BAOAB", baoab, {"gap": 0.1, "diabetes": 0.5, "breast cancer": 0.5, "digits": 0.3}),
    Method("BAOAB, T = 0.1", baoab, {"diabetes": 0.5, "breast cancer": 0.3, "digits": 0.2}, temperature=0.1),
    Method("Adaptive Langevin", adaptive_langevin, {"diabetes": 0.3, "breast cancer": 0.3, "digits": 0.3}),
    Method("Cyclical SGLD", cyclical_sgld, {"diabetes": 0.5, "breast cancer": 0.5, "digits": 0.5}, cyclical=True),
)


def ensemble(problem: Problem, members: int, steps: int) -> Any:
    """Maxima of the posterior, by Adam, each from its own draw of the prior; the members are in front."""
    tx = optax.adam(optax.cosine_decay_schedule(ADAM, steps))

    def member(key):
        def step(carry, count):
            params, state = carry
            _, gradient = problem.gradient(params, jax.random.fold_in(key, count))
            updates, state = tx.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = problem.from_the_prior(key)
        return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(steps))[0][0]

    return jax.jit(jax.vmap(member))(jax.random.split(jax.random.key(0), members))


def steps(method: Method, draws: int, thin: int) -> int:
    """Of a chain: those of the draws, and a third more before them, except where every cycle begins anew."""
    return draws * thin + (0 if method.cyclical else draws * thin // 3)


def chains(problem: Problem, method: Method, starts: Any, draws: int, thin: int) -> sampling.Samples:
    """Predictions, of chains that each start at a member of the ensemble."""
    number, step_size = steps(method, draws, thin), method.step_sizes[problem.name]
    sigma, key = problem.sigma * math.sqrt(method.temperature), jax.random.key(1)
    tx = method.make(problem, step_size, sigma, number)

    def start(params, chain):
        zero = jnp.zeros([], jnp.int32)
        return sampling.SamplerState(lgv.fold_in(tx.init(params), chain), key, chain, zero, zero)

    state = jax.vmap(start)(starts, jnp.arange(len(jax.tree.leaves(starts)[0]), dtype=jnp.int32))
    samples = sampling.sample(
        problem.gradient,
        tx,
        starts,
        key,
        draws=draws,
        burn_in=number - draws * thin,
        thin=thin,
        keep=problem.predict,
        state=state,
        progress=False,
    )
    if method.cyclical:
        _, _, keep = sampling.cyclical_schedules(step_size, sigma, number, CYCLES, EXPLORATION)
        kept = keep(thin * jnp.arange(1, draws + 1) - 1)
        samples = samples._replace(draws=samples.draws[:, kept], losses=samples.losses[:, kept])
    return samples


def nuts(problem: Problem, starts: Any, draws: int) -> jax.Array:
    """Predictions, of the No-U-Turn sampler of blackjax, with as many steps before to adapt to the posterior."""

    def log_density(params):
        return -len(problem.x) * problem.loss(params, problem.x, problem.y)

    def chain(key, start):
        warmup, run = jax.random.split(key)
        (state, parameters), _ = blackjax.window_adaptation(blackjax.nuts, log_density).run(warmup, start, draws)
        kernel = blackjax.nuts(log_density, **parameters).step

        def step(state, key):
            state, _ = kernel(key, state)
            return state, problem.predict(state.position)

        return jax.lax.scan(step, state, jax.random.split(run, draws))[1]

    members = len(jax.tree.leaves(starts)[0])
    return jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(2), members), starts)
