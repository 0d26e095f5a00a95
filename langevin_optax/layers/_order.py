"""The layers of a Flax model, in the order in which the model calls them."""

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from langevin_optax._trees import path_names

Path = tuple[str, ...]


def layer_order(model: Any, *args: Any, **kwargs: Any) -> list[str]:
    """The paths of the layers that hold parameters, in the order in which the model calls them.

    A layer is the innermost module that owns a parameter; one called twice counts once, at its first call. The order
    is that of the calls, not of the names: ``Dense_2`` before ``Dense_10``, and a ``Conv`` before its ``BatchNorm``.
    Layers that ``nn.scan`` or ``nnx.scan`` stack into one count once here; :func:`layer_mask` takes them apart.

    The model is traced on shapes, without arithmetic.

    Args:
      model: a ``flax.linen.Module`` or a ``flax.nnx.Module``.
      *args: what the model is called with. Arrays and ``jax.ShapeDtypeStruct`` enter with their shapes only; everything
        else (``train=True``) as it is.
      **kwargs: likewise. For Linen they go to ``model.init``, so that ``method=`` names another method.

    Returns:
      Paths such as ``"Dense_0"`` or ``"encoder/block_1/Conv_0"``. The model itself, if it owns a parameter, is ``""``.

    Raises:
      TypeError: if ``model`` is not a Flax module.
      ValueError: if no module that is called owns a parameter, or if an NNX model holds, within a layer, modules that
        it never calls.

    Example:
      >>> import flax.linen as nn, jax.numpy as jnp
      >>> import langevin_optax as lgv
      >>> lgv.layer_order(nn.Sequential([nn.Dense(64), nn.LayerNorm(), nn.Dense(10)]), jnp.zeros((1, 784)))
      ['layers_0', 'layers_1', 'layers_2']

    References:
      Bras, `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022 (the first
      layers are those nearest the input).
    """
    # A model can only come from a Flax that is imported, so Flax is no dependency.
    if (linen := sys.modules.get("flax.linen")) and isinstance(model, linen.Module):
        calls, owners = _linen_calls(linen, model, args, kwargs)
    elif (nnx := sys.modules.get("flax.nnx")) and isinstance(model, nnx.Module):
        calls, owners = _nnx_calls(nnx, model, args, kwargs)
    else:
        raise TypeError(f"model must be a flax.linen.Module or a flax.nnx.Module, got {type(model).__name__}.")
    listed = owners & set(calls)
    absorbed = sorted("/".join(o) for o in owners - listed if any(o[: len(p)] == p for p in listed))
    if absorbed:
        raise ValueError(
            f"{type(model).__name__} never calls {absorbed}, whose parameters would count as those of a layer that "
            "holds them. Remove them, or write the order by hand."
        )
    order = ["/".join(path) for path in dict.fromkeys(calls) if path in owners]
    if not order:
        raise ValueError(f"{type(model).__name__} calls no module that owns a parameter.")
    return order


def _linen_calls(linen: Any, model: Any, args: Any, kwargs: Any) -> tuple[list[Path], set[Path]]:
    calls: list[Path] = []
    modules: set[Path] = set()

    def record(call, call_args, call_kwargs, context):
        module = context.module
        # A module that is not bound yet, or another model's that is applied within this one, is none of its layers.
        if module.scope is not None and module.is_mutable_collection("params"):
            modules.add(module.path)
            if context.method_name != "setup":
                calls.append(module.path)
        return call(*call_args, **call_kwargs)

    with linen.intercept_methods(record):
        variables = _eval_shape(functools.partial(model.init, jax.random.key(0)), args, kwargs)
    params = jax.tree_util.tree_leaves_with_path(variables.get("params", {}))
    return calls, {_innermost(path_names(path), modules) for path, _ in params}


def _nnx_calls(nnx: Any, model: Any, args: Any, kwargs: Any) -> tuple[list[Path], set[Path]]:
    calls: list[Path] = []
    graphdef, state = nnx.split(model)

    def run(state, *args, **kwargs):
        copy = nnx.merge(graphdef, state)
        for path, module in list(nnx.iter_modules(copy)):
            _spy_on(module, _names(path), calls, ignored=nnx.Module)
        copy(*args, **kwargs)

    _eval_shape(run, (state, *args), kwargs)
    modules = {_names(path) for path, m in nnx.iter_modules(model) if not isinstance(m, (nnx.List, nnx.Dict))}
    params = jax.tree_util.tree_leaves_with_path(nnx.state(model, nnx.Param))
    return calls, {_innermost(path_names(path), modules) for path, _ in params}


def _spy_on(module: Any, path: Path, calls: list[Path], ignored: type) -> None:
    """Record in ``calls`` when a public method of this very module is called.

    NNX has no interceptors, so the module gets a class of its own, which survives the splits and merges of nnx.scan.
    """

    def spied(method):
        @functools.wraps(method)
        def wrapper(self, *args, **kwargs):
            calls.append(path)
            return method.__get__(self)(*args, **kwargs)

        return wrapper

    cls = type(module)
    methods = {
        name: spied(method)
        for name in dir(cls)
        if name == "__call__" or not (name.startswith("_") or hasattr(ignored, name))
        if _is_method(method := inspect.getattr_static(cls, name))
    }
    object.__setattr__(module, "__class__", types.new_class(cls.__name__, (cls,), {}, lambda ns: ns.update(methods)))


def _is_method(attribute: Any) -> bool:
    """A function, or what a decorator such as nnx.jit makes of one."""
    plain = isinstance(attribute, (staticmethod, classmethod, type))
    return callable(attribute) and hasattr(attribute, "__get__") and not plain


def _eval_shape(f: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """``jax.eval_shape`` with the leaves that are no arrays kept as they are."""
    leaves, treedef = jax.tree.flatten((args, kwargs))
    unflatten = functools.partial(jax.tree.unflatten, treedef)
    abstract = [isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)) for leaf in leaves]

    def run(arrays):
        rest = iter(arrays)
        args, kwargs = unflatten([next(rest) if a else leaf for leaf, a in zip(leaves, abstract, strict=True)])
        return f(*args, **kwargs)

    return jax.eval_shape(run, [leaf for leaf, a in zip(leaves, abstract, strict=True) if a])


def _innermost(path: Path, modules: Iterable[Path]) -> Path:
    return max((m for m in modules if path[: len(m)] == m), key=len)


def _names(path: Iterable[Any]) -> Path:
    return tuple(map(str, path))
