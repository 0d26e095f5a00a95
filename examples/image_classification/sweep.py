"""Many runs, a task at a time on each device: taken up where they were killed, and written down as they end."""

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from examples.image_classification import results, train
from examples.image_classification.data import Data
from examples.image_classification.results import Results, Run
from examples.image_classification.train import Task


@dataclass
class Sweep:
    """Seeds that train together share a checkpoint. ``on_epoch`` is told of every epoch, by one thread at a time."""

    data: Data
    results: Results
    checkpoints: Path
    seeds_at_once: Callable[[Task], int]
    checkpoint_minutes: float
    on_epoch: Callable[[Task, Sequence[int], int], None] = lambda task, seeds, number: None
    stop: Event = field(default_factory=Event)  # once it is set, runs end with their epoch, and save it
    _lock: Any = field(default_factory=Lock)

    def missing(self, task: Task, seeds: Sequence[int]) -> list[int]:
        done = self.results.runs(task)
        return [seed for seed in seeds if seed not in done]

    def run(self, tasks: Sequence[Task], seeds: Sequence[int]) -> None:
        """All that the file of results does not have yet, until ``stop`` is set."""
        free: SimpleQueue[Any] = SimpleQueue()
        devices = jax.local_devices()
        for device in devices:
            free.put(device)

        def on_a_free_device(task):
            device = free.get()
            try:
                with jax.default_device(device):
                    self._task(task, self.missing(task, seeds), device)
            except BaseException:
                self.stop.set()
                raise
            finally:
                free.put(device)

        with ThreadPoolExecutor(max_workers=len(devices)) as pool:
            futures = [pool.submit(on_a_free_device, task) for task in tasks if self.missing(task, seeds)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                self.stop.set()
                raise
            finally:  # after an error the others end with the epoch that they are in
                for future in futures:
                    future.cancel()
        for future in futures:
            if not future.cancelled():
                future.result()

    def _task(self, task: Task, seeds: Sequence[int], device: Any) -> None:
        if self.stop.is_set():
            return
        training = train.prepare(task, self.data)
        images = jax.device_put(training.images, device)
        at_once = self.seeds_at_once(task)
        for first in range(0, len(seeds), at_once):
            group = seeds[first : first + at_once]
            directory = self.checkpoints / results.identity(task, group)
            runs = self._train(task, training, images, group, device, directory)
            if runs is None:
                return
            with self._lock:
                self.results.append(task, runs)
            shutil.rmtree(directory)  # after the results, so that a kill in between loses nothing

    def _train(
        self, task: Task, training: train.Training, images: Any, seeds: Sequence[int], device: Any, directory: Path
    ) -> list[Run] | None:
        """None if the sweep was stopped."""
        state = training.start(seeds)
        accuracy, loss = np.full((2, len(seeds), task.epochs), np.nan)
        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, enable_async_checkpointing=False)
        with ocp.CheckpointManager(directory.absolute(), options=options) as manager:
            first = manager.latest_step() or 0
            if first:
                state, accuracy, loss = _restored(manager, first, (state, accuracy, loss), device)
            state = jax.device_put(state, device)
            saved = time.monotonic()
            for number in range(first, task.epochs):
                state, (accuracy[:, number], loss[:, number]) = training.epoch(state, np.int32(number), images)
                with self._lock:
                    self.on_epoch(task, seeds, number)
                interrupted = self.stop.is_set()
                if interrupted or time.monotonic() - saved > 60 * self.checkpoint_minutes:
                    manager.save(number + 1, args=ocp.args.StandardSave((state, accuracy, loss)))
                    saved = time.monotonic()
                if interrupted:
                    return None
        return [Run(seed, accuracy[i], loss[i], training.noisy_share) for i, seed in enumerate(seeds)]


def _restored(manager: ocp.CheckpointManager, step: int, like: Any, device: Any) -> Any:
    here = jax.sharding.SingleDeviceSharding(device)  # it may have been saved on another one
    shapes = jax.eval_shape(lambda: like)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
    try:
        state, *curves = manager.restore(step, args=ocp.args.StandardRestore(shapes))
    except Exception as error:
        raise results.ResultsError(
            f"the checkpoint in {manager.directory} cannot be read ({type(error).__name__}); delete that folder to "
            "train its runs from the start"
        ) from error
    return state, *map(np.array, curves)  # float32, as they came from the device
