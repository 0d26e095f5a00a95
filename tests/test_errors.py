"""Bad input: each error comes as early as it can, and says the rule and what it got."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from tests.cases import OPTIMIZERS

PARAMS = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
KEYS = jax.random.split(jax.random.key(0), 2)
ENTRANCES = {
    "add_preconditioned_noise": lgv.add_preconditioned_noise,
    "add_langevin_noise": lgv.add_langevin_noise,
    **{o.id: o.langevin for o in OPTIMIZERS},
}

CONSTRUCTION = [
    (dict(learning_rate=-1e-3), ValueError, r"learning_rate must be ≥ 0, got -0\.001"),
    (dict(learning_rate=np.nan), ValueError, "learning_rate must be finite, got nan"),
    (dict(learning_rate=jnp.inf), ValueError, "learning_rate must be finite, got inf"),
    (dict(learning_rate="0.1"), TypeError, "learning_rate must be a number, an array or an Optax schedule, got '0.1'"),
    (dict(sigma=-1), ValueError, "sigma must be ≥ 0, got -1"),
    (dict(sigma=float("nan")), ValueError, "sigma must be finite, got nan"),
    (dict(sigma=jnp.float32(-2)), ValueError, r"sigma must be ≥ 0, got -2\.0"),
    (dict(sigma=None), TypeError, "sigma must be a number, .*got None"),
    (dict(sigma=True), TypeError, "sigma must be a number, .*got True"),
    (dict(sigma=1j), TypeError, "sigma must be a number, .*got 1j"),
    (dict(sigma=np.array(1j)), TypeError, "sigma must be real, got an array of dtype complex128"),
    (dict(key=None), TypeError, r"key must be an int or a jax\.random\.key, got None"),
    (dict(key=0.5), TypeError, r"key must be an int or a jax\.random\.key, got 0\.5"),
    (dict(key=True), TypeError, r"key must be an int or a jax\.random\.key, got True"),
    (dict(key="7"), TypeError, "got '7'"),
    (dict(key=jax.random.key_data(jax.random.key(0))), TypeError, r"raw key data .*jax\.random\.wrap_key_data"),
    (dict(key=KEYS), ValueError, r"single key, got an array of keys of shape \(2,\).*vmap"),
    (dict(sampler="gauss"), ValueError, r"sampler must be one of \['normal', 'rademacher'\] .*got 'gauss'"),
    (dict(sampler=None), ValueError, "got None"),
    (dict(mask={"a": 1, "b": True}), TypeError, r"mask must hold bools or boolean arrays, got 1 at \['a'\]"),
    (dict(mask={"a": "yes"}), TypeError, "got 'yes'"),
    (dict(mask={"a": np.ones((2, 1))}), TypeError, "mask must hold bools"),
]


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(("bad", "error", "message"), CONSTRUCTION, ids=[str(i) for i in range(len(CONSTRUCTION))])
def test_at_construction(entrance, bad, error, message):
    arguments = {"learning_rate": 1e-3, "sigma": 1e-3, "key": 0, **bad}
    with pytest.raises(error, match=message):
        ENTRANCES[entrance](**arguments)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_sigma_and_key_are_required(entrance):
    factory = getattr(lgv, entrance.split("-")[0])
    with pytest.raises(TypeError, match=r"missing .*'sigma' and 'key'"):
        factory(1e-3)
    with pytest.raises(TypeError, match=r"missing .*'key'"):
        factory(1e-3, 1e-3)


INIT = [
    (
        {"a": jnp.ones(3, jnp.int32)},
        None,
        TypeError,
        r"noise needs real or complex leaves, .*\['a'\] is int32.*optax\.masked",
    ),
    ({"a": jnp.ones(3, bool)}, None, TypeError, "is bool"),
    ({"a": jax.random.key(0)}, None, TypeError, r"\['a'\] is key<fry>"),
    (PARAMS, {"a": True}, ValueError, "mask must be a tree like the parameters"),
    (PARAMS, {"a": True, "b": True, "c": True}, ValueError, "mask must be a tree like the parameters"),
    (PARAMS, [True, False], ValueError, "mask must be a tree like the parameters"),
    (PARAMS, lambda p: {"a": True}, ValueError, "mask must be a tree like the parameters"),
    (PARAMS, lambda p: {"a": 1.0, "b": True}, TypeError, "mask must hold bools or boolean arrays, got 1.0"),
    (
        PARAMS,
        {"a": np.array([True, False]), "b": True},
        ValueError,
        r"mask of \['a'\] has shape \(2,\), .*leaf's \(2, 3\)",
    ),
]


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(("params", "mask", "error", "message"), INIT, ids=[str(i) for i in range(len(INIT))])
def test_at_init(entrance, params, mask, error, message):
    tx = ENTRANCES[entrance](learning_rate=1e-3, sigma=1e-3, key=0, mask=mask)
    with pytest.raises(error, match=message):
        tx.init(params)


def test_integer_leaves_pass_where_the_mask_leaves_them_out():
    params = {"w": jnp.ones(3), "steps": jnp.ones(3, jnp.int32)}
    tx = optax.masked(lgv.sgd(0.1, 0.1, 0), {"w": True, "steps": False})
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["steps"].dtype == jnp.int32


def test_noise_like():
    with pytest.raises(TypeError, match=r"leaf \(root\) is int32"):
        lgv.noise_like(0, 0, jnp.arange(3))
    with pytest.raises(ValueError, match="sampler must be one of"):
        lgv.noise_like(0, 0, jnp.ones(3), "uniform")
    with pytest.raises(TypeError, match="key must be an int"):
        lgv.noise_like(None, 0, jnp.ones(3))
    with pytest.raises(ValueError, match=r"asked for shape \(3,\) and dtype float32, but returned shape \(\)"):
        lgv.noise_like(0, 0, jnp.ones(3), lambda key, shape, dtype: jnp.float32(1))
    with pytest.raises(ValueError, match="dtype float16"):
        lgv.noise_like(0, 0, jnp.ones(3), lambda key, shape, dtype: jnp.ones(shape, jnp.float16))


def test_the_state_of_another_optimiser():
    tx = lgv.adam(1e-3, 1e-3, 0)
    stock_state = optax.adam(1e-3).init(PARAMS)
    with pytest.raises(ValueError, match=r"2 parts and then a LangevinState, got 2 parts.*\*stock_state"):
        tx.update(PARAMS, stock_state, PARAMS)
    with pytest.raises(ValueError, match="2 parts and then a LangevinState, got 3 parts"):
        tx.update(PARAMS, (*stock_state, optax.EmptyState()), PARAMS)


def test_schedule():
    with pytest.raises(ValueError, match="init_value must be ≥ 0, got -1"):
        lgv.inverse_sqrt_log_schedule(-1, 0.1)
    with pytest.raises(ValueError, match="decay_rate must be finite, got nan"):
        lgv.inverse_sqrt_log_schedule(1.0, float("nan"))


def test_two_leaves_with_one_path():
    class Twins:
        def __init__(self, a, b):
            self.a, self.b = a, b

    key = jax.tree_util.GetAttrKey("w")
    jax.tree_util.register_pytree_with_keys(
        Twins, lambda t: (((key, t.a), (key, t.b)), None), lambda _, children: Twins(*children)
    )
    with pytest.raises(ValueError, match=r"two leaves with one path would get the same noise: \['.w', '.w'\]"):
        lgv.noise_like(0, 0, Twins(jnp.ones(2), jnp.ones(2)))


def test_inject_hyperparams_takes_a_mask_for_a_schedule():
    mask = lgv.layer_mask(1, ["a", "b"])
    params = {"a": {"w": jnp.ones(2)}, "b": {"w": jnp.ones(2)}}
    with pytest.raises(ValueError, match="static_args='mask'"):
        optax.inject_hyperparams(lgv.adam)(1e-3, 1e-3, 0, mask=mask).init(params)
    tx = optax.inject_hyperparams(lgv.adam, static_args=("mask", "sampler", "key"))(1e-3, 1e-3, 0, mask=mask)
    tx.update(params, tx.init(params), params)
