"""The experiments of the literature, as flags."""

from typing import Any

_ADAPTIVE = ["adam", "l-adam", "ll-adam", "rmsprop", "l-rmsprop", "ll-rmsprop", "adadelta", "l-adadelta", "ll-adadelta"]
_PUBLISHED = ["adam", "ll-adam", "rmsprop", "ll-rmsprop", "adadelta", "ll-adadelta"]
_DEPTHS = {"model": "dense", "depths": [3, 20, 30, 40], "batch_size": 512, "epochs": 8, "seeds": 3}
_CIFAR = {"augment": True, "batch_size": 512, "seeds": 3, "noisy_steps": 0.5}
# Of the author's code: γ₀ = 5e-3, σ₀ = 5e-3; Adadelta γ₀ = 0.1, σ₀ = 0.05.
_RESIDUAL: dict[str, Any] = _CIFAR | {
    "epochs": 40,
    "learning_rate": [(None, 5e-3), ("adadelta", 0.1)],
    "learning_rate_schedule": "inverse-time",
    "sigma": [(None, 5e-3), ("adadelta", 0.05)],
    "sigma_schedule": "inverse-sqrt-log",
    "optimizers": _PUBLISHED,
}

PRESETS: dict[str, dict[str, Any]] = {
    "digits": {},
    "mnist": _DEPTHS | {"data": "mnist", "optimizers": _ADAPTIVE},
    "mnist-layers": _DEPTHS
    | {
        "data": "mnist",
        "depths": [30],
        "optimizers": ["adam", "ll-adam"],
        "noisy_layers": ["0.1", "0.2", "0.3", "0.5", "0.7", "1.0"],
    },
    "fashion-conv-dense": {
        "data": "fashion_mnist",
        "model": "conv-dense",
        "depths": [10, 30],
        "batch_size": 512,
        "epochs": 5,
        "seeds": 3,
    },
    "fashion-highway": {
        "data": "fashion_mnist",
        "model": "highway",
        "depths": [80],
        "batch_size": 512,
        "epochs": 5,
        "seeds": 3,
    },
    "fashion-resnet20": {"data": "fashion_mnist", "model": "resnet", "depths": [3], "width": 16} | _RESIDUAL,
    "cifar10-conv-dense": _CIFAR
    | {"data": "cifar10", "model": "conv-dense", "depths": [10, 30], "epochs": 40, "optimizers": _ADAPTIVE},
    "cifar10-highway": _CIFAR
    | {"data": "cifar10", "model": "highway", "depths": [80], "epochs": 40, "optimizers": _ADAPTIVE},
    "cifar10-resnet": _RESIDUAL | {"data": "cifar10", "model": "resnet", "depths": [6], "width": 8},
    "cifar100-resnet": _RESIDUAL | {"data": "cifar100", "model": "resnet", "depths": [6], "width": 8},
    "cifar10-resnet20": _RESIDUAL | {"data": "cifar10", "model": "resnet", "depths": [3], "width": 16},
    "cifar100-resnet20": _RESIDUAL | {"data": "cifar100", "model": "resnet", "depths": [3], "width": 16},
    "cifar10-densenet": _RESIDUAL | {"data": "cifar10", "model": "densenet", "depths": [6], "width": 5},
    "cifar100-densenet": _RESIDUAL | {"data": "cifar100", "model": "densenet", "depths": [6], "width": 5},
    "cifar10-vgg": _RESIDUAL | {"data": "cifar10", "model": "vgg", "depths": [2], "width": 32},
}
