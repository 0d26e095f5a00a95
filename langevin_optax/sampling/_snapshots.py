"""`snapshots`: the newest parameters of a run, in a ring buffer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax._checks import check_whole
from langevin_optax.preconditioners._decompositions import refreshed
from langevin_optax.sampling._moments import first_wait, new_params, next_wait, the_one


class SnapshotsState(NamedTuple):
    """The state of :func:`snapshots`."""

    wait: Any  # shape=(), dtype=int32, the number of steps up to the next snapshot
    count: Any  # shape=(), dtype=int32, how many of the places are taken
    place: Any  # shape=(), dtype=int32, where the next snapshot goes
    buffer: Any  # like the parameters, shape=(capacity, ...)


def snapshots(capacity: int, burn_in: int = 0, thin: int = 1) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the parameters of the newest ``capacity`` recorded steps, read by :func:`snapshots_of`; updates pass.

    Recorded are the parameters after the update in the steps ``burn_in + thin``, ``burn_in + 2 thin``, ..., as by
    :func:`moments`, and by :func:`sample` with the same arguments: the link is the last of its chain. Memory:
    ``capacity`` times the parameters.

    Args:
      capacity: how many snapshots are kept, of which a new one takes the place of the oldest.
      burn_in: as in :func:`moments`.
      thin: as in :func:`moments`.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with a :class:`SnapshotsState`. Its update needs ``params``.

    Raises:
      ValueError: if ``capacity`` or ``thin`` is below 1, or ``burn_in`` below 0; at the update without ``params``.
      TypeError: if they are no integers.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from langevin_optax import sampling
      >>> tx = optax.chain(optax.sgd(1.0), sampling.snapshots(capacity=3, burn_in=1))
      >>> params = jnp.zeros(())
      >>> state = tx.init(params)
      >>> for _ in range(6):
      ...     updates, state = tx.update(jnp.ones(()), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> sampling.snapshots_of(state).tolist()
      [-4.0, -5.0, -6.0]
    """
    check_whole("capacity", capacity, 1)
    check_whole("burn_in", burn_in, 0)
    check_whole("thin", thin, 1)

    def init_fn(params):
        buffer = jax.tree.map(lambda p: jnp.broadcast_to(jnp.zeros_like(p), (capacity, *jnp.shape(p))), params)
        return SnapshotsState(first_wait(burn_in, thin), jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32), buffer)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        due, wait = next_wait(state.wait, thin)
        new = new_params("snapshots", params, updates)

        def write(buffer, new, place):
            return jax.tree.map(lambda b, x: jax.lax.dynamic_update_index_in_dim(b, x, place, 0), buffer, new)

        moved = due.astype(jnp.int32)
        count = jnp.minimum(state.count + moved, capacity)
        place = (state.place + moved) % capacity
        return updates, SnapshotsState(wait, count, place, refreshed(due, write, state.buffer, new, state.place))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def snapshots_of(state: Any) -> Any:
    """The parameters that :func:`snapshots` recorded, the oldest first.

    Args:
      state: a state with one of :func:`snapshots` in it, wrapped as in :func:`mean_and_variance`; not within
        ``jax.jit``, since the shape of the result is the number of snapshots.

    Returns:
      A tree like the parameters, each leaf with the n ≤ capacity snapshots in front; behind the chains, if any.

    Raises:
      ValueError: if there is no such state in ``state``, or several; within ``jax.jit``; for chains with different
        numbers of snapshots.

    Example:
      See :func:`snapshots`.
    """
    found = the_one("snapshots", SnapshotsState, state)
    counts, places = (jax.tree.leaves(number)[0] for number in (found.count, found.place))
    if isinstance(counts, jax.core.Tracer):
        raise ValueError("snapshots_of must be called outside of jax.jit: the shape of its result is their number.")
    (count, *others), (place, *_) = (np.unique(np.asarray(number)).tolist() for number in (counts, places))
    if others:
        raise ValueError(f"the chains have different numbers of snapshots, {[count, *others]}: read one by one.")
    axis = counts.ndim

    def ordered(buffer):
        capacity = buffer.shape[axis]
        return jnp.take(buffer, (place - count + np.arange(count)) % capacity, axis=axis)

    return jax.tree.map(ordered, found.buffer)
