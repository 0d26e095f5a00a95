"""The formulas of diagonal preconditioners: from the statistics of an optimiser to P, leaf by leaf.

P is the factor of the gradient, or of the debiased momentum, in this very step: 1/(1 − β₁ᵗ) belongs to the momentum,
the bias correction of ν to P. Everything is computed in float32 at least.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax._types import ArrayLike


def wide(x: Any) -> jax.Array:
    """Statistics in float32 at least, and real: Optax keeps ν of complex gradients in a complex array."""
    x = jnp.real(x)
    return x.astype(np.promote_types(x.dtype, np.float32))


def debiased(moment: Any, decay: ArrayLike, count: ArrayLike) -> Any:
    return optax.tree.bias_correction(jax.tree.map(wide, moment), decay, count)


def average(old: Any, new: Any, decay: ArrayLike) -> Any:
    """decay · old + (1 − decay) · new, in the dtype of ``old``."""
    return (decay * old + (1 - decay) * new).astype(old.dtype)


def average_of_finite(old: jax.Array, new: jax.Array, decay: ArrayLike) -> jax.Array:
    """The same over the last axis, which keeps ``old`` where ``new`` has an entry that is not finite."""
    return jnp.where(jnp.isfinite(new).all(axis=-1, keepdims=True), average(old, new, decay), old)


def one(updates: Any) -> Any:
    return jax.tree.map(lambda _: 1.0, updates)


def inverse_root(nu: Any, eps: ArrayLike, eps_root: ArrayLike = 0.0) -> Any:
    """1 / (√(ν + ε_root) + ε)."""
    return jax.tree.map(lambda v: 1 / (jnp.sqrt(wide(v) + eps_root) + eps), nu)


def adam(state: Any, b2: ArrayLike, eps: ArrayLike, eps_root: ArrayLike = 0.0) -> Any:
    """1 / (√(ν̂ + ε_root) + ε)."""
    return inverse_root(debiased(state.nu, b2, state.count), eps, eps_root)


def amsgrad(state: Any, eps: ArrayLike, eps_root: ArrayLike) -> Any:
    """1 / (√(ν_max + ε_root) + ε)."""
    return inverse_root(state.nu_max, eps, eps_root)


def adamax(state: Any) -> Any:
    """1 / ν."""
    return jax.tree.map(lambda v: 1 / wide(v), state.nu)


def radam(state: Any, b2: ArrayLike, eps: ArrayLike, eps_root: ArrayLike, threshold: ArrayLike) -> Any:
    """r / (√(ν̂ + ε_root) + ε) where ρ ≥ threshold, else 1."""
    rho_inf = 2 / (1 - b2) - 1
    b2t = b2**state.count
    rho = rho_inf - 2 * state.count * b2t / (1 - b2t)
    rectified = rho >= threshold
    # ρ is negative or 0 in the first steps: the root of the branch not taken must be no NaN.
    safe = jnp.where(rectified, rho, rho_inf)
    r = jnp.sqrt((safe - 4) * (safe - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * safe))
    return jax.tree.map(lambda p: jnp.where(rectified, r.astype(p.dtype) * p, 1), adam(state, b2, eps, eps_root))


def rms(state: Any, decay: ArrayLike, eps: ArrayLike, eps_in_sqrt: bool, bias_correction: bool) -> Any:
    """1 / √(ν + ε), or 1 / (√ν + ε)."""
    nu = debiased(state.nu, decay, state.count) if bias_correction else state.nu
    return inverse_root(nu, 0.0, eps) if eps_in_sqrt else inverse_root(nu, eps)


def stddev(state: Any, decay: ArrayLike, eps: ArrayLike, eps_in_sqrt: bool, bias_correction: bool) -> Any:
    """1 / √(ν − |μ|² + ε), or 1 / (√(ν − |μ|²) + ε)."""
    mu, nu = state.mu, state.nu
    if bias_correction:
        mu, nu = optax.tree.bias_correction(mu, decay, state.count), debiased(nu, decay, state.count)
    # In bfloat16 the difference can round below 0, where Optax's own may not.
    variance = jax.tree.map(lambda m, n: jnp.maximum(wide(n) - jnp.square(wide(jnp.abs(m))), 0), mu, nu)
    return inverse_root(variance, 0.0, eps) if eps_in_sqrt else inverse_root(variance, eps)


def rss(state: Any, eps: ArrayLike) -> Any:
    """1 / √(s + ε), and 0 where s = 0."""
    p = inverse_root(state.sum_of_squares, 0.0, eps)
    return jax.tree.map(lambda s, p: jnp.where(wide(s) > 0, p, 0), state.sum_of_squares, p)


def adadelta(old: Any, new: Any, eps: ArrayLike) -> Any:
    """√(E[x²] + ε) / √(E[g²] + ε), with the mean squared update as it was before this step."""
    if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(new.e_g)):
        raise TypeError("adadelta has no real preconditioner for complex leaves: use another scaler for them.")
    return jax.tree.map(lambda x, g: jnp.sqrt(wide(x) + eps) / jnp.sqrt(wide(g) + eps), old.e_x, new.e_g)


def inverse_maximum(statistic: Any, floor: ArrayLike) -> Any:
    """1 / max(s, floor)."""
    return jax.tree.map(lambda s: 1 / jnp.maximum(wide(s), floor), statistic)
