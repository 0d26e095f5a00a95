"""The command line: a preset, which is a command line too, and flags that override it."""

import argparse
from collections.abc import Sequence
from typing import Any

from examples import storage, values
from examples.image_classification import methods, models
from examples.image_classification.data import Data
from examples.image_classification.train import Task
from examples.presentation import plural

# The setting of examples/REPRODUCTION.md: one small ε for all, a bound on the noise, γ and σ that fall.
_FAIR = "--all eps=1e-14,max_noise=0.03,learning_rate_schedule=cosine"
_FASHION = f"--data fashion_mnist --batch-size 512 --epochs 8 --seeds 10 {_FAIR}"
# Of the author's code for residual networks: γ₀ = 5e-3, σ₀ = 5e-3; Adadelta γ₀ = 0.1, σ₀ = 0.05.
_CIFAR = (
    "--data cifar10 --augment --batch-size 512 --epochs 40 --seeds 3 --methods adam ll-adam rmsprop ll-rmsprop "
    "adadelta:learning_rate=0.1 ll-adadelta:learning_rate=0.1,sigma=0.05 --all learning_rate=5e-3,sigma=5e-3,"
    "learning_rate_schedule=inverse-time,sigma_schedule=inverse-sqrt-log"
)
PRESETS = {
    "digits": f"--depths 20 40 60 80 --seeds 4 {_FAIR}",
    "mnist": f"--data mnist --batch-size 512 --epochs 8 --depths 20 30 40 60 80 100 --seeds 20 {_FAIR}",
    "fashion-conv-dense": f"{_FASHION} --model conv-dense --depths 10 30 60",
    "fashion-highway": f"{_FASHION} --model highway --depths 80",
    "cifar10-resnet": f"{_CIFAR} --model resnet --depths 6 --width 8",
    "cifar10-densenet": f"{_CIFAR} --model densenet --depths 6",
    "cifar10-vgg": f"{_CIFAR} --model vgg --depths 2",
    "cifar100-resnet": f"{_CIFAR} --data cifar100 --model resnet --depths 6 --width 8",
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    preset = _preset_parser().parse_known_args(argv)[0].preset
    parser.set_defaults(**vars(parser.parse_args(PRESETS[preset].split())) | {"output": "results"})
    flags = parser.parse_args(argv)
    flags.depths = sorted(set(flags.depths))
    flags.width = flags.width or models.WIDTHS.get(flags.model, 64)
    return flags


def tasks(flags: argparse.Namespace, data: Data) -> list[Task]:
    """Every depth with every method."""
    common = {name: getattr(flags, name) for name in ("model", "width", "augment", "batch_size", "epochs")}
    common |= {"data": data.name, "data_checksum": data.checksum}
    chosen = dict.fromkeys(methods.method(name, own, flags.all) for name, own in flags.methods)
    return [Task(depth=depth, method=method, **common) for depth in flags.depths for method in chosen]


def _preset_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.image_classification", add_help=False)
    help_ = "experiment whose flags are the defaults (default: digits)"
    parser.add_argument("--preset", choices=PRESETS, default="digits", help=help_)
    return parser


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
        parents=[_preset_parser()],
    )
    add = parser.add_argument_group("what to compare (defaults: those of the preset)").add_argument
    sets = "digits, an image set of tensorflow-datasets (mnist, fashion_mnist, cifar10, cifar100, ...), or a file with "
    add("--data", default="digits", metavar="NAME|FILE.npz", help=sets + "x_train, y_train, x_test, y_test")
    add("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its sets")
    add("--augment", action=argparse.BooleanOptionalAction, default=False, help="pad 4, crop, flip")
    add("--model", choices=models.MODELS, default="dense", help="the network")
    counts = ", ".join(f"{name} {plural(unit)}" for name, unit in models.DEPTH_IS.items())
    add("--depths", type=values.positive, nargs="+", metavar="N", help=f"one network each: {counts}")
    widths = "units of a layer, filters of the first stage, growth of a DenseNet (64; resnet 16, vgg 32, densenet 5)"
    add("--width", type=values.positive, metavar="N", help=widths)
    add(
        "--methods",
        type=methods.parse,
        nargs="+",
        default=[methods.parse(text) for text in ("adam:eps=1e-8", "adam", "l-adam", "ll-adam")],
        metavar="NAME[:KEY=VALUE,...]",
        help=f"any of {', '.join(methods.FAMILIES)}; l-NAME is its Langevin version, ll-NAME its Layer Langevin "
        f"version; {', '.join(methods.INTEGRATORS)}; each with settings of its own, such as "
        "ll-adam:layers=0.3,max_noise=0.03",
    )
    add(
        "--all",
        type=methods.parse_settings,
        action=_Merged,
        default={},
        metavar="KEY=VALUE,...",
        help="settings of all methods that have them and were not given their own, added to those of the preset: "
        f"{', '.join(methods.SETTINGS)}",
    )
    add("--seeds", type=values.positive, metavar="N", help="number of seeds, from 0")
    add("--epochs", type=values.positive, default=100, metavar="N", help="epochs of each run")
    add("--batch-size", type=values.positive, default=128, metavar="N", help="images in a batch")
    add = parser.add_argument_group("how to run").add_argument
    add("--output", type=storage.folder, metavar="DIR", help="where the files go (default: results)")
    together = "seeds trained in one program (default: all, and 1 for convolutions, which are slower together)"
    add("--seeds-at-once", type=values.positive, metavar="N", help=together)
    return parser
