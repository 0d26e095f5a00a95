"""The tables that the contract tests run over: a new optimiser, integrator or scaler joins by one row."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import langevin_optax as lgv


def by_default(chosen, every):
    """The parameters of a test that runs these by default, and all with -m slow."""
    ids = [str(getattr(value, "id", value)) for value in every]
    assert set(chosen) <= set(ids), f"{chosen} are not all in {ids}"
    slow = [() if name in chosen else pytest.mark.slow for name in ids]
    return [pytest.param(value, marks=mark, id=name) for value, mark, name in zip(every, slow, ids, strict=True)]


def first_of_each_name(rows):
    """By default the first row of each name, centred or not; all with -m slow."""
    kinds = [(row.name, "centered" in row.kwargs) for row in rows]
    return [
        pytest.param(row, marks=pytest.mark.slow if kinds[i] in kinds[:i] else (), id=row.id)
        for i, row in enumerate(rows)
    ]


class Optimizer(NamedTuple):
    """One optimiser of the package, and the stock one whose Langevin version it is."""

    name: str
    kwargs: dict[str, Any] = {}

    @property
    def id(self) -> str:
        return "-".join([self.name, *self.kwargs])

    def langevin(self, learning_rate=1e-2, sigma=1e-2, key=0, **kwargs) -> optax.GradientTransformationExtraArgs:
        return getattr(lgv, self.name)(learning_rate, sigma, key, **self.kwargs, **kwargs)

    def quiet(self) -> optax.GradientTransformationExtraArgs:
        return self.langevin(sigma=0.0)

    def stock(self, learning_rate=1e-2) -> optax.GradientTransformationExtraArgs:
        eps = EPS.get(self.name)
        return getattr(optax, self.name)(learning_rate, **({} if eps is None else {"eps": eps}), **self.kwargs)


# The defaults of eps in which the package differs from Optax, written out.
EPS = {
    "adam": 1e-6,
    "adamw": 1e-6,
    "nadam": 1e-6,
    "amsgrad": 1e-6,
    "adamax": 1e-6,
    "adabelief": 1e-6,
    "radam": 1e-6,
    "rmsprop": 1e-7,
}

OPTIMIZERS = [
    Optimizer("sgd"),
    Optimizer("sgd", {"momentum": 0.9, "nesterov": True}),
    Optimizer("adam"),
    Optimizer("adamw"),
    Optimizer("nadam"),
    Optimizer("amsgrad"),
    Optimizer("adamax"),
    Optimizer("adabelief"),
    Optimizer("yogi"),
    Optimizer("radam"),
    Optimizer("rmsprop"),
    Optimizer("rmsprop", {"momentum": 0.9}),
    Optimizer("rmsprop", {"centered": True, "eps_in_sqrt": False}),
    Optimizer("adagrad"),
    Optimizer("adadelta", {"weight_decay": 1e-3}),
]


class Alias(NamedTuple):
    """One alias of Optax that has no explicit function here: by the engine. ``schedules``: whether γ may be one."""

    name: str
    kwargs: dict[str, Any] = {}
    learning_rate: str = "learning_rate"
    schedules: bool = True

    @property
    def id(self) -> str:
        return "-".join([self.name, *self.kwargs])

    @property
    def function(self) -> Any:
        return getattr(optax, self.name, None) or getattr(optax.contrib, self.name)

    def langevin(self, learning_rate=1e-2, sigma=1e-2, key=0, **kwargs) -> optax.GradientTransformationExtraArgs:
        build = lgv.langevin(self.function, sigma, key, **kwargs)
        return build(**{self.learning_rate: learning_rate}, **self.kwargs)

    def quiet(self) -> optax.GradientTransformationExtraArgs:
        return self.langevin(sigma=0.0)

    def stock(self, learning_rate=1e-2) -> optax.GradientTransformationExtraArgs:
        stock = self.function(**{self.learning_rate: learning_rate}, **self.kwargs)
        return optax.with_extra_args_support(stock)


ALIASES = [
    Alias("adamaxw"),
    Alias("nadamw", {"weight_decay": 1e-3}),
    Alias("adafactor"),
    Alias("adafactor", {"min_dim_size_to_factor": 2, "momentum": 0.5, "weight_decay_rate": 1e-3}),
    Alias("adan", {"weight_decay": 1e-3}),
    Alias("lamb", {"weight_decay": 1e-3}),
    Alias("lars", {"weight_decay": 1e-3, "trust_coefficient": 0.1}),
    Alias("fromage"),
    Alias("novograd", {"weight_decay": 1e-3}),
    Alias("sm3", schedules=False),
    Alias("optimistic_adam", schedules=False),
    Alias("optimistic_adam_v2"),
    Alias("optimistic_gradient_descent"),
    Alias("polyak_sgd", {"f_min": -10.0}, learning_rate="scaling"),
    Alias("acprop"),
    Alias("ademamix"),
    Alias("simplified_ademamix", {"alpha": 0.5}),
    Alias("adopt"),
    Alias("sophia", {"update_interval": 2}),
    Alias("prodigy", {"estim_lr0": 1e-2}),
    Alias("dadapt_adamw", {"estim_lr0": 1e-2}),
    Alias("momo", {"lower_bound": -10.0}),
    Alias("momo_adam", {"lower_bound": -10.0, "weight_decay": 1e-3}),
]


class Matrix(NamedTuple):
    """One optimiser whose P is a matrix; the stock one is its scaler and the learning rate, without noise."""

    name: str
    kwargs: dict[str, Any] = {}

    @property
    def id(self) -> str:
        return self.name

    def langevin(self, learning_rate=1e-2, sigma=1e-2, key=0, **kwargs) -> optax.GradientTransformationExtraArgs:
        return getattr(lgv, self.name)(learning_rate, sigma, key, **self.kwargs, **kwargs)

    def quiet(self) -> optax.GradientTransformationExtraArgs:
        return self.langevin(sigma=0.0)

    def stock(self, learning_rate=1e-2) -> optax.GradientTransformationExtraArgs:
        scaler = getattr(lgv, f"scale_by_{self.name}")(**self.kwargs)
        return optax.chain(scaler, optax.identity(), optax.scale_by_learning_rate(learning_rate))


MATRICES = [
    Matrix("soap", {"eps": 1e-4, "precondition_frequency": 2}),
    Matrix("shampoo", {"eps": 1e-4, "precondition_frequency": 2}),
    Matrix("prong", {"precondition_frequency": 2}),
]
# Of the layers of `params_like`, for prong.
COVARIANCES = {
    "Dense_0": jnp.eye(4) + 0.5,
    "Dense_1": jnp.eye(3) - 0.2,
}


class Integrator(NamedTuple):
    """One integrator of the package. ``sizes`` are the arguments that its noise is proportional to.

    ``parts`` are the integrators of its first layers and of the rest, if it has two.
    """

    name: str
    kwargs: dict[str, Any] = {}
    sizes: tuple[str, ...] = ("temperature",)
    parts: tuple["Integrator", ...] = ()

    @property
    def id(self) -> str:
        return "-".join([self.name, *([self.kwargs["scheme"]] if "scheme" in self.kwargs else [])])

    def arguments(self, step_size=0.1, temperature=0.1, key=0, **kwargs) -> dict[str, Any]:
        return {"step_size": step_size, "temperature": temperature, "key": key, **self.kwargs, **kwargs}

    def langevin(self, *args, **kwargs) -> optax.GradientTransformationExtraArgs:
        return getattr(lgv, self.name)(**self.arguments(*args, **kwargs))

    def quiet(self) -> optax.GradientTransformationExtraArgs:
        return self.langevin(**dict.fromkeys(self.sizes, 0.0))

    def called_in(self, order) -> dict[str, Any]:
        """The arguments that make the first layer of ``order`` the first part."""
        return {"layers": 1, "order": order} if self.parts else {}


EULER = Integrator("overdamped_langevin")
MATTHEWS = Integrator("overdamped_langevin", {"scheme": "leimkuhler_matthews"})
OF_LOL = MATTHEWS._replace(kwargs={**MATTHEWS.kwargs, "step_size": 0.1**2 / 2})
BAOAB = Integrator("baoab", {"friction": 1.0})
ADLA = Integrator("adaptive_langevin", {"sigma": 1.0, "coupling": 0.1}, sizes=("sigma",))
# The first layer of `params_like`.
FIRST = {"layers": "Dense_0"}

INTEGRATORS = [
    EULER,
    MATTHEWS,
    BAOAB,
    ADLA,
    Integrator("adlala", {**ADLA.kwargs, **BAOAB.kwargs, **FIRST}, ("temperature", "sigma"), (ADLA, BAOAB)),
    Integrator("lol", {**BAOAB.kwargs, **FIRST}, parts=(BAOAB, OF_LOL)),
    Integrator("lala", {**BAOAB.kwargs, **FIRST}, parts=(BAOAB, BAOAB)),
]

# What is saved in one process and resumed in another, each with a kind of key.
RESUMED = [
    ("adam", "int"),
    ("rmsprop", "threefry2x32"),
    ("sgd", "rbg"),
    ("overdamped_langevin-leimkuhler_matthews", "int"),
    ("baoab", "threefry2x32"),
    ("adaptive_langevin", "int"),
    ("adlala", "rbg"),
]


def resumed(name, impl) -> optax.GradientTransformationExtraArgs:
    """One of `RESUMED`, all of whose schedules change in every step."""
    (row,) = [row for row in (*OPTIMIZERS, *INTEGRATORS) if row.id == name]
    key = 5 if impl == "int" else jax.random.key(5, impl=impl)
    return row.langevin(optax.linear_schedule(1e-2, 0.0, 20), optax.linear_schedule(1e-1, 0.0, 20), key)


class Scaler(NamedTuple):
    """One publishing scaler: the stock one has the same name in Optax.

    ``momentum(gradients)`` is what P multiplies after these gradients, in float64; ``dead`` is P of a coordinate whose
    gradient has always been 0, after three steps.
    """

    name: str
    kwargs: dict[str, Any]
    momentum: Any
    dead: float

    @property
    def id(self) -> str:
        return "-".join([self.name, *map(str, self.kwargs)])

    def make(self) -> optax.GradientTransformationExtraArgs:
        return getattr(lgv, self.name)(**self.kwargs)

    def stock(self) -> optax.GradientTransformation:
        return getattr(optax, self.name)(**self.kwargs)


def last(gradients):
    return gradients[-1]


def average(gradients, b=0.9, start=0.0, debias=True):
    mean = np.full_like(gradients[0], start)
    for g in gradients:
        mean = b * mean + (1 - b) * g
    return mean / (1 - b ** len(gradients)) if debias else mean


def nesterov(gradients, b=0.9):
    t = len(gradients)
    mean = average(gradients, b, debias=False) / (1 - b ** (t + 1))
    return b * mean + (1 - b) * gradients[-1] / (1 - b**t)


# After three steps of RAdam ρ is below the threshold, so that P = 1.
SCALERS = [
    Scaler("scale_by_adam", {"eps": 1e-4}, average, 1e4),
    Scaler("scale_by_adam", {"eps": 1e-4, "eps_root": 1e-6, "nesterov": True}, nesterov, 1 / (1e-3 + 1e-4)),
    Scaler("scale_by_amsgrad", {"eps": 1e-4}, average, 1e4),
    Scaler("scale_by_adamax", {"eps": 1e-4}, average, 1e4),
    # ν of a dead coordinate is ε_root (1 + β₂ + β₂²) after three steps, and 1 − β₂³ divides it again.
    Scaler("scale_by_belief", {"eps": 1e-4, "eps_root": 1e-8}, average, 1 / (np.sqrt(1e-8 / 1e-3) + 1e-4)),
    Scaler("scale_by_belief", {"eps": 1e-4, "eps_root": 1e-8, "nesterov": True}, nesterov, 1 / (np.sqrt(1e-5) + 1e-4)),
    Scaler("scale_by_yogi", {}, lambda g: average(g, start=1e-6), 1 / (np.sqrt(1e-6 / (1 - 0.999**3)) + 1e-3)),
    Scaler("scale_by_radam", {"eps": 1e-4}, average, 1.0),
    Scaler("scale_by_radam", {"eps": 1e-4, "b2": 0.9, "threshold": 4.5, "nesterov": True}, nesterov, 1.0),
    Scaler("scale_by_rms", {"eps": 1e-6}, last, 1e3),
    Scaler("scale_by_rms", {"eps": 1e-4, "eps_in_sqrt": False, "bias_correction": True}, last, 1e4),
    Scaler("scale_by_stddev", {"eps": 1e-6}, last, 1e3),
    Scaler("scale_by_stddev", {"eps": 1e-4, "eps_in_sqrt": False, "bias_correction": True}, last, 1e4),
    Scaler("scale_by_rss", {}, last, 1 / np.sqrt(0.1 + 1e-7)),
    Scaler("scale_by_rss", {"initial_accumulator_value": 0.0}, last, 0.0),
    Scaler("scale_by_adadelta", {}, last, 1.0),
]


def params_like(dtype=jnp.float32, row=None):
    """A small tree with two leaves of one shape, so that a shared key would show."""
    key = jax.random.key(1)
    shapes = {"Dense_0": {"kernel": (3, 4), "bias": (4,)}, "Dense_1": {"kernel": (3, 4)}, "scale": ()}
    if row is not None and row.name == "sm3":  # Optax's takes no scalars
        shapes["scale"] = (1,)
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        treedef, [jax.random.normal(k, s, jnp.float32).astype(dtype) for k, s in zip(keys, leaves, strict=True)]
    )


def loss(params):
    """Neither convex nor symmetric, with gradients of many sizes."""
    return sum((jnp.sin(3 * p) + 0.1 * p**2).sum() for p in jax.tree.leaves(params))


def gradients_like(params, steps, scale=0.1):
    """A list of ``steps`` random gradients, each leaf with its own."""
    leaves, treedef = jax.tree.flatten(params)

    def gradient(step):
        keys = jax.random.split(jax.random.key(100 + step), len(leaves))
        return [scale * jax.random.normal(k, p.shape, p.dtype) for k, p in zip(keys, leaves, strict=True)]

    return [jax.tree.unflatten(treedef, gradient(step)) for step in range(steps)]


def bits(tree):
    """The leaves of a tree as bytes, keys as their data."""
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x).tobytes() for x in jax.tree.leaves(tree)]


def is_key(x):
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def run(tx, params, steps, state=None):
    """``steps`` steps of ``tx`` on ``loss``, in one scan."""

    def step(carry, _):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradients, state, params, value=value, obj_fn=loss, input_covariances=COVARIANCES)
        return (optax.apply_updates(params, updates), state), None

    state = tx.init(params) if state is None else state
    return jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])((params, state))
