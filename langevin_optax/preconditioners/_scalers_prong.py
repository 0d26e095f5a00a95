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
from langevin_optax._mesh import gathered, placed_like
from langevin_optax._types import ArrayLike
from langevin_optax.preconditioners import _diagonal, _layout, _matrices, _operators, _publish


class ProngState(NamedTuple):
    """The state of :func:`scale_by_prong`; covariances and roots have a matrix for each kernel, and () elsewhere."""

    count: Any  # shape=(), dtype=int32
    covariances: Any
    roots: Any
    clipped: jax.Array  # shape=(), dtype=int32: the eigenvalues that rounding left below 0, when roots were last taken


class _Layer(NamedTuple):
    """The places of a layer's leaves among all leaves."""

    kernel: int
    bias: int | None


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
        treedef: Any = jax.tree.structure(params)
        inputs, dtypes = _inputs(params, most, like), [_diagonal.wide(p).dtype for p in jax.tree.leaves(params)]
        return ProngState(
            count=jnp.zeros([], jnp.int32),
            covariances=treedef.unflatten(
                [jnp.zeros((n, n), dtype) if n else () for n, dtype in zip(inputs, dtypes, strict=True)]
            ),
            roots=treedef.unflatten(
                [jnp.eye(n, dtype=dtype) if n else () for n, dtype in zip(inputs, dtypes, strict=True)]
            ),
            clipped=jnp.zeros([], jnp.int32),
        )

    def step(updates, state, freeze_after, input_covariances=None, **extra_args):
        del extra_args
        treedef: Any = jax.tree.structure(updates)
        covariances, roots = treedef.flatten_up_to(state.covariances), treedef.flatten_up_to(state.roots)
        given = _checked(input_covariances)
        layers = _layers(updates, given, covariances)
        learns, t = _publish.learning(state.count, freeze_after)
        averages = {}
        for name, layer in layers.items():
            old = covariances[layer.kernel]
            new = jnp.where(learns, _diagonal.average(old, jnp.asarray(given[name], old.dtype), decay), old)
            covariances[layer.kernel], averages[layer.kernel] = new, (new / (1 - decay**t)).astype(new.dtype)
        taken, clipped = _matrices.refreshed(
            learns & (state.count % every == 0),
            lambda old: _roots(averages, eps),
            ({kernel: roots[kernel] for kernel in averages}, state.clipped),
        )
        momenta = [_diagonal.wide(g) for g in jax.tree.leaves(updates)]
        preconditioner: list[Any] = [1.0] * len(momenta)
        for layer in layers.values():
            roots[layer.kernel] = taken[layer.kernel]
            places = [layer.kernel] if layer.bias is None else [layer.kernel, layer.bias]
            for place, part in zip(places, _operators.parts(_Layerwise(taken[layer.kernel]), places), strict=True):
                preconditioner[place] = part
        new_state = ProngState(
            count=optax.safe_increment(state.count),
            covariances=treedef.unflatten(covariances),
            roots=treedef.unflatten(roots),
            clipped=clipped,
        )
        return momenta, preconditioner, new_state

    return _publish.scaler(init_fn, step)


class _Layerwise:
    """P of a kernel and, if there is one, a bias: S ξ = A (ξ_W, ξ_b)."""

    def __init__(self, matrix: jax.Array):
        self.matrix = matrix

    def root(self, xi: list[jax.Array]) -> list[jax.Array]:
        kernel, *bias = map(gathered, xi)
        outputs = bias[0].size if bias else kernel.size // len(self.matrix)
        rows = jnp.concatenate([kernel.reshape(-1, outputs), *(b.reshape(1, outputs) for b in bias)])
        turned = jnp.matmul(self.matrix.astype(rows.dtype), rows, precision="highest")
        n = len(rows) - len(bias)
        whole = [turned[:n].reshape(kernel.shape), *(turned[n:].reshape(b.shape) for b in bias)]
        return [placed_like(part, x) for part, x in zip(whole, xi, strict=True)]


def _roots(averages: dict[int, jax.Array], eps: ArrayLike) -> Any:
    roots, clipped = {}, jnp.zeros([], jnp.int32)
    for kernel, average in averages.items():
        roots[kernel], below = _matrices.symmetric_power(average, -0.5, eps)
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


def _inputs(params: Any, most: int, like: Mapping[str, Any] | None) -> list[int]:
    """For each leaf, if it is the kernel of a layer, the number of inputs, with the 1 for the bias; else 0."""
    layers, leaves = _leaves(params)
    inputs = [0] * len(leaves)
    for name, places in layers.items():
        if (kernel := places.get("kernel")) is None:
            continue
        shape, n = jnp.shape(leaves[kernel]), 0
        if like is not None and name in like:
            n = jnp.shape(like[name])[0]
        elif like is None and len(shape) >= 2 and len(shape) != 3:
            n = math.prod(shape[:-1]) + ("bias" in places)
        inputs[kernel] = n if n <= most else 0
    return inputs


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


def _layers(updates: Any, given: dict[str, Any], covariances: list[Any]) -> dict[str, _Layer]:
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
        if isinstance(covariances[kernel], tuple):  # a layer that keeps P = 1
            continue
        shape, expected = jnp.shape(matrix), jnp.shape(covariances[kernel])
        if shape != expected or shape[0] - (bias is not None) not in np.cumprod(jnp.shape(leaves[kernel])):
            raise ValueError(
                f"the input covariance of {name!r} has shape {shape}, where the state has {expected}, and its "
                f"kernel {jnp.shape(leaves[kernel])}. For an attention's kernel, or a convolution's of three axes, "
                "pass like= to prong; else, are these the covariances of another model?"
            )
        layers[name] = _Layer(kernel, bias)
    taken = {i for layer in layers.values() for i in (layer.kernel, layer.bias)}
    if bare := [name for i, name in enumerate(_trees.flatten(updates)[0]) if i not in taken]:
        warnings.warn(
            f"prong has no covariances for {', '.join(bare)}: there P = 1. (For a kernel of three axes pass like=.)",
            stacklevel=2,
        )
    return layers
