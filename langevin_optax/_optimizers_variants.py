"""Optax's variants of Adam's second moment, with Langevin noise: chains, no arithmetic."""

import jax
import optax

from langevin_optax import _scalers_adam
from langevin_optax._langevin import Mask, ScalarOrSchedule, langevin
from langevin_optax._noise import Sampler

ArrayLike = jax.typing.ArrayLike


def adamax(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    *,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin Adamax.

    .. math::
      \theta \leftarrow \theta - \gamma P\hat\mu + \sigma\sqrt{\gamma P}\,\xi, \qquad
      P = 1/\nu, \qquad \nu = \max(\beta_2\nu, |g| + \epsilon)

    Args:
      learning_rate: :math:`\gamma`, a scalar, an array or an Optax schedule.
      sigma: :math:`\sigma`, likewise; a static 0 is ``optax.adamax`` bit for bit (with the same arguments).
      key: an ``int`` or a ``jax.random.key``.
      b1, b2, eps: those of ``optax.adamax``. The default eps is larger than Optax's 1e-8: a coordinate
        whose gradient has always been 0 has P = 1/eps, and with eps = 1e-8, γ = 1e-3 and σ = 1e-3 the noise moves it by
        0.3 at every step.
      mask: where to add noise, as in :func:`add_preconditioned_noise`, e.g. :func:`layer_mask`.
      sampler: as in :func:`noise_like`.
      max_noise: as in :func:`add_preconditioned_noise`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``. Its state is that of ``optax.adamax``, with a
        :class:`LangevinState` behind it.

    Raises:
      ValueError, TypeError: at construction, as :func:`add_preconditioned_noise`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.adamax(1e-3, sigma=1e-3, key=0)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_, 2014, section 7.1.
    """
    return langevin(_scalers_adam.scale_by_adamax(b1, b2, eps), learning_rate, sigma, key, mask, sampler, max_noise)


def adabelief(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    eps_root: ArrayLike = 1e-16,
    *,
    nesterov: bool = False,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin AdaBelief.

    .. math::
      \theta \leftarrow \theta - \gamma P\hat\mu + \sigma\sqrt{\gamma P}\,\xi, \qquad
      P = 1/(\sqrt{\hat\nu} + \epsilon)

    Args:
      learning_rate: :math:`\gamma`, a scalar, an array or an Optax schedule.
      sigma: :math:`\sigma`, likewise; a static 0 is ``optax.adabelief`` bit for bit (with the same arguments).
      key: an ``int`` or a ``jax.random.key``.
      b1, b2, eps, eps_root, nesterov: those of ``optax.adabelief``. The default eps is larger than Optax's 1e-16: a
        coordinate whose gradient has always been 0 has :math:`P = 1/(\sqrt{\epsilon_{root}/(1-\beta_2)} + \epsilon)`,
        8e5 with the defaults, and with eps = 1e-8, γ = 1e-3 and σ = 1e-3 the noise would move it by 0.06 at every step.
      mask: where to add noise, as in :func:`add_preconditioned_noise`, e.g. :func:`layer_mask`.
      sampler: as in :func:`noise_like`.
      max_noise: as in :func:`add_preconditioned_noise`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``. Its state is that of ``optax.adabelief``, with a
        :class:`LangevinState` behind it.

    Raises:
      ValueError, TypeError: at construction, as :func:`add_preconditioned_noise`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.adabelief(1e-3, sigma=1e-3, key=0)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Zhuang et al., `AdaBelief Optimizer <https://arxiv.org/abs/2010.07468>`_, 2020.
    """
    return langevin(
        _scalers_adam.scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov),
        learning_rate,
        sigma,
        key,
        mask,
        sampler,
        max_noise,
    )


def yogi(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-3,
    *,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin Yogi.

    .. math::
      \theta \leftarrow \theta - \gamma P\hat\mu + \sigma\sqrt{\gamma P}\,\xi, \qquad
      P = 1/(\sqrt{\hat\nu} + \epsilon)

    Args:
      learning_rate: :math:`\gamma`, a scalar, an array or an Optax schedule.
      sigma: :math:`\sigma`, likewise; a static 0 is ``optax.yogi`` bit for bit (with the same arguments).
      key: an ``int`` or a ``jax.random.key``.
      b1, b2, eps: those of ``optax.yogi``. A coordinate whose gradient has always been 0 has P ≤ 500,
        so eps has Optax's default.
      mask: where to add noise, as in :func:`add_preconditioned_noise`, e.g. :func:`layer_mask`.
      sampler: as in :func:`noise_like`.
      max_noise: as in :func:`add_preconditioned_noise`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``. Its state is that of ``optax.yogi``, with a
        :class:`LangevinState` behind it.

    Raises:
      ValueError, TypeError: at construction, as :func:`add_preconditioned_noise`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.yogi(1e-3, sigma=1e-3, key=0)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Zaheer et al., `Adaptive Methods for Nonconvex Optimization
      <https://papers.nips.cc/paper/2018/hash/90365351ccc7437a1309dc64e4db32a3-Abstract.html>`_, 2018.
    """
    return langevin(_scalers_adam.scale_by_yogi(b1, b2, eps), learning_rate, sigma, key, mask, sampler, max_noise)


def radam(
    learning_rate: ScalarOrSchedule,
    sigma: ScalarOrSchedule,
    key: jax.Array | int,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    eps_root: ArrayLike = 0.0,
    threshold: ArrayLike = 5.0,
    *,
    nesterov: bool = False,
    mask: Mask | None = None,
    sampler: Sampler = "normal",
    max_noise: ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Langevin RAdam. P holds the rectification r, and is 1 in the first steps.

    .. math::
      \theta \leftarrow \theta - \gamma P\hat\mu + \sigma\sqrt{\gamma P}\,\xi, \qquad
      P = r/(\sqrt{\hat\nu + \epsilon_{root}} + \epsilon)

    Args:
      learning_rate: :math:`\gamma`, a scalar, an array or an Optax schedule.
      sigma: :math:`\sigma`, likewise; a static 0 is ``optax.radam`` bit for bit (with the same arguments).
      key: an ``int`` or a ``jax.random.key``.
      b1, b2, eps, eps_root, threshold, nesterov: those of ``optax.radam``. The default eps is larger than Optax's 1e-8:
        a coordinate whose gradient has always been 0 has P = 1/eps, and with eps = 1e-8, γ = 1e-3 and σ = 1e-3 the
        noise moves it by 0.3 at every step.
      mask: where to add noise, as in :func:`add_preconditioned_noise`, e.g. :func:`layer_mask`.
      sampler: as in :func:`noise_like`.
      max_noise: as in :func:`add_preconditioned_noise`.

    Returns:
      An ``optax.GradientTransformationExtraArgs``. Its state is that of ``optax.radam``, with a
        :class:`LangevinState` behind it.

    Raises:
      ValueError, TypeError: at construction, as :func:`add_preconditioned_noise`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import langevin_optax as lgv
      >>> tx = lgv.radam(1e-3, sigma=1e-3, key=0)
      >>> params = jnp.ones(3)
      >>> updates, state = tx.update(params, tx.init(params), params)

    References:
      Liu et al., `On the Variance of the Adaptive Learning Rate and Beyond <https://arxiv.org/abs/1908.03265>`_, 2020.
    """
    return langevin(
        _scalers_adam.scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov),
        learning_rate,
        sigma,
        key,
        mask,
        sampler,
        max_noise,
    )
