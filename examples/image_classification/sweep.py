"""Many runs, a task at a time on each device. Each that ends is a file, so that none is trained twice."""

import functools
import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any, NamedTuple

import jax
import numpy as np

import langevin_optax as lgv
from examples.image_classification import models, train
from examples.image_classification.data import Data
from examples.image_classification.train import Task
from examples.storage import write_whole


class Run(NamedTuple):
    """One seed of a task, from the first epoch to the last."""

    seed: int
    accuracy: np.ndarray  # after each epoch, on the test data
    loss: np.ndarray  # mean of the training loss over each epoch; nan where that was not finite
    noisy_share: float  # of the layers


@dataclass
class Sweep:
    """``on_epoch`` is told of every epoch; ``seeds_at_once`` train in one program (None: all, or 1 of convolutions)."""

    data: Data
    folder: Path
    seeds_at_once: int | None = None
    on_epoch: Callable[[Task, Sequence[int]], None] = lambda task, seeds: None

    def missing(self, task: Task, seeds: Sequence[int]) -> list[int]:
        return [seed for seed in seeds if not self._path(task, seed).exists()]

    def read(self, task: Task, seed: int) -> Run:
        path = self._path(task, seed)
        try:
            run = json.loads(path.read_text(encoding="utf-8"))
            accuracy, loss = (np.array(run[name], float) for name in ("accuracy", "loss"))  # None: nan
            if accuracy.shape == loss.shape == (task.epochs,) and run["seed"] == seed:
                return Run(seed, accuracy, loss, float(run["noisy_share"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        sys.exit(f"error: {path} is not the result of a run; remove it, and it is run again")

    def run(self, tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """All that have no file yet."""
        self.folder.mkdir(exist_ok=True)
        devices, stop = jax.local_devices(), Event()
        free: SimpleQueue[Any] = SimpleQueue()
        for device in devices:
            free.put(device)

        def on_a_free_device(task: Task) -> None:
            device = free.get()
            try:
                with jax.default_device(device):
                    self._task(task, self.missing(task, seeds), stop)
            except BaseException:
                stop.set()  # the others end with the epoch that they are in
                raise
            finally:
                free.put(device)

        with ThreadPoolExecutor(max_workers=len(devices)) as pool:
            futures = [pool.submit(on_a_free_device, task) for task in tasks if self.missing(task, seeds)]
        for future in futures:
            future.result()

    def _task(self, task: Task, seeds: Sequence[int], stop: Event) -> None:
        if stop.is_set():
            return
        training = train.prepare(task, self.data)
        at_once = self.seeds_at_once or (1 if task.model in models.CONVOLUTIONAL else len(seeds))
        images = jax.device_put(training.images)
        for first in range(0, len(seeds), at_once):
            group = seeds[first : first + at_once]
            state, curves = training.start(group), np.empty((2, task.epochs, len(group)))
            for number in range(task.epochs):
                state, curves[:, number] = training.epoch(state, np.int32(number), images)
                self.on_epoch(task, group)
                if stop.is_set():
                    return
            for i, seed in enumerate(group):
                accuracy, loss = curves[:, :, i]
                self._write(task, Run(seed, accuracy, loss, training.noisy_share))

    def _write(self, task: Task, run: Run) -> None:
        content = _identity(task, run.seed) | {
            "langevin_optax": lgv.__version__,
            "noisy_share": run.noisy_share,
            "accuracy": run.accuracy.tolist(),
            "loss": [loss if math.isfinite(loss) else None for loss in run.loss.tolist()],
        }
        write_whole(self._path(task, run.seed), json.dumps(content) + "\n")

    def _path(self, task: Task, seed: int) -> Path:
        return self.folder / f"{_hash(json.dumps(_identity(task, seed)).encode())}.json"


def _identity(task: Task, seed: int) -> dict[str, Any]:
    """All that a run depends on; a result of other code, or of another kind of device, is never taken for this one."""
    machine = {"jax": jax.__version__, "device": jax.devices()[0].device_kind}
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # of products
    return {"task": asdict(task), "seed": seed, "code": _code(), "precision": precision} | machine


@functools.cache
def _code() -> str:
    here, package = Path(__file__).parent, Path(lgv.__file__).parent
    trained = [here / f"{name}.py" for name in ("methods", "models", "train")]
    return _hash(b"".join(path.read_bytes() for path in [*sorted(package.rglob("*.py")), *trained]))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
