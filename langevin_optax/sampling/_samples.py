"""What a run of chains gives, and what it needs to go on."""

import inspect
import warnings
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax import _trees
from langevin_optax.noise._fold_in import fold_in
from langevin_optax.noise._state import has_noise


class SamplerState(NamedTuple):
    """What a run of chains needs to go on, beside the parameters. Each leaf has the chains in front."""

    tx_state: Any  # the state of the optimiser
    key: Any  # shape=(chains,), the typed key of the run, one and the same for all chains
    chain: Any  # shape=(chains,), dtype=int32, the number of the chain, which is folded into all its keys
    step: Any  # shape=(chains,), dtype=int32, the number of steps done
    finite_steps: Any  # shape=(chains,), dtype=int32, the steps before the first whose loss was not finite


class Samples(NamedTuple):
    """What :func:`sample` returns: draws of the posterior, and what the run goes on from."""

    draws: Any  # of each leaf that ``keep`` returns, shape=(chains, draws, ...)
    losses: Any  # shape=(chains, draws), a minibatch loss at each draw
    params: Any  # the parameters after the last step, each leaf with the chains in front
    state: SamplerState

    @property
    def diverged(self) -> jax.Array:
        """shape=(chains,), dtype=bool: the chains with a loss, in any step, or parameters that are not finite.

        A loss that was infinite once marks its chain, even if the optimiser skipped that step.
        """
        return (self.state.finite_steps < self.state.step) | ~finite(self.params) | ~jnp.isfinite(self.losses).all(1)

    def to_arviz(self) -> Any:
        """The draws as ArviZ takes them, for ``arviz.summary``, ``ess``, ``rhat`` and all its plots.

        The draws are the group ``posterior``, and the losses are ``loss`` in ``sample_stats``. A variable is called by
        the path of its leaf, ``layer.kernel`` (netCDF files and xarray's trees take no slash), a bare array ``draws``.
        Draws below float32 become float32. All chains are in it, also those that ``diverged``.

        Returns:
          An ``arviz.InferenceData``; from ArviZ 1.0 on an ``xarray.DataTree``.

        Raises:
          ImportError: without ArviZ, which is in the extra ``sampling``.

        Example:
          >>> import jax, jax.numpy as jnp
          >>> import langevin_optax as lgv
          >>> from langevin_optax import sampling
          >>> gradient = lambda params, key: jax.value_and_grad(lambda p: (p["w"] ** 2).sum())(params)
          >>> samples = sampling.sample(gradient, lgv.sgd(0.1, 1.0, 0), {"w": jnp.ones(3)}, 0, draws=20, chains=2)
          >>> samples.to_arviz().posterior["w"].shape
          (2, 20, 3)
        """
        arviz = as_arviz()
        groups = {"posterior": _by_name(self.draws), "sample_stats": {"loss": _plain(self.losses)}}
        if "posterior" in inspect.signature(arviz.from_dict).parameters:
            return arviz.from_dict(**groups)
        return arviz.from_dict(groups)


def as_arviz() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*ArviZ is undergoing", FutureWarning)
            import arviz
    except ImportError as error:
        raise ImportError(
            "this needs ArviZ, which the extra `sampling` brings: pip install 'langevin_optax[sampling]'."
        ) from error
    return arviz


