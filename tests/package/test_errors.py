"""Bad input to the package: each error comes as early as it can, and says the rule and what it got.

`EVERY_OPTIMIZER`, `EVERY_INTEGRATOR` and `BAD` are the table: under each heading a call, and rows that say what is bad,
the bad thing, the error, and its message as a regular expression. The command lines are in `test_command_line.py`.
"""

import inspect
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import langevin_optax as lgv
from tests.cases import BAOAB, INTEGRATORS

PARAMS = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
LAYERS = {f"Dense_{i}": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for i in range(3)}
STACK = {"blocks": {"a": {"w": jnp.ones((3, 2))}, "b": {"w": jnp.ones((2, 2))}}}
MASK = {"a": True, "b": False}
RAW_KEY = jax.random.key_data(jax.random.key(0))
RBG_KEY = jax.random.key(0, impl="rbg")
KEYS = jax.random.split(jax.random.key(0), 2)

adam = partial(lgv.adam, learning_rate=1e-3, sigma=1e-3, key=0)
sgd = partial(lgv.sgd, learning_rate=1e-3, sigma=1e-3, key=0)
plain_noise = partial(lgv.add_langevin_noise, learning_rate=1e-3, sigma=1e-3, key=0)
noise = partial(lgv.add_preconditioned_noise, learning_rate=1e-3, sigma=1e-3, key=0)
euler = partial(lgv.overdamped_langevin, step_size=0.1, temperature=0.1, key=0)
baoab = partial(lgv.baoab, step_size=0.1, temperature=0.1, friction=1.0, key=0)
adla = partial(lgv.adaptive_langevin, step_size=0.1, temperature=0.1, sigma=0.1, coupling=0.01, key=0)
lol = partial(lgv.lol, step_size=0.1, temperature=0.1, friction=1.0, key=0)
lala = partial(lgv.lala, step_size=0.1, temperature=0.1, friction=1.0, key=0)


def update(tx, params=PARAMS, gradients=None, state=None, **extra_args):
    """With gradients that are not like the parameters, or with a state, or one made of that of `init`."""
    init = tx.init(params)
    state = state(init) if callable(state) else init if state is None else state
    return tx.update(params if gradients is None else gradients, state, params, **extra_args)


def of_chains(tx):
    return jax.vmap(lambda chain: tx.init(PARAMS))(jnp.arange(2))


def noise_with(**fields):
    """The state of an optimiser with other fields in that of the noise."""
    return lambda state: (*state[:-1], state[-1]._replace(**fields))


def jitted(tx):
    return optax.GradientTransformation(tx.init, jax.jit(tx.update))


def as_bfloat16(updates, params):
    return jax.tree.map(lambda u: u.astype(jnp.bfloat16), updates)


def as_ints(tree):
    return jax.tree.map(jnp.int32, tree)


def as_float0(leaf):
    return np.zeros(leaf.shape, jax.dtypes.float0)


def one_part(tx):
    """A partition of Optax that puts everything into one part."""
    return optax.partition({"part": tx}, lambda tree: jax.tree.map(lambda _: "part", tree))


class NoCalls(nn.Module):
    def __call__(self, x):
        return x


class Twins:
    """A node whose two children have one name."""

    def __init__(self, a, b):
        self.a, self.b = a, b


_NAME = jax.tree_util.GetAttrKey("w")
jax.tree_util.register_pytree_with_keys(
    Twins, lambda t: (((_NAME, t.a), (_NAME, t.b)), None), lambda _, children: Twins(*children)
)

NUMBER = "must be a number, a scalar array or an Optax schedule, got"
SCALAR, SWEEP = "must be a scalar, got an array of shape", r"To sweep over several, use jax\.vmap"
KEY_IS = r"key must be an int or a jax\.random\.key, got"
KEY = [
    ("None", None, TypeError, f"{KEY_IS} None"),
    ("float", 0.5, TypeError, rf"{KEY_IS} 0\.5 .* sigma and key are the second and third arguments"),
    ("bool", True, TypeError, f"{KEY_IS} True"),
    ("string", "7", TypeError, f"{KEY_IS} '7'"),
    ("list", [0, 7], TypeError, rf"{KEY_IS} \[0, 7\] \(list\)"),
    ("array of a float", jnp.array(0.5), TypeError, rf"{KEY_IS} Array\(0\.5, dtype=float32"),
    ("raw", RAW_KEY, TypeError, r"key must be .*, got raw key data \(uint32\).* jax\.random\.wrap_key_data"),
    ("Rngs", nnx.Rngs(0), TypeError, r"key must be .*, got Rngs: write rngs\(\), a key of it"),
    ("raw, in NumPy", np.array(RAW_KEY), TypeError, r"key must be .*, got raw key data \(uint32\)"),
    ("of two chains", KEYS, ValueError, r"key must be a single key, got an array of keys of shape \(2,\)\. .* vmap"),
]
LEAF_IS = r"noise needs real or complex leaves, but the leaf .*\['w'\] is {}\. .*optax\.masked or optax\.partition"
LEAF = [
    ("ints", jnp.ones(3, jnp.int32), TypeError, LEAF_IS.format("int32")),
    ("bools", jnp.ones(3, bool), TypeError, LEAF_IS.format("bool")),
    ("key", jax.random.key(0), TypeError, LEAF_IS.format("key<fry>")),
]

