"""What wrappers and tools of the neighbours make of the noise and its state: what works, and what pages warn of."""

import io

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from tests.cases import bits, by_default, loss, params_like

MAKE = {
    "sgd": lambda: lgv.sgd(1e-2, 1e-1, 0),
    "adam": lambda: lgv.adam(1e-2, 1e-1, 0),
    "lamb": lambda: lgv.langevin(optax.lamb, 1e-1, 0)(1e-2),
    "baoab": lambda: lgv.baoab(0.1, 0.1, 1.0, 0),
}
WRAPPERS = {
    "schedule_free": lambda tx: optax.contrib.schedule_free(tx, learning_rate=1e-2),
    "mechanize": optax.contrib.mechanize,
    "reduce_on_plateau": lambda tx: optax.chain(tx, optax.contrib.reduce_on_plateau()),
    "split_real_and_imaginary": optax.contrib.split_real_and_imaginary,
    "flatten": optax.flatten,
    "ema of parameters": lambda tx: optax.chain(tx, optax.ema(0.9)),
    "skip": lambda tx: optax.chain(tx, optax.zero_nans()),
}


@pytest.mark.parametrize(
    "name", ["adam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sgd", "lamb", "baoab"))]
)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_it_runs_within_wrappers(name, wrapper):
    """Compiled and with finite parameters, and the noise moves them."""

    def trained(tx):
        params = params_like()
        tx = optax.with_extra_args_support(WRAPPERS[wrapper](tx))
        step = jax.jit(lambda p, s: tx.update(jax.grad(loss)(p), s, p, value=loss(p)))
        state = tx.init(params)
        for _ in range(3):
            updates, state = step(params, state)
            params = optax.apply_updates(params, updates)
        return params

    noisy = trained(MAKE[name]())
    assert all(np.all(np.isfinite(p)) for p in jax.tree.leaves(noisy))
    assert bits(noisy) != bits(params_like())


def test_lookahead():
    params = params_like()
    tx = optax.lookahead(lgv.adam(1e-2, 1e-1, 0), sync_period=2, slow_step_size=0.5)
    both = optax.LookaheadParams(params, params)
    updates, _ = jax.jit(tx.update)(jax.grad(loss)(params), tx.init(both), both)
    assert all(np.all(np.isfinite(p)) for p in jax.tree.leaves(optax.apply_updates(both, updates)))


def test_tools_that_calculate_with_the_state():
    """`sam` and a lookahead that starts anew calculate with all leaves of a state, keys too: the pages say so."""
    params = params_like()
    tx = optax.lookahead(lgv.adam(1e-2, 1e-1, 0), sync_period=2, slow_step_size=0.5, reset_state=True)
    both = optax.LookaheadParams(params, params)
    with pytest.raises(TypeError):
        tx.update(jax.grad(loss)(params), tx.init(both), both)
    sam = optax.contrib.sam(lgv.sgd(1e-2, 1e-1, 0), optax.sgd(1e-2), sync_period=2)
    with pytest.raises(TypeError):
        sam.update(jax.grad(loss)(params), sam.init(params), params)


def test_an_outer_scale_is_no_learning_rate():
    """A factor f outside of the optimiser multiplies the noise by f, and not by √f."""
    params = {"w": jnp.zeros(1000)}
    for scale in (optax.scale(0.25), optax.contrib.reduce_on_plateau(factor=0.25, patience=0, cooldown=0)):
        tx = optax.chain(lgv.sgd(1e-2, 1e-1, 0), optax.with_extra_args_support(scale))
        updates, _ = tx.update(params, tx.init(params), params, value=1.0)
        assert abs(float(jnp.std(updates["w"])) / 0.25e-2 - 1) < 5 / np.sqrt(2 * 1000)


@pytest.mark.parametrize("name", MAKE)
def test_how_to_freeze(name):
    """By a partition: masked hands on the gradient of what it leaves out, and a gradient of 0 stops no noise."""
    params = {"encoder": jnp.ones(100), "head": jnp.ones(100)}
    gradients = {"encoder": jnp.full(100, 0.5), "head": jnp.ones(100)}
    labels = {"encoder": "frozen", "head": "trained"}
    frozen = optax.partition({"trained": MAKE[name](), "frozen": optax.set_to_zero()}, labels)
    updates, _ = frozen.update(gradients, frozen.init(params), params)
    assert not np.any(updates["encoder"]) and np.all(updates["head"] != 0)
    masked = optax.masked(MAKE[name](), {"encoder": False, "head": True})
    updates, _ = masked.update(gradients, masked.init(params), params)
    assert bits(updates["encoder"]) == bits(gradients["encoder"])  # uphill
    still = MAKE[name]()
    updates, _ = still.update({**gradients, "encoder": jnp.zeros(100)}, still.init(params), params)
    assert np.all(updates["encoder"] != 0)


def test_a_frozen_encoder_walks():
    """0.32 in 100 steps, at γ = σ = 10⁻³ and the default ε."""
    params = {"encoder": jnp.zeros(1000)}
    tx = lgv.adam(1e-3, 1e-3, 0)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=100))((params, tx.init(params)))
    assert abs(float(jnp.std(params["encoder"])) / 0.316 - 1) < 5 / np.sqrt(2 * 1000)


@pytest.mark.parametrize(
    ("tool", "error"),
    [
        (lambda state: np.savez(io.BytesIO(), *jax.tree.leaves(state)), TypeError),
        (flax.serialization.to_bytes, TypeError),
        (lambda state: chex.assert_trees_all_close(state, state), TypeError),
    ],
    ids=["savez", "flax", "chex"],
)
def test_tools_that_take_no_typed_keys(tool, error):
    """With keys as data they take the state: docs/sharp_bits.md has the two functions, and a test runs them."""
    state = lgv.adam(1e-3, 1e-3, 0).init({"w": jnp.ones(3)})
    with pytest.raises(error):
        tool(state)
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    tool(jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state))


def test_injected_seeds_beyond_31_bits():
    """Optax makes arrays of numbers before we see them; a static key is none of them."""
    params = {"w": jnp.ones(3)}
    with pytest.raises(OverflowError):
        optax.inject_hyperparams(lgv.adam)(1e-3, 1e-3, 2**31).init(params)
    tx = optax.inject_hyperparams(lgv.adam, static_args="key")(1e-3, 1e-3, 2**31)
    updates, _ = tx.update(params, tx.init(params), params)
    expected, _ = (plain := lgv.adam(1e-3, 1e-3, 2**31)).update(params, plain.init(params), params)
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-4)


@pytest.mark.parametrize("name", by_default(["adam", "baoab"], MAKE))
def test_the_exported_update_is_the_update(name):
    params = params_like()
    tx = MAKE[name]()
    gradients = jax.grad(loss)(params)
    state = tx.init(params)
    update = jax.jit(lambda g, s, p: tx.update(g, s, p)[0])
    exported = jax.export.export(update)(gradients, state, params)
    chex.assert_trees_all_close(exported.call(gradients, state, params), update(gradients, state, params), rtol=1e-5)
