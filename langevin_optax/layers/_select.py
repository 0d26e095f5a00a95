"""What ``layers`` may be, and which layers it selects."""

import math
import numbers
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from langevin_optax.layers._blocks import Layer, Unit

Layers = int | float | slice | Sequence[int] | Callable[[str], bool] | str | re.Pattern[str]


def counts(layers: Any) -> bool:
    """Whether ``layers`` selects by place, and not by name."""
    return not (callable(layers) or isinstance(layers, (str, re.Pattern)))


def check_layers(layers: Any) -> None:
    if isinstance(layers, (bool, np.bool_)):
        raise TypeError(f"layers must be a number of layers, a fraction, ..., not a bool, got {layers}.")
    if isinstance(layers, numbers.Integral):
        if layers < 1:
            raise ValueError(f"layers as a number of layers must be ≥ 1, got {layers}.")
    elif isinstance(layers, numbers.Real):
        if not 0 < float(layers) <= 1:
            raise ValueError(f"layers as a fraction must lie in (0, 1], got {layers}.")
    elif isinstance(layers, Sequence) and not isinstance(layers, str):
        if not all(isinstance(i, numbers.Integral) and not isinstance(i, bool) for i in layers):
            raise TypeError(f"layers as a sequence must hold indices, got {layers!r}. For paths, write a predicate.")
    elif isinstance(layers, str):
        try:
            re.compile(layers)
        except re.error as error:
            raise ValueError(f"layers={layers!r} is no regular expression: {error}.") from error
    elif not (isinstance(layers, (slice, re.Pattern)) or callable(layers)):
        raise TypeError(
            "layers must be an int, a fraction, a slice, a sequence of indices, a predicate on the path or a regular "
            f"expression, got {layers!r}. (optax.inject_hyperparams makes numbers arrays: write static_args='layers'.)"
        )


def select(layers: Layers, units: list[Unit]) -> list[Layer]:
    """The layers that a predicate or an expression selects one by one, or those of the units that a number selects."""
    every = [layer for unit in units for layer in unit.layers]
    if isinstance(layers, (str, re.Pattern)):
        return [layer for layer in every if re.fullmatch(layers, layer.name)]
    if callable(layers):
        return [layer for layer in every if layers(layer.name)]
    return [layer for unit in _by_place(layers, units) for layer in unit.layers]


def _by_place(layers: Any, units: list[Unit]) -> list[Unit]:
    n = len(units)
    if isinstance(layers, slice):
        return units[layers]
    indices = layers
    if isinstance(layers, numbers.Integral):
        indices = range(int(layers))
    elif isinstance(layers, numbers.Real):
        indices = range(max(1, math.floor(round(float(layers) * n, 9))))  # 0.29 · 100 is 28.999…
    if any(not -n <= i < n for i in indices):
        raise ValueError(f"layers={layers!r} asks for more than the {n} layers {[unit.name for unit in units]}.")
    return [units[i] for i in indices]
