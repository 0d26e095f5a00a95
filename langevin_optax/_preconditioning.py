"""How the noise learns P: an update carries its preconditioner, as a weak mark on each array or tracer.

Optax wrappers (`chain`, `masked`, `partition`, ...) hand the arrays of an update on untouched, so a mark by identity
reaches the link that follows. Whatever changes the update makes a new object, which has no mark.

Hazards, and where they are met:

1. A mark must not outlive its array: the table holds a weak reference, whose callback removes the entry.
2. P refers to the trace that made it, and that trace to the marked tracer: a table that owned P would keep both alive
   for ever once an exception ends a trace. So the trace owns P, in the name of the `checkpoint_name` that makes the
   marked tracer, and lets go of it with the tracer (`_marked_copy`).
3. A transformation may return the very array it was given (`identity`, masked-out leaves) or keep it in its state
   (`trace`). Marks go on a copy, so the caller's gradients and the state are never marked.
4. Two preconditioners in a row multiply: `trace` after `scale_by_rms` moves by P g, not by g.

The copy is no part of the compiled program: XLA receives the operand itself.
"""

import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.ad_checkpoint import checkpoint_name

from langevin_optax import _checks

ArrayLike = jax.typing.ArrayLike
Preconditioner = Callable[[Any, Any, Any], Any]

_marks: dict[int, tuple[weakref.ref[Any], Callable[[], Any]]] = {}


class _Name(str):
    """The name of a marked tracer, which also holds its P."""

    preconditioner: Any


def _marked_copy(leaf: Any, preconditioner: Any) -> jax.Array:
    name = _Name("langevin_optax.preconditioned_update")
    name.preconditioner = preconditioner
    if isinstance(leaf, jax.core.Tracer):
        checkpoint_name(leaf, str(name))  # JAX caches parameters by their value, and must not cache the one with P
        copy = checkpoint_name(leaf, name)
    else:
        copy = jnp.copy(leaf)
    place, weak_name = id(copy), weakref.ref(name)
    del name

    def forget(ref: weakref.ref[Any]) -> None:
        if _marks.get(place, (None,))[0] is ref:
            del _marks[place]
        if (name := weak_name()) is not None:
            name.preconditioner = None  # the name lives on in the jaxpr

    # Concrete arrays and the tracers of vmap and grad are on no trace's record, nor is their name: the table owns P.
    owned_by_trace = weak_name() is not None
    _marks[place] = (
        weakref.ref(copy, forget),
        ((lambda: getattr(weak_name(), "preconditioner", None)) if owned_by_trace else (lambda: preconditioner)),
    )
    return copy


def preconditioner_of(leaf: Any) -> Any | None:
    """The P that made this very array or tracer, or None."""
    ref, preconditioner = _marks.get(id(leaf), (lambda: None, lambda: None))
    return preconditioner() if ref() is leaf else None


