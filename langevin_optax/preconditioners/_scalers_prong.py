"""Natural neural networks: P from the covariances of the inputs of layers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from langevin_optax import _checks
from langevin_optax._mesh import gathered, placed_like, varying_like
from langevin_optax._types import ArrayLike
from langevin_optax.preconditioners import _decompositions, _diagonal, _layerwise, _operators, _publish


class ProngState(NamedTuple):
    """The state of :func:`scale_by_prong`. In each of the three trees a leaf that is no kernel has an empty matrix."""

    count: Any  # shape=(), dtype=int32
    covariances: Any  # for each kernel the sum of decay^age Σ
    weights: Any  # scalars, the sum of decay^age, which divides it
    roots: Any  # for each kernel (Σ̂ + εI)^(−1/2)
    clipped: jax.Array  # shape=(), dtype=int32: the eigenvalues that rounding left below 0, when roots were last taken


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

    of which this is a running average, without bias. It is plain gradient descent on the weights
    :math:`V = (\hat\Sigma + \epsilon I)^{1/2}\,(W, b)` of whitened inputs, where it comes near the natural gradient,
    with isotropic noise on V. (The published algorithm whitens centred inputs; here the 1 does that work.)

    ``update`` takes ``input_covariances=``, from :func:`input_covariances`, in every step; roots are taken every
    ``precondition_frequency`` steps from the first one on, before the update.

    Args:
      eps: :math:`\epsilon`, in units of the squared inputs. A direction without input has P = 1/eps.
      decay: of the running average.
      precondition_frequency: the steps between two roots.
      max_dimension: layers with more inputs than this keep P = 1.
      like: covariances, or ``jax.ShapeDtypeStruct`` of their shapes, of the layers that there will be. Without it a
        layer is every ``kernel`` of two axes, or of four and more, with its ``bias``. A kernel of three axes is an
        attention's or a convolution's: for it pass the covariances themselves.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` with the state ``ProngState(count, covariances, roots, clipped)``.
      Leaves of which there are no covariances (norms, embeddings) have P = 1; a warning names them.

    Raises:
      ValueError: at the update, without ``input_covariances=``, or for those of another model or not finite.
      TypeError: if they are no dict, and for complex or integer leaves.

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
    every = _checks.check_whole("precondition_frequency", precondition_frequency, 1)
    most = _checks.check_whole("max_dimension", max_dimension, 1)
    _checks.check_positive("eps", eps)
    _checks.check_decay("decay", decay)

    def init_fn(params):
        leaves, treedef = _layerwise.real_leaves(params)
        pairs = [(n, _diagonal.wide(p)) for n, p in zip(_layerwise.inputs_of(params, most, like), leaves, strict=True)]
        return ProngState(
            count=jnp.zeros([], jnp.int32),
            covariances=treedef.unflatten([varying_like(jnp.zeros((n, n), p.dtype), p) for n, p in pairs]),
            weights=treedef.unflatten([varying_like(jnp.zeros([], p.dtype), p) for _, p in pairs]),
            roots=treedef.unflatten([varying_like(jnp.eye(n, dtype=p.dtype), p) for n, p in pairs]),
            clipped=varying_like(jnp.zeros([], jnp.int32), leaves),
        )

    def step(updates, state, freeze_after, input_covariances=None, **extra_args):
        del extra_args
        leaves, treedef = _layerwise.real_leaves(updates)
        covariances, weights, roots = map(treedef.flatten_up_to, (state.covariances, state.weights, state.roots))
        given = _layerwise.checked(input_covariances)
        layers = _layerwise.layers_of(updates, given, covariances)
        learns, _ = _publish.learning(state.count, freeze_after)
        averages = {}
        for name, layer in layers.items():
            i, new = layer.kernel, jnp.asarray(given[name], covariances[layer.kernel].dtype)
            counts = learns & jnp.isfinite(new).all()
            covariances[i] = jnp.where(counts, _diagonal.average(covariances[i], new, decay), covariances[i])
            weights[i] = jnp.where(counts, _diagonal.average(weights[i], jnp.ones_like(weights[i]), decay), weights[i])
            averages[i] = covariances[i] / jnp.where(weights[i] == 0, 1, weights[i])
        taken, clipped = _decompositions.refreshed(
            learns & (state.count % every == 0),
            lambda old, averages: _roots(averages, eps),
            ({i: roots[i] for i in averages}, state.clipped),
            averages,
        )
        preconditioner: list[Any] = [1.0] * len(leaves)
        for layer in layers.values():
            # Until its first covariance has come, and its root is taken, a layer keeps P = 1.
            root = jnp.where(weights[layer.kernel] == 0, roots[layer.kernel], taken[layer.kernel])
            roots[layer.kernel] = root
            places = [layer.kernel] if layer.bias is None else [layer.kernel, layer.bias]
            for place, part in zip(places, _operators.parts(Layerwise(root), places), strict=True):
                preconditioner[place] = part
        new_state = ProngState(
            count=optax.safe_increment(state.count),
            covariances=treedef.unflatten(covariances),
            weights=treedef.unflatten(weights),
            roots=treedef.unflatten(roots),
            clipped=clipped,
        )
        return [_diagonal.wide(g) for g in leaves], preconditioner, new_state

    return _publish.scaler(init_fn, step)


class Layerwise:
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
        roots[kernel], below = _decompositions.symmetric_power(average, -0.5, eps)
        clipped += below
    return roots, clipped
