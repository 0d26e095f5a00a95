"""Keys: the user's, the state's, that of a step and that of a leaf.

Hazards, and where they are handled:

1. Two leaves with one key share their noise; `split(key, n)[i] == fold_in(key, i)`, so keys by position collide with
   keys of other programs, and change when a leaf is added, masked or frozen. A leaf's key is folded from a hash of the
   names along its path (`_path_words`).
2. A count that saturates at 2³¹ − 1 would freeze the noise: from there on the key of the state moves (`advance`).
3. Integers of 64 bits lose their upper half in a key of 32 bits: steps and seeds keep both words (`_step_words`,
   `as_key`).
"""

import hashlib
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax.noise import _threefry

_WORD = 2**32 - 1
_config: Any = jax.config  # whose flags some versions of JAX declare, and some do not


def is_threefry(key: jax.Array) -> bool:
    return jax.random.key_impl(key) == "threefry2x32"


def as_key(key: Any) -> jax.Array:
    """An ``int`` or a typed key as one typed key of shape ()."""
    if isinstance(key, numbers.Integral) and not isinstance(key, bool):
        return _key_of_seed(int(key))
    if _is_typed(key):
        if key.shape:
            raise ValueError(
                f"key must be a single key, got an array of keys of shape {key.shape}. "
                "For several chains, vmap over langevin_optax.fold_in(state, chain)."
            )
        return key
    if isinstance(key, (jax.Array, np.ndarray)) and key.shape == () and jnp.issubdtype(key.dtype, jnp.integer):
        # inject_hyperparams turns an int key into such an array.
        return _key_of_array(key) if isinstance(key, jax.Array) else _key_of_seed(int(key))
    if isinstance(key, (jax.Array, np.ndarray)) and key.dtype == jnp.uint32:
        raise TypeError(
            "key must be an int or a typed key, got raw key data (uint32), as jax.random.PRNGKey makes it. "
            "Write jax.random.key(seed), or jax.random.wrap_key_data(key)."
        )
    if type(key).__name__ in ("Rngs", "RngStream"):  # of Flax
        raise TypeError(f"key must be an int or a jax.random.key, got {type(key).__name__}: write rngs(), a key of it.")
    hint = " sigma and key are the second and third arguments: pass b1 and what follows by name."
    raise TypeError(
        f"key must be an int or a jax.random.key, got {key!r} ({type(key).__name__}).{hint * isinstance(key, float)}"
    )


def _is_typed(key: Any) -> bool:
    return isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def _key_of_seed(seed: int) -> jax.Array:
    if not -(2**63) <= seed < 2**63:
        raise ValueError(
            f"key as an int must have at most 64 bits, −2⁶³ ≤ key < 2⁶³, got {seed}. From a numpy SeedSequence, write "
            "jax.random.wrap_key_data(sequence.generate_state(2))."
        )
    if 0 <= seed <= _WORD:
        return jax.random.key(seed)
    with jax.enable_x64(True):  # without it JAX drops the upper word
        return jax.random.key(np.int64(seed))


def _key_of_array(seed: jax.Array) -> jax.Array:
    if jnp.iinfo(seed.dtype).bits == 64 or _config.jax_default_prng_impl != "threefry2x32":
        return jax.random.key(seed)
    high = jnp.where(seed < 0, np.uint32(_WORD), np.uint32(0))  # JAX drops it, and −1 would be 2³² − 1
    return jax.random.wrap_key_data(jnp.stack([high, seed.astype(jnp.uint32)]), impl="threefry2x32")


def own_key(key: Any) -> jax.Array:
    """A copy for the state: whoever donates the state must not lose the key of another."""
    return jnp.copy(as_key(key))


