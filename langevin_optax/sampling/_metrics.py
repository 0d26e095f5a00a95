"""Metrics of the noise: how large it was in the last step, next to the update, in all and layer by layer.

What is measured travels through ``tx.update`` in the states of the noise (`MeteredState`), and so comes out of the
``cond`` of `optax.MultiSteps`, of a ``jit`` or a ``vmap`` within: a record on the side would keep tracers of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_optax.layers import _names
from langevin_optax.noise._state import has_noise
from langevin_optax.optimizers._term import Measured, MeteredState
from langevin_optax.sampling._exchange import is_noise

_ALL = "all"


class MetricsState(NamedTuple):
    """State of :func:`with_metrics`: that of the optimiser, untouched, and the sums that its metrics are made of."""

    inner: Any
    measured: Any  # for each noise a dict, with an array of shape (6,), dtype=float32, for each layer

    @property
    def noise_metrics(self) -> "Metrics":
        layers: dict[str, Any] = {}
        for noise in self.measured:
            for name, sums in noise.items():
                sums = jax.tree.leaves(sums)[0]  # without the variable that nnx.Optimizer has around it
                layers[name] = layers[name] + sums if name in layers else sums
        whole = _metrics_of(sum(layers.values(), jnp.zeros(6, jnp.float32)))
        return whole if [*layers] == [_ALL] else whole._replace(layers={n: _metrics_of(s) for n, s in layers.items()})


class Metrics(NamedTuple):
    """What :func:`metrics` returns."""

    noise_to_update: jax.Array
    noise: jax.Array
    update: jax.Array
    bounded: jax.Array
    sigma: jax.Array
    learning_rate: jax.Array
    layers: dict[str, "Metrics"]


def with_metrics(
    tx: optax.GradientTransformation | optax.MultiSteps, layers: int | Sequence[str] | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""An optimiser whose state also holds the metrics of its noise, which :func:`metrics` reads.

    .. math::
      \theta \leftarrow \theta + u + n, \quad n = \sigma\sqrt{\gamma P}\,\xi, \qquad
      \text{noise to update} = \sqrt{\textstyle\sum_i n_i^2 / \sum_i u_i^2}

    Updates are those of ``tx`` (up to the last bit, where XLA fuses the two programs in other ways), ``state.inner`` is
    its state, and checkpoints of one go on as the other. The noise is measured where it is added, not drawn again.
    Where steps are skipped (``optax.MultiSteps``), metrics are those of the last step that was taken.

    A noise link sees the update up to its place in the chain: weight decay behind it is not in :math:`u`. Two noises on
    one coordinate count as two coordinates. A pass over updates and noise is nothing next to the gradient of a large
    batch, but a good part of a step that is little more than its optimiser: there a step with metrics and one without,
    ``tx.update(gradients, state.inner, params)``, may take turns.

    Args:
      tx: an optimiser of this package, or anything of Optax around some, or around noise links. (Integrators with
        momenta have :func:`kinetic_temperature`, which reads their own state.)
      layers: for metrics of each layer too, the paths of the layers, such as :func:`layer_order` gives, or how many
        names of the path of a parameter name its layer: 1 for ``Dense_0`` of ``Dense_0/kernel``.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with the state ``MetricsState(inner, measured)``.

    Raises:
      TypeError: if ``tx`` is no gradient transformation, or ``layers`` of another type.
      ValueError: at ``init``, if ``tx`` has no noise, or a parameter belongs to none of the ``layers``; at the update,
        for a noise that cannot be measured (:func:`overdamped_langevin`), or a state that is not its own.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> from langevin_optax.sampling import metrics, with_metrics
      >>> tx = with_metrics(lgv.sgd(0.01, sigma=1.0, key=0), layers=1)
      >>> params = {"a": jnp.ones(1000), "b": jnp.ones(1000)}
      >>> _, state = tx.update({"a": jnp.full(1000, 2.0), "b": jnp.zeros(1000)}, tx.init(params), params)
      >>> print(f"{metrics(state).noise:.2f}, {metrics(state).layers['a'].noise_to_update:.0f}")
      0.10, 5

    References:
      Welling and Teh, `Bayesian learning via stochastic gradient Langevin dynamics
      <https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf>`_, 2011, section 4 (noise next to the step).
    """
    if isinstance(tx, optax.MultiSteps):
        tx = tx.gradient_transformation()
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(f"tx must be an optax.GradientTransformation, got {tx!r}.")
    meter = _Meter(_checked(layers))
    inner = optax.with_extra_args_support(tx)

    def init_fn(params):
        state = inner.init(params)
        number = sum(map(is_noise, jax.tree.leaves(state, is_leaf=has_noise)))
        if not number:
            raise ValueError(
                "with_metrics found no noise of an optimiser or a noise link of langevin_optax in "
                f"{jax.tree.structure(state)}. Integrators with momenta have kinetic_temperature(state)."
            )
        zeros = dict.fromkeys(sorted(set(meter.names(params))), jnp.zeros(6, jnp.float32))
        return MetricsState(state, tuple(jax.tree.map(jnp.copy, zeros) for _ in range(number)))

    def update_fn(updates, state, params=None, **extra_args):
        if not isinstance(state, MetricsState):
            raise ValueError(
                f"with_metrics needs a state of its own, got {type(state).__name__}. From that of the optimiser alone: "
                "tx.init(params)._replace(inner=state)."
            )
        measured = iter(state.measured)

        def put(node):
            return MeteredState(node.count, node.key, next(measured), meter) if is_noise(node) else node

        def update(state):
            return inner.update(updates, state, params, **extra_args)

        error = None
        try:
            new_updates, metered = update(jax.tree.map(put, state.inner, is_leaf=has_noise))
            nodes = [node for node in jax.tree.leaves(metered, is_leaf=has_noise) if isinstance(node, MeteredState)]
        except Exception as caught:
            if MeteredState.__name__ not in str(caught):
                raise
            jax.eval_shape(update, state.inner)  # raises what tx has to say
            error, nodes = caught, []
        if len(nodes) < len(state.measured):
            raise ValueError(
                "with_metrics measures the noise of optimisers and noise links, not that of overdamped_langevin, whose "
                "Euler scheme is the optimiser langevin_optax.sgd(step_size, sqrt(2 * temperature), key)."
            ) from error
        plain = jax.tree.map(lambda x: x.plain if isinstance(x, MeteredState) else x, metered, is_leaf=has_noise)
        return new_updates, MetricsState(plain, tuple(node.measured for node in nodes))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def metrics(state: Any) -> Metrics:
    """The metrics of the noise in the last step, over the coordinates that have noise.

    Args:
      state: a state that holds one of :func:`with_metrics`, however wrapped (``optax.chain``, ``optax.MultiSteps``,
        ``TrainState``, ``nnx.Optimizer``). For several chains, ``jax.vmap`` it.

    Returns:
      Scalars: ``noise_to_update``; ``noise`` and ``update``, the RMS of the noise and of the update without it, in
      units of the parameters; ``bounded``, the share of the coordinates where ``max_noise`` binds; ``sigma``;
      ``learning_rate``; and ``layers``, a dict of the same for each layer that :func:`with_metrics` was asked for. All
      are 0 before the first step, and in a layer without noise.

    Raises:
      ValueError: unless there is exactly one state of :func:`with_metrics` in ``state``.

    Example:
      >>> import jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> from langevin_optax.sampling import metrics, with_metrics
      >>> tx, params = with_metrics(lgv.adam(1e-3, sigma=1e-2, key=0, max_noise=0.01)), jnp.ones(3)
      >>> _, state = tx.update(jnp.zeros(3), tx.init(params), params)
      >>> print(f"{metrics(state).bounded:.0%} at σ = {metrics(state).sigma:.2f}")
      100% at σ = 0.01
    """
    found = [node for node in jax.tree.leaves(state, is_leaf=_declares_it) if _declares_it(node)]
    if len(found) != 1:
        raise ValueError(f"metrics needs one state of with_metrics, found {len(found)} in {jax.tree.structure(state)}.")
    return found[0].noise_metrics


