"""The statistical guard: one command that measures what the package draws and samples, with its rate of false alarms.

    make guard            # with the seed 0
    SEED=5 make guard     # with other draws

A check draws with keys that come from the seed, and compares with an exact law: that of the discrete scheme at its very
step size, in float64 from the published formulas (`guard_laws`). The smallest of its p-values times their number is the
p-value of the check. The guard fails if one of its n checks has a p-value below `ALPHA`/n, so that a package that is
right fails for at most one in 1/`ALPHA` = 1000 seeds: the inequality of Bonferroni, whatever the checks have in common.

That rests on p-values that are below p with probability p at most. They are exact where the law of a statistic is known
(sums of normals, of their squares and of signs, counts, Kolmogorov–Smirnov), else those of the central limit theorem
for a million draws and more. A chain is autocorrelated, so that its average over time is one draw: Student's t compares
those of independent chains. `test_guard` measures the p-values, and shows that deliberately wrong versions are found.
"""

import itertools
import os
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from scipy import special, stats

import langevin_optax as lgv
from tests import guard_laws as laws
from tests.cases import OPTIMIZERS, params_like

ALPHA = 1e-3
SEED = int(os.environ.get("SEED", "0"))
WORKERS = 2
PValues = dict[str, Any]


def smallest(p_values: PValues) -> float:
    """The p-value of several together. A statistic that is no number is a failure."""
    p = np.concatenate([np.nan_to_num(np.ravel(value), nan=0.0) for value in p_values.values()])
    return float(min(1.0, p.size * p.min()))


def two_sided(at_most, at_least):
    """From the probabilities of so small and of so large a value."""
    return np.minimum(1, 2 * np.minimum(at_most, at_least))


def of_a_count(count, n, p):
    """The binomial law, exactly."""
    return two_sided(special.bdtr(count, n, p), special.bdtrc(count - 1, n, p))


# Draws ξ of mean 0 and variance 1, each independent of all others.


def normal_sums(sums, n):
    return 2 * special.ndtr(-np.abs(sums) / np.sqrt(n))


def normal_squares(squares, n):
    return two_sided(special.chdtr(n, squares), special.chdtrc(n, squares))


def normal_shape(xi, moments=(3, 4)):
    """The distribution function; the tails, by how many are beyond z; and the moments."""
    n, p = xi.size, {"Kolmogorov–Smirnov": stats.kstest(xi, "norm").pvalue}
    for z in range(1, 7):
        for side in (1, -1):
            p[f"beyond {side * z}"] = of_a_count(np.sum(side * xi > z), n, special.ndtr(-z))
    double_factorial = [1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0, 10395, 0, 135135, 0, 2027025]
    power = np.ones_like(xi)
    for k in range(1, max(moments) + 1):
        power *= xi
        variance = double_factorial[2 * k] - double_factorial[k] ** 2
        if k in moments:
            p[f"moment {k}"] = normal_sums(np.sum(power) - n * double_factorial[k], n * variance)
    return p


def sign_sums(sums, n):
    return of_a_count(np.round((n + sums) / 2), n, 0.5)


def sign_squares(squares, n):
    """Signs have no other size than 1."""
    return np.where(np.abs(squares / n - 1) < 2e-4, 1.0, 0.0)


