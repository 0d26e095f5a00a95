"""`from_optax` and `to_optax`: Adam until half-time, then Langevin, then Adam again, and nothing jumps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import langevin_optax as lgv
from langevin_optax.sampling._exchange import from_optax, to_optax
from langevin_optax.sampling._metrics import with_metrics
from tests.cases import ALIASES, EPS, OPTIMIZERS, bits, by_default, gradients_like, params_like, run

pytestmark = pytest.mark.filterwarnings("ignore:`optimistic_adam` is deprecated")
GAMMA, SIGMA = 1e-2, 0.1
ROWS = [*OPTIMIZERS, *ALIASES]


def adam(sigma=SIGMA, gamma=GAMMA, key=0, **kwargs):
    return lgv.adam(gamma, sigma, key, eps=1e-8, **kwargs)


def carried(row, state, tx, params, count=3):
    return from_optax(state, tx, params, count=count, eps=EPS.get(row.name))


# There and back.


@pytest.mark.slow
@pytest.mark.parametrize("row", by_default(["adam", "rmsprop-momentum"], ROWS))
def test_without_noise_the_run_is_the_stock_run(row):
    """Bit for bit, parameters and states: optimiser until a third, Langevin until two thirds, optimiser again."""
    stock, quiet = row.stock(), row.quiet()
    first, state = run(stock, params_like(row=row), 3)
    second, langevin = run(quiet, first, 3, carried(row, state, quiet, first))
    third, back = run(stock, second, 3, to_optax(langevin))
    params, state = params_like(row=row), None
    for _ in range(3):
        params, state = run(stock, params, 3, state)
    assert bits((third, back)) == bits((params, state))


@pytest.mark.parametrize("row", by_default(["adam", "sgd", "prodigy-estim_lr0", "adafactor"], ROWS))
def test_structures_and_numbers_survive_the_exchange(row):
    schedules = [1e-2, optax.linear_schedule(1e-2, 0.0, 20)][: 1 + getattr(row, "schedules", True)]
    for gamma in schedules:
        params, stock, tx = params_like(row=row), row.stock(gamma), row.langevin(gamma)
        state = stock.init(params)
        there = carried(row, state, tx, params, count=0)
        assert jax.tree.structure(there) == jax.tree.structure(tx.init(params))
        back = to_optax(there)
        assert jax.tree.structure(back) == jax.tree.structure(state)
        assert bits(back) == bits(state)


def test_the_first_step_is_the_stock_step_and_noise():
    """σ√(γP)ξ with P from the moments of the stock run, and the ξ of the step that comes next."""
    stock, tx = optax.adam(GAMMA), adam(key=5)
    params, stock_state = run(stock, params_like(), 7)
    (gradient,) = gradients_like(params, 1)
    quiet, after = stock.update(gradient, stock_state, params)
    noisy, state = tx.update(gradient, from_optax(stock_state, tx, params), params)
    assert bits(state[:-1]) == bits(after)
    assert int(state[-1].count) == int(after[0].count) == 8

    def consistent(count, moments):
        xi = lgv.noise_like(5, count, params)

        def at_leaf(u, v, nu, xi):
            p = 1 / (np.sqrt(np.asarray(nu, np.float64) / (1 - 0.999**8)) + 1e-8)
            return np.allclose(u - v, SIGMA * np.sqrt(GAMMA * p) * xi, rtol=1e-4, atol=1e-5)

        return jax.tree.all(jax.tree.map(at_leaf, noisy, quiet, moments, xi))

    assert consistent(7, after[0].nu)
    assert not consistent(0, after[0].nu)  # a count that begins anew
    assert not consistent(7, stock.update(gradient, stock.init(params))[1][0].nu)  # moments that begin anew


def test_back_without_a_jump():
    """After steps with noise the stock step has the moments, and no noise."""
    stock, tx = optax.adam(GAMMA), adam()
    params, state = run(tx, params_like(), 5)
    (gradient,) = gradients_like(params, 1)
    updates, after = stock.update(gradient, to_optax(state), params)
    expected, quiet = adam(0.0).update(gradient, state, params)
    assert bits((updates, after)) == bits((expected, quiet[:-1]))


# However it is wrapped.

NOISE = lgv.add_preconditioned_noise(GAMMA, SIGMA, 0)
WRAPPED = {
    "chain": (
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(GAMMA)),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), adam()),
    ),
    "links": (
        lambda: optax.adam(GAMMA),
        lambda: optax.chain(lgv.scale_by_adam(), NOISE, optax.scale_by_learning_rate(GAMMA)),
    ),
    "masked link": (
        lambda: optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(GAMMA)),
        lambda: optax.chain(
            lgv.scale_by_adam(),
            optax.masked(NOISE, lgv.layer_mask("Dense_0")),
            optax.scale_by_learning_rate(GAMMA),
        ),
    ),
    "localised": (
        lambda: optax.chain(optax.scale_by_adam(), optax.scale(-GAMMA)),
        lambda: optax.chain(lgv.scale_by_adam(), lgv.add_localization(1.0), NOISE, optax.scale(-GAMMA)),
    ),
    "MultiSteps": (lambda: optax.MultiSteps(optax.adam(GAMMA), 2), lambda: optax.MultiSteps(adam(), 2)),
    "apply_if_finite": (
        lambda: optax.apply_if_finite(optax.adam(GAMMA), 2),
        lambda: optax.apply_if_finite(adam(), 2),
    ),
    "masked": (
        lambda: optax.masked(optax.adam(GAMMA), {"Dense_0": True, "Dense_1": True, "scale": False}),
        lambda: optax.masked(adam(), {"Dense_0": True, "Dense_1": True, "scale": False}),
    ),
    "partition": (
        lambda: optax.partition({"a": optax.adam(GAMMA), "b": optax.sgd(GAMMA)}, LABELS),
        lambda: optax.partition({"a": adam(), "b": optax.sgd(GAMMA)}, LABELS),
    ),
    "named": (
        lambda: optax.named_chain(("z", optax.clip(1.0)), ("a", optax.adam(GAMMA))),
        lambda: optax.named_chain(("z", optax.clip(1.0)), ("a", adam())),
    ),
    "schedule": (
        lambda: optax.adam(optax.constant_schedule(GAMMA)),
        lambda: adam(gamma=optax.constant_schedule(GAMMA)),
    ),
    "metrics": (lambda: optax.adam(GAMMA), lambda: with_metrics(adam())),
}
LABELS = {"Dense_0": "a", "Dense_1": "a", "scale": "b"}


@pytest.mark.slow
@pytest.mark.parametrize("name", by_default(["links", "MultiSteps", "localised"], WRAPPED))
def test_wrappers(name):
    """The moments are those of the stock run, the noise goes on at its count, and the way back leaves no trace."""
    stock, tx = (make() for make in WRAPPED[name])
    params, state = run(stock, params_like(), 4)
    there = from_optax(state, tx, params)
    assert jax.tree.structure(there) == jax.tree.structure(tx.init(params))
    steps = 2 if name == "MultiSteps" else 4
    counts = [int(node.count) for node in jax.tree.leaves(there, is_leaf=is_noise) if is_noise(node)]
    assert counts == [steps]
    back = to_optax(there)
    assert bits(back) == bits(state)
    nested = name in ("links", "masked link", "metrics")
    assert nested or jax.tree.structure(back) == jax.tree.structure(state)
    moved, _ = run(tx, params, 2, there)
    assert bits(moved) != bits(run(stock, params, 2, state)[0])


def is_noise(node):
    return isinstance(node, lgv.LangevinState)


def test_a_constant_learning_rate_before_and_a_schedule_after():
    params, state = run(optax.adam(GAMMA), params_like(), 4)
    tx = adam(gamma=optax.linear_schedule(GAMMA, 0.0, 10))
    there = from_optax(state, tx, params)
    assert int(there[1].count) == 4
    constant = from_optax(to_optax(there), adam(), params)
    assert bits(constant[0]) == bits(state[0])
    assert not jax.tree.leaves(constant[1])


def test_injected_hyperparameters_are_those_of_the_stock_state():
    params = params_like()
    stock = optax.inject_hyperparams(optax.adam)(GAMMA, eps=1e-4)
    _, state = run(stock, params, 4)
    state = optax.tree.set(state, learning_rate=jnp.float32(0.5))
    tx = optax.inject_hyperparams(lgv.adam)(GAMMA, SIGMA, 3)
    there = from_optax(state, tx, params)
    assert jax.tree.structure(there) == jax.tree.structure(tx.init(params))
    values = {name: float(there.hyperparams[name]) for name in ("learning_rate", "sigma", "key", "eps")}
    assert values == pytest.approx({"learning_rate": 0.5, "sigma": SIGMA, "key": 3, "eps": 1e-4})
    assert int(there.inner_state[-1].count) == int(there.count) == 4
    assert bits(to_optax(there)) == bits(state)
    assert jax.tree.structure(to_optax(there)) == jax.tree.structure(state)


def test_a_train_state_goes_over():
    params = params_like()
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(GAMMA))
    step = jax.jit(lambda s: s.apply_gradients(grads=s.params))
    state, tx = step(state), adam()
    noisy = step(state.replace(tx=tx, opt_state=from_optax(state.opt_state, tx, state.params)))
    assert int(noisy.opt_state[-1].count) == 2
    assert bits(noisy.opt_state[:-1]) == bits(step(state).opt_state)
    assert bits(noisy.params) != bits(step(state).params)
    back = noisy.replace(tx=state.tx, opt_state=to_optax(noisy.opt_state))
    assert int(step(back).opt_state[0].count) == 3


def test_an_nnx_optimizer_goes_over():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    gradients = lambda: nnx.state(model, nnx.Param)
    old = nnx.Optimizer(model, optax.adam(GAMMA), wrt=nnx.Param)
    old.update(model, gradients())
    tx = adam()
    new = nnx.Optimizer(model, tx, wrt=nnx.Param)
    state = from_optax(old.opt_state, tx, nnx.state(model, nnx.Param))
    nnx.update(new.opt_state, nnx.state(state))
    assert bits(nnx.as_pure(new.opt_state)[:-1]) == bits(nnx.as_pure(old.opt_state))
    new.update(model, gradients())
    assert int(new.opt_state[-1].count[...]) == 2
    back = nnx.Optimizer(model, optax.adam(GAMMA), wrt=nnx.Param)
    nnx.update(back.opt_state, nnx.state(to_optax(new.opt_state)))
    assert bits(nnx.as_pure(back.opt_state)) == bits(nnx.as_pure(new.opt_state)[:-1])


@pytest.mark.slow
def test_a_checkpoint_of_plain_optax_goes_on(tmp_path):
    stock, tx = optax.adam(GAMMA), adam()
    params, state = run(stock, params_like(), 3)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "stock", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "stock", jax.eval_shape(stock.init, params))
        bare = checkpointer.restore(tmp_path / "stock")
    expected = run(tx, params, 3, from_optax(state, tx, params))
    assert bits(run(tx, params, 3, from_optax(restored, tx, params))) == bits(expected)
    with pytest.raises(ValueError, match="or restored without its structure"):
        from_optax(bare, tx, params)


def test_traced_and_donated():
    """No two leaves of the new state share a buffer, and the exchange is a program like any other."""
    stock, tx, params = optax.adam(GAMMA), adam(gamma=optax.constant_schedule(GAMMA)), params_like()
    state = stock.init(params)
    there = from_optax(state, tx, params)
    assert bits(jax.jit(lambda s, p: from_optax(s, tx, p))(state, params)) == bits(there)
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(there) if x.dtype == jnp.int32]
    assert len(set(pointers)) == len(pointers) == 3
    jax.jit(tx.update, donate_argnums=1)(params, there, params)


# What is said.


def test_another_eps_is_a_warning():
    """The defaults here are larger than Optax's, for some: an update of small gradients would fall 91 times."""
    params = params_like()
    state = optax.adam(GAMMA).init(params)
    tx = lgv.adam(GAMMA, SIGMA, 0)
    said = r"adam goes on with eps=1e-06, the stock optimiser had 1e-08 by default: .*Give tx eps=1e-08"
    for wrapped in (tx, optax.chain(optax.clip(1.0), with_metrics(tx))):
        with pytest.warns(UserWarning, match=said):
            from_optax(state, wrapped, params)
    for wrapper in (lambda t: optax.MultiSteps(t, 2), lambda t: optax.MultiSteps(t, 2).gradient_transformation()):
        with pytest.warns(UserWarning, match=said):
            from_optax(optax.MultiSteps(optax.adam(GAMMA), 2).init(params), wrapper(tx), params)
    with pytest.warns(UserWarning, match=r"eps=1e-08, the stock optimiser had 0\.001: .*"):
        from_optax(state, adam(), params, eps=1e-3)
    # None where it is the same, by the user's word or by default.
    from_optax(state, tx, params, eps=1e-6)
    from_optax(state, lgv.langevin(optax.adam, SIGMA, 0)(GAMMA), params)
    from_optax(optax.adagrad(GAMMA).init(params), lgv.adagrad(GAMMA, SIGMA, 0), params, count=0)


