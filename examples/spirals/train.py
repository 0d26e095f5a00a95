"""The training of many networks at once: all seeds and all settings of a method, in one compiled program."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import langevin_optax as lgv

SCALE = 2.0  # of the points in the plane; a of the formula, as in the authors' notebook
TEST_POINTS = 1000
AVERAGED_STEPS = 10  # of which a picture shows the mean classifier
_SYMBOLS = {"tau": "τ", "sigma": "σ"}


def spirals(t, sign, turns):
    """The paper's: two arms, ±a t (cos 2bπt, sin 2bπt)."""
    angle = 2 * turns * jnp.pi * t
    return sign * (SCALE * t * jnp.stack([jnp.cos(angle), jnp.sin(angle)]))


def waves(t, sign, turns):
    """Our own: two of b periods, one on top of the other, (a (2t − 1), sin 2bπt ± 1/2)."""
    return jnp.stack([SCALE * (2 * t - 1), jnp.sin(2 * turns * jnp.pi * t) + sign / 2])


class Perceptron(nn.Module):
    """One hidden ReLU layer; returns the logit of class 1. Weights start uniform on ±1/√fan-in, or normal."""

    nodes: int
    init_sd: float | None = None

    @nn.compact
    def __call__(self, x):
        return self._dense(1, nn.relu(self._dense(self.nodes, x)))[..., 0]

    def _dense(self, features, x):
        def init(key, shape, dtype=jnp.float32):
            if self.init_sd is not None:
                return self.init_sd * jax.random.normal(key, shape, dtype)
            return jax.random.uniform(key, shape, dtype, -1 / math.sqrt(x.shape[-1]), 1 / math.sqrt(x.shape[-1]))

        return nn.Dense(features, kernel_init=init, bias_init=init)(x)


class Task(NamedTuple):
    """What is learned, by which network, for how long."""

    turns: float
    nodes: int
    steps: int
    batch_size: int = 25
    points: int = 500
    init_sd: float | None = None  # None: uniform on ±1/√fan-in, PyTorch's default
    shape: Callable[..., jax.Array] = spirals
    power: float = 0.5
    noise: float = 0.02
    records: int = 50  # of the test accuracy, evenly over the steps

    @property
    def title(self) -> str:
        what = f"{self.turns:g}-turn spirals" if self.shape is spirals else f"waves of {self.turns:g} periods"
        extra = f", p = {self.power:g}" * (self.power != 0.5) + f", c = {self.noise:g}" * (self.noise != 0.02)
        share = self.batch_size / self.points
        extra += f", {100 * share:.0f} % batches" * (share != 0.05)
        return f"{what}, {self.nodes} nodes{extra}{self.start}"

    @property
    def start(self) -> str:
        return f", N(0, {self.init_sd:g}²)" if self.init_sd else ""

    @property
    def model(self) -> Perceptron:
        return Perceptron(self.nodes, self.init_sd)


class Method(NamedTuple):
    """An optimiser: ``make(order, key, **setting)``; the settings vary within one compiled program."""

    name: str
    make: Callable[..., optax.GradientTransformation]
    settings: Sequence[Mapping[str, float]] = ({},)

    def label(self, setting: Mapping[str, float]) -> str:
        varied = setting.items() if len(self.settings) > 1 else ()
        return ", ".join([self.name, *(f"{_SYMBOLS[name]} = {value:g}" for name, value in varied)])


class Result(NamedTuple):
    """What became of one method on one task. Arrays have settings and seeds in front."""

    task: Task
    method: Method
    steps: np.ndarray  # (records,)
    accuracy: np.ndarray  # (settings, seeds, records), on the test points
    loss: np.ndarray  # (settings, seeds, records), the mean of the training loss since the last record
    params: Any  # (settings, seeds, records, AVERAGED_STEPS, ...), of the steps before each record, if kept

    @property
    def final(self) -> np.ndarray:
        return self.accuracy[:, :, -1]


class Data(NamedTuple):
    train_x: Any  # (n, 2), float32
    train_y: Any  # (n,), 0.0 or 1.0
    test_x: Any
    test_y: Any


class Given(NamedTuple):
    """What a seed starts from, whatever the method; the seeds are in front."""

    params: Any
    points: Data
    batch_key: jax.Array
    noise_key: jax.Array


def draw(task: Task, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """n points, as many of each class, and their classes: t uniform on (0, 1) to the power p, blurred by c N(0, 1)."""
    t_key, blur_key = jax.random.split(key)
    sign = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)
    x = task.shape(jax.random.uniform(t_key, (n,)) ** task.power, sign, task.turns).T
    return x + task.noise * jax.random.normal(blur_key, (n, 2)), (sign + 1) / 2


