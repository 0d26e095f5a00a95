"""The local learning coefficient against theory: d/2 of regular minima, less of singular ones; and bad input."""

import functools
import itertools
import math
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import langevin_optax as lgv
from langevin_optax import sampling
from langevin_optax.sampling._llc_curvature import step_times_curvature
from langevin_optax.sampling._llc_result import Start, judged

DATA = jnp.zeros((10_000, 1))  # the losses below are those of a population: n counts


def estimate(loss, params, **kwargs):
    kwargs = {"batch_size": len(DATA), "progress": False, **kwargs}
    params = jax.tree.map(jnp.asarray, params) if isinstance(params[0], jax.Array) else jnp.asarray(params)
    return sampling.local_learning_coefficient(lambda p, batch: loss(p), params, DATA, 0, **kwargs)


def deep_linear(*widths, rank=0):
    """‖W_L … W_1 − T‖²/2 with T of this rank, at its most singular minimum, and Aoyagi's coefficient."""
    layers = [np.eye(rank, out).T @ np.eye(rank, into) for into, out in itertools.pairwise(widths)]
    target = jnp.asarray(functools.reduce(lambda done, w: w @ done, layers), jnp.float32)
    params = [jnp.asarray(w, jnp.float32) for w in layers]
    loss = lambda p: jnp.sum((functools.reduce(lambda done, w: w @ done, p) - target) ** 2) / 2
    return loss, params, aoyagi(widths, rank)[0]


def aoyagi(widths, rank):
    """λ and its multiplicity, of a deep linear network (Aoyagi, 2024, theorem 1)."""
    excess = sorted(width - rank for width in widths)
    for size in range(2, len(excess) + 1):
        inside, outside, layers = excess[:size], excess[size:], size - 1
        if sum(inside) >= layers * inside[-1] and all(sum(inside) < layers * x for x in outside):
            break
    a = sum(inside) - (math.ceil(sum(inside) / layers) - 1) * layers
    pairs = sum(x * y for x, y in itertools.combinations(inside, 2))
    coefficient = (rank * (widths[0] + widths[-1]) - rank**2) / 2 + a * (layers - a) / (4 * layers)
    coefficient += pairs / 2 - layers * (layers - 1) / 4 * (sum(inside) / layers) ** 2
    return coefficient, a * (layers - a) + 1


# The loss, a minimum, and the coefficient: d/2 where the Hessian is positive definite; 1/(2k) of x^(2k), and of
# (x^k y^l)² with k > l (Watanabe, 2009); and deep linear networks whose multiplicity is 1, without which nβ E[L] has
# a term (m − 1)/log(nβ) besides. Two layers are reduced-rank regression.
MODELS = {
    "regular in 1": (lambda p: jnp.sum(p**2) / 2, [0.0], 0.5),
    "regular in 4": (lambda p: jnp.sum(p**2) / 2, [0.0] * 4, 2.0),
    "regular in 20": (lambda p: jnp.sum(p**2) / 2, [0.0] * 20, 10.0),
    "ill-conditioned in 3": (lambda p: jnp.sum(jnp.array([0.3, 1.0, 3.0]) * p**2) / 2, [0.0] * 3, 1.5),
    "a flat direction": (lambda p: p[0] ** 2 / 2 + 0 * p[1], [0.0, 0.0], 0.5),
    "x^4": (lambda p: jnp.sum(p**4), [0.0], 1 / 4),
    "x^6": (lambda p: jnp.sum(p**6), [0.0], 1 / 6),
    "x^2 and y^4": (lambda p: p[0] ** 2 / 2 + p[1] ** 4, [0.0, 0.0], 3 / 4),
    "x y^2": (lambda p: (p[0] * p[1] ** 2) ** 2, [0.0, 0.0], 1 / 4),
    "x y^3": (lambda p: (p[0] * p[1] ** 3) ** 2, [0.0, 0.0], 1 / 6),
    "4-2-2 of rank 1": deep_linear(4, 2, 2, rank=1),
    "6-2-2 of rank 1": deep_linear(6, 2, 2, rank=1),
    "8-2-3 of rank 1": deep_linear(8, 2, 3, rank=1),
    "5-2-3 of rank 1": deep_linear(5, 2, 3, rank=1),
    "2-3-7 of rank 1": deep_linear(2, 3, 7, rank=1),
    "1-2-1 of rank 0": deep_linear(1, 2, 1, rank=0),
    "2-5-2 of rank 0": deep_linear(2, 5, 2, rank=0),
    "2-1-2-2 of rank 1": deep_linear(2, 1, 2, 2, rank=1),
    "1-2-2-4 of rank 1": deep_linear(1, 2, 2, 4, rank=1),
    "2-1-1-3 of rank 1": deep_linear(2, 1, 1, 3, rank=1),
}


