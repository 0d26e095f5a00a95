"""The right P for every scaler, and the mark that carries it: right pairings, an error otherwise, no traces left."""

import gc
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from langevin_optax.preconditioners import _marks
from langevin_optax.preconditioners._marks import read
from tests.cases import SCALERS, bits, by_default, gradients_like, params_like

GAMMA, SIGMA = 0.1, 0.01
# One of each formula of P; all with -m slow.
FEW = [
    *("scale_by_adam-eps", "scale_by_belief-eps-eps_root-nesterov", "scale_by_rms-eps"),
    *("scale_by_stddev-eps-eps_in_sqrt-bias_correction", "scale_by_rss", "scale_by_adadelta"),
]


def published(updates):
    p = jax.tree.map(read, updates)
    assert jax.tree.structure(p) == jax.tree.structure(updates), "a leaf has no mark"
    return p


def play(transform, gradients, params):
    """The last update of a sequence of gradients, step by step without jit."""
    state = transform.init(params)
    for g in gradients:
        updates, state = transform.update(g, state, params)
    return updates, state


@pytest.mark.parametrize("scaler", by_default([*FEW, "scale_by_adamax-eps", "scale_by_radam-eps"], SCALERS))
@pytest.mark.parametrize(
    "steps", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 10]
)
def test_stock_update_is_p_times_the_momentum(scaler, steps):
    params = params_like()
    gradients = gradients_like(params, steps)
    ours, our_state = play(scaler.make(), gradients, params)
    stock, stock_state = play(scaler.stock(), gradients, params)
    assert bits(ours) == bits(stock)
    assert bits(our_state) == bits(stock_state)
    assert jax.tree.structure(our_state) == jax.tree.structure(stock_state)
    for u, p, *gs in zip(*map(jax.tree.leaves, (stock, published(ours), *gradients)), strict=True):
        momentum = scaler.momentum([np.asarray(g, np.float64) for g in gs])
        np.testing.assert_allclose(np.asarray(p) * momentum, np.asarray(u), rtol=2e-4, atol=1e-6 * np.abs(u).max())


@pytest.mark.parametrize("scaler", SCALERS, ids=lambda s: s.id)
def test_p_of_a_coordinate_without_gradient(scaler):
    params = {"w": jnp.zeros(3)}
    updates, _ = play(scaler.make(), [params] * 3, params)
    np.testing.assert_allclose(np.broadcast_to(published(updates)["w"], 3), scaler.dead, rtol=1e-3)


@pytest.mark.parametrize("scaler", by_default(FEW, SCALERS))
@pytest.mark.parametrize(
    "dtype",
    ["bfloat16", "complex64", *(pytest.param(d, marks=pytest.mark.slow) for d in ("float16", "float32", "float64"))],
)
def test_p_is_real_and_float32_at_least(scaler, dtype):
    with jax.enable_x64(dtype == "float64"):
        params = {"w": jnp.full((3,), 0.5, dtype)}
        if dtype == "complex64" and scaler.name == "scale_by_adadelta":
            with pytest.raises(TypeError, match="no real preconditioner for complex leaves"):
                play(scaler.make(), [params], params)
            return
        p = published(play(scaler.make(), [params] * 2, params)[0])["w"]
        assert jnp.result_type(p) in (jnp.float64, jnp.float32)
        if not isinstance(p, float):
            assert p.dtype == (jnp.float64 if dtype == "float64" else jnp.float32)
        if scaler.name != "scale_by_stddev":  # its ν − μ² is rounding error for a constant gradient, in Optax too
            assert np.all(np.isfinite(p))
            assert np.all(np.asarray(p) >= 0)


def test_weight_decay_before_the_scaler_enters_p_and_after_it_does_not():
    params = params_like()
    (g,) = gradients_like(params, 1)
    decay = optax.add_decayed_weights(0.5, mask=jax.tree.map(lambda p: p.ndim > 1, params))
    updates, _ = play(optax.chain(decay, lgv.scale_by_rms(eps=1e-6)), [g], params)
    decayed = g["Dense_0"]["kernel"] + 0.5 * params["Dense_0"]["kernel"]
    np.testing.assert_allclose(published(updates)["Dense_0"]["kernel"], 1 / np.sqrt(0.1 * decayed**2 + 1e-6), rtol=1e-5)
    plain = g["Dense_0"]["bias"]
    np.testing.assert_allclose(published(updates)["Dense_0"]["bias"], 1 / np.sqrt(0.1 * plain**2 + 1e-6), rtol=1e-5)


