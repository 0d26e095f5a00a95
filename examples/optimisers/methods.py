"""The optimisers of the lecture notes, and two newer ones: their P, their update in words, their learning rates."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

import langevin_optax as lgv


class Method(NamedTuple):
    """An optimiser: ``make(γ, σ, key=, mask=)`` is its Langevin version, which is the plain one where σ = 0."""

    name: str
    p: str
    words: str
    make: Callable[..., optax.GradientTransformationExtraArgs]
    quadratic: tuple[float, float]  # γ of the first step, and from step FALL on
    deep: float  # γ
    k: float = 1.0  # the momentum drifts k times as far as P g, so that τ = σ²/2k
    whitens: bool = False  # its update takes the covariances of the inputs of layers


def rprop(learning_rate, sigma, key, mask=None):
    """Its update is no P times a gradient: the noise is that of P = 1, and of the γ that is named."""
    noise = lgv.add_langevin_noise(learning_rate, sigma, key, mask=mask, after_learning_rate=True)
    return optax.chain(optax.rprop(learning_rate), noise)


def soap(learning_rate, sigma, key, mask=None):
    """Its first step moves nothing, so that without minibatches the second has the same gradient again, and P = 1/ε in
    all directions but that one. The noise waits for gradients that differ."""

    def later(count: Any) -> Any:
        return jnp.where(count < 10, 0, sigma(count) if callable(sigma) else sigma)

    return lgv.soap(learning_rate, later, key, mask=mask)


def _sgd(**momentum):
    return functools.partial(lgv.sgd, **momentum)


# γ by a sweep over {1, 1.5, 2, 3, 5, 7} · 10ⁿ: the README says for what.
METHODS = (
    Method("SGD", "1", "along −g", _sgd(), (0.015, 0.0015), 0.1),
    Method("Momentum", "1", "along the sum of past −g", _sgd(momentum=0.9), (0.0015, 7e-5), 0.03, k=10),
    Method("Nesterov", "1", "the same, a step ahead", _sgd(momentum=0.9, nesterov=True), (0.0015, 7e-5), 0.01, k=10),
    Method("Rprop", "–", "signs, a step size each", rprop, (0.001, 0.001), 0.001),
    Method("AdaGrad", "1/√Σg²", "g over its size so far", lgv.adagrad, (1.0, 0.3), 0.1),
    Method("RMSProp", "1/√E[g²]", "g over its recent size", lgv.rmsprop, (0.07, 0.03), 0.01),
    Method("AdaDelta", "√E[x²]/√E[g²]", "the same, in units of past steps x", lgv.adadelta, (50.0, 2.0), 3.0),
    Method("Adam", "1/√E[g²]", "mean of past g over its size", lgv.adam, (0.3, 0.01), 0.001),
    Method("AdaMax", "1/‖g‖∞", "mean of past g over its largest size", lgv.adamax, (1.0, 0.02), 0.003),
    Method("PRONG", "E[hhᵀ]⁻¹", "g for whitened inputs h", lgv.prong, (0.03, 0.007), 0.01, whitens=True),
    Method("Shampoo", "L⁻¹ᐟ⁴ ⊗ R⁻¹ᐟ⁴", "g over roots of E[ggᵀ], E[gᵀg]", lgv.shampoo, (0.15, 0.01), 0.003),
    Method("SOAP", "Q/√E[(Qᵀg)²]Qᵀ", "Adam in Shampoo's eigenbasis Q", soap, (0.05, 0.01), 0.003),
)
