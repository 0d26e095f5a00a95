"""P of the optimisers of Optax 0.2.8, from the recursions of their papers, in float64 and in NumPy alone.

Each recursion splits one update into −γ (P·momentum + decay). The bias correction of the first moment belongs to the
momentum, which has the units of a gradient; that of the second moment belongs to P.

What an optimiser does behind P is in none of the three, so that its momentum is what P multiplies in this one step: the
trace of rmsprop, lars and novograd, the average of adafactor, sm3 and adopt, the extrapolation of optimistic_adam, and
the clip of sophia and adopt.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Tree = dict[str, np.ndarray]


class Step(NamedTuple):
    """What the optimiser saw in one step."""

    gradient: Tree
    params: Tree
    value: float = 0.0
    hessian: Tree | None = None


class Leaf(NamedTuple):
    """All steps of one leaf, or of all leaves joined to one vector."""

    g: list[np.ndarray]
    theta: list[np.ndarray]
    value: list[float]
    hessian: list[np.ndarray | None]


class Parts(NamedTuple):
    p: Any
    momentum: Any
    decay: Any = 0.0


def preconditioner(name: str, steps: list[Step], **kwargs) -> Tree:
    """P of the last step."""
    return _part("p", name, steps, kwargs)


def momentum(name: str, steps: list[Step], **kwargs) -> Tree:
    """What P multiplies in the last step."""
    return _part("momentum", name, steps, kwargs)


def decay(name: str, steps: list[Step], **kwargs) -> Tree:
    """What the last step adds to P·momentum: the weight decay that does not pass through P."""
    return _part("decay", name, steps, kwargs)


def _part(part, name, steps, kwargs):
    shapes = {leaf: np.shape(g) for leaf, g in steps[-1].gradient.items()}
    if name in WHOLE_TREE:
        join = lambda tree: np.concatenate([np.ravel(tree[leaf]) for leaf in shapes]).astype(np.float64)
        joined = getattr(WHOLE_TREE[name](_history(steps, join), **kwargs), part)
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
        pieces = np.split(np.broadcast_to(joined, ends[-1]), ends[:-1])
        return {leaf: piece.reshape(shape) for (leaf, shape), piece in zip(shapes.items(), pieces, strict=True)}
    parts = {}
    for leaf, shape in shapes.items():
        history = _history(steps, lambda tree, leaf=leaf: np.asarray(tree[leaf], np.float64))
        of_leaf = {k: _masked(v, leaf, steps) if k.endswith("mask") else v for k, v in kwargs.items()}
        parts[leaf] = np.array(np.broadcast_to(getattr(PER_LEAF[name](history, **of_leaf), part), shape))
    return parts


def _history(steps, read):
    return Leaf(
        [read(s.gradient) for s in steps],
        [read(s.params) for s in steps],
        [float(s.value) for s in steps],
        [None if s.hessian is None else read(s.hessian) for s in steps],
    )


def _masked(mask, leaf, steps):
    """A mask is None, a bool, a tree of them, or a function of the gradient."""
    mask = mask(steps[-1].gradient) if callable(mask) else mask
    return mask[leaf] if isinstance(mask, dict) else mask


def at(value, count):
    """A constant, or a schedule at ``count``."""
    return float(value(count)) if callable(value) else value


def average(values, b, start=0.0):
    """m ← b m + (1 − b) x."""
    m = start
    for x in values:
        m = b * m + (1 - b) * x
    return m


def debiased(values, b, start=0.0):
    return average(values, b, start) / (1 - b ** len(values))


def squares(values):
    return [x**2 for x in values]


def first_moment(g, b1, nesterov):
    """The mean of Adam, or that of Nadam (Dozat 2016, Algorithm 2)."""
    t = len(g)
    if not nesterov:
        return debiased(g, b1)
    return b1 * average(g, b1) / (1 - b1 ** (t + 1)) + (1 - b1) * g[-1] / (1 - b1**t)


def accumulated(g, b):
    """m ← b m + g."""
    return functools.reduce(lambda m, x: b * m + x, g)


def inverse_root(nu, eps, eps_root=0.0):
    return 1 / (np.sqrt(nu + eps_root) + eps)


def decayed(leaf, weight_decay, mask):
    """λθ of the last step; no mask (None) leaves out nothing."""
    if mask is not None and not mask:
        return 0.0
    return at(weight_decay or 0.0, len(leaf.theta) - 1) * leaf.theta[-1]


def trust_ratio(theta, u, coefficient=1.0, eps=0.0, min_norm=0.0):
    theta, u = max(np.linalg.norm(theta), min_norm), max(np.linalg.norm(u), min_norm)
    return 1.0 if theta == 0 or u == 0 else coefficient * theta / (u + eps)


def rms(x):
    return np.sqrt(np.mean(x**2))


# P = 1.


def sgd(leaf, learning_rate=None, momentum=None, nesterov=False, accumulator_dtype=None):
    """Polyak 1964; Nesterov's as in Sutskever et al. 2013."""
    m = accumulated(leaf.g, momentum or 0.0)
    return Parts(1.0, leaf.g[-1] + momentum * m if nesterov and momentum is not None else m)