def test_preconditioners_in_a_row_multiply():
    params = params_like()
    (g,) = gradients_like(params, 1)
    rms, _ = play(lgv.scale_by_rms(eps=1e-6), [g], params)
    for after in (lgv.trace(0.9), lgv.identity(), optax.identity()):
        both, _ = play(optax.chain(lgv.scale_by_rms(eps=1e-6), after), [g], params)
        chex.assert_trees_all_equal(published(both), published(rms))
    half = lgv.with_preconditioner(optax.scale(0.5), lambda u, old, new: jax.tree.map(lambda _: 0.5, u))
    both, _ = play(optax.chain(lgv.scale_by_rms(eps=1e-6), half), [g], params)
    chex.assert_trees_all_close(published(both), jax.tree.map(lambda p: p / 2, published(rms)))


def noisy(*links, **kwargs):
    return optax.chain(*links, lgv.add_preconditioned_noise(GAMMA, SIGMA, 0, **kwargs))


def increments(tx, params, g):
    """The noise that ``tx`` adds, as the difference to what it does with no sigma."""
    return jax.jit(tx.update)(g, tx.init(params), params)[0]


CHANGING = {
    "scale": optax.scale(1.0),
    "learning_rate": optax.scale_by_learning_rate(GAMMA),
    "clip": optax.clip(1e9),
    "clip_norm": optax.clip_by_global_norm(1e9),
    "decay": optax.add_decayed_weights(1e-9),
    "projection": optax.keep_params_nonnegative(),
    "cast": optax.stateless_with_tree_map(lambda u, p: u.astype(jnp.float16).astype(jnp.float32)),
    "langevin": lgv.add_langevin_noise(GAMMA, SIGMA, 1),
    "noise": lgv.add_preconditioned_noise(GAMMA, SIGMA, 1),
    "jit": optax.stateless(lambda u, p: jax.jit(lambda x: x)(u)),
    "jit2": optax.stateless(lambda u, p: jax.jit(lambda x: jax.tree.map(lambda leaf: 2 * leaf, x))(u)),
}


@pytest.mark.parametrize("between", by_default(["learning_rate", "clip_norm", "decay", "noise", "jit"], CHANGING))
@pytest.mark.parametrize("jit", [False, True])
def test_a_link_in_between_that_changes_the_update_raises(between, jit):
    params = params_like()
    tx = noisy(lgv.scale_by_adam(), CHANGING[between])
    update = jax.jit(tx.update) if jit else tx.update
    with pytest.raises(ValueError, match=r"no preconditioner on the updates .*Dense_0.*langevin_optax\.scale_by_adam"):
        update(params, tx.init(params), params)


@pytest.mark.parametrize(
    "between",
    [
        optax.identity(),
        optax.add_decayed_weights(0.0),
        optax.masked(optax.scale(2.0), jax.tree.map(lambda p: False, params_like())),
    ],
    ids=["identity", "no_decay", "masked_out"],
)
def test_a_link_in_between_that_hands_the_update_on_keeps_p(between):
    params = params_like()
    (g,) = gradients_like(params, 1)
    chex.assert_trees_all_equal(
        increments(noisy(lgv.scale_by_adam(), between), params, g), increments(noisy(lgv.scale_by_adam()), params, g)
    )


@pytest.mark.parametrize(
    "links",
    [
        (lgv.scale_by_rms(), optax.clip_by_global_norm(1e9), lgv.trace(0.9)),
        (lgv.scale_by_adam(), optax.scale(1.0), lgv.identity()),
        (lgv.trace(0.9),),
        (lgv.identity(),),
    ],
    ids=["clip trace", "scale identity", "trace", "identity"],
)
@pytest.mark.parametrize("jit", [False, True])
def test_links_that_hand_on_start_no_mark(links, jit):
    params = params_like()
    tx = noisy(*links)
    update = jax.jit(tx.update) if jit else tx.update
    with pytest.raises(ValueError, match=r"no preconditioner on the updates .* use add_langevin_noise"):
        update(params, tx.init(params), params)


