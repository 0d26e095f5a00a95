"""Bad input: each error comes as early as it can, and says the rule and what it got."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from tests.cases import BAOAB, INTEGRATORS, OPTIMIZERS

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


NUMBER = "must be a number, an array or an Optax schedule, got"
INTEGRATOR_CONSTRUCTION = [
    (dict(step_size=0), ValueError, "step_size must be > 0, got 0"),
    (dict(step_size=np.float32(0)), ValueError, r"step_size must be > 0, got 0\.0"),
    (dict(step_size=-1), ValueError, "step_size must be > 0, got -1"),
    (dict(step_size=jnp.float32(-1)), ValueError, r"step_size must be .* 0, got -1\.0"),
    (dict(step_size=np.nan), ValueError, "step_size must be finite, got nan"),
    (dict(step_size=jnp.inf), ValueError, "step_size must be finite, got inf"),
    (dict(step_size=np.array([0.1, 0.2])), ValueError, r"step_size must be a scalar, got an array of shape \(2,\)"),
    (dict(step_size="0.1"), TypeError, f"step_size {NUMBER} '0.1'"),
    (dict(step_size=True), TypeError, f"step_size {NUMBER} True"),
    (dict(step_size=None), TypeError, f"step_size {NUMBER} None"),
    (dict(step_size=[0.1]), TypeError, rf"step_size {NUMBER} \[0\.1\]"),
    (dict(step_size=1j), TypeError, f"step_size {NUMBER} 1j"),
    (dict(step_size=np.array(1j)), TypeError, "step_size must be real, got an array of dtype complex128"),
    *[
        case
        for name in ("temperature", "friction", "sigma", "coupling", "rest_temperature", "rest_friction")
        for case in [
            ({name: -1}, ValueError, rf"\b{name} must be ≥ 0, got -1"),
            ({name: jnp.float32(-2)}, ValueError, rf"\b{name} must be ≥ 0, got -2\.0"),
            ({name: float("nan")}, ValueError, rf"\b{name} must be finite, got nan"),
            ({name: np.inf}, ValueError, rf"\b{name} must be finite, got inf"),
            ({name: jnp.ones(3)}, ValueError, rf"\b{name} must be a scalar, got an array of shape \(3,\)"),
            ({name: "1"}, TypeError, rf"\b{name} {NUMBER} '1'"),
            ({name: False}, TypeError, rf"\b{name} {NUMBER} False"),
        ]
    ],
    (dict(key=None), TypeError, r"key must be an int or a jax\.random\.key, got None"),
    (dict(key=0.5), TypeError, r"key must be an int or a jax\.random\.key, got 0\.5"),
    (dict(key=True), TypeError, r"key must be an int or a jax\.random\.key, got True"),
    (dict(key="7"), TypeError, "got '7'"),
    (dict(key=jax.random.key_data(jax.random.key(0))), TypeError, r"raw key data .*jax\.random\.wrap_key_data"),
    (dict(key=KEYS), ValueError, r"single key, got an array of keys of shape \(2,\).*vmap"),
    (dict(scheme="heun"), ValueError, "scheme must be 'euler' or 'leimkuhler_matthews', got 'heun'"),
    (dict(scheme=None), ValueError, "scheme must be 'euler' or 'leimkuhler_matthews', got None"),
    (dict(initial_thermostat=np.nan), ValueError, "initial_thermostat must be finite, got nan"),
    (dict(initial_thermostat=-np.inf), ValueError, "initial_thermostat must be finite, got -inf"),
    (dict(initial_thermostat=np.ones(2)), ValueError, r"initial_thermostat must be a scalar, .* shape \(2,\)"),
    (dict(initial_thermostat="0"), TypeError, "initial_thermostat must be a number.*, got '0'"),
    (dict(initial_thermostat=None), TypeError, "initial_thermostat must be a number.*, got None"),
    # It is a state, so that a schedule makes no sense.
    (dict(initial_thermostat=optax.constant_schedule(0.1)), TypeError, "must be a number or an array, got <function"),
    (dict(layers=0), ValueError, "layers as a number of layers must be ≥ 1, got 0"),
    (dict(layers=1.5), ValueError, r"layers as a fraction must lie in \(0, 1\], got 1\.5"),
    (dict(layers=True), TypeError, "not a bool, got True"),
    (dict(layers=["Dense_0"]), TypeError, r"must hold indices, got \['Dense_0'\]"),
    (dict(order="Dense_0"), TypeError, "order must be a sequence of paths, got the string 'Dense_0'"),
    (dict(order=[]), ValueError, "order must name at least one layer, got none"),
]


@pytest.mark.parametrize(
    ("integrator", "bad", "error", "message"),
    [
        pytest.param(integrator, *case, id=f"{integrator.id}-{next(iter(case[0]))}-{i}")
        for integrator in INTEGRATORS
        for i, case in enumerate(INTEGRATOR_CONSTRUCTION)
        if {*case[0]} <= {*inspect.signature(getattr(lgv, integrator.name)).parameters}
    ],
)
def test_integrators_at_construction(integrator, bad, error, message):
    with pytest.raises(error, match=message):
        integrator.langevin(**bad)


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda i: i.id)
def test_integrators_need_their_arguments(integrator):
    for name in ("step_size", "temperature", "key"):
        arguments = integrator.arguments()
        del arguments[name]
        with pytest.raises(TypeError, match=rf"missing .*'{name}'"):
            getattr(lgv, integrator.name)(**arguments)


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda i: i.id)
def test_integrators_at_init(integrator):
    tx = integrator.langevin()
    for leaf, dtype in (
        (jnp.ones(3, jnp.int32), "int32"),
        (jnp.ones(3, bool), "bool"),
        (jax.random.key(0), "key<fry>"),
    ):
        params = {"Dense_0": {"w": leaf}, "Dense_1": {"w": jnp.ones(3)}}
        with pytest.raises(TypeError, match=rf"real or complex leaves, .*\['w'\] is {dtype}.*optax\.masked"):
            tx.init(params)


LAYERS = {f"Dense_{i}": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for i in range(3)}
# Selections that leave nothing to the first part, nothing to the rest, or that cannot be made.
SELECTIONS = [
    (dict(layers=1.0), r"layers=1\.0 selects all the layers, and leaves none to the rest"),
    (dict(layers=3), "layers=3 selects all the layers, and leaves none to the rest"),
    (dict(layers=slice(None)), "layers=slice.* selects all the layers, and leaves none to the rest"),
    (dict(layers="Dense_."), "layers='Dense_.' selects all the layers, and leaves none to the rest"),
    (dict(layers=lambda path: True), "layers=<function .* selects all the layers, and leaves none to the rest"),
    (dict(layers=[]), r"layers=\[\] selects none of the layers \['Dense_0', 'Dense_1', 'Dense_2'\]"),
    (dict(layers=slice(3, None)), r"layers=slice.* selects none of the layers"),
    (dict(layers="Conv_0"), "layers='Conv_0' selects none of the layers"),
    (dict(layers=lambda path: False), "layers=<function .* selects none of the layers"),
    (dict(layers=4), r"layers=4 asks for more than the 3 layers \['Dense_0', 'Dense_1', 'Dense_2'\]"),
    (dict(layers=1, order=["Dense_2", "Dense_1"]), "'Dense_0/bias' belongs to none of the layers of order"),
    (dict(layers=1, order=[*LAYERS, "Dense_3"]), r"order names the layers \['Dense_3'\], which the parameters do not"),
]


@pytest.mark.parametrize("integrator", [i for i in INTEGRATORS if i.parts], ids=lambda i: i.id)
def test_selections_of_layers(integrator):
    for selection, message in SELECTIONS:
        tx = integrator.langevin(**selection)
        with pytest.raises(ValueError, match=message):
            tx.init(LAYERS)
    with pytest.raises(ValueError, match="the names of the layers do not say in which order they are called"):
        integrator.langevin(layers=1).init({"encoder": LAYERS["Dense_0"], "decoder": LAYERS["Dense_1"]})


def test_parts_that_are_no_transformations():
    tx = BAOAB.langevin()
    for bad in (optax.adam, None, lambda updates: updates, (tx.init, tx.update), optax.MultiSteps(tx, 2)):
        with pytest.raises(TypeError, match=r"first must be an optax\.GradientTransformation, got "):
            lgv.partitioned(bad, tx)
        with pytest.raises(TypeError, match=r"rest must be an optax\.GradientTransformation, got "):
            lgv.partitioned(tx, bad)


WITHOUT_MOMENTA = {
    "adam": optax.adam(1e-3),
    "euler": lgv.overdamped_langevin(0.1, 0.1, 0),
    "parts": lgv.partitioned(lgv.overdamped_langevin(0.1, 0.1, 0), optax.sgd(0.1), "Dense_0"),
    "freeze": optax.partition({"a": optax.sgd(0.1)}, lambda tree: jax.tree.map(lambda _: "a", tree)),
}


@pytest.mark.parametrize("name", WITHOUT_MOMENTA)
def test_kinetic_temperature_without_momenta(name):
    with pytest.raises(
        ValueError, match=r"needs a state with the momenta of one integrator \(baoab, adaptive_langevin\)"
    ):
        lgv.kinetic_temperature(WITHOUT_MOMENTA[name].init(LAYERS))


def test_kinetic_temperature_of_two_integrators():
    integrators = [i.langevin(**({"layers": 1} if i.parts else {})) for i in INTEGRATORS[2:]]
    for first in integrators:
        with pytest.raises(ValueError, match=r"momenta of one integrator .*, or with one partition, found 2 in"):
            lgv.kinetic_temperature(optax.chain(first, integrators[0]).init(LAYERS))
    with pytest.raises(ValueError, match="found 0 in"):
        lgv.kinetic_temperature(optax.EmptyState())


def test_kinetic_temperature_next_to_a_partition_without_momenta():
    clip = optax.partition({"a": optax.clip(1.0)}, lambda tree: jax.tree.map(lambda _: "a", tree))
    assert float(lgv.kinetic_temperature(optax.chain(clip, BAOAB.langevin()).init(LAYERS))) == 0.0


@pytest.mark.parametrize(("before", "now"), [((5,), (3, 5)), ((1,), (5,)), ((2, 3), (3,))])
def test_momenta_of_another_shape(before, now):
    """They would broadcast, and give rows of one and the same noise."""
    for tx in (lgv.baoab(0.1, 1.0, 1.0, 0), lgv.adaptive_langevin(0.1, 1.0, 1.0, 1e-3, 0)):
        state = tx.init({"w": jnp.ones(before)})
        with pytest.raises(ValueError, match=re.escape(f"got shape {before} for a gradient of shape {now} at ['w']")):
            tx.update({"w": jnp.ones(now)}, state)