MASK_IS = "mask must be a tree like the parameters, or a prefix of it, got\n"
BOOLS = "mask must hold bools or boolean arrays, got"
EVERY_OPTIMIZER = {
    "argument": (
        lambda make, bad: make(**bad),
        [
            ("learning_rate < 0", dict(learning_rate=-1e-3), ValueError, r"learning_rate must be ≥ 0, got -0\.001"),
            ("learning_rate NaN", dict(learning_rate=np.nan), ValueError, "learning_rate must be finite, got nan"),
            ("learning_rate infinite", dict(learning_rate=jnp.inf), ValueError, "rate must be finite, got inf"),
            ("learning_rate string", dict(learning_rate="0.1"), TypeError, f"learning_rate {NUMBER} '0.1'"),
            ("learning_rate list", dict(learning_rate=[0.1]), TypeError, rf"learning_rate {NUMBER} \[0\.1\]"),
            ("learning_rate array", dict(learning_rate=jnp.ones(3)), ValueError, rf"rate {SCALAR} \(3,\)\. {SWEEP}"),
            ("learning_rate (1,)", dict(learning_rate=np.ones(1)), ValueError, rf"learning_rate {SCALAR} \(1,\)"),
            ("sigma array", dict(sigma=jnp.ones(5)), ValueError, rf"sigma {SCALAR} \(5,\)\. {SWEEP}"),
            ("max_noise array", dict(max_noise=np.ones((2, 1))), ValueError, rf"max_noise {SCALAR} \(2, 1\)\. {SWEEP}"),
            ("max_noise schedule", dict(max_noise=lambda count: 1.0), TypeError, "max_noise must be a number or a sca"),
            ("sigma < 0", dict(sigma=-1), ValueError, "sigma must be ≥ 0, got -1"),
            ("sigma < 0, in JAX", dict(sigma=jnp.float32(-2)), ValueError, r"sigma must be ≥ 0, got -2\.0"),
            ("sigma NaN", dict(sigma=float("nan")), ValueError, "sigma must be finite, got nan"),
            ("sigma None", dict(sigma=None), TypeError, f"sigma {NUMBER} None"),
            ("sigma bool", dict(sigma=True), TypeError, f"sigma {NUMBER} True"),
            ("sigma complex", dict(sigma=1j), TypeError, f"sigma {NUMBER} 1j"),
            ("sigma complex, in NumPy", dict(sigma=np.array(1j)), TypeError, "sigma must be real, got .* complex128"),
            ("sigma a tree", dict(sigma={"a": 1}), TypeError, f"sigma {NUMBER} {{'a': 1}}"),
            (
                "sampler unknown",
                dict(sampler="gauss"),
                ValueError,
                r"\['normal', 'rademacher', 'three_point'\] or a .*, got 'gauss'",
            ),
            ("sampler None", dict(sampler=None), ValueError, r"sampler must be one of .*, got None"),
            ("sampler bytes", dict(sampler=b"normal"), ValueError, r"sampler must be one of .*, got b'normal'"),
        ],
    ),
    "argument missing": (
        lambda make, bad: make.func(*bad),
        [
            ("sigma and key", [1e-3], TypeError, r"missing .*'sigma' and 'key'"),
            ("key", [1e-3, 1e-3], TypeError, r"missing .*'key'"),
        ],
    ),
    "key": (lambda make, bad: make(key=bad), KEY),
    "mask": (
        lambda make, bad: make(mask=bad),
        [
            ("of an int", {"a": 1, "b": True}, TypeError, rf"{BOOLS} 1 at \['a'\]"),
            ("of a string", {"a": "yes", "b": True}, TypeError, rf"{BOOLS} 'yes' at \['a'\]"),
            ("of floats", {"a": np.ones((2, 1))}, TypeError, rf"{BOOLS} array\(\[\[1\.\],"),
            ("a path", "Dense_0", TypeError, rf"{BOOLS} 'Dense_0' at \(root\)"),
            ("paths", ["Dense_0"], TypeError, rf"{BOOLS} 'Dense_0' at \[0\]"),
        ],
    ),
    "mask at init": (
        lambda make, bad: make(mask=bad).init(PARAMS),
        [
            ("a leaf less", {"a": True}, ValueError, MASK_IS),
            ("a leaf more", {"a": True, "b": True, "c": True}, ValueError, MASK_IS),
            ("list", [True, False], ValueError, MASK_IS),
            ("empty", {}, ValueError, rf"{MASK_IS}  PyTreeDef\({{}}\)"),
            ("with None", {"a": None, "b": True}, ValueError, MASK_IS),
            ("of a shape", MASK | {"a": np.ones(2, bool)}, ValueError, r"\['a'\] has shape \(2,\), .* leaf's \(2, 3\)"),
            ("function to a leaf less", lambda params: {"a": True}, ValueError, MASK_IS),
            ("function to None", lambda params: None, ValueError, rf"{MASK_IS}  PyTreeDef\(None\)"),
            ("function to a float", lambda params: {"a": 1.0, "b": True}, TypeError, rf"{BOOLS} 1\.0 at \['a'\]"),
            ("of other layers", lgv.layer_mask(1, ["Conv_0"]), ValueError, "'a' belongs to none of the layers of o"),
        ],
    ),
    "leaf of": (lambda make, bad: make().init({"w": bad}), LEAF),
}
THREE = r"the 3 layers \['Dense_0', 'Dense_1', 'Dense_2'\]"
NONE_OF = r"selects none of the layers \['Dense_0', 'Dense_1', 'Dense_2'\]"
ALL = "selects all the layers, and leaves none to the rest: use the first part alone"
NOT_IN = "belongs to none of the layers of order, .*Was the order made from another model"
REAL = r"integrators need real leaves, but .*\['w'\] is complex64\. .*optax\.contrib\.split_real_and_imaginary"
EVERY_INTEGRATOR = {
    "argument": (
        lambda make, bad: make(**bad),
        [
            ("step_size 0", dict(step_size=0), ValueError, "step_size must be > 0, got 0"),
            ("step_size 0, in NumPy", dict(step_size=np.float32(0)), ValueError, r"step_size must be > 0, got 0\.0"),
            ("step_size < 0", dict(step_size=-1), ValueError, "step_size must be > 0, got -1"),
            ("step_size -1, in JAX", dict(step_size=jnp.float32(-1)), ValueError, r"step_size must be .* 0, got -1"),
            ("step_size NaN", dict(step_size=np.nan), ValueError, "step_size must be finite, got nan"),
            ("step_size infinite", dict(step_size=jnp.inf), ValueError, "step_size must be finite, got inf"),
            ("step_size array", dict(step_size=np.ones(2)), ValueError, r"step_size must be a scalar, .* shape \(2,\)"),
            ("step_size string", dict(step_size="0.1"), TypeError, f"step_size {NUMBER} '0.1'"),
            ("step_size bool", dict(step_size=True), TypeError, f"step_size {NUMBER} True"),
            ("step_size None", dict(step_size=None), TypeError, f"step_size {NUMBER} None"),
            ("step_size list", dict(step_size=[0.1]), TypeError, rf"step_size {NUMBER} \[0\.1\]"),
            ("step_size complex", dict(step_size=1j), TypeError, f"step_size {NUMBER} 1j"),
            ("step_size complex, in NumPy", dict(step_size=np.array(1j)), TypeError, "must be real, got .* complex128"),
            *[
                row
                for name in ("temperature", "friction", "sigma", "coupling", "rest_temperature", "rest_friction")
                for row in [
                    (f"{name} < 0", {name: -1}, ValueError, rf"\b{name} must be ≥ 0, got -1"),
                    (f"{name} < 0, in JAX", {name: jnp.float32(-2)}, ValueError, rf"\b{name} must be ≥ 0, got -2\.0"),
                    (f"{name} NaN", {name: float("nan")}, ValueError, rf"\b{name} must be finite, got nan"),
                    (f"{name} infinite", {name: np.inf}, ValueError, rf"\b{name} must be finite, got inf"),
                    (f"{name} array", {name: jnp.ones(3)}, ValueError, rf"\b{name} must be a scalar, .* shape \(3,\)"),
                    (f"{name} string", {name: "1"}, TypeError, rf"\b{name} {NUMBER} '1'"),
                    (f"{name} bool", {name: False}, TypeError, rf"\b{name} {NUMBER} False"),
                ]
            ],
            ("scheme unknown", dict(scheme="heun"), ValueError, "must be 'euler' or 'leimkuhler_matthews', got 'heun'"),
            ("scheme None", dict(scheme=None), ValueError, "must be 'euler' or 'leimkuhler_matthews', got None"),
            ("thermostat NaN", dict(initial_thermostat=np.nan), ValueError, "thermostat must be finite, got nan"),
            ("thermostat -inf", dict(initial_thermostat=-np.inf), ValueError, "thermostat must be finite, got -inf"),
            ("thermostat array", dict(initial_thermostat=np.ones(2)), ValueError, r"must be a scalar, .* shape \(2,\)"),
            (
                "thermostat string",
                dict(initial_thermostat="0"),
                TypeError,
                "must be a number or a scalar array, got '0'",
            ),
            (
                "thermostat None",
                dict(initial_thermostat=None),
                TypeError,
                "must be a number or a scalar array, got None",
            ),
            # It is a state, so that a schedule makes no sense.
            (
                "thermostat schedule",
                dict(initial_thermostat=lambda count: 0.1),
                TypeError,
                "a scalar array, got <function",
            ),
            ("layers 0", dict(layers=0), ValueError, "layers as a number of layers must be ≥ 1, got 0"),
            ("layers 1.5", dict(layers=1.5), ValueError, r"layers as a fraction must lie in \(0, 1\], got 1\.5"),
            ("layers bool", dict(layers=True), TypeError, "layers must be .*, not a bool, got True"),
            ("layers names", dict(layers=["Dense_0"]), TypeError, r"must hold indices, got \['Dense_0'\]"),
            ("order string", dict(order="Dense_0"), TypeError, "order must be a sequence of paths, .* 'Dense_0'"),
            ("order empty", dict(order=[]), ValueError, "order must name at least one layer, got none"),
        ],
    ),
    "argument missing": (
        lambda make, bad: make.func(**{name: value for name, value in make.keywords.items() if name != bad}),
        [(name, name, TypeError, rf"missing .*'{name}'") for name in ("step_size", "temperature", "key")],
    ),
    "partition": (
        lambda make, bad: make(**bad).init(LAYERS),
        [
            ("all", dict(layers=1.0), ValueError, rf"layers=1\.0 {ALL}"),
            ("3 of 3", dict(layers=3), ValueError, f"layers=3 {ALL}"),
            ("full slice", dict(layers=slice(None)), ValueError, f"layers=slice.* {ALL}"),
            ("all names", dict(layers="Dense_."), ValueError, f"layers='Dense_.' {ALL}"),
            ("all paths", dict(layers=lambda path: True), ValueError, f"layers=<function .* {ALL}"),
            ("no paths", dict(layers=lambda path: False), ValueError, f"layers=<function .* {NONE_OF}"),
            ("4 of 3", dict(layers=4), ValueError, f"layers=4 asks for more than {THREE}"),
            ("another order", dict(order=["Dense_2"]), ValueError, f"'Dense_0/bias' {NOT_IN}"),
        ],
    ),
    "key": (lambda make, bad: make(key=bad), KEY),
    "leaf of": (
        lambda make, bad: make().init({"Dense_0": {"w": bad}, "Dense_1": {"w": jnp.ones(3)}}),
        [*LEAF, ("complex numbers", jnp.ones(3, complex), TypeError, REAL)],
    ),
}

