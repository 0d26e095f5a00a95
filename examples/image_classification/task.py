"""What a run is: everything that its result depends on, except for the seed."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A field that the optimiser does not have is None, so that no result depends on it."""

    data: str
    data_checksum: int
    model: str
    depth: int
    width: int
    dtype: str
    augment: bool
    batch_size: int
    epochs: int
    early_stopping: int | None
    optimizer: str
    learning_rate: float  # the step size h of an integrator
    learning_rate_schedule: str
    plain_eps: float | None = None  # of a plain optimiser; None is Optax's default
    sigma: float | None = None
    sigma_schedule: str | None = None
    noisy_steps: float | None = None  # the share of the steps after which σ is 0
    noisy_layers: str | None = None  # the first ones: how many ("4"), or which share ("0.3"; "1.0" is all)
    max_noise: float | None = None
    temperature: float | None = None
    friction: float | None = None
    thermostat_sigma: float | None = None
    coupling: float | None = None

    @property
    def layers(self) -> int | float | None:
        """For ``layer_mask``, where 1 and 1.0 differ."""
        return None if self.noisy_layers is None else json.loads(self.noisy_layers)