def optimistic_gradient_descent(leaf, learning_rate=None, alpha=1.0, beta=1.0):
    """Mokhtari et al. 2020, arXiv:1901.08511; before the first gradient stands the first gradient."""
    return Parts(1.0, extrapolated(leaf.g, alpha, beta))


def extrapolated(values, alpha, beta):
    return (alpha + beta) * values[-1] - beta * values[max(len(values) - 2, 0)]


# Adam and its relatives.


def adam(leaf, learning_rate=None, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, mu_dtype=None, *, nesterov=False):
    """Kingma & Ba 2015, arXiv:1412.6980."""
    return Parts(inverse_root(debiased(squares(leaf.g), b2), eps, eps_root), first_moment(leaf.g, b1, nesterov))


def adamw(
    leaf,
    learning_rate=None,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    mu_dtype=None,
    weight_decay=1e-4,
    mask=None,
    *,
    nesterov=False,
):
    """Loshchilov & Hutter 2019, arXiv:1711.05101."""
    stock = adam(leaf, b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov)
    return stock._replace(decay=decayed(leaf, weight_decay, mask))


def optimistic_adam(
    leaf,
    learning_rate=None,
    optimism=None,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    mu_dtype=None,
    *,
    nesterov=True,
):
    """Daskalakis et al. 2018, arXiv:1711.00141. Behind P: (1 + o) u_t − o u_{t−1}, with o = optimism / γ."""
    return adam(leaf, b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov)


def optimistic_adam_v2(
    leaf,
    learning_rate=None,
    *,
    alpha=1.0,
    beta=1.0,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    mu_dtype=None,
    nesterov=True,
):
    """As `optimistic_adam`. Behind P: (α + β) u_t − β u_{t−1}."""
    return adam(leaf, b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov)


def amsgrad(
    leaf,
    learning_rate=None,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    eps_root=0.0,
    mu_dtype=None,
    bias_correction_mu=True,
    bias_correction_nu=True,
):
    """Reddi, Kale & Kumar 2018, arXiv:1904.09237; Optax takes the maximum behind the bias correction."""
    second = debiased if bias_correction_nu else average
    first = debiased if bias_correction_mu else average
    nu = np.max([second(squares(leaf.g[:t]), b2) for t in range(1, len(leaf.g) + 1)], axis=0)
    return Parts(inverse_root(nu, eps, eps_root), first(leaf.g, b1))


def adamax(leaf, learning_rate=None, b1=0.9, b2=0.999, eps=1e-8):
    """Kingma & Ba 2015, Algorithm 2: ν ← max(β₂ ν, |g| + ε), without a bias correction."""
    nu = functools.reduce(lambda nu, g: np.maximum(b2 * nu, np.abs(g) + eps), leaf.g, 0.0)
    return Parts(1 / nu, debiased(leaf.g, b1))


def adamaxw(leaf, learning_rate=None, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-4, mask=None):
    """`adamax`, with the decay of `adamw`."""
    return adamax(leaf, b1=b1, b2=b2, eps=eps)._replace(decay=decayed(leaf, weight_decay, mask))


def adabelief(leaf, learning_rate=None, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, *, nesterov=False):
    """Zhuang et al. 2020, arXiv:2010.07468: the spread of g around its mean; ε_root is added to ν in every step."""
    m = nu = 0.0
    for g in leaf.g:
        m = b1 * m + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * (g - m) ** 2 + eps_root
    return Parts(inverse_root(nu / (1 - b2 ** len(leaf.g)), eps), first_moment(leaf.g, b1, nesterov))


