"""SOAP, Shampoo and natural networks: their recursions, and noise whose covariance is σ²γP as a full matrix.

P is that of `matrix_recursions`, in float64 and NumPy. Eigenvectors have free signs, so updates, P and noise are
compared, never bases. Where two eigenvalues of a statistic are 0 the published recursion leaves P itself open: no axis
here is longer by two than the product of the others.
"""

import functools
import inspect
import math
import pickle

import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec

import langevin_optax as lgv
from tests.cases import bits, by_default, is_key
from tests.preconditioners import matrix_recursions
from tests.preconditioners.matrix_recursions import block_diagonal, power

GAMMA, SIGMA = 0.05, 0.3
B2, EPS, EVERY = 0.8, 1e-3, 3
QUIET = pytest.mark.filterwarnings("ignore:prong has no covariances")


def flat(tree):
    """All leaves of a tree as one vector."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def columns(noisy, tree):
    """S of a whole tree of leaves of different shapes, as ``noisy(sampler)`` of a ξ that is a column of the identity.

    The i-th row of the result is S eᵢ.
    """
    shapes = [leaf.shape for leaf in jax.tree.leaves(tree)]
    ends = np.cumsum([0, *map(math.prod, shapes)])
    assert len(set(shapes)) == len(shapes)

    def column(i):
        def sampler(key, shape, dtype):
            start = ends[shapes.index(shape)]
            return jnp.zeros(ends[-1], dtype).at[i].set(1)[start : start + math.prod(shape)].reshape(shape)

        return flat(noisy(sampler))

    return jax.vmap(column)(jnp.arange(ends[-1]))


# One tree of all that a leaf may be. An axis gets no matrix above 6, and axes are merged up to 6.
SIZES = {"merge_dimension": 6, "max_dimension": 6}
SCANNED = {"stack": 0, "side": 1}
SHAPES = {
    "matrix": (5, 4),
    "kernel": (3, 3, 3, 3),  # four axes that are not merged
    "merged": (3, 2, 2, 3),  # (6, 6)
    "row": (1, 2),  # merged to a vector
    "long": (7, 3),
    "vector": (4,),
    "scalar": (),
    "stack": {"w": (2, 4, 3), "b": (2, 5)},
    "side": (3, 2, 3),
}


def random_trees(shapes, steps, seed=0):
    """Gradients whose size and directions change from step to step."""
    draw = np.random.default_rng(seed)

    def leaf(t, shape):
        x = draw.normal(size=shape)
        if len(shape) > 1:  # correlated along the first and the last axis
            first, last = (np.eye(n) + 0.5 * draw.normal(size=(n, n)) * (1 + t % 2) for n in (shape[0], shape[-1]))
            x = np.tensordot(first, x, (1, 0)) @ last
        return x * (0.5 + t % 3)

    of_step = lambda t: jax.tree.map(lambda shape: leaf(t, shape), shapes, is_leaf=lambda x: isinstance(x, tuple))
    return [of_step(t) for t in range(steps)]


def expected(recursion, gradients, scanned=None, **kwargs):
    """Of each step the update, and P of all leaves as one matrix; stacked layers one by one."""
    updates, ps = [], []
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients[0]):
        of_leaf = [np.asarray(dict(jax.tree_util.tree_leaves_with_path(tree))[path]) for tree in gradients]
        axis = (scanned or {}).get(path[0].key)
        layers = (
            [of_leaf] if axis is None else [[np.take(g, i, axis) for g in of_leaf] for i in range(leaf.shape[axis])]
        )
        runs = [recursion(layer, **kwargs) for layer in layers]
        join = lambda xs, axis=axis: np.ravel(xs[0] if axis is None else np.stack(xs, axis))
        updates.append([join([step.update for step in steps]) for steps in zip(*runs, strict=True)])
        # Where the entries of each layer are among those of the leaf.
        places = np.arange(leaf.size).reshape(leaf.shape)
        places = [np.ravel(places if axis is None else np.take(places, i, axis)) for i in range(len(layers))]
        back = np.argsort(np.concatenate(places))
        ps.append([block_diagonal([step.p for step in steps])[np.ix_(back, back)] for steps in zip(*runs, strict=True)])
    joined = lambda parts: [np.concatenate(step) for step in zip(*parts, strict=True)]
    return joined(updates), [block_diagonal(step) for step in zip(*ps, strict=True)]


MATRICES = {
    "soap": (lgv.soap, lgv.scale_by_soap, matrix_recursions.soap),
    "shampoo": (lgv.shampoo, lgv.scale_by_shampoo, matrix_recursions.shampoo),
}
every_matrix = pytest.mark.parametrize("name", MATRICES)


def close(a, b, rtol):
    return bool(np.abs(np.asarray(a) - b).max() <= rtol * np.abs(b).max())


def noise_behind(updates, state, sampler="normal", gamma=1.0, sigma=1.0):
    """The noise σ√γ S ξ that the parameters get behind a scaler."""
    noisy, _ = lgv.add_preconditioned_noise(gamma, sigma, 0, sampler=sampler).update(updates, state)
    return jax.tree.map(lambda a, b: gamma * (a - b), noisy, updates)


@functools.cache
def compiled(name):
    """A step of the scaler and the noise of ξ = I, for any b1 and b2, in float64."""
    make = functools.partial(MATRICES[name][1], eps=EPS, precondition_frequency=EVERY, scanned=SCANNED, **SIZES)

    def step(gradient, state, b1, b2):
        updates, new = make(b1, b2).update(gradient, state)
        state = lgv.LangevinState(jnp.int32(0), jax.random.key(0))
        return flat(updates), columns(lambda sampler: noise_behind(updates, state, sampler), gradient), new

    return make(0.9, 0.9).init, jax.jit(step)


@pytest.mark.parametrize(
    ("name", "b1", "b2"),
    [
        ("soap", 0.9, B2),
        ("shampoo", 0.0, B2),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (("soap", 0.0, B2), ("shampoo", 0.9, B2), ("shampoo", 0.9, 1.0))
        ),
    ],
)
def test_updates_and_p_are_those_of_the_recursion(name, b1, b2):
    """For matrices, kernels, vectors, scalars, merged and long axes and stacked layers, over four refreshes.

    Without momentum the update is P g.
    """
    gradients = random_trees(SHAPES, 12)
    updates, ps = expected(MATRICES[name][2], gradients, SCANNED, b1=b1, b2=b2, eps=EPS, frequency=EVERY, **SIZES)
    with jax.enable_x64(True):
        init, step = compiled(name)
        state = init(jax.tree.map(jnp.asarray, gradients[0]))
        for t, gradient in enumerate(gradients):
            ours, s, state = step(jax.tree.map(jnp.asarray, gradient), state, b1, b2)
            assert ours.dtype == s.dtype == np.float64
            size = np.sqrt(np.diag(ps[t]))
            assert np.all(np.abs(ours - updates[t]) <= 1e-8 * size), t
            assert np.all(np.abs(s.T @ s - ps[t]) <= 1e-9 * np.outer(size, size)), t
            if b1 == 0:
                assert np.all(np.abs(ours - s.T @ (s @ flat(gradient))) <= 1e-8 * size), t
    assert ps[0].any() == (name == "shampoo")  # the first step of SOAP makes statistics alone


def test_shampoo_is_the_published_algorithm():
    """Algorithm 1 of Gupta et al., with L₀ = εI: sums, no momentum, roots in every step."""
    gradients = [tree["matrix"] for tree in random_trees(SHAPES, 8)]
    with jax.enable_x64(True):
        tx = lgv.scale_by_shampoo(b1=0.0, b2=1.0, eps=EPS, precondition_frequency=1)
        state, update = tx.init(jnp.asarray(gradients[0])), jax.jit(tx.update)
        for g, theirs in zip(gradients, matrix_recursions.shampoo_of_matrices(gradients, EPS), strict=True):
            ours, state = update(jnp.asarray(g), state)
            assert close(ours, theirs, 1e-8)


def test_soap_has_the_published_defaults():
    published = dict(b1=0.95, b2=0.95, eps=1e-8, precondition_frequency=10, max_dimension=10000, merge_dimension=0)
    defaults = {k: p.default for k, p in inspect.signature(lgv.scale_by_soap).parameters.items()}
    assert defaults == {**published, "scanned": None}


@pytest.mark.parametrize("shape", [(5, 4), (6,), (2, 3, 4), (3, 3, 2, 3)], ids=str)
def test_the_recursion_is_the_published_program(shape):
    """SOAP of pytorch_optimizer, whose QR decomposition is in float32. (Against the authors' own: 1e-14.)"""
    torch = pytest.importorskip("torch")
    other = pytest.importorskip("pytorch_optimizer")
    gradients = [np.random.default_rng(t).normal(size=shape) for t in range(14)]
    p = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    tx = other.SOAP([p], lr=1.0, betas=(0.9, B2), eps=EPS, weight_decay=0.0, precondition_frequency=EVERY)
    for g, step in zip(gradients, matrix_recursions.soap(gradients, 0.9, B2, EPS, EVERY), strict=True):
        before, p.grad = p.detach().clone(), torch.tensor(g)
        tx.step()
        assert np.abs((before - p.detach()).numpy() - step.update).max() < 1e-5


# The law of the noise.


def has_covariance(x, p, limit=5.5):
    """Whether rows of mean 0 have the covariance ``p``: each entry of it, and of the identity that it is whitened to,
    within ``limit`` standard errors. Of 1000 entries one is beyond 5.5 by chance once in 25 000 tests.
    """
    n, d = x.shape
    z = np.linalg.solve(np.linalg.cholesky(p), x.T).T
    for y, c in ((x, p), (z, np.eye(d))):
        variances = np.diag(c)
        error = np.sqrt((np.outer(variances, variances) + c**2) / n)
        if np.abs(y.mean(0) / np.sqrt(variances / n)).max() > limit or np.abs((y.T @ y / n - c) / error).max() > limit:
            return False
    return True


DRAWS = 20_000
LEAVES = {"k": (4, 3), "t": (2, 3, 2), "v": (5,)}
AT = 6  # a refresh: of the bases of SOAP behind the update, of the roots of Shampoo before it


def keyed(state, key):
    """An optimiser's state with another key for its noise."""
    is_noise = lambda x: isinstance(x, lgv.LangevinState)
    return jax.tree.map(lambda x: x._replace(key=key) if is_noise(x) else x, state, is_leaf=is_noise)


@functools.cache
def history():
    return random_trees(LEAVES, 8)


@functools.cache
def moments(name, leaf):
    """The recursion of one leaf of `history`."""
    return MATRICES[name][2]([tree[leaf] for tree in history()], b1=0.9, b2=B2, eps=EPS, frequency=EVERY)


def right(name, t=AT):
    return block_diagonal([moments(name, leaf)[t].p for leaf in LEAVES])


@pytest.mark.parametrize("name", by_default(["soap"], MATRICES))
def test_the_covariance_of_the_noise_is_sigma_squared_gamma_p(name):
    """At a refresh and a step behind it, in float32: of 20 000 draws, and S Sᵀ to rounding."""
    scaler = MATRICES[name][1](0.9, B2, EPS, precondition_frequency=EVERY)
    keys = jax.random.split(jax.random.key(7), DRAWS)

    @jax.jit
    def look(gradient, state):
        updates, new = scaler.update(gradient, state)
        noise = lambda key, sampler="normal": noise_behind(
            updates, lgv.LangevinState(jnp.int32(0), key), sampler, GAMMA, SIGMA
        )
        drawn = jax.vmap(lambda key: flat(noise(key)))(keys)
        return drawn, columns(lambda sampler: noise(keys[0], sampler), gradient), new

    trees = [jax.tree.map(jnp.float32, tree) for tree in history()]
    state = scaler.init(trees[0])
    for t, gradient in enumerate(trees):
        x, s, state = look(gradient, state)
        if t < AT:
            continue
        x, s = np.asarray(x, np.float64), np.asarray(s, np.float64)
        p = SIGMA**2 * GAMMA * right(name, t)
        assert close(s.T @ s, p, 1e-3), t
        assert has_covariance(x, p), t
        # Neither that of the step before the refresh, nor one a tenth larger.
        assert not has_covariance(x, SIGMA**2 * GAMMA * right(name, AT - 1))
        assert not has_covariance(x, 1.1 * p)


@pytest.mark.slow
@every_matrix
def test_a_step_of_the_whole_optimiser(name):
    """θ moves by −γ (P m + λθ) + σ√γ S ξ, whose ξ is that of `noise_like`; by a root that `columns` reads off."""
    make = functools.partial(MATRICES[name][0], b1=0.9, b2=B2, eps=EPS, weight_decay=0.5, precondition_frequency=EVERY)
    gradients = [{"k": jnp.float32(tree["k"])} for tree in history()]
    params = {"k": jnp.ones((4, 3))}

    @jax.jit
    def look(gradient, state):
        step = lambda sigma, sampler: make(GAMMA, sigma, 3, sampler=sampler).update(gradient, state, params)
        still, new = step(0.0, "normal")
        s = columns(lambda sampler: jax.tree.map(jnp.subtract, step(SIGMA, sampler)[0], still), params)
        return flat(step(SIGMA, "normal")[0]), s, new

    state = make(GAMMA, SIGMA, 3).init(params)
    for t, gradient in enumerate(gradients):
        ours, s, state = look(gradient, state)
        state = (*state[:-1], state[-1]._replace(key=jax.random.key(3)))
        moment = moments(name, "k")[t]
        np.testing.assert_allclose(s.T @ s, SIGMA**2 * GAMMA * moment.p, rtol=1e-3, atol=1e-4 * np.abs(s.T @ s).max())
        theirs = -GAMMA * (moment.update.ravel() + 0.5) + s.T @ flat(lgv.noise_like(3, t, params))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def rotated(bases, d):
    return lgv.Rotated(tuple(map(jnp.float32, bases)), jnp.float32(d))


def kronecker(*roots):
    return lgv.Kronecker(*map(jnp.float32, roots))


def of_soap(change):
    """An operator from the bases, the diagonal and the next step of a refresh of SOAP."""
    before, now, after = moments("soap", "k")[AT - 1 : AT + 2]
    return rotated(*change(now.factors, now.diagonal, before, after))


def of_shampoo(change):
    """An operator from L^(−1/4) and R^(−1/4) of a refresh of Shampoo."""
    return kronecker(*change(*moments("shampoo", "k")[AT].factors))


def half(matrix):
    return power(matrix, 1 / 2)


# Operators for P of the matrix in `history`, at a refresh, and whether S Sᵀ is P.
VERSIONS = {
    "soap: right": (lambda: of_soap(lambda q, d, *_: (q, d)), True),
    "soap: other signs": (lambda: of_soap(lambda q, d, *_: ([-q[0], q[1] * [1, -1, 1]], d)), True),
    "soap: P for its root": (lambda: of_soap(lambda q, d, *_: (q, d**2)), False),
    "soap: not rotated back": (lambda: of_soap(lambda q, d, *_: ([np.eye(4), np.eye(3)], d)), False),
    "soap: rotated along one axis": (lambda: of_soap(lambda q, d, *_: ([q[0], np.eye(3)], d)), False),
    "soap: rotated the other way": (lambda: of_soap(lambda q, d, *_: ([m.T for m in q], d)), False),
    "soap: the bases of after": (lambda: of_soap(lambda q, d, before, after: (after.factors, d)), False),
    "soap: P of after": (lambda: of_soap(lambda q, d, before, after: (after.factors, after.diagonal)), False),
    "soap: P of before": (lambda: of_soap(lambda q, d, before, after: (before.factors, before.diagonal)), False),
    "shampoo: right": (lambda: of_shampoo(lambda left, right: (half(left), half(right))), True),
    "shampoo: another root": (lambda: of_shampoo(lambda left, right: (np.linalg.cholesky(left), half(right))), True),
    "shampoo: L^(-1/4) for L^(-1/8)": (lambda: of_shampoo(lambda left, right: (left, right)), False),
    "shampoo: L^(-1/4) for one factor": (lambda: of_shampoo(lambda left, right: (left, half(right))), False),
    "shampoo: one factor forgotten": (lambda: of_shampoo(lambda left, right: (half(left), np.eye(3))), False),
    "shampoo: the exponent of three axes": (
        lambda: of_shampoo(lambda left, right: (power(left, 1 / 3), power(right, 1 / 3))),
        False,
    ),
    "shampoo: the factors of before": (lambda: kronecker(*map(half, moments("shampoo", "k")[AT - 1].factors)), False),
}


@functools.cache
def draws_and_root():
    """Draws of the noise for an operator, and its S, both through the public link."""
    zeros = {"k": jnp.zeros((4, 3))}

    def look(p):
        tx = lambda sampler: lgv.add_preconditioned_noise(1.0, 1.0, 0, sampler=sampler)
        update = lambda state, sampler="normal": tx(sampler).update(zeros, state, preconditioner={"k": p})[0]
        state = tx("normal").init(zeros)
        keys = jax.random.split(jax.random.key(8), DRAWS)
        drawn = jax.vmap(lambda key: flat(update(keyed(state, key))))(keys)
        return drawn, columns(lambda sampler: update(state, sampler), zeros)

    return jax.jit(look)


@pytest.mark.parametrize("version", VERSIONS)
def test_wrong_roots_are_rejected(version):
    make, is_right = VERSIONS[version]
    p = moments(version.split(":")[0], "k")[AT].p
    x, s = (np.asarray(y, np.float64) for y in draws_and_root()(make()))
    assert has_covariance(x, p) is is_right
    assert close(s.T @ s, p, 1e-4) is is_right


# Natural networks.

LAYERS = {"a": {"kernel": (4, 3), "bias": (3,)}, "c": {"kernel": (2, 1, 2, 5)}, "norm": {"scale": (2,)}}


def covariances(steps, seed=3):
    """Of the inputs of `LAYERS`, of which the last of the first layer is the 1 of the bias."""
    draw = np.random.default_rng(seed)

    def of_inputs(n, bias):
        h = draw.normal(size=(9, n)) @ draw.normal(size=(n, n))
        h = np.concatenate([h, np.ones((9, 1))], 1) if bias else h
        return h.T @ h / 9

    return [{"a": of_inputs(4, True), "c": of_inputs(4, False)} for _ in range(steps)]


def of_layers(matrices):
    """The matrices of the layers, as one over all leaves in their order: bias and kernel of a, kernel of c, scale."""
    whole = np.kron(matrices["a"], np.eye(3))
    first = np.roll(whole, 3, (0, 1))  # the bias is the last row
    return block_diagonal([first, np.kron(matrices["c"], np.eye(5)), np.eye(2)])


@QUIET
def test_the_noise_of_natural_networks_is_isotropic_on_whitened_weights():
    """S = (Σ̂ + εI)^(−1/2) over kernel and bias together, and u = S Sᵀ g, at a refresh and between two."""
    given, params = covariances(6), random_trees(LAYERS, 1)[0]
    roots = {k: matrix_recursions.prong([c[k] for c in given], EPS, 0.9, 3) for k in ("a", "c")}
    scaler = lgv.scale_by_prong(EPS, 0.9, precondition_frequency=3)
    keys = jax.random.split(jax.random.key(7), DRAWS)

    @jax.jit
    def look(gradient, state, given):
        updates, new = scaler.update(gradient, state, input_covariances=given)
        noise = lambda key, sampler="normal": noise_behind(
            updates, lgv.LangevinState(jnp.int32(0), key), sampler, GAMMA, SIGMA
        )
        drawn = jax.vmap(lambda key: flat(noise(key)))(keys)
        return flat(updates), drawn, columns(lambda sampler: noise(keys[0], sampler), gradient), new

    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        state = scaler.init(params)
        for t, covariance in enumerate(given):
            u, x, s, state = look(params, state, covariance)
            root = of_layers({k: r[t] for k, r in roots.items()})
            np.testing.assert_allclose(s.T, SIGMA * np.sqrt(GAMMA) * root, atol=1e-9)  # the symmetric root itself
            np.testing.assert_allclose(u, root @ root @ flat(params), rtol=1e-8)
    p = SIGMA**2 * GAMMA * root @ root
    assert has_covariance(np.asarray(x), p)
    apart = p.copy()
    apart[:3, 3:15] = apart[3:15, :3] = 0  # kernel and bias, each by itself
    assert not has_covariance(np.asarray(x), apart)
    assert not has_covariance(np.asarray(x), SIGMA**2 * GAMMA * root)
    earlier = of_layers({k: r[2] for k, r in roots.items()})
    assert not has_covariance(np.asarray(x), SIGMA**2 * GAMMA * earlier @ earlier)


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="last")(jnp.tanh(nn.Dense(4, name="first")(x.reshape(len(x), -1))))


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = jnp.tanh(nn.Conv(3, (2, 2), padding="VALID", name="first")(x))
        return nn.Dense(2, use_bias=False, name="last")(h.reshape(len(x), -1))


