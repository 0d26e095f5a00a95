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
from langevin_optax.layers._stacks import LayerOrder, Path, Shape, View, find_stacks, look


def layer_order(model: Any, *args: Any, **kwargs: Any) -> LayerOrder:
    """The paths of the layers that hold parameters, in the order in which the model calls them.

    A layer is the innermost module that owns a parameter; one called twice counts once, at its first call. The order
    is that of the calls, not of the names: ``Dense_2`` before ``Dense_10``, and a ``Conv`` before its ``BatchNorm``.
    Layers that ``nn.scan`` or ``nnx.scan`` stack into one count once here; :func:`layer_mask` takes them apart.
    ``scanned`` says where: on which axis, by the shapes that modules see inside the calls. (Where sizes coincide and
    leave several axes, it is the first. What ``nn.vmap`` and ``nnx.vmap`` map over does not count as stacked: an
    ensemble's members stand side by side.)

    The model is traced on shapes, without arithmetic.

    Args:
      model: a ``flax.linen.Module`` or a ``flax.nnx.Module``.
      *args: what the model is called with. Arrays and ``jax.ShapeDtypeStruct`` enter with their shapes only; everything
        else (``train=True``) as it is.
      **kwargs: likewise. For Linen they go to ``model.init``, so that ``method=`` names another method.

    Returns:
      A list of paths such as ``"Dense_0"`` or ``"encoder/block_1/Conv_0"``. The model itself, if it owns a parameter,
      is ``""``. Its attribute ``scanned``, such as ``{"blocks": 0}``, is what :func:`layer_mask` takes. (A copy of
      another type, such as one that was written as JSON, does not have it.)

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
        calls, modules, views, shapes = _linen_calls(linen, model, args, kwargs)
    elif (nnx := sys.modules.get("flax.nnx")) and isinstance(model, nnx.Module):
        calls, modules, views, shapes = _nnx_calls(nnx, model, args, kwargs)
    else:
        raise TypeError(
            f"model must be a flax.linen.Module or a flax.nnx.Module, got {type(model).__name__}. For a model of "
            "another kind write the order by hand: the list of the paths of its layers, in the order in which it calls "
            'them, such as ["layers/0", "layers/1"].'
        )
    owners = {_innermost(path, modules) for path in shapes}
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
    return LayerOrder(order, find_stacks(views, shapes))


Calls = tuple[
    list[Path], set[Path], list[View], dict[Path, Shape]
]  # in order, all modules, what calls see, what there is


def _linen_calls(linen: Any, model: Any, args: Any, kwargs: Any) -> Calls:
    calls: list[Path] = []
    modules: set[Path] = set()
    views: list[View] = []

    def record(call, call_args, call_kwargs, context):
        module = context.module
        # A module that is not bound yet, or another model's that is applied within this one, is none of its layers.
        if module.scope is not None and module.is_mutable_collection("params"):
            modules.add(module.path)
            if context.method_name != "setup":
                calls.append(module.path)
                result = call(*call_args, **call_kwargs)
                scope = module.scope
                while scope.parent is not None:  # the innermost that a lifted transformation made
                    scope = scope.parent
                lifts = _lifts(getattr(module.scope, "debug_path", None))
                views.append(look(scope.path, module.path, module.variables.get("params", {}), lifts))
                return result
        return call(*call_args, **call_kwargs)

    with linen.intercept_methods(record):
        variables = _eval_shape(functools.partial(model.init, jax.random.key(0)), args, kwargs)
    return calls, modules, views, _shapes(variables.get("params", {}))


def _lifts(path: Iterable[str] | None) -> tuple[str, ...] | None:
    """The scans and vmaps that a path of Linen's shows, such as ``("vmap(scan(blocks))", "Dense_0")``."""
    if path is None:
        return None
    names = [name for part in path for name in reversed(part.split("(")[:-1])]
    return tuple(name for name in names if name in ("scan", "vmap"))


def _nnx_calls(nnx: Any, model: Any, args: Any, kwargs: Any) -> Calls:
    calls: list[Path] = []
    views: list[View] = []
    graphdef, state = nnx.split(model)

    def seen(path, module, *args, **kwargs):
        calls.append(path)
        views.append(look(path, path, nnx.state(module, nnx.Param)))

    def run(state, *args, **kwargs):
        copy = nnx.merge(graphdef, state)
        for path, module in list(nnx.iter_modules(copy)):
            _spy_on(module, functools.partial(seen, _names(path)), ignored=nnx.Module)
        copy(*args, **kwargs)

    _eval_shape(run, (state, *args), kwargs)
    modules = {_names(path) for path, m in nnx.iter_modules(model) if not isinstance(m, (nnx.List, nnx.Dict))}
    return calls, modules, views, _shapes(nnx.state(model, nnx.Param))


def _spy_on(module: Any, seen: Callable[..., None], ignored: type) -> None:
    """Call ``seen``, with the module and the arguments, when a public method of this very module is called.

    NNX has no interceptors, so the module gets a class of its own, which survives the splits and merges of nnx.scan.
    """

    def spied(method):
        @functools.wraps(method)
        def wrapper(self, *args, **kwargs):
            seen(self, *args, **kwargs)
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


def _shapes(params: Any) -> dict[Path, Shape]:
    return {
        path_names(path, params): jax.numpy.shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def _innermost(path: Path, modules: Iterable[Path]) -> Path:
    return max((m for m in modules if path[: len(m)] == m), key=len)


def _names(path: Iterable[Any]) -> Path:
    return tuple(map(str, path))
