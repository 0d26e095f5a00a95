"""To Langevin and back in mid-training: the state of a stock Optax optimiser for that of its Langevin version.

What the Langevin version alone has (noise, localisation, the links of this room) is added or left away. Other arrays
have to be the same on both sides, by the names of states and fields, shape and dtype, however chains are nested.
"""

import collections
import inspect
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax._types import ArrayLike
from langevin_optax.noise._state import has_noise
from langevin_optax.optimizers import _engine
from langevin_optax.preconditioners._localization import LocalizationState

# What optax.inject_hyperparams keeps of an optimiser, and the arguments of them that stock optimisers do not have.
_INJECTED = (".hyperparams", ".hyperparams_states")
_ARGUMENTS = ("sigma", "key", "max_noise")
_ADDED: Any = object()


def from_optax(
    stock_state: Any,
    tx: optax.GradientTransformation | optax.MultiSteps,
    params: Any,
    *,
    count: ArrayLike | None = None,
    eps: float | None = None,
) -> Any:
    r"""The state of a stock Optax optimiser, as a state of ``tx``, which goes on from it with noise.

    .. math::
      \theta \leftarrow \theta + u_{stock} + \sigma\sqrt{\gamma P}\,\xi

    in the first step, with the moments of the stock run: nothing jumps, and without noise the run is the stock run bit
    for bit. Noise and schedules go on at the count of the stock state. Chains may be nested in other ways, ``tx`` may
    have links more whose states hold no arrays, and the learning rate may be a schedule in one and a constant in the
    other. Hyperparameters that ``optax.inject_hyperparams`` keeps are those of the stock state.

    What is no part of a state cannot be checked: the learning rate, betas, and :math:`\epsilon`, whose default is
    larger here than in Optax (but see ``eps``).

    Args:
      stock_state: the state of an Optax optimiser, such as ``TrainState.opt_state`` or ``nnx.Optimizer.opt_state``, or
        restored from a checkpoint into its structure.
      tx: the optimiser that goes on, of this package or a chain with its links, in the wrappers of the stock optimiser
        (``optax.MultiSteps``, ``optax.masked``, …).
      params: the parameters.
      count: how many steps were made; by default the count in ``stock_state``. (Plain SGD has none: a warning.)
      eps: the :math:`\epsilon` that the stock optimiser had, by default Optax's. Another in ``tx`` is a warning.

    Returns:
      A state of ``tx``. An ``nnx.Optimizer`` takes it by ``nnx.update(optimizer.opt_state, nnx.state(new_state))``.

    Raises:
      ValueError: if arrays differ by the names of their states and fields, shape or dtype; if several counts differ.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> from langevin_optax.sampling import from_optax
      >>> params, stock = jnp.ones(3), optax.adam(1e-3)
      >>> _, stock_state = stock.update(params, stock.init(params), params)
      >>> tx = lgv.adam(1e-3, sigma=1e-3, key=0, eps=1e-8)
      >>> state = from_optax(stock_state, tx, params)
      >>> int(state[-1].count)
      1

    References:
      Bras, `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    _warn_of_eps(tx, eps)
    fresh = _pure(tx.init(_pure(params)))
    (needed, _), (given, counts) = map(_read, (fresh, _pure(stock_state)))
    for (ours, _), (theirs, _) in itertools.zip_longest(needed, given, fillvalue=("no more", None)):
        if ours != theirs:
            raise ValueError(
                f"from_optax expected {ours}, as tx has, and got {theirs}: the state of another optimiser, or restored "
                "without its structure? (Of a TrainState or an nnx.Optimizer it is opt_state.)"
            )
    steps = _steps(counts + [x for name, x in given if ".count (" in name]) if count is None else count
    arrays = iter([x for _, x in given])
    return _exchanged(fresh, "", lambda path, x: next(arrays), lambda old: jnp.array(steps, old.dtype))


def to_optax(state: Any) -> Any:
    """The state of the stock Optax optimiser whose Langevin version ``state`` is of: what :func:`from_optax` undoes.

    Noise links and the links of this room leave no trace, and a chain of which one part remains is that part. The eps
    of the stock optimiser is no part of the state: give it the one that the Langevin version had.

    Args:
      state: a state of an optimiser of this package, or of a chain with its scalers and noise links, however wrapped.

    Returns:
      The stock state.

    Raises:
      ValueError: for a state that Optax has no counterpart of: an integrator, a matrix P, a frozen P, noise alone.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> from langevin_optax.sampling import to_optax
      >>> [type(part).__name__ for part in to_optax(lgv.adam(1e-3, sigma=1e-3, key=0).init(jnp.ones(3)))]
      ['ScaleByAdamState', 'EmptyState']
    """
    if (stock := _without_noise(_pure(state))) is _ADDED:
        raise ValueError(f"to_optax found nothing but noise in {jax.tree.structure(state)}.")
    return stock


def is_noise(node: Any) -> bool:
    """Whether a node is the state of a noise alone, a count and a key: that of an integrator with momenta has more."""
    return has_noise(node) and len(node) == 2


def _is_added(node: Any) -> bool:
    """Whether a part of a state is one that a stock optimiser does not have."""
    if isinstance(node, optax.MaskedState):
        return _is_added(node.inner_state)
    of_this_room = type(node).__module__.startswith("langevin_optax.sampling.") and not _has_metrics(node)
    return is_noise(node) or isinstance(node, LocalizationState) or of_this_room


def _is_ours(node: Any) -> bool:
    return type(node).__module__.startswith("langevin_optax.")


def _has_metrics(node: Any) -> bool:
    return hasattr(type(node), "noise_metrics")


def _pure(tree: Any) -> Any:
    """Without the variables that ``nnx.Optimizer`` and ``nnx.state`` have around arrays."""
    nnx = sys.modules.get("flax.nnx")
    return nnx.as_pure(tree) if nnx else tree


def _without_noise(node: Any) -> Any:
    if _is_added(node):
        return _ADDED
    if not any(map(_is_ours, jax.tree.leaves(node, is_leaf=_is_ours))):
        return node
    if _has_metrics(node):
        return _without_noise(node.inner)
    if _is_ours(node):
        raise ValueError(f"to_optax cannot do without {type(node).__name__}, of which Optax has no counterpart.")
    if type(node) in (dict, collections.OrderedDict):  # of a partition, or of a named chain
        return type(node)((key, new) for key, x in node.items() if (new := _without_noise(x)) is not _ADDED)
    if hasattr(node, "_fields"):
        fields = {name: _without_noise(value) for name, value in node._asdict().items()}
        for name in fields.keys() & {field[1:] for field in _INJECTED}:
            fields[name] = {key: x for key, x in fields[name].items() if key not in _ARGUMENTS}
        return type(node)(**fields)
    kept = tuple(new for x in node if (new := _without_noise(x)) is not _ADDED)
    return kept if len(kept) == len(node) else kept[0] if len(kept) == 1 else kept or _ADDED


def _exchanged(node: Any, path: str, array: Callable[[str, Any], Any], count: Callable[[Any], Any]) -> Any:
    """A state with other arrays, where a stock state has some too, and other counts of its noises and schedules."""

    def go(x, path=path):
        return _exchanged(x, path, array, count)

    if is_noise(node) or getattr(node, "_fields", None) == ("count",):
        return node._replace(count=count(node.count))
    if _has_metrics(node):
        return node._replace(inner=go(node.inner))
    if type(node) is tuple:
        return tuple(map(go, node))
    if type(node) in (dict, collections.OrderedDict):  # of a partition, or of a named chain
        own = _ARGUMENTS if path.endswith(_INJECTED) else ()
        new = {key: node[key] if key in own else go(node[key], f"{path}[{key!r}]") for key in sorted(node)}
        return type(node)((key, new[key]) for key in node)
    if _is_added(node) and _is_ours(node):
        return node
    if hasattr(node, "_fields"):
        here = f"{path} / {type(node).__name__}".removeprefix(" / ")
        return type(node)(*(go(getattr(node, field), f"{here}.{field}") for field in node._fields))
    return jax.tree_util.tree_map_with_path(lambda key, leaf: array(path + jax.tree_util.keystr(key), leaf), node)


def _read(state: Any) -> tuple[list[tuple[str, Any]], list[Any]]:
    """The arrays that a stock state has too, each with what it has to be, and the counts of noises and schedules."""
    arrays: list[tuple[str, Any]] = []
    counts: list[Any] = []

    def read(path, x):
        arrays.append((f"{path} ({jnp.result_type(x)}{list(jnp.shape(x))})", x))

    _exchanged(state, "", read, counts.append)
    return arrays, counts


def _steps(counts: list[Any]) -> Any:
    if not counts:
        warnings.warn(
            "from_optax found no count in the stock state: noise and schedules begin at 0. Pass count=, 0 or another.",
            stacklevel=3,
        )
        return 0
    known = [np.asarray(x).tolist() for x in counts if not isinstance(x, jax.core.Tracer)]
    if any(x != known[0] for x in known):
        raise ValueError(f"from_optax found the counts {known} in the stock state: pass count=.")
    return counts[0]


def _warn_of_eps(tx: Any, eps: float | None) -> None:
    """Where the eps of a whole optimiser within ``tx`` is known and another than that of the stock optimiser."""
    for name, arguments in _optimisers_in(tx, set()):
        stock = getattr(optax, name, None) or getattr(optax.contrib, name, None)
        if stock is None or isinstance(arguments.get("eps"), (type(None), jax.core.Tracer)):
            continue
        default = inspect.signature(stock).parameters["eps"].default
        ours, theirs = float(arguments["eps"]), float(default if eps is None else eps)
        if ours != theirs:
            warnings.warn(
                f"{name} goes on with eps={ours:g}, the stock optimiser had {theirs:g}{' by default' * (eps is None)}: "
                f"where gradients are small, the update jumps. Give tx eps={theirs:g}, or from_optax the true eps=.",
                stacklevel=3,
            )


def _optimisers_in(thing: Any, seen: set[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and arguments of the optimisers that a transformation is made of, from what its functions close over."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    thing = thing.__self__ if inspect.ismethod(thing) else thing
    inside: Any = thing if isinstance(thing, (tuple, list)) else ()
    if inspect.isfunction(thing):
        held = inspect.getclosurevars(thing).nonlocals
        if thing.__module__ == _engine.__name__ and {"name", "arguments"} <= held.keys():
            yield held["name"], held["arguments"]
        inside = held.values()
    elif isinstance(thing, (dict, optax.MultiSteps)):
        inside = (thing if isinstance(thing, dict) else vars(thing)).values()
    for part in inside:
        yield from _optimisers_in(part, seen)
