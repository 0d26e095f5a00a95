"""What is compared: ``adam`` is Optax's, ``l-adam`` Langevin Adam, ``ll-adam`` Layer Langevin Adam, each with settings.

A method is written ``NAME`` or ``NAME:KEY=VALUE,KEY=VALUE``, such as ``ll-adam:layers=0.3,eps=1e-14,max_noise=0.03``.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optax

import langevin_optax as lgv
from examples import values

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
INTEGRATORS = {"baoab": "BAOAB", "adlala": "AdLaLa", "lol": "LOL"}
NAMES = (*(prefix + name for name in FAMILIES for prefix in ("", "l-", "ll-")), *INTEGRATORS)

LEARNING_RATE_SCHEDULES: dict[str, Callable[[float, int], Any]] = {
    "constant": lambda gamma, steps: gamma,
    "cosine": lambda gamma, steps: optax.cosine_decay_schedule(gamma, steps),
    "inverse-time": lambda gamma, steps: lambda count: gamma / (1 + count / (steps / 2)),
}
# The last argument is the number of steps with noise.
SIGMA_SCHEDULES: dict[str, Callable[[float, int, int], Any]] = {
    "constant": lambda sigma, steps, noisy: sigma,
    "linear": lambda sigma, steps, noisy: optax.linear_schedule(sigma, 0.0, noisy),
    # σ / √log(e + t / t₀), t₀ half of the run
    "inverse-sqrt-log": lambda sigma, steps, noisy: lgv.inverse_sqrt_log_schedule(sigma, 2 / steps),
}


@dataclass(frozen=True)
class Method:
    """A setting that the optimiser does not have is None, so that no result depends on it."""

    name: str
    learning_rate: float  # the step size h of an integrator
    learning_rate_schedule: str
    eps: float | None = None  # None: the default of the optimiser
    sigma: float | None = None
    sigma_schedule: str | None = None
    noisy_steps: float | None = None  # the share of the steps after which σ is 0
    max_noise: float | None = None
    layers: str | None = None  # with noise: the first "4", or a share of them, "0.3", "last:0.3", "random:0.3"
    temperature: float | None = None
    friction: float | None = None
    thermostat_sigma: float | None = None
    coupling: float | None = None

    def __str__(self) -> str:
        settings = {key: value for key, value in asdict(self).items() if key in SETTINGS and value is not None}
        return f"{self.name}:{','.join(f'{key}={shown(value)}' for key, value in settings.items())}"

    @property
    def family(self) -> str:
        """The optimiser of Optax that it is a version of, or ``integrators``."""
        return "integrators" if self.name in INTEGRATORS else self.name.removeprefix("ll-").removeprefix("l-")

    @property
    def is_langevin(self) -> bool:
        """Whether it has a σ: whether it is a Langevin version of an optimiser of Optax."""
        return self.name.startswith(("l-", "ll-"))


def build(method: Method, order: Sequence[str], steps: int) -> Callable[[Any], optax.GradientTransformationExtraArgs]:
    """A function from the key of the noise; ``order`` is that of the model's layers, ``steps`` those of the run."""
    gamma: Any = LEARNING_RATE_SCHEDULES[method.learning_rate_schedule](method.learning_rate, steps)
    if method.name in INTEGRATORS:
        return _integrator(method, gamma, order)
    eps = {} if method.eps is None else {"eps": method.eps}
    if not method.is_langevin:
        return lambda key: optax.with_extra_args_support(getattr(optax, method.family)(gamma, **eps))
    assert method.sigma is not None and method.sigma_schedule is not None
    noisy = steps if method.noisy_steps is None else max(1, round(method.noisy_steps * steps))
    sigma = SIGMA_SCHEDULES[method.sigma_schedule](method.sigma, steps, noisy)
    chosen = selected(method, order)
    mask = None if method.layers is None else lgv.layer_mask(lambda layer: layer in chosen, order)
    langevin = getattr(lgv, method.family)
    return lambda key: langevin(gamma, sigma, key=key, mask=mask, max_noise=method.max_noise, **eps)


def _integrator(method: Method, h: Any, order: Sequence[str]) -> Any:
    tau: Any = method.temperature
    friction: Any = method.friction
    thermostat: Any = {"sigma": method.thermostat_sigma, "coupling": method.coupling}
    return {
        "baoab": lambda key: lgv.baoab(h, tau, friction, key),
        "adlala": lambda key: lgv.adlala(h, key, temperature=tau, friction=friction, order=order, **thermostat),
        "lol": lambda key: lgv.lol(h, key, temperature=tau, friction=friction, order=order),
    }[method.name]


def selected(method: Method, order: Sequence[str]) -> list[str]:
    """The layers with noise, of those that the model calls in this order."""
    if method.layers is None:
        return list(order) if method.is_langevin or method.name in INTEGRATORS else []
    where, _, size = method.layers.rpartition(":")
    number = int(size) if size.isdecimal() else max(1, int(round(float(size) * len(order), 9)))
    if number > len(order):
        raise ValueError(f"layers={method.layers}, but there are {len(order)} layers with parameters")
    if where == "random":  # the same for all seeds
        return sorted(random.Random(0).sample(list(order), number), key=order.index)
    return list(order[-number:] if where == "last" else order[:number])


