"""SOAP, Shampoo and natural networks from their papers, in float64 and in NumPy alone, with P written out in full.

Each recursion takes the gradients of one leaf, step by step, and returns for each step what `Moment` holds. P is a
matrix over the raveled leaf: u = P m. Steps from ``after`` on leave P as it is.
"""

from typing import Any, NamedTuple

import numpy as np


class Moment(NamedTuple):
    """One step. ``factors`` are the bases of SOAP, and for Shampoo the powers that P is the Kronecker product of."""

    update: np.ndarray
    p: np.ndarray
    momentum: np.ndarray
    factors: list[np.ndarray]
    diagonal: np.ndarray | None = None  # P in the bases


def soap(gradients, b1, b2, eps, frequency=10, max_dimension=10_000, merge_dimension=0, after=None):
    """Algorithm 3 of Vyas et al. 2024, in the order of the authors' program: github.com/nikhilvyas/SOAP.

    The program rotates the momentum with the bases; here it stays where it is. What merges to a vector gets no basis.
    """
    shape = merged(np.shape(gradients[0]), merge_dimension)
    rotates = [len(shape) > 1 and n <= max_dimension for n in shape]
    statistics = [np.zeros((n, n)) for n in shape]
    momentum, square, bases, moments = np.zeros(shape), np.zeros(shape), None, []
    steps = learnt = 0  # the first call makes the bases alone, and is no step
    for call, gradient in enumerate(gradients):
        g, learns = np.asarray(gradient, np.float64).reshape(shape), after is None or call < after
        if bases is None:
            statistics = [lerp(s, product_with_itself(g, axis), b2) for axis, s in enumerate(statistics)]
            every = [np.linalg.eigh(s)[1][:, ::-1] for s in statistics]
            bases = [q if rotates[axis] else np.eye(len(q)) for axis, q in enumerate(every)]
            still = np.zeros(np.shape(gradient))
            moments.append(Moment(still, np.zeros((g.size, g.size)), still, bases, np.zeros(shape)))
            continue
        steps, learnt = steps + 1, learnt + learns
        momentum = lerp(momentum, g, b1)
        if learns:
            square = lerp(square, turned(g, [q.T for q in bases]) ** 2, b2)
        diagonal = np.sqrt(1 - b2**learnt) / (np.sqrt(square) + eps)
        mean = momentum / (1 - b1**steps)
        update = turned(diagonal * turned(mean, [q.T for q in bases]), bases)
        whole = kron(bases)
        moments.append(
            Moment(
                update.reshape(np.shape(gradient)),
                whole * diagonal.ravel() @ whole.T,
                mean.reshape(np.shape(gradient)),
                bases,
                diagonal,
            )
        )
        if not learns:
            continue
        statistics = [lerp(s, product_with_itself(g, axis), b2) for axis, s in enumerate(statistics)]
        if steps % frequency == 0:
            bases = list(bases)
            for axis, (s, q) in enumerate(zip(statistics, bases, strict=True)):
                if rotates[axis]:
                    order = np.argsort(-np.diag(q.T @ s @ q), kind="stable")
                    square = np.take(square, order, axis)
                    bases[axis] = np.linalg.qr(s @ q[:, order])[0]
    return moments


def shampoo(gradients, b1, b2, eps, frequency=10, max_dimension=1024, merge_dimension=0, after=None):
    """Algorithm 2 of Gupta et al. 2018, of which Algorithm 1 is that of matrices, with averages in place of its sums.

    With b2 = 1 the statistics are sums. ε is added to them in each step, and not once at the start.
    """
    shape = merged(np.shape(gradients[0]), merge_dimension)
    full = [len(shape) > 1 and n <= max_dimension for n in shape]
    statistics, momentum, moments, powers = [np.zeros((n, n)) for n in shape], np.zeros(shape), [], []
    for t, gradient in enumerate(gradients):
        g, learns = np.asarray(gradient, np.float64).reshape(shape), after is None or t < after
        momentum = lerp(momentum, g, b1)
        if learns:
            new = [product_with_itself(g, axis) for axis in range(g.ndim)]
            new = [x if full[axis] else np.diag(np.diag(x)) for axis, x in enumerate(new)]
            statistics = [b2 * s + (1.0 if b2 == 1 else 1 - b2) * x for s, x in zip(statistics, new, strict=True)]
            if t % frequency == 0:
                hats = [s / (1.0 if b2 == 1 else 1 - b2 ** (t + 1)) for s in statistics]
                powers = [power(hat + eps * np.eye(len(hat)), -1 / (2 * g.ndim)) for hat in hats]
        mean = momentum / (1 - b1 ** (t + 1))
        shaped = [x.reshape(np.shape(gradient)) for x in (turned(mean, powers), mean)]
        moments.append(Moment(shaped[0], kron(powers), shaped[1], powers))
    return moments


def shampoo_of_matrices(gradients, eps):
    """Algorithm 1 of Gupta et al. 2018 as it is printed: the L^(−1/4) G R^(−1/4) of each step."""
    rows, columns = np.shape(gradients[0])
    left, right, updates = eps * np.eye(rows), eps * np.eye(columns), []
    for g in np.asarray(gradients, np.float64):
        left, right = left + g @ g.T, right + g.T @ g
        updates.append(power(left, -1 / 4) @ g @ power(right, -1 / 4))
    return updates


def prong(covariances, eps, decay, frequency=10, after=None):
    """For each step (Σ̂ + εI)^(−1/2) of one layer: the change of coordinates of Algorithm 1 of Desjardins et al. 2015.

    P is its square, the same for every output.
    """
    mean, roots = np.zeros(np.shape(covariances[0])), []
    for t, covariance in enumerate(covariances):
        if after is None or t < after:
            mean = lerp(mean, np.asarray(covariance, np.float64), decay)
            if t % frequency == 0:
                root = power(mean / (1 - decay ** (t + 1)) + eps * np.eye(len(mean)), -1 / 2)
        roots.append(root)
    return roots


def merged(shape, most):
    """Neighbouring axes are one while their product is at most ``most``; a scalar is a vector of one entry."""
    sizes: list[int] = []
    for n in shape:
        if sizes and sizes[-1] * n <= most:
            sizes[-1] *= n
        else:
            sizes.append(n)
    return tuple(sizes) or (1,)


def lerp(old: Any, new: Any, decay: float) -> Any:
    return decay * old + (1 - decay) * new


def product_with_itself(g, axis):
    """g gᵀ over all axes but one."""
    rows = np.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    return rows @ rows.T


def turned(x, matrices):
    """The matrices times x, one for each axis."""
    for axis, matrix in enumerate(matrices):
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return x


def kron(matrices):
    whole = np.eye(1)
    for matrix in matrices:
        whole = np.kron(whole, matrix)
    return whole


def power(matrix, exponent):
    eigenvalues, vectors = np.linalg.eigh(matrix)
    return vectors * eigenvalues**exponent @ vectors.T


def block_diagonal(blocks):
    ends = np.cumsum([0, *(len(block) for block in blocks)])
    whole = np.zeros((ends[-1], ends[-1]))
    for block, start, end in zip(blocks, ends[:-1], ends[1:], strict=True):
        whole[start:end, start:end] = block
    return whole