def yogi(leaf, learning_rate=None, b1=0.9, b2=0.999, eps=1e-3):
    """Zaheer et al. 2018; both moments start at 10⁻⁶, and are still divided by 1 − βᵗ."""
    start = 1e-6
    nu = functools.reduce(lambda nu, x: nu - (1 - b2) * np.sign(nu - x) * x, squares(leaf.g), start)
    return Parts(inverse_root(nu / (1 - b2 ** len(leaf.g)), eps), debiased(leaf.g, b1, start))


def radam(leaf, learning_rate=None, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, threshold=5.0, *, nesterov=False):
    """Liu et al. 2020, arXiv:1908.03265: P = 1 as long as the variance of 1/√ν̂ is too large to be corrected."""
    t, limit = len(leaf.g), 2 / (1 - b2) - 1
    rho = limit - 2 * t * b2**t / (1 - b2**t)
    p, m = adam(leaf, b1=b1, b2=b2, eps=eps, eps_root=eps_root, nesterov=nesterov)[:2]
    if rho < threshold:
        return Parts(1.0, m)
    return Parts(np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)) * p, m)


def adan(leaf, learning_rate=None, b1=0.98, b2=0.92, b3=0.99, eps=1e-8, eps_root=1e-8, weight_decay=0.0, mask=None):
    """Xie et al. 2022, arXiv:2208.06677, with 1 − β of the paper written β."""
    difference = [np.zeros_like(leaf.g[0]), *(g - before for before, g in zip(leaf.g, leaf.g[1:], strict=False))]
    n = debiased([(g + (1 - b2) * d) ** 2 for g, d in zip(leaf.g, difference, strict=True)], b3)
    m = debiased(leaf.g, b1) + (1 - b2) * debiased(difference, b2)
    return Parts(inverse_root(n, eps, eps_root), m, decayed(leaf, weight_decay, mask))


def lamb(leaf, learning_rate=None, b1=0.9, b2=0.999, eps=1e-6, eps_root=0.0, weight_decay=0.0, mask=None):
    """You et al. 2020, arXiv:1904.00962: Adam's step and the decay, times ‖θ‖ over the norm of both."""
    p, m = adam(leaf, b1=b1, b2=b2, eps=eps, eps_root=eps_root)[:2]
    d = decayed(leaf, weight_decay, mask)
    ratio = trust_ratio(leaf.theta[-1], p * m + d)
    return Parts(ratio * p, m, ratio * d)


# Second moments of the gradient alone.


def rmsprop(
    leaf,
    learning_rate=None,
    decay=0.9,
    eps=1e-8,
    initial_scale=0.0,
    eps_in_sqrt=True,
    centered=False,
    momentum=None,
    nesterov=False,
    bias_correction=False,
):
    """Hinton 2012, lecture 6; centred: Graves 2013, arXiv:1308.0850. Behind P: a trace."""
    moment = debiased if bias_correction else average
    nu = moment(squares(leaf.g), decay, initial_scale)
    if centered:
        nu = np.maximum(nu - moment(leaf.g, decay) ** 2, 0.0)
    return Parts(inverse_root(nu, 0.0, eps) if eps_in_sqrt else inverse_root(nu, eps), leaf.g[-1])


def adagrad(leaf, learning_rate=None, initial_accumulator_value=0.1, eps=1e-7):
    """Duchi, Hazan & Singer 2011; a coordinate that never had a gradient has P = 0."""
    s = initial_accumulator_value + sum(squares(leaf.g))
    return Parts(1 / np.sqrt(np.where(s > 0, s + eps, np.inf)), leaf.g[-1])


def adadelta(leaf, learning_rate=None, rho=0.9, eps=1e-6, weight_decay=0.0, weight_decay_mask=None):
    """Zeiler 2012, arXiv:1212.5701. The decay is part of the gradient, and so enters P."""
    eg = ex = 0.0
    for t in range(1, len(leaf.g) + 1):
        g = leaf.g[t - 1] + decayed(leaf._replace(theta=leaf.theta[:t]), weight_decay, weight_decay_mask)
        eg = rho * eg + (1 - rho) * g**2
        p = np.sqrt(ex + eps) / np.sqrt(eg + eps)
        ex = rho * ex + (1 - rho) * (p * g) ** 2
    return Parts(p, g)


