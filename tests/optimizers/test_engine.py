"""The engine: every alias of Optax that has a P, with σ = 0 to the bit, and with noise of the right size."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from langevin_optax.optimizers import _rows
from tests.cases import (
    ALIASES,
    OPTIMIZERS,
    bits,
    by_default,
    first_of_each_name,
    gradients_like,
    loss,
    params_like,
    run,
)
from tests.optimizers.recursions import preconditioner
from tests.optimizers.test_recursions import ROWS, alias, played

pytestmark = pytest.mark.filterwarnings("ignore:`optimistic_adam` is deprecated")
SIGMA = 0.3
# Of Optax: the others are tried with -m slow.
OFTEN = ["adafactor", "lamb-weight_decay", "ademamix", "sophia-update_interval", "prodigy-estim_lr0"]
# Of Optax: the others promote.
STRICT = ("prodigy", "dadapt_adamw", "momo", "momo_adam", "lars", "fromage", "novograd", "sm3", "adafactor")


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("row", [OPTIMIZERS[2], ALIASES[2]], ids=lambda row: row.id)
def test_sigma_zero_is_optax_bit_for_bit_as_users_compile(row):
    test_sigma_zero_is_optax_bit_for_bit(row)


@pytest.mark.parametrize("row", first_of_each_name(OPTIMIZERS) + by_default(OFTEN, ALIASES))
def test_sigma_zero_is_optax_bit_for_bit(row):
    """Parameters and state; for Adam a σ that is 0 by an array or a schedule too."""
    params = params_like(row=row)
    gamma = optax.linear_schedule(2e-2, 1e-2, 50) if getattr(row, "schedules", True) else 1e-2
    expected, stock_state = run(row.stock(gamma), params, 20)
    for sigma in (0, jnp.zeros(()), lambda count: 0.0) if row.id == "adam" else (0,):
        actual, state = run(row.langevin(gamma, sigma), params, 20)
        assert bits(actual) == bits(expected)
        assert bits(state[:-1]) == bits(stock_state)
        chain = type(stock_state) is tuple
        assert jax.tree.structure(state[:-1] if chain else state[0]) == jax.tree.structure(stock_state)
        assert int(state[-1].count) == 20


def ones(key, shape, dtype):
    """A noise whose every entry is 1: what is added is its size."""
    return jnp.ones(shape, dtype)


def size_of_the_noise(row, steps, sigma, **kwargs):
    """The difference to the stock update, in the last of these steps, op by op in float64."""
    with jax.enable_x64(True), jax.disable_jit():
        tx = lgv.langevin(alias(row.name), sigma, 0, sampler=ones, **kwargs)(**row.arguments())
        stock = row.stock()
        state, stock_state = (t.init(jax.tree.map(jnp.asarray, steps[0].params)) for t in (tx, stock))
        for step in steps:
            gradient, params, hessian = jax.tree.map(jnp.asarray, (step.gradient, step.params, step.hessian))
            extra = {"value": jnp.asarray(step.value), "hessian": hessian}
            noisy, state = tx.update(gradient, state, params, **extra)
            plain, stock_state = stock.update(gradient, stock_state, params, **extra)
        assert bits(state[:-1]) == bits(stock_state)
        return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), noisy, plain)


def gamma_of(row, count):
    """γ of the last step: what a published equation calls the learning rate."""
    arguments = row.arguments()
    gamma = arguments.get("scaling", 1.0) if row.name == "polyak_sgd" else arguments["learning_rate"]
    return 1.0 if gamma is None else gamma(count) if callable(gamma) else gamma


# One of each kind of P: the others are tried with -m slow.
SIZED = [
    "adam",
    "lamb",
    "rmsprop-centered=True-initial_scale=0.5",
    "adadelta",
    "adafactor",
    "acprop",
    "sophia-hessian_diagonal_fn-update_interval=2-clip_threshold",
    "prodigy-learning_rate=1.0",
]
# Prodigy's estimate grows in the third step, so that the old one and the new one differ there.
PLAYED = [
    pytest.param(*row.values, steps, marks=pytest.mark.slow if steps == 4 else row.marks)
    for row in by_default(SIZED, ROWS)
    for steps in ((3, 4) if row.id.startswith("prodigy") else (None,))
]


@pytest.mark.parametrize(("row", "number"), PLAYED, ids=lambda value: getattr(value, "id", value))
def test_the_size_of_the_noise_is_sigma_root_gamma_p(row, number):
    """With P from the recursion of the paper, in NumPy."""
    steps = played(row.name)[:number]
    last = len(steps) - 1
    p = preconditioner(row.name, steps, **row.arguments())
    size = size_of_the_noise(row, steps, lambda count: SIGMA / (1 + count))
    scale = SIGMA / (1 + last) * np.sqrt(gamma_of(row, last))
    for name, actual in size.items():
        # Adafactor's decay rate is float32 in Optax.
        np.testing.assert_allclose(actual, scale * np.sqrt(np.maximum(p[name], 0)), rtol=1e-5, atol=1e-7)
        assert np.max(actual) > 0 or np.max(p[name]) <= 0


def test_every_row_of_the_table_is_tested():
    assert {*_rows.ROWS} == {alias(row.name) for row in ROWS} >= {row.function for row in ALIASES}
    assert not {*_rows.ROWS} & {*_rows.NO_PRECONDITIONER}


@pytest.mark.parametrize("name", ["rprop", "lion", "sign_sgd", "signum", "muon"])
def test_what_has_no_p_takes_noise_with_p_1_behind_it(name):
    """The update of Optax to the bit, and σ√γ ξ, layer by layer if a mask says so; as the message says to write it."""
    gamma, params = 1e-2, params_like()
    tx = optax.chain(alias(name)(gamma), lgv.add_langevin_noise(gamma, SIGMA, 3, after_learning_rate=True))
    stock = alias(name)(gamma)
    state, stock_state = tx.init(params), stock.init(params)
    for step, g in enumerate(gradients_like(params, 3)):
        updates, state = tx.update(g, state, params)
        plain, stock_state = stock.update(g, stock_state, params)
        expected = jax.tree.map(lambda u, xi: u + SIGMA * np.sqrt(gamma) * xi, plain, lgv.noise_like(3, step, params))
        chex.assert_trees_all_close(updates, expected, rtol=1e-6, atol=1e-8)
        assert bits(state[0]) == bits(stock_state)


@pytest.mark.parametrize("name", ["adopt", "sophia"])
def test_a_first_step_without_statistics_has_no_noise(name):
    """ADOPT's update is 0 then; Sophia's a clipped sign, as its Hessian is still to be estimated."""
    row = next(row for row in ROWS if row.name == name)
    size = size_of_the_noise(row, played(name)[:1], SIGMA)
    assert all(np.all(s == 0) for s in size.values())


# What a momentum does to the drift: k of the docstring, in σ = √(2kτ).
DRIFTS = {
    "sgd": ({"momentum": 0.9}, 10),
    "rmsprop": ({"momentum": 0.8}, 5),
    "lars": ({"momentum": 0.9}, 10),
    "novograd": ({"b1": 0.9}, 10),
    "ademamix": ({"alpha": 5.0, "b3": 0.9}, 6),
    "simplified_ademamix": ({"b1": 0.9, "alpha": 0.5}, 10.5),
    "optimistic_gradient_descent": ({"alpha": 0.7, "beta": 0.4}, 0.7),
    "optimistic_adam_v2": ({"alpha": 0.7, "beta": 0.4}, 0.7),
    **dict.fromkeys(("optimistic_adam", "adam", "nadamw", "adan", "adabelief", "yogi", "radam", "amsgrad"), ({}, 1)),
    **dict.fromkeys(("adamax", "adafactor", "sm3", "lamb", "fromage", "acprop", "adopt", "adadelta"), ({}, 1)),
}


OFTEN_DRIFTS = "sgd rmsprop adam novograd ademamix optimistic_gradient_descent adafactor adopt".split()


@pytest.mark.parametrize("name", by_default(OFTEN_DRIFTS, DRIFTS))
def test_the_drift_of_a_momentum(name):
    """Under a constant gradient the update is −k γ P g after a while, and the noise is σ √(γP): its P, and k."""
    kwargs, k = DRIFTS[name]
    kwargs = {"eps": 1.0, **kwargs} if name in ("adabelief", "acprop") else kwargs  # their ν falls to 0 otherwise
    gamma, g = 1e-3, {"w": jnp.array([0.5, 2.0, 1.0])}
    params = {"w": jnp.array([1.0, -2.0, 2.0])}
    build = lambda sigma: lgv.langevin(alias(name), sigma, 0, sampler=ones)(gamma, **kwargs)
    tx, quiet = build(SIGMA), build(0.0)
    step = jax.jit(lambda state: quiet.update(g, state, params)[1])
    state = jax.lax.fori_loop(0, 300, lambda _, state: step(state), quiet.init(params))
    noise = tx.update(g, state, params)[0]["w"] - quiet.update(g, state, params)[0]["w"]
    p = (noise / SIGMA) ** 2 / gamma
    drift = -quiet.update(g, state, params)[0]["w"] / (gamma * p * g["w"])
    np.testing.assert_allclose(drift, k, rtol=0.02)


def test_the_arguments_of_the_alias_keep_their_names_and_meaning():
    """``mask=`` of AdamW says what decays, that of the engine what gets noise."""
    params = {"a": jnp.ones(4), "b": jnp.ones(4)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    decay = {"a": True, "b": False}
    build = lgv.langevin(optax.adamw, SIGMA, 0, mask={"a": False, "b": True})
    tx, stock = (f(1e-2, weight_decay=0.1, mask=decay) for f in (build, optax.adamw))
    updates, state = tx.update(zeros, tx.init(params), params)
    expected, _ = stock.update(zeros, stock.init(params), params)
    assert bits(updates["a"]) == bits(expected["a"]) and np.all(updates["a"] != 0)
    assert np.all(updates["b"] != expected["b"])
    assert isinstance(state[-1], lgv.LangevinState)
    assert inspect.signature(build) == inspect.signature(optax.adamw)
    assert inspect.signature(lgv.langevin(optax.nadam, SIGMA, 0)) == inspect.signature(optax.nadam)
    with pytest.raises(TypeError, match="beta1"):
        build(1e-2, beta1=0.9)


def test_explicit_optimisers_are_the_engine():
    params = params_like()
    for ours, theirs in (
        (
            lgv.adamw(1e-2, SIGMA, 3, weight_decay=0.1, eps=1e-8),
            lgv.langevin(optax.adamw, SIGMA, 3)(1e-2, weight_decay=0.1),
        ),
        (
            lgv.rmsprop(1e-2, SIGMA, 3, eps=1e-8, momentum=0.9),
            lgv.langevin(optax.rmsprop, SIGMA, 3)(1e-2, momentum=0.9),
        ),
    ):
        assert bits(run(ours, params, 3)) == bits(run(theirs, params, 3))


def test_adadelta_takes_no_learning_rate_as_optax():
    params = params_like()
    tx, stock = lgv.adadelta(sigma=SIGMA, key=0, mask=False), optax.adadelta()
    assert bits(run(tx, params, 3)[0]) == bits(run(stock, params, 3)[0])
    for arguments in ({"sigma": 0.1}, {"key": 0}, {"learning_rate": 0.1}, {}):
        with pytest.raises(TypeError, match=r"adadelta needs sigma and key"):
            lgv.adadelta(**arguments)


def test_injected_hyperparameters():
    """Of the alias by its own names; of σ by a function."""
    params = params_like()
    g = jax.grad(loss)(params)
    expected, _ = (tx := lgv.langevin(optax.lamb, SIGMA, 0)(1e-2)).update(g, tx.init(params), params)
    inner = optax.inject_hyperparams(lgv.langevin(optax.lamb, SIGMA, 0))(learning_rate=1e-2)
    outer = optax.inject_hyperparams(lambda learning_rate, sigma: lgv.langevin(optax.lamb, sigma, 0)(learning_rate))
    for tx in (inner, outer(learning_rate=1e-2, sigma=SIGMA)):
        updates, state = jax.jit(tx.update)(g, tx.init(params), params)
        for a, b in zip(*map(jax.tree.leaves, (updates, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        assert "learning_rate" in state.hyperparams


@pytest.mark.parametrize("name", "sign_sgd signum lion rprop lbfgs noisy_sgd muon galore madgrad cocob".split())
def test_an_alias_without_p_raises_and_says_what_to_write(name):
    with pytest.raises(ValueError, match=rf"{name} has no preconditioner P: .*add_langevin_noise.*after_learning_rate"):
        lgv.langevin(alias(name), SIGMA, 0)


def test_other_aliases_without_p():
    for function in (optax.contrib.dpsgd, optax.contrib.schedule_free_sgd, optax.contrib.schedule_free_adamw):
        with pytest.raises(ValueError, match="has no preconditioner P"):
            lgv.langevin(function, SIGMA, 0)


def test_noise_of_p_one_behind_an_alias_that_has_none():
    """What the message says to write: the size is σ√γ."""
    params = {"w": jnp.ones(100)}
    for stock in (optax.lion(1e-2), optax.rprop(1e-2), optax.contrib.muon(1e-2), optax.sign_sgd(1e-2)):
        tx = optax.chain(stock, lgv.add_langevin_noise(1e-2, SIGMA, 0, after_learning_rate=True))
        noisy, _ = tx.update(params, tx.init(params), params)
        plain, _ = stock.update(params, stock.init(params), params)
        np.testing.assert_allclose(noisy["w"] - plain["w"], SIGMA * 0.1 * lgv.noise_like(0, 0, params)["w"], atol=1e-6)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (
            optax.adam(1e-3),
            TypeError,
            r"must be a function of optax.*, not called: langevin\(optax\.adam, sigma, key\)",
        ),
        (lgv.adam, ValueError, r"knows no preconditioner P for adam\. .*pass preconditioner="),
        (optax.inject_hyperparams(optax.adam), ValueError, r"put langevin inside: optax\.inject_hyperparams\(langevin"),
        (lambda lr: optax.adam(lr), ValueError, r"preconditioner=lambda arguments, updates_in, old_state, new_state"),
        (functools.partial(optax.adam, b1=0.8), ValueError, "knows no preconditioner P for functools.partial"),
        (optax.scale_by_adam, ValueError, "knows no preconditioner P for scale_by_adam"),
        ("adam", TypeError, "alias must be a function of optax, such as optax.adam, got 'adam'"),
        (None, TypeError, "alias must be a function of optax"),
    ],
)
def test_what_is_no_alias_raises(bad, error, message):
    with pytest.raises(error, match=message):
        lgv.langevin(bad, SIGMA, 0)


def test_an_alias_of_ones_own():
    """θ' = θ − γ θ̄/4, P = 1/4, by a function that the table does not know; its arguments come by name."""

    def quarter(learning_rate, factor=0.25):
        return optax.chain(optax.scale(factor), optax.scale_by_learning_rate(learning_rate))

    def p(arguments, updates, old, new):
        assert set(arguments) == {"learning_rate", "factor"} and len(old) == len(new) == 2
        return jax.tree.map(lambda _: arguments["factor"], updates)

    params = {"w": jnp.ones(5)}
    tx = lgv.langevin(quarter, SIGMA, 0, preconditioner=p)(1e-2)
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    expected = -1e-2 / 4 + SIGMA * 0.1 / 2 * lgv.noise_like(0, 0, params)["w"]
    np.testing.assert_allclose(updates["w"], expected, rtol=1e-5)
    variadic = lambda **kwargs: quarter(**kwargs)
    tx = lgv.langevin(variadic, SIGMA, 0, preconditioner=lambda a, g, old, new: {"w": 0.25})(learning_rate=1e-2)
    np.testing.assert_allclose(tx.update(params, tx.init(params), params)[0]["w"], expected, rtol=1e-5)
    # A state that is no chain stays whole.
    single = lambda learning_rate: optax.scale_by_adam(b1=0.0)
    tx = lgv.langevin(single, SIGMA, 0, preconditioner=lambda a, g, old, new: jax.tree.map(lambda v: 4.0, new.nu))(1.0)
    state = tx.init(params)
    assert [type(part).__name__ for part in state] == ["ScaleByAdamState", "LangevinState"]
    updates, _ = tx.update(params, state, params)
    np.testing.assert_allclose(updates["w"], 1 + 2 * SIGMA * lgv.noise_like(0, 0, params)["w"], atol=1e-4)
    for wrong, error in ((3.0, TypeError), (lambda a, g, old, new: {"v": 1.0}, ValueError)):
        with pytest.raises(error, match="preconditioner must be"):
            (tx := lgv.langevin(single, SIGMA, 0, preconditioner=wrong)(1.0)).update(params, tx.init(params), params)
    with pytest.raises(TypeError, match=r"must return an optax\.GradientTransformation, got 3"):
        lgv.langevin(lambda: 3, SIGMA, 0, preconditioner=p)()
    # Where γ is not seen the noise would have another size.
    for hidden in (lambda lr: optax.sgd(lr), functools.partial(optax.sgd, 1e-4), lambda *args: optax.sgd(*args)):
        build = lgv.langevin(hidden, SIGMA, 0, preconditioner=p)
        with pytest.raises(ValueError, match="reads γ from the argument learning_rate of the alias"):
            build() if isinstance(hidden, functools.partial) else build(1e-4)
    with pytest.raises(ValueError, match=r"within optax\.inject_hyperparams.*Put langevin inside"):
        lgv.langevin(optax.inject_hyperparams(optax.sgd), SIGMA, 0, preconditioner=p)(1e-4).init(params)