@functools.cache
def prepare(task: Task, seeds: int) -> Given:
    def one(seed):
        data_key, init_key, batch_key, noise_key = jax.random.split(jax.random.key(seed), 4)
        train_key, test_key = jax.random.split(data_key)
        points = Data(*draw(task, train_key, task.points), *draw(task, test_key, TEST_POINTS))
        return Given(task.model.init(init_key, points.train_x[:1]), points, batch_key, noise_key)

    return jax.jit(jax.vmap(one))(jnp.arange(seeds))


def loss(model: Perceptron, params: Any, x: Any, y: Any) -> jax.Array:
    return optax.losses.sigmoid_binary_cross_entropy(model.apply(params, x), y).mean()


def train(
    task: Task, method: Method, seeds: int, progress: Callable[[int], Any] = lambda steps: None, keep: bool = False
) -> Result:
    """Train with every setting and every seed; ``keep`` the parameters of the last steps before each record."""
    order = lgv.layer_order(task.model, jnp.zeros((1, 2)))
    batches = task.points // task.batch_size  # per epoch
    epochs = max(1, round(task.steps / task.records / batches))  # per record

    def start(given, setting):
        return given.params, method.make(order, given.noise_key, **setting).init(given.params)

    def until_record(state, given, setting, first_epoch):
        optimizer = method.make(order, given.noise_key, **setting)

        def step(state, batch):
            params, opt_state = state
            x, y = given.points.train_x[batch], given.points.train_y[batch]
            value, grads = jax.value_and_grad(functools.partial(loss, task.model))(params, x, y)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            return (params, opt_state), (value, params if keep else None)

        def one_epoch(state, epoch):
            shuffled = jax.random.permutation(jax.random.fold_in(given.batch_key, epoch), task.points)
            each = shuffled[: batches * task.batch_size].reshape(batches, task.batch_size)
            state, (losses, params) = jax.lax.scan(step, state, each)
            return state, (losses, jax.tree.map(lambda leaf: leaf[-AVERAGED_STEPS:], params))

        state, (losses, params) = jax.lax.scan(one_epoch, state, first_epoch + jnp.arange(epochs))
        right = (task.model.apply(state[0], given.points.test_x) > 0) == (given.points.test_y > 0.5)
        return state, (right.sum(), losses.mean(), jax.tree.map(lambda leaf: leaf[-1], params))

    given = prepare(task, seeds)
    settings = {name: jnp.asarray([setting[name] for setting in method.settings]) for name in method.settings[0]}
    over_seeds = jax.vmap(until_record, (0, 0, None, None))
    program = jax.jit(jax.vmap(over_seeds, (0, None, 0, None)), donate_argnums=0)
    state = jax.vmap(jax.vmap(start, (0, None)), (None, 0), axis_size=len(method.settings))(given, settings)
    records = []
    for record in range(task.records):
        state, found = program(state, given, settings, record * epochs)
        records.append(jax.device_get(found))
        progress(epochs * batches)
    right, losses, params = jax.tree.map(lambda *leaves: np.stack(leaves, axis=2), *records)
    steps = (1 + np.arange(task.records)) * epochs * batches
    return Result(task, method, steps, right / TEST_POINTS, losses, params)


def classifier(result: Result, record: int, x: np.ndarray) -> np.ndarray:
    """The probability of class 1 at the points x, by the first run, the mean over the steps before a record."""
    params = jax.tree.map(lambda leaf: leaf[0, 0, record], result.params)
    return np.asarray(jax.nn.sigmoid(jax.vmap(result.task.model.apply, (0, None))(params, x)).mean(axis=0))


def losses_between(first: Result, second: Result, places: np.ndarray) -> np.ndarray:
    """The training loss of every seed on the straight line through the last parameters of two methods, at 0 and 1."""

    def one(points, start, end, place):
        between = jax.tree.map(lambda a, b: (1 - place) * a + place * b, start, end)
        return loss(first.task.model, between, points.train_x, points.train_y)

    start, end = (jax.tree.map(lambda leaf: leaf[0, :, -1, -1], r.params) for r in (first, second))
    points = prepare(first.task, first.final.shape[1]).points
    every = jax.vmap(jax.vmap(one, (None, None, None, 0)), (0, 0, 0, None))
    return np.asarray(every(points, start, end, jnp.asarray(places)))