NO_P = "found no preconditioner on the updates"
P_IS = "the preconditioner must be a tree like the updates, in which an operator may stand for a part of it, got\n"
A_TRANSFORM = r"must be an optax\.GradientTransformation, got"
PARTS = r"the state of adam must be \(ScaleByAdamState, EmptyState, LangevinState\), .*, got"
STATE_KEY_IS = r"the key of the state must be a jax\.random\.key, got"
ITS_OWN = "needs a state of its own,"
RESTORED = r"\. Was the checkpoint written by another integrator, or restored without its structure\?"
MOMENTA = "the momenta of {} are like the parameters of init, got\n"
LAYERS_ARE = "layers must be an int, a fraction, a slice, a sequence of indices, .*, got"
MODEL_IS = r"model must be a flax\.linen\.Module or a flax\.nnx\.Module, got"
NEEDS_MOMENTA = r"needs a state with the momenta of one integrator \(baoab, adaptive_langevin\), or .*, found"
NEEDS_NOISE = "fold_in needs a state with noise in it, found none in PyTreeDef"
SCALER = lgv.scale_by_adam()
WITH_MOMENTA = {"BAOAB": baoab(), "adaptive Langevin": adla()}
OTHER = {"a": jnp.ones((2, 3)), "c": jnp.ones(3)}
COMPLEX = {"a": jnp.ones((2, 3), complex), "b": jnp.ones(3)}
BAD = {
    "noise behind": (
        lambda links: update(optax.chain(*links, noise())),
        [
            ("nothing", [], ValueError, rf"{NO_P} \['a'\], \['b'\]\. The noise must directly follow the scaler"),
            ("Optax's scaler", [optax.scale_by_adam()], ValueError, rf"{NO_P}.* in place of optax\.scale_by_adam"),
            ("clip", [SCALER, optax.clip(1.0)], ValueError, f"{NO_P}.* no link in between that changes the update"),
            ("scale", [SCALER, optax.scale(0.5)], ValueError, f"{NO_P}.* no link in between"),
            ("learning rate", [SCALER, optax.scale_by_learning_rate(0.1)], ValueError, f"{NO_P}.* no link in between"),
            ("cast", [SCALER, optax.stateless(as_bfloat16)], ValueError, f"{NO_P}.* no link in between"),
            ("jit", [jitted(SCALER)], ValueError, f"{NO_P}.* within one jit"),
            ("scaler of one leaf", [optax.masked(SCALER, MASK)], ValueError, rf"{NO_P} \['b'\]\. The noise must"),
        ],
    ),
    "preconditioner": (
        lambda p: update(noise(after_learning_rate=True), preconditioner=p),
        [
            ("None", None, ValueError, "an update that is already scaled, .*: pass preconditioner= to update"),
            ("a leaf less", {"a": 1.0}, ValueError, P_IS),
            ("a leaf more", {"a": 1.0, "b": 1.0, "c": 1.0}, ValueError, P_IS),
            ("scalar", 1.0, ValueError, rf"{P_IS}  PyTreeDef\(\*\)"),
            ("list", [1.0, 1.0], ValueError, P_IS),
            ("with None", {"a": None, "b": 1.0}, ValueError, P_IS),
            ("< 0", {"a": -1.0, "b": 1.0}, ValueError, r"preconditioner must be ≥ 0, got -1\.0 at \['a'\]"),
            ("NaN", {"a": 1.0, "b": jnp.nan}, ValueError, r"preconditioner must be ≥ 0, got nan at \['b'\]"),
            ("of a shape", {"a": jnp.ones((3, 2)), "b": 1.0}, ValueError, r"\['a'\] has shape \(3, 2\), .* \(2, 3\)"),
            ("larger", {"a": jnp.ones((5, 2, 3)), "b": 1.0}, ValueError, r"\['a'\] has shape \(5, 2, 3\), .* \(2, 3\)"),
        ],
    ),
    "own preconditioner": (
        lambda p: update(lgv.with_preconditioner(optax.identity(), lambda updates, old, new: p)),
        [
            ("None", None, ValueError, rf"{P_IS}  PyTreeDef\(None\)"),
            ("a leaf less", {"a": 1.0}, ValueError, P_IS),
            ("with a list", {"a": [1.0], "b": 1.0}, ValueError, P_IS),
            ("complex", {"a": 1.0, "b": 1j}, TypeError, r"the preconditioner of \['b'\] must be real, got complex64"),
            ("of a shape", {"a": 1.0, "b": jnp.ones(7)}, ValueError, r"\['b'\] has shape \(7,\), .* \(3,\)"),
        ],
    ),
    "with_preconditioner": (
        lambda arguments: lgv.with_preconditioner(*arguments),
        [
            ("a factory", [optax.adam, lambda *_: 1.0], TypeError, f"transform {A_TRANSFORM} <function adam"),
            ("a pair", [(1, 2), lambda *_: 1.0], TypeError, rf"transform {A_TRANSFORM} \(1, 2\)"),
            ("swapped", [lambda *_: 1.0, optax.identity()], TypeError, f"transform {A_TRANSFORM} <function <lambda>"),
            ("a number", [optax.identity(), 0.5], TypeError, r"\(updates_in, old_state, new_state\), got 0\.5"),
        ],
    ),
    "state of Adam": (
        lambda state: update(adam(), state=state),
        [
            (
                "stock",
                optax.adam(1e-3).init(PARAMS),
                ValueError,
                rf"{PARTS} \(ScaleByAdamState, EmptyState\).* sampling\.from_optax\(stock_state, tx",
            ),
            ("stock with another", lambda s: (*s[:-1], optax.EmptyState()), ValueError, rf"{PARTS} .*EmptyState\)\."),
            ("empty", (), ValueError, rf"{PARTS} \(\)"),
            ("of AdamW", lgv.adamw(1e-3, 1e-3, 0).init(PARAMS), ValueError, f"{PARTS} .*State, EmptyState, EmptyState"),
            ("of BAOAB", baoab().init(PARAMS), ValueError, f"{PARTS} BaoabState"),
            ("noise as a dict", lambda s: (*s[:-1], s[-1]._asdict()), ValueError, f"{PARTS} .*, dict"),
            (
                "noise as a tuple",
                lambda s: (*s[:-1], tuple(s[-1])),
                ValueError,
                rf"{PARTS} .*, \(ArrayImpl, PRNGKeyArray\)",
            ),
            ("no key", noise_with(key=None), TypeError, f"{STATE_KEY_IS} None"),
            ("int for key", noise_with(key=0), TypeError, f"{STATE_KEY_IS} 0"),
            ("raw key", noise_with(key=RAW_KEY), TypeError, rf"{STATE_KEY_IS} Array\(\[0, 0\].*wrap_key_data\(data\)"),
            ("raw key in NumPy", noise_with(key=np.array(RAW_KEY)), TypeError, rf"{STATE_KEY_IS} array\(\[0, 0\]"),
            ("key of rbg", noise_with(key=RBG_KEY), ValueError, "is of rbg, that of this optimiser of threefry2x32"),
            ("keys, without vmap", noise_with(key=KEYS), ValueError, r"an array of keys of shape \(2,\).* vmap"),
        ],
    ),
    "state of Langevin noise": (
        lambda state: update(plain_noise(), state=state),
        [
            ("raw key", lambda s: s._replace(key=RAW_KEY), TypeError, rf"{STATE_KEY_IS} Array\(\[0, 0\]"),
            ("of chains, without vmap", of_chains(plain_noise()), ValueError, r"keys of shape \(2,\).* vmap"),
        ],
    ),
    "state of Euler": (
        lambda state: update(euler(), state=state),
        [
            ("dict", lambda s: s._asdict(), ValueError, f"{ITS_OWN} LangevinState, got dict{RESTORED}"),
            ("tuple", lambda s: tuple(s), ValueError, f"{ITS_OWN} LangevinState, got tuple{RESTORED}"),
            ("of Adam", adam().init(PARAMS), ValueError, f"{ITS_OWN} LangevinState, got tuple{RESTORED}"),
            ("of BAOAB", baoab().init(PARAMS), ValueError, f"{ITS_OWN} LangevinState, got BaoabState{RESTORED}"),
            ("raw key", lambda s: s._replace(key=RAW_KEY), TypeError, rf"{STATE_KEY_IS} Array\(\[0, 0\]"),
        ],
    ),
    "state of BAOAB": (
        lambda state: update(baoab(), state=state),
        [
            ("dict", lambda s: s._asdict(), ValueError, f"{ITS_OWN} BaoabState, got dict{RESTORED}"),
            ("empty", optax.EmptyState(), ValueError, f"{ITS_OWN} BaoabState, got EmptyState{RESTORED}"),
            ("of Euler", euler().init(PARAMS), ValueError, f"{ITS_OWN} BaoabState, got LangevinState{RESTORED}"),
            ("of LOL", lol().init(LAYERS), ValueError, f"{ITS_OWN} BaoabState, got PartitionState{RESTORED}"),
            ("raw key", lambda s: s._replace(key=RAW_KEY), TypeError, rf"{STATE_KEY_IS} Array\(\[0, 0\]"),
            ("keys, without vmap", lambda s: s._replace(key=KEYS), ValueError, r"keys of shape \(2,\).* vmap"),
            ("of chains, without vmap", of_chains(baoab()), ValueError, r"keys of shape \(2,\).* vmap"),
            ("without momenta", lambda s: s._replace(momentum=None), ValueError, f"{MOMENTA.format('baoab')}.*None"),
            ("of another tree", baoab().init({"a": jnp.ones((2, 3))}), ValueError, MOMENTA.format("baoab")),
            ("of ints", lambda s: s._replace(momentum=as_ints(s.momentum)), TypeError, r"\['a'\] is int32"),
        ],
    ),
    "state of adaptive Langevin": (
        lambda state: update(adla(), state=state),
        [
            ("dict", lambda s: s._asdict(), ValueError, f"{ITS_OWN} AdaptiveLangevinState, got dict{RESTORED}"),
            ("of BAOAB", baoab().init(PARAMS), ValueError, f"{ITS_OWN} AdaptiveLangevinState, got BaoabS.*{RESTORED}"),
            ("of another tree", adla().init(OTHER), ValueError, MOMENTA.format("adaptive_langevin")),
        ],
    ),
    # They would broadcast, and give rows of one and the same noise.
    "momenta": (
        lambda bad: update(bad[0], jnp.ones(bad[2]), state=bad[0].init(jnp.ones(bad[1]))),
        [
            (f"of {name}, {old}", [tx, old, now], ValueError, re.escape(f"shape {old} for a gradient of shape {now}"))
            for name, tx in WITH_MOMENTA.items()
            for old, now in [((5,), (3, 5)), ((1,), (5,)), ((2, 3), (3,))]
        ],
    ),
    "state of LOL": (
        lambda state: update(lol(), LAYERS, state=state),
        [
            ("dict", lambda s: s._asdict(), ValueError, f"partition {ITS_OWN} PartitionState, got dict{RESTORED}"),
            ("of Adam", adam().init(LAYERS), ValueError, f"partition {ITS_OWN} PartitionState, got tuple{RESTORED}"),
            ("of BAOAB", baoab().init(LAYERS), ValueError, f"{ITS_OWN} PartitionState, got BaoabState{RESTORED}"),
            ("of LaLa", lala().init(LAYERS), ValueError, f"overdamped_langevin {ITS_OWN} LangevinState, got BaoabS"),
            ("of other layers", lol(layers=2).init(LAYERS), ValueError, MOMENTA.format("baoab")),
        ],
    ),
    "gradients": (
        lambda gradients: update(plain_noise(mask=MASK), gradients=gradients),
        [
            ("of another tree", OTHER, ValueError, rf"{MASK_IS}.*\nfor parameters\n.*'c'"),
            ("list", [*PARAMS.values()], ValueError, rf"{MASK_IS}.*\nfor parameters\n  PyTreeDef\(\[\*, \*\]\)"),
            ("string", "gradients", ValueError, MASK_IS),
            ("ints", as_ints(PARAMS), TypeError, r"noise needs real or complex leaves, .* \['a'\] is int32"),
            ("float0", jax.tree.map(as_float0, PARAMS), TypeError, r"or complex leaves, .* \['a'\] is \[\('float0'"),
        ],
    ),
    "gradients of BAOAB": (
        lambda gradients: update(baoab(), gradients=gradients),
        [
            ("of another tree", OTHER, ValueError, MOMENTA.format("baoab")),
            ("list", [*PARAMS.values()], ValueError, MOMENTA.format("baoab")),
            ("with None", PARAMS | {"a": None}, ValueError, MOMENTA.format("baoab")),
            ("ints", as_ints(PARAMS), TypeError, r"noise needs real or complex leaves, .* \['a'\] is int32"),
            ("complex", COMPLEX, TypeError, r"integrators need real leaves, but \['a'\] is complex64"),
        ],
    ),
    "complex gradients": (
        lambda tx: update(tx, COMPLEX),
        [("Adadelta", lgv.adadelta(1e-3, 1e-3, 0), TypeError, "has no real preconditioner for complex leaves")],
    ),
    "layers": (
        lambda layers: lgv.layer_mask(layers)(LAYERS),
        [
            ("0", 0, ValueError, "layers as a number of layers must be ≥ 1, got 0"),
            ("-1", -1, ValueError, "layers as a number of layers must be ≥ 1, got -1"),
            ("0.0", 0.0, ValueError, r"layers as a fraction must lie in \(0, 1\], got 0\.0"),
            ("1.5", 1.5, ValueError, r"layers as a fraction must lie in \(0, 1\], got 1\.5"),
            ("NaN", np.nan, ValueError, r"layers as a fraction must lie in \(0, 1\], got nan"),
            ("infinite", np.inf, ValueError, r"layers as a fraction must lie in \(0, 1\], got inf"),
            ("bool", np.True_, TypeError, "not a bool, got True"),
            ("None", None, TypeError, f"{LAYERS_ARE} None"),
            ("complex", 1j, TypeError, f"{LAYERS_ARE} 1j"),
            ("JAX array", jnp.array(2), TypeError, rf"{LAYERS_ARE} Array\(2, .* static_args='layers'"),
            ("NumPy array", np.array([0, 1]), TypeError, rf"{LAYERS_ARE} array\(\[0, 1\]\)"),
            ("set", {0}, TypeError, f"{LAYERS_ARE} {{0}}"),
            ("parameters", {"Dense_0": 1}, TypeError, f"{LAYERS_ARE} {{'Dense_0': 1}}"),
            ("names", ["Dense_0"], TypeError, r"must hold indices, got \['Dense_0'\]\. For paths, write a predicate"),
            ("shares", [0.5], TypeError, r"must hold indices, got \[0\.5\]"),
            ("expression", "(", ValueError, r"layers='\(' is no regular expression: missing \)"),
            ("4 of 3", 4, ValueError, f"layers=4 asks for more than {THREE}"),
            ("beyond", [0, 7], ValueError, rf"layers=\[0, 7\] asks for more than {THREE}"),
            ("empty", [], ValueError, rf"layers=\[\] {NONE_OF}"),
            ("empty slice", slice(3, None), ValueError, f"layers=slice.* {NONE_OF}"),
            ("another name", "Conv_0", ValueError, f"layers='Conv_0' {NONE_OF}"),
            ("half a name", "Dense", ValueError, f"layers='Dense' {NONE_OF}"),
            ("no name", "", ValueError, f"layers='' {NONE_OF}"),
            ("predicate", lambda path: False, ValueError, f"layers=<function .* {NONE_OF}"),
        ],
    ),
    "order": (
        lambda order: lgv.layer_mask(1, order)(LAYERS),
        [
            ("string", "Dense_0", TypeError, "order must be a sequence of paths, got the string 'Dense_0'"),
            ("empty", [], ValueError, "order must name at least one layer, got none"),
            ("a layer twice", ["a", "b", "a"], ValueError, r"must name each layer once, got \['a', 'b', 'a'\]"),
            ("a layer less", ["Dense_0", "Dense_1"], ValueError, f"'Dense_2/bias' {NOT_IN}"),
            ("a layer more", [*LAYERS, "Dense_3"], ValueError, r"the layers \['Dense_3'\], which the parameters do"),
            ("of leaves", [f"{name}/kernel" for name in LAYERS], ValueError, f"'Dense_0/bias' {NOT_IN}"),
            ("with a slash", [f"/{name}" for name in LAYERS], ValueError, f"'Dense_0/bias' {NOT_IN}"),
            ("of another model", ["Conv_0", "Conv_1"], ValueError, f"'Dense_0/bias' {NOT_IN}"),
        ],
    ),
    "names that have no order": (
        lambda names: lgv.layer_mask(1)(dict.fromkeys(names, LAYERS["Dense_0"])),
        [
            ("words", ["encoder", "head"], ValueError, r"called: \['encoder', 'head'\]\. Pass order=lang"),
            ("two kinds", ["Conv_0", "Dense_0"], ValueError, "the names of the layers do not say in which order they"),
        ],
    ),
    "scanned": (
        lambda scanned: lgv.layer_mask(1, ["blocks/a", "blocks/b"], scanned=scanned)(STACK),
        [
            ("another name", {"block": 0}, ValueError, r"scanned names \['block'\], which hold none of the layers"),
            ("two lengths", {"blocks": 0}, ValueError, r"leaves under 'blocks' must share one length, got \[2, 3\]"),
            ("no such axis", {"blocks": 2}, ValueError, r"under 'blocks' has no axis 2, got \[\(3, 2\), \(2, 2\)\]"),
        ],
    ),
    "layer_order": (
        lambda model: lgv.layer_order(model, jnp.ones((1, 4))),
        [
            ("parameters", LAYERS, TypeError, f"{MODEL_IS} dict"),
            ("function", lambda x: x, TypeError, f"{MODEL_IS} function"),
            ("class", nn.Dense, TypeError, f"{MODEL_IS} type"),
            ("class of NNX", nnx.Linear, TypeError, f"{MODEL_IS} ModuleMeta"),
            ("state of NNX", nnx.state(nnx.Linear(2, 2, rngs=nnx.Rngs(0))), TypeError, f"{MODEL_IS} State"),
            ("None", None, TypeError, f"{MODEL_IS} NoneType"),
            ("without parameters", NoCalls(), ValueError, "NoCalls calls no module that owns a parameter"),
        ],
    ),
    "part": (
        lambda parts: lgv.partitioned(**{"first": BAOAB.langevin(), "rest": optax.sgd(0.1), **parts}),
        [
            ("factory", dict(first=optax.adam), TypeError, f"first {A_TRANSFORM} <function adam"),
            ("None", dict(rest=None), TypeError, f"rest {A_TRANSFORM} None"),
            ("function", dict(first=lambda updates: updates), TypeError, f"first {A_TRANSFORM} <function"),
            ("pair", dict(rest=(1, 2)), TypeError, rf"rest {A_TRANSFORM} \(1, 2\)"),
            ("MultiSteps", dict(first=optax.MultiSteps(optax.sgd(0.1), 2)), TypeError, f"first {A_TRANSFORM} <optax"),
        ],
    ),
    "noise_like": (
        lambda arguments: lgv.noise_like(*arguments),
        [
            ("ints", [0, 0, jnp.arange(3)], TypeError, r"the leaf \(root\) is int32"),
            ("shapes of ints", [0, 0, jax.ShapeDtypeStruct((3,), int)], TypeError, r"the leaf \(root\) is int32"),
            (
                "twins",
                [0, 0, Twins(jnp.ones(2), jnp.ones(2))],
                ValueError,
                r"with one path .*\['w'\] stand there twice",
            ),
            ("tree for key", [PARAMS["b"], 0, 0], TypeError, rf"{KEY_IS} Array\(\[1\., 1\., 1\.\]"),
            ("no key", [None, 0, PARAMS], TypeError, f"{KEY_IS} None"),
            ("unknown sampler", [0, 0, PARAMS, "uniform"], ValueError, "sampler must be one of .*, got 'uniform'"),
        ],
    ),
    "sampler": (
        lambda draw: update(adam(sampler=lambda key, shape, dtype: draw(shape, dtype))),
        [
            ("of a shape", lambda _, dtype: jnp.ones((), dtype), ValueError, r"shape \(2, 3\) .* returned shape \(\)"),
            ("of a dtype", lambda shape, _: jnp.ones(shape, int), ValueError, "dtype float32, but .* dtype int32"),
        ],
    ),
    "inverse_sqrt_log_schedule": (
        lambda arguments: lgv.inverse_sqrt_log_schedule(*arguments),
        [
            ("init_value < 0", [-1, 0.1], ValueError, "init_value must be ≥ 0, got -1"),
            ("init_value None", [None, 0.1], TypeError, f"init_value {NUMBER} None"),
            ("init_value string", ["1", 0.1], TypeError, f"init_value {NUMBER} '1'"),
            ("decay_rate NaN", [1.0, np.nan], ValueError, "decay_rate must be finite, got nan"),
            ("decay_rate list", [1.0, [0.1]], TypeError, rf"decay_rate {NUMBER} \[0\.1\]"),
        ],
    ),
    "kinetic_temperature": (
        lgv.kinetic_temperature,
        [
            ("Adam", optax.adam(1e-3).init(LAYERS), ValueError, f"{NEEDS_MOMENTA} 0 in"),
            ("Euler", euler().init(LAYERS), ValueError, f"{NEEDS_MOMENTA} 0 in"),
            ("parts", lgv.partitioned(euler(), optax.sgd(0.1)).init(LAYERS), ValueError, f"{NEEDS_MOMENTA} 0 in"),
            ("Optax's parts", one_part(optax.sgd(0.1)).init(LAYERS), ValueError, f"{NEEDS_MOMENTA} 0 in"),
            ("two integrators", optax.chain(baoab(), adla()).init(LAYERS), ValueError, f"{NEEDS_MOMENTA} 2 in"),
            ("two partitions", optax.chain(lol(), lala()).init(LAYERS), ValueError, f"{NEEDS_MOMENTA} 2 in"),
            ("part and integrator", optax.chain(lol(), baoab()).init(LAYERS), ValueError, f"{NEEDS_MOMENTA} 2 in"),
            ("dict", baoab().init(PARAMS)._asdict(), ValueError, f"{NEEDS_MOMENTA} 0 in"),
            ("optimiser", baoab(), ValueError, f"{NEEDS_MOMENTA} 0 in"),
            ("None", None, ValueError, rf"{NEEDS_MOMENTA} 0 in PyTreeDef\(None\)"),
        ],
    ),
    "fold_in": (
        lambda state: lgv.fold_in(state, 0),
        [
            ("Adam", optax.adam(1e-3).init(PARAMS), ValueError, NEEDS_NOISE),
            ("parameters", PARAMS, ValueError, NEEDS_NOISE),
            ("raw key", {"count": jnp.zeros([], jnp.int32), "key": RAW_KEY}, ValueError, NEEDS_NOISE),
            ("optimiser", adam(), ValueError, NEEDS_NOISE),
            ("number", 3, ValueError, rf"{NEEDS_NOISE}\(\*\)"),
        ],
    ),
    "inject_hyperparams": (
        lambda mask: optax.inject_hyperparams(lgv.adam)(1e-3, 1e-3, 0, mask=mask).init(PARAMS),
        [("mask", lgv.layer_mask(1, ["a", "b"]), ValueError, "functions for schedules: write static_args='mask'")],
    ),
    "arguments as Optax has them": (
        lambda arguments: lgv.adam(*arguments),
        [("b1 and b2", [1e-3, 0.9, 0.999], TypeError, rf"{KEY_IS} 0\.999")],
    ),
    "thermostat that freezes": (
        lambda settings: lgv.adaptive_langevin(1.0, key=0, **settings).init(PARAMS),
        [
            ("sigma", dict(temperature=0.1, sigma=10.0, coupling=0.1), UserWarning, "σ²h/2 = 50 and τ = 0.1 does not"),
            ("coupling", dict(temperature=1.0, sigma=0.1, coupling=10.0), UserWarning, r"√\(2εNτ\) = 13\.4, N = 9 en"),
        ],
    ),
}


