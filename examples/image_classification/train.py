"""The training of one model with one optimiser: all seeds at once, in one compiled program."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import langevin_optax as lgv
from examples.image_classification.data import Data


@dataclass(frozen=True)
class Settings:
    depths: tuple[int, ...] = (10, 20, 40, 60)
    width: int = 64
    seeds: int = 6
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    adam_eps: float = 1e-8  # of plain Adam, Optax's default; the Langevin ones have the package's, 1e-6
    sigma: float = 1e-3
    noisy_steps: float = 0.6  # σ falls linearly, and is 0 after this share of the steps
    noisy_layers: float = 0.3  # the share of the layers, from the input on, that LL-Adam adds noise to


class Runs(NamedTuple):
    """The state of training; every leaf has the seeds in front."""

    params: Any
    opt_state: Any
    batch_key: jax.Array


class Curves(NamedTuple):
    accuracy: np.ndarray  # (seeds, epochs), on the test data, after the epoch
    loss: np.ndarray  # (seeds, epochs), the mean of the training loss over the epoch


def optimizers(model: Any, data: Data, settings: Settings) -> dict[str, optax.GradientTransformationExtraArgs]:
    """The optimisers to compare, by name."""
    steps = settings.epochs * (len(data.train_x) // settings.batch_size)
    sigma = optax.linear_schedule(settings.sigma, 0.0, round(settings.noisy_steps * steps))
    first_layers = lgv.layer_mask(settings.noisy_layers, lgv.layer_order(model, data.train_x[:1]))
    # key=0 is a placeholder: start gives every seed its own.
    return {
        "Adam": optax.adam(settings.learning_rate, eps=settings.adam_eps),
        "L-Adam": lgv.adam(settings.learning_rate, sigma, key=0),
        f"LL-Adam {settings.noisy_layers * 100:g} %": lgv.adam(settings.learning_rate, sigma, key=0, mask=first_layers),
    }


def start(model: Any, optimizer: optax.GradientTransformation, data: Data, seeds: int) -> Runs:
    """Before the first step. Weights, batches and noise depend on the seed alone, so that optimisers share them."""

    def one(seed):
        init_key, batch_key, noise_key = jax.random.split(jax.random.key(seed), 3)
        params = model.init(init_key, data.train_x[:1])
        opt_state: Any = optimizer.init(params)
        if isinstance(opt_state[-1], lgv.LangevinState):
            opt_state = (*opt_state[:-1], opt_state[-1]._replace(key=noise_key))
        return Runs(params, opt_state, batch_key)

    return jax.vmap(one)(jnp.arange(seeds))


def compile_training(
    model: Any, optimizer: optax.GradientTransformation, data: Data, settings: Settings
) -> Iterator[Curves]:
    """Compile; the iterator that comes back trains, and yields the curves of a few epochs at a time."""
    batch_size = settings.batch_size
    steps = len(data.train_x) // batch_size
    chunk = next(n for n in (5, 4, 3, 2, 1) if settings.epochs % n == 0)  # of one length, so that one program does

    def loss_fn(params, x, y):
        return optax.losses.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

    def train(runs, epochs, data):
        def step(carry, batch):
            params, opt_state = carry
            loss, grads = jax.value_and_grad(loss_fn)(params, data.train_x[batch], data.train_y[batch])
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        def epoch(carry, number):
            # Every epoch has an order of its own and leaves out what fills no batch.
            order = jax.random.permutation(jax.random.fold_in(runs.batch_key, number), len(data.train_x))
            carry, losses = jax.lax.scan(step, carry, order[: steps * batch_size].reshape(steps, batch_size))
            accuracy = jnp.mean(jnp.argmax(model.apply(carry[0], data.test_x), axis=-1) == data.test_y)
            return carry, (accuracy, losses.mean())

        (params, opt_state), curves = jax.lax.scan(epoch, (runs.params, runs.opt_state), epochs)
        return Runs(params, opt_state, runs.batch_key), curves

    runs = start(model, optimizer, data, settings.seeds)
    all_seeds = jax.jit(jax.vmap(train, in_axes=(0, None, None)), donate_argnums=0)
    program = all_seeds.lower(runs, np.arange(chunk, dtype=np.int32), data).compile()

    def train_on(runs):
        for first in range(0, settings.epochs, chunk):
            runs, curves = program(runs, np.arange(first, first + chunk, dtype=np.int32), data)
            yield Curves(*map(np.asarray, curves))

    return train_on(runs)
