"""Langevin versions of optimisers whose P is a matrix: SOAP, Shampoo, natural neural networks."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from langevin_optax import _checks
from langevin_optax._types import ArrayLike, Mask, ScalarOrSchedule
from langevin_optax.noise._samplers import Sampler
from langevin_optax.noise._state import LangevinState
from langevin_optax.optimizers._engine import wrong_state
from langevin_optax.optimizers._noise_links import refuse_mark
from langevin_optax.optimizers._term import langevin_term
from langevin_optax.preconditioners import _check
from langevin_optax.preconditioners._publish import published
from langevin_optax.preconditioners._scalers_prong import scale_by_prong
from langevin_optax.preconditioners._scalers_shampoo import scale_by_shampoo
from langevin_optax.preconditioners._scalers_soap import scale_by_soap


def soap(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    b1: ArrayLike = 0.95,
    b2: ArrayLike = 0.95,
    eps: ArrayLike = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    *,
    precondition_frequency: int = 10,
    max_dimension: int = 10000,
    merge_dimension: int = 0,
    scanned: Mapping[str, int] | None = None,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin SOAP.

    .. math::
      \theta \leftarrow \theta - \gamma (P\hat\mu + \lambda\theta) + \sigma\sqrt\gamma\,S\,\xi, \qquad S S^T = P

    with the P of :func:`scale_by_soap`. The first step makes statistics alone: no update, no noise.

    Args:
      learning_rate, sigma, key, mask, sampler: as in :func:`adam`; there is no ``max_noise`` for a matrix.
      b1, b2, eps, precondition_frequency, max_dimension, merge_dimension, scanned: as in :func:`scale_by_soap`. The
        default eps is larger than the published 1e-8: a direction without gradient has P = 1/eps, and a matrix of
        gradients has many.
      weight_decay: :math:`\lambda`, decoupled.

    Returns:
      An ``optax.GradientTransformationExtraArgs``. Its state is those of the scaler, of the weight decay and of the
      learning rate, with a :class:`LangevinState` behind them. Its updates have sign and size: nothing scales them
      after it. Its update takes ``preconditioner=``, for the noise, as :func:`add_preconditioned_noise`.

    Raises:
      ValueError, TypeError: as :func:`scale_by_soap` and :func:`add_preconditioned_noise`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.soap(3e-3, sigma=1e-3, key=0)
      >>> params = jnp.ones((4, 3))
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Vyas et al., `SOAP: Improving and Stabilizing Shampoo using Adam <https://arxiv.org/abs/2409.11321>`_, 2024.
    """
    scaler = scale_by_soap(
        b1,
        b2,
        eps,
        precondition_frequency=precondition_frequency,
        max_dimension=max_dimension,
        merge_dimension=merge_dimension,
        scanned=scanned,
    )
    return _langevin("soap", scaler, learning_rate, sigma, key, sampler, mask, weight_decay)