def adafactor(
    leaf,
    learning_rate=None,
    min_dim_size_to_factor=128,
    decay_rate=0.8,
    decay_offset=0,
    multiply_by_parameter_scale=True,
    clipping_threshold=1.0,
    momentum=None,
    dtype_momentum=np.float32,
    weight_decay_rate=None,
    eps=1e-30,
    factored=True,
    weight_decay_mask=None,
):
    """Shazeer & Stern 2018, arXiv:1804.04235. Behind P and γ: an average, then the decay, which has no factor γ."""
    t, g, theta = len(leaf.g), leaf.g[-1], leaf.theta[-1]
    v = 0.0
    for i, x in enumerate(leaf.g):
        v = average([x**2 + eps], 1 - (i + 1.0 - decay_offset) ** -decay_rate, v)
    if factored and g.ndim > 1 and np.sort(g.shape)[-2] >= min_dim_size_to_factor:
        column, row = (int(axis) for axis in np.argsort(g.shape)[-2:])
        v = v.mean(row, keepdims=True) * v.mean(column, keepdims=True) / v.mean((row, column), keepdims=True)
    p = 1 / np.sqrt(v)
    if clipping_threshold is not None:
        p = p / max(1.0, rms(p * g) / clipping_threshold)
    if multiply_by_parameter_scale:
        p = p * max(rms(theta), 1e-3)
    gamma = 1.0 if learning_rate is None else at(learning_rate, t - 1)
    return Parts(p, g, decayed(leaf, weight_decay_rate, weight_decay_mask) / gamma)


def sm3(leaf, learning_rate=None, momentum=0.9):
    """Anil et al. 2019, arXiv:1901.11150, SM3-II with the rows and columns of every axis. Behind P: an average."""
    axes = range(leaf.g[0].ndim)
    covers = [0.0 for _ in axes]
    for g in leaf.g:
        s = functools.reduce(np.minimum, covers) + g**2
        covers = [s.max(axis=tuple(a for a in axes if a != axis), keepdims=True) for axis in axes]
    return Parts(1 / np.sqrt(np.where(s > 0, s + 1e-8, np.inf)), leaf.g[-1])


def acprop(leaf, learning_rate=None, b1=0.9, b2=0.999, eps=1e-16, eps_root=1e-16, weight_decay=0.0, mask=None):
    """Zhuang et al. 2021, arXiv:2110.05454: P of the steps before, with ν̂ = 1 in the first."""
    m = nu = 0.0
    for g in leaf.g[:-1]:
        nu = b2 * nu + (1 - b2) * (g - m) ** 2 + eps_root
        m = b1 * m + (1 - b1) * g
    t = len(leaf.g) - 1
    nu = nu / (1 - b2**t) if t else 1.0
    return Parts(inverse_root(nu, eps), leaf.g[-1], decayed(leaf, weight_decay, mask))


def adopt(
    leaf,
    learning_rate=None,
    b1=0.9,
    b2=0.9999,
    eps=1e-6,
    mu_dtype=None,
    *,
    nesterov=False,
    use_clipping=True,
    clip_value_fn=lambda count: count**0.25,
):
    """Taniguchi et al. 2024, arXiv:2411.02853: P of the steps before, none in the first. Behind P: clip and average."""
    if len(leaf.g) == 1:
        return Parts(0.0, leaf.g[-1])
    first, *later = squares(leaf.g[:-1])
    return Parts(1 / np.maximum(np.sqrt(average(later, b2, first)), eps), leaf.g[-1])


# Two means.


def ademamix(
    leaf,
    learning_rate=None,
    b1=0.9,
    b2=0.999,
    b3=0.9999,
    alpha=5.0,
    eps=1e-8,
    eps_root=0.0,
    mu_dtype=None,
    weight_decay=0.0,
    mask=None,
):
    """Pagliardini, Ablin & Grangier 2024, arXiv:2409.03137: the slow mean has no bias correction."""
    slow = 0.0
    for t, g in enumerate(leaf.g):
        slow = average([g], at(b3, t), slow)
    m = debiased(leaf.g, b1) + at(alpha, t) * slow
    p = inverse_root(debiased(squares(leaf.g), b2), eps, eps_root)
    return Parts(p, m, decayed(leaf, weight_decay, mask))


def simplified_ademamix(
    leaf,
    learning_rate=None,
    b1=0.99,
    b2=0.95,
    alpha=0.0,
    eps=1e-8,
    eps_root=0.0,
    weight_decay=0.0,
    mask=None,
):
    """Morwani et al. 2025, arXiv:2502.02431: the mean is a sum, 1/(1 − β₁) times as large as Adam's."""
    m = accumulated(leaf.g, b1) + at(alpha, len(leaf.g) - 1) * leaf.g[-1]
    p = inverse_root(debiased(squares(leaf.g), b2), eps, eps_root)
    return Parts(p, m, decayed(leaf, weight_decay, mask))