def with_one(h):
    return jnp.concatenate([h, jnp.ones((*h.shape[:-1], 1))], -1)


def inputs(kind, weights, x):
    """What the two layers of the model are given, h̃, and its outputs, all written by hand."""
    if kind is Mlp:
        first = with_one(x.reshape(len(x), -1))
        last = with_one(jnp.tanh(first @ weights[0]))
    else:
        patches = [x[:, i : i + 2, j : j + 2, :].reshape(len(x), -1) for i in range(2) for j in range(2)]
        first = with_one(jnp.stack(patches, 1))
        last = jnp.tanh(first @ weights[0]).reshape(len(x), -1)
    return (first, last), last @ weights[1]


def joined(layer):
    """The weights of a layer as one matrix over h̃."""
    rows = layer["kernel"].reshape(-1, layer["kernel"].shape[-1])
    return jnp.concatenate([rows, layer["bias"][None]]) if "bias" in layer else rows


@pytest.mark.parametrize("kind", [Mlp, pytest.param(ConvNet, marks=pytest.mark.slow)])
def test_natural_networks_are_sgd_on_the_weights_of_whitened_inputs(kind):
    """Algorithm 1 of Desjardins et al.: V = A⁻¹(W, b), reparametrised every T steps; here without centring."""
    gamma, eps, decay, every, steps = 0.2, 1e-2, 0.9, 3, 8
    draw = np.random.default_rng(5)
    xs = draw.normal(size=(steps, 6, 3, 3, 2)) @ draw.normal(size=(2, 2)) + 0.5
    ys = draw.normal(size=(steps, 6, 2))
    model = kind()
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: jnp.asarray(draw.normal(size=p.shape)), model.init(jax.random.key(0), xs[0]))
        params = params["params"]
        tx = lgv.prong(gamma, 0.0, 0, eps, decay, precondition_frequency=every)

        @jax.jit
        def ours(params, state, x, y):
            g = jax.grad(lambda p: ((model.apply({"params": p}, x) - y) ** 2).mean())(params)
            given = lgv.input_covariances(model, {"params": params}, x)
            updates, state = tx.update(g, state, params, input_covariances=given)
            return optax.apply_updates(params, updates), state

        @jax.jit
        def theirs(v, a, x, y):
            loss = lambda v: ((inputs(kind, [m @ w for m, w in zip(a, v, strict=True)], x)[1] - y) ** 2).mean()
            return [w - gamma * g for w, g in zip(v, jax.grad(loss)(v), strict=True)]

        weights = [joined(params[name]) for name in ("first", "last")]
        plain, seen, state = weights, ([], []), tx.init(params)
        a, v = None, None
        for t, (x, y) in enumerate(zip(xs, ys, strict=True)):
            for record, h in zip(seen, inputs(kind, weights, x)[0], strict=True):
                rows = np.asarray(h).reshape(-1, h.shape[-1])
                record.append(rows.T @ rows / len(rows))
            if t % every == 0:
                a = [matrix_recursions.prong(record, eps, decay, every)[-1] for record in seen]
                v = [np.linalg.solve(m, w) for m, w in zip(a, weights, strict=True)]
            v = theirs(v, a, x, y)
            weights = [m @ w for m, w in zip(a, v, strict=True)]
            plain = theirs(plain, [np.eye(len(m)) for m in a], x, y)
            params, state = ours(params, state, x, y)
            for name, w, p in zip(("first", "last"), weights, plain, strict=True):
                np.testing.assert_allclose(joined(params[name]), w, rtol=1e-9, atol=1e-10)
                assert np.abs(w - p).max() > 1e-2  # which are not those of SGD


