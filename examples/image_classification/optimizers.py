"""The optimisers, by name: ``adam`` is Optax's, ``l-adam`` Langevin Adam, ``ll-adam`` Layer Langevin Adam."""

from collections.abc import Callable, Sequence
from typing import Any

import optax

import langevin_optax as lgv
from examples.image_classification.task import Task

Factory = Callable[[Any], optax.GradientTransformationExtraArgs]  # from the key of the noise

FAMILIES = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "amsgrad": "AMSGrad",
    "adamax": "AdaMax",
    "adabelief": "AdaBelief",
    "yogi": "Yogi",
    "radam": "RAdam",
    "rmsprop": "RMSprop",
    "adagrad": "AdaGrad",
    "adadelta": "Adadelta",
}
INTEGRATORS = {"baoab": "BAOAB", "overdamped": "Overdamped", "adlala": "AdLaLa", "lol": "LOL", "lala": "LaLa"}
NAMES = (*(prefix + name for name in FAMILIES for prefix in ("", "l-", "ll-")), "sgld", *INTEGRATORS)

# γ, or the step size h of an integrator, and σ, of those that need others than Adam's.
LEARNING_RATES = {"sgd": 0.1, "adagrad": 0.01, "adadelta": 0.1} | dict.fromkeys(INTEGRATORS, 0.1)
SIGMAS = {"adadelta": 0.05}


def family(name: str) -> str:
    """The optimiser that it is a version of, or ``integrators``."""
    name = "sgd" if name == "sgld" else name.removeprefix("ll-").removeprefix("l-")
    return "integrators" if name in INTEGRATORS else name


def is_langevin(name: str) -> bool:
    """Whether it has a σ: whether it is a Langevin version of an optimiser of Optax."""
    return name.startswith(("l-", "ll-")) or name == "sgld"


def label(task: Task) -> str:
    name = task.optimizer
    if name == "sgld":
        return "SGLD"
    if name in INTEGRATORS:
        return INTEGRATORS[name]
    prefix = name[: -len(family(name))].upper()
    layers = task.layers
    if layers is None:
        return prefix + FAMILIES[family(name)]
    first = f"{layers * 100:g} %" if isinstance(layers, float) else f"first {layers}" if layers > 1 else "first layer"
    return f"{prefix}{FAMILIES[family(name)]} {first}"


def build(task: Task, order: Sequence[str], steps: int) -> Factory:
    """``order`` is that of the model's layers, ``steps`` the number of steps of the run."""
    name = task.optimizer
    gamma = learning_rate_schedule(task, steps)
    if name in INTEGRATORS:
        return _integrator(task, gamma, order)
    plain: Any = family(name)
    if not is_langevin(name):
        eps = {} if task.plain_eps is None else {"eps": task.plain_eps}
        return lambda key: optax.with_extra_args_support(getattr(optax, plain)(gamma, **eps))
    mask = None if task.layers is None else lgv.layer_mask(task.layers, order)
    sigma = sigma_schedule(task, steps)
    return lambda key: getattr(lgv, plain)(gamma, sigma, key=key, mask=mask, max_noise=task.max_noise)


def _integrator(task: Task, h: Any, order: Sequence[str]) -> Factory:
    tau: Any = task.temperature
    friction: Any = task.friction
    thermostat: Any = {"sigma": task.thermostat_sigma, "coupling": task.coupling}
    builders: dict[str, Factory] = {
        "baoab": lambda key: lgv.baoab(h, tau, friction, key),
        "overdamped": lambda key: lgv.overdamped_langevin(h, tau, key),
        "adlala": lambda key: lgv.adlala(h, key, temperature=tau, friction=friction, order=order, **thermostat),
        "lol": lambda key: lgv.lol(h, key, temperature=tau, friction=friction, order=order),
        "lala": lambda key: lgv.lala(h, key, temperature=tau, friction=friction, order=order),
    }
    return builders[task.optimizer]


LEARNING_RATE_SCHEDULES: dict[str, Callable[[float, int], Any]] = {
    "constant": lambda gamma, steps: gamma,
    "linear": lambda gamma, steps: optax.linear_schedule(gamma, 0.0, steps),
    "cosine": lambda gamma, steps: optax.cosine_decay_schedule(gamma, steps),
    # γ / (1 + t / t₀), t₀ half of the run
    "inverse-time": lambda gamma, steps: lambda count: gamma / (1 + count / (steps / 2)),
    "step": lambda gamma, steps: optax.piecewise_constant_schedule(gamma, {steps // 2: 0.1}),
}
# The last argument is the number of steps with noise.
SIGMA_SCHEDULES: dict[str, Callable[[float, int, int], Any]] = {
    "constant": lambda sigma, steps, noisy: sigma,
    "linear": lambda sigma, steps, noisy: optax.linear_schedule(sigma, 0.0, noisy),
    # σ / √log(e + t / t₀), t₀ half of the run
    "inverse-sqrt-log": lambda sigma, steps, noisy: lgv.inverse_sqrt_log_schedule(sigma, 2 / steps),
    "step": lambda sigma, steps, noisy: optax.piecewise_constant_schedule(sigma, {noisy: 0.0}),
}


def learning_rate_schedule(task: Task, steps: int) -> Any:
    return LEARNING_RATE_SCHEDULES[task.learning_rate_schedule](task.learning_rate, steps)


def sigma_schedule(task: Task, steps: int) -> Any:
    assert task.sigma is not None and task.sigma_schedule is not None
    noisy = steps if task.noisy_steps is None else max(1, round(task.noisy_steps * steps))
    return SIGMA_SCHEDULES[task.sigma_schedule](task.sigma, steps, noisy)
