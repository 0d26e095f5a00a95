"""The laws that the statistical guard compares with, in float64 NumPy, from the published formulas alone."""

from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.linalg import solve_discrete_lyapunov

# The preconditioners P_t of all steps t = 1, 2, ... from the gradients g_t, of shape (steps, entries).

B1, B2 = 0.9, 0.999


def recursion(step, start, xs):
    """x_t ↦ m_t = step(m_{t−1}, x_t), for all t."""
    states = []
    for x in xs:
        start = step(start, x)
        states.append(start)
    return np.array(states)


def average(x, b, start=0.0):
    return recursion(lambda m, x: b * m + (1 - b) * x, start, x)


def debiased(m, b):
    return m / (1 - b ** np.arange(1, len(m) + 1))[:, None]


def second_moment(g):
    return debiased(average(g**2, B2), B2)


def ones(g, theta):
    return np.ones_like(g)


def adam(g, theta):
    return 1 / (np.sqrt(second_moment(g)) + 1e-6)


def amsgrad(g, theta):
    return 1 / (np.sqrt(np.maximum.accumulate(second_moment(g))) + 1e-6)


def adamax(g, theta):
    return 1 / recursion(lambda nu, g: np.maximum(B2 * nu, np.abs(g) + 1e-6), 0.0, g)


def adabelief(g, theta):
    nu = recursion(lambda nu, error: B2 * nu + (1 - B2) * error**2 + 1e-16, 0.0, g - average(g, B1))
    return 1 / (np.sqrt(debiased(nu, B2)) + 1e-6)


def yogi(g, theta):
    nu = recursion(lambda nu, square: nu - (1 - B2) * np.sign(nu - square) * square, 1e-6, g**2)
    return 1 / (np.sqrt(debiased(nu, B2)) + 1e-3)


def radam(g, theta):
    t = np.arange(1, len(g) + 1)
    rho_inf = 2 / (1 - B2) - 1
    rho = rho_inf - 2 * t * B2**t / (1 - B2**t)
    safe = np.where(rho >= 5, rho, rho_inf)
    r = np.sqrt((safe - 4) * (safe - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * safe))
    return np.where(rho[:, None] >= 5, r[:, None] * adam(g, theta), 1.0)


def rmsprop(g, theta):
    return 1 / np.sqrt(average(g**2, 0.9) + 1e-7)


def centred_rmsprop(g, theta):
    return 1 / (np.sqrt(average(g**2, 0.9) - average(g, 0.9) ** 2) + 1e-7)


def adagrad(g, theta):
    return 1 / np.sqrt(0.1 + np.cumsum(g**2, 0) + 1e-7)


def adadelta(g, theta):
    g = g + 1e-3 * theta
    e_g, e_x, ps = average(g**2, 0.9), 0.0, []
    for g_t, e_g_t in zip(g, e_g, strict=True):
        ps.append(np.sqrt(e_x + 1e-6) / np.sqrt(e_g_t + 1e-6))
        e_x = 0.9 * e_x + 0.1 * (ps[-1] * g_t) ** 2
    return np.array(ps)


PRECONDITIONERS = {
    "sgd": ones,
    "sgd-momentum-nesterov": ones,
    "adam": adam,
    "adamw": adam,
    "nadam": adam,
    "amsgrad": amsgrad,
    "adamax": adamax,
    "adabelief": adabelief,
    "yogi": yogi,
    "radam": radam,
    "rmsprop": rmsprop,
    "rmsprop-momentum": rmsprop,
    "rmsprop-centered-eps_in_sqrt": centred_rmsprop,
    "adagrad": adagrad,
    "adadelta-weight_decay": adadelta,
}

# Stationary laws on the loss a θ²/2 of linear schemes x' = A x + B ξ, whose first coordinate is θ.


def stationary(A, B, momentum=False):
    """E θ², E θθ' and E p² by the covariance C = A C Aᵀ + B Bᵀ; and the factor of what is left of the start a step."""
    A, B = np.atleast_2d(A), np.reshape(B, (len(np.atleast_2d(A)), -1))
    C = solve_discrete_lyapunov(A, B @ B.T)
    law = {"square": C[0, 0], "lag": (A @ C)[0, 0], "factor": np.abs(np.linalg.eigvals(A)).max() ** 2}
    return law | ({"kinetic": C[1, 1]} if momentum else {})


def sgd(a, gamma, sigma, p=1.0):
    """θ' = θ − γ P a θ + σ√(γP) ξ, whose variance is σ²/(a (2 − γ P a))."""
    return stationary(1 - gamma * p * a, sigma * np.sqrt(gamma * p))


def momentum_sgd(a, gamma, sigma, beta, nesterov=False):
    """v' = β v + a θ, and θ' = θ − γ v' + σ√γ ξ, or θ' = θ − γ (a θ + β v') + σ√γ ξ."""
    drift = gamma * np.array([a * (1 + beta), beta**2] if nesterov else [a, beta])
    return stationary([[1 - drift[0], -drift[1]], [a, beta]], [sigma * np.sqrt(gamma), 0.0])