# The law of a chain with a constant P.


class Full:
    """P of a whole tree by a root over all its entries."""

    def __init__(self, root):
        self.matrix = root

    def root(self, xi):
        _, unravel = jax.flatten_util.ravel_pytree(xi)
        return unravel(self.matrix @ flat(xi))


def ill_conditioned(draw, n, condition):
    """A symmetric matrix with eigenvalues from 1 to the condition number, in a random basis."""
    q = np.linalg.qr(draw.normal(size=(n, n)))[0]
    return q * np.geomspace(1, condition, n) @ q.T


def quadratic(name):
    """The Hessian over all entries of the leaves, and the scaler, P frozen after 12 steps, and that P in NumPy."""
    draw, after = np.random.default_rng(2), 12
    kwargs = dict(eps=1e-4, precondition_frequency=EVERY)
    if name == "prong":
        shapes = {"bias": (2,), "kernel": (4, 2)}
        covariance = ill_conditioned(draw, 5, 330)
        whole = np.kron(covariance, ill_conditioned(draw, 2, 3))
        hessian = np.roll(whole, 2, (0, 1))  # the bias is the last row
        given = {"": covariance}
        scaler = lgv.scale_by_prong(decay=0.9, **kwargs)
    else:
        shapes, given = {"kernel": (4, 3)}, None
        hessian = np.kron(ill_conditioned(draw, 4, 30), ill_conditioned(draw, 3, 33))
        noise = draw.normal(size=hessian.shape)
        hessian += 0.02 * noise @ noise.T
        scaler = MATRICES[name][1](b1=0.0, b2=0.95, **kwargs)
    size = sum(math.prod(shape) for shape in shapes.values())
    flat_gradients = [hessian @ draw.normal(size=size) for _ in range(after)]
    if name == "prong":
        root = matrix_recursions.prong([covariance] * after, 1e-4, 0.9, EVERY)[-1]
        p = np.roll(np.kron(root @ root, np.eye(2)), 2, (0, 1))
    else:
        more = [g.reshape(4, 3) for g in [*flat_gradients, flat_gradients[0]]]
        p = MATRICES[name][2](more, 0.0, 0.95, 1e-4, EVERY, after=after)[-1].p
    return shapes, hessian, flat_gradients, lgv.freeze_preconditioner(scaler, after), given, p