def _by_name(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [".".join(_trees.path_names(path, tree)) or "draws" for path, _ in leaves]
    if len(set(names)) < len(names):
        names = [_trees.leaf_name(path) for path, _ in leaves]
    return {name: _plain(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}


def _plain(leaf: Any) -> np.ndarray:
    low = jnp.issubdtype(leaf.dtype, jnp.floating) and jnp.finfo(leaf.dtype).bits < 32
    return np.asarray(leaf, np.float32 if low else None)


def finite(tree: Any) -> jax.Array:
    """shape=(chains,): whether all numbers of a chain are finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all(range(1, leaf.ndim)) for leaf in leaves]).all(0)


def own_keys(tx_state: Any, *numbers: Any) -> Any:
    """The state of an optimiser with these numbers folded into the keys of all noises, those of Optax too."""

    def fold(node, number):
        return node._replace(rng_key=jax.random.fold_in(node.rng_key, number)) if _is_noise_of_optax(node) else node

    for number in numbers:
        if any(map(has_noise, jax.tree.leaves(tx_state, is_leaf=has_noise))):
            tx_state = fold_in(tx_state, number)
        tx_state = jax.tree.map(lambda node, n=number: fold(node, n), tx_state, is_leaf=_is_noise_of_optax)
    return tx_state


def _is_noise_of_optax(node: Any) -> bool:
    """That of `optax.add_noise`, `noisy_sgd`, `dpsgd`."""
    return hasattr(type(node), "rng_key")


def _noises(tx_state: Any) -> Counter[Any]:
    """The keys of all noises, and how many have each on one and the same leaf, as far as partitions tell."""
    found: Counter[Any] = Counter()

    def stops(node):
        return has_noise(node) or _is_noise_of_optax(node) or isinstance(node, optax.transforms.PartitionState)

    for node in filter(stops, jax.tree.leaves(tx_state, is_leaf=stops)):
        if isinstance(node, optax.transforms.PartitionState):
            parts: Counter[Any] = Counter()
            for part in node.inner_states.values():
                parts |= _noises(part)
            found += parts
        else:
            key = node.noise_key if has_noise(node) else node.rng_key
            is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
            found[tuple(word.tobytes() for word in np.asarray(jax.random.key_data(key) if is_typed else key))] += 1
    return found


def check_keys(tx_state: Any) -> None:
    """Warn of no noise, and of two with one key; raise for chains that share their noise."""
    noises = _noises(tx_state)
    if not noises:
        warnings.warn(
            "tx has no noise, or none whose key is in its state: it is an optimiser, not a sampler, and its draws are "
            "no posterior. Take one of langevin_optax, such as sgd, rmsprop or baoab.",
            stacklevel=3,
        )
    if any(number > 1 for number in noises.values()):
        warnings.warn(
            "two noises in tx have one key, so that they are one and the same noise wherever both act on a parameter. "
            "Give each a key of its own.",
            stacklevel=3,
        )
    if any(len(set(chains)) < len(chains) for chains in noises):
        raise ValueError(
            "several chains of state have one key, and would have one and the same noise. Where states are made by "
            "vmap(tx.init), fold the number of the chain into each: langevin_optax.fold_in(state, chain)."
        )


def check_resumed(params: Any, state: Any, init: Any, key: Any, chains: int) -> int:
    """Raise unless ``params`` and ``state`` are those of an earlier run of this optimiser; warn of another key."""
    if not isinstance(state, SamplerState):
        raise TypeError(
            f"state must be the state of earlier Samples, a SamplerState, got {type(state).__name__}. A checkpoint is "
            "restored with its structure: restore(directory, jax.eval_shape(lambda: (samples.params, samples.state)))."
        )
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((params, state))}
    if len(sizes) != 1 or sizes == {()}:
        raise ValueError(
            "params and state of a run that goes on must have the same chains in front, as they are in Samples, got "
            f"leading axes {sorted(sizes)}."
        )
    if chains not in (1, size := sizes.pop()[0]):
        raise ValueError(f"chains must be that of the run that goes on, {size}, got {chains}.")
    expected = jax.eval_shape(jax.vmap(init), params)
    ours, theirs = (jax.tree.map(lambda x: f"{x.dtype}{[*x.shape]}", tree) for tree in (expected, state.tx_state))
    if jax.tree.flatten(ours) != jax.tree.flatten(theirs):
        raise ValueError(f"state is that of another tx, or of other params: this run has\n  {ours}\ngot\n  {theirs}.")
    if jax.random.key_impl(state.key) != jax.random.key_impl(key) or not (state.key == key).all():
        warnings.warn(
            "key is not that of the run that goes on, and is not used: minibatches and noise go on with the keys in "
            "state. Pass the key of the first call.",
            stacklevel=3,
        )
    return size


def check_functions(gradient: Any, keep: Any, params: Any, state: SamplerState) -> Any:
    """The shapes of what is stored of a draw, by ``keep`` and ``gradient``; raises if these give something else."""
    params, state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (params, state))
    result = jax.eval_shape(gradient, params, state.key)
    loss: Any
    loss, grads = result if isinstance(result, tuple) and len(result) == 2 else (None, None)
    if getattr(loss, "shape", None) != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(
            "gradient must return (loss, grads), with a real scalar loss, as jax.value_and_grad does without aux, got\n"
            f"  {result}."
        )
    shapes, others = (jax.tree.map(lambda leaf: str(leaf.shape), tree) for tree in (params, grads))
    if jax.tree.flatten(shapes) != jax.tree.flatten(others):
        raise ValueError(f"the grads of gradient must be like params,\n  {shapes}\ngot\n  {others}.")
    try:
        kept = jax.eval_shape(keep, params, state)
    except Exception as error:
        raise TypeError(
            "keep must be a function of the parameters that jax.jit takes, with arrays of fixed shapes."
        ) from error
    if not (leaves := jax.tree.leaves(kept)) or any(jnp.issubdtype(x.dtype, jax.dtypes.extended) for x in leaves):
        raise TypeError(f"keep must return a tree of arrays of numbers, got {kept}.")
    return kept, loss


def check_first_steps(params: Any, state: SamplerState) -> None:
    """Raise if no chain got beyond its first step."""
    if np.any(finite(params) & (state.finite_steps == state.step)) or np.any(state.finite_steps > 1):
        return
    if np.all(state.finite_steps == 0):
        raise FloatingPointError(
            "the loss is not finite at the params where the chains start. Check gradient and params."
        )
    raise FloatingPointError(
        "all chains are NaN or infinite after their first step. The step size (learning rate) is too large for this "
        "gradient, or the grads are not finite: is the loss a sum where a mean was meant, or σ that of another scale?"
    )


def warn_of_chains(samples: Samples) -> None:
    """Name the chains that diverged, and say if all chains are one."""
    chains = samples.losses.shape[0]
    if len(bad := np.flatnonzero(samples.diverged)):
        steps = np.asarray(samples.state.finite_steps)
        named = ", ".join(f"{chain} (finite for {steps[chain]} steps)" for chain in bad[:10])
        warnings.warn(
            f"{len(bad)} of {chains} chains diverged, with a loss or parameters that are not finite: {named}"
            f"{', ...' * (len(bad) > 10)}. They are in the draws, and samples.diverged marks them. Try a smaller step "
            "size.",
            stacklevel=3,
        )
    elif chains > 1 and all(bool((leaf == leaf[:1]).all()) for leaf in jax.tree.leaves(samples.params)):
        warnings.warn(
            "all chains are the same to the bit: they have no noise, or share one whose key is not in the state of tx, "
            "or it is lost in rounding. They count as one.",
            stacklevel=3,
        )
