"""Natural neural networks: P from the covariances of the inputs of layers."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax import _trees
from langevin_optax._types import ArrayLike
from langevin_optax.preconditioners import _diagonal, _layout, _operators, _publish


class ProngState(NamedTuple):
    """The state of :func:`scale_by_prong`; covariances and roots are dicts by the paths of the layers."""

    count: Any  # shape=(), dtype=int32
    covariances: dict[str, jax.Array]
    roots: dict[str, jax.Array]
    clipped: jax.Array  # shape=(), dtype=int32: the eigenvalues that rounding left below 0, when roots were last taken


class _Layer(NamedTuple):
    """Where the leaves of a layer are in the tree, and the number of its inputs, with the 1 for the bias."""

    kernel: int
    bias: int | None
    inputs: int


def scale_by_prong(
    eps: ArrayLike = 1e-2,
    decay: ArrayLike = 0.95,
    *,
    precondition_frequency: int = 10,
    max_dimension: int = 4096,
    like: Mapping[str, Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Natural neural networks (PRONG): P from the covariance of the inputs of each dense and convolutional layer.

    For a layer :math:`y = W^T h + b`, with its weights and its bias in one matrix over :math:`\tilde h = (h, 1)`,

    .. math::
      u = P g, \qquad P = (\hat\Sigma + \epsilon I)^{-1} \otimes I, \qquad
      S\,\xi = (\hat\Sigma + \epsilon I)^{-1/2}\,\xi, \qquad \Sigma = E[\tilde h\tilde h^T],

    of which this is a running average, divided by :math:`1 - decay^t`. It is plain gradient descent on the weights
    :math:`V = (\hat\Sigma + \epsilon I)^{1/2}\,(W, b)` of whitened inputs, where it comes near the natural gradient,
    with isotropic noise on V. (The published algorithm whitens centred inputs; here the 1 does that work.)

    ``update`` takes ``input_covariances=``, from :func:`input_covariances`, in every step, for the running average; the
    roots are taken every ``precondition_frequency`` steps from the first one on, before the update.

    Args:
      eps: :math:`\epsilon`, in units of the squared inputs. A direction without input has P = 1/eps.
      decay: of the running average.
      precondition_frequency: the steps between two roots.
      max_dimension: layers with more inputs than this keep P = 1.
      like: covariances, or their shapes, of the layers that there will be. Without it a layer is every ``kernel`` of
        two axes, or of four and more, with its ``bias``. A kernel of three axes is an attention's or a convolution's:
        for it pass the covariances themselves.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with the state ``ProngState(count, covariances, roots, clipped)``.
      Leaves of which there are no covariances (norms, embeddings) have P = 1; a warning names them.

    Raises:
      ValueError: at the update, without ``input_covariances=``, or for those of another model.
      TypeError: if they are no dict.

    Example:
      >>> import jax, jax.numpy as jnp, optax, flax.linen as nn
      >>> import langevin_optax as lgv
      >>> model, x = nn.Dense(3), jax.random.normal(jax.random.key(0), (8, 2))
      >>> variables = model.init(jax.random.key(1), x)
      >>> tx = optax.chain(lgv.scale_by_prong(), lgv.add_preconditioned_noise(0.1, 1e-3, key=0),
      ...                  optax.scale_by_learning_rate(0.1))
      >>> state = tx.init(variables["params"])
      >>> covariances = lgv.input_covariances(model, variables, x)
      >>> updates, state = tx.update(variables["params"], state, input_covariances=covariances)
      >>> covariances[""].shape
      (3, 3)

    References:
      Desjardins et al., `Natural Neural Networks <https://arxiv.org/abs/1507.00210>`_, 2015.
    """
    every = _layout.check_whole("precondition_frequency", precondition_frequency, 1)
    most = _layout.check_whole("max_dimension", max_dimension, 1)

    def init_fn(params):
        inputs, dtypes = _inputs(params, most, like)
        return ProngState(
            count=jnp.zeros([], jnp.int32),
            covariances={name: jnp.zeros((n, n), dtypes[name]) for name, n in inputs.items()},
            roots={name: jnp.eye(n, dtype=dtypes[name]) for name, n in inputs.items()},
            clipped=jnp.zeros([], jnp.int32),
        )

    def step(updates, state, freeze_after, input_covariances=None, **extra_args):
        del extra_args
        given = _checked(input_covariances)
        layers = _layers(updates, given, state)
        learns, t = _publish.learning(state.count, freeze_after)
        covariances = dict(state.covariances)
        for name in layers:
            new = _diagonal.average(covariances[name], jnp.asarray(given[name]), decay)
            covariances[name] = jnp.where(learns, new, covariances[name])
        averages = {name: (covariances[name] / (1 - decay**t)).astype(covariances[name].dtype) for name in layers}
        taken, clipped = jax.lax.cond(
            learns & (state.count % every == 0),
            lambda averages, roots, clipped: _roots(averages, eps),
            lambda averages, roots, clipped: (roots, clipped),
            averages,
            {name: state.roots[name] for name in layers},
            state.clipped,
        )
        momenta = [_diagonal.wide(g) for g in jax.tree.leaves(updates)]
        preconditioner: list[Any] = [1.0] * len(momenta)
        for name, layer in layers.items():
            places = [layer.kernel] if layer.bias is None else [layer.kernel, layer.bias]
            joint = _Layerwise(taken[name])
            for i, part in zip(places, _operators.parts(joint, tuple(places)), strict=True):
                preconditioner[i] = part
        new_state = ProngState(
            count=optax.safe_increment(state.count),
            covariances=covariances,
            roots={**state.roots, **taken},
            clipped=clipped,
        )
        return momenta, preconditioner, new_state

    return _publish.scaler(init_fn, step)


