"""`langevin`: any Optax alias, untouched, with noise shaped by the P that its own state gives."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import optax

from langevin_optax._types import ArrayLike, Mask, ScalarOrSchedule
from langevin_optax.noise._samplers import Sampler
from langevin_optax.noise._state import LangevinState
from langevin_optax.optimizers._noise_links import refuse_mark
from langevin_optax.optimizers._rows import Row, row_of
from langevin_optax.optimizers._step import Step
from langevin_optax.optimizers._term import langevin_term
from langevin_optax.preconditioners import _check

Arguments = ParamSpec("Arguments")


def langevin(
    alias: Callable[Arguments, Any],
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    *,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
    preconditioner: Callable[[dict[str, Any], Any, Any, Any], Any] | None = None,
) -> Callable[Arguments, optax.GradientTransformationExtraArgs]:
    r"""The Langevin version of an Optax alias whose update is a preconditioner P times a momentum.

    .. math::
      \theta \leftarrow \theta + u_{alias} + \sigma\sqrt{\gamma P}\,\xi, \qquad \xi \sim N(0, I)

    The alias is called as it is, so that :math:`\sigma = 0` is Optax bit for bit, parameters and state. P comes from
    its own new state, :math:`\gamma` is its learning rate, and the noise joins the parameters, not the momentum.

    ====================================================  ==============================================================
    alias (of ``optax``, then of ``optax.contrib``)       P
    ====================================================  ==============================================================
    ``sgd``, ``optimistic_gradient_descent``              1
    ``adam adamw nadam nadamw yogi adan``                 :math:`1/(\sqrt{\hat\nu + \epsilon_{root}} + \epsilon)`
    ``optimistic_adam optimistic_adam_v2``                the same
    ``adabelief``, ``amsgrad``, ``adamax adamaxw``        with their own :math:`\nu`; :math:`1/\nu` for Adamax
    ``radam``                                             Adam's times r; 1 in the first steps
    ``rmsprop``, ``adagrad``, ``adadelta``                as :func:`scale_by_rms`, :func:`scale_by_rss`,
                                                          :func:`scale_by_adadelta`
    ``adafactor``                                         :math:`1/\sqrt{\nu}`, factored, times the clip of the block's
                                                          RMS and the RMS of the parameters
    ``sm3``                                               :math:`1/\sqrt{s}`, s the cover of the sum of squares
    ``novograd``                                          :math:`1/(\sqrt{\nu} + \epsilon)`, one per leaf
    ``lars``, ``fromage``                                 the trust ratio, one per leaf
    ``lamb``                                              Adam's times the trust ratio
    ``polyak_sgd``                                        :math:`(f - f_{min})/\|g\|^2`, bounded; :math:`\gamma` is
                                                          ``scaling``
    ``ademamix``, ``simplified_ademamix``                 Adam's
    ``acprop``                                            Adam's, with :math:`\nu` before this step
    ``adopt``                                             :math:`1/\max(\sqrt\nu, \epsilon)`, likewise; 0 in the first
                                                          step, as its update
    ``sophia``                                            :math:`1/\max(\gamma_{sophia} h, \epsilon)`, before the clip;
                                                          0 in the first step, before there is an estimate h
    ``prodigy``, ``dadapt_adamw``                         Adam's times the estimate d
    ``momo``, ``momo_adam``                               s, or s times Adam's, where MoMo steps by :math:`s\gamma`
    ``sign_sgd signum lion rprop``, ``muon``              none: :func:`add_langevin_noise` behind them, with P = 1
    ====================================================  ==============================================================

    What has no P. A sign of m is :math:`P m` with P = 1/\|m\|, which has no bound. Muon's
    :math:`P = (m m^T)^{-1/2}` is a function of the very momentum that it multiplies, and singular where that is.
    Neither gives a law to sample from. Noise with P = 1 lets them explore, at the size that the user names:
    ``optax.chain(optax.rprop(lr), add_langevin_noise(lr, sigma, key, after_learning_rate=True))``. For a matrix P with
    its own noise see :func:`soap`, :func:`shampoo`, :func:`prong` and :func:`kfac_preconditioner`.

    Temperature. :math:`\sigma = \sqrt{2\tau}` is that of a drift :math:`-\gamma P\nabla L`. A momentum that does not
    average the gradients drifts k times as far, and needs :math:`\sigma = \sqrt{2 k \tau}`: k = 1/(1 − β) for ``sgd``,
    ``rmsprop``, ``lars`` and ``novograd`` with momentum β, k = 1 + α for ``ademamix`` (once its slow average is full),
    k = 1/(1 − β₁) + α for ``simplified_ademamix``, k = α for ``optimistic_adam_v2`` and
    ``optimistic_gradient_descent``, 1 for the others. That is the law of small :math:`\gamma`: with a momentum of 0.9
    the variance along a curvature a is 1.10, 1.29 and 1.95 times too large at :math:`\gamma a/(1 - \beta)` = 0.01, 0.03
    and 0.1.

    Hazard. A coordinate whose gradient has always been 0 has the largest P, 1/ε for Adam, and with Optax's ε that is
    much (:math:`10^{15}` for ``adafactor``, :math:`10^8` for ``sophia`` wherever :math:`h \le 0`). What an alias clips
    after P (``adopt``, ``sophia``) bounds the drift, not the noise. Pass ``max_noise``, or a larger eps.

    Args:
      alias: a function of ``optax`` or ``optax.contrib``, of the table above, or with ``preconditioner`` any function
        that returns a gradient transformation.
      sigma: :math:`\sigma \ge 0`, a scalar or an Optax schedule of the count of steps.
      key: as in :func:`adam`.
      mask: where to add noise, as in :func:`add_preconditioned_noise`, e.g. :func:`layer_mask`. (The ``mask=`` of
        ``optax.adamw`` keeps its meaning: it is among the arguments of the alias.)
      sampler: as in :func:`noise_like`.
      max_noise: as in :func:`add_preconditioned_noise`.
      preconditioner: for an alias that the table does not hold: a function ``(arguments, updates_in, old_state,
        new_state)`` that returns P, as for :func:`with_preconditioner`; ``arguments`` is a dict
        of all arguments of the alias, by name, and the states are its own. :math:`\gamma` is its argument
        ``learning_rate``, which it must have.

    Returns:
      A function with the signature of ``alias``. What it returns is an ``optax.GradientTransformationExtraArgs`` whose
      state is the stock one with a :class:`LangevinState` behind it: ``(*stock_state, LangevinState)`` for a chain,
      ``(stock_state, LangevinState)`` else. Its update takes ``preconditioner=`` as :func:`add_preconditioned_noise`.

    Raises:
      ValueError: for an alias that has no P (such as ``optax.lion``) or is not in the table; for the other arguments as
        :func:`add_preconditioned_noise`; at the update for a state of another optimiser, or an update that carries the
        P of a scaler.
      TypeError: for an ``alias`` that is no function, or that returns no gradient transformation.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.langevin(optax.lamb, sigma=1e-3, key=0)(1e-3, weight_decay=1e-4)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Li et al., `Preconditioned Stochastic Gradient Langevin Dynamics <https://arxiv.org/abs/1512.07666>`_, 2015;
      Bras, `Langevin algorithms for very deep neural networks <https://arxiv.org/abs/2212.14718>`_, 2022.
    """
    row = row_of(alias) if preconditioner is None else _row_of_user(preconditioner)
    langevin_term(0.0, sigma, key, sampler, mask, max_noise, True)  # raises before the alias is called

    @functools.wraps(alias)
    def build(*args: Arguments.args, **kwargs: Arguments.kwargs) -> optax.GradientTransformationExtraArgs:
        stock = alias(*args, **kwargs)
        if not isinstance(stock, optax.GradientTransformation):
            raise TypeError(f"{_name(alias)} must return an optax.GradientTransformation, got {stock!r}.")
        bound = inspect.signature(alias).bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = _by_name(bound)
        term = langevin_term(row.learning_rate(arguments), sigma, key, sampler, mask, max_noise, True)
        return _with_noise(_name(alias), optax.with_extra_args_support(stock), term, row, arguments)

    return build


def _by_name(bound: inspect.BoundArguments) -> dict[str, Any]:
    """All arguments by their names, those of ``**kwargs`` too."""
    variadic = {p.name for p in bound.signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD}
    named = {name: value for name, value in bound.arguments.items() if name not in variadic}
    return {**named, **{key: value for name in variadic for key, value in bound.arguments[name].items()}}


def _with_noise(name, stock, term, row, arguments):
    def init_fn(params):
        stock_state = stock.init(params)
        if hasattr(stock_state, "hyperparams"):
            raise ValueError(
                f"{name} is within optax.inject_hyperparams, whose γ the noise would not follow. Put langevin inside: "
                "optax.inject_hyperparams(langevin(optax.adam, sigma, key))(1e-3)."
            )
        return (*_parts(stock_state), term.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        refuse_mark(updates)
        if not isinstance(state, tuple) or not state or not isinstance(state[-1], LangevinState):
            raise wrong_state(name, init_fn, updates, state)
        is_chain = len(state) != 2 or type(jax.eval_shape(stock.init, updates)) is tuple
        old = state[:-1] if is_chain else state[0]
        try:
            new_updates, new = stock.update(updates, old, params, **extra_args)
        except Exception as error:
            if _names(jax.eval_shape(init_fn, updates)) != _names(state):
                raise wrong_state(name, init_fn, updates, state) from error
            raise
        explicit = extra_args.get("preconditioner")
        if explicit is not None:
            _check.check_values(explicit)

        def preconditioner(selected):
            p = explicit
            if p is None:  # its values are not checked: a NaN gradient gives a NaN P and a NaN update, as in Optax
                p = row.preconditioner(Step(arguments, updates, old, new, params, extra_args))
            return _check.like(p, selected)

        new_updates, noise_state = term.add(new_updates, state[-1], params, preconditioner)
        return new_updates, (*_parts(new), noise_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _parts(stock_state: Any) -> tuple[Any, ...]:
    """The states of a chain, or the one of a single transformation."""
    return stock_state if type(stock_state) is tuple else (stock_state,)


def _row_of_user(preconditioner: Any) -> Row:
    if not callable(preconditioner):
        raise TypeError(
            "preconditioner must be a function (arguments, updates_in, old_state, new_state), got "
            f"{preconditioner!r}. A P that is known goes to update, as preconditioner=."
        )
    return Row(lambda step: preconditioner(step.arguments, step.updates, step.old, step.new), _required)


def _required(arguments: dict[str, Any]) -> Any:
    if arguments.get("learning_rate") is None:
        raise ValueError(
            "langevin(..., preconditioner=) reads γ from the argument learning_rate of the alias, which has "
            f"{sorted(arguments)}, or None. Wrap it: lambda learning_rate: ..."
        )
    return arguments["learning_rate"]


def wrong_state(name: str, init: Any, updates: Any, state: Any) -> ValueError:
    return ValueError(
        f"the state of {name} must be {_names(jax.eval_shape(init, updates))}, the states without noise and a "
        f"LangevinState behind them, got {_names(state)}. The state of a stock optimiser is carried over by "
        "sampling.from_optax(stock_state, tx, params); a checkpoint that is restored without its structure is none."
    )


def _names(state: Any) -> str:
    if type(state) is not tuple:
        return type(state).__name__
    return f"({', '.join(map(_names, state))})"


def _name(alias: Any) -> str:
    function = getattr(alias, "func", alias)  # optax.nadam is a partial
    return str(getattr(function, "__name__", repr(alias)))
