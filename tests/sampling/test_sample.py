"""`sample`: targets with known laws, the same run however it is cut or placed, and what it says of bad input.

A statistical check compares means of functions with their exact values, in standard errors of the effective sample size
of ArviZ, and chains with each other. It is shown to reject a σ that is 10 % off and chains that share their keys.
"""

import builtins
import subprocess
import sys
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import special, stats

import langevin_optax as lgv
from langevin_optax import sampling
from langevin_optax.sampling import _samples
from tests.cases import ALIASES, BAOAB, INTEGRATORS, MATRICES, OPTIMIZERS, bits, loss, params_like
from tests.sampling.test_links import arviz

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def alone(request):
    """One device, except for the tests of several."""
    if "devices" in request.node.name:
        yield
        return
    with jax.default_device(jax.devices()[0]):
        yield


def quietly(gradient, tx, params, key=0, **kwargs):
    return sampling.sample(gradient, tx, params, key, progress=False, **kwargs)


# Laws.


class Law(NamedTuple):
    """Of each coordinate its mean, its variance, and P(x ≤ q) for q of shape (levels, coordinates)."""

    mean: np.ndarray
    variance: np.ndarray
    cdf: object


class Target(NamedTuple):
    """What is sampled, by what, for σ or the root of the temperature times ``factor``."""

    loss: object
    tx: object
    start: np.ndarray
    law: Law
    settings: dict


def gaussian(mean, covariance):
    deviation = np.sqrt(np.diag(covariance))
    return Law(mean, deviation**2, lambda q: stats.norm.cdf((q - mean) / deviation))


def of_grid(points, density):
    """Of a density on a grid, so fine that sums are integrals: points of shape (n, coordinates)."""
    weights = density / density.sum()
    mean = weights @ points

    def cdf(q):
        edges = (points[None] <= q[:, None]).astype(float)
        return np.einsum("n,lnc->lc", weights, edges)

    return Law(mean, weights @ (points - mean) ** 2, cdf)


def plane():
    """SGLD on a Gaussian in two dimensions, whose discrete scheme has the covariance σ² (2A − γA²)⁻¹."""
    a, mean, gamma, sigma = np.array([[1.0, 0.6], [0.6, 2.0]]), np.array([1.0, -2.0]), 0.2, np.sqrt(2.0)
    law = gaussian(mean, sigma**2 * np.linalg.inv(2 * a - gamma * a @ a))
    a32, mean32 = jnp.asarray(a, jnp.float32), jnp.asarray(mean, jnp.float32)
    return Target(
        lambda x: 0.5 * (x - mean32) @ a32 @ (x - mean32),
        lambda factor: lgv.sgd(gamma, factor * sigma, key=0),
        np.zeros(2),
        law,
        dict(draws=600, chains=64, burn_in=50, thin=3),
    )


def fifty():
    """BAOAB, which is exact on quadratics, on a Gaussian in 50 dimensions with condition number 1000."""
    curvature = np.geomspace(1, 1000, 50)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 50)))[0]
    a = jnp.asarray(rotation * curvature @ rotation.T, jnp.float32)
    return Target(
        lambda x: 0.5 * x @ a @ x,
        lambda factor: lgv.baoab(0.05, factor**2, friction=1.5, key=0),
        np.zeros(50),
        gaussian(np.zeros(50), (rotation / curvature) @ rotation.T),
        dict(draws=300, chains=32, burn_in=300, thin=20),
    )


def banana():
    """x ~ N(0, 1) and y ~ N(b (x² − 1), s²)."""
    b, s = 0.5, 0.7
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def cdf(q):
        of_y = (weights * stats.norm.cdf((q[:, 1:] - b * (nodes**2 - 1)) / s)).sum(1)
        return np.stack([stats.norm.cdf(q[:, 0]), of_y], 1)

    return Target(
        lambda z: z[0] ** 2 / 2 + (z[1] - b * (z[0] ** 2 - 1)) ** 2 / (2 * s**2),
        lambda factor: lgv.baoab(0.1, factor**2, friction=1.5, key=0),
        np.zeros(2),
        Law(np.zeros(2), np.array([1.0, s**2 + 2 * b**2]), cdf),
        dict(draws=500, chains=64, burn_in=100, thin=15),
    )