def shampoo(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    *,
    precondition_frequency: int = 10,
    max_dimension: int = 1024,
    merge_dimension: int = 0,
    scanned: Mapping[str, int] | None = None,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin Shampoo.

    .. math::
      \theta \leftarrow \theta - \gamma (P\hat\mu + \lambda\theta) + \sigma\sqrt\gamma\,S\,\xi, \qquad S S^T = P

    with the P of :func:`scale_by_shampoo`.

    Args:
      learning_rate, sigma, key, mask, sampler, weight_decay: as in :func:`soap`.
      b1, b2, eps, precondition_frequency, max_dimension, merge_dimension, scanned: as in :func:`scale_by_shampoo`.

    Returns:
      As :func:`soap`.

    Raises:
      ValueError, TypeError: as :func:`scale_by_shampoo` and :func:`add_preconditioned_noise`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.shampoo(1e-2, sigma=1e-3, key=0)
      >>> params = jnp.ones((4, 3))
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Gupta et al., `Shampoo: Preconditioned Stochastic Tensor Optimization <https://arxiv.org/abs/1802.09568>`_, 2018;
      Yu et al., `Scalable Stochastic Gradient Riemannian Langevin Dynamics in Non-Diagonal Metrics
      <https://arxiv.org/abs/2303.05101>`_, 2023.
    """
    scaler = scale_by_shampoo(
        b1,
        b2,
        eps,
        precondition_frequency=precondition_frequency,
        max_dimension=max_dimension,
        merge_dimension=merge_dimension,
        scanned=scanned,
    )
    return _langevin("shampoo", scaler, learning_rate, sigma, key, sampler, mask, weight_decay)


def prong(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    eps: ArrayLike = 1e-2,
    decay: ArrayLike = 0.95,
    *,
    precondition_frequency: int = 10,
    max_dimension: int = 4096,
    like: Mapping[str, Any] | None = None,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin natural neural networks (PRONG).

    .. math::
      \theta \leftarrow \theta - \gamma P g + \sigma\sqrt\gamma\,S\,\xi, \qquad
      P = (\hat\Sigma + \epsilon I)^{-1} \otimes I, \quad S = (\hat\Sigma + \epsilon I)^{-1/2} \otimes I

    layer by layer, as :func:`scale_by_prong`: SGLD on the weights of whitened inputs. Its update needs
    ``input_covariances=``, from :func:`input_covariances`.

    Args:
      learning_rate, sigma, key, sampler: as in :func:`adam`.
      eps, decay, precondition_frequency, max_dimension, like: as in :func:`scale_by_prong`.
      mask: as in :func:`adam`; kernel and bias of a layer are selected together.

    Returns:
      As :func:`soap`.

    Raises:
      ValueError, TypeError: as :func:`scale_by_prong` and :func:`add_preconditioned_noise`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, flax.linen as nn
      >>> import langevin_optax as lgv
      >>> model, x = nn.Dense(3), jax.random.normal(jax.random.key(0), (8, 2))
      >>> variables = model.init(jax.random.key(1), x)
      >>> tx = lgv.prong(0.1, sigma=1e-3, key=0)
      >>> state = tx.init(variables["params"])
      >>> gradients = jax.grad(lambda params: (model.apply({"params": params}, x) ** 2).mean())(variables["params"])
      >>> covariances = lgv.input_covariances(model, variables, x)
      >>> updates, state = tx.update(gradients, state, variables["params"], input_covariances=covariances)

    References:
      Desjardins et al., `Natural Neural Networks <https://arxiv.org/abs/1507.00210>`_, 2015.
    """
    scaler = scale_by_prong(
        eps, decay, precondition_frequency=precondition_frequency, max_dimension=max_dimension, like=like
    )
    return _langevin("prong", scaler, learning_rate, sigma, key, sampler, mask, 0.0)


def _langevin(name, scaler, learning_rate, sigma, key, sampler, mask, weight_decay):
    """The scaler, weight decay and −γ, and behind them noise with the P that the scaler publishes."""
    decay = optax.identity() if _checks.is_static_zero(weight_decay) else optax.add_decayed_weights(weight_decay)
    rest: Any = optax.chain(decay, optax.scale_by_learning_rate(learning_rate))
    term = langevin_term(learning_rate, sigma, key, sampler, mask, None, True)

    def init_fn(params):
        return (scaler.init(params), *rest.init(params), term.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        refuse_mark(updates)
        if not isinstance(state, tuple) or len(state) != 4 or not isinstance(state[-1], LangevinState):
            raise wrong_state(name, init_fn, updates, state)
        scaled, scaler_state = scaler.update(updates, state[0], params, **extra_args)
        preconditioner = extra_args.get("preconditioner")
        if preconditioner is None:
            preconditioner = jax.tree.unflatten(jax.tree.structure(scaled), published(scaled))
        else:
            _check.check_values(preconditioner)
        moved, rest_state = rest.update(scaled, state[1:-1], params)
        noisy, noise_state = term.add(moved, state[-1], params, lambda u: _check.like(preconditioner, u))
        return noisy, (scaler_state, *rest_state, noise_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