@pytest.mark.parametrize("jit", [False, True])
def test_momentum_behind_a_scaler_keeps_its_p(jit):
    """θ moves by P g + β P' g' + …, and the noise is that of the last P."""
    params = {"w": jnp.full(4, 2.0)}
    g = {"w": jnp.full(4, 0.5)}
    tx = noisy(lgv.scale_by_rms(eps=1e-6), lgv.trace(0.9))
    quiet = optax.chain(optax.scale_by_rms(eps=1e-6), optax.trace(0.9))
    update = jax.jit(tx.update) if jit else tx.update
    noise = update(g, tx.init(params), params)[0]["w"] - quiet.update(g, quiet.init(params), params)[0]["w"]
    size = SIGMA / np.sqrt(GAMMA) * (0.1 * 0.25 + 1e-6) ** -0.25
    np.testing.assert_allclose(noise, size * lgv.noise_like(0, 0, params)["w"], rtol=1e-4)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "whole",
    [lgv.sgd(GAMMA, SIGMA, 0), lgv.adam(GAMMA, 0.0, 0), lgv.langevin(optax.lamb, SIGMA, 0)(GAMMA)],
    ids=["sgd", "adam", "lamb"],
)
def test_a_whole_optimiser_refuses_an_update_with_a_mark(whole, jit):
    """Its noise would be that of its own P alone, 55 times too small behind RMSprop."""
    params = params_like()
    scaler = lgv.scale_by_rms()

    def step(g):
        updates, _ = scaler.update(g, scaler.init(params), params)
        return whole.update(updates, whole.init(params), params)

    with pytest.raises(
        ValueError, match=r"carries a preconditioner, at \['Dense_0'\]\['bias'\].* write langevin_optax\.trace"
    ):
        (jax.jit(step) if jit else step)(params)


def test_a_jit_of_its_own_hides_the_mark_from_a_whole_optimiser():
    """It cannot refuse then; it never uses that P either."""
    params = {"w": jnp.ones(1000)}
    u, _ = (scaler := lgv.scale_by_rms()).update(params, scaler.init(params), params)
    tx = lgv.sgd(1.0, SIGMA, 0)
    updates, _ = jax.jit(tx.update)(u, tx.init(params), params)
    np.testing.assert_allclose(updates["w"] + u["w"], SIGMA * lgv.noise_like(0, 0, params)["w"], atol=1e-5)
    with pytest.raises(ValueError, match="carries a preconditioner"):
        tx.update(u, tx.init(params), params)


def test_an_address_that_is_used_again_has_no_mark():
    """The table knows objects by their address: a dead entry marks nobody, and removes nobody else's mark."""
    leaf, other = jnp.ones(3), jnp.ones(3)
    marked = _marks.mark(leaf, 2.0)
    ref, p = _marks._marks[id(marked)]
    _marks._marks[id(other)] = (ref, p)  # as if `other` had come to the address of `marked`
    assert read(other) is None
    address = id(marked)
    successor = _marks.mark(leaf, 3.0)
    _marks._marks[address] = _marks._marks[id(successor)]
    del marked, ref  # its callback finds an entry that is not its own
    gc.collect()
    assert _marks._marks.pop(address)[1]() == 3.0
    del _marks._marks[id(other)]


def test_stock_scaler_raises_and_names_ours():
    params = params_like()
    for tx in (noisy(optax.scale_by_adam()), noisy()):
        with pytest.raises(ValueError, match="no preconditioner on the updates"):
            tx.update(params, tx.init(params), params)
    tx = noisy(optax.masked(lgv.scale_by_adam(), lgv.layer_mask("Dense_0")))
    with pytest.raises(ValueError, match=r"on the updates \['Dense_1'\]\['kernel'\], \['scale'\]\. The noise"):
        tx.update(params, tx.init(params), params)


def test_a_jit_boundary_between_scaler_and_noise_raises():
    params = params_like()
    scaler, noise = lgv.scale_by_adam(), lgv.add_preconditioned_noise(GAMMA, SIGMA, 0)
    updates, _ = jax.jit(scaler.update)(params, scaler.init(params), params)
    with pytest.raises(ValueError, match="no preconditioner"):
        noise.update(updates, noise.init(params), params)
    updates, _ = scaler.update(params, scaler.init(params), params)
    with pytest.raises(ValueError, match="no preconditioner"):
        jax.jit(noise.update)(updates, noise.init(params), params)


