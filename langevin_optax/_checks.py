"""Checks of what users hand in: at construction where the value is known, with the rule and the value received."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_nonnegative(name: str, value: Any) -> None:
    """Raise unless ``value`` is a schedule, a traced array, or a finite number ≥ 0."""
    if callable(value) or isinstance(value, jax.core.Tracer):
        return
    check_finite(name, value, "a number, an array or an Optax schedule")
    if np.any(np.asarray(value, dtype=np.float64) < 0):
        raise ValueError(f"{name} must be ≥ 0, got {value}.")


def check_finite(name: str, value: Any, kinds: str = "a number or an array") -> None:
    """Raise unless ``value`` is a traced array or finite."""
    if isinstance(value, jax.core.Tracer):
        return
    if isinstance(value, (str, bytes, bool)) or not isinstance(value, (numbers.Real, np.ndarray, jax.Array)):
        raise TypeError(f"{name} must be {kinds}, got {value!r} ({type(value).__name__}).")
    if isinstance(value, (np.ndarray, jax.Array)) and not (
        jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
    ):
        raise TypeError(f"{name} must be real, got an array of dtype {value.dtype}.")
    if not np.all(np.isfinite(np.asarray(value, dtype=np.float64))):
        raise ValueError(f"{name} must be finite, got {value}.")


def check_scalar(name: str, value: Any) -> None:
    """Raise unless ``value`` is a schedule, or of shape ()."""
    if callable(value):
        return
    if jnp.shape(value) != ():
        raise ValueError(f"{name} must be a scalar, got an array of shape {jnp.shape(value)}.")


def check_positive(name: str, value: Any) -> None:
    """As :func:`check_nonnegative`, and > 0 but for JAX arrays, which may be the zeros of an injected schedule."""
    if isinstance(value, (numbers.Real, np.ndarray)) and not isinstance(value, bool) and np.any(np.asarray(value) <= 0):
        raise ValueError(f"{name} must be > 0, got {value}.")
    check_nonnegative(name, value)


def as_key(key: Any) -> jax.Array:
    """An ``int`` or a typed key as one typed key of shape ()."""
    if isinstance(key, numbers.Integral) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.shape:
            raise ValueError(
                f"key must be a single key, got an array of keys of shape {key.shape}. "
                "For several chains, vmap over langevin_optax.fold_in(state, chain)."
            )
        return key
    if isinstance(key, (jax.Array, np.ndarray)) and key.shape == () and jnp.issubdtype(key.dtype, jnp.integer):
        return jax.random.key(key)  # inject_hyperparams turns an int key into such an array
    if isinstance(key, (jax.Array, np.ndarray)) and key.dtype == jnp.uint32:
        raise TypeError(
            "key must be an int or a typed key, got raw key data (uint32), as jax.random.PRNGKey makes it. "
            "Write jax.random.key(seed), or jax.random.wrap_key_data(key)."
        )
    hint = " sigma and key are the second and third arguments: pass b1 and what follows by name."
    raise TypeError(
        f"key must be an int or a jax.random.key, got {key!r} ({type(key).__name__}).{hint * isinstance(key, float)}"
    )


def own_key(key: Any) -> jax.Array:
    """A copy for the state: whoever donates the state must not lose the key of another."""
    return jnp.copy(as_key(key))


def check_state_key(of_state: Any, key: Any) -> None:
    """Raise unless the key of a state is a key, of the implementation that the optimiser was made with."""
    if not jnp.issubdtype(jnp.result_type(of_state), jax.dtypes.prng_key):
        raise TypeError(
            f"the key of the state must be a jax.random.key, got {of_state!r}. A checkpoint that was restored without "
            "its structure holds the key's data: write jax.random.wrap_key_data(data)."
        )
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    ours = jax.random.key_impl(key) if typed else jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    theirs = jax.random.key_impl(of_state)
    if theirs != ours:
        raise ValueError(
            f"the key of the state is of {theirs}, that of this optimiser of {ours}, which draws other noise. To go on "
            f"with a checkpoint of {theirs}, make the optimiser with key=jax.random.key(seed, impl={str(theirs)!r})."
        )


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of ``shape`` broadcasts to the shape ``to`` as it stands."""
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False))
