"""The file of results: one JSON line for each finished run, which says all that the run depends on."""

import contextlib
import functools
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import langevin_optax as lgv
from examples.image_classification.train import Task
from examples.storage import StorageError


class ResultsError(StorageError):
    """The folder of results cannot be used as it is; the message is for the user."""


class Run(NamedTuple):
    """One seed of a task, from the first epoch to the last."""

    seed: int
    accuracy: np.ndarray  # after each epoch, on the test data
    loss: np.ndarray  # mean of the training loss over each epoch; nan where that was not finite
    noisy_share: float  # of the layers


class Results:
    """All runs of a file. A line is written at once and kept for good; what a kill left of one is dropped."""

    def __init__(self, path: Path):
        self.path = path
        self._lines = _read(path)

    def runs(self, task: Task) -> dict[int, Run]:
        """By seed; only those of the code, of the versions and of the kind of device that are here."""
        here = _here(task)
        return {line["seed"]: _run(line) for line in self._lines if here.items() <= line.items()}

    def append(self, task: Task, runs: Sequence[Run]) -> None:
        lines = [
            {
                **_here(task),
                "langevin_optax": lgv.__version__,
                "seed": run.seed,
                "noisy_share": run.noisy_share,
                "accuracy": run.accuracy.tolist(),
                "loss": [loss if math.isfinite(loss) else None for loss in run.loss.tolist()],
            }
            for run in runs
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, text) != len(text):
                os.ftruncate(descriptor, before)
                raise OSError(f"{self.path} could not be written to its end: is the disk full?")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._lines += lines


def identity(task: Task, seeds: Sequence[int]) -> str:
    """A name for a task, these seeds and the code."""
    return _hash(json.dumps([asdict(task), _code(), list(seeds)]).encode())


def _here(task: Task) -> dict[str, Any]:
    return {
        "task": asdict(task),
        "code": _code(),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }


@functools.cache
def _code() -> str:
    """The code that a result depends on: a result of other code is never taken for one of this."""
    here, package = Path(__file__).parent, Path(lgv.__file__).parent
    trained = [here / f"{name}.py" for name in ("methods", "models", "train")]
    return _hash(b"".join(path.read_bytes() for path in [*sorted(package.rglob("*.py")), *trained]))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):  # a kill in the middle of a write, or an editor that took the last newline away
        with contextlib.suppress(ValueError):
            json.loads(content[len(whole) :])
            whole = content + b"\n"
        path.write_bytes(whole)
    lines = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            lines.append(json.loads(line))
            _run(lines[-1])
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(
                f"line {number} of {path} is not the result of a run ({error}); mend or remove it"
            ) from None
    return lines


def _run(line: dict[str, Any]) -> Run:
    loss = [math.nan if loss is None else loss for loss in line["loss"]]
    return Run(line["seed"], np.array(line["accuracy"]), np.array(loss), line["noisy_share"])
