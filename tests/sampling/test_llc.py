"""The local learning coefficient against theory: d/2 of regular minima, less of singular ones; and bad input."""

import math
import warnings

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from langevin_optax import sampling
from tests.cases import by_default

DATA = jnp.zeros((100_000, 1))  # the losses below are those of a population: n counts


def estimate(loss, params, **kwargs):
    kwargs = {"batch_size": len(DATA), "progress": False, "chains": 16, **kwargs}
    return sampling.local_learning_coefficient(lambda p, batch: loss(p), jnp.asarray(params), DATA, 0, **kwargs)


# The loss, a minimum, and the coefficient: d/2 where the Hessian is positive definite; 1/(2k) of x^(2k), and of
# (x^k y^l)² with k > l (Watanabe, 2009).
MODELS = {
    "regular in 1": (lambda p: jnp.sum(p**2) / 2, [0.0], 0.5),
    "regular in 4": (lambda p: jnp.sum(p**2) / 2, [0.0] * 4, 2.0),
    "ill-conditioned in 3": (lambda p: jnp.sum(jnp.array([0.3, 1.0, 3.0]) * p**2) / 2, [0.0] * 3, 1.5),
    "a flat direction": (lambda p: p[0] ** 2 / 2 + 0 * p[1], [0.0, 0.0], 0.5),
    "x^4": (lambda p: jnp.sum(p**4), [0.0], 0.25),
    "x^2 and y^4": (lambda p: p[0] ** 2 / 2 + p[1] ** 4, [0.0, 0.0], 0.75),
}


@pytest.mark.parametrize("name", by_default(["regular in 4", "x^4"], MODELS))
def test_it_is_that_of_theory(name):
    """Within five standard errors and the error of the step, γPa/2 = 5 % at curvature 1; d/2 is not that of x^4."""
    loss, params, theory = MODELS[name]
    draws = {"burn_in": 6000, "draws": 6000} if "4" in name.partition("^")[2] else {}
    llc = estimate(loss, params, **draws)
    assert abs(llc.mean - theory) < 5 * llc.standard_error + 0.16 * theory
    assert llc.traces.shape == llc.distances.shape == (16, draws.get("draws", 2000))
    if name == "x^4":
        assert abs(llc.mean - len(params) / 2) > 5 * llc.standard_error + 0.08 * theory


def test_the_estimator_is_its_formula():
    """nβ (mean loss − L₀), for sampler, batches and nβ of one's own; devinterp's, from its formula."""
    data = jnp.asarray(np.random.default_rng(0).normal(size=(200, 2)), jnp.float32)
    loss = lambda params, batch: jnp.mean(jnp.sum((params - batch) ** 2, -1)) / 2
    params, nbeta = data.mean(0), 30.0
    llc = sampling.local_learning_coefficient(
        loss, params, data, 3, batch_size=50, nbeta=nbeta, draws=40, chains=3, burn_in=7, localization=2.0,
        optimizer=lambda sigma, key: lgv.sgd(0.05, sigma, key), progress=False,
    )  # fmt: skip
    baseline = float(loss(params, data))
    assert llc.baseline == pytest.approx(baseline, rel=1e-6)
    losses = llc.traces / nbeta + baseline
    per_chain = nbeta * (losses.mean(axis=1) - baseline)
    assert llc.mean == pytest.approx(per_chain.mean(), rel=1e-9)
    assert llc.standard_error == pytest.approx(per_chain.std(ddof=1) / math.sqrt(3), rel=1e-9)
    assert llc.rhat > 0.9
    assert llc.ess > 1


def test_a_mask_keeps_the_others_where_they_are():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(3)}
    llc = sampling.local_learning_coefficient(
        lambda p, batch: jnp.sum(p["a"] ** 2) / 2 + jnp.sum(p["b"] ** 2) / 2, params, DATA, 0,
        batch_size=len(DATA), chains=16, mask={"a": True, "b": False}, progress=False,
    )  # fmt: skip
    assert abs(llc.mean - 0.5) < 5 * llc.standard_error + 0.08 * 0.5


@pytest.mark.slow
def test_what_is_no_minimum_is_warned_of():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        llc = estimate(lambda p: jnp.sum((p - 1) ** 2) / 2, [0.0], draws=50, burn_in=50, chains=4)
    said = [str(w.message) for w in caught]
    assert llc.mean < 0
    assert any("the estimate is negative" in text for text in said)
    assert any("params is no minimum" in text for text in said)
    assert set(llc.warnings) <= set(said)


def test_chains_that_diverge_are_named_and_not_in_the_mean():
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        llc = estimate(lambda p: jnp.sum(p**4), [0.0], optimizer=lambda sigma, key: optax.chain(
            lgv.sgd(1e4, sigma, key)), draws=400, burn_in=0, chains=3)  # fmt: skip
    assert llc.traces.shape == (3, 400)
    assert any("diverged" in text for text in llc.warnings)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be ≥ 1"),
        ({"draws": 0}, ValueError, "draws must be ≥ 1"),
        ({"chains": 0}, ValueError, "chains must be ≥ 1"),
        ({"localization": -1.0}, ValueError, "localization must be ≥ 0"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be > 0"),
        ({"nbeta": 0.0}, ValueError, "nbeta must be > 0"),
        ({"data": {"x": jnp.zeros((3, 2)), "y": jnp.zeros(4)}}, ValueError, "equally many"),
        ({"data": jnp.zeros((2, 1))}, ValueError, "wants n ≥ 3"),
    ],
    ids=str,
)
def test_bad_input(kwargs, error, message):
    data = kwargs.pop("data", DATA)
    kwargs = {"batch_size": 10, **kwargs}
    with pytest.raises(error, match=message):
        sampling.local_learning_coefficient(lambda p, batch: jnp.sum(p**2), jnp.zeros(1), data, 0, **kwargs)
