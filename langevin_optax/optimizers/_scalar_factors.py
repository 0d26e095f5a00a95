"""P of Adafactor, and of aliases that multiply by a scalar of a leaf or of the tree: trust ratios, step estimates."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax.layers import _where
from langevin_optax.optimizers._step import Step
from langevin_optax.preconditioners import _diagonal
from langevin_optax.preconditioners._diagonal import wide


def adafactor(s: Step) -> Any:
    """1/√ν, where ν is its rows times its columns if it is factored; over max(1, RMS(P g)/d); times RMS(θ).

    Shazeer and Stern, Adafactor, 2018 (arXiv 1804.04235).
    """
    state = s.after("v_row")

    def of_leaf(g, row, column, v, theta):
        if v.shape == g.shape:
            p = wide(v) ** -0.5
        else:
            smaller, larger = np.argsort(g.shape)[-2:]
            row, column = wide(row), wide(column)  # without the larger, and without the smaller axis
            mean = jnp.mean(row, axis=smaller - 1 if smaller > larger else smaller, keepdims=True)
            p = jnp.expand_dims((row / mean) ** -0.5, larger) * jnp.expand_dims(column**-0.5, smaller)
        if (d := s["clipping_threshold"]) is not None:
            p = p / jnp.maximum(1, _rms(p * g) / d)
        return p * jnp.maximum(_rms(theta), 1e-3) if s["multiply_by_parameter_scale"] else p

    return jax.tree.map(of_leaf, s.updates, state.v_row, state.v_col, state.v, s.params)


def lamb(s: Step) -> Any:
    """Adam's P times the trust ratio of P m̂ + λθ. You et al., LAMB, 2020 (arXiv 1904.00962)."""
    adam = optax.scale_by_adam(s["b1"], s["b2"], s["eps"], s["eps_root"])
    stock = optax.chain(adam, optax.add_decayed_weights(s["weight_decay"], s["mask"]))
    u, _ = stock.update(s.updates, s.old[:2], s.params)  # as the alias computes it: under jit XLA merges the two
    p = _diagonal.adam(s.after("nu"), s["b2"], s["eps"], s["eps_root"])
    return jax.tree.map(jnp.multiply, p, _trust_ratio(u, s.params))


def lars(s: Step) -> Any:
    """The trust ratio of g + λθ. You et al., LARS, 2017 (arXiv 1708.03888)."""
    decay = optax.chain(optax.add_decayed_weights(s["weight_decay"], s["weight_decay_mask"]))
    u, _ = decay.update(s.updates, s.old[:1], s.params)
    ratio = _trust_ratio(u, s.params, coefficient=s["trust_coefficient"], eps=s["eps"])
    where = _where.resolve(s["trust_ratio_mask"], s.updates, s.params)
    return jax.tree.map(lambda w, r: r if w else 1.0, where, ratio)


def fromage(s: Step) -> Any:
    """The trust ratio of g; its γ is that of `learning_rate_of_fromage`. Bernstein et al., 2020 (arXiv 2002.03432)."""
    return _trust_ratio(s.updates, s.params, min_norm=s["min_norm"])


def learning_rate_of_fromage(arguments: dict[str, Any]) -> Any:
    """γ/√(1 + γ²): Fromage also divides the parameters by that root."""
    gamma = arguments["learning_rate"]
    if callable(gamma):
        return lambda count: gamma(count) / jnp.sqrt(1 + gamma(count) ** 2)
    return gamma / (1 + gamma**2) ** 0.5


def polyak(s: Step) -> Any:
    """min((f − f_min)/(‖u‖² + ε), γ_max), where u is the scaled gradient. Loizou et al., 2021 (arXiv 2002.10542)."""
    sgd = optax.sgd(s["scaling"])
    u, _ = sgd.update(s.updates, s.old[0], s.params)
    square = optax.tree.norm(u, squared=True)
    gap = jnp.asarray(s.extra_args["value"] - s["f_min"], square.dtype)
    gap = jnp.maximum(gap, 0) if s["variant"] == "sps+" else gap
    step = jnp.minimum(gap / (square + s["eps"]), s["max_learning_rate"])
    step = jnp.where(square + s["eps"] <= jnp.finfo(float).eps, 0, step)
    return jax.tree.map(lambda _: jnp.maximum(step, 0), s.updates)  # a loss below f_min has no P


