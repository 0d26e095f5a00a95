"""What a preconditioner is worth to a sampler: effective samples per gradient and per second.

Each P is made of the gradients at draws from the posterior, as a run that has burnt in sees them, and then frozen. The
step size is the one for which the largest relative error of a variance, over the eigenvectors of the Hessian, is 5 %:
that of the discrete scheme, from its Lyapunov equation. So every sampler is as exact as the others, and what is left to
compare is how far it goes with a gradient. R-hat and ESS are ArviZ's, of all coordinates the worst.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
import sklearn.datasets
from jax.flatten_util import ravel_pytree

import langevin_optax as lgv
from benchmarks.measures import Row
from benchmarks.timing import Quartiles

ADAPT = 2000  # gradients of which P is made
CHAINS = 4
BIAS = 0.05


class Problem(NamedTuple):
    """A posterior exp(−L/τ) near enough to a Gaussian around ``mode`` with the Hessian of L there."""

    name: str
    gradient: Callable[[Any], Any]
    mode: Any
    hessian: np.ndarray  # over the raveled parameters
    temperature: float
    input_covariances: dict[str, jax.Array]


def quadratic(inputs: int = 16, outputs: int = 2, condition: float = 1e3) -> Problem:
    """Linear regression without its data: L = ½ tr WᵀΣW, whose Σ is correlated."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(inputs, inputs)))[0]
    sigma = basis * np.geomspace(1 / condition, 1, inputs) @ basis.T
    sigma_jax = jnp.asarray(sigma, jnp.float32)
    return Problem(
        f"quadratic, {inputs * outputs} parameters, condition number {condition:.0e}",
        lambda params: {"kernel": jnp.matmul(sigma_jax, params["kernel"], precision="highest")},
        {"kernel": jnp.zeros((inputs, outputs))},
        np.kron(sigma, np.eye(outputs)),
        1.0,
        {"": sigma_jax},
    )


def logistic_regression() -> Problem:
    """Of scikit-learn's breast cancer data: 569 examples of 30 features, standardised; prior N(0, 1)."""
    x, y = sklearn.datasets.load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    n, features, labels = len(x), jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)

    def loss(params):
        logits = (features @ params["kernel"])[:, 0] + params["bias"][0]
        square = sum(jnp.sum(jnp.square(p)) for p in jax.tree.leaves(params))
        return jnp.mean(jnp.logaddexp(0, logits) - labels * logits) + square / (2 * n)

    params = {"bias": jnp.zeros(1), "kernel": jnp.zeros((x.shape[1], 1))}
    flat, unravel = ravel_pytree(params)
    hessian_of = jax.jit(jax.hessian(lambda flat: loss(unravel(flat))))
    for _ in range(20):  # Newton's
        flat -= jnp.linalg.solve(hessian_of(flat), jax.grad(lambda flat: loss(unravel(flat)))(flat))
    augmented = np.concatenate([x, np.ones((n, 1))], axis=1)
    return Problem(
        "logistic regression, breast cancer, 31 parameters",
        jax.grad(loss),
        unravel(flat),
        np.asarray(hessian_of(flat), np.float64),
        1 / n,
        {"": jnp.asarray(augmented.T @ augmented / n, jnp.float32)},
    )


class Result(NamedTuple):
    """Of the worst coordinate."""

    per_gradient: float
    per_second: float
    note: str


class Sampler(NamedTuple):
    name: str
    scaler: optax.GradientTransformationExtraArgs
    b1: float = 0.0  # of its momentum


def samplers() -> list[Sampler]:
    slow = 0.999
    return [
        Sampler("P = 1", lgv.with_preconditioner(optax.identity(), lambda g, old, new: jax.tree.map(lambda _: 1.0, g))),
        Sampler("RMSprop", lgv.scale_by_rms(slow, eps=1e-12)),
        Sampler("Adam, b1 = 0.9", lgv.scale_by_adam(eps=1e-6), 0.9),
        Sampler("Shampoo", lgv.scale_by_shampoo(b1=0.0, b2=slow, eps=1e-9)),
        Sampler("SOAP", lgv.scale_by_soap(b1=0.0, b2=slow, eps=1e-6)),
        Sampler("PRONG", lgv.scale_by_prong(eps=1e-4)),
    ]


def posterior(sizes: Any, steps: int = 100_000, thin: int = 10) -> Iterator[Row]:
    """The rows of this section. ``sizes`` is not used: chains are as long as they must be."""
    del sizes
    for problem in (quadratic(), logistic_regression()):
        results = {sampler.name: _sample(problem, sampler, steps, thin) for sampler in samplers()}
        first = next(iter(results.values()))
        for name, result in results.items():
            value, ratio = 1000 * result.per_gradient, Quartiles(*3 * [result.per_gradient / first.per_gradient])
            yield Row("effective samples per 1000 gradients", problem.name, name, value, ratio, result.note)
        for name, result in results.items():
            ratio = Quartiles(*3 * [result.per_second / first.per_second])
            yield Row("effective samples per second", problem.name, name, result.per_second, ratio)