# From the command line, and to tables.


def _one_of(names: Any) -> Any:
    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(names)}, got {text!r}")
        return text

    return parse


def _layers(text: str) -> str:
    where, separator, share = text.rpartition(":")
    if where not in ("", "last", "random") or (separator and not where):
        raise argparse.ArgumentTypeError(f"must be K, SHARE, last:SHARE or random:SHARE, got {text!r}")
    return where + separator + values.layers(share)


# The settings, each with the type of its value.
SETTINGS: dict[str, Callable[[str], Any]] = {
    "learning_rate": values.rate,
    "learning_rate_schedule": _one_of(LEARNING_RATE_SCHEDULES),
    "eps": values.rate,
    "sigma": values.rate,
    "sigma_schedule": _one_of(SIGMA_SCHEDULES),
    "noisy_steps": values.share,
    "max_noise": values.rate,
    "layers": _layers,
    "temperature": values.rate,
    "friction": values.rate,
    "thermostat_sigma": values.rate,
    "coupling": values.rate,
}


def own(name: str) -> list[str]:
    """The settings that it has."""
    rate, noise = ["learning_rate", "learning_rate_schedule"], ["sigma", "sigma_schedule", "noisy_steps", "max_noise"]
    if name in INTEGRATORS:
        thermostat = ["thermostat_sigma", "coupling"] if name == "adlala" else []
        return [*rate, "temperature", "friction", *thermostat]
    eps = [] if name.endswith("sgd") else ["eps"]
    layers = ["layers"] if name.startswith("ll-") else []
    return [*rate, *eps, *(noise if "-" in name else []), *layers]


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the settings that were given, for argparse."""
    name, _, settings = text.partition(":")
    if name not in NAMES:
        raise argparse.ArgumentTypeError(f"no optimiser {name!r}")
    given = parse_settings(settings) if settings else {}
    if wrong := [key for key in given if key not in own(name)]:
        raise argparse.ArgumentTypeError(f"{name} has no {wrong[0]}; it has {', '.join(own(name))}")
    return name, given


def parse_settings(text: str) -> dict[str, Any]:
    given = {}
    for part in text.split(","):
        key, separator, value = part.partition("=")
        if key in given:
            raise argparse.ArgumentTypeError(f"{key} is given twice")
        if key not in SETTINGS or not separator:
            raise argparse.ArgumentTypeError(f"must be KEY=VALUE,... with keys of {', '.join(SETTINGS)}, got {part!r}")
        try:
            given[key] = SETTINGS[key](value)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{key} {error}") from None
    return given


def method(name: str, given: dict[str, Any], for_all: dict[str, Any]) -> Method:
    """With what was given for it, else for all, else the defaults."""
    family = name.removeprefix("ll-").removeprefix("l-")
    rates = {"sgd": 0.1, "adagrad": 0.01, "adadelta": 0.1} | dict.fromkeys(INTEGRATORS, 0.1)
    defaults = {
        "learning_rate": rates.get(family, 1e-3),
        "learning_rate_schedule": "constant",
        "sigma": 0.05 if family == "adadelta" else 1e-3,
        "sigma_schedule": "linear",
        "noisy_steps": 0.6,
        "layers": "0.3",
        "temperature": 1e-4,
        "friction": 1.0,
        "thermostat_sigma": 0.01,
        "coupling": 0.1,
    }
    settings = {key: value for key, value in {**defaults, **for_all, **given}.items() if key in own(name)}
    if settings.get("sigma_schedule") in ("constant", "inverse-sqrt-log"):
        del settings["noisy_steps"]
    return Method(name, **settings)


def labels(methods: Sequence[Method]) -> dict[Method, str]:
    """Their names in tables, with the settings in which methods of one name differ."""
    found = {}
    for one in methods:
        namesakes = [asdict(other) for other in methods if _label(other) == _label(one)]
        differ = [key for key in SETTINGS if len({other[key] for other in namesakes}) > 1 and key != "layers"]
        found[one] = ", ".join([_label(one), *(setting(key, getattr(one, key)) for key in differ)])
    return found


def setting(key: str, value: Any) -> str:
    missing = "default" if key == "eps" else "none"
    return f"{key.replace('_', ' ')} {missing if value is None else shown(value)}"


def shown(value: Any) -> str:
    """1e-8, where Python writes 1e-08."""
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def _label(method: Method) -> str:
    if method.name in INTEGRATORS:
        return INTEGRATORS[method.name]
    label = method.name.removesuffix(method.family).upper() + FAMILIES[method.family]
    if method.layers is None:
        return label
    where, _, size = method.layers.rpartition(":")
    if not size.isdecimal():
        return " ".join(filter(None, [label, where, f"{float(size) * 100:g} %"]))
    return f"{label} {where or 'first'} {'layer' if size == '1' else size}"
