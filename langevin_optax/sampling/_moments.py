"""`moments`: mean and variance of the parameters, in passing; and what the links that record have in common."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax._checks import check_whole
from langevin_optax.preconditioners._decompositions import refreshed


class MomentsState(NamedTuple):
    """The state of :func:`moments`. Sums are like the parameters, in float32 at least."""

    wait: Any  # shape=(), dtype=int32, the number of steps up to the next record
    count: Any  # shape=(), dtype=int32, the number of records
    mean: Any
    mean_rest: Any  # what ``mean`` lost to rounding
    squares: Any  # the sum of squared deviations from the mean
    squares_rest: Any  # what ``squares`` lost to rounding


def moments(burn_in: int = 0, thin: int = 1) -> optax.GradientTransformationExtraArgs:
    r"""Mean and variance of the parameters over the steps, read by :func:`mean_and_variance`; updates pass unchanged.

    .. math::
      m_n = m_{n-1} + \frac{\theta_n - m_{n-1}}{n}, \qquad s_n = s_{n-1} + (\theta_n - m_{n-1})(\theta_n - m_n)

    with :math:`\theta_n` the parameters *after* the update, as ``optax.apply_updates`` makes them: the link is the last
    of its chain. It records what :func:`sample` keeps with the same ``burn_in`` and ``thin``. Sums are compensated for
    their rounding, so that a million steps are as exact as ten. Memory: four floats for each parameter.

    Args:
      burn_in: how many steps come first and are not recorded.
      thin: steps from one record to the next, after that.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with a :class:`MomentsState`. Its update needs ``params``. It records
      applied steps only within ``optax.MultiSteps``, and what it sees within ``optax.masked``. After 2³¹ − 1 records it
      records no more.

    Raises:
      ValueError: if ``burn_in`` is below 0 or ``thin`` below 1; at the update without ``params``.
      TypeError: if they are no integers.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> from langevin_optax import sampling
      >>> tx = optax.chain(lgv.sgd(0.1, sigma=1.0, key=0), sampling.moments(burn_in=100))
      >>> def step(_, run):
      ...     updates, state = tx.update(run[0], run[1], run[0])
      ...     return optax.apply_updates(run[0], updates), state
      >>> params, state = jax.lax.fori_loop(0, 20_000, step, (jnp.zeros(100), tx.init(jnp.zeros(100))))
      >>> mean, variance = sampling.mean_and_variance(state)
      >>> print(f"{variance.mean():.2f}")  # 1/(2 − 0.1)
      0.53

    References:
      Welford, *Note on a method for calculating corrected sums of squares and products*, 1962.
    """
    check_whole("burn_in", burn_in, 0)
    check_whole("thin", thin, 1)

    def init_fn(params):
        def zeros(dtype):
            return jax.tree.map(lambda p: jnp.zeros_like(p, dtype(p)), params)

        sums = zeros(_wide), zeros(_wide), zeros(_real), zeros(_real)
        return MomentsState(first_wait(burn_in, thin), jnp.zeros([], jnp.int32), *sums)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        due, wait = next_wait(state.wait, thin)
        new = new_params("moments", params, updates)
        count = optax.safe_increment(state.count)
        due = due & (count > state.count)

        def leaf(count, x, mean, mean_rest, squares, squares_rest):
            x = jax.lax.convert_element_type(x, mean.dtype)
            deviation = (x - mean) - mean_rest
            mean, mean_rest = _sum(mean, deviation / jax.lax.convert_element_type(count, squares.dtype) + mean_rest)
            square = jnp.real(deviation * jnp.conj((x - mean) - mean_rest))
            return mean, mean_rest, *_sum(squares, square + squares_rest)

        def record(sums, new, count):
            leaves, structures = zip(*map(jax.tree.flatten, (new, *sums)), strict=True)
            recorded = zip(*map(functools.partial(leaf, count), *leaves), strict=True)
            return tuple(map(jax.tree.unflatten, structures[1:], recorded))

        sums = refreshed(due, record, tuple(state[2:]), new, count)
        return updates, MomentsState(wait, jnp.where(due, count, state.count), *sums)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mean_and_variance(state: Any) -> tuple[Any, Any]:
    """Mean and variance of the parameters that :func:`moments` recorded.

    Args:
      state: a state with one of :func:`moments` in it, however wrapped (``optax.chain``, ``optax.MultiSteps``,
        ``TrainState``, ``nnx.Optimizer``, ``Samples``); where it has chains in front, so have the results.

    Returns:
      Two trees like the parameters, in float32 at least: the mean, and the mean squared deviation from it (divided by
      the number n of records, as ``numpy.var``; of n independent draws n/(n − 1) times that is unbiased).

    Raises:
      ValueError: if there is no such state in ``state``, or several; if nothing was recorded yet (within ``jax.jit``
        the results are then NaN).

    Example:
      See :func:`moments`.
    """
    found = the_one("moments", MomentsState, state)
    count = jax.tree.leaves(found.count)[0]
    if not isinstance(count, jax.core.Tracer) and np.any(np.asarray(count) == 0):
        raise ValueError("moments has recorded nothing yet: burn_in + thin steps come before the first record.")

    def mean(m):
        return jnp.where(_beside(count, m) > 0, m, jnp.nan)

    def variance(s):
        return s / _beside(count, s)

    return jax.tree.map(mean, found.mean), jax.tree.map(variance, found.squares)


def _sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a + b, and exactly what its rounding lost."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _wide(p: Any) -> Any:
    return np.promote_types(jnp.result_type(p), np.float32)


def _real(p: Any) -> Any:
    return jnp.finfo(_wide(p)).dtype


def _beside(count: jax.Array, x: jax.Array) -> jax.Array:
    """The counts of chains, with as many axes as what they count."""
    return count.reshape(count.shape + (1,) * (x.ndim - count.ndim)).astype(jnp.finfo(x.dtype).dtype)


def first_wait(burn_in: int, thin: int) -> jax.Array:
    return jnp.asarray(burn_in + thin, jnp.int32)


def next_wait(wait: jax.Array, thin: int) -> tuple[jax.Array, jax.Array]:
    """Whether this step is one to record, and the steps up to the next one: a number that never overflows."""
    due = wait <= 1
    return due, jnp.where(due, jnp.asarray(thin, jnp.int32), wait - 1)


def new_params(link: str, params: Any, updates: Any) -> Any:
    """The parameters after the update."""
    if params is None:
        raise ValueError(f"{link} records the parameters, and needs them: call update(updates, state, params).")
    return optax.apply_updates(params, updates)


def the_one(link: str, kind: type[Any], state: Any) -> Any:
    """The one state of that kind within ``state``."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    found = [node for node in nodes if isinstance(node, kind)]
    if len(found) != 1:
        raise ValueError(f"needs a state with one of {link} in it, found {len(found)} in {jax.tree.structure(state)}.")
    return found[0]
