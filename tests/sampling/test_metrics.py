"""`with_metrics`: what it says of a step is what the step did, in every wrapper, and the run knows nothing of it.

Expected values come from the updates with and without noise, in NumPy, or from the formula of the noise.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import langevin_optax as lgv
from langevin_optax.sampling._metrics import MetricsState, metrics, with_metrics
from tests.cases import (
    ALIASES,
    COVARIANCES,
    MATRICES,
    OPTIMIZERS,
    bits,
    by_default,
    gradients_like,
    is_key,
    loss,
    params_like,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:`optimistic_adam` is deprecated"),
    pytest.mark.filterwarnings("ignore:prong has no covariances"),
]
GAMMA, SIGMA = 1e-2, 0.1
EXTRA = {"value": 1.0, "obj_fn": loss, "input_covariances": COVARIANCES}
ROWS = {row.id: row for row in (*OPTIMIZERS, *ALIASES, *MATRICES)}
LAYERS = ["Dense_0", "Dense_1", "scale"]


def stepped(tx, steps=2, params=None, **extra):
    """The last update, and the state after it, of a few steps on gradients that are given."""
    params = params_like() if params is None else params
    state, update = tx.init(params), jax.jit(lambda g, s: tx.update(g, s, params, **extra))
    for g in gradients_like(params, steps):
        updates, state = update(g, state)
    return updates, state


def expected(noisy, quiet, layers=LAYERS):
    """RMS of noise and update by their difference, in float64, over these layers."""
    flat = [np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves([t[k] for k in layers])]) for t in
            (noisy, quiet)]  # fmt: skip
    rms = [math.sqrt(np.mean(x**2)) for x in (flat[0] - flat[1], flat[1])]
    return {"noise": rms[0], "update": rms[1], "noise_to_update": rms[0] / rms[1]}


def assert_metrics(found, rtol=1e-3, **values):
    for name, value in values.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=rtol, atol=1e-7, err_msg=name)


# What it says.


@pytest.mark.parametrize("row", by_default(["adam"], list(ROWS.values())))
def test_noise_and_update_are_those_of_the_step(row):
    params = params_like(row=row)
    noisy, state = stepped(with_metrics(row.langevin(GAMMA, SIGMA), 1), params=params, **EXTRA)
    quiet, _ = stepped(row.quiet(), params=params, **EXTRA)
    found = metrics(state)
    assert_metrics(found, **expected(noisy, quiet), sigma=SIGMA, learning_rate=GAMMA, bounded=0.0)
    assert [*found.layers] == LAYERS
    for name in LAYERS:
        assert_metrics(found.layers[name], **expected(noisy, quiet, [name]), sigma=SIGMA, learning_rate=GAMMA)
    # A mean over all coordinates is none of the layers' means: layers of other sizes would be seen.
    wrong = expected(noisy, quiet, LAYERS[:1])["noise_to_update"]
    assert abs(found.noise_to_update / wrong - 1) > 1e-3


def test_units_are_those_of_the_parameters_before_the_learning_rate_too():
    """And what comes behind the noise is not in the update."""
    noise = lgv.add_preconditioned_noise(GAMMA, SIGMA, 0)

    def chain(*links):
        return optax.chain(lgv.scale_by_adam(), *links, optax.scale_by_learning_rate(GAMMA))

    noisy, state = stepped(with_metrics(chain(noise)))
    quiet, _ = stepped(chain())
    assert_metrics(metrics(state), **expected(noisy, quiet), sigma=SIGMA, learning_rate=GAMMA)
    _, decayed = stepped(with_metrics(chain(noise, optax.add_decayed_weights(0.5))))
    assert bits(decayed.measured) == bits(state.measured)


def test_schedules_are_read_at_the_step():
    gamma, sigma = optax.linear_schedule(1.0, 0.0, 10), optax.linear_schedule(0.0, 1.0, 10)
    params = {"w": jnp.zeros(10_000)}
    for steps in (1, 3):
        _, state = stepped(with_metrics(lgv.sgd(gamma, sigma, 0)), steps, params)
        g, s = 1 - (steps - 1) / 10, (steps - 1) / 10
        assert_metrics(metrics(state), 1e-5, sigma=s, learning_rate=g)
        assert_metrics(metrics(state), 5 / math.sqrt(2 * 10_000), noise=s * math.sqrt(g))


@pytest.mark.slow
def test_the_bounded_share():
    """σ√(γP) of SGD after the running mean of squares, coordinate by coordinate."""
    params, limit = {"w": jnp.zeros(1000)}, 0.015
    tx = with_metrics(lgv.rmsprop(GAMMA, SIGMA, 0, decay=0.0, eps=0.0, max_noise=limit))
    gradient = {"w": jax.random.normal(jax.random.key(3), (1000,))}
    updates, state = tx.update(gradient, tx.init(params), params)
    size = SIGMA * np.sqrt(GAMMA / np.abs(np.asarray(gradient["w"], np.float64)))
    share = np.mean(size > limit)
    assert 0.1 < share < 0.9
    assert_metrics(metrics(state), 1e-6, bounded=share)
    noise = np.asarray(updates["w"]) + GAMMA * np.sign(gradient["w"])
    assert_metrics(metrics(state), noise=math.sqrt(np.mean(noise**2)))


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.0, optax.constant_schedule(0.0)], ids=["static", "schedule"])
def test_without_noise(sigma):
    tx = lgv.adam(GAMMA, sigma, 0)
    updates, state = stepped(with_metrics(tx))
    assert bits(updates) == bits(stepped(tx)[0])
    rms = expected(updates, updates)["update"]
    assert_metrics(metrics(state), noise=0.0, noise_to_update=0.0, update=rms, sigma=0.0, learning_rate=GAMMA)


def test_before_the_first_step_and_without_an_update():
    tx, params = with_metrics(lgv.sgd(GAMMA, SIGMA, 0), ["w"]), {"w": jnp.ones(3)}
    assert not any(np.any(x) for x in jax.tree.leaves(metrics(tx.init(params))))
    _, state = tx.update({"w": jnp.zeros(3)}, tx.init(params), params)
    assert metrics(state).noise_to_update == np.inf  # as a frozen layer that walks is seen
    empty = tx.update({}, with_metrics(lgv.sgd(GAMMA, SIGMA, 0)).init({}), {})
    assert metrics(empty[1]).noise == 0


# Layers.


@pytest.mark.slow
def test_layers_without_noise_are_0_and_do_not_count():
    mask = lgv.layer_mask("Dense_0")
    noisy, state = stepped(with_metrics(lgv.adam(GAMMA, SIGMA, 0, mask=mask), ["Dense_0", "Dense_1", "scale"]))
    quiet, _ = stepped(lgv.adam(GAMMA, 0.0, 0))
    assert_metrics(metrics(state), **expected(noisy, quiet, ["Dense_0"]))
    assert not any(np.any(x) for x in jax.tree.leaves(metrics(state).layers["Dense_1"]))
    # Of a leaf that holds several layers only those that are selected.
    params = {"blocks": {"w": jnp.zeros((4, 1000))}, "head": {"w": jnp.zeros(1000)}}
    tx = lgv.sgd(GAMMA, SIGMA, 0, mask=lgv.layer_mask(r"blocks/[01]", scanned={"blocks": 0}))
    noisy, state = stepped(with_metrics(tx), params=params)
    quiet, _ = stepped(lgv.sgd(GAMMA, 0.0, 0), params=params)
    halves = [{"w": updates["blocks"]["w"][:2]} for updates in (noisy, quiet)]
    assert_metrics(metrics(state), **expected(*halves, ["w"]), sigma=SIGMA)
    assert float(state.measured[0]["all"][0]) == 2000


def test_layers_by_path_and_by_depth():
    params = {"params": {"enc": {"a": {"w": jnp.ones(2)}, "b": {"w": jnp.ones(3)}}, "head": {"w": jnp.ones(4)}}}
    tx = lgv.sgd(GAMMA, SIGMA, 0)
    names = {}
    for layers in (1, 2, ["enc/a", "enc/b", "head"], ["enc", "head"]):
        names[str(layers)] = [*with_metrics(tx, layers).init(params).measured[0]]
    assert names["1"] == names["['enc', 'head']"] == ["enc", "head"]
    assert names["2"] == ["enc/a", "enc/b", "head/w"]
    assert names["['enc/a', 'enc/b', 'head']"] == ["enc/a", "enc/b", "head"]
    _, state = stepped(with_metrics(tx, ["enc", "head"]), 1, params)
    assert [float(sums[0]) for sums in state.measured[0].values()] == [5, 4]


# The run knows nothing of it.


def assert_alike(tx, steps=4):
    """The same steps, up to the last bit, which XLA rounds as it fuses; returns the metered state."""
    (updates, state), (plain, inner) = stepped(with_metrics(tx, 1), steps), stepped(tx, steps)
    assert_close(updates, plain)
    assert_close(state.inner, inner)
    assert jax.tree.structure(state.inner) == jax.tree.structure(inner)
    return state


def assert_close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if is_key(a) or jnp.issubdtype(a.dtype, jnp.integer):
            assert bits(a) == bits(b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


SPLIT = {"Dense_0": "first", "Dense_1": "rest", "scale": "rest"}
WRAPPED = {
    "alone": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "named": lambda tx: optax.named_chain(("clip", optax.clip(1.0)), ("noisy", tx)),
    "masked": lambda tx: optax.masked(tx, {"Dense_0": True, "Dense_1": False, "scale": True}),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, lambda step: step % 2 == 0),
    "jit": lambda tx: optax.GradientTransformation(tx.init, jax.jit(tx.update)),
    "inject": lambda tx: optax.inject_hyperparams(lambda sigma: lgv.adam(GAMMA, sigma, 0))(sigma=SIGMA),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", by_default(["masked", "MultiSteps", "jit"], WRAPPED))
def test_within_it_and_around_it(name):
    """The wrapper within `with_metrics` and around it say the same."""
    tx, wrap = lgv.adam(GAMMA, SIGMA, 0), WRAPPED[name]
    within = metrics(assert_alike(wrap(tx)))
    if name != "inject":
        around = metrics(stepped(wrap(with_metrics(tx, 1)), 4)[1])
        assert_close(within._replace(layers={}), around._replace(layers={}))
    assert float(within.sigma) == pytest.approx(SIGMA)


def test_several_noises():
    """Each part of a partition has its own σ; that of both is the mean over the coordinates."""
    parts = {"first": lgv.adam(GAMMA, SIGMA, 0), "rest": lgv.sgd(GAMMA, 3 * SIGMA, 0)}
    found = metrics(assert_alike(optax.partition(parts, SPLIT)))
    assert_metrics(found.layers["Dense_0"], 1e-5, sigma=SIGMA)
    assert_metrics(found.layers["Dense_1"], 1e-5, sigma=3 * SIGMA)
    assert_metrics(found, 1e-5, sigma=(16 * SIGMA + 13 * 3 * SIGMA) / 29)


def test_steps_that_are_skipped_leave_the_metrics_of_the_last_one():
    params = {"w": jnp.ones(3)}
    tx = with_metrics(optax.MultiSteps(optax.apply_if_finite(lgv.adam(GAMMA, SIGMA, 0), 3), 2))
    update, states = jax.jit(tx.update), [tx.init(params)]
    for factor in (1.0, 1.0, jnp.nan, 1.0):
        states.append(update({"w": jnp.full(3, factor)}, states[-1])[1])
    assert [bool(metrics(state).noise > 0) for state in states] == [False, False, True, True, True]
    assert bits(states[2].measured) == bits(states[3].measured) == bits(states[4].measured)


def test_the_noise_is_drawn_once():
    """The program has the random words of the plain one and no more, and the state a few numbers."""

    def words(tx):
        params = {"w": jnp.zeros(100), "v": jnp.zeros((3, 7))}
        state = tx.init(params)
        text = str(jax.make_jaxpr(tx.update)(params, state, params))
        return {name: text.count(f" {name}") for name in ("erf_inv", "log1p", "shift_left", "shift_right_logical")}

    tx = lgv.adam(GAMMA, SIGMA, 0)
    drawn = words(tx)
    assert drawn["shift_right_logical"] > 0
    assert words(with_metrics(tx, 1)) == drawn
    assert words(optax.chain(tx, lgv.add_langevin_noise(GAMMA, SIGMA, 1))) != drawn  # twice is seen
    measured = with_metrics(tx, 1).init(params_like()).measured
    assert [x.shape for x in jax.tree.leaves(measured)] == [(6,)] * 3


def test_the_state_within_goes_on_as_that_of_the_optimiser_and_back():
    """Bit for bit, where no compiler fuses."""
    params, tx = params_like(), lgv.adam(GAMMA, SIGMA, 0)
    metered = with_metrics(tx)
    gradients = gradients_like(params, 4)
    state, plain = metered.init(params), tx.init(params)
    for g in gradients:
        updates, plain = tx.update(g, plain, params)
    for g in gradients[:2]:
        _, state = metered.update(g, state, params)
    _, inner = tx.update(gradients[2], state.inner, params)  # a step without
    last, state = metered.update(gradients[3], state._replace(inner=inner), params)
    assert bits((last, state.inner)) == bits((updates, plain))


def test_chains_under_vmap_and_scan():
    params, tx = {"w": jnp.ones((3, 1000))}, with_metrics(lgv.sgd(GAMMA, SIGMA, 0))
    states = jax.vmap(lambda p, i: lgv.fold_in(tx.init(p), i))(params, jnp.arange(3))

    def step(states, _):
        _, states = jax.vmap(lambda s, p: tx.update(p, s, p))(states, params)
        return states, jax.vmap(metrics)(states).noise

    _, noise = jax.lax.scan(step, states, length=4)
    assert noise.shape == (4, 3)
    assert len(set(noise.ravel().tolist())) == 12
    np.testing.assert_allclose(noise, SIGMA * math.sqrt(GAMMA), rtol=5 / math.sqrt(2 * 1000))


def test_in_flax():
    params = params_like()
    state = TrainState.create(apply_fn=None, params=params, tx=with_metrics(lgv.adam(GAMMA, SIGMA, 0)))
    state = jax.jit(lambda s: s.apply_gradients(grads=s.params))(state)
    assert_metrics(metrics(state), 1e-6, sigma=SIGMA)
    model = nnx.Linear(30, 30, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, with_metrics(lgv.sgd(GAMMA, SIGMA, 0), 1), wrt=nnx.Param)
    nnx.jit(lambda model, optimizer: optimizer.update(model, nnx.state(model, nnx.Param)))(model, optimizer)
    found = metrics(optimizer.opt_state)
    assert [*found.layers] == ["bias", "kernel"]
    assert_metrics(found, 0.2, noise=SIGMA * math.sqrt(GAMMA), sigma=SIGMA)


@pytest.mark.parametrize("dtype", by_default(["bfloat16"], ["bfloat16", "float64", "complex64"]))
def test_dtypes(dtype):
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        params = {"w": jnp.ones(1000, dtype)}
        tx = with_metrics(lgv.sgd(GAMMA, SIGMA, 0, max_noise=1.0))
        state = tx.init(params)
        updates, after = jax.jit(lambda g, s: jax.lax.cond(True, tx.update, lambda g, s: (g, s), g, s))(params, state)
        assert updates["w"].dtype == dtype
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
        assert_metrics(metrics(after), 5 / math.sqrt(2000), noise=SIGMA * math.sqrt(GAMMA), update=GAMMA)
        quiet = with_metrics(lgv.sgd(GAMMA, 0.0, 0))
        assert_metrics(metrics(quiet.update(params, quiet.init(params))[1]), 1e-2, noise=0.0, update=GAMMA)


def test_more_coordinates_than_an_int32_counts():
    leaf = {"w": jax.ShapeDtypeStruct((2**16, 2**16), jnp.bfloat16)}
    tx = with_metrics(lgv.adam(GAMMA, SIGMA, 0))
    state = jax.eval_shape(tx.init, leaf)
    assert jax.eval_shape(tx.update, leaf, state)[1].measured == state.measured


def test_donated_states():
    tx, params = (
        with_metrics(optax.partition({k: lgv.adam(GAMMA, SIGMA, 0) for k in ("first", "rest")}, SPLIT), 1),
        (params_like()),
    )
    state = jax.jit(tx.update, donate_argnums=1)(params, tx.init(params), params)[1]
    assert metrics(state).noise > 0


@pytest.mark.slow
def test_over_devices():
    """Metrics are those of the whole leaf, sharded by the compiler or by hand, with noise of its own for each shard."""
    x = jax.random.normal(jax.random.key(4), (64, 64))
    tx = with_metrics(lgv.sgd(GAMMA, SIGMA, 0, max_noise=1.0))
    alone = metrics(tx.update(x, tx.init(x))[1])
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
            found = metrics(jax.jit(tx.update)(sharded, tx.init(sharded))[1])
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def local(x):
        updates, state = tx.update(x, tx.init(x))
        return updates, metrics(state)

    updates, found = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=(P("data"), P())))(x)
    assert_metrics(found, 1e-4, **expected({"w": updates}, {"w": -GAMMA * x}, ["w"]), sigma=SIGMA, bounded=0.0)


# Bad input.


def test_what_has_no_noise_or_cannot_be_measured():
    params = params_like()
    for tx in (optax.adam(1e-3), lgv.baoab(0.1, 0.1, 1.0, 0)):
        with pytest.raises(ValueError, match=r"found no noise .*kinetic_temperature"):
            with_metrics(tx).init(params)
    euler = lgv.overdamped_langevin(0.1, 0.1, 0)
    for tx in (euler, optax.MultiSteps(euler, 2), optax.chain(euler, lgv.add_langevin_noise(0.1, 0.1, 0))):
        with pytest.raises(ValueError, match=r"not that of overdamped_langevin, .*sgd\(step_size"):
            stepped(with_metrics(tx))


def test_what_tx_has_to_say_is_said():
    params = params_like()
    tx = lgv.langevin(optax.polyak_sgd, SIGMA, 0)()
    for t in (tx, with_metrics(tx)):
        with pytest.raises(TypeError, match="value"):
            t.update(params, t.init(params), params)
    tx = lgv.adam(GAMMA, SIGMA, 0)
    other = with_metrics(tx).init(params)._replace(inner=lgv.sgd(GAMMA, SIGMA, 0).init(params))
    with pytest.raises(ValueError, match=r"state of adam must be .*, got \(EmptyState, EmptyState, LangevinState\)"):
        with_metrics(tx).update(params, other, params)


def test_states_of_another_kind():
    params, tx = params_like(), lgv.adam(GAMMA, SIGMA, 0)
    with pytest.raises(ValueError, match=r"needs a state of its own, got tuple\. .*_replace\(inner=state\)"):
        with_metrics(tx).update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="needs one state of with_metrics, found 0"):
        metrics(tx.init(params))
    state = with_metrics(tx).init(params)
    assert isinstance(state, MetricsState)
    with pytest.raises(ValueError, match="found 2"):
        metrics((state, state))


@pytest.mark.parametrize("layers", ["Dense_0", 0, -1, True, 1.0, [1], {"Dense_0"}])
def test_layers_of_another_kind(layers):
    with pytest.raises(TypeError, match="layers must be the paths of the layers, or how many names"):
        with_metrics(lgv.adam(GAMMA, SIGMA, 0), layers)


def test_layers_that_do_not_hold_the_parameters():
    with pytest.raises(ValueError, match="belongs to none of the layers"):
        with_metrics(lgv.adam(GAMMA, SIGMA, 0), ["Dense_0"]).init(params_like())
    params = params_like()
    tx = with_metrics(optax.flatten(lgv.adam(GAMMA, SIGMA, 0)), 1)
    with pytest.raises(ValueError, match=r"layers \['Dense_0', 'Dense_1', 'scale'\], the updates \[''\]"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(TypeError, match=r"tx must be an optax\.GradientTransformation"):
        with_metrics(lgv.adam)