class _Layerwise:
    """P of a kernel and, if there is one, a bias: S ξ = A (ξ_W, ξ_b)."""

    def __init__(self, matrix: jax.Array):
        self.matrix = matrix

    def root(self, xi: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        kernel, *bias = xi
        outputs = bias[0].size if bias else kernel.size // len(self.matrix)
        rows = jnp.concatenate([kernel.reshape(-1, outputs), *(b.reshape(1, outputs) for b in bias)])
        turned = jnp.matmul(self.matrix.astype(rows.dtype), rows, precision="highest")
        n = len(rows) - len(bias)
        return (turned[:n].reshape(kernel.shape), *(turned[n:].reshape(b.shape) for b in bias))


def _roots(averages: dict[str, jax.Array], eps: ArrayLike) -> Any:
    roots, clipped = {}, jnp.zeros([], jnp.int32)
    for name, average in averages.items():
        roots[name], below = _operators.symmetric_power(average, -0.5, eps)
        clipped += below
    return roots, clipped


def _leaves(tree: Any) -> tuple[dict[str, dict[str, int]], list[Any]]:
    """For each layer the places of its leaves by their names; and all leaves."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    layers: dict[str, dict[str, int]] = {}
    for i, (path, _) in enumerate(paths):
        *layer, leaf = _layout.layer_names(path, tree)
        layers.setdefault("/".join(layer), {})[leaf] = i
    return layers, [leaf for _, leaf in paths]


def _inputs(params: Any, most: int, like: Mapping[str, Any] | None) -> tuple[dict[str, int], dict[str, Any]]:
    """The number of inputs of each layer, and the dtype of its covariance."""
    layers, leaves = _leaves(params)
    inputs: dict[str, int] = {}
    for name, places in layers.items():
        if "kernel" not in places:
            continue
        shape = jnp.shape(leaves[places["kernel"]])
        if like is not None and name in like:
            inputs[name] = jnp.shape(like[name])[0]
        elif like is None and len(shape) >= 2 and len(shape) != 3:
            inputs[name] = math.prod(shape[:-1]) + ("bias" in places)
    inputs = {name: n for name, n in inputs.items() if n <= most}
    return inputs, {name: _diagonal.wide(leaves[layers[name]["kernel"]]).dtype for name in inputs}


def _checked(covariances: Any) -> dict[str, Any]:
    if covariances is None:
        raise ValueError(
            "prong needs the covariances of the inputs of the layers in every update: pass input_covariances=, from "
            "langevin_optax.input_covariances(model, variables, batch)."
        )
    if not isinstance(covariances, Mapping):
        raise TypeError(
            f"input_covariances must be a dict from the paths of layers to matrices, got {type(covariances).__name__}."
        )
    for name, matrix in covariances.items():
        if not isinstance(matrix, jax.core.Tracer) and not np.all(np.isfinite(np.asarray(matrix, np.float64))):
            raise ValueError(f"the input covariance of {name!r} is not finite.")
    return dict(covariances)


def _layers(updates: Any, given: dict[str, Any], state: ProngState) -> dict[str, _Layer]:
    """The layers that have covariances; raises for those of another model, and warns of leaves that have none."""
    found, leaves = _leaves(updates)
    layers: dict[str, _Layer] = {}
    for name, matrix in given.items():
        if name not in found or "kernel" not in found[name]:
            if _layout.has_masked(updates):
                continue
            raise ValueError(
                f"input_covariances has a layer {name!r}, where the updates have no kernel. They have {sorted(found)}: "
                "are these the covariances of another model?"
            )
        kernel, bias = found[name]["kernel"], found[name].get("bias")
        shape, expected = jnp.shape(matrix), state.covariances.get(name)
        if expected is None:
            continue
        inputs = expected.shape[0]
        n = inputs - (bias is not None)
        if shape != (inputs, inputs) or n not in np.cumprod(jnp.shape(leaves[kernel])):
            raise ValueError(
                f"the input covariance of {name!r} has shape {shape}, where the state has {expected.shape}, and its "
                f"kernel {jnp.shape(leaves[kernel])}. For an attention's kernel, or a convolution's of three axes, "
                "pass like= to prong; else, are these the covariances of another model?"
            )
        layers[name] = _Layer(kernel, bias, inputs)
    taken = {i for layer in layers.values() for i in (layer.kernel, layer.bias)}
    if bare := [name for i, name in enumerate(_trees.flatten(updates)[0]) if i not in taken]:
        warnings.warn(f"prong has no covariances for {', '.join(bare)}: there P = 1.", stacklevel=2)
    return layers