# One number for a leaf.


def lars(
    leaf,
    learning_rate=None,
    weight_decay=0.0,
    weight_decay_mask=True,
    trust_coefficient=0.001,
    eps=0.0,
    trust_ratio_mask=True,
    momentum=0.9,
    nesterov=False,
):
    """You, Gitman & Ginsburg 2017, arXiv:1708.03888. The decay is part of the gradient. Behind P and γ: a trace."""
    g = leaf.g[-1] + decayed(leaf, weight_decay, weight_decay_mask)
    return Parts(trust_ratio(leaf.theta[-1], g, trust_coefficient, eps) if trust_ratio_mask else 1.0, g)


def fromage(leaf, learning_rate, min_norm=1e-6):
    """Bernstein et al. 2020, arXiv:2002.03432: θ' = (θ − γ ‖θ‖/‖g‖ g) / √(1 + γ²)."""
    gamma, g, theta = at(learning_rate, len(leaf.g) - 1), leaf.g[-1], leaf.theta[-1]
    shrink = 1 / np.sqrt(1 + gamma**2)
    return Parts(shrink * trust_ratio(theta, g, min_norm=min_norm), g, (1 - shrink) / gamma * theta)


def novograd(leaf, learning_rate=None, b1=0.9, b2=0.25, eps=1e-6, eps_root=0.0, weight_decay=0.0):
    """Ginsburg et al. 2019, arXiv:1905.11286. Behind P and the decay: a trace."""
    first, *later = [np.sum(g**2) for g in leaf.g]
    return Parts(inverse_root(average(later, b2, first), eps, eps_root), leaf.g[-1], weight_decay * leaf.theta[-1])


def sophia(
    leaf,
    learning_rate=None,
    b1=0.965,
    b2=0.99,
    eps=1e-8,
    weight_decay=1e-4,
    weight_decay_mask=None,
    gamma=0.01,
    clip_threshold=1.0,
    update_interval=10,
    hessian_diagonal_fn=None,
    mu_dtype=None,
    verbose=False,
    print_win_rate_every_n_steps=0,
):
    """Liu et al. 2023, arXiv:2305.14342: Optax has the h of the steps before. Behind P: a clip, and then the decay."""
    m, d = debiased(leaf.g, b1), decayed(leaf, weight_decay, weight_decay_mask)
    h = average([h for t, h in enumerate(leaf.hessian[:-1]) if t % update_interval == 0], b2)
    return Parts(1 / np.maximum(gamma * h, eps) if len(leaf.g) > 1 else 0.0, m, d)


# One number for all leaves: here a leaf is all of them.


def polyak_sgd(leaf, max_learning_rate=1.0, scaling=1.0, f_min=0.0, eps=0.0, variant="sps"):
    """Loizou et al. 2021, arXiv:2002.10542. γ is the scaling, and the step size sees the scaled gradient."""
    gap = leaf.value[-1] - f_min
    gap = max(gap, 0.0) if variant == "sps+" else gap
    norm = np.sum((at(scaling, len(leaf.g) - 1) * leaf.g[-1]) ** 2) + eps
    return Parts(min(gap / norm, max_learning_rate) if norm > np.finfo(float).eps else 0.0, leaf.g[-1])


def momo(leaf, learning_rate=1.0, beta=0.9, lower_bound=0.0, weight_decay=0.0, adapt_lower_bound=False):
    """Schaipp et al. 2024, arXiv:2305.07583, Algorithm 1; averages start at the first value."""
    one = [1.0] * len(leaf.g)
    betas = [0.0, *one[1:]] * np.array(beta)
    return _momentum_model(leaf, learning_rate, betas, one, one, lower_bound, weight_decay, adapt_lower_bound)


def momo_adam(
    leaf,
    learning_rate=1e-2,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    lower_bound=0.0,
    weight_decay=0.0,
    adapt_lower_bound=False,
):
    """Schaipp et al. 2024, Algorithm 4, in the norm of Adam's P."""
    counts = range(1, len(leaf.g) + 1)
    p = [inverse_root(debiased(squares(leaf.g[:t]), b2), eps) for t in counts]
    corrections = [1 - b1**t for t in counts]
    betas = [b1 for _ in counts]
    return _momentum_model(leaf, learning_rate, betas, p, corrections, lower_bound, weight_decay, adapt_lower_bound)