def test_explicit_preconditioner_goes_before_the_marks():
    params = {"a": jnp.ones(4), "b": jnp.ones(4)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    given = {"a": jnp.full(4, 9.0), "b": 0.25}
    xi = lgv.noise_like(0, 0, params)
    for link in (lgv.scale_by_adam(), optax.scale_by_adam()):
        tx = noisy(link)
        updates, _ = jax.jit(tx.update)(zeros, tx.init(params), params, preconditioner=given)
        np.testing.assert_allclose(updates["a"], SIGMA * 3 / np.sqrt(GAMMA) * xi["a"], rtol=1e-5)
        np.testing.assert_allclose(updates["b"], SIGMA * 0.5 / np.sqrt(GAMMA) * xi["b"], rtol=1e-5)
    # A whole optimiser takes it too, and masked leaves need none.
    tx = optax.masked(lgv.adam(GAMMA, SIGMA, 0), {"a": True, "b": False})
    updates, _ = tx.update(zeros, tx.init(params), params, preconditioner=given)
    np.testing.assert_allclose(updates["a"], SIGMA * 3 * np.sqrt(GAMMA) * xi["a"], rtol=1e-5)
    assert not updates["b"].any()


def test_marks_do_not_stay_on_the_callers_arrays():
    params = params_like()
    (g,) = gradients_like(params, 1)
    one = lgv.with_preconditioner(optax.identity(), lambda u, old, new: jax.tree.map(lambda _: 1.0, u))
    for scaler in (one, optax.chain(one, lgv.identity()), optax.chain(one, lgv.trace(0.9)), lgv.scale_by_adam(b1=0.0)):
        updates, state = scaler.update(g, scaler.init(params), params)
        assert all(read(leaf) is None for leaf in jax.tree.leaves((g, params, state)))
        published(updates)
    # Twice through an identity that publishes P = 4 is not P = 16.
    four = lgv.with_preconditioner(optax.identity(), lambda u, old, new: jax.tree.map(lambda _: 4.0, u))
    for _ in range(2):
        updates, _ = four.update(g, four.init(params), params)
        assert set(jax.tree.leaves(published(updates))) == {4.0}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("scaler", by_default(FEW, SCALERS))
def test_mark_is_no_part_of_the_compiled_program(scaler):
    params = {"w": jnp.ones(8)}

    def instructions(transform):
        compiled = jax.jit(transform.update).lower(params, transform.init(params), params).compile()
        return sorted(re.findall(r"= \S+ ([a-z-]+)\(", compiled.as_text()))

    assert instructions(scaler.make()) == instructions(scaler.stock())


# P may even depend on the update itself.
ON_UPDATE = lgv.with_preconditioner(
    optax.scale_by_adadelta(), lambda g, old, new: jax.tree.map(lambda x: 1 + x, new.e_x)
)


def total(tree):
    return sum(leaf.sum() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "tx",
    [
        noisy(ON_UPDATE),
        pytest.param(noisy(lgv.scale_by_adam()), marks=pytest.mark.slow),
        pytest.param(noisy(lgv.scale_by_rms(), lgv.trace(0.9)), marks=pytest.mark.slow),
    ],
    ids=["own", "adam", "handed on"],
)
def test_nothing_is_left_behind(tx):
    params = params_like()
    state = tx.init(params)
    two = jax.tree.map(lambda p: jnp.stack([p, p]), params)

    def update(g):
        return tx.update(g, state, params)[0]

    gc.collect()
    before = len(_marks._marks)
    with jax.checking_leaks():
        jax.jit(update)(params)
        jax.lax.scan(lambda s, _: (tx.update(params, s, params)[1], None), state, length=2)
        jax.jit(jax.vmap(update))(two)
        jax.jit(jax.grad(lambda g: total(update(g))))(params)
        jax.jit(jax.checkpoint(update))(params)
    jax.vmap(update)(two)
    jax.grad(lambda g: total(update(g)))(params)
    update(params)
    gc.collect()
    assert len(_marks._marks) == before


@pytest.mark.parametrize(
    "transform",
    [
        jax.vmap,
        pytest.param(lambda f: f, marks=pytest.mark.slow),
        pytest.param(lambda f: jax.grad(lambda g: f(g).sum()), marks=pytest.mark.slow),
    ],
    ids=["vmap", "jit", "grad"],
)
@pytest.mark.parametrize(
    "scaler",
    [ON_UPDATE, pytest.param(lgv.scale_by_adam(), marks=pytest.mark.slow)],
    ids=["own", "adam"],
)
def test_nothing_is_left_behind_by_an_exception_in_mid_trace(transform, scaler):
    def fail(u, p):
        del u, p
        raise RuntimeError("in mid-trace")

    def tracers():
        gc.collect()
        return sum(isinstance(x, jax.core.Tracer) for x in gc.get_objects())

    before, marks = tracers(), len(_marks._marks)
    for failing in (optax.chain(scaler, optax.scale(2.0), optax.stateless(fail)), noisy(scaler, optax.scale(2.0))):
        with pytest.raises((RuntimeError, ValueError), match=r"in mid-trace|no preconditioner"):
            jax.jit(transform(lambda g, tx=failing: tx.update(g, tx.init(g), g)[0]))(jnp.ones((2, 3)))
    assert tracers() == before
    assert len(_marks._marks) == marks


def test_a_mark_lives_as_long_as_its_array():
    params = params_like()
    scaler = lgv.scale_by_adam()
    updates, _ = scaler.update(params, scaler.init(params), params)
    count = len(_marks._marks)
    published(updates)
    del updates
    gc.collect()
    assert len(_marks._marks) == count - len(jax.tree.leaves(params))


def test_threads_trace_at_once_without_mixing_marks():
    """Each thread has a P of its own; a mixed-up mark would change its noise."""
    params = {f"w{i}": jnp.ones(7) for i in range(4)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    xi = lgv.noise_like(0, 0, params)
    barrier = threading.Barrier(8)

    def work(root_p):
        own = lgv.with_preconditioner(
            optax.identity(), lambda u, old, new: jax.tree.map(lambda _: float(root_p) ** 2, u)
        )
        tx = noisy(own)
        state = tx.init(params)
        barrier.wait()
        for i in range(4):
            update = tx.update if i % 2 else jax.jit(lambda g, s: tx.update(g, s))
            updates, _ = update(zeros, state)
            for name, u in updates.items():
                np.testing.assert_allclose(u, root_p * SIGMA / np.sqrt(GAMMA) * xi[name], rtol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(1, 9)))


def test_partition_pairs_each_group_with_its_own_p():
    params = params_like()
    (g,) = gradients_like(params, 1)
    labels = {"Dense_0": "adam", "Dense_1": "rms", "scale": "plain"}
    one = lgv.with_preconditioner(optax.identity(), lambda u, old, new: jax.tree.map(lambda _: 1.0, u))
    scalers = {"adam": lgv.scale_by_adam(eps=1e-4), "rms": lgv.scale_by_rms(), "plain": one}
    noise = lgv.add_preconditioned_noise(GAMMA, SIGMA, 0)
    inside = optax.partition({k: optax.chain(s, noise) for k, s in scalers.items()}, labels)
    outside = optax.chain(optax.partition(scalers, labels), noise)
    by_noise = optax.chain(optax.partition(scalers, labels), optax.partition(dict.fromkeys(scalers, noise), labels))
    results = [jax.jit(tx.update)(g, tx.init(params), params)[0] for tx in (inside, outside, by_noise)]
    chex.assert_trees_all_close(results[0], results[1], rtol=1e-6)
    chex.assert_trees_all_close(results[0], results[2], rtol=1e-6)
    for group, scaler in scalers.items():
        alone = jax.jit(noisy(scaler).update)(g, noisy(scaler).init(params), params)[0]
        for layer in (name for name, label in labels.items() if label == group):
            chex.assert_trees_all_close(results[0][layer], alone[layer], rtol=1e-6)


def test_checks_of_a_preconditioner_of_ones_own():
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}

    def update(p, **kwargs):
        tx = lgv.with_preconditioner(optax.identity(), lambda g, old, new: p)
        return tx.update(params, tx.init(params), params)

    with pytest.raises(ValueError, match="must be a tree like the updates"):
        update({"a": 1.0})
    with pytest.raises(
        ValueError, match=r"preconditioner of \['a'\] has shape \(2,\), .* broadcast to the update's \(3,\)"
    ):
        update({"a": jnp.ones(2), "b": 1.0})
    with pytest.raises(ValueError, match="does not broadcast"):
        update({"a": jnp.ones((3, 1)), "b": 1.0})
    with pytest.raises(TypeError, match="must be real, got complex64"):
        update({"a": jnp.ones(3, jnp.complex64), "b": 1.0})
    with pytest.raises(TypeError, match=r"must be an optax\.GradientTransformation"):
        lgv.with_preconditioner(lambda g: g, lambda g, old, new: g)
    with pytest.raises(TypeError, match="must be a function"):
        lgv.with_preconditioner(optax.identity(), 1.0)
    noise = lgv.add_preconditioned_noise(GAMMA, SIGMA, 0)
    with pytest.raises(ValueError, match="must be a tree like the updates"):
        noise.update(params, noise.init(params), params, preconditioner={"a": 1.0})