def check_state(state: Any, key: Any) -> None:
    """Raise unless a state holds an integer count, and a key of the implementation that its optimiser was made with."""
    if not jnp.issubdtype(jnp.result_type(state.key), jax.dtypes.prng_key):
        raise TypeError(
            f"the key of the state must be a jax.random.key, got {state.key!r}. A checkpoint that was restored without "
            "its structure holds the key's data: write jax.random.wrap_key_data(data)."
        )
    as_key(state.key)  # raises for the state of several chains
    if not jnp.issubdtype(jnp.result_type(state.count), jnp.integer) or jnp.shape(state.count) != ():
        raise TypeError(f"the count of the state must be an integer scalar, got {state.count!r}.")
    ours = jax.random.key_impl(key) if _is_typed(key) else _config.jax_default_prng_impl
    theirs = jax.random.key_impl(state.key)
    if theirs != ours:
        raise ValueError(
            f"the key of the state is of {theirs}, that of this optimiser of {ours}, which draws other noise. To go on "
            f"with a checkpoint of {theirs}, make the optimiser with key=jax.random.key(seed, impl={str(theirs)!r})."
        )


def advance(count: Any, key: jax.Array, moves: bool = True) -> tuple[jax.Array, jax.Array]:
    """The count and the key of the next step: the count saturates, as Optax's do, and then the key moves instead.

    Where nothing is ever drawn the key need not move.
    """
    following = jnp.asarray(optax.safe_increment(jnp.asarray(count)))
    return following, jnp.where(following == count, _moved(key), key) if moves else key


def _moved(key: jax.Array) -> jax.Array:
    if not is_threefry(key):
        return jax.random.fold_in(key, np.uint32(_WORD))
    # A block that fold_in never takes: its upper word is 0. (Other keys move as a chain of number 2³² − 1 would.)
    last = jnp.uint32(_WORD)
    return jax.random.wrap_key_data(_threefry.fold_in(jax.random.key_data(key), last, last), impl="threefry2x32")


def leaf_keys(key: jax.Array, step: Any, names: list[str]) -> jax.Array:
    """A key for each leaf, folded from the step and the two words of its path, names joined by "/"."""
    high, low = _step_words(step)
    words = np.array([_path_words(name) for name in names], np.uint32).reshape(-1, 2)
    if not is_threefry(key):
        key = jax.random.fold_in(key, low)
        key = jnp.where(high != 0, jax.random.fold_in(key, high), key)
        return jnp.stack([jax.random.fold_in(jax.random.fold_in(key, a), b) for a, b in words])
    data = _fold_all(jax.random.key_data(key), high, low, words)
    return jax.random.wrap_key_data(jax.lax.optimization_barrier(data), impl="threefry2x32")


@jax.jit
def _fold_all(key: jax.Array, high: jax.Array, low: jax.Array, words: jax.Array) -> jax.Array:
    key = _threefry.fold_in(key, low, high)
    return jax.vmap(lambda w: _threefry.fold_in(_threefry.fold_in(key, w[0]), w[1]))(words)


def _step_words(step: Any) -> tuple[Any, Any]:
    """The upper and the lower 32 bits of a step, of which all but huge and negative ones have the upper 0."""
    if isinstance(step, np.ndarray) and step.shape == () and np.issubdtype(step.dtype, np.integer):
        step = int(step)
    if isinstance(step, numbers.Integral) and not isinstance(step, bool):
        if not -(2**63) <= int(step) < 2**63:
            raise ValueError(f"step must have at most 64 bits, got {step}.")
        return np.uint32(int(step) >> 32 & _WORD), np.uint32(int(step) & _WORD)
    dtype = getattr(step, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.integer) or jnp.shape(step) != ():
        raise TypeError(f"step must be an integer scalar, got {step!r} ({type(step).__name__}).")
    step = jnp.asarray(step)
    high = (step >> 32) if dtype.itemsize == 8 else jnp.where(step < 0, -1, 0)
    return high.astype(jnp.uint32), step.astype(jnp.uint32)


def _path_words(name: str) -> tuple[int, int]:
    """64 bits of hash of a path, as two words to fold into a key."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
