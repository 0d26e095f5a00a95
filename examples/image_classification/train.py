"""The training of one network with one method, an epoch at a time, for several seeds at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import langevin_optax as lgv
from examples.image_classification import methods, models
from examples.image_classification.data import Data
from examples.image_classification.methods import Method


@dataclass(frozen=True)
class Task:
    """Everything that a result depends on, except for the seed."""

    data: str
    data_checksum: int
    model: str
    depth: int
    width: int
    augment: bool
    batch_size: int
    epochs: int
    method: Method


class Runs(NamedTuple):
    """The state of training; every leaf has the seeds in front."""

    params: Any
    batch_stats: Any  # of BatchNorm; empty without
    opt_state: Any
    batch_key: jax.Array


class Training(NamedTuple):
    start: Callable[[Sequence[int]], Runs]  # from seeds
    # From the runs, the number of the epoch and the images to the runs and, per seed, the accuracy on the test data
    # after the epoch and the mean of the training loss over it.
    epoch: Callable[[Runs, Any, Any], tuple[Runs, tuple[jax.Array, jax.Array]]]
    images: Any  # training and test data
    noisy_share: float  # of the layers; 0 without noise


def prepare(task: Task, data: Data) -> Training:
    """All that is ready before the first step, compiled by its first call."""
    model = models.MODELS[task.model](task.depth, task.width, data.classes)
    example = jnp.zeros((1, *data.train_x.shape[1:]))
    order = lgv.layer_order(model, example)
    steps = steps_per_epoch(task, data)
    optimizer = methods.build(task.method, order, task.epochs * steps)

    def start_one(seed: jax.Array) -> Runs:
        """Weights, batches, augmentation and noise depend on the seed alone, so that methods share them."""
        init_key, batch_key, noise_key = jax.random.split(jax.random.key(seed), 3)
        variables = model.init(init_key, example)
        opt_state = optimizer(noise_key).init(variables["params"])
        return Runs(variables["params"], variables.get("batch_stats", {}), opt_state, batch_key)

    share = len(methods.selected(task.method, order)) / len(order)
    images = data.train_x, data.train_y, data.test_x, data.test_y
    return Training(
        lambda seeds: jax.vmap(start_one)(jnp.array(seeds)), _epoch(task, model, optimizer(0), data), images, share
    )


def steps_per_epoch(task: Task, data: Data) -> int:
    return len(data.train_x) // task.batch_size


def _epoch(task: Task, model: Any, tx: optax.GradientTransformationExtraArgs, data: Data) -> Any:
    batch_size, steps = task.batch_size, steps_per_epoch(task, data)

    def normalized(images):
        return (images - data.mean) / data.std

    def loss_fn(params, batch_stats, x, y):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, new = model.apply(variables, x, mutable=["batch_stats"])
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, new.get("batch_stats", batch_stats)

    def step(state, batch, key, images):
        params, batch_stats, opt_state = state
        x, y = images[0][batch], images[1][batch]
        x = normalized(augmented(key, x) if task.augment else x)
        (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch_stats, x, y)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), batch_stats, opt_state), loss

    def right(state, image, label):
        variables = {"params": state[0], "batch_stats": state[1]}
        return model.apply(variables, normalized(image)[None], train=False)[0].argmax() == label

    def plan(batch_key, number):
        # Every epoch has an order of its own and leaves out what fills no batch.
        order_key, augmentation_key = jax.random.split(jax.random.fold_in(batch_key, number))
        order = jax.random.permutation(order_key, len(data.train_x))[: steps * batch_size].reshape(steps, batch_size)
        return order, jax.random.split(augmentation_key, steps)

    def epoch(runs, number, images):
        def next_step(state, batch_and_key):
            batch, key = batch_and_key
            return step(state, batch, key, images)

        state, losses = jax.lax.scan(next_step, runs[:3], plan(runs.batch_key, number))
        # A batch at a time, for the sake of memory.
        test_size = min(batch_size, len(data.test_x))
        accuracy = jnp.mean(jax.lax.map(lambda test: right(state, *test), images[2:], batch_size=test_size))
        return Runs(state[0], state[1], state[2], runs.batch_key), (accuracy, losses.mean())

    if task.model in models.CONVOLUTIONAL and jax.default_backend() == "cpu":
        return _step_by_step(plan, step, right, batch_size)
    return jax.jit(jax.vmap(epoch, in_axes=(0, None, None)), donate_argnums=0)


def _step_by_step(plan: Any, step: Any, right: Any, batch_size: int) -> Any:
    """The same without loops in the program: XLA's CPU convolutions are 5 to 25 times slower in one."""
    plans = jax.jit(jax.vmap(plan, in_axes=(0, None)))
    one_step = jax.jit(jax.vmap(step, in_axes=(0, 0, 0, None)), donate_argnums=0)
    of_batch = jax.vmap(right, in_axes=(None, 0, 0))
    tested = jax.jit(jax.vmap(of_batch, in_axes=(0, None, None)))

    def epoch(runs, number, images):
        state: Any = runs[:3]
        losses = []
        orders, keys = plans(runs.batch_key, number)
        for i in range(orders.shape[1]):
            state, loss = one_step(state, orders[:, i], keys[:, i], images)
            losses.append(loss)
        test_x, test_y = images[2:]
        batches = [slice(first, first + batch_size) for first in range(0, len(test_y), batch_size)]
        accuracy = jnp.concatenate([tested(state, test_x[b], test_y[b]) for b in batches], axis=1).mean(axis=1)
        return Runs(state[0], state[1], state[2], runs.batch_key), (accuracy, jnp.stack(losses).mean(axis=0))

    return epoch


def augmented(key: jax.Array, images: jax.Array) -> jax.Array:
    """Padded by 4 black pixels on each side, cropped to their size at random, and flipped with probability ½."""
    place_key, flip_key = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    rows, columns = jax.random.randint(place_key, (2, len(images)), 0, 9)

    def crop(image, row, column):
        return jax.lax.dynamic_slice(image, (row, column, 0), images.shape[1:])

    cropped = jax.vmap(crop)(padded, rows, columns)
    flip = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
    return jnp.where(flip, cropped[:, :, ::-1], cropped)
