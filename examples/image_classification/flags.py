"""The command line: a preset, which is a command line too, and flags that override it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples import values
from examples.image_classification import methods, models
from examples.image_classification.data import Data
from examples.image_classification.train import Task
from examples.presentation import plural

WIDTHS = {"resnet": 16, "vgg": 32, "densenet": 5}

_MNIST = "--data mnist --batch-size 512 --epochs 8 --depths 3 20 30 40 --seeds 3"
_FASHION = "--data fashion_mnist --batch-size 512 --epochs 5 --seeds 3"
_ADAPTIVE = "--methods adam l-adam ll-adam rmsprop l-rmsprop ll-rmsprop adadelta l-adadelta ll-adadelta"
_CIFAR = f"--data cifar10 --augment --batch-size 512 --epochs 40 --seeds 3 {_ADAPTIVE} --all noisy_steps=0.5"
# Of the author's code: γ₀ = 5e-3, σ₀ = 5e-3; Adadelta γ₀ = 0.1, σ₀ = 0.05.
_SCHEDULES = "learning_rate_schedule=inverse-time,sigma_schedule=inverse-sqrt-log"
_RESIDUAL = (
    "--augment --batch-size 512 --epochs 40 --seeds 3 --methods adam ll-adam rmsprop ll-rmsprop "
    "adadelta:learning_rate=0.1 ll-adadelta:learning_rate=0.1,sigma=0.05 "
    f"--all learning_rate=5e-3,sigma=5e-3,{_SCHEDULES}"
)
PRESETS = {
    "digits": "--depths 20 40 60 80 --seeds 4 --methods adam:eps=1e-8 adam l-adam ll-adam "
    "--all eps=1e-14,max_noise=0.03,learning_rate_schedule=cosine",
    "mnist": f"{_MNIST} {_ADAPTIVE}",
    "mnist-layers": f"{_MNIST} --depths 30 --methods adam "
    + " ".join(f"ll-adam:layers={share}" for share in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)),
    "fashion-conv-dense": f"{_FASHION} --model conv-dense --depths 10 30",
    "fashion-highway": f"{_FASHION} --model highway --depths 80",
    "fashion-resnet20": f"{_RESIDUAL} --data fashion_mnist --model resnet --depths 3",
    "cifar10-conv-dense": f"{_CIFAR} --model conv-dense --depths 10 30",
    "cifar10-highway": f"{_CIFAR} --model highway --depths 80",
} | {
    f"{data}-{name}": f"{_RESIDUAL} --data {data} {model}"
    for data in ("cifar10", "cifar100")
    for name, model in {
        "resnet": "--model resnet --depths 6 --width 8",
        "resnet20": "--model resnet --depths 3",
        "densenet": "--model densenet --depths 6",
        "vgg": "--model vgg --depths 2",
    }.items()
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    preset = _preset_parser().parse_known_args(argv)[0].preset
    parser.set_defaults(**vars(parser.parse_args(PRESETS[preset].split())))
    flags = parser.parse_args(argv)
    flags.depths = sorted(set(flags.depths))
    flags.width = flags.width or WIDTHS.get(flags.model, 64)
    try:
        flags.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: cannot make the folder {str(flags.output)!r}: {error.strerror}")
    return flags


def tasks(flags: argparse.Namespace, data: Data) -> list[Task]:
    """Every depth with every method."""
    chosen = dict.fromkeys(methods.method(name, own, flags.all) for name, own in flags.methods)
    return [
        Task(
            data=data.name,
            data_checksum=data.checksum,
            model=flags.model,
            depth=depth,
            width=flags.width,
            dtype=flags.dtype,
            augment=flags.augment,
            batch_size=flags.batch_size,
            epochs=flags.epochs,
            method=method,
        )
        for depth in flags.depths
        for method in chosen
    ]


def _preset_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    help_ = "experiment whose flags are the defaults (default: digits)"
    parser.add_argument("--preset", choices=PRESETS, default="digits", help=help_)
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.default is None or "(default" in (action.help or "")
        return action.help if said else super()._get_help_string(action)


class _Merged(argparse.Action):
    """Settings that were given, and those of the preset that were not."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, getattr(namespace, self.dest) | values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.image_classification",
        description="Train image classifiers with Langevin, Layer Langevin and plain optimisers from the same initial "
        "weights, on the same batches, and compare their test accuracy. Without flags: dense networks of several "
        "depths on digits that scikit-learn bundles. A run that was killed goes on when the command is given again.",
        formatter_class=_Help,
        parents=[_preset_parser()],
    )
    add = parser.add_argument_group("what to compare").add_argument
    add(
        "--data",
        default="digits",
        metavar="NAME|FILE.npz",
        help="digits, an image set of tensorflow-datasets (mnist, fashion_mnist, cifar10, cifar100, ...), or a file "
        "with x_train, y_train, x_test, y_test",
    )
    add("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its sets")
    add("--augment", action=argparse.BooleanOptionalAction, default=False, help="pad 4, crop, flip")
    add("--model", choices=models.MODELS, default="dense", help="the network")
    counts = ", ".join(f"{name} {plural(unit)}" for name, unit in models.DEPTH_IS.items())
    add(
        "--depths",
        type=values.positive,
        nargs="+",
        default=[20],
        metavar="N",
        help=f"one network each: {counts}",
    )
    add(
        "--width",
        type=values.positive,
        metavar="N",
        help="units of a layer, filters of the first stage, growth of a DenseNet (default: 64; resnet 16, vgg 32, "
        "densenet 5)",
    )
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="to compute in")
    add(
        "--methods",
        type=methods.parse,
        nargs="+",
        default=[methods.parse(name) for name in ("adam", "l-adam", "ll-adam")],
        metavar="NAME[:KEY=VALUE,...]",
        help=f"any of {', '.join(methods.FAMILIES)}; l-NAME is its Langevin version, ll-NAME its Layer Langevin "
        f"version; sgld; {', '.join(methods.INTEGRATORS)}; each with settings of its own, such as "
        "ll-adam:layers=0.3,max_noise=0.03 (default: those of the preset)",
    )
    add(
        "--all",
        type=methods.parse_settings,
        action=_Merged,
        default={},
        metavar="KEY=VALUE,...",
        help="settings of all methods that have them and were not given their own: "
        f"{', '.join(methods.SETTINGS)} (default: those of the preset)",
    )
    add = parser.add_argument_group("how to train").add_argument
    add("--seeds", type=values.positive, default=6, metavar="N", help="number of seeds, from 0")
    add("--epochs", type=values.positive, default=100, metavar="N", help="epochs of each run")
    add("--batch-size", type=values.positive, default=128, metavar="N", help="images in a batch")
    add = parser.add_argument_group("how to run").add_argument
    add("--output", type=Path, default=Path("results"), metavar="DIR", help="where the files go")
    add(
        "--seeds-at-once",
        type=values.positive,
        metavar="N",
        help="seeds trained in one program (default: all, and 1 for convolutions, which are slower together)",
    )
    return parser