def standard_errors_off(name, **kwargs):
    """Of what is too high, which is warned of, too."""
    loss, params, theory = MODELS[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(above d/2|the step is too large)", UserWarning)
        llc = estimate(loss, params, **kwargs)
    return abs(llc.mean - theory) / llc.standard_error


@pytest.mark.parametrize("name", ["6-2-2 of rank 1", pytest.param("regular in 20", marks=pytest.mark.slow)])
def test_it_is_that_of_theory(name):
    assert standard_errors_off(name) < 4


@pytest.mark.slow
def test_it_is_that_of_theory_with_one_default():
    """Chance alone has one in twenty outside of two standard errors; the products of powers need more burn-in."""
    longer = {"draws": 20_000, "burn_in": 20_000}
    off = {name: standard_errors_off(name, **(longer if name in ("x y^2", "x y^3") else {})) for name in MODELS}
    assert sum(z < 2 for z in off.values()) >= len(off) - 3 >= 12, off
    assert max(off.values()) < 4, off


def test_theory_rejects_a_sigma_that_is_10_percent_off():
    assert standard_errors_off("regular in 20", optimizer=lambda sigma, key: lgv.sgd(0.05, sigma, key)) < 4
    assert standard_errors_off("regular in 20", optimizer=lambda sigma, key: lgv.sgd(0.05, 1.1 * sigma, key)) > 4


@pytest.mark.parametrize("learning_rate", [0.01, 0.12, 0.2])
def test_a_quadratic_has_its_law_at_every_step_that_is_stable(learning_rate):
    """P is near 1/(0.1 + 0.03): Euler's scheme would be 4 and 90 % too wide, and the third step is warned of."""
    assert standard_errors_off("regular in 20", learning_rate=learning_rate) < 4
    euler = lambda sigma, key: lgv.sgd(8 * learning_rate, sigma, key)
    if learning_rate == 0.12:
        assert standard_errors_off("regular in 20", optimizer=euler) > 20


def test_the_coefficient_of_aoyagi_is_that_of_reduced_rank_regression():
    """Aoyagi and Watanabe, 2005: the four cases of two layers."""

    def two_layers(m, n, h, r):
        if m + h < n + r:
            return (h * m - h * r + n * r) / 2, 1
        if n + h < m + r:
            return (h * n - h * r + m * r) / 2, 1
        if m + n < h + r:
            return m * n / 2, 1
        base = -((h + r) ** 2) - m**2 - n**2 + 2 * (h + r) * (m + n) + 2 * m * n
        return (base / 8, 1) if (m + h + n + r) % 2 == 0 else ((base + 1) / 8, 2)

    for m, n, h in itertools.product(range(1, 6), repeat=3):
        for r in range(min(m, n, h) + 1):
            assert aoyagi((m, h, n), r) == pytest.approx(two_layers(m, n, h, r))


def test_it_is_the_estimator_of_devinterp_on_the_same_chain():
    """nβ (mean of the losses of the chain − L₀) of each chain, their mean, and its standard error."""
    data = jnp.asarray(np.random.default_rng(0).normal(size=(200, 2)), jnp.float32)
    loss = lambda params, batch: jnp.mean(jnp.sum((params - batch) ** 2, -1)) / 2
    params, nbeta, pull = data.mean(0), 30.0, 2.0
    llc = sampling.local_learning_coefficient(
        loss, params, data, 3, batch_size=200, nbeta=nbeta, draws=40, chains=3, burn_in=7, localization=pull,
        optimizer=lambda sigma, key: lgv.sgd(0.05, sigma, key), progress=False,
    )  # fmt: skip

    def gradient(theta, key):
        value, grads = jax.value_and_grad(loss)(theta, data)
        return value, grads + pull / nbeta * (theta - params)

    tx = lgv.sgd(0.05, math.sqrt(2 / nbeta), jax.random.key(3))
    chain = sampling.sample(gradient, tx, params, 3, draws=40, chains=3, burn_in=7, progress=False)
    per_chain = nbeta * (np.asarray(chain.losses, np.float64).mean(axis=1) - float(loss(params, data)))
    assert llc.mean == pytest.approx(per_chain.mean(), rel=1e-4)
    assert llc.standard_error == pytest.approx(per_chain.std(ddof=1) / math.sqrt(3), rel=1e-4)
    away = np.linalg.norm(np.asarray(chain.draws) - np.asarray(params), axis=-1)
    np.testing.assert_allclose(llc.distances, away, rtol=1e-4)


SHORT = {"batch_size": len(DATA), "draws": 30, "burn_in": 10, "chains": 2, "progress": False}
NORMAL = jnp.asarray(np.random.default_rng(1).normal(size=(10_000, 4)), jnp.float32)


def of_means(params, batch):
    return jnp.mean(jnp.sum((params - batch) ** 2, -1)) / 2


def of_normal(**kwargs):
    kwargs = {"chains": 8, "draws": 1000, "burn_in": 1000, "progress": False, **kwargs}
    return sampling.local_learning_coefficient(of_means, NORMAL.mean(0), NORMAL, 0, **kwargs)


def test_the_noise_of_minibatch_losses_falls_away():
    """A quadratic: L(θ) − L(θ₀) of a minibatch is that of all data and a term in θ − θ₀, of mean 0."""
    small = of_normal(batch_size=128, learning_rate=3e-4)
    assert small.standard_error < 0.5  # 1.9, were the losses those of different minibatches
    assert abs(small.mean - 2) < 4 * small.standard_error
    assert small.warnings == ()


def test_minibatches_that_heat_are_warned_of():
    """By ηP nβ v/2, with v = 1/32, P = 1/(√v + 0.1): 0.6; what the chains then have is read off their distances."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        llc = of_normal(batch_size=32)
    assert re.match(r"the noise of minibatches heats the chains by some 6\d%", llc.warnings[0])
    assert "above d/2 = 2" in llc.warnings[1]
    true = 10_000 / math.log(10_000) * (llc.distances**2).mean() / 2
    assert 1.3 * 2 < true < 1.9 * 2


def test_chains_that_diverge_are_not_in_the_mean():
    traces = np.array([[1.0, 3.0], [np.inf, 1.0], [2.0, 4.0], [np.nan, np.nan]])
    llc = judged(traces, traces, Start(0.0, 0.0, 0.0, 10.0), 1.0, 0.1, 1.0, 0.0, 0.0)
    assert llc.mean == 2.5
    assert llc.standard_error == pytest.approx(0.5)
    assert llc.warnings == ("chains [1, 3] diverged, and are not in the mean: lower learning_rate.",)
    assert llc.traces is traces


@pytest.mark.parametrize(
    ("traces", "start", "said"),
    [
        ([[-3.0] * 4, [-3.1] * 4], Start(0.0, 0.0, 0.0, 10.0), "the estimate is negative"),
        ([[-1.0] * 4, [1.0] * 4], Start(0.0, 0.0, 0.0, 10.0), None),
        ([[9.0] * 4, [9.1] * 4], Start(0.0, 0.0, 0.0, 10.0), "above d/2 = 5"),
        ([[5.0] * 4, [5.1] * 4], Start(0.0, 0.0, 0.0, 10.0), None),
        ([[0.0, 0.0, 2.0, 2.0], [0.0, 0.1, 2.0, 2.1]], Start(0.0, 0.0, 0.0, 10.0), "still rises"),
        ([[1.0] * 4, [1.1] * 4], Start(0.0, 2.0, 0.0, 10.0), "params is no minimum"),
        ([[1.0] * 4, [1.1] * 4], Start(0.0, 0.0, 2.0, 10.0), "heats the chains by some 20%"),
    ],
    ids=str,
)
def test_what_is_warned_of(traces, start, said):
    found = judged(np.array(traces), np.array(traces), start, 1.0, 0.1, 1.0, 0.0, 0.0).warnings
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


CURVATURES = np.diag([1.0, 30.0, 100.0]) + 5.0  # not diagonal
STIFF = lambda p: p @ jnp.asarray(CURVATURES, p.dtype) @ p / 2


def test_the_step_times_the_largest_curvature():
    """Against NumPy's eigenvalue of √P A √P; that of A, of P A P or without the step is another."""
    p, rate, pull, direction = np.array([4.0, 0.5, 0.1]), 0.03, 20.0, jnp.array([1.0, 2.0, 1.0])
    loss = lambda params, batch: STIFF(params)
    found = step_times_curvature(loss, jnp.ones(3), direction, None, jnp.asarray(p), rate, pull, 7.0)
    exact = rate * np.linalg.eigvalsh(np.sqrt(p)[:, None] * (CURVATURES + pull * np.eye(3)) * np.sqrt(p)).max()
    assert found == pytest.approx(exact, rel=1e-3)


def test_steps_that_are_too_large_for_the_curvature_are_warned_of():
    """P settles near 1/√(a/nβ), so that the product is η√(a nβ): 3.4 and 0.3 here, where 2 is the limit."""
    too_large = r"the step is too large for the curvature: their product is [12]\.\d, "
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        llc = estimate(STIFF, [0.0] * 3)
        pulled = estimate(lambda p: jnp.sum(p**2) / 2, [0.0] * 2, localization=1e6, draws=300, burn_in=300)
    assert llc.mean > 3 * 1.5 and re.match(too_large, llc.warnings[0]) and "above d/2 = 1.5" in llc.warnings[1]
    assert re.match("the step is too large for the curvature", pulled.warnings[0])  # that of the localisation
    small = estimate(STIFF, [0.0] * 3, learning_rate=1e-3)
    assert small.warnings == () and abs(small.mean - 1.5) < 4 * small.standard_error


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_loss_sees_batches_and_dtypes_that_it_knows(dtype):
    """Also where the curvature is measured: a network may reshape by the one, and fail on others than the other."""

    def loss(params, batch):
        assert params.dtype == dtype and batch.shape == (10, 1)
        return jnp.sum(params.astype(jnp.float32) ** 2) / 2 + 0 * batch.reshape(2, 5).sum()

    params = jnp.zeros(2, dtype)
    llc = sampling.local_learning_coefficient(
        loss, params, DATA[:90], 0, batch_size=10, draws=20, burn_in=20, progress=False
    )
    assert math.isfinite(llc.mean)


def test_low_precision_is_warned_of():
    low = lambda params, batch: of_means(params, batch).astype(jnp.bfloat16)
    with pytest.warns(UserWarning, match="the loss is rounded to 1"):
        llc = sampling.local_learning_coefficient(low, NORMAL.mean(0), NORMAL, 0, **SHORT)
    assert any("return it in float32" in text for text in llc.warnings)


@pytest.mark.parametrize(
    ("loss", "params", "error", "message"),
    [
        (lambda p, b: (jnp.sum(p), 1), jnp.zeros(4), ValueError, "loss_fn must return a real scalar"),
        (lambda p, b: p, jnp.zeros(4), ValueError, "loss_fn must return a real scalar"),
        (lambda p, b: jnp.sum(p), jnp.zeros(4, int), TypeError, "params must be real, got leaves of dtype int32"),
    ],
    ids=["aux", "vector", "integers"],
)
def test_losses_and_params_of_another_kind(loss, params, error, message):
    with pytest.raises(error, match=message):
        sampling.local_learning_coefficient(loss, params, DATA, 0, **SHORT)


def test_checkpoints_of_another_kind():
    with pytest.raises(ValueError, match="all checkpoints must be alike"):
        sampling.llc_along_training(quartic, [jnp.zeros(2), jnp.zeros(2, jnp.bfloat16)], DATA, 0, **SHORT)


def test_a_frozen_part_that_is_no_minimum_does_not_matter():
    loss = lambda p, batch: jnp.sum(p["a"] ** 2) / 2 + jnp.sum((p["b"] - 1) ** 2) / 2
    llc = sampling.local_learning_coefficient(
        loss, {"a": jnp.zeros(3), "b": jnp.zeros(3)}, DATA, 0, batch_size=len(DATA), mask={"a": True, "b": False},
        progress=False,
    )  # fmt: skip
    assert llc.warnings == ()
    assert abs(llc.mean - 1.5) < 4 * llc.standard_error


def test_parameters_on_a_mesh_of_explicit_axes():
    mesh = jax.make_mesh((4,), ("x",), devices=jax.devices()[:4])
    sharded = jax.device_put(NORMAL.mean(0), NamedSharding(mesh, PartitionSpec("x")))
    kwargs = {"batch_size": len(NORMAL), "draws": 20, "burn_in": 5, "chains": 2, "progress": False}
    there = sampling.local_learning_coefficient(of_means, sharded, NORMAL, 0, **kwargs)
    here = sampling.local_learning_coefficient(of_means, NORMAL.mean(0), NORMAL, 0, **kwargs)
    np.testing.assert_allclose(there.traces, here.traces, rtol=1e-2, atol=1e-2)


def test_a_mask_keeps_the_others_where_they_are():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(3)}
    llc = sampling.local_learning_coefficient(
        lambda p, batch: jnp.sum(p["a"] ** 2) / 2 + jnp.sum(p["b"] ** 2) / 2, params, DATA, 0,
        batch_size=len(DATA), chains=16, mask={"a": True, "b": False}, progress=False,
    )  # fmt: skip
    assert abs(llc.mean - 0.5) < 4 * llc.standard_error


