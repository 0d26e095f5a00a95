"""Langevin versions of the variants of Adam's second moment: Adamax, AdaBelief, Yogi, RAdam."""

import jax
import optax

from langevin_optax._types import ArrayLike, Mask, ScalarOrSchedule
from langevin_optax.noise._samplers import Sampler
from langevin_optax.optimizers._engine import langevin


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
      learning_rate, sigma, key, mask, sampler, max_noise: as in :func:`adam`.
      b1, b2, eps: those of ``optax.adamax``; eps as in :func:`adam`.

    References:
      Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_, 2014, section 7.1.
    """
    build = langevin(optax.adamax, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, b1, b2, eps)


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
      learning_rate, sigma, key, mask, sampler, max_noise: as in :func:`adam`.
      b1, b2, eps, eps_root, nesterov: those of ``optax.adabelief``. The default eps is larger than Optax's 1e-16: a
        dead coordinate has :math:`P = 1/(\sqrt{\epsilon_{root}/(1-\beta_2)} + \epsilon)`, 8e5 with the defaults.

    References:
      Zhuang et al., `AdaBelief Optimizer <https://arxiv.org/abs/2010.07468>`_, 2020.
    """
    build = langevin(optax.adabelief, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, b1, b2, eps, eps_root, nesterov=nesterov)


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
      learning_rate, sigma, key, mask, sampler, max_noise: as in :func:`adam`.
      b1, b2, eps: those of ``optax.yogi``. A dead coordinate has P ≤ 500, so eps has Optax's default.

    References:
      Zaheer et al., `Adaptive Methods for Nonconvex Optimization
      <https://papers.nips.cc/paper/2018/hash/90365351ccc7437a1309dc64e4db32a3-Abstract.html>`_, 2018.
    """
    build = langevin(optax.yogi, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, b1, b2, eps)


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
    r"""Langevin RAdam. P holds the rectification r of :func:`scale_by_radam`, and is 1 in the first steps.

    .. math::
      \theta \leftarrow \theta - \gamma P\hat\mu + \sigma\sqrt{\gamma P}\,\xi, \qquad
      P = r/(\sqrt{\hat\nu + \epsilon_{root}} + \epsilon)

    Args:
      learning_rate, sigma, key, mask, sampler, max_noise: as in :func:`adam`.
      b1, b2, eps, eps_root, threshold, nesterov: those of ``optax.radam``; eps as in :func:`adam`.

    References:
      Liu et al., `On the Variance of the Adaptive Learning Rate and Beyond <https://arxiv.org/abs/1908.03265>`_, 2020.
    """
    build = langevin(optax.radam, sigma, key, mask=mask, sampler=sampler, max_noise=max_noise)
    return build(learning_rate, b1, b2, eps, eps_root, threshold, nesterov=nesterov)