def prodigy(s: Step) -> Any:
    """d²√(1 − β₂ᵗ)/(√ν + d'ε), where ν averages (d g)², and d' is the next estimate. Mishchenko and Defazio, 2023."""
    old, new = s.before("exp_avg_sq"), s.after("exp_avg_sq")
    factor = jnp.square(wide(old.estim_lr)) * jnp.sqrt(1 - s["betas"][1] ** _real(new.count))
    eps = wide(new.estim_lr) * s["eps"]
    return jax.tree.map(lambda v: factor / (jnp.sqrt(wide(v)) + eps), new.exp_avg_sq)


def dadapt_adamw(s: Step) -> Any:
    """d√(1 − β₂ᵗ)/(√ν + ε). Defazio and Mishchenko, D-Adaptation, 2023 (arXiv 2301.07733)."""
    old, new = s.before("exp_avg_sq"), s.after("exp_avg_sq")
    factor = wide(old.estim_lr) * jnp.sqrt(1 - s["betas"][1] ** _real(new.count))
    return jax.tree.map(lambda v: factor / (jnp.sqrt(wide(v)) + s["eps"]), new.exp_avg_sq)


def momo(s: Step) -> Any:
    """The share of γ that the model of the loss allows. Schaipp et al., MoMo, 2024 (arXiv 2305.07583)."""
    new = s.after("exp_avg")
    share = _share_of_momo(s, optax.tree.norm(new.exp_avg, squared=True), 1.0)
    return jax.tree.map(lambda _: share, s.updates)


def momo_adam(s: Step) -> Any:
    """Adam's P times that share."""
    new = s.after("exp_avg")
    nu = _diagonal.debiased(new.exp_avg_sq, s["b2"], _real(new.count))
    p = _diagonal.inverse_root(nu, s["eps"])
    square = optax.tree.vdot(new.exp_avg, jax.tree.map(jnp.multiply, p, new.exp_avg))
    share = _share_of_momo(s, square, 1 - s["b1"] ** _real(new.count))
    return jax.tree.map(lambda p: share * p, p)


def _share_of_momo(s: Step, square: Any, bias: Any) -> jax.Array:
    """min(1, (h₊/‖m‖²) bias/γ), where h is what the averaged model of the loss leaves above its lower bound."""
    old, new = s.before("barf"), s.after("barf")
    gamma = s["learning_rate"](old.count) if callable(s["learning_rate"]) else s["learning_rate"]
    decay = 1 + gamma * s["weight_decay"]
    inner = optax.tree.vdot(new.exp_avg, s.params)
    bound = old.lb
    if s["adapt_lower_bound"]:
        cap = decay * (new.barf - new.gamma) + inner
        lowered = jnp.maximum(cap / (2 * bias * decay), s["lower_bound"])
        bound = jnp.where(cap < decay * bias * bound, lowered, bound)
    step = jnp.maximum(decay * (new.barf - bias * bound - new.gamma) + inner, 0) / square
    step = jnp.where(square <= jnp.finfo(float).eps, 0, step)
    return jnp.where(gamma == 0, 0, jnp.minimum(1, step * bias / jnp.where(gamma == 0, 1, gamma)))


def _trust_ratio(updates: Any, params: Any, coefficient: Any = 1.0, eps: Any = 0.0, min_norm: Any = 0.0) -> Any:
    """c ‖θ‖/(‖u‖ + ε), norms at least ``min_norm``, and 1 where one of them is 0."""

    def of_leaf(u, theta):
        u_norm, norm = (optax.safe_norm(wide(jnp.abs(x)).ravel(), min_norm) for x in (u, theta))
        either_is_zero = (norm == 0) | (u_norm == 0)
        return jnp.where(either_is_zero, 1, coefficient * norm / jnp.where(either_is_zero, 1, u_norm + eps))

    return jax.tree.map(of_leaf, updates, params)


def _real(count: Any) -> jax.Array:
    return jnp.asarray(count, jnp.result_type(float))


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(wide(jnp.abs(x)))))
