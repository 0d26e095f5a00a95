"""K-FAC over kfac-jax, where it is installed: its update bit for bit, and noise whose covariance is its P."""

import dataclasses
import functools
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import langevin_optax as lgv
from langevin_optax.preconditioners import _kfac, _marks, _matrices, _operators
from tests.cases import bits

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import kfac_jax
except (ImportError, AttributeError) as error:  # the latter is how 0.0.8 fails on JAX 0.12
    pytest.skip(f"kfac-jax cannot be imported with JAX {jax.__version__}: {error}", allow_module_level=True)

demo = pytest.importorskip("examples.kfac.__main__")  # it also lets kfac-jax 0.0.8 run on JAX 0.10
pytestmark = pytest.mark.filterwarnings("ignore:jax.core.* is deprecated:DeprecationWarning")  # by kfac-jax 0.0.8

GAMMA, SIGMA, DAMPING = 0.1, 0.3, 0.02
# F is the scale times A ⊗ G: of a convolution at 4 places A and G are means over them, of a dense layer there sums. By
# the size of A: that of the convolution, of the dense layer at each place, and of the last one.
SCALES = {10: 4, 3: 1 / 4, 4: 1}


def model(params, x):
    """A convolution, a dense layer at each of 4 places, a vector of its own, and a dense layer."""
    h = jax.lax.conv_general_dilated(
        x, params["conv"]["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    h = jnp.tanh(h + params["conv"]["bias"]).reshape(len(x), 4, 2)
    h = jnp.tanh(h @ params["each"]["kernel"] + params["each"]["bias"])
    h = jnp.sin(h.mean(axis=1) * jnp.exp(params["gain"]))
    return h @ params["out"]["kernel"] + params["out"]["bias"]


def loss_fn(params, batch):
    x, y = batch
    logits = model(params, x)
    kfac_jax.register_softmax_cross_entropy_loss(logits, y)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def start():
    shapes = {
        "conv": {"bias": (2,), "kernel": (3, 3, 1, 2)},
        "each": {"bias": (3,), "kernel": (2, 3)},
        "gain": (3,),
        "out": {"bias": (3,), "kernel": (3, 3)},
    }
    flat, treedef = jax.tree.flatten(shapes, is_leaf=lambda shape: isinstance(shape, tuple))
    keys = jax.random.split(jax.random.key(0), len(flat))
    return treedef.unflatten([jax.random.normal(key, shape, float) for key, shape in zip(keys, flat, strict=True)])


def batch(seed):
    x_key, y_key = jax.random.split(jax.random.key(seed))
    return jax.random.normal(x_key, (16, 4, 4, 1), float), jax.random.randint(y_key, (16,), 0, 3)


class Given(NamedTuple):
    preconditioner: object
    params: object
    grads: object
    first: object  # the state of K-FAC when it kept inverses, before step 0
    now: object  # before step 1

    def updated(self):
        link = lgv.kfac_preconditioner(self.preconditioner)
        return link.update(self.grads, optax.EmptyState(), precond_state=self.now)[0]


@functools.cache
def averages():
    """The states of K-FAC before the steps 0 and 1, without anything that it keeps beside its averages."""
    preconditioner = make()
    params = start()
    state = preconditioner.init((params, batch(0)), jax.random.key(0))
    maybe_update = jax.jit(preconditioner.maybe_update)
    first = maybe_update(state, (params, batch(1)), jax.random.key(1))
    return first, maybe_update(preconditioner.increment_count(first), (params, batch(2)), jax.random.key(2))


def make(**kwargs):
    kwargs = {"damping": DAMPING, "inverse_update_period": 1} | kwargs
    return kfac_jax.OptaxPreconditioner(loss_fn, pmap_axis_name=None, **kwargs)


@functools.cache
def given(**kwargs):
    """As `maybe_update` would have it, which is compiled once only, since it takes long."""

    def with_averages(state, other):
        pairs = zip(state.estimator_state.blocks_states, other.estimator_state.blocks_states, strict=True)
        blocks = tuple(dataclasses.replace(theirs, cache=ours.cache) for ours, theirs in pairs)
        return other._replace(estimator_state=dataclasses.replace(other.estimator_state, blocks_states=blocks))

    with jax.enable_x64(True):
        preconditioner, params = make(**kwargs), start()
        state = preconditioner.init((params, batch(0)), jax.random.key(0))
        first, now = averages()
        first = preconditioner.maybe_update_inverse_cache(with_averages(state, first))
        return Given(preconditioner, params, jax.grad(loss_fn)(params, batch(2)), first, with_averages(first, now))


def columns(linear, tree):
    """The matrix of a linear function of trees."""
    flat, unravel = ravel_pytree(tree)
    return np.asarray(jax.jit(jax.vmap(lambda e: ravel_pytree(linear(unravel(e)))[0], out_axes=1))(jnp.eye(flat.size)))


def root(it):
    """S, from what the updates carry."""

    def shaped(xi):
        leaves, treedef = jax.tree.flatten(it.updated())
        ps = [_marks.read(u) for u in leaves]
        assert all(isinstance(p, _operators.Part) for p in ps)
        names = [str(i) for i in range(len(ps))]
        return treedef.unflatten(_operators.shaped(ps, jax.tree.leaves(xi), names)[1])

    return columns(shaped, it.grads)


def matrix(it):
    """P, by the update of kfac-jax."""
    return columns(lambda g: it.preconditioner.apply(g, it.now), it.grads)


def error(s, p):
    return np.abs(s @ s.T - p).max() / np.abs(p).max()


def power(matrix, exponent):
    eigenvalues, vectors = np.linalg.eigh(matrix)
    return (vectors * eigenvalues**exponent) @ vectors.T


def published(it, damping, kept, exact, exponent):
    """P by the formulas of Martens and Grosse, in NumPy, from the averages that K-FAC holds, or held when it kept P."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(it.params)]
    ends = np.cumsum([leaf.size for leaf in leaves])
    places = [np.arange(end - leaf.size, end) for end, leaf in zip(ends, leaves, strict=True)]
    p, found = np.zeros((ends[-1], ends[-1])), []
    states = [state.estimator_state.blocks_states for state in (it.first, it.now)]
    for where, first, now in zip(it.preconditioner.estimator.jaxpr.layer_indices, *states, strict=True):
        if hasattr(now, "diagonal_factors"):
            for i, average in zip(where, now.diagonal_factors, strict=True):
                p[places[i], places[i]] = (np.asarray(average.value).ravel() + damping) ** exponent
            continue
        a, g = (np.asarray(average.value) for average in (first if kept else now).factors)
        # The kernel over the bias, with a row for each input and a column for each output.
        joined = np.concatenate([places[i].reshape(-1, len(g)) for i in where]).ravel()
        scale = SCALES[len(a)]
        found.append(len(a))
        if exact:
            of_block = power(scale * np.kron(a, g) + damping * np.eye(len(joined)), exponent)
        else:
            pi, split = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g))), np.sqrt(damping / scale)
            factors = a + pi * split * np.eye(len(a)), g + split / pi * np.eye(len(g))
            of_block = np.kron(*map(np.linalg.inv, factors)) / scale
        p[np.ix_(joined, joined)] = of_block
    assert sorted(found) == sorted(SCALES)
    return p


MODES = [
    pytest.param({"inverse_update_period": 5}, id="kept-inverses"),
    pytest.param({}, id="inverses", marks=pytest.mark.slow),
    pytest.param({"use_exact_inverses": True, "inverse_update_period": 5, "l2_reg": 0.05}, id="kept-eigenvectors"),
    pytest.param({"use_exact_inverses": True}, id="eigenvectors", marks=pytest.mark.slow),
    pytest.param({"use_exact_inverses": True, "use_sqrt_inv": True}, id="square-root", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", MODES)
def test_the_covariance_is_p(kwargs):
    """S Sᵀ = P as full matrices: of kfac-jax, and by the published formulas."""
    it = given(**kwargs)
    with jax.enable_x64(True):
        s, p = root(it), matrix(it)
    assert error(s, p) < 1e-9
    formula = published(
        it,
        damping=DAMPING + kwargs.get("l2_reg", 0),
        kept="inverse_update_period" in kwargs,
        exact="use_exact_inverses" in kwargs,
        exponent=-0.5 if "use_sqrt_inv" in kwargs else -1,
    )
    assert error(s, formula) < 1e-9


def p_for_its_root(monkeypatch):
    monkeypatch.setattr(_kfac, "_any_root", lambda p: p)


def one_factor_forgotten(monkeypatch):
    kronecker = _matrices.Kronecker
    monkeypatch.setattr(_matrices, "Kronecker", lambda of_inputs, of_outputs: kronecker(of_inputs, None))


WRONG = [p_for_its_root, one_factor_forgotten]


@pytest.mark.parametrize("wrong", [WRONG[0], pytest.param(WRONG[1], marks=pytest.mark.slow)])
def test_a_wrong_root_is_found(wrong, monkeypatch):
    it = given(inverse_update_period=5)
    with jax.enable_x64(True):
        assert error(root(it), matrix(it)) < 1e-9
        wrong(monkeypatch)
        assert error(root(it), matrix(it)) > 0.1


def noise(it, n, **kwargs):
    """n draws of what the chain adds, for n keys, and what it adds them to."""
    tx = optax.chain(
        lgv.kfac_preconditioner(it.preconditioner),
        lgv.add_preconditioned_noise(GAMMA, SIGMA, 0, **kwargs),
        optax.scale_by_learning_rate(GAMMA),
    )
    first, state, last = tx.init(it.params)

    def moves(key):
        states = first, state._replace(key=key), last
        return ravel_pytree(tx.update(it.grads, states, it.params, precond_state=it.now)[0])[0]

    still = ravel_pytree(it.preconditioner.apply(it.grads, it.now))[0]
    return np.asarray(jax.jit(jax.vmap(moves))(jax.random.split(jax.random.key(1), n)) + GAMMA * still)


def deviation(draws, covariance):
    """The largest of the deviations of the empirical covariance, where that is 1, in their standard deviations."""
    white = np.linalg.solve(np.linalg.cholesky(covariance), draws.T)
    off = np.abs(white @ white.T / len(draws) - np.eye(len(covariance))) * np.sqrt(len(draws))
    return (off / np.sqrt(1 + np.eye(len(off)))).max()


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_the_noise_has_the_covariance_of_p(exact):
    """σ² γ P, from 4000 draws of the chain, where the largest of 990 deviations is within 5 standard deviations."""
    it = given(inverse_update_period=5, use_exact_inverses=exact)
    p = published(it, DAMPING, kept=True, exact=exact, exponent=-1)
    with jax.enable_x64(True):
        assert deviation(noise(it, 4000), SIGMA**2 * GAMMA * p) < 5


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [WRONG[0], pytest.param(WRONG[1], marks=pytest.mark.slow)])
def test_noise_of_a_wrong_root_is_found(wrong, monkeypatch):
    it = given(inverse_update_period=5)
    p = published(it, DAMPING, kept=True, exact=False, exponent=-1)
    wrong(monkeypatch)
    with jax.enable_x64(True):
        assert deviation(noise(it, 4000), SIGMA**2 * GAMMA * p) > 20


@pytest.mark.slow
def test_a_masked_layer_has_the_noise_it_has_alone():
    """P couples the kernel and the bias of a layer, which a mask takes or leaves together, and no two layers."""
    it = given(inverse_update_period=5)
    kernels = jax.tree.map(lambda p: p.ndim > 1, it.params)
    with jax.enable_x64(True):
        everywhere, first = noise(it, 2), noise(it, 2, mask=lgv.layer_mask(1, ["conv", "each", "gain", "out"]))
        with pytest.raises(ValueError, match=r"couples 2 leaves, of which only 1 are here: .*kernel"):
            noise(it, 2, mask=kernels)
    assert np.abs(first[:, :20]).min() > 1e-6
    np.testing.assert_allclose(first[:, :20], everywhere[:, :20], rtol=1e-9)
    assert np.abs(first[:, 20:]).max() < 1e-12


@pytest.mark.parametrize("exact", [False, True])
def test_no_noise_is_kfac_jax_bit_for_bit(exact):
    it = given(inverse_update_period=5, use_exact_inverses=exact)

    def after(link):
        tx = optax.chain(link, optax.scale_by_learning_rate(GAMMA))

        @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
        def step(params, opt_state, kfac_state):
            updates, opt_state = tx.update(it.grads, opt_state, params, precond_state=kfac_state)
            return optax.apply_updates(params, updates), opt_state, kfac_state

        params, opt_state, kfac_state = jax.tree.map(jnp.copy, (it.params, tx.init(it.params), it.now))
        for _ in range(2):
            params, opt_state, kfac_state = step(params, opt_state, kfac_state)
        return params

    with jax.enable_x64(True):
        stock = after(it.preconditioner.as_gradient_transform())
        link = lgv.kfac_preconditioner(it.preconditioner)
        ours = after(optax.chain(link, lgv.add_preconditioned_noise(GAMMA, 0.0, 0)))
    assert bits(ours) == bits(stock)
    assert bits(stock) != bits(it.params)
    assert link.init(it.params) == optax.EmptyState()


@pytest.mark.slow
def test_a_bound_on_the_step_shrinks_p():
    """u = c P g is the step of c P, whether the bound binds or not."""
    it = given(inverse_update_period=5)
    with jax.enable_x64(True):
        s, u = root(it), it.preconditioner.apply(it.grads, it.now)
        norm = float(np.dot(ravel_pytree(u)[0], ravel_pytree(it.grads)[0]))
        for bound, c in ((norm / 4, 0.5), (norm * 4, 1.0)):
            bounded = it._replace(preconditioner=make(inverse_update_period=5, norm_constraint=bound))
            bounded.preconditioner.init((it.params, batch(0)), jax.random.key(0))
            np.testing.assert_allclose(ravel_pytree(bounded.updated())[0], c * ravel_pytree(u)[0], rtol=1e-9)
            np.testing.assert_allclose(root(bounded), np.sqrt(c) * s, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param({"damping": None, "damping_schedule": lambda count: DAMPING / (1 + 99 * count)}, id="schedule"),
        pytest.param({"norm_to_scale_identity_weight_per_block": "avg_diag"}, id="norm", marks=pytest.mark.slow),
        pytest.param({"norm_to_scale_identity_weight_per_block": "avg_diag", "use_exact_inverses": True}, id="exact"),
    ],
)
def test_the_damping_of_the_step_is_that_of_the_root(kwargs):
    """A schedule of the damping, and one that a norm of each block multiplies."""
    it = given()._replace(preconditioner=make(**kwargs))
    with jax.enable_x64(True):
        it.preconditioner.init((it.params, batch(0)), jax.random.key(0))
        s, p = root(it), matrix(it)
    assert error(s, p) < 1e-9
    assert error(s, published(it, DAMPING, kept=False, exact="use_exact_inverses" in kwargs, exponent=-1)) > 0.1


@pytest.mark.slow
def test_localization_pulls_by_p():
    it = given(inverse_update_period=5)
    with jax.enable_x64(True):
        center = jax.tree.map(lambda p: p + jnp.cos(p), it.params)
        tx = optax.chain(lgv.kfac_preconditioner(it.preconditioner), lgv.add_localization(2.0, center))
        update = jax.jit(lambda grads: tx.update(grads, tx.init(it.params), it.params, precond_state=it.now)[0])
        pulled = jax.tree.map(lambda g, p, c: g + 2 * (p - c), it.grads, it.params, center)
        expected = it.preconditioner.apply(pulled, it.now)
        np.testing.assert_allclose(ravel_pytree(update(it.grads))[0], ravel_pytree(expected)[0], rtol=1e-8)


def test_a_root_where_rounding_made_p_indefinite():
    for diagonal, of_positive in (([4.0, -1e-8], [2.0, 0.0]), ([0.0, 0.0], [0.0, 0.0])):
        np.testing.assert_allclose(_kfac._any_root(jnp.diag(jnp.array(diagonal))), np.diag(of_positive), atol=1e-7)


def test_what_is_no_preconditioner():
    for other in (optax.adam(0.1), None, kfac_jax.OptaxPreconditioner):
        with pytest.raises(TypeError, match=r"must be a kfac_jax\.OptaxPreconditioner"):
            lgv.kfac_preconditioner(other)
    with pytest.raises(ValueError, match="needs use_exact_inverses=True"):
        lgv.kfac_preconditioner(make(use_sqrt_inv=True))


def test_what_is_no_state():
    it = given(inverse_update_period=5)
    link = lgv.kfac_preconditioner(it.preconditioner)
    with pytest.raises(ValueError, match="pass precond_state="):
        link.update(it.grads, optax.EmptyState())
    with pytest.raises(TypeError, match=r"must be a kfac_jax\.OptaxPreconditionState, got State"):
        it._replace(now=it.now.estimator_state).updated()
    with pytest.raises(ValueError, match=r"call preconditioner\.init"):
        it._replace(preconditioner=make()).updated()
    with jax.enable_x64(True):
        unseen = it.preconditioner.init((it.params, batch(0)), jax.random.key(0))
    with pytest.raises(ValueError, match="seen no batch yet"):
        it._replace(now=unseen).updated()


@pytest.mark.slow
def test_what_has_no_root():
    it = given(inverse_update_period=5)
    link = lgv.kfac_preconditioner(it.preconditioner)
    for tx, message in (
        (optax.masked(link, lgv.layer_mask(1, ["conv", "each", "gain", "out"])), r"not within optax\.masked"),
        (optax.chain(lgv.scale_by_rms(), link), "two preconditioners in a row"),
    ):
        with jax.enable_x64(True), pytest.raises(ValueError, match=message):
            tx.update(it.grads, tx.init(it.params), it.params, precond_state=it.now)
    full = make(layer_tag_to_block_ctor={"generic": kfac_jax.NaiveFull, "scale_and_shift": kfac_jax.NaiveFull})
    with jax.enable_x64(True), pytest.raises(ValueError, match="no root for blocks of type NaiveFull"):
        _kfac._roots(kfac_jax, full, full.init((it.params, batch(0)), jax.random.key(0)))


@pytest.mark.slow
def test_the_example_trains(capsys):
    results = demo.main(["--steps", "15", "--sigma", "0.02"])
    assert [line.split(":")[0].strip() for line in capsys.readouterr().out.splitlines()] == [*results]
    assert [*results] == ["K-FAC", "L-K-FAC", "LL-K-FAC"]
    losses, accuracies = zip(*results.values(), strict=True)
    assert len(set(losses)) == 3
    assert min(accuracies) > 0.7