CHAINS, LENGTH = 4000, 150


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", ["soap", "shampoo", "prong"])
def test_the_stationary_covariance_is_the_discrete_schemes_own(name):
    """θ' = θ − γPAθ + σ√γ Sξ with a frozen P: Σ = (I − γPA) Σ (I − γPA)ᵀ + σ²γP, on a Hessian of condition 10³."""
    from scipy.linalg import solve_discrete_lyapunov

    shapes, hessian, gradients, scaler, given, p = quadratic(name)
    assert 800 < np.linalg.cond(hessian) < 1200
    gamma = 1 / np.linalg.eigvals(p @ hessian).real.max()
    step = np.eye(len(p)) - gamma * p @ hessian
    assert np.abs(np.linalg.matrix_power(step, LENGTH)).max() ** 2 < 1e-3  # whatever the start, it is forgotten
    exact = solve_discrete_lyapunov(step, SIGMA**2 * gamma * p)

    noise = lgv.add_preconditioned_noise(gamma, SIGMA, 0)
    tx = optax.chain(scaler, noise, optax.scale_by_learning_rate(gamma))
    zeros = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda x: isinstance(x, tuple))
    _, unravel = jax.flatten_util.ravel_pytree(zeros)
    extra = {} if given is None else {"input_covariances": jax.tree.map(jnp.float32, given)}
    state, update = tx.init(zeros), jax.jit(tx.update)
    for g in gradients:
        _, state = update(unravel(jnp.float32(g)), state, zeros, **extra)

    def chain(key, **kwargs):
        def move(carry, _):
            theta, state = carry
            g = unravel(jnp.matmul(jnp.float32(hessian), theta, precision="highest"))
            updates, state = tx.update(g, state, unravel(theta), **extra, **kwargs)
            return (theta + flat(updates), state), None

        start = (jnp.zeros(len(p)), keyed(state, key))
        return jax.lax.scan(move, start, length=LENGTH)[0][0]

    keys = jax.random.split(jax.random.key(9), CHAINS)
    theta = np.asarray(jax.jit(jax.vmap(chain))(keys), np.float64)
    assert has_covariance(theta, exact)
    small_steps = SIGMA**2 / 2 * np.linalg.inv(hessian)  # that of exp(−2L/σ²), the limit of small steps
    assert not has_covariance(theta, small_steps)
    if name == "shampoo":
        wrong = Full(jnp.float32(p))  # P for its root
        theta = np.asarray(jax.jit(jax.vmap(lambda key: chain(key, preconditioner=wrong)))(keys), np.float64)
        assert not has_covariance(theta, exact)


