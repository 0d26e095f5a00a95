"""The command line: a preset, and flags that override it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples import values
from examples.image_classification import models, optimizers
from examples.image_classification.data import Data
from examples.image_classification.presets import PRESETS
from examples.image_classification.task import Task
from examples.presentation import plural

WIDTHS = {"resnet": 16, "vgg": 32, "densenet": 5}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    preset = _preset_parser().parse_known_args(argv)[0].preset
    parser.set_defaults(**PRESETS[preset])
    flags = parser.parse_args(argv)
    flags.depths = sorted(set(flags.depths))
    flags.width = flags.width or WIDTHS.get(flags.model, 64)
    for name in ("learning_rate", "sigma"):
        given = [optimizer for optimizer, _ in getattr(flags, name)]
        if len(set(given)) < len(given):
            parser.error(
                f"argument --{name.replace('_', '-')}: one value for all, and one for each optimiser that is named"
            )
        for optimizer in given:
            if optimizer is not None and optimizer not in (*optimizers.FAMILIES, *optimizers.INTEGRATORS):
                parser.error(f"argument --{name.replace('_', '-')}: no optimiser {optimizer!r}")
    try:
        flags.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: cannot make the folder {str(flags.output)!r}: {error.strerror}")
    return flags


def tasks(flags: argparse.Namespace, data: Data) -> list[Task]:
    """Every depth with every optimiser; Layer Langevin once for each choice of layers."""
    both = {
        "data": data.name,
        "data_checksum": data.checksum,
        "model": flags.model,
        "width": flags.width,
        "dtype": flags.dtype,
        "augment": flags.augment,
        "batch_size": flags.batch_size,
        "epochs": flags.epochs,
        "early_stopping": flags.early_stopping,
    }
    return [
        Task(depth=depth, **both, **own)
        for depth in flags.depths
        for name in dict.fromkeys(flags.optimizers)
        for own in _optimizer(flags, name)
    ]


def _optimizer(flags: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    kind = name if name in optimizers.INTEGRATORS else optimizers.family(name)
    fields = {
        "optimizer": name,
        "learning_rate": _value(flags.learning_rate, kind, optimizers.LEARNING_RATES, 1e-3),
        "learning_rate_schedule": flags.learning_rate_schedule,
    }
    if name in optimizers.INTEGRATORS:
        fields["temperature"] = flags.temperature
        if name != "overdamped":
            fields["friction"] = flags.friction
        if name == "adlala":
            fields |= {"thermostat_sigma": flags.thermostat_sigma, "coupling": flags.coupling}
        return [fields]
    if not optimizers.is_langevin(name):
        return [fields | {"plain_eps": None if kind == "sgd" else flags.plain_eps}]
    fields["sigma"] = _value(flags.sigma, kind, optimizers.SIGMAS, 1e-3)
    fields["sigma_schedule"] = flags.sigma_schedule
    fields["max_noise"] = flags.max_noise
    if flags.sigma_schedule in ("linear", "step"):
        fields["noisy_steps"] = flags.noisy_steps
    if not name.startswith("ll-"):
        return [fields]
    return [fields | {"noisy_layers": layers} for layers in dict.fromkeys(flags.noisy_layers)]


def _value(given: Sequence[tuple[str | None, float]], kind: str, own: dict[str, float], other: float) -> float:
    """What was given for this optimiser, else for all, else its own default."""
    values = dict(given)
    return values.get(kind, values.get(None, own.get(kind, other)))


def _preset_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--preset", choices=PRESETS, default="digits", help="experiment whose flags are the defaults (default: digits)"
    )
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.default is None or "(default" in (action.help or "")
        return action.help if said else super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.image_classification",
        description="Train image classifiers with Langevin, Layer Langevin and plain optimisers from the same initial "
        "weights, on the same batches, and compare their test accuracy. Without flags: dense networks of several "
        "depths on digits that scikit-learn bundles. A run that was killed goes on when the command is given again.",
        formatter_class=_Help,
        parents=[_preset_parser()],
    )

    group = parser.add_argument_group("what to compare")
    group.add_argument(
        "--data",
        default="digits",
        metavar="NAME|FILE.npz",
        help="digits, an image set of tensorflow-datasets (mnist, fashion_mnist, cifar10, cifar100, ...), or a file "
        "with x_train, y_train, x_test, y_test",
    )
    group.add_argument("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its sets")
    group.add_argument("--augment", action=argparse.BooleanOptionalAction, default=False, help="pad 4, crop, flip")
    group.add_argument("--model", choices=models.MODELS, default="dense", help="the network")
    counts = ", ".join(f"{name} {plural(unit)}" for name, unit in models.DEPTH_IS.items())
    group.add_argument(
        "--depths",
        type=values.positive,
        nargs="+",
        default=[10, 20, 40, 60],
        metavar="N",
        help=f"one network each: {counts}",
    )
    group.add_argument(
        "--width",
        type=values.positive,
        metavar="N",
        help="units of a layer, filters of the first stage, growth of a DenseNet (default: 64; resnet 16, vgg 32, "
        "densenet 5)",
    )
    group.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="to compute in")
    group.add_argument(
        "--optimizers",
        type=_one_of(optimizers.NAMES, "optimiser"),
        nargs="+",
        default=["adam", "l-adam", "ll-adam"],
        metavar="NAME",
        help=f"any of {', '.join(optimizers.FAMILIES)}; l-NAME is its Langevin version, ll-NAME its Layer Langevin "
        f"version; sgld; {', '.join(optimizers.INTEGRATORS)}",
    )
    group.add_argument(
        "--noisy-layers",
        type=values.layers,
        nargs="+",
        default=["0.3"],
        metavar="K|SHARE",
        help="of ll-NAME: the first K layers, or that share (0.3; 1.0 is all); each makes a Layer Langevin version",
    )

    group = parser.add_argument_group("how to train")
    group.add_argument("--seeds", type=values.positive, default=6, metavar="N", help="number of seeds, from 0")
    group.add_argument("--epochs", type=values.positive, default=100, metavar="N", help="epochs of each run")
    group.add_argument("--batch-size", type=values.positive, default=128, metavar="N", help="images in a batch")
    for name, help_ in (
        ("learning-rate", "of all optimisers, or of one and its Langevin versions; the step size of an integrator"),
        ("sigma", "the noise level of all Langevin versions, or of those of one optimiser"),
    ):
        group.add_argument(
            f"--{name}",
            type=_named(values.rate),
            nargs="+",
            default=[],
            metavar="X|NAME=X",
            help=f"{help_} (default: {_defaults(name)})",
        )
    group.add_argument(
        "--learning-rate-schedule",
        choices=optimizers.LEARNING_RATE_SCHEDULES,
        default="constant",
        help="linear, cosine: to 0; inverse-time: a third at the end; step: a tenth from half of the run on",
    )
    group.add_argument(
        "--sigma-schedule",
        choices=optimizers.SIGMA_SCHEDULES,
        default="linear",
        help="linear: to 0 after --noisy-steps; step: 0 from there on; inverse-sqrt-log: slowly, never 0",
    )
    group.add_argument("--noisy-steps", type=values.share, default=0.6, metavar="SHARE", help="steps until σ is 0")
    group.add_argument(
        "--max-noise", type=values.rate, metavar="X", help="the most that σ√(γP) may be in the Langevin versions"
    )
    group.add_argument(
        "--plain-eps", type=values.rate, metavar="EPS", help="eps of plain optimisers (default: Optax's)"
    )
    group.add_argument("--temperature", type=values.rate, default=1e-4, metavar="TAU", help="of the integrators")
    group.add_argument("--friction", type=values.rate, default=1.0, metavar="GAMMA", help="of the integrators")
    group.add_argument("--thermostat-sigma", type=values.rate, default=0.01, metavar="SIGMA", help="of AdLaLa")
    group.add_argument("--coupling", type=values.rate, default=0.1, metavar="EPS", help="of AdLaLa")
    group.add_argument(
        "--early-stopping",
        type=values.positive,
        metavar="N",
        help="stop when the training loss is no better for N epochs",
    )

    group = parser.add_argument_group("how to run")
    group.add_argument("--output", type=Path, default=Path("results"), metavar="DIR", help="where the files go")
    group.add_argument(
        "--seeds-at-once",
        type=values.positive,
        metavar="N",
        help="seeds trained in one program (default: all, and 1 for convolutions, which are slower together)",
    )
    group.add_argument(
        "--checkpoint-minutes",
        type=values.rate,
        default=5.0,
        metavar="MINUTES",
        help="between two checkpoints of a run",
    )
    group.add_argument("--tensorboard", action="store_true", help="write event files too (needs tensorboardX)")
    return parser


def _defaults(name: str) -> str:
    own = optimizers.LEARNING_RATES if name == "learning-rate" else optimizers.SIGMAS
    return ", ".join(["0.001", *(f"{kind} {value:g}" for kind, value in own.items())])


def _named(value: Any) -> Any:
    def parse(text: str) -> tuple[str | None, float]:
        name, separator, number = text.rpartition("=")
        return (name if separator else None), value(number)

    return parse


def _one_of(names: Sequence[str], kind: str) -> Any:
    def parse(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"no {kind} {text!r}")
        return text

    return parse
