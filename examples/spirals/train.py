"""The training of many networks at once: all seeds and all values of a setting, in one compiled program."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import langevin_optax as lgv
from examples.spirals import data
from examples.spirals.model import Perceptron

TEST_POINTS = 1000
AVERAGED_STEPS = 10  # of which a picture shows the mean classifier
RECORDS = 50  # of the test accuracy, evenly over the steps


@dataclass(frozen=True)
class Task:
    """What is learned, by which network, for how long."""

    turns: float
    nodes: int
    steps: int
    shape: str = "spirals"
    points: int = 500
    batch_size: int = 25
    init_sd: float | None = None  # None: uniform on ±1/√fan-in

    @property
    def title(self) -> str:
        what = f"{self.turns:g}-turn spirals" if self.shape == "spirals" else f"waves of {self.turns:g} periods"
        return f"{what}, {self.nodes} nodes"


class Method(NamedTuple):
    """An optimiser: ``make(order, key, *value)``; the rows of ``values`` vary within one compiled program."""

    name: str
    make: Callable[..., optax.GradientTransformation]
    values: Sequence[Sequence[float]] = ((),)


class Result(NamedTuple):
    """What became of one method on one task. Arrays have values and seeds in front."""

    task: Task
    method: Method
    steps: np.ndarray  # (records,)
    accuracy: np.ndarray  # (values, seeds, records), on the test points
    loss: np.ndarray  # (values, seeds, records), the mean of the training loss since the last record
    last_params: Any  # of the first value and seed, after each of AVERAGED_STEPS further steps, if kept

    @property
    def final(self) -> np.ndarray:
        return self.accuracy[:, :, -1]


class Given(NamedTuple):
    """What a seed starts from, whatever the method; the seeds are in front."""

    params: Any
    points: data.Data
    batch_key: jax.Array
    noise_key: jax.Array


class _Run(NamedTuple):
    params: Any
    points: data.Data
    batch_key: jax.Array
    noise_key: jax.Array
    opt_state: Any
    value: tuple[jax.Array, ...]


@functools.cache
def prepare(task: Task, seeds: int) -> Given:
    """Data, weights, batches and noise keys of every seed."""

    def one(seed):
        data_key, init_key, batch_key, noise_key = jax.random.split(jax.random.key(seed), 4)
        points = data.generate(data_key, task.shape, task.turns, task.points, TEST_POINTS)
        params = Perceptron(task.nodes, task.init_sd).init(init_key, points.train_x[:1])
        return Given(params, points, batch_key, noise_key)

    return jax.jit(jax.vmap(one))(jnp.arange(seeds))


def train(
    task: Task,
    method: Method,
    seeds: int,
    progress: Callable[[int], Any] = lambda steps: None,
    keep_last: bool = False,
) -> Result:
    """Train with every value and every seed; ``keep_last`` for the classifier in the end."""
    model = Perceptron(task.nodes, task.init_sd)
    order = lgv.layer_order(model, jnp.zeros((1, 2)))
    batches = task.points // task.batch_size  # per epoch
    epochs = max(1, round(task.steps / RECORDS / batches))  # per record

    def loss_fn(params, x, y):
        return optax.losses.sigmoid_binary_cross_entropy(model.apply(params, x), y).mean()

    def step(run, batch):
        loss, grads = jax.value_and_grad(loss_fn)(run.params, run.points.train_x[batch], run.points.train_y[batch])
        optimizer = method.make(order, run.noise_key, *run.value)
        updates, opt_state = optimizer.update(grads, run.opt_state, run.params)
        return run._replace(params=optax.apply_updates(run.params, updates), opt_state=opt_state), loss

    def batches_of(run, epoch):
        shuffled = jax.random.permutation(jax.random.fold_in(run.batch_key, epoch), task.points)
        return shuffled[: batches * task.batch_size].reshape(batches, task.batch_size)

    def until_record(run, first_epoch):
        def one_epoch(run, epoch):
            return jax.lax.scan(step, run, batches_of(run, epoch))

        run, losses = jax.lax.scan(one_epoch, run, first_epoch + jnp.arange(epochs))
        right = (model.apply(run.params, run.points.test_x) > 0) == (run.points.test_y > 0.5)
        return run, (right.sum(), losses.mean())

    def last_params(run, epoch):
        def and_keep(run, batch):
            run, _ = step(run, batch)
            return run, run.params

        return jax.lax.scan(and_keep, run, batches_of(run, epoch)[:AVERAGED_STEPS])[1]

    def every_run(function, in_axes):
        return jax.vmap(jax.vmap(function, in_axes), in_axes)  # over values, over seeds

    def start(given, *value):
        return _Run(
            opt_state=method.make(order, given.noise_key, *value).init(given.params), value=value, **given._asdict()
        )

    shape = len(method.values), seeds
    given = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (shape[0], *leaf.shape)), prepare(task, seeds))
    columns = [jnp.asarray(column, jnp.float32)[:, None] for column in zip(*method.values, strict=True)]
    runs = every_run(start, 0)(given, *(jnp.broadcast_to(column, shape) for column in columns))
    program = jax.jit(every_run(until_record, (0, None)), donate_argnums=0)
    records = []
    for record in range(RECORDS):
        runs, curves = program(runs, record * epochs)
        records.append(jax.device_get(curves))
        progress(epochs * batches)
    right, loss = (np.stack(column, axis=-1) for column in zip(*records, strict=True))
    first = jax.tree.map(lambda leaf: leaf[0, 0], runs)
    kept = jax.device_get(jax.jit(last_params)(first, RECORDS * epochs)) if keep_last else None
    return Result(
        task=task,
        method=method,
        steps=(1 + np.arange(RECORDS)) * epochs * batches,
        accuracy=right / TEST_POINTS,
        loss=loss,
        last_params=kept,
    )


def classifier(result: Result, x: np.ndarray) -> np.ndarray:
    """The probability of class 1 at the points x, the mean over the last steps of the first run."""
    task = result.task
    logits = jax.vmap(Perceptron(task.nodes, task.init_sd).apply, (0, None))(result.last_params, x)
    return np.asarray(jax.nn.sigmoid(logits).mean(axis=0))