def mixture():
    """0.3 N(−1.5, 0.6²) + 0.7 N(1, 0.8²)."""
    weights, means, widths = np.array([0.3, 0.7]), np.array([-1.5, 1.0]), np.array([0.6, 0.8])
    mean = weights @ means
    law = Law(
        np.array([mean]),
        np.array([weights @ (widths**2 + means**2) - mean**2]),
        lambda q: (weights * stats.norm.cdf((q - means) / widths)).sum(1, keepdims=True),
    )
    w, m, s = (jnp.asarray(x, jnp.float32) for x in (weights, means, widths))
    return Target(
        lambda x: -jax.nn.logsumexp(-((x - m) ** 2) / (2 * s**2) + jnp.log(w / s)),
        lambda factor: lgv.baoab(0.15, factor**2, friction=1.0, key=0),
        np.zeros(1),
        law,
        dict(draws=800, chains=64, burn_in=100, thin=10),
    )


def logistic():
    """The posterior of slope and intercept for 40 data and a normal prior, from a mean loss at the temperature 1/N."""
    n, rng = 40, np.random.default_rng(1)
    x = rng.standard_normal(n)
    y = rng.random(n) < special.expit(1.5 * x - 0.5)
    axes = np.meshgrid(np.linspace(-3, 2.5, 300), np.linspace(-1, 6, 300), indexing="ij")
    grid = np.stack(axes, -1).reshape(-1, 2)
    logits = grid[:, :1] + grid[:, 1:] * x
    energy = np.logaddexp(0, np.where(y, -logits, logits)).sum(1) + (grid**2).sum(1) / (2 * 2.0**2)
    x32, sign = jnp.asarray(x, jnp.float32), jnp.where(y, -1.0, 1.0)
    return Target(
        lambda w: jax.nn.softplus(sign * (w[0] + w[1] * x32)).mean() + (w**2).sum() / (2 * 2.0**2 * n),
        lambda factor: lgv.baoab(0.6, factor**2 / n, friction=0.6, key=0),
        np.zeros(2),
        of_grid(grid, np.exp(energy.min() - energy)),
        dict(draws=500, chains=64, burn_in=100, thin=10),
    )


TARGETS = {target.__name__: target for target in (plane, fifty, banana, mixture, logistic)}


def run_of(target, factor=1.0):
    start = jnp.asarray(target.start, jnp.float32)
    gradient = jax.value_and_grad(lambda x, key: target.loss(x if start.shape != (1,) else x[0]))
    return quietly(gradient, target.tx(factor), start, key=1, **target.settings)


def standard_error(f):
    """Of the mean of draws of shape (chains, draws)."""
    return f.std() / np.sqrt(float(arviz().ess(f, method="mean")))


def agrees(draws, law, limit=5):
    """Means, variances and shares below four levels of every coordinate, within ``limit`` standard errors."""
    draws = np.asarray(draws, np.float64)
    levels = law.mean + np.sqrt(law.variance) * np.array([[-1.5], [-0.5], [0.5], [1.5]])
    shares, off = law.cdf(levels), []
    for i in range(draws.shape[-1]):
        x = draws[..., i]
        functions = [(x, law.mean[i]), ((x - law.mean[i]) ** 2, law.variance[i])]
        functions += [((x <= q).astype(float), p) for q, p in zip(levels[:, i], shares[:, i], strict=True)]
        off += [(f.mean() - exact) / standard_error(f) for f, exact in functions]
    return bool(np.max(np.abs(off)) < limit)


def are_independent(draws, limit=5):
    """The mean over the chains has the variance of one chain over their number, within ``limit`` standard errors."""
    draws = np.asarray(draws, np.float64)
    for x in np.moveaxis(draws - draws.mean((0, 1)), -1, 0):
        square = x.mean(0) ** 2 * len(x) / (x**2).mean()
        if abs(square.mean() - 1) > limit * standard_error(square[None]):
            return False
    return True


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", TARGETS)
def test_targets_with_known_laws(name):
    target = TARGETS[name]()
    draws = run_of(target).draws
    assert agrees(draws, target.law)
    assert are_independent(draws)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", [n if n == "plane" else pytest.param(n, marks=pytest.mark.slow) for n in TARGETS])