def _momentum_model(leaf, learning_rate, betas, ps, corrections, lower_bound, weight_decay, adapt):
    """The step that takes the averaged linear model of the loss down to its lower bound, and γ at most."""
    m = at_zero = 0.0  # the means of g and of f − ⟨g, θ⟩, the linear model of the loss at θ = 0
    bound = lower_bound
    for t, (g, theta, value, b, p, c) in enumerate(
        zip(leaf.g, leaf.theta, leaf.value, betas, ps, corrections, strict=True)
    ):
        gamma = at(learning_rate, t)
        shrink = 1 + gamma * weight_decay
        m = b * m + (1 - b) * g
        at_zero = b * at_zero + (1 - b) * (value - g @ theta)
        model, norm = shrink * at_zero + m @ theta, m @ (p * m)
        used = max(model / (2 * c * shrink), lower_bound) if adapt and model < shrink * c * bound else bound
        needed = max(model - shrink * c * used, 0.0) / norm if norm > np.finfo(float).eps else 0.0
        step = min(gamma / c, needed)
        if adapt:
            bound = max((at_zero + m @ theta - step * norm / 2) / c, lower_bound)
    return Parts(step * c / gamma * p, m / c, weight_decay / shrink * theta)


def prodigy(
    leaf,
    learning_rate=1.0,
    betas=(0.9, 0.999),
    beta3=None,
    eps=1e-8,
    estim_lr0=1e-6,
    estim_lr_coef=1.0,
    weight_decay=0.0,
    safeguard_warmup=False,
):
    """Mishchenko & Defazio 2023, arXiv:2306.06101: moments of d·g, for which P has the factor d²."""
    b1, b2 = betas
    b3 = np.sqrt(b2) if beta3 is None else beta3
    d = estim_lr0
    m = v = s = r = 0.0
    for t, (g, theta) in enumerate(zip(leaf.g, leaf.theta, strict=True), 1):
        correction = np.sqrt(1 - b2**t) / (1 - b1**t)
        step = d * at(learning_rate, t - 1) * correction
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * (d * g) ** 2
        s = b3 * s + (d if safeguard_warmup else step) * d / estim_lr0 * g
        r = b3 * r + step * d / estim_lr0 * (g @ (leaf.theta[0] - theta))
        old, d = d, max(d, estim_lr_coef * r / np.sum(np.abs(s)))
    p = old**2 * np.sqrt(1 - b2**t) / (np.sqrt(v) + d * eps)
    return Parts(p, m / (old * (1 - b1**t)), weight_decay * old * correction * theta)


def dadapt_adamw(
    leaf,
    learning_rate=1.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    estim_lr0=1e-6,
    weight_decay=0.0,
):
    """Defazio & Mishchenko 2023, arXiv:2301.07733, Algorithm 5: the mean is that of the steps d γ g, not of g."""
    b1, b2 = betas
    b3 = np.sqrt(b2)
    d = estim_lr0
    m = v = s = r = 0.0
    for t, g in enumerate(leaf.g, 1):
        gamma, correction = at(learning_rate, t - 1), np.sqrt(1 - b2**t) / (1 - b1**t)
        step = d * gamma * correction
        r = b3 * r + (1 - b3) * step * np.sum(g * s / (np.sqrt(v) + eps))
        m = b1 * m + (1 - b1) * step * g
        v = b2 * v + (1 - b2) * g**2
        s = b3 * s + (1 - b3) * step * g
        old, d = d, max(d, r / ((1 - b3) * np.sum(np.abs(s))))
    root = np.sqrt(1 - b2**t)
    return Parts(
        old * root / (np.sqrt(v) + eps), m / (old * gamma * root), weight_decay * old * correction * leaf.theta[-1]
    )


PER_LEAF: dict[str, Callable[..., Parts]] = {
    "nadam": functools.partial(adam, nesterov=True),
    "nadamw": functools.partial(adamw, nesterov=True),
    **{
        recursion.__name__: recursion
        for recursion in (
            *(sgd, optimistic_gradient_descent, adam, adamw, optimistic_adam, optimistic_adam_v2, amsgrad),
            *(adamax, adamaxw, adabelief, yogi, radam, adan, lamb, rmsprop, adagrad, adadelta, adafactor, sm3),
            *(acprop, adopt, ademamix, simplified_ademamix, lars, fromage, novograd, sophia),
        )
    },
}
WHOLE_TREE: dict[str, Callable[..., Parts]] = {
    recursion.__name__: recursion for recursion in (polyak_sgd, momo, momo_adam, prodigy, dadapt_adamw)
}