def with_preconditioner(
    transform: optax.GradientTransformation, preconditioner: Preconditioner
) -> optax.GradientTransformationExtraArgs:
    r"""Any Optax transformation, which also publishes the preconditioner P that it used.

    The update :math:`u = P\,m` comes out marked with P, and :func:`add_preconditioned_noise`, if it directly follows,
    shapes its noise :math:`\sigma\sqrt{\gamma P}\,\xi` by it. ``init``, ``update`` and state are those of
    ``transform``, so that a checkpoint of one loads into the other. If the incoming updates carry a P themselves, the
    product is published.

    A mark lives as long as the array or tracer that carries it and is no part of the compiled program. What changes
    the update (a scale, a clip, a cast, the boundary of a ``jit``) makes a new array without a mark.

    Args:
      transform: the transformation.
      preconditioner: a function ``(updates_in, old_state, new_state)`` that returns a tree of the structure of the
        updates, with leaves :math:`P \ge 0` (real, float32 or wider) that broadcast to the leaves of the updates.

    Returns:
      An ``optax.GradientTransformationExtraArgs``.

    Raises:
      ValueError: at the update, if the tree of P has another structure than the updates, or a leaf of P does not
        broadcast to its leaf of the updates.
      TypeError: if ``transform`` is no gradient transformation or ``preconditioner`` no function.

    Example:
      A diagonal preconditioner of one's own, P = 1/4:

      >>> import jax, jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> quarter = lgv.with_preconditioner(
      ...     optax.scale(0.25), lambda updates, old, new: jax.tree.map(lambda u: jnp.full_like(u, 0.25), updates))
      >>> tx = optax.chain(quarter, lgv.add_preconditioned_noise(0.1, 0.01, key=0), optax.scale_by_learning_rate(0.1))
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Li et al., `Preconditioned Stochastic Gradient Langevin Dynamics <https://arxiv.org/abs/1512.07666>`_, 2015;
      Bras, `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    if not isinstance(transform, optax.GradientTransformation):
        raise TypeError(f"transform must be an optax.GradientTransformation, got {transform!r}.")
    if not callable(preconditioner):
        raise TypeError(
            f"preconditioner must be a function (updates_in, old_state, new_state), got {preconditioner!r}."
        )
    transform = optax.with_extra_args_support(transform)

    def update_fn(updates, state, params=None, **extra_args):
        new_updates, new_state = transform.update(updates, state, params, **extra_args)
        own = preconditioner(updates, state, new_state)
        check_like(own, new_updates)
        marked = jax.tree.map(
            lambda u, p, g: _marked_copy(u, _times(preconditioner_of(g), p)), new_updates, own, updates
        )
        return marked, new_state

    return optax.GradientTransformationExtraArgs(transform.init, update_fn)


def _times(incoming: Any | None, own: Any) -> Any:
    return own if incoming is None else incoming * own


def check_like(preconditioner: Any, updates: Any) -> None:
    """Raise unless the leaves of P match those of the updates and broadcast to them."""
    structure: Any = jax.tree.structure(preconditioner)
    if structure != jax.tree.structure(updates):
        raise ValueError(
            "the preconditioner must be a tree like the updates, got\n"
            f"  {structure}\nfor updates\n  {jax.tree.structure(updates)}."
        )
    for (path, u), p in zip(jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(preconditioner), strict=True):
        where = jax.tree_util.keystr(path) or "(root)"
        if not _checks.broadcasts(jnp.shape(p), jnp.shape(u)):
            raise ValueError(
                f"the preconditioner of {where} has shape {jnp.shape(p)}, which does not broadcast to the update's "
                f"{jnp.shape(u)}."
            )
        if jnp.iscomplexobj(p):
            raise TypeError(f"the preconditioner of {where} must be real, got {jnp.result_type(p)}.")


def check_values(preconditioner: Any) -> None:
    """Raise for a negative P or NaN, where the values are known: outside of jit."""
    for path, p in jax.tree_util.tree_leaves_with_path(preconditioner):
        if not isinstance(p, jax.core.Tracer) and not np.all(np.asarray(p, np.float64) >= 0):
            raise ValueError(f"preconditioner must be ≥ 0, got {p} at {jax.tree_util.keystr(path) or '(root)'}.")


def wide(x: Any) -> jax.Array:
    """Statistics in float32 at least, and real: optax keeps ν of complex gradients in a complex array."""
    x = jnp.real(x)
    return x.astype(np.promote_types(x.dtype, np.float32))


def inverse_root(nu: Any, eps: ArrayLike, eps_root: ArrayLike) -> Any:
    """1 / (√(ν + ε_root) + ε), leaf by leaf."""
    return jax.tree.map(lambda v: 1 / (jnp.sqrt(wide(v) + eps_root) + eps), nu)


def debiased(moment: Any, decay: ArrayLike, count: ArrayLike) -> Any:
    return optax.tree.bias_correction(jax.tree.map(wide, moment), decay, count)