def test_the_variance_of_centred_rmsprop_rounds_to_no_nan():
    """Where Optax's update is finite so is ours, in bfloat16 too."""
    g = jnp.asarray(np.random.default_rng(0).normal(size=64) * 3, jnp.bfloat16)
    params = jnp.ones(64, jnp.bfloat16)
    tx, stock = lgv.rmsprop(1e-2, 1e-3, 0, centered=True), optax.rmsprop(1e-2, eps=1e-7, centered=True)

    def step(carry, _):
        state, stock_state = carry
        (u, state), (v, stock_state) = tx.update(g, state, params), stock.update(g, stock_state, params)
        return (state, stock_state), (u, v)

    _, (ours, theirs) = jax.lax.scan(step, (tx.init(params), stock.init(params)), length=60)
    assert np.all(np.isfinite(ours) | ~np.isfinite(theirs))


@pytest.mark.parametrize("name", ["lars", "fromage"])
def test_a_gradient_through_a_trust_ratio_is_finite(name):
    """Also where a leaf has gradient 0, as in Optax."""
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}

    def total(w, tx):
        updates, _ = tx.update({"a": w * jnp.ones(3), "b": 0 * w * jnp.ones(3)}, tx.init(params), params)
        return sum(map(jnp.sum, jax.tree.leaves(updates)))

    assert np.isfinite(jax.grad(total)(1.0, alias(name)(0.1)))
    assert np.isfinite(jax.grad(total)(1.0, lgv.langevin(alias(name), 1e-3, 0)(0.1)))