def quartic(params, batch):
    return jnp.sum(params**4) + 0 * batch[0, 0]


@pytest.mark.slow
def test_checkpoints_are_one_program_and_each_is_its_own_estimate():
    def traces(checkpoints):
        def loss(params, batch):
            traced.append(1)
            return quartic(params, batch)

        traced = []
        return sampling.llc_along_training(loss, checkpoints, DATA, 0, **SHORT), len(traced)

    checkpoints = [jnp.zeros(2), jnp.full(2, 0.01), jnp.full(2, 0.02)]
    llcs, of_three = traces(checkpoints)
    assert of_three == traces(checkpoints[:1])[1]
    for params, llc in zip(checkpoints, llcs, strict=True):
        alone = sampling.local_learning_coefficient(quartic, params, DATA, 0, **SHORT)
        assert llc.baseline == alone.baseline
        np.testing.assert_array_equal(llc.traces, alone.traces)
        np.testing.assert_array_equal(llc.distances, alone.distances)


@pytest.mark.parametrize(
    "optimizer",
    [None, pytest.param(lambda sigma, key, rate: lgv.sgd(rate, sigma, key), marks=pytest.mark.slow)],
    ids=["default", "sgd"],
)
def test_a_sweep_is_the_estimates_of_its_settings(optimizer):
    rates, pulls = (0.01, 0.02), (1.0, 100.0)
    sweep = sampling.llc_sweep(
        quartic, jnp.zeros(2), DATA, 0, learning_rates=rates, localizations=pulls, optimizer=optimizer, **SHORT
    )
    assert sweep.means.shape == sweep.standard_errors.shape == (2, 2)
    for (i, rate), (j, pull) in itertools.product(enumerate(rates), enumerate(pulls)):
        own = None if optimizer is None else (lambda sigma, key, rate=rate: optimizer(sigma, key, rate))
        alone = sampling.local_learning_coefficient(
            quartic, jnp.zeros(2), DATA, 0, learning_rate=rate, localization=pull, optimizer=own, **SHORT
        )
        np.testing.assert_allclose(sweep.llcs[i][j].traces, alone.traces, rtol=1e-3, atol=1e-7)
        assert sweep.means[i, j] == sweep.llcs[i][j].mean