OPTIMIZER_FACTORIES = {
    "add_preconditioned_noise": noise,
    "add_langevin_noise": plain_noise,
    "adam": adam,
    "lamb": partial(
        lambda learning_rate, sigma, key, **kw: lgv.langevin(optax.lamb, sigma, key, **kw)(learning_rate),
        learning_rate=1e-3,
        sigma=1e-3,
        key=0,
    ),
}
INTEGRATOR_FACTORIES = {i.id: partial(getattr(lgv, i.name), **i.arguments()) for i in INTEGRATORS}


def rows(table):
    return [
        pytest.param(call, *row, id=f"{heading} {what}")
        for heading, (call, section) in table.items()
        for what, *row in section
    ]


@pytest.mark.parametrize("make", OPTIMIZER_FACTORIES.values(), ids=OPTIMIZER_FACTORIES)
@pytest.mark.parametrize(("call", "bad", "error", "message"), rows(EVERY_OPTIMIZER))
def test_every_optimiser(make, call, bad, error, message):
    with pytest.raises(error, match=message):
        call(make, bad)


@pytest.mark.parametrize(
    ("make", "call", "bad", "error", "message"),
    [
        pytest.param(make, *row.values, id=f"{row.id}-{name}")
        for row in rows(EVERY_INTEGRATOR)
        for name, make in INTEGRATOR_FACTORIES.items()
        if not isinstance(bad := row.values[1], dict) or {*bad} <= {*inspect.signature(make.func).parameters}
    ],
)
def test_every_integrator(make, call, bad, error, message):
    with pytest.raises(error, match=message):
        call(make, bad)


