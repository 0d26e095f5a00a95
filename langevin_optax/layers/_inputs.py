"""The second moments of what a Flax model's layers are given, by which natural neural networks whiten."""

import functools
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

from langevin_optax.layers._order import _names, _spy_on

Moment = tuple[jax.Array, float]  # of one call: E[h hᵀ], and over how many rows
_SOWN = "langevin_optax_moments"


def input_covariances(model: Any, variables: Any, *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
    r"""The second moments of the inputs of a model's dense and convolutional layers, which natural networks whiten.

    A layer y = Wᵀh + b takes n inputs h to its outputs. Its entry is

    .. math:: \Sigma = E[\tilde h \tilde h^\top], \qquad \tilde h = (h, 1), \qquad y = [W; b]^\top \tilde h,

    the mean over all leading axes of h; without bias h̃ is h. W is ``kernel.reshape(n, -1)``, which gives the order of
    the entries: in a convolution h is the patch under the kernel, padding included, the channels running fastest, and
    the mean is over the positions as well. Of several calls in one pass the mean is over the rows of all. h is what the
    layer multiplies, rounded to its ``dtype``; sums are taken in float32, or in float64 if h is.

    Covered are ``nn.Dense``, ``nn.DenseGeneral`` over the last axes, ``nn.Conv`` without groups and mask, and
    ``nnx.Linear``, ``nnx.LinearGeneral`` and ``nnx.Conv`` likewise. Other layers have no entry: embeddings, norms,
    classes with a ``__call__`` of their own, complex inputs, and what runs within a transformation: ``nn.scan``,
    ``nn.vmap``, ``nn.jit``, …, all of NNX's. (``nn.remat`` is no hindrance.) Within ``shard_map`` the mean is over the
    rows of the device: take ``jax.lax.pmean`` of the result.

    The model is run once, forward. It works under ``jax.jit`` and ``jax.vmap``, and on batches that are sharded.

    Args:
      model: a ``flax.linen.Module`` or a ``flax.nnx.Module``, which is left as it is.
      variables: for Linen what ``model.apply`` takes, or the parameters alone. For NNX an ``nnx.State`` of some of the
        model's variables, such as its ``nnx.Param`` ones, which takes the place of the model's own; or None.
      *args: what the model is called with, a batch first of all.
      **kwargs: likewise. For Linen they go to ``model.apply`` (``rngs=``, ``method=``, ``mutable=``, of which nothing
        is returned). A model that would update batch statistics is to leave them (such as by ``train=False``), or needs
        ``mutable=["batch_stats"]``.

    Returns:
      A dict from the paths of layers, as :func:`layer_order` writes them, to arrays of shape (n, n), or
      (n + 1, n + 1) with a bias, which comes last.

    Raises:
      TypeError: if ``model`` is not a Flax module, or for ``variables`` of another type.
      ValueError: if no layer is covered.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> x = jnp.array([[1.0, 0.0], [3.0, 2.0]])
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3, use_bias=False)])
      >>> covariances = lgv.input_covariances(model, model.init(jax.random.key(0), x), x)
      >>> covariances["layers_0"].tolist()
      [[5.0, 3.0, 2.0], [3.0, 2.0, 1.0], [2.0, 1.0, 1.0]]
      >>> covariances["layers_2"].shape
      (4, 4)

    References:
      Desjardins et al., `Natural neural networks <https://arxiv.org/abs/1507.00210>`_, 2015.
    """
    # A model can only come from a Flax that is imported, so Flax is no dependency.
    if (linen := sys.modules.get("flax.linen")) and isinstance(model, linen.Module):
        moments = _linen_moments(linen, model, variables, args, kwargs)
    elif (nnx := sys.modules.get("flax.nnx")) and isinstance(model, nnx.Module):
        moments = _nnx_moments(nnx, model, variables, args, kwargs)
    else:
        raise TypeError(
            f"model must be a flax.linen.Module or a flax.nnx.Module, got {type(model).__name__}. For a model of "
            "another kind write the dict by hand: from the path of each layer to the mean of h hᵀ over its inputs h "
            '(with 1 behind them if it has a bias), such as {"layers/0": jnp.einsum("bi,bj->ij", h, h) / len(h)}.'
        )
    if not moments:
        raise ValueError(
            f"{type(model).__name__} calls no dense or convolutional layer whose inputs can be seen. (Not seen are "
            "convolutions with groups or a mask, and layers within transformations such as scan, vmap and jit of Flax.)"
        )
    return {path: _average(calls) for path, calls in moments.items()}


def _linen_moments(linen: Any, model: Any, variables: Any, args: Any, kwargs: Any) -> dict[str, Iterable[Moment]]:
    from flax import traverse_util
    from flax.core.scope import union_filters

    if not isinstance(variables, Mapping):
        raise TypeError(f"variables must be what model.apply takes, or the parameters, got {type(variables).__name__}.")
    kinds = (linen.Dense, linen.DenseGeneral, linen.Conv)

    def record(call, call_args, call_kwargs, context):
        module = context.module
        if context.method_name == "__call__" and _is_covered(module, kinds) and _is_seen(module.scope):
            inputs = call_args[0] if call_args else call_kwargs["inputs"]
            if (h := _rows(module, inputs)) is not None:
                # A variable, unlike a list in Python, comes out of nn.remat.
                module.sow(_SOWN, "moments", _moment(h, module.use_bias))
        return call(*call_args, **call_kwargs)

    mutable = union_filters(kwargs.pop("mutable", False), _SOWN)
    with linen.intercept_methods(record):
        variables = variables if "params" in variables else {"params": variables}
        _, mutated = model.apply(variables, *args, mutable=mutable, **kwargs)
    sown = traverse_util.flatten_dict(mutated.get(_SOWN, {}))
    return {"/".join(path[:-1]): calls for path, calls in sown.items()}


def _is_seen(scope: Any) -> bool:
    """Whether a module is the model's own, and in no transformation but nn.remat: the path shows ``remat(block)``."""
    lifts = {name for part in scope.debug_path for name in part.split("(")[:-1]}
    within_jax = scope.root.trace_level != get_opaque_trace_state(convention="flax")
    return scope.is_mutable_collection(_SOWN) and lifts <= {"remat"} and not within_jax


def _nnx_moments(nnx: Any, model: Any, variables: Any, args: Any, kwargs: Any) -> dict[str, Iterable[Moment]]:
    if variables is not None and not isinstance(variables, (nnx.State, Mapping)):
        raise TypeError(f"variables must be an nnx.State of the model's, or None, got {type(variables).__name__}.")
    kinds = (nnx.Linear, nnx.LinearGeneral, nnx.Conv)
    moments: dict[str, list[Moment]] = {}
    outside = get_opaque_trace_state(convention="langevin_optax")

    def seen(path, layer, inputs, *args, **kwargs):
        # Within a transformation the moments would be tracers that must not leave it.
        if get_opaque_trace_state(convention="langevin_optax") == outside and (h := _rows(layer, inputs)) is not None:
            moments.setdefault(path, []).append(_moment(h, layer.use_bias))

    copy = nnx.clone(model)
    if variables is not None:
        nnx.update(copy, variables)
    for path, layer in list(nnx.iter_modules(copy)):
        if _is_covered(layer, kinds):
            _spy_on(layer, functools.partial(seen, "/".join(_names(path))), ignored=nnx.Module)
    args, kwargs = jax.tree.map(lambda leaf: leaf, (args, kwargs))  # an nnx.Rngs among them counts on, on its own
    copy(*args, **kwargs)
    return dict(moments)


def _is_covered(layer: Any, kinds: tuple[Any, ...]) -> bool:
    plain = any(isinstance(layer, kind) and type(layer).__call__ is kind.__call__ for kind in kinds)
    batched = getattr(layer, "batch_dims", ()) or getattr(layer, "batch_axis", ())
    grouped = getattr(layer, "feature_group_count", 1) != 1
    return plain and not batched and not grouped and getattr(layer, "mask", None) is None


def _rows(layer: Any, inputs: Any) -> jax.Array | None:
    """h, of shape (..., n), as the layer multiplies it; None if it is complex, or not made of the last axes."""
    h = jnp.asarray(inputs, layer.dtype)
    if jnp.iscomplexobj(h):
        return None
    if not jnp.issubdtype(h.dtype, jnp.floating):
        h = h.astype(jnp.float32)
    if hasattr(layer, "kernel_size"):
        h = _patches(layer, h)
    else:
        axis = getattr(layer, "axis", -1)
        axes = sorted(a % h.ndim for a in ((axis,) if isinstance(axis, int) else axis))
        if axes != list(range(h.ndim - len(axes), h.ndim)):
            return None
        h = h.reshape(*h.shape[: h.ndim - len(axes)], -1)
    return h.astype(jnp.float64 if h.dtype == jnp.float64 else jnp.float32)


def _patches(conv: Any, x: jax.Array) -> jax.Array:
    """The patches under the kernel of a convolution, of shape (..., kernel_size · channels), channels fastest.

    They are a convolution of the same kind, of each channel by itself, with the identity for a kernel.
    """
    from flax import linen

    size = (conv.kernel_size,) if isinstance(conv.kernel_size, int) else tuple(conv.kernel_size)
    taps = math.prod(size)
    patches = linen.Conv(
        taps,
        size,
        strides=conv.strides,
        padding=conv.padding,
        input_dilation=conv.input_dilation,
        kernel_dilation=conv.kernel_dilation,
        use_bias=False,
        dtype=x.dtype,
        param_dtype=x.dtype,
        precision="highest",
        parent=None,
    )
    kernel = jnp.eye(taps, dtype=x.dtype).reshape(*size, 1, taps)
    single = jnp.moveaxis(x, -1, -len(size) - 1)[..., None]  # the channels join the batch
    taken = jnp.moveaxis(patches.apply({"params": {"kernel": kernel}}, single), -len(size) - 2, -1)
    return taken.reshape(*taken.shape[:-2], -1)


def _moment(h: jax.Array, bias: bool) -> Moment:
    rows = float(math.prod(h.shape[:-1]))
    leading = tuple(range(h.ndim - 1))
    mesh = jax.typeof(h).sharding.mesh
    explicit = jax.sharding.AxisType.Explicit in mesh.axis_types
    whole = jax.NamedSharding(mesh, jax.P()) if explicit else None  # JAX would not say itself how the sum is sharded

    def mean_with(a):
        return jnp.tensordot(h, a, (leading, leading), precision="highest", out_sharding=whole) / rows

    if not bias:
        return mean_with(h), rows
    first = mean_with(jnp.ones_like(h.sum(-1, keepdims=True)))
    return jnp.block([[mean_with(h), first], [first.T, jnp.ones((1, 1), h.dtype)]]), rows


def _average(calls: Iterable[Moment]) -> jax.Array:
    moments, rows = zip(*calls, strict=True)
    if len(moments) == 1:
        return moments[0]
    return sum(m * r for m, r in zip(moments, rows, strict=True)) / sum(rows)
