"""The data, and for each set the network, the posterior of its weights and what is kept of a draw."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets, linear_model
from sklearn.model_selection import train_test_split

from langevin_optax import sampling

POINTS, NOISE = 40, 0.15  # of the regression with a gap
INPUTS, GAP = (-4.0, 4.0), (-1.5, 1.5)
SCALE = 10.0  # of logits: about their standard deviation a priori
GRID = np.linspace(-6, 6, 121, dtype=np.float32)


class Problem(NamedTuple):
    name: str
    x: jax.Array
    y: jax.Array
    test_x: jax.Array
    test_y: jax.Array
    batch: int  # examples in a minibatch; all of them, where that is no fewer
    noise: float | None  # its standard deviation, of a regression
    network: nn.Module
    loss: Callable[[Any, Any, Any], jax.Array]  # of parameters, inputs and targets: the mean loss with 1/N of the prior
    sigma: float
    predict: Callable[[Any], jax.Array]  # what is kept of a draw: for the test data the mean, or log p of the classes

    @property
    def parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.from_the_prior(jax.random.key(0))))

    def gradient(self, params: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        x, y = self.x, self.y
        if self.batch < len(x):
            chosen = jax.random.randint(key, (self.batch,), 0, len(x))
            x, y = x[chosen], y[chosen]
        return jax.value_and_grad(self.loss)(params, x, y)

    def from_the_prior(self, key: jax.Array) -> Any:
        return self.network.init(key, self.x[:1])["params"]


class Network(nn.Module):
    """Weights are N(0, 1) a priori, and at the start: each layer divides its inputs by the root of their number."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x):
        normal = nn.initializers.normal(1.0)
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=normal, bias_init=normal)(x / np.sqrt(x.shape[-1]))
            x = nn.tanh(x) if i < len(self.widths) - 1 else x
        return x


def truth(x: np.ndarray) -> np.ndarray:
    return np.sin(1.2 * x) + 0.2 * x


def gap() -> Problem:
    """A regression in one dimension, without data in the middle, whose noise is known."""
    rng = np.random.default_rng(0)
    sides = (INPUTS[0], GAP[0]), (GAP[1], INPUTS[1])
    x = np.concatenate([rng.uniform(*side, POINTS // 2) for side in sides])
    y = truth(x) + NOISE * rng.normal(size=POINTS)
    return _regression("gap", x[:, None], y, GRID[:, None], truth(GRID), noise=NOISE, widths=(50, 1))


def diabetes() -> Problem:
    """Progress of the disease of 442 patients from ten measurements; the noise is what a linear regression leaves."""
    x, y = datasets.load_diabetes(return_X_y=True)
    x, test_x, y, test_y = train_test_split(x, y, test_size=0.3, random_state=0)
    (x, test_x), (y, test_y) = _standardised(x, test_x), _standardised(y, test_y)
    residuals = y - linear_model.LinearRegression().fit(x, y).predict(x)
    return _regression("diabetes", x, y, test_x, test_y, noise=residuals.std(), widths=(20, 1))


def breast_cancer() -> Problem:
    """Benign or malignant, of 569 tumours, from thirty measurements."""
    return _classification("breast cancer", datasets.load_breast_cancer(return_X_y=True), widths=(20, 2))


def digits() -> Problem:
    """1,797 images of 8 × 8 pixels, in minibatches."""
    return _classification("digits", datasets.load_digits(return_X_y=True), widths=(30, 10), batch=128)


def _regression(name: str, x: Any, y: Any, test_x: Any, test_y: Any, noise: float, widths: Sequence[int]) -> Problem:
    network = Network(widths)
    x, y, test_x, test_y = (jnp.asarray(array, jnp.float32) for array in (x, y, test_x, test_y))

    def mean(params, x):
        return network.apply({"params": params}, x)[:, 0]

    def mean_loss(params, x, y):
        return -jax.scipy.stats.norm.logpdf(y, mean(params, x), noise).mean()

    loss, sigma = sampling.tempered_posterior(mean_loss, len(x), prior_precision=1.0)
    return Problem(name, x, y, test_x, test_y, len(x), noise, network, loss, sigma, lambda params: mean(params, test_x))


def _classification(name: str, data: Any, widths: Sequence[int], batch: int | None = None) -> Problem:
    network = Network(widths)
    x, test_x, y, test_y = train_test_split(*data, test_size=0.3, random_state=0, stratify=data[1])
    x, test_x = (jnp.asarray(array, jnp.float32) for array in _standardised(x, test_x))
    y, test_y = jnp.asarray(y, jnp.int32), jnp.asarray(test_y, jnp.int32)

    def log_probabilities(params, x):
        return nn.log_softmax(SCALE * network.apply({"params": params}, x))

    def mean_loss(params, x, y):
        return -jnp.take_along_axis(log_probabilities(params, x), y[:, None], 1).mean()

    loss, sigma = sampling.tempered_posterior(mean_loss, len(x), prior_precision=1.0)
    return Problem(
        name,
        x,
        y,
        test_x,
        test_y,
        batch or len(x),
        None,
        network,
        loss,
        sigma,
        lambda params: log_probabilities(params, test_x),
    )


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By the mean and the standard deviation of the training data; what is constant in these is 0."""
    mean, sd = train.mean(0), np.where(train.std(0) > 0, train.std(0), np.inf)
    return (train - mean) / sd, (test - mean) / sd
