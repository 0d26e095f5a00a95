"""The table of the engine: for each Optax alias the formula of its P, or the reason why it has none.

P is what multiplies the momentum in this very step. A new alias joins by one row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from langevin_optax.optimizers import _scalar_factors
from langevin_optax.optimizers._step import Step
from langevin_optax.preconditioners import _diagonal


class Row(NamedTuple):
    """``preconditioner(step)`` is P, ``learning_rate(arguments)`` is γ."""

    preconditioner: Callable[[Step], Any]
    learning_rate: Callable[[dict[str, Any]], Any] = lambda arguments: _given_or_one(arguments.get("learning_rate"))


def _given_or_one(learning_rate: Any) -> Any:
    return 1.0 if learning_rate is None else learning_rate


def _one(s: Step) -> Any:
    return _diagonal.one(s.updates)


def _adam(s: Step) -> Any:
    return _diagonal.adam(s.after("nu"), s["b2"], s["eps"], s.arguments.get("eps_root", 0.0))


def _adabelief(s: Step) -> Any:
    return _diagonal.adam(s.after("nu"), s["b2"], s["eps"])  # ν holds ε_root


def _rmsprop(s: Step) -> Any:
    formula = _diagonal.stddev if s["centered"] else _diagonal.rms
    return formula(s.after("nu"), s["decay"], s["eps"], s["eps_in_sqrt"], s["bias_correction"])


def _radam(s: Step) -> Any:
    return _diagonal.radam(s.after("nu"), s["b2"], s["eps"], s["eps_root"], s["threshold"])


def _adam_of_n(s: Step, decay: str) -> Any:
    state = s.after("n")
    return _diagonal.inverse_root(_diagonal.debiased(state.n, s[decay], state.t), s["eps"], s["eps_root"])


def _acprop(s: Step) -> Any:
    state = s.before("nu")
    nu = _diagonal.debiased(state.nu, s["b2"], jnp.maximum(state.count, 1))
    return _diagonal.inverse_root(jax.tree.map(lambda v: jnp.where(state.count == 0, 1, v), nu), s["eps"])


def _adopt(s: Step) -> Any:
    state = s.before("nu")
    p = _diagonal.inverse_maximum(jax.tree.map(lambda v: jnp.sqrt(_diagonal.wide(v)), state.nu), s["eps"])
    return jax.tree.map(lambda p: jnp.where(state.count == 0, 0, p), p)


def _sophia(s: Step) -> Any:
    state = s.before("nu")
    p = _diagonal.inverse_maximum(jax.tree.map(lambda h: s["gamma"] * _diagonal.wide(h), state.nu), s["eps"])
    return jax.tree.map(lambda p: jnp.where(state.count == 0, 0, p), p)


def _sm3(s: Step) -> Any:
    def of_leaf(g, covers):
        shapes = [[n if a == axis else 1 for a, n in enumerate(g.shape)] for axis in range(g.ndim)]
        cover = _diagonal.wide(covers[0].reshape(shapes[0]))
        for c, shape in zip(covers[1:], shapes[1:], strict=True):
            cover = jnp.minimum(cover, _diagonal.wide(c.reshape(shape)))
        square = jnp.square(_diagonal.wide(g)) + cover
        return jnp.where(square > 0, jax.lax.rsqrt(square + 1e-8), 0)

    return jax.tree.map(of_leaf, s.updates, s.before("mu").mu)


def _novograd(s: Step) -> Any:
    return _diagonal.inverse_root(s.after("nu").nu, s["eps"], s["eps_root"])


ROWS: dict[Any, Row] = {
    optax.sgd: Row(_one),
    optax.optimistic_gradient_descent: Row(_one),
    optax.adam: Row(_adam),
    optax.adamw: Row(_adam),
    optax.nadam: Row(_adam),
    optax.nadamw: Row(_adam),
    optax.yogi: Row(_adam),
    optax.optimistic_adam: Row(_adam),
    optax.optimistic_adam_v2: Row(_adam),
    optax.adabelief: Row(_adabelief),
    optax.amsgrad: Row(lambda s: _diagonal.amsgrad(s.after("nu_max"), s["eps"], s["eps_root"])),
    optax.adamax: Row(lambda s: _diagonal.adamax(s.after("nu"))),
    optax.adamaxw: Row(lambda s: _diagonal.adamax(s.after("nu"))),
    optax.radam: Row(_radam),
    optax.rmsprop: Row(_rmsprop),
    optax.adagrad: Row(lambda s: _diagonal.rss(s.after("sum_of_squares"), s["eps"])),
    optax.adadelta: Row(lambda s: _diagonal.adadelta(s.before("e_x"), s.after("e_g"), s["eps"])),
    optax.adan: Row(lambda s: _adam_of_n(s, "b3")),
    optax.sm3: Row(_sm3),
    optax.novograd: Row(_novograd),
    optax.adafactor: Row(_scalar_factors.adafactor),
    optax.lamb: Row(_scalar_factors.lamb),
    optax.lars: Row(_scalar_factors.lars),
    optax.fromage: Row(_scalar_factors.fromage, _scalar_factors.learning_rate_of_fromage),
    optax.polyak_sgd: Row(_scalar_factors.polyak, lambda arguments: arguments["scaling"]),
    contrib.ademamix: Row(_adam),
    contrib.simplified_ademamix: Row(lambda s: _adam_of_n(s, "b2")),
    contrib.acprop: Row(_acprop),
    contrib.adopt: Row(_adopt),
    contrib.sophia: Row(_sophia),
    contrib.prodigy: Row(_scalar_factors.prodigy),
    contrib.dadapt_adamw: Row(_scalar_factors.dadapt_adamw),
    contrib.momo: Row(_scalar_factors.momo),
    contrib.momo_adam: Row(_scalar_factors.momo_adam),
}

_SIGN = "its update is the sign of a momentum m: P would be 1/|m|, which has no bound"
_SUMS = "its parameters are a function of the start and of sums of gradients, so that noise on them is forgotten"
NO_PRECONDITIONER: dict[Any, str] = {
    optax.sign_sgd: _SIGN,
    optax.signum: _SIGN,
    optax.lion: _SIGN,
    optax.rprop: _SIGN,
    optax.lbfgs: "its line search rescales every step",
    optax.noisy_sgd: "it adds a noise of its own: start from optax.sgd",
    contrib.dpsgd: "it adds a noise of its own, for privacy",
    contrib.muon: "its P is a function of the very momentum that it multiplies, and is singular where that is",
    contrib.galore: "its P has not full rank",
    contrib.madgrad: _SUMS,
    contrib.cocob: _SUMS,
    contrib.schedule_free_sgd: "its gradients are taken at an average of its parameters",
    contrib.schedule_free_adamw: "its gradients are taken at an average of its parameters",
}


def row_of(alias: Any) -> Row:
    """The row of an alias; raises, and says what to write, for one that has none."""
    if not callable(alias):
        hint = ", not called: langevin(optax.adam, sigma, key)(1e-3)" if isinstance(alias, tuple) else ""
        raise TypeError(f"alias must be a function of optax, such as optax.adam{hint}, got {alias!r}.")
    try:
        row, reason = ROWS.get(alias), NO_PRECONDITIONER.get(alias)
    except TypeError:  # not hashable
        row, reason = None, None
    if row is not None:
        return row
    name = getattr(alias, "__name__", repr(alias))
    if reason is not None:
        raise ValueError(
            f"optax's {name} has no preconditioner P: {reason}. For noise with P = 1, write optax.chain({name}(lr), "
            "langevin_optax.add_langevin_noise(lr, sigma, key, after_learning_rate=True))."
        )
    raise ValueError(
        f"langevin knows no preconditioner P for {name}. If its update is P times a momentum, pass "
        "preconditioner=lambda arguments, updates_in, old_state, new_state: P. Of a wrapper, put langevin inside: "
        "optax.inject_hyperparams(langevin(optax.adam, sigma, key))(1e-3). For noise with P = 1, add "
        "langevin_optax.add_langevin_noise(lr, sigma, key, after_learning_rate=True) behind it."
    )