# As any optimiser: resumed, scanned, mapped, in bfloat16, on many devices.

SMALL = {"layer": {"kernel": (3, 4), "bias": (4,)}, "scale": ()}
SMALL_COVARIANCES = {"layer": np.float32(ill_conditioned(np.random.default_rng(3), 4, 30))}
OPTIMIZERS = {
    "soap": functools.partial(lgv.soap, precondition_frequency=EVERY),
    "shampoo": functools.partial(lgv.shampoo, precondition_frequency=EVERY),
    "prong": functools.partial(lgv.prong, precondition_frequency=EVERY),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def small(dtype=jnp.float32):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), random_trees(SMALL, 1)[0])


def stepper(name, tx):
    """One step on a loss that is neither convex nor symmetric. The covariances of prong change with the parameters."""

    def step(params, state):
        g = jax.grad(lambda p: sum((jnp.sin(3 * x) + 0.1 * x**2).sum() for x in jax.tree.leaves(p)))(params)
        given = {k: c * (1 + params["scale"].astype(jnp.float32) ** 2) for k, c in SMALL_COVARIANCES.items()}
        extra = {"input_covariances": given} if name == "prong" else {}
        updates, state = tx.update(g, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return step


def saved(tree):
    """A tree after a way through a file."""
    leaves, treedef = jax.tree.flatten(tree)
    written = pickle.dumps([np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in leaves])
    read = pickle.loads(written)
    return treedef.unflatten(
        [jax.random.wrap_key_data(x) if is_key(y) else jnp.asarray(x) for x, y in zip(read, leaves, strict=True)]
    )


@QUIET
@pytest.mark.parametrize("name", by_default(["soap"], OPTIMIZERS))
def test_a_run_is_one_run_resumed_scanned_and_mapped(name):
    """Resumed before, at and behind a refresh it is the same to the bit; as a scan, or one of many, to rounding."""
    tx = OPTIMIZERS[name](optax.linear_schedule(1e-2, 0.0, 20), 0.1, 0)
    step = jax.jit(stepper(name, tx))
    run = [(small(), tx.init(small()))]
    for _ in range(8):
        run.append(step(*run[-1]))
    for start in (5, 6, 7):  # the refresh is the step from 6 to 7
        resumed = saved(run[start])
        for _ in range(start, 8):
            resumed = step(*resumed)
        assert bits(resumed) == bits(run[-1])

    def scanned(key):
        start = (small(), keyed(tx.init(small()), key))
        return jax.lax.scan(lambda carry, _: (stepper(name, tx)(*carry), None), start, length=8)[0][0]

    keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
    alone, other = jax.tree.map(lambda x: x[0], mapped := jax.jit(jax.vmap(scanned))(keys)), run[-1][0]
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert all(np.abs(x[0] - x[1]).max() > 1e-3 for x in jax.tree.leaves(mapped))  # the seeds differ


@pytest.mark.parametrize(("name", "more"), [("soap", 2), ("shampoo", 2), ("prong", 1)])
def test_the_noise_costs_two_matrix_products_per_leaf(name, more):
    """One per axis that P couples: of natural networks one for kernel and bias."""
    params = {f"Dense_{i}": {"kernel": jnp.ones((4, 5)), "bias": jnp.ones(5)} for i in range(3)}
    given = {layer: jnp.eye(5) for layer in params}

    def products(sigma):
        tx = OPTIMIZERS[name](1e-2, sigma, 0)
        program = jax.make_jaxpr(lambda g, s: tx.update(g, s, g, input_covariances=given))(params, tx.init(params))
        return str(program).count("dot_general[")

    assert products(0.1) - products(0.0) == more * len(params)


@QUIET
@pytest.mark.slow
@every_optimizer
def test_without_jit_it_is_the_same_run(name):
    tx = OPTIMIZERS[name](1e-2, 0.1, 0)
    eager, step = (small(), tx.init(small())), jax.jit(stepper(name, tx))
    compiled = eager
    for _ in range(2):
        eager, compiled = stepper(name, tx)(*eager), step(*compiled)
    for a, b in zip(jax.tree.leaves(eager[0]), jax.tree.leaves(compiled[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@QUIET
@pytest.mark.parametrize("name", by_default(["soap"], OPTIMIZERS))
def test_bfloat16_parameters_have_float32_statistics(name):
    tx = OPTIMIZERS[name](1e-2, 0.1, 0)
    params, state, step = small(jnp.bfloat16), tx.init(small(jnp.bfloat16)), jax.jit(stepper(name, tx))
    for _ in range(5):
        params, state = step(params, state)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.bfloat16.dtype}
    arrays = [x for x in jax.tree.leaves(state) if x.ndim]
    assert {x.dtype for x in arrays} == {np.dtype("float32")}
    assert all(np.all(np.isfinite(np.asarray(x, np.float32))) for x in [*arrays, *jax.tree.leaves(params)])


@pytest.mark.slow
@QUIET
@pytest.mark.parametrize("name", by_default(["shampoo"], OPTIMIZERS))
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_on_many_devices_it_is_the_run_of_one(name, kind):
    """mu and nu are divided like the parameters. (A small eps would make of rounding in what is 0 a large noise.)"""
    tx = OPTIMIZERS[name](1e-2, 0.1, 0, eps=1e-2)
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)
    params = jax.tree.map(jnp.float32, random_trees({"first": {"kernel": (8, 8), "bias": (8,)}}, 1)[0])
    specs = {"first": {"kernel": Spec("data", "tensor"), "bias": Spec("tensor")}}
    start = jax.tree.map(lambda p, spec: jax.device_put(p, NamedSharding(mesh, spec)), params, specs)
    given = {"first": jnp.eye(9) + 0.1}

    @jax.jit
    def step(params, state):
        g = jax.tree.map(jnp.sin, params)
        updates, state = tx.update(g, state, params, input_covariances=given)
        return optax.apply_updates(params, updates), state

    many, one = (start, tx.init(start)), (params, tx.init(params))
    for _ in range(4):
        many, one = step(*many), step(*one)
    for a, b in zip(jax.tree.leaves(many[0]), jax.tree.leaves(one[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    moments = [getattr(many[1][0], moment) for moment in ("mu", "nu") if hasattr(many[1][0], moment)]
    assert len(moments) == {"soap": 2, "shampoo": 1, "prong": 0}[name]
    for tree in (many[0], *moments):
        for leaf, p in zip(jax.tree.leaves(tree), jax.tree.leaves(start), strict=True):
            assert leaf.sharding.is_equivalent_to(p.sharding, leaf.ndim)


# Bad input.

SCALERS = {"soap": lgv.scale_by_soap, "shampoo": lgv.scale_by_shampoo, "prong": lgv.scale_by_prong}


@pytest.mark.parametrize("name", SCALERS)
def test_frequencies_and_dimensions_are_positive_integers(name):
    for bad in ({"precondition_frequency": 0}, {"precondition_frequency": -1}, {"max_dimension": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be ≥ 1, got {next(iter(bad.values()))}"):
            SCALERS[name](**bad)
    with pytest.raises(ValueError, match="precondition_frequency must be ≥ 1, got True"):
        SCALERS[name](precondition_frequency=True)
    with pytest.raises(TypeError, match=r"precondition_frequency must be an integer, got 2\.5"):
        SCALERS[name](precondition_frequency=2.5)
    if name != "prong":
        with pytest.raises(ValueError, match="merge_dimension must be ≥ 0, got -1"):
            SCALERS[name](merge_dimension=-1)


@every_matrix
def test_leaves_must_be_real(name):
    scaler = MATRICES[name][1]()
    for dtype in ("int32", "bool", "complex64"):
        with pytest.raises(TypeError, match=rf"real leaves, but \['w'\] is {dtype}.*optax\.masked"):
            scaler.init({"w": jnp.ones((2, 2), dtype)})


@every_matrix
def test_scanned_must_name_layers(name):
    make = MATRICES[name][1]
    with pytest.raises(ValueError, match=r"scanned names \['block'\], which hold no leaf"):
        make(scanned={"block": 0}).init({"blocks": {"w": jnp.ones((2, 3, 3))}})
    with pytest.raises(ValueError, match=r"scanned says axis 3 for \['blocks'\]\['w'\], whose shape is \(2, 3, 3\)"):
        make(scanned={"blocks": 3}).init({"blocks": {"w": jnp.ones((2, 3, 3))}})
    state = make(scanned={"blocks": -3}).init({"params": {"blocks": {"w": jnp.ones((2, 3, 3))}}})
    assert state.statistics["params"]["blocks"]["w"].shape == (2, 9 + 9)
    # Below what is hidden the names cannot be known; beside it they can.
    hidden = {"blocks": optax.MaskedNode(), "head": jnp.ones((2, 2))}
    make(scanned={"blocks": 0}).init(hidden)
    with pytest.raises(ValueError, match=r"scanned names \['blokcs'\]"):
        make(scanned={"blokcs": 0}).init(hidden)
    with pytest.raises(ValueError, match="scanned has two paths"):
        make(scanned={"blocks": 0, "blocks/w": 1}).init({"blocks": {"w": jnp.ones((2, 3, 3))}})
    with pytest.raises(TypeError, match="scanned must be a dict"):
        make(scanned=["blocks"])


@pytest.mark.slow
@every_matrix
def test_a_gradient_that_is_no_number_is_not_hidden(name):
    """As in Optax: the parameters become NaN, and stay so."""
    tx = MATRICES[name][0](0.1, 0.1, 0)
    params = {"w": jnp.ones((3, 2))}
    state, update = tx.init(params), jax.jit(tx.update)
    for value in (1.0, jnp.nan, 1.0):
        updates, state = update({"w": params["w"].at[0, 0].set(value)}, state, params)
    assert np.all(np.isnan(updates["w"]))


def test_eigenvalues_below_zero_are_clipped_and_counted():
    """The statistics of a few gradients are singular, and rounding puts some of their eigenvalues below 0."""
    g = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    tx = lgv.scale_by_shampoo(b1=0.0, eps=1e-3, precondition_frequency=1)
    updates, state = jax.jit(tx.update)({"w": jnp.asarray(g)}, tx.init({"w": jnp.asarray(g)}))
    assert 0 < int(state.clipped) < 40
    np.testing.assert_allclose(updates["w"], matrix_recursions.shampoo([g], 0.0, 0.5, 1e-3)[0].update, rtol=1e-3)
    # Of statistics that are given: diag(4, −0.005, 0) along one axis, and 0 along the other.
    params = {"w": jnp.ones((3, 1))}
    tx = lgv.scale_by_shampoo(b1=0.5, b2=1.0, eps=1e-2, precondition_frequency=1)
    state = tx.init(params)
    left = jnp.diag(jnp.array([4.0, -5e-3, 0.0]))
    state = state._replace(mu=params, statistics={"w": jnp.append(left.ravel(), 0.0)})
    updates, state = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), state)
    np.testing.assert_allclose(updates["w"][:, 0], np.array([4.01, 0.01, 0.01]) ** -0.25 * 0.01**-0.25, rtol=1e-5)
    assert state.clipped == 1


def test_natural_networks_need_the_covariances_of_their_own_layers():
    params = {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    tx = lgv.prong(0.1, 0.1, 0)
    state = tx.init(params)
    update = lambda given: tx.update(params, state, params, input_covariances=given)
    for missing in (lambda: update(None), lambda: tx.update(params, state, params)):
        with pytest.raises(ValueError, match=r"pass input_covariances=, from langevin_optax\.input_covariances"):
            missing()
    with pytest.raises(TypeError, match="must be a dict from the paths of layers to matrices, got tuple"):
        update((jnp.eye(3),))
    with pytest.raises(ValueError, match=r"a layer 'Dense_1', where the updates have no kernel.*another model\?"):
        update({"Dense_0": jnp.eye(3), "Dense_1": jnp.eye(3)})
    with pytest.raises(ValueError, match=r"covariance of 'Dense_0' has shape \(4, 4\).*another model\?"):
        update({"Dense_0": jnp.eye(4)})
    with pytest.raises(ValueError, match="the input covariance of 'Dense_0' is not finite"):
        update({"Dense_0": jnp.eye(3).at[0, 0].set(jnp.nan)})


def test_natural_networks_name_the_leaves_that_have_no_covariances():
    params = {"a": {"kernel": jnp.ones((2, 3))}, "norm": {"scale": jnp.full(3, 2.0)}}
    tx = lgv.scale_by_prong()
    with pytest.warns(UserWarning, match=r"no covariances for \['norm'\]\['scale'\]: there P = 1"):
        updates, _ = tx.update(params, tx.init(params), input_covariances={"a": jnp.eye(2)})
    assert updates["norm"]["scale"].tolist() == [2.0] * 3


@pytest.mark.slow
def test_natural_networks_take_a_kernel_of_three_axes_by_its_covariance():
    """Whether it is an attention's or a convolution's is for ``like`` to say."""
    kernel, covariance = jnp.ones((4, 2, 3)), jnp.diag(jnp.array([1.0, 2.0, 3.0, 4.0]))
    params = {"query": {"kernel": kernel, "bias": jnp.ones((2, 3))}}
    given = {"query": jnp.pad(covariance, (0, 1)).at[4, 4].set(9.0)}
    tx = lgv.scale_by_prong(eps=1.0, like=given)
    updates, _ = tx.update(params, tx.init(params), input_covariances=given)
    np.testing.assert_allclose(updates["query"]["kernel"][:, 1, 2], [1 / 2, 1 / 3, 1 / 4, 1 / 5], rtol=1e-5)
    np.testing.assert_allclose(updates["query"]["bias"], np.full((2, 3), 0.1), rtol=1e-5)
    blind = lgv.scale_by_prong(eps=1.0)
    with pytest.warns(UserWarning, match="no covariances"):
        updates, _ = blind.update(params, blind.init(params), input_covariances=given)
    assert np.all(updates["query"]["kernel"] == 1)