@pytest.mark.parametrize("row", [row for row in ALIASES if row.name in STRICT], ids=lambda row: row.id)
def test_strict_dtype_promotion_where_optax_allows_it(row):
    params = {"w": jnp.ones((3, 4))}
    with jax.numpy_dtype_promotion("strict"):
        for tx in (row.stock(), row.langevin()):
            updates, _ = tx.update(params, tx.init(params), params, value=1.0, obj_fn=loss)
            assert updates["w"].dtype == jnp.float32


def test_a_preconditioner_that_is_handed_in_takes_precedence():
    params = {"w": jnp.zeros(5)}
    for tx in (lgv.adam(1e-2, SIGMA, 0), lgv.langevin(optax.lamb, SIGMA, 0)(1e-2)):
        updates, _ = tx.update(params, tx.init(params), params, preconditioner={"w": 4.0})
        np.testing.assert_allclose(updates["w"], SIGMA * 0.2 * lgv.noise_like(0, 0, params)["w"], rtol=1e-4)
        with pytest.raises(ValueError, match="preconditioner must be ≥ 0"):
            tx.update(params, tx.init(params), params, preconditioner={"w": jnp.array([1.0, -1, 1, 1, 1])})


ADAM = optax.adam(1e-2).init({"w": jnp.ones(3)})
NOISE = lgv.adam(1e-2, SIGMA, 0).init({"w": jnp.ones(3)})[-1]
NAMES = r"must be \(ScaleByAdamState, EmptyState, LangevinState\)"