@pytest.mark.slow
def test_the_picture_of_a_sweep_marks_the_settings_that_fail(tmp_path):
    settings = {"learning_rates": (0.01, 1e30), "localizations": (1.0,)}
    with pytest.warns(UserWarning, match=r"1 of 2 estimates have warnings. The first: chains \[0, 1\] diverged"):
        sweep = sampling.llc_sweep(quartic, jnp.full(2, 0.01), DATA, 0, **settings, **SHORT)
    figure = sweep.plot()
    assert figure.axes[0].get_title() == f"{sweep.means[0, 0]:.3g} ± {sweep.standard_errors[0, 0]:.2g}"
    assert figure.axes[1].get_title() == "nan ± nan"
    assert [axis.title.get_color() for axis in figure.axes] == ["black", "firebrick"]
    figure.savefig(tmp_path / "sweep.png")


def test_a_sweep_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one value"):
        sampling.llc_sweep(quartic, jnp.zeros(2), DATA, 0, learning_rates=(), **SHORT)


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


def test_params_that_are_nan_are_named():
    with pytest.warns(UserWarning, match="not finite at params"):
        llc = sampling.local_learning_coefficient(quartic, jnp.full(2, math.nan), DATA, 0, **SHORT)
    assert math.isnan(llc.mean)


