"""Checks of the numbers that users hand in: at construction where the value is known, with the rule and the value."""

import numbers
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_KINDS = "a number, a scalar array or an Optax schedule"


def check_nonnegative(name: str, value: Any) -> None:
    """Raise unless ``value`` is a schedule, or a finite scalar ≥ 0 where its value is known."""
    if callable(value):
        return
    check_finite(name, value, _KINDS)
    if _is_known(value) and np.asarray(value, dtype=np.float64) < 0:
        raise ValueError(f"{name} must be ≥ 0, got {value}.")


def check_decay(name: str, value: Any, one: bool = False) -> None:
    """Raise unless ``value``, where it is known, is in [0, 1), or 1 if that means something."""
    check_nonnegative(name, value)
    if isinstance(value, (int, float)) and (value > 1 or (value == 1 and not one)):
        raise ValueError(f"{name} must be in [0, 1{']' if one else ')'}, got {value}.")


def check_positive(name: str, value: Any) -> None:
    """As `check_nonnegative`, and > 0; a JAX array may be 0, because `inject_hyperparams` puts schedules there."""
    if isinstance(value, (numbers.Real, np.ndarray)) and not isinstance(value, bool) and np.any(np.asarray(value) <= 0):
        raise ValueError(f"{name} must be > 0, got {value}.")
    check_nonnegative(name, value)


def check_whole(name: str, value: Any, least: int) -> int:
    """``value`` as an int, which must be at least ``least``."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer, got {value!r}. Under optax.inject_hyperparams name it among the static_args."
        ) from None
    if whole < least or isinstance(value, bool):
        raise ValueError(f"{name} must be ≥ {least}, got {value}.")
    return whole


def check_finite(name: str, value: Any, kinds: str = "a number or a scalar array") -> None:
    """Raise unless ``value`` is a real scalar, finite where its value is known."""
    if isinstance(value, (str, bytes, bool)) or not isinstance(value, (numbers.Real, np.ndarray, jax.Array)):
        raise TypeError(f"{name} must be {kinds}, got {value!r} ({type(value).__name__}).")
    if isinstance(value, (np.ndarray, jax.Array)) and not (
        jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
    ):
        raise TypeError(f"{name} must be real, got an array of dtype {value.dtype}.")
    check_scalar(name, value)
    if _is_known(value) and not np.isfinite(np.asarray(value, dtype=np.float64)):
        raise ValueError(f"{name} must be finite, got {value}.")


def check_scalar(name: str, value: Any) -> None:
    """Raise unless ``value`` has the shape ()."""
    if jnp.shape(value) != ():
        raise ValueError(
            f"{name} must be a scalar, got an array of shape {jnp.shape(value)}. To sweep over several, use jax.vmap."
        )


def read(name: str, value: Any, count: Any) -> jax.Array:
    """A scalar, or a schedule at ``count``, in float32 at least (float64 under x64).

    A schedule that falls to 0 can round to −1e-8 when it is fused, which has no root: negative values count as 0.
    """
    now = value(count) if callable(value) else value
    check_scalar(name, now)
    dtype = jnp.result_type(float)
    if jnp.issubdtype(jnp.result_type(now), jnp.floating):
        dtype = np.promote_types(jnp.result_type(now), dtype)
    return jnp.maximum(jnp.asarray(now, dtype), 0)


def is_known_zero(value: Any) -> bool:
    """Whether ``value``, a schedule's at its count or a scalar, is known to be 0 before the program runs."""
    return not callable(value) and _is_known(value) and bool(np.all(np.asarray(value) == 0))


def is_static_zero(value: Any) -> bool:
    """Whether ``value`` is 0 with and without jit: no schedule, and no JAX array, which jit may trace."""
    return not isinstance(value, jax.Array) and is_known_zero(value)


def _is_known(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer)