def averaged_sgd(a, gamma, sigma, p, b):
    """m' = b m + (1 − b) a θ, and θ' = θ − γ P m' + σ√(γP) ξ."""
    average = np.array([(1 - b) * a, b])
    return stationary([[1.0, 0.0] - gamma * p * average, average], [sigma * np.sqrt(gamma * p), 0.0])


def euler(a, h, tau):
    """θ' = θ − h a θ + √(2τh) ξ, whose variance is τ/(a (1 − h a/2))."""
    return sgd(a, h, np.sqrt(2 * tau))


def leimkuhler_matthews(a, h, tau):
    """θ' = θ − h a θ + √(2τh) (ξ + ξ')/2, with ξ as the second coordinate; its variance is τ/a."""
    half = np.sqrt(2 * tau * h) / 2
    return stationary([[1 - h * a, half], [0.0, 0.0]], [half, 1.0])


def baoab(a, h, tau, friction):
    """B of h, A of h/2, O of h, A of h/2; E θ² = τ/a and E p² = τ."""
    c = np.exp(-friction * h)
    kick, drift = flows(a, h)
    return stationary(drift @ np.diag([1.0, c]) @ drift @ kick, drift @ [0.0, np.sqrt((1 - c**2) * tau)], True)


def adaptive_langevin(a, h, sigma, xi):
    """B, A, C, D, (E), D, C, A with a constant friction ξ; the kinetic temperature is that at E."""
    kick, drift = flows(a, h)
    damp, draw = np.diag([1.0, np.exp(-h * xi / 2)]), np.diag([0.0, sigma * np.sqrt(h / 2)])
    before, after = damp @ drift @ kick, drift @ damp
    noise = after @ np.hstack([draw, draw])
    C = solve_discrete_lyapunov(after @ before, noise @ noise.T)
    at_e = before @ C @ before.T + draw @ draw.T
    return stationary(after @ before, noise) | {"kinetic": at_e[1, 1]}


def flows(a, h):
    """The matrices of B for h, and of A for h/2."""
    return np.array([[1.0, 0.0], [-h * a, 1.0]]), np.array([[1.0, h / 2], [0.0, 1.0]])


# A double well.


def well(theta):
    """Wells at ±1, and a barrier of height 1."""
    return (theta**2 - 1) ** 2


def slope_of_well(theta):
    return 4 * theta * (theta**2 - 1)


class Density(NamedTuple):
    """Weights on a grid of θ, of sum 1, and E p² if there are momenta."""

    theta: np.ndarray
    weights: np.ndarray
    kinetic: float | None = None

    def mean(self, f):
        return self.weights @ f(self.theta)

    def cdf(self, theta):
        density = CubicSpline(self.theta, self.weights / (self.theta[1] - self.theta[0]))
        return density.antiderivative()(np.clip(theta, self.theta[0], self.theta[-1]))


def gibbs_on_well(tau):
    """exp(−L/τ), on a grid on which sums are integrals to rounding."""
    theta = np.linspace(-2.2, 2.2, 128, endpoint=False)
    weights = np.exp(-well(theta) / tau)
    return Density(theta, weights / weights.sum(), tau)


def baoab_on_well(h, tau, friction):
    """The law that BAOAB of step h keeps on the double well, the fixed point of its transfer operator.

    A and B shift a density on a grid of (θ, p) along one axis, by phases of its Fourier series; O is a matrix.
    For infinite friction this is the Leimkuhler–Matthews scheme of step h²/2.
    """
    theta, c = gibbs_on_well(tau).theta, np.exp(-friction * h)
    p = np.linspace(-7, 7, 48, endpoint=False) * np.sqrt(tau)
    frequencies = [2 * np.pi * np.fft.rfftfreq(len(x), x[1] - x[0]) for x in (theta, p)]
    drift = np.exp(-1j * frequencies[0][:, None] * h / 2 * p)
    kick = np.exp(1j * frequencies[1] * h * slope_of_well(theta)[:, None])
    variance = -np.expm1(-2 * friction * h) * tau
    ornstein_uhlenbeck = np.exp(-((p[:, None] - c * p) ** 2) / (2 * variance))
    ornstein_uhlenbeck /= ornstein_uhlenbeck.sum(0)
    rho = np.exp(-well(theta)[:, None] / tau - p**2 / (2 * tau))
    rho, change = rho / rho.sum(), 1.0
    while change > 1e-7:
        new = np.fft.irfft(np.fft.rfft(rho, axis=1) * kick, len(p), axis=1)
        new = np.fft.irfft(np.fft.rfft(new, axis=0) * drift, len(theta), axis=0) @ ornstein_uhlenbeck.T
        new = np.fft.irfft(np.fft.rfft(new, axis=0) * drift, len(theta), axis=0)
        rho, change = new, np.abs(new - rho).sum() / h
    rho /= rho.sum()
    return Density(theta, rho.sum(1), rho.sum(0) @ p**2)


def leimkuhler_matthews_on_well(h, tau):
    return baoab_on_well(np.sqrt(2 * h), tau, np.inf)._replace(kinetic=None)