@pytest.mark.parametrize(("call", "bad", "error", "message"), rows(BAD))
def test_bad_input(call, bad, error, message):
    with pytest.raises(error, match=message):
        call(bad)


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        *[
            (partial(make, **{name: lambda count: jnp.ones(5)}), name)
            for make in (sgd, noise, plain_noise)
            for name in ("sigma", "learning_rate")
        ],
        *[
            (partial(make, **{name: lambda count: jnp.ones((1,))}), name)
            for make in (euler, baoab, adla)
            for name in ("step_size", "temperature")
        ],
    ],
)
def test_a_schedule_of_arrays_raises_when_it_is_read(make, bad):
    """It would give a leaf of shape () the shape (5,), and scale the columns of a matrix one by one."""
    params = {"w": jnp.ones(())}
    kwargs = {"preconditioner": {"w": 1.0}} if make.func is noise.func else {}
    tx = make()
    for step in (tx.update, jax.jit(tx.update)):
        with pytest.raises(ValueError, match=rf"{bad} {SCALAR} \(.*\. {SWEEP}"):
            step(params, tx.init(params), params, **kwargs)


@pytest.mark.parametrize("make", [sgd, plain_noise])
def test_a_traced_array_for_sigma_raises(make):
    params = {"w": jnp.ones((4, 5))}
    with pytest.raises(ValueError, match=rf"sigma {SCALAR} \(5,\)"):
        jax.jit(lambda sigma: (tx := make(sigma=sigma)).update(params, tx.init(params)))(jnp.ones(5))
    # What the message says to write.
    swept = jax.vmap(lambda sigma: (tx := make(sigma=sigma)).update(params, tx.init(params))[0])(jnp.arange(5.0))
    assert swept["w"].shape == (5, 4, 5)


# What may look like bad input, and is none.


def test_integer_leaves_pass_where_the_mask_leaves_them_out():
    params = {"w": jnp.ones(3), "steps": jnp.ones(3, jnp.int32)}
    tx = optax.masked(lgv.sgd(0.1, 0.1, 0), {"w": True, "steps": False})
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["steps"].dtype == jnp.int32


def test_a_static_mask_passes_inject_hyperparams():
    params, mask = {"a": {"w": jnp.ones(2)}, "b": {"w": jnp.ones(2)}}, lgv.layer_mask(1, ["a", "b"])
    tx = optax.inject_hyperparams(lgv.adam, static_args=("mask", "sampler", "key"))(1e-3, 1e-3, 0, mask=mask)
    tx.update(params, tx.init(params), params)


def test_kinetic_temperature_next_to_a_partition_without_momenta():
    state = optax.chain(one_part(optax.clip(1.0)), BAOAB.langevin()).init(LAYERS)
    assert float(lgv.kinetic_temperature(state)) == 0.0