def test_an_optimiser_without_noise_is_warned_of():
    with pytest.warns(UserWarning, match="tx has no noise"):
        sampling.local_learning_coefficient(
            quartic, jnp.zeros(2), DATA, 0, optimizer=lambda sigma, key: optax.adam(1e-3), **SHORT
        )


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
        ({"burn_in": -1}, ValueError, "burn_in must be ≥ 0"),
        ({"localization": -1.0}, ValueError, "localization must be ≥ 0"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be > 0"),
        ({"learning_rate": optax.linear_schedule}, TypeError, "learning_rate must be a number"),
        ({"nbeta": 0.0}, ValueError, "nbeta must be > 0"),
        ({"data": {"x": jnp.zeros((3, 2)), "y": jnp.zeros(4)}}, ValueError, "equally many"),
        ({"data": jnp.zeros((2, 1))}, ValueError, "wants n ≥ 3"),
        ({"optimizer": optax.sgd(0.1)}, TypeError, r"a function \(sigma, key\) -> tx, .*got Gradient"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)
def test_bad_input(kwargs, error, message):
    data = kwargs.pop("data", DATA)
    kwargs = {"batch_size": 10, **kwargs}
    with pytest.raises(error, match=message):
        sampling.local_learning_coefficient(lambda p, batch: jnp.sum(p**2), jnp.zeros(1), data, 0, **kwargs)