@pytest.mark.parametrize(
    ("tx", "state", "message"),
    [
        (lgv.adam(1e-2, SIGMA, 0), {"0": ADAM[0], "2": NOISE}, rf"the state of adam {NAMES}.*got dict"),
        (lgv.adam(1e-2, SIGMA, 0), None, rf"{NAMES}.*got NoneType"),
        (lgv.adam(1e-2, SIGMA, 0), (), rf"{NAMES}.*got \(\)"),
        (lgv.adam(1e-2, SIGMA, 0), ADAM, rf"{NAMES}.*got \(ScaleByAdamState, EmptyState\).*from_optax\(stock_state, "),
        (
            lgv.adamw(1e-2, SIGMA, 0),
            (*ADAM, NOISE),
            r"the state of adamw must be \(ScaleByAdamState, EmptyState, EmptyState, LangevinState\).*got "
            r"\(ScaleByAdamState, EmptyState, LangevinState\)",
        ),
        (
            lgv.adam(optax.linear_schedule(1e-2, 0.0, 5), SIGMA, 0),
            (*ADAM, NOISE),
            r"must be \(ScaleByAdamState, ScaleByScheduleState, LangevinState\).*got \(ScaleByAdamState, EmptyState, L",
        ),
        (
            lgv.langevin(optax.contrib.prodigy, SIGMA, 0)(1e-2),
            (*ADAM, NOISE),
            r"the state of prodigy must be \(ProdigyState, LangevinState\)",
        ),
        (lgv.sgd(1e-2, SIGMA, 0), lgv.adagrad(1e-2, SIGMA, 0).init({"w": jnp.ones(3)})[1:], "the state of sgd must be"),
    ],
    ids=["dict", "None", "empty", "stock", "another chain", "no schedule", "single", "short"],
)
def test_a_state_of_another_structure_raises(tx, state, message):
    params = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match=message):
        tx.update(params, state, params)