def test_after_the_learning_rate_takes_no_mark():
    """A live mark says that the update is not scaled yet: σ√(γP) ξ would come out scaled by γ once more."""
    params = params_like()
    tx = optax.chain(
        lgv.scale_by_adam(),
        lgv.add_preconditioned_noise(GAMMA, SIGMA, 0, after_learning_rate=True),
        optax.scale_by_learning_rate(GAMMA),
    )
    with pytest.raises(ValueError, match=r"already scaled.*pass preconditioner=.*leave after_learning_rate away"):
        tx.update(params, tx.init(params), params)


def test_a_preconditioner_of_none_is_none_given():
    params = params_like()
    tx = lgv.adam(GAMMA, SIGMA, 0)
    chex.assert_trees_all_equal(
        tx.update(params, tx.init(params), params, preconditioner=None)[0],
        tx.update(params, tx.init(params), params)[0],
    )


@pytest.mark.parametrize(
    "p",
    [4.0, *(pytest.param(p, marks=pytest.mark.slow) for p in (np.float32(4.0), np.full(3, 4.0))), jnp.full(3, 4.0)],
    ids=["float", "numpy", "array", "jax"],
)
@pytest.mark.parametrize("make", [lgv.add_preconditioned_noise, lgv.sgd], ids=["link", "optimiser"])
def test_a_preconditioner_that_is_a_constant_of_the_program(make, p):
    """Its values are known within jit and scan too, where what is calculated with them is not."""
    tx, updates = make(1.0, SIGMA, 0), {"w": jnp.zeros(3)}
    update = lambda s, _=None: tx.update(updates, s, preconditioner={"w": p})[::-1]
    _, noise = jax.jit(update)(tx.init(updates))
    np.testing.assert_allclose(noise["w"], 2 * SIGMA * lgv.noise_like(0, 0, updates)["w"], rtol=1e-6)
    _, noises = jax.lax.scan(update, tx.init(updates), length=2)
    assert noises["w"].shape == (2, 3)
    negative = -p
    with pytest.raises(ValueError, match="preconditioner must be ≥ 0"):
        jax.jit(lambda s: tx.update(updates, s, preconditioner={"w": negative}))(tx.init(updates))


def test_a_sharded_preconditioner_is_checked_where_it_is(monkeypatch):
    """Nothing of its size comes to the host."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(jnp.ones(16), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x")))
    noise, updates = lgv.add_preconditioned_noise(GAMMA, SIGMA, 0), {"w": jnp.ones(16)}
    state = noise.init(updates)
    pulled, asarray = [], np.asarray

    def spy(x, *args, **kwargs):
        pulled.append(np.shape(x))
        return asarray(x, *args, **kwargs)

    monkeypatch.setattr(np, "asarray", spy)
    noise.update(updates, state, preconditioner={"w": sharded})
    monkeypatch.undo()
    assert (16,) not in pulled
    with pytest.raises(ValueError, match="preconditioner must be ≥ 0"):
        noise.update(updates, state, preconditioner={"w": -sharded})


@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_a_known_preconditioner_below_zero_raises(bad):
    noise = lgv.add_preconditioned_noise(GAMMA, SIGMA, 0)
    updates = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"preconditioner must be ≥ 0, got .* at \['w'\]"):
        noise.update(updates, noise.init(updates), preconditioner={"w": jnp.array([1.0, bad, 1.0])})