def test_a_sigma_that_is_ten_per_cent_off_is_rejected(name):
    target = TARGETS[name]()
    assert not agrees(run_of(target, factor=1.1).draws, target.law)
    assert not agrees(run_of(target, factor=0.9).draws, target.law)


@pytest.mark.usefixtures("optimized")
def test_chains_that_share_their_keys_are_rejected(monkeypatch):
    """Three times: by their keys, by their equality, and by the law of their mean."""
    target = plane()
    monkeypatch.setattr(_samples, "own_keys", lambda tx_state, *numbers: tx_state)
    with pytest.raises(ValueError, match="several chains of state have one key"):
        run_of(target)
    monkeypatch.setattr(_samples, "check_keys", lambda tx_state: None)
    with pytest.warns(UserWarning, match="all chains are the same to the bit"):
        draws = run_of(target).draws
    assert not are_independent(draws)


# One run, however it is cut.


def noisy(params, key):
    """A loss with a minibatch: its numbers depend on the key."""
    shift = jax.tree.map(lambda p: jax.random.normal(key, p.shape, p.dtype), params)
    return jax.value_and_grad(lambda p: loss(jax.tree.map(jnp.add, p, shift)))(params)


def joined(first, second):
    return jax.tree.map(lambda a, b: np.concatenate([a, b], 1), first[:2], second[:2])


SETTINGS = dict(chains=3, thin=2)
ROWS = [OPTIMIZERS[2], BAOAB, MATRICES[0], *ALIASES[13:14]]


def build(row, dtype=jnp.float32):
    """Two halves, and the whole."""
    tx, params = row.langevin(1e-2, 1e-1), params_like(dtype)
    whole = quietly(noisy, tx, params, key=7, draws=7, burn_in=3, **SETTINGS)
    first = quietly(noisy, tx, params, key=7, draws=4, burn_in=3, **SETTINGS)
    return tx, whole, first


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_two_halves_are_the_whole(row, dtype):
    tx, whole, first = build(row, dtype)
    kept = bits(first)
    second = quietly(noisy, tx, first.params, key=7, state=first.state, draws=3, **SETTINGS)
    assert bits(joined(first, second)) == bits(whole[:2])
    assert bits(second[2:]) == bits(whole[2:])
    assert bits(first) == kept  # nor was it taken by the second half
    assert {leaf.dtype for leaf in jax.tree.leaves(whole.draws)} == {jnp.dtype(dtype)}
    assert not whole.diverged.any()


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    tx, whole, first = build(BAOAB)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", (first.params, first.state))
        checkpointer.wait_until_finished()
        like = jax.eval_shape(lambda: (first.params, first.state))
        params, state = checkpointer.restore(tmp_path / "run", like)
    second = quietly(noisy, tx, params, key=7, state=state, draws=3, **SETTINGS)
    assert bits(joined(first, second)) == bits(whole[:2])
    assert bits(second[2:]) == bits(whole[2:])


KILLED = """
import os, pathlib, signal, sys
import jax, orbax.checkpoint as ocp
from tests.cases import BAOAB, bits, params_like
from tests.sampling.test_sample import SETTINGS, noisy, quietly

directory, tx = pathlib.Path(sys.argv[1]), BAOAB.langevin(1e-2, 1e-1)
shapes = lambda: quietly(noisy, tx, params_like(), key=7, draws=1, **SETTINGS)[2:]
with ocp.StandardCheckpointer() as checkpointer, jax.default_device(jax.devices()[0]):
    saved = sorted(directory.glob("part_*"))
    if saved:
        params, state = checkpointer.restore(saved[-1], jax.eval_shape(lambda: jax.tree.map(lambda x: x, shapes())))
        samples = quietly(noisy, tx, params, key=7, state=state, draws=3, **SETTINGS)
    else:
        samples = quietly(noisy, tx, params_like(), key=7, draws=4, burn_in=3, **SETTINGS)
    (directory / f"draws_{len(saved)}").write_bytes(b"".join(bits(samples)))
    checkpointer.save(directory / f"part_{len(saved)}", (samples.params, samples.state))
    checkpointer.wait_until_finished()
    os.kill(os.getpid(), signal.SIGKILL)
"""