def sign_shape(xi):
    """Eight signs in a row make 256 patterns, of one frequency."""
    bits = xi[: xi.size // 8 * 8].reshape(-1, 8) > 0
    counts = np.bincount(np.packbits(bits, axis=1).ravel(), minlength=256)
    return {"sizes": sign_squares(xi**2, 1).min(), "patterns": stats.chisquare(counts).pvalue}


def uniform(key, shape, dtype):
    """A sampler of one's own."""
    return jax.random.uniform(key, shape, dtype, -np.sqrt(3), np.sqrt(3))


def uniform_squares(squares, n):
    """Their variance is 4/5."""
    return normal_sums(squares - n, 0.8 * n)


def uniform_shape(xi):
    return {"Kolmogorov–Smirnov": stats.kstest(xi, stats.uniform(-np.sqrt(3), 2 * np.sqrt(3)).cdf).pvalue}


class Law(NamedTuple):
    """A sampler, and the p-values of sums of n draws, of sums of n of their squares, and of all that is left."""

    sampler: Any
    sums: Callable[..., Any]
    squares: Callable[..., Any]
    shape: Callable[..., PValues]


LAWS = {
    "normal": Law("normal", normal_sums, normal_squares, normal_shape),
    "rademacher": Law("rademacher", sign_sums, sign_squares, sign_shape),
    "custom": Law(uniform, normal_sums, uniform_squares, uniform_shape),
}


def independent_draws(xi, law):
    """ξ of shape (chains, steps, entries): each chain, each step and each entry by itself, and no two correlate."""
    xi, law = np.asarray(xi, np.float64), LAWS[law]
    p = law.shape(xi.ravel())
    values = np.sign(xi) if law.sampler == "rademacher" else xi
    for axis, name in enumerate(("chain", "step", "entry")):
        others = tuple({0, 1, 2} - {axis})
        n = xi.size // xi.shape[axis]
        p[f"mean of a {name}"] = smallest({name: law.sums(values.sum(others), n)})
        p[f"variance of a {name}"] = smallest({name: law.squares((xi**2).sum(others), n)})
    p["correlations"] = correlations(values)
    if law.sampler != "rademacher":
        squares = xi**2 - 1
        p["correlations of squares"] = correlations(squares / squares.std())
    return p


def correlations(x):
    """The largest Σ x_i x_{i+k} of all k up to half of the draws: from entry to entry, leaf, step and chain."""
    x = np.ravel(x)
    k = np.arange(1, x.size // 2 + 1)
    sums = np.fft.irfft(np.abs(np.fft.rfft(x, 2 * x.size)) ** 2, 2 * x.size)[k]
    return min(1.0, k.size * float(normal_sums(np.max(np.abs(sums) / np.sqrt(x.size - k)), 1)))


# The samplers.

# Leaves of one shape and of two, 1024 entries together. The noise of bfloat16 leaves is float32.
TREE = {
    "Dense_0": {"kernel": jnp.zeros((16, 16)), "bias": jnp.zeros(256, jnp.bfloat16)},
    "Dense_1": {"kernel": jnp.zeros((16, 16), jnp.bfloat16), "bias": jnp.zeros(256)},
}
LARGE_TREE = {"a": jnp.zeros(2**19), "b": jnp.zeros((2**9, 2**10))}


def flat(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def noise(keys, steps, tree, law):
    """ξ of some keys and of the first steps, of shape (keys, steps, entries)."""
    of_a_key = lambda step, key: flat(lgv.noise_like(key, step, tree, LAWS[law].sampler))
    of_a_step = lambda step: jax.vmap(partial(of_a_key, step))(keys)
    return jax.jit(lambda: jax.lax.map(of_a_step, jnp.arange(steps)).swapaxes(0, 1))()


def one_key(key, law, tree=TREE, steps=4096, impl="threefry2x32"):
    key = jax.random.key(jax.random.randint(key, (), 0, 2**31 - 1), impl=impl)
    return independent_draws(noise(key[None], steps, tree, law), law)


def integer_keys(key, law, keys=2048, steps=2):
    """Keys as users choose them: some integer, and those that follow."""
    start = jax.random.randint(key, (), 0, 2**31 - keys)
    return independent_draws(noise(jax.vmap(jax.random.key)(start + jnp.arange(keys)), steps, TREE, law), law)


def folded_chains(key, law, chains=2048, steps=2):
    """What `fold_in` makes of one state, in the updates of SGD with γ = σ = 1 and no gradient."""
    tree = jax.tree.map(jnp.float32, TREE)
    tx = lgv.sgd(1.0, 1.0, key, sampler=LAWS[law].sampler)

    def chain(number):
        def step(state, _):
            updates, state = tx.update(tree, state)
            return state, flat(updates)

        return jax.lax.scan(step, lgv.fold_in(tx.init(tree), number), length=steps)[1]

    return independent_draws(jax.jit(jax.vmap(chain))(jnp.arange(chains)), law)


def complex_leaves(key, law, steps=2048):
    """√2 times the real and the imaginary part."""
    xi = np.asarray(noise(key[None], steps, jax.tree.map(jnp.complex64, TREE), law))
    return independent_draws(np.sqrt(2) * np.concatenate([xi.real, xi.imag], -1), law)


def many_draws(key, leaves=8, size=2**22):
    """Moments to order 8, whose estimates take many draws to be normal themselves."""
    draw = jax.jit(lambda step: lgv.noise_like(key, step, jnp.zeros(size)))
    return normal_shape(np.concatenate([np.asarray(draw(step), np.float64) for step in range(leaves)]), range(1, 9))


def bfloat16_updates(key, gamma=0.25, sigma=0.5, g=0.3, size=2**22):
    """−γg + σ√γ ξ, rounded once: how many fall between edges that are halfway between two neighbours in bfloat16."""
    gradient = jnp.full(size, g, jnp.bfloat16)
    tx = lgv.sgd(gamma, sigma, key)
    update, _ = jax.jit(tx.update)(gradient, tx.init(gradient))
    positive = np.arange(0x7F80, dtype=np.uint16).view(jnp.bfloat16).astype(np.float64)  # all that are finite
    halfway = (positive[1:] + positive[:-1]) / 2
    halfway = np.concatenate([-halfway[::-1], halfway])
    law = stats.norm(float(-jnp.bfloat16(gamma) * gradient[0]), sigma * np.sqrt(gamma))
    edges = np.unique(halfway[np.searchsorted(halfway, law.ppf(np.linspace(0, 1, 402)[1:-1]))])
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    counts, _ = np.histogram(np.asarray(update, np.float64), edges)
    return {"cells": stats.chisquare(counts, size * np.diff(law.cdf(edges))).pvalue}


# The optimisers: their updates less those without noise, over σ√(γP). Their own P is float32, which moves the variance
# by less than 1e-5 (for RAdam 6e-5, by the cancellation in Optax's ρ_t), less than a tenth of a standard error.

PARAMS, UNRAVEL = ravel_pytree(params_like())
SCALES = 10 ** np.random.default_rng(0).uniform(-2, 0, PARAMS.size)
RANDOM = SCALES * np.random.default_rng(1).standard_normal((300, PARAMS.size))
# Gradients that swing about constant ones, for which the centred ν of RMSprop would be nothing but rounding errors.
STEADY = SCALES * (1 + 0.5 * (-1.0) ** np.arange(4100))[:, None]


def standardised(make, quiet, preconditioner, gradients, steps, chains):
    """(u_t − v_t) / (σ_t √(γ_t P_t)) of the last steps, u_t with noise and v_t without: (chains, steps, entries).

    ``make`` and ``quiet`` take the schedules of γ and σ; ``preconditioner`` takes the gradients and the parameters.
    """
    gradients, count = np.float32(gradients), len(gradients)
    gamma, sigma = optax.linear_schedule(0.05, 0.1, count), optax.linear_schedule(0.3, 0.15, count)
    noisy, quiet, params = make(gamma, sigma), quiet(gamma, 0.0), UNRAVEL(PARAMS)

    def run(tx, state, gradients):
        def step(state, g):
            updates, state = tx.update(UNRAVEL(g), state, params)
            return state, ravel_pytree(updates)[0]

        return jax.lax.scan(step, state, gradients)

    @jax.jit
    def updates():
        # The noise enters no moments, so that the chains have one past.
        past, _ = run(noisy, noisy.init(params), gradients[:-steps])
        chain = lambda number: run(noisy, lgv.fold_in(past, number), gradients[-steps:])[1]
        return jax.vmap(chain)(jnp.arange(chains)), run(quiet, quiet.init(params), gradients)[1][-steps:]

    u, v = (np.asarray(x, np.float64) for x in updates())
    t = np.arange(count - steps, count)[:, None] / count
    p = preconditioner(np.float64(gradients), np.float64(PARAMS))[-steps:]
    return (u - v) / ((0.3 - 0.15 * t) * np.sqrt((0.05 + 0.05 * t) * p))


def updates_of(optimizer, key, law, gradients, steps, chains):
    make = partial(optimizer.langevin, key=key, sampler=LAWS[law].sampler)
    preconditioner = laws.PRECONDITIONERS[optimizer.id]
    return independent_draws(standardised(make, optimizer.langevin, preconditioner, gradients, steps, chains), law)


def one_step(key, optimizer, law, chains=2**17):
    """One step of many chains, after 299 with other gradients."""
    return updates_of(optimizer, key, law, RANDOM, 1, chains)


def long_run(key, optimizer, chains=64, steps=4000):
    """Thousands of steps with steady gradients."""
    return updates_of(optimizer, key, "normal", STEADY, steps, chains)


# What chains sample in the long run.


def t_test(averages, expected):
    """Of independent chains, one average a chain."""
    return stats.ttest_1samp(averages, expected).pvalue


def simulate(tx, gradient, start, observe, burn_in, steps, chains):
    """Averages over time of ``observe(theta, new_theta, state)``, one a chain; and the last parameters."""

    def chain(number):
        def step(carry, count):
            theta, state = carry
            updates, state = tx.update(gradient(theta, number, count), state, theta)
            new = optax.apply_updates(theta, updates)
            return (new, state), observe(theta, new, state)

        carry = start, lgv.fold_in(tx.init(start), number)
        (theta, _), trace = jax.lax.scan(step, carry, jnp.arange(burn_in + steps))
        return trace, theta

    trace, theta = jax.jit(jax.vmap(chain))(jnp.arange(chains))
    average = lambda x: np.asarray(x, np.float64)[:, burn_in:].mean(1)
    return jax.tree.map(average, trace), jax.tree.map(lambda x: np.asarray(x, np.float64), theta)


CURVATURES = (0.5, 3.0, 7.0)


def mean(tree):
    """Of the entries of each curvature."""
    return [jnp.mean(x, -1) for x in jax.tree.leaves(tree)]


def on_quadratics(key, make, parts, normal=True, **kwargs):
    """A linear scheme on aθ²/2: E θ = 0, E θ², E θθ' and E p² of its discrete law; independent and normal entries.

    ``parts`` has the law of each layer, as a function of a, as far as it is known.
    """
    exact = {part: [law(a) for a in CURVATURES] for part, law in parts.items()}
    return linear(*chains_on_quadratics(key, make, exact, **kwargs), exact, normal)


def chains_on_quadratics(key, make, exact, gradient_noise=0.0, steps=10_000, chains=256, entries=256):
    a = jnp.array(CURVATURES)[:, None]
    thermal = [part for part, of_part in exact.items() if "kinetic" in of_part[0]]
    key, key_of_gradients = jax.random.split(key)

    def gradient(theta, chain, count):
        if not gradient_noise:
            return jax.tree.map(lambda x: a * x, theta)
        key = jax.random.fold_in(jax.random.fold_in(key_of_gradients, chain), count)
        return jax.tree.map(lambda x: a * x + gradient_noise * jax.random.normal(key, x.shape), theta)

    def observe(theta, new, state):
        kinetic = lgv.kinetic_temperature(state) if thermal else {}
        return {
            "mean": mean(new),
            "square": mean(jax.tree.map(jnp.square, new)),
            "lag": mean(jax.tree.map(jnp.multiply, theta, new)),
            "entries": mean(jax.tree.map(lambda x: x[:, 1:] * x[:, :-1], new)),
            "curvatures": mean(jax.tree.map(lambda x: x[1:] * x[:-1], new)),
            "parts": mean([x * y for x, y in itertools.pairwise(jax.tree.leaves(new))]),
            "kinetic": kinetic if isinstance(kinetic, dict) else dict.fromkeys(thermal, kinetic),
        }

    factor = max(law["factor"] for of_part in exact.values() for law in of_part)
    burn_in = int(np.ceil(np.log(1e-8) / np.log(factor)))
    start = {part: {"theta": jnp.zeros((len(a), entries))} for part in exact}
    return simulate(make(key=key), gradient, start, observe, burn_in, steps, chains)


def linear(averages, theta, exact, normal):
    zero = ("mean", "entries", "curvatures", "parts")
    p = {f"{name} {i}": t_test(x, 0.0) for name in zero for i, x in enumerate(averages[name])}
    for i, (part, of_part) in enumerate(exact.items()):
        expected = {name: np.array([law[name] for law in of_part]) for name in of_part[0]}
        if "square" in expected:
            p |= {f"{name} {i}": t_test(averages[name][i], expected[name]) for name in ("square", "lag")}
        if "kinetic" in expected:
            p[f"kinetic {i}"] = t_test(averages["kinetic"][part], expected["kinetic"].mean())
        if normal and "square" in expected:
            z = theta[part]["theta"] / np.sqrt(expected["square"])[:, None]
            p[f"normal {i}"] = stats.kstest(z.ravel(), "norm").pvalue
    return p


def on_a_double_well(key, make, law, steps=10_000, burn_in=500, chains=256, entries=1024):
    """Moments, distribution and kinetic temperature that the discrete scheme itself has, in wells at ±1."""
    law = law()

    def observe(theta, new, state):
        moments = {f"moment {k}": jnp.mean(new**k) for k in (1, 2, 4)}
        return moments if law.kinetic is None else moments | {"kinetic": lgv.kinetic_temperature(state)}

    start = jnp.resize(jnp.array([-1.0, 1.0]), entries)
    slope = lambda theta, chain, count: laws.slope_of_well(theta)
    averages, theta = simulate(make(key=key), slope, start, observe, burn_in, steps, chains)
    exact = {f"moment {k}": law.mean(lambda x, k=k: x**k) for k in (1, 2, 4)} | {"kinetic": law.kinetic}
    p = {name: t_test(average, exact[name]) for name, average in averages.items()}
    return p | {"distribution": stats.kstest(theta.ravel(), law.cdf).pvalue}


# The table.


def frozen(p, *transforms):
    """A chain of one's own, with the constant preconditioner P behind linear transformations of the gradient."""
    scale = lgv.with_preconditioner(optax.scale(p), lambda g, old, new: jax.tree.map(lambda _: p, g))
    noise = lambda key: lgv.add_preconditioned_noise(0.1, SIGMA, key)
    return lambda key: optax.chain(*transforms, scale, noise(key), optax.scale_by_learning_rate(0.1))


def handed_in(p):
    """The same, with P as an argument of the update, to noise behind the learning rate."""

    def make(key):
        noise = lgv.add_preconditioned_noise(0.1, SIGMA, key, after_learning_rate=True)
        tx = optax.chain(optax.scale(p), optax.scale_by_learning_rate(0.1), noise)
        with_p = lambda g, state, params: tx.update(g, state, params, preconditioner=jax.tree.map(lambda _: p, g))
        return optax.GradientTransformation(tx.init, with_p)

    return make


def thermostat(a):
    """All that is known of adaptive Langevin dynamics is its kinetic temperature. (The factor is an upper bound.)"""
    return {"kinetic": TAU, "factor": 0.96}


TAU, SIGMA = 0.5, 0.3
HEAVY_BALL = partial(laws.momentum_sgd, gamma=0.1, sigma=SIGMA, beta=0.9)
FROZEN = partial(laws.sgd, gamma=0.1, sigma=SIGMA, p=2.0)
LEIMKUHLER_MATTHEWS = partial(lgv.overdamped_langevin, temperature=TAU, scheme="leimkuhler_matthews")
ADAPTIVE = dict(temperature=TAU, sigma=1.0, coupling=0.01)
FIRST = dict(temperature=TAU, friction=1.0, layers="first")
BAOAB = partial(laws.baoab, tau=TAU, friction=1.0)

QUADRATICS = {
    "sgd": (partial(lgv.sgd, 0.25, SIGMA), partial(laws.sgd, gamma=0.25, sigma=SIGMA)),
    "sgd with momentum": (partial(lgv.sgd, 0.1, SIGMA, momentum=0.9), HEAVY_BALL),
    "sgd with Nesterov momentum": (
        partial(lgv.sgd, 0.1, SIGMA, momentum=0.9, nesterov=True),
        partial(HEAVY_BALL, nesterov=True),
    ),
    "constant P": (frozen(2.0), FROZEN),
    "constant P, handed in": (handed_in(2.0), FROZEN),
    "constant P, averaged gradients": (
        frozen(2.0, optax.ema(0.9)),
        partial(laws.averaged_sgd, gamma=0.1, sigma=SIGMA, p=2.0, b=0.9),
    ),
    "Euler–Maruyama": (partial(lgv.overdamped_langevin, 0.25, TAU), partial(laws.euler, h=0.25, tau=TAU)),
    "Leimkuhler–Matthews": (partial(LEIMKUHLER_MATTHEWS, 0.25), partial(laws.leimkuhler_matthews, h=0.25, tau=TAU)),
    "BAOAB": (partial(lgv.baoab, 0.7, TAU, 1.0), partial(BAOAB, h=0.7)),
    "adaptive Langevin": (partial(lgv.adaptive_langevin, 0.1, **ADAPTIVE), thermostat),
    "adaptive Langevin of constant friction": (
        partial(lgv.adaptive_langevin, 0.3, **ADAPTIVE | {"coupling": 0.0}, initial_thermostat=1.5),
        partial(laws.adaptive_langevin, h=0.3, sigma=1.0, xi=1.5),
    ),
    "AdLaLa": (partial(lgv.adlala, 0.1, **FIRST | ADAPTIVE), {"first": thermostat, "rest": partial(BAOAB, h=0.1)}),
    "LOL": (
        partial(lgv.lol, 0.25, **FIRST),
        {"first": partial(BAOAB, h=0.25), "rest": partial(laws.leimkuhler_matthews, h=0.25**2 / 2, tau=TAU)},
    ),
    "LaLa": (
        partial(lgv.lala, 0.7, **FIRST, rest_temperature=0.2, rest_friction=3.0),
        {"first": partial(BAOAB, h=0.7), "rest": partial(laws.baoab, h=0.7, tau=0.2, friction=3.0)},
    ),
}
SIGNED_SGD = partial(lgv.sgd, 0.25, SIGMA, sampler="rademacher")
DOUBLE_WELLS = {
    "Leimkuhler–Matthews": (partial(LEIMKUHLER_MATTHEWS, 0.02), partial(laws.leimkuhler_matthews_on_well, 0.02, TAU)),
    "BAOAB": (partial(lgv.baoab, 0.1, TAU, 1.0), partial(laws.baoab_on_well, 0.1, TAU, 1.0)),
}


def quadratic(name, **kwargs):
    make, law = QUADRATICS[name]
    parts = law if isinstance(law, dict) else {"theta": law}
    return partial(on_quadratics, **{"make": make, "parts": parts, **kwargs})


class Check(NamedTuple):
    """A name, and a function from a key to p-values."""

    name: str
    p_values: Callable[[jax.Array], PValues]

    def __call__(self, seed: int) -> float:
        return smallest(self.p_values(jax.random.fold_in(jax.random.key(seed), zlib.crc32(self.name.encode()))))


CHECKS = [
    *(Check(f"noise, steps and leaves: {law}", partial(one_key, law=law)) for law in LAWS),
    *(Check(f"noise, large leaves: {law}", partial(one_key, law=law, tree=LARGE_TREE, steps=4)) for law in LAWS),
    *(Check(f"noise, integer keys: {law}", partial(integer_keys, law=law)) for law in LAWS),
    *(Check(f"noise, chains of fold_in: {law}", partial(folded_chains, law=law)) for law in LAWS),
    *(Check(f"noise, keys of rbg: {law}", partial(one_key, law=law, impl="rbg")) for law in LAWS),
    *(Check(f"noise, complex: {law}", partial(complex_leaves, law=law)) for law in LAWS if law != "custom"),
    Check("noise, moments and tails: normal", many_draws),
    Check("noise, rounded to bfloat16: normal", bfloat16_updates),
    *(Check(f"one step, {o.id}: normal", partial(one_step, optimizer=o, law="normal")) for o in OPTIMIZERS),
    *(Check(f"one step, {o.id}: rademacher", partial(one_step, optimizer=o, law="rademacher")) for o in OPTIMIZERS),
    *(Check(f"long run, {o.id}", partial(long_run, optimizer=o)) for o in OPTIMIZERS),
    *(Check(f"quadratics, {name}", quadratic(name)) for name in QUADRATICS),
    Check("quadratics, sgd: rademacher", quadratic("sgd", normal=False, make=SIGNED_SGD)),
    Check("quadratics, adaptive Langevin: noisy gradients", quadratic("adaptive Langevin", gradient_noise=3.0)),
    *(
        Check(f"double well, {name}", partial(on_a_double_well, make=m, law=law))
        for name, (m, law) in DOUBLE_WELLS.items()
    ),
]


def timed(number: int) -> tuple[int, float, float]:
    start = time.perf_counter()
    return number, CHECKS[number](SEED), time.perf_counter() - start


def main() -> int:
    """Run the table, print p-values as they come and a summary, and return 1 for an alarm."""
    threshold, p_values = ALPHA / len(CHECKS), {}
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        for done in as_completed([pool.submit(timed, number) for number in range(len(CHECKS))]):
            number, p, seconds = done.result()
            p_values[CHECKS[number].name] = p
            print(
                f"{'ok' if p >= threshold else 'ALARM':6} p = {p:<8.2g} {seconds:4.0f} s   {CHECKS[number].name}",
                flush=True,
            )
    alarms = [name for name, p in p_values.items() if p < threshold]
    worst = min(p_values, key=lambda name: p_values[name])
    print(
        f"{len(CHECKS)} checks with seed {SEED}, alarms: {', '.join(alarms) or 'none'}. Smallest p-value: "
        f"{p_values[worst]:.2g} ({worst}). Threshold: {threshold:.2g}, for false alarms with {ALPHA:.1%} of all seeds."
    )
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
