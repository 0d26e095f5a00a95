"""The recursions are Optax's: P times the momentum, both computed in NumPy, is the update of the stock optimiser."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.cases import first_of_each_name
from tests.optimizers import recursions
from tests.optimizers.recursions import Step, decay, momentum, preconditioner


class Row(NamedTuple):
    """One optimiser with arguments. ``behind`` is what it does with the P·momentum of all steps until now.

    Novograd's decay goes through the same trace; all others add theirs to the last step.
    """

    name: str
    kwargs: dict[str, Any] = {}
    behind: Callable[[list[np.ndarray]], np.ndarray] = lambda x: x[-1]

    @property
    def id(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" if np.isscalar(v) else k for k, v in self.kwargs.items())])

    def arguments(self) -> dict[str, Any]:
        takes_one = "learning_rate" in inspect.signature(alias(self.name)).parameters
        return {"learning_rate": 0.1, **self.kwargs} if takes_one else self.kwargs

    def stock(self) -> optax.GradientTransformationExtraArgs:
        with warnings.catch_warnings(category=DeprecationWarning, action="ignore"):
            return optax.with_extra_args_support(alias(self.name)(**self.arguments()))


def alias(name):
    return getattr(optax if hasattr(optax, name) else optax.contrib, name)


def trace(b, nesterov=False):
    def behind(x):
        m = recursions.accumulated(x, b)
        return x[-1] + b * m if nesterov else m

    return behind


def average(b, clip=False, nesterov=False):
    def behind(x):
        if clip:  # the bound is the fourth root of the number of the steps before
            x = [np.clip(u, -(t**0.25), t**0.25) for t, u in enumerate(x)]
        m = recursions.average(x, b)
        return b * m + (1 - b) * x[-1] if nesterov else m

    return behind


def optimistic(alpha, beta):
    return lambda x: recursions.extrapolated(x, alpha, beta)


def falling(count):
    return 0.1 / (1 + count)


# The Hessian diagonal is handed to `update`.
HANDED_IN = optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), lambda u, state, params=None, *, hessian, **extra: (hessian, state)
)
SOPHIA = {"hessian_diagonal_fn": HANDED_IN, "update_interval": 2}
MATRICES = {"w": True, "b": False, "k": True, "s": False}
MATRICES_FN = lambda tree: {k: MATRICES[k] for k in tree}

ROWS = [
    Row("sgd"),
    Row("sgd", {"momentum": 0.9}),
    Row("sgd", {"momentum": 0.9, "nesterov": True}),
    Row("optimistic_gradient_descent"),
    Row("optimistic_gradient_descent", {"alpha": 0.7, "beta": 0.4}),
    Row("adam"),
    Row("adam", {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-2}),
    Row("adam", {"nesterov": True}),
    Row("adamw", {"weight_decay": 0.1, "mask": MATRICES}),
    Row("adamw", {"weight_decay": falling, "mask": MATRICES_FN, "nesterov": True}),
    Row("nadam"),
    Row("nadamw"),
    Row("amsgrad", {"b2": 0.5, "eps_root": 1e-2}),
    Row("amsgrad", {"b2": 0.5, "bias_correction_nu": False}),
    Row("amsgrad", {"b2": 0.5, "bias_correction_mu": False}),
    Row("adamax", {"b2": 0.7, "eps": 1e-2}),
    Row("adamaxw", {"weight_decay": 0.1}),
    Row("adabelief"),
    Row("adabelief", {"eps": 1e-3, "eps_root": 1e-2, "nesterov": True}),
    Row("yogi"),
    Row("yogi", {"b2": 0.6}),
    Row("radam"),
    Row("radam", {"threshold": 4.5, "eps_root": 1e-2}),  # corrected from the fifth step on
    Row("radam", {"threshold": 4.5, "nesterov": True}),
    Row("adan"),
    Row("adan", {"eps": 1e-3, "eps_root": 1e-2, "weight_decay": 0.1}),
    Row("lamb"),
    Row("lamb", {"eps": 1e-3, "eps_root": 1e-2, "weight_decay": 0.1, "mask": MATRICES}),
    Row("rmsprop"),
    Row("rmsprop", {"eps": 1e-2, "eps_in_sqrt": False, "initial_scale": 0.5, "bias_correction": True}),
    Row("rmsprop", {"centered": True, "initial_scale": 0.5}),
    Row("rmsprop", {"centered": True, "eps": 1e-2, "bias_correction": True}),
    Row("rmsprop", {"centered": True, "eps": 1e-2, "eps_in_sqrt": False}),
    Row("rmsprop", {"momentum": 0.9}, trace(0.9)),
    Row("rmsprop", {"centered": True, "momentum": 0.9, "nesterov": True}, trace(0.9, nesterov=True)),
    Row("adagrad"),
    Row("adagrad", {"initial_accumulator_value": 0.0, "eps": 1e-2}),
    Row("adadelta"),
    Row("adadelta", {"weight_decay": 0.5, "eps": 1e-2}),
    Row("adadelta", {"weight_decay": falling, "weight_decay_mask": MATRICES}),
    Row("adafactor"),
    Row("adafactor", {"min_dim_size_to_factor": 3, "clipping_threshold": 0.5}),
    Row("adafactor", {"min_dim_size_to_factor": 1, "clipping_threshold": None, "eps": 1e-2}),
    Row("adafactor", {"factored": False, "multiply_by_parameter_scale": False, "decay_rate": 0.5, "decay_offset": -2}),
    Row("adafactor", {"learning_rate": falling, "weight_decay_rate": falling}),
    Row("adafactor", {"learning_rate": None, "weight_decay_rate": 0.1, "weight_decay_mask": MATRICES}),
    Row("adafactor", {"min_dim_size_to_factor": 3, "momentum": 0.9, "weight_decay_rate": 0.1}, average(0.9)),
    Row("sm3", {"momentum": 0.0}),
    Row("sm3", {}, average(0.9)),
    Row("acprop"),
    Row("acprop", {"eps": 1e-3, "eps_root": 1e-2, "weight_decay": 0.1}),
    Row("adopt", {"b1": 0.0, "use_clipping": False}),
    Row("adopt", {"b2": 0.9, "eps": 0.5, "use_clipping": False}, average(0.9)),
    Row("adopt", {"nesterov": True}, average(0.9, clip=True, nesterov=True)),
    Row("ademamix", {"weight_decay": 0.1}),
    Row("ademamix", {"b3": lambda t: 0.9 + 0.01 * t, "alpha": lambda t: 1.0 + t, "eps_root": 1e-2}),
    Row("simplified_ademamix", {"weight_decay": 0.1}),
    Row("simplified_ademamix", {"alpha": lambda t: 1.0 + t, "eps_root": 1e-2}),
    Row("lars", {"momentum": 0.0}),
    Row("lars", {"weight_decay": 0.5, "trust_coefficient": 0.1, "eps": 1e-2}, trace(0.9)),
    Row("lars", {"trust_ratio_mask": MATRICES, "momentum": 0.5, "nesterov": True}, trace(0.5, nesterov=True)),
    Row("lars", {"weight_decay": falling, "weight_decay_mask": MATRICES_FN, "momentum": 0.0}),
    Row("fromage"),
    Row("fromage", {"learning_rate": falling, "min_norm": 2.0}),
    Row("fromage", {"min_norm": 0.0}),
    Row("novograd", {"b1": 0.0}),
    Row("novograd", {"b2": 0.6, "eps": 1e-2, "eps_root": 1e-2, "weight_decay": 0.1}, trace(0.9)),
    Row("sophia", {**SOPHIA, "clip_threshold": None}),
    Row("sophia", {**SOPHIA, "eps": 1e-2, "gamma": 0.5, "b2": 0.7}, lambda x: np.clip(x[-1], -1, 1)),
    Row("optimistic_adam", {}, optimistic(1.0, 1.0)),
    Row("optimistic_adam", {"optimism": 0.03, "nesterov": False}, optimistic(1.0, 0.3)),
    Row("optimistic_adam_v2", {}, optimistic(1.0, 1.0)),
    Row("optimistic_adam_v2", {"alpha": 0.7, "beta": 0.4, "eps_root": 1e-2}, optimistic(0.7, 0.4)),
    Row("polyak_sgd"),
    Row("polyak_sgd", {"scaling": falling, "max_learning_rate": 40.0, "eps": 1e-2, "f_min": 1.0}),
    Row("polyak_sgd", {"variant": "sps+", "max_learning_rate": 100.0, "f_min": 9.0, "scaling": 0.1}),
    Row("momo", {"learning_rate": 1.0}),
    Row("momo", {"learning_rate": lambda t: 0.25 + 0.5 * t, "lower_bound": 0.5, "weight_decay": 0.1}),
    Row("momo", {"learning_rate": 0.3, "lower_bound": 0.5, "weight_decay": 0.1, "adapt_lower_bound": True}),
    Row("momo", {"learning_rate": 0.01, "lower_bound": -9.0, "adapt_lower_bound": True}),  # resets it
    Row("momo_adam", {"learning_rate": 3.0}),
    Row("momo_adam", {"learning_rate": falling, "eps": 1e-2, "lower_bound": 0.5, "weight_decay": 0.1}),
    Row("momo_adam", {"learning_rate": 0.3, "lower_bound": 0.5, "weight_decay": 0.1, "adapt_lower_bound": True}),
    Row("momo_adam", {"learning_rate": lambda t: 0.01 + t, "lower_bound": -9.0, "adapt_lower_bound": True}),
    Row("prodigy", {"learning_rate": 1.0}),
    Row("prodigy", {"learning_rate": falling, "estim_lr0": 1e-4, "eps": 1e-2, "weight_decay": 0.1}),
    Row("prodigy", {"beta3": 0.5, "estim_lr0": 1e-2, "estim_lr_coef": 9.0, "safeguard_warmup": True}),
    Row("dadapt_adamw", {"learning_rate": 1.0}),
    Row("dadapt_adamw", {"learning_rate": lambda t: 2 - 0.2 * t, "estim_lr0": 1e-2, "eps": 1e-2, "weight_decay": 0.1}),
]


def played(name):
    """Random steps, downhill on the whole, so that estimates of a step size grow; the bias is 0, as at its start.

    SM3 takes no scalars, and RAdam's P is 1 in the first steps.
    """
    draw = np.random.default_rng(0)
    shapes = {"w": (3, 4), "b": (4,), "k": (2, 3, 2), "s": ()}
    if name == "sm3":
        del shapes["s"]
    tree = lambda mean, spread: {k: np.asarray(draw.normal(mean, spread, shape)) for k, shape in shapes.items()}
    return [
        Step(tree(0.5, 1.0), tree(-0.2 * t, 0.5) | {"b": np.zeros(4)}, draw.uniform(6.0, 12.0), tree(0.5, 1.0))
        for t in range(6 if name == "radam" else 4)
    ]


@pytest.mark.parametrize("row", first_of_each_name(ROWS))
def test_stock_update_is_p_times_the_momentum(row):
    steps, kwargs = played(row.name), row.arguments()
    products, decays = [], []
    # Op by op: each is compiled once for all rows.
    with jax.enable_x64(True), jax.disable_jit():
        tx = row.stock()
        state = tx.init(jax.tree.map(jnp.asarray, steps[0].params))
        for t, step in enumerate(steps):
            gradient, params, hessian = jax.tree.map(jnp.asarray, (step.gradient, step.params, step.hessian))
            stock, state = tx.update(gradient, state, params, value=jnp.asarray(step.value), hessian=hessian)
            past = steps[: t + 1]
            p, m, d = (part(row.name, past, **kwargs) for part in (preconditioner, momentum, decay))
            assert {k: x.shape for k, x in p.items()} == {k: x.shape for k, x in step.gradient.items()}
            products.append({k: p[k] * m[k] for k in p})
            decays.append(d)
            if row.name == "sophia" and t == 0:
                continue  # without an h it moves by ε⁻¹ times the momentum, clipped
            gamma = recursions.at(kwargs.get("learning_rate", kwargs.get("scaling", 1.0)) or 1.0, t)
            theirs = {k: np.asarray(u) / -gamma for k, u in stock.items()}
            largest = max(np.abs(u).max() for u in theirs.values())
            rtol = 1e-6 if row.name == "adafactor" else 1e-10  # whose rate of decay is float32 in Optax
            for k in p:
                ours = row.behind([x[k] for x in products])
                ours = ours + (row.behind([d[k] for d in decays]) if row.name == "novograd" else d[k])
                np.testing.assert_allclose(ours, theirs[k], rtol=rtol, atol=rtol / 100 * largest, err_msg=k)


# P of a parameter 2 whose gradient has been 0 for two steps.
STILL = [
    ("adagrad", {"initial_accumulator_value": 0.0}, 0.0),
    ("sm3", {}, 0.0),
    ("polyak_sgd", {}, 0.0),
    ("momo", {}, 0.0),
    ("momo_adam", {}, 0.0),
    ("lars", {}, 1.0),
    ("lamb", {}, 1e6),
    ("lamb", {"weight_decay": 0.5}, 2e6),
    ("fromage", {"learning_rate": 0.75, "min_norm": 0.0}, 0.8),
    ("fromage", {"learning_rate": 0.75, "min_norm": 1.0}, 1.6),
    ("adam", {"eps": 1e-3}, 1e3),
    ("adam", {"eps": 1e-3, "eps_root": 9e-6}, 1 / 4e-3),
    ("adafactor", {"multiply_by_parameter_scale": False}, 1e15),
    ("adafactor", {}, 2e15),
    ("adopt", {"eps": 1e-3}, 1e3),
    ("sophia", {"eps": 1e-3}, 1e3),
    ("acprop", {"eps": 0.25, "eps_root": 0.0625}, 1 / (np.sqrt(0.0625 / 0.001) + 0.25)),
]


@pytest.mark.parametrize("name, kwargs, expected", STILL)
def test_p_without_a_gradient(name, kwargs, expected):
    step = Step({"w": np.zeros(1)}, {"w": np.full(1, 2.0)}, 1.0, {"w": np.zeros(1)})
    np.testing.assert_allclose(preconditioner(name, [step, step], **kwargs)["w"], expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["adopt", "sophia"])
def test_no_p_before_the_first_estimate(name):
    assert all(np.all(p == 0) for p in preconditioner(name, played(name)[:1]).values())


@pytest.mark.parametrize("name", sorted({row.name for row in ROWS}))
def test_arguments_and_defaults_are_optax_s(name):
    recursion = {**recursions.PER_LEAF, **recursions.WHOLE_TREE}[name]
    ours, theirs = (inspect.signature(f).parameters for f in (recursion, alias(name)))
    assert list(ours)[1:] == list(theirs)
    for k, argument in theirs.items():
        if argument.default is not argument.empty and k not in ("clip_value_fn", "hessian_diagonal_fn"):
            assert ours[k].default == argument.default, k


def test_every_recursion_is_compared():
    assert {row.name for row in ROWS} == {*recursions.PER_LEAF, *recursions.WHOLE_TREE}