def test_the_count_of_the_stock_optimiser_is_found_by_its_name():
    """There are two counts, as under a schedule in Optax: `filtering=` says which."""
    params = {"w": jnp.ones(3)}
    state = lgv.adam(1e-2, SIGMA, 0).init(params)
    with pytest.raises(KeyError):
        optax.tree.get(optax.adam(optax.constant_schedule(1e-2)).init(params), "count")
    of_adam = lambda path, value: path[-1].tuple_name == "ScaleByAdamState"
    assert optax.tree.get(state, "count", filtering=of_adam) is state[0].count
    later = optax.tree.set(state, count=jnp.int32(7))  # both: the noise goes on where the optimiser does
    assert int(later[0].count) == int(later[-1].count) == 7


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("x64", by_default(["True"], [False, True]))
def test_integer_hyperparameters_warn_of_nothing(x64):
    params = {"w": jnp.ones(3)}
    with jax.enable_x64(x64):
        for tx in (
            lgv.sgd(1, 2, 0, max_noise=1),
            lgv.adam(1, jnp.int32(2), 0),
            lgv.langevin(optax.lamb, 1, 0)(1),
            lgv.sgd(lambda count: count, lambda count: 2 * count, 0),
            lgv.add_langevin_noise(1, 2, 0),
            lgv.overdamped_langevin(1, 2, 0),
            lgv.baoab(1, 2, 1, 0),
            lgv.adaptive_langevin(1, 20, 1, jnp.int32(0), 0, initial_thermostat=1),
        ):
            updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
            assert updates["w"].dtype == jnp.float32 and np.all(np.isfinite(updates["w"]))