def _declares_it(node: Any) -> bool:
    return hasattr(type(node), "noise_metrics")


def _metrics_of(sums: jax.Array) -> Metrics:
    n, noise, update, *others = sums
    n = jnp.maximum(n, 1)
    ratio = jnp.where(noise == 0, 0, jnp.sqrt(noise / update))  # noise without an update is ∞ times it
    bounded, sigma, gamma = (x / n for x in others)
    return Metrics(ratio, jnp.sqrt(noise / n), jnp.sqrt(update / n), bounded, sigma, gamma, {})


def _checked(layers: Any) -> int | tuple[str, ...] | None:
    if layers is None or (isinstance(layers, int) and not isinstance(layers, bool) and layers > 0):
        return layers
    if isinstance(layers, Sequence) and not isinstance(layers, str) and all(isinstance(x, str) for x in layers):
        return tuple(layers)
    raise TypeError(f"layers must be the paths of the layers, or how many names of a path name one, got {layers!r}.")


@dataclasses.dataclass(frozen=True)
class _Meter:
    """The sums of a step, for each layer: n, Σ|noise|², Σ|update|², the number of bounded coordinates, nσ, nγ.

    n is the number of the coordinates with noise, of which there may be more than an int32 counts.
    """

    layers: int | tuple[str, ...] | None

    def names(self, tree: Any) -> list[str]:
        """The layer of each leaf."""
        if self.layers is None:
            return [_ALL] * len(jax.tree.leaves(tree))
        order = self.layers if isinstance(self.layers, tuple) else None
        paths = _names.read(tree, order).paths
        return ["/".join(p[: self.layers]) if isinstance(self.layers, int) else _names.owner(p, order) for p in paths]

    def __call__(self, step: Measured, before: dict[str, jax.Array]) -> dict[str, jax.Array]:
        names, sums = self.names(step.updates), jax.tree.map(jnp.zeros_like, before)
        if not sums.keys() >= {*names}:
            raise ValueError(f"the parameters of init have the layers {[*sums]}, the updates {sorted({*names})}.")
        unit = jnp.square(jnp.asarray(step.unit))
        for name, leaf in zip(names, step.leaves, strict=True):
            if leaf is not None:
                n, noise, update, bounded = leaf
                row = [n, unit * noise, unit * update, bounded, n * step.sigma, n * step.learning_rate]
                sums[name] += jnp.stack(row).astype(jnp.float32)
        return sums