def test_no_count_and_several():
    params = params_like()
    tx = lgv.sgd(GAMMA, SIGMA, 0)
    with pytest.warns(UserWarning, match="found no count"):
        assert int(from_optax(optax.sgd(GAMMA).init(params), tx, params)[-1].count) == 0
    assert int(from_optax(optax.sgd(GAMMA).init(params), tx, params, count=9)[-1].count) == 9
    stock = optax.adam(optax.constant_schedule(GAMMA)).init(params)
    odd = (stock[0]._replace(count=jnp.int32(7)), stock[1])
    with pytest.raises(ValueError, match=r"found the counts \[0, 7\] .*pass count="):
        from_optax(odd, adam(), params)
    assert int(from_optax(odd, adam(), params, count=7)[-1].count) == 7


REFUSED = {
    "other moments": (
        optax.adam(GAMMA),
        lgv.adabelief(GAMMA, SIGMA, 0, eps=1e-16),
        r"ScaleByBeliefState\.count .*Adam",
    ),
    "momentum": (optax.sgd(GAMMA, 0.9), adam(), r"ScaleByAdamState\.count .* got TraceState\.trace\['Dense_0'\]"),
    "too much": (optax.adam(GAMMA), lgv.sgd(GAMMA, SIGMA, 0), r"no more, .* got ScaleByAdamState\.count"),
    "too little": (optax.sgd(GAMMA), adam(), r"ScaleByAdamState\.count .* got no more"),
    "dtype": (optax.adam(GAMMA, mu_dtype=jnp.bfloat16), adam(), r"bias'\] \(float32\[4\]\), .*\(bfloat16\[4\]\)"),
    "unwrapped": (optax.adam(GAMMA), optax.MultiSteps(adam(), 2), r"MultiStepsState\.mini_step .*ScaleByAdam"),
    "matrix": (optax.adam(GAMMA), lgv.soap(GAMMA, SIGMA, 0), r"SoapState\.count"),
    "integrator": (optax.adam(GAMMA), lgv.baoab(0.1, 0.1, 1.0, 0), r"BaoabState\.count"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_state_of_another_optimiser(case):
    stock, tx, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"from_optax expected .*{message}.*another optimiser"):
        from_optax(stock.init(params_like()), tx, params_like())


def test_the_state_of_another_model():
    with pytest.raises(
        ValueError, match=r"expected ScaleByAdamState\.mu\['w'\] .*got ScaleByAdamState\.mu\['Dense_0'\]"
    ):
        from_optax(optax.adam(GAMMA).init(params_like()), adam(), {"w": jnp.ones(3)})


def test_what_optax_has_no_counterpart_of():
    params = params_like()
    frozen = lgv.freeze_preconditioner(lgv.scale_by_adam(), after=10)
    for tx, name in ((lgv.soap(GAMMA, SIGMA, 0), "Soap"), (lgv.baoab(0.1, 0.1, 1.0, 0), "Baoab"), (frozen, "Freeze")):
        with pytest.raises(ValueError, match=f"to_optax cannot do without {name}State"):
            to_optax(tx.init(params))
    with pytest.raises(ValueError, match="found nothing but noise"):
        to_optax(NOISE.init(params))
