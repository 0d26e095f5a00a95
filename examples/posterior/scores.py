"""How good predictions are, and how far chains agree on them."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from examples.posterior.problems import Problem

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "(?s).*ArviZ is undergoing", FutureWarning)
    import arviz

BINS = 10


class Scores(NamedTuple):
    main: float  # the accuracy, or of a regression the root of the mean squared error
    log_scores: np.ndarray  # of every test example
    calibration_error: float | None  # of a classification
    coverage: float | None  # of a regression: how much of the test data is in the 90 % band


def scores(problem: Problem, draws: np.ndarray) -> Scores:
    """Of predictions with the axes (draw, example, ...), which count alike."""
    y, of_draws = np.asarray(problem.test_y), log_likelihoods(problem, draws)
    log_scores = np.logaddexp.reduce(of_draws, axis=0) - np.log(len(of_draws))
    if problem.noise is not None:
        error = np.sqrt(np.square(draws.mean(0) - y).mean())
        return Scores(error, log_scores, None, coverage(draws, problem.noise, y))
    probabilities = np.exp(draws).mean(0)
    accuracy = (probabilities.argmax(1) == y).mean()
    return Scores(accuracy, log_scores, expected_calibration_error(probabilities, y), None)


def log_likelihoods(problem: Problem, draws: np.ndarray) -> np.ndarray:
    """Of the test data under each draw: the axes (..., example)."""
    y = np.asarray(problem.test_y)
    if problem.noise is not None:
        return stats.norm.logpdf(y, draws.astype(np.float64), problem.noise)
    return np.take_along_axis(draws.astype(np.float64), y.reshape(*[1] * (draws.ndim - 2), -1, 1), -1)[..., 0]


def expected_calibration_error(probabilities: np.ndarray, y: np.ndarray) -> float:
    """|Accuracy − confidence| in bins of the confidence of equal width, weighted by the number of examples in them."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == y
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return sum(abs((right - confidence)[bins == i].sum()) for i in range(BINS)) / len(y)


def coverage(means: np.ndarray, noise: float, y: np.ndarray) -> float:
    """How many targets are between the quantiles 5 % and 95 % of the mixture of normals, one for each draw."""
    below = stats.norm.cdf(y, means, noise).mean(0)
    return ((below >= 0.05) & (below <= 0.95)).mean()


def convergence(quantity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ArviZ's R-hat and bulk effective sample size of what has the axes (chain, draw, example), for each example."""
    data = arviz.convert_to_dataset({"quantity": quantity})
    values: Any = (function(data)["quantity"].to_numpy() for function in (arviz.rhat, arviz.ess))
    return tuple(values)
