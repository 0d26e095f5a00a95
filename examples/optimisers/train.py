"""The two problems, and the training of many chains or networks at once in one compiled program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import langevin_optax as lgv
from examples.optimisers.methods import Method

# The quadratic: a linear regression y = xW without error, whose Hessian is E[xxᵀ]. The temperature is 1.
CURVATURES = np.array([1.0, 100.0])
TILT = np.radians(25)  # of the flat axis
AXES = np.array([[np.cos(TILT), -np.sin(TILT)], [np.sin(TILT), np.cos(TILT)]])  # columns: flat, stiff
MINIMUM = np.array([1.0, 0.5])
START = MINIMUM + AXES @ [-5.0, 1.5]
POINTS, CHAINS, STEPS, FALL = 64, 128, 4000, 300

# The deep network, on as many points as a batch has elsewhere.
DEPTH, WIDTH, SEEDS, DEEP_STEPS = 24, 16, 3, 500
SIGMA, NOISY_LAYERS, NOISY_STEPS = 0.1, 0.3, 0.6


class Problem(NamedTuple):
    model: nn.Module
    x: jax.Array
    loss: Callable[[Any], jax.Array]  # of the outputs


class Result(NamedTuple):
    method: Method
    losses: np.ndarray  # (1 + CHAINS, STEPS), on the quadratic; the first chain has no noise
    w: np.ndarray  # (1 + CHAINS, STEPS, 2)
    deep_losses: np.ndarray  # (2, SEEDS, DEEP_STEPS), plain and Layer Langevin

    @property
    def spread(self) -> np.ndarray:
        """The variance along the flat and the stiff axis in the second half, over that of exp(−L)."""
        along = (self.w[1:, self.w.shape[1] // 2 :] - MINIMUM) @ AXES
        return np.square(along).mean((0, 1)) * CURVATURES


class Deep(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(DEPTH):
            x = nn.relu(nn.Dense(WIDTH)(x))
        return nn.Dense(1)(x)[..., 0]


def quadratic() -> Problem:
    white, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(POINTS, 2)))  # so that E[xxᵀ] is the Hessian exactly
    x = jnp.asarray(np.sqrt(POINTS) * white * np.sqrt(CURVATURES) @ AXES.T, jnp.float32)
    y = x @ jnp.asarray(MINIMUM, jnp.float32)
    return Problem(nn.Dense(1, use_bias=False), x, lambda outputs: jnp.square(outputs[:, 0] - y).mean() / 2)


def moons() -> Problem:
    """128 points on two half circles that reach into each other, in two classes."""
    t = np.pi * np.linspace(0, 1, 64)
    x = np.concatenate([np.stack([np.cos(t), np.sin(t)], 1), np.stack([1 - np.cos(t), 0.5 - np.sin(t)], 1)])
    x = x - x.mean(0) + np.random.default_rng(0).normal(scale=0.1, size=x.shape)
    y = jnp.repeat(jnp.array([0.0, 1.0]), 64)

    def loss(outputs):
        return optax.sigmoid_binary_cross_entropy(outputs, y).mean()

    return Problem(Deep(), jnp.asarray(x, jnp.float32), loss)


def train(
    problem: Problem, tx: Any, params: Any, steps: int, keep: Callable[[Any], Any], whitens: bool
) -> tuple[jax.Array, Any]:
    """The loss before each step, on all points, and what is kept of the parameters after it."""

    def loss_fn(params):
        return problem.loss(problem.model.apply({"params": params}, problem.x))

    def step(carry, _):
        params, state = carry
        loss, gradients = jax.value_and_grad(loss_fn)(params)
        inputs = {"input_covariances": lgv.input_covariances(problem.model, params, problem.x)} if whitens else {}
        updates, state = tx.update(gradients, state, params, **inputs)
        params = optax.apply_updates(params, updates)
        return (params, state), (loss, keep(params))

    return jax.lax.scan(step, (params, tx.init(params)), None, steps)[1]


def on_quadratic(method: Method) -> tuple[np.ndarray, np.ndarray]:
    """Losses and parameters of all chains."""
    problem, (first, last) = quadratic(), method.quadratic
    rate = first if first == last else optax.exponential_decay(first, FALL, last / first, end_value=last)
    params = {"kernel": jnp.asarray(START, jnp.float32)[:, None]}

    def chain(sigma, key):
        tx = method.make(rate, sigma, key=key)
        return train(problem, tx, params, STEPS, lambda params: params["kernel"][:, 0], method.whitens)

    sigmas = np.sqrt(2 * method.k) * (np.arange(1 + CHAINS) > 0)
    keys = jax.random.split(jax.random.key(0), 1 + CHAINS)
    return jax.device_get(jax.jit(jax.vmap(chain))(jnp.asarray(sigmas, jnp.float32), keys))


def on_deep_network(method: Method, params: Any) -> np.ndarray:
    """Losses, plain and Layer Langevin; ``params`` are those of :func:`initial`."""
    problem = moons()
    mask = lgv.layer_mask(NOISY_LAYERS, lgv.layer_order(problem.model, problem.x))

    def network(sigma, key, params):
        schedule = optax.linear_schedule(sigma, 0.0, int(NOISY_STEPS * DEEP_STEPS))
        tx = method.make(method.deep, schedule, key=key, mask=mask)
        return train(problem, tx, params, DEEP_STEPS, lambda params: (), method.whitens)[0]

    both = jax.vmap(jax.vmap(network, (None, 0, 0)), (0, None, None))
    sigmas = jnp.array([0.0, SIGMA * np.sqrt(method.k)])
    return jax.device_get(jax.jit(both)(sigmas, jax.random.split(jax.random.key(1), SEEDS), params))


def initial() -> Any:
    """The parameters of the deep network, the seeds in front."""
    problem = moons()
    keys = jax.random.split(jax.random.key(0), SEEDS)
    return jax.vmap(lambda key: problem.model.init(key, problem.x)["params"])(keys)


def run(method: Method, params: Any) -> Result:
    return Result(method, *on_quadratic(method), on_deep_network(method, params))