def _sample(problem: Problem, sampler: Sampler, steps: int, thin: int) -> Result:
    flat_mode, unravel = ravel_pytree(problem.mode)
    cholesky = np.linalg.cholesky(problem.temperature * np.linalg.inv(problem.hessian)).astype(np.float32)

    def draw(key):
        return unravel(flat_mode + jnp.asarray(cholesky) @ jax.random.normal(key, flat_mode.shape))

    extra = {"input_covariances": problem.input_covariances}
    scaler = lgv.freeze_preconditioner(sampler.scaler, ADAPT)

    def adapt(state, key):
        return scaler.update(problem.gradient(draw(key)), state, **extra)[1], None

    frozen, _ = jax.jit(lambda state, keys: jax.lax.scan(adapt, state, keys))(
        scaler.init(problem.mode), jax.random.split(jax.random.key(1), ADAPT)
    )
    root = _root(scaler, frozen, problem)
    p = root @ root.T
    rate = step_size(problem.hessian, p, sampler.b1, problem.temperature)
    sigma = math.sqrt(2 * problem.temperature)

    def chain(key, start):
        noise = lgv.add_preconditioned_noise(rate, sigma, key)
        tx = optax.chain(scaler, noise, optax.scale_by_learning_rate(rate))
        initial: Any = tx.init(problem.mode)
        state = (frozen, *initial[1:])

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(problem.gradient(params), state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        def kept(carry, _):
            carry, _ = jax.lax.scan(step, carry, length=thin)
            return carry, ravel_pytree(carry[0])[0]

        return jax.lax.scan(kept, (start, state), length=steps // thin)[1]

    keys = jax.random.split(jax.random.key(2), CHAINS)
    starts = jax.vmap(draw)(jax.random.split(jax.random.key(3), CHAINS))
    run = jax.jit(jax.vmap(chain)).lower(keys, starts).compile()
    start = time.perf_counter()
    draws = np.asarray(jax.block_until_ready(run(keys, starts)), np.float64)
    seconds = time.perf_counter() - start

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz  # slow to import, and for this section alone
    ess = min(float(arviz.ess(draws[:, :, i])) for i in range(draws.shape[2]))
    rhat = max(float(arviz.rhat(draws[:, :, i])) for i in range(draws.shape[2]))
    eigenvalues, vectors = np.linalg.eigh(problem.hessian)
    pooled = (draws - draws.mean((0, 1))).reshape(-1, draws.shape[2])
    variances = np.mean((pooled @ vectors) ** 2, axis=0) * eigenvalues / problem.temperature
    spectrum = np.linalg.eigvals(p @ problem.hessian).real
    note = (
        f"condition number of PA {spectrum.max() / spectrum.min():.3g}; step size {rate:.2g}; variances "
        f"{variances.min():.2f} to {variances.max():.2f} of the (Laplace) posterior's; R-hat at most {rhat:.3f}"
    )
    return Result(ess / (CHAINS * steps), ess / seconds, note)


def _root(scaler: optax.GradientTransformationExtraArgs, state: Any, problem: Problem) -> np.ndarray:
    """S of a frozen P, column by column: the noise for ξ = e_j."""
    leaves = [np.size(p) for p in jax.tree.leaves(problem.mode)]
    offsets = dict(zip(leaves, np.cumsum([0, *leaves[:-1]]), strict=True))
    assert len(offsets) == len(leaves), "leaves are told apart by their size"

    def noise(column):
        def unit(key, shape, dtype):
            return (jnp.arange(math.prod(shape)) == column - offsets[math.prod(shape)]).astype(dtype).reshape(shape)

        tx = optax.chain(scaler, lgv.add_preconditioned_noise(1.0, 1.0, 0, sampler=unit))
        zero = jax.tree.map(jnp.zeros_like, problem.mode)
        initial: Any = tx.init(problem.mode)
        states = (state, *initial[1:])
        noisy, _ = tx.update(zero, states, input_covariances=problem.input_covariances)
        plain, _ = scaler.update(zero, state, input_covariances=problem.input_covariances)
        return ravel_pytree(jax.tree.map(jnp.subtract, noisy, plain))[0]

    return np.asarray(jax.jit(jax.vmap(noise))(jnp.arange(sum(leaves))), np.float64).T


def step_size(hessian: np.ndarray, p: np.ndarray, b1: float, temperature: float) -> float:
    """The largest γ for which no variance of the discrete scheme is off by more than `BIAS`."""
    low, high = 0.0, 2 / np.linalg.eigvals(p @ hessian).real.max()
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if largest_bias(hessian, p, b1, temperature, middle) <= BIAS else (low, middle)
    return low


def largest_bias(hessian: np.ndarray, p: np.ndarray, b1: float, temperature: float, rate: float) -> float:
    """Of m ← β₁m + (1 − β₁)Aθ, θ ← θ − γPm + √(2τγ)Sξ: the largest error of a variance, relative to τA⁻¹."""
    n, one = len(p), np.eye(len(p))
    forward = np.block([[one - rate * (1 - b1) * p @ hessian, -rate * b1 * p], [(1 - b1) * hessian, b1 * one]])
    if np.abs(np.linalg.eigvals(forward)).max() >= 1:
        return math.inf
    noise = np.zeros((2 * n, 2 * n))
    noise[:n, :n] = 2 * temperature * rate * p
    covariance = scipy.linalg.solve_discrete_lyapunov(forward, noise)[:n, :n]
    eigenvalues, vectors = np.linalg.eigh(hessian)
    ratios = np.einsum("ij,ik,kj->j", vectors, covariance, vectors) * eigenvalues / temperature
    return float(np.abs(ratios - 1).max())
