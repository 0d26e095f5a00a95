"""P that is no diagonal: an operator for a leaf, or for several that it couples, wherever a diagonal may stand."""

import gc
import math

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from langevin_optax.preconditioners import _marks
from tests.cases import bits, by_default
from tests.preconditioners.matrix_recursions import kron

GAMMA, SIGMA = 0.1, 0.3
DRAW = np.random.default_rng(0)
LEFT, RIGHT = (np.float32(np.eye(n) + 0.4 * DRAW.normal(size=(n, n))) for n in (2, 3))
TURN_LEFT, TURN_RIGHT = (np.float32(np.linalg.qr(DRAW.normal(size=(n, n)))[0]) for n in (2, 3))
D = np.float32(DRAW.uniform(0.5, 4.0, size=(2, 3)))
PARAMS = {"w": jnp.ones((2, 3)), "v": jnp.full(3, 2.0), "layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


class Joint:
    """P of kernel and bias, or of any tree, by one root over all its entries."""

    def __init__(self, root):
        self.matrix = jnp.asarray(root)

    def root(self, xi):
        flat, unravel = jax.flatten_util.ravel_pytree(xi)
        return unravel(self.matrix @ flat)


JOINT = Joint(np.float32(np.eye(6) + 0.3 * DRAW.normal(size=(6, 6))))
OPERATORS = {"w": lgv.Kronecker(LEFT, RIGHT), "v": 4.0, "layer": JOINT}


def whole(operator, shape):
    """S as a matrix over the raveled leaf."""
    n = math.prod(shape)
    return np.stack([np.ravel(operator.root(jnp.eye(n)[i].reshape(shape))) for i in range(n)], 1)


def noise(**kwargs):
    return lgv.add_preconditioned_noise(GAMMA, SIGMA, 0, **kwargs)


def noisy(preconditioner, updates=ZEROS, **kwargs):
    """The updates with the noise of the first step."""
    tx = noise(**kwargs)
    return tx.update(updates, tx.init(updates), preconditioner=preconditioner)[0]


def expected(root, tree, size=SIGMA * GAMMA**-0.5):
    """σ/√γ S ξ, with the very ξ of `noise_like`."""
    xi, unravel = jax.flatten_util.ravel_pytree(lgv.noise_like(0, 0, tree))
    return unravel(jnp.float32(size * root @ xi))


def assert_close(ours, theirs, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), ours, theirs)


# The operators themselves.


@pytest.mark.parametrize(
    ("operator", "root"),
    [
        (lgv.Kronecker(LEFT, RIGHT), kron([LEFT, RIGHT])),
        (lgv.Kronecker(LEFT, None), kron([LEFT, np.eye(3)])),
        (lgv.Kronecker(None, jnp.asarray(RIGHT)), kron([np.eye(2), RIGHT])),
        (lgv.Rotated((TURN_LEFT, TURN_RIGHT), D), kron([TURN_LEFT, TURN_RIGHT]) * np.sqrt(D.ravel())),
        (lgv.Rotated((None, TURN_RIGHT), D[:1]), kron([np.eye(2), TURN_RIGHT]) * np.sqrt(np.tile(D[0], 2))),
        (lgv.Rotated((TURN_LEFT, None), 9.0), 3 * kron([TURN_LEFT, np.eye(3)])),
    ],
    ids=["both", "left", "right", "rotated", "rotated along one", "a number in the bases"],
)
def test_the_root_is_this_matrix(operator, root):
    np.testing.assert_allclose(whole(operator, (2, 3)), root, atol=1e-5)
    leaves, treedef = jax.tree.flatten(operator)
    np.testing.assert_allclose(whole(treedef.unflatten(leaves), (2, 3)), root, atol=1e-5)
    assert operator.root(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.bfloat16


def test_a_tensor_has_a_root_per_axis():
    middle = np.float32(DRAW.normal(size=(2, 2)))
    operator = lgv.Kronecker(RIGHT, middle, LEFT)
    np.testing.assert_allclose(whole(operator, (3, 2, 2)), kron([RIGHT, middle, LEFT]), atol=1e-5)
    assert lgv.Kronecker().root(jnp.array(3.0)) == 3


def test_stacked_layers_have_a_root_each():
    stack = np.float32(DRAW.normal(size=(4, 2, 2)))
    bases = np.stack([TURN_RIGHT, TURN_RIGHT.T, -TURN_RIGHT, np.eye(3, dtype=np.float32)])
    d = np.float32(DRAW.uniform(0.5, 2.0, size=(4, 2, 3)))
    xi = jnp.asarray(DRAW.normal(size=(4, 2, 3)), jnp.float32)
    for layer in range(4):
        alone = lgv.Kronecker(stack[layer], RIGHT).root(xi[layer])
        np.testing.assert_allclose(lgv.Kronecker(None, stack, RIGHT).root(xi)[layer], alone, rtol=1e-5, atol=1e-6)
        alone = lgv.Rotated((None, bases[layer]), d[layer]).root(xi[layer])
        np.testing.assert_allclose(lgv.Rotated((None, None, bases), d).root(xi)[layer], alone, rtol=1e-5, atol=1e-6)


class Shorter:
    def root(self, xi):
        return xi[0]


BAD = {
    "not square": (lambda: lgv.Kronecker(jnp.ones((2, 3)), None), r"root of axis 0 must be square.*\(2, 3\)"),
    "a vector": (lambda: lgv.Kronecker(None, jnp.ones(3)), r"root of axis 1 must be square.*got shape \(3,\)"),
    "basis not square": (lambda: lgv.Rotated((None, jnp.ones((2, 3))), 1.0), r"basis of axis 1 must be square"),
    "too few roots": (lambda: noisy({**OPERATORS, "w": lgv.Kronecker(LEFT)}), r"1 roots for a leaf of shape \(2, 3\)"),
    "too many bases": (
        lambda: noisy({**OPERATORS, "w": lgv.Rotated((LEFT, RIGHT, None), 1.0)}),
        r"3 bases for a leaf of shape \(2, 3\): there must be a matrix, or None, for each axis",
    ),
    "another size": (
        lambda: noisy({**OPERATORS, "w": lgv.Kronecker(RIGHT, RIGHT)}),
        r"roots do not fit the leaf of shape \(2, 3\): that of axis 0 has shape \(3, 3\), where \(2, 2\) belongs",
    ),
    "another number of layers": (
        lambda: lgv.Kronecker(None, np.stack([LEFT] * 3)).root(jnp.ones((4, 2))),
        r"roots do not fit the leaf of shape \(4, 2\): that of axis 1 has shape \(3, 2, 2\)",
    ),
    "layers that have a root": (
        lambda: lgv.Kronecker(np.eye(4), np.stack([LEFT] * 4)).root(jnp.ones((4, 2))),
        r"axis 1 has shape \(4, 2, 2\).*or before that first axes of the leaf that have None",
    ),
    "p of another shape": (
        lambda: noisy({**OPERATORS, "w": lgv.Rotated((None, TURN_RIGHT), jnp.ones(2))}),
        r"p of Rotated has shape \(2,\), which does not broadcast to the leaf's \(2, 3\)",
    ),
    "p < 0": (
        lambda: noisy({**OPERATORS, "w": lgv.Rotated((None, TURN_RIGHT), jnp.array([1.0, -1.0, 1.0]))}),
        r"preconditioner must be ≥ 0, got .* at \['w'\]",
    ),
    "p NaN": (
        lambda: noisy({**OPERATORS, "w": lgv.Rotated((None, TURN_RIGHT), np.nan)}),
        r"preconditioner must be ≥ 0, got nan at \['w'\]",
    ),
    "a root of another shape": (
        lambda: noisy({**OPERATORS, "w": Shorter()}),
        r"root\(xi\) must have the shape of xi, \(2, 3\), got \(3,\)",
    ),
    "no operator for a part": (lambda: noisy({**OPERATORS, "layer": 1.0}), "in which an operator may stand for a part"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bad", BAD)
def test_what_fits_no_leaf_raises(bad):
    call, message = BAD[bad]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "make",
    [
        lambda: lgv.Kronecker(1j * LEFT, None),
        lambda: lgv.Rotated((1j * TURN_LEFT, None), 1.0),
        lambda: lgv.Rotated((TURN_LEFT, None), 1j),
    ],
    ids=["root", "basis", "p"],
)
def test_what_is_complex_raises(make):
    """As a complex diagonal does."""
    with pytest.raises(TypeError, match="must be real"):
        make()


# Where an operator may stand.


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_the_noise_is_the_root_of_that_of_noise_like(jit):
    """Handed to update; an operator is a pytree, so it may be an argument of a jit. Other leaves keep their noise."""
    tx, state = noise(), noise().init(ZEROS)
    update = lambda w, v: tx.update(ZEROS, state, preconditioner={"w": w, "v": v, "layer": JOINT})[0]
    ours = (jax.jit(update) if jit else update)(OPERATORS["w"], 4.0)
    assert_close({"w": ours["w"]}, expected(kron([LEFT, RIGHT]), {"w": ZEROS["w"]}))
    assert_close({"layer": ours["layer"]}, expected(JOINT.matrix, {"layer": ZEROS["layer"]}))
    alone = lambda v: noise().update({"v": ZEROS["v"]}, state, preconditioner={"v": v})[0]
    assert bits(ours["v"]) == bits((jax.jit(alone) if jit else alone)(4.0))


def test_before_and_after_the_learning_rate():
    after = noisy(OPERATORS, after_learning_rate=True)
    assert_close({"w": after["w"]}, expected(kron([LEFT, RIGHT]), {"w": ZEROS["w"]}, SIGMA * np.sqrt(GAMMA)))
    assert_close(jax.tree.map(lambda u: GAMMA * u, noisy(OPERATORS)), after)


@pytest.mark.parametrize("sampler", ["rademacher", "three_point"])
def test_every_sampler_is_shaped(sampler):
    xi = lgv.noise_like(0, 0, ZEROS, sampler)
    ours = noisy(OPERATORS, sampler=sampler)["w"]
    np.testing.assert_allclose(ours, SIGMA / np.sqrt(GAMMA) * LEFT @ xi["w"] @ RIGHT.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
def test_a_scaler_of_ones_own_publishes_operators(jit):
    """For a leaf, and for kernel and bias together; trace and identity hand it on."""
    own = lgv.with_preconditioner(optax.identity(), lambda g, old, new: OPERATORS)
    for links in ((own,), (own, lgv.trace(0.9), lgv.identity(), optax.identity())):
        tx = optax.chain(*links, noise())
        update = jax.jit(tx.update) if jit else tx.update
        ours, _ = update(ZEROS, tx.init(PARAMS), PARAMS)
        assert_close(ours, noisy(OPERATORS))


def test_the_engine_takes_operators():
    """θ moves by −γ P g + σ√γ S ξ."""
    root = kron([LEFT, RIGHT])
    p = lgv.Kronecker(LEFT, RIGHT)

    def alias(learning_rate):
        scale = lambda u, params: jax.tree.map(lambda g: (root @ root.T @ g.ravel()).reshape(g.shape), u)
        return optax.chain(optax.stateless(scale), optax.scale_by_learning_rate(learning_rate))

    params = {"w": PARAMS["w"]}
    build = lgv.langevin(alias, SIGMA, 0, preconditioner=lambda arguments, updates, old, new: {"w": p})
    tx = build(GAMMA)
    ours, _ = jax.jit(tx.update)(params, tx.init(params), params)
    moved = {"w": -GAMMA * (root @ root.T @ np.ones(6)).reshape(2, 3)}
    assert_close(ours, jax.tree.map(jnp.add, moved, expected(root, params, SIGMA * np.sqrt(GAMMA))))
    # An operator that is handed to update takes its place.
    ours, _ = tx.update(params, tx.init(params), params, preconditioner={"w": lgv.Kronecker(None, RIGHT)})
    other = expected(kron([np.eye(2), RIGHT]), params, SIGMA * np.sqrt(GAMMA))
    assert_close(ours, jax.tree.map(jnp.add, moved, other))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["soap", "shampoo"])
def test_a_whole_optimiser_of_matrices_takes_a_p_that_is_handed_in(name):
    params = {"w": PARAMS["w"]}
    tx = getattr(lgv, name)(GAMMA, SIGMA, 0)
    quiet = getattr(lgv, name)(GAMMA, 0.0, 0)
    ours, _ = tx.update(params, tx.init(params), params, preconditioner={"w": OPERATORS["w"]})
    still, _ = quiet.update(params, quiet.init(params), params)
    theirs = expected(kron([LEFT, RIGHT]), params, SIGMA * GAMMA**0.5)
    assert_close(jax.tree.map(jnp.subtract, ours, still), theirs, rtol=1e-4)


def test_complex_leaves_are_shaped_in_both_parts():
    zeros = {"w": jnp.zeros((2, 3), jnp.complex64)}
    xi = lgv.noise_like(0, 0, zeros)["w"]
    ours = noisy({"w": lgv.Kronecker(LEFT, RIGHT)}, zeros)["w"]
    np.testing.assert_allclose(ours, SIGMA / np.sqrt(GAMMA) * LEFT @ xi @ RIGHT.T, rtol=1e-5, atol=1e-5)


def test_the_noise_is_rounded_once():
    """Shaped and added in float32, to bfloat16 updates."""
    updates = jax.tree.map(lambda p: jnp.full_like(p, 1.0, jnp.bfloat16), PARAMS)
    exact = jax.tree.map(lambda u: 1 + u, noisy(OPERATORS))
    assert bits(noisy(OPERATORS, updates)) == bits(jax.tree.map(lambda u: u.astype(jnp.bfloat16), exact))


def test_the_limits_of_no_noise_are_exact():
    updates = jax.tree.map(lambda p: -0.0 * p, PARAMS)
    for gamma, sigma in ((0.0, 1.0), (0.1, 0.0), (0.1, jnp.float32(0.0))):
        tx = lgv.add_preconditioned_noise(gamma, sigma, 0)
        for update in (tx.update, jax.jit(lambda u, s, tx=tx: tx.update(u, s, preconditioner=OPERATORS))):
            extra = {} if update is not tx.update else {"preconditioner": OPERATORS}
            assert bits(update(updates, tx.init(updates), **extra)[0]) == bits(updates)
    nothing = {**OPERATORS, "w": lgv.Rotated((None, TURN_RIGHT), 0.0)}
    assert not np.any(noisy(nothing)["w"])
    assert np.all(noisy(nothing)["v"])


@pytest.mark.parametrize("name", ["w", "layer"])
def test_max_noise_is_for_diagonals(name):
    """And says why: what bounds single coordinates is no matrix."""
    preconditioner = {"w": 1.0, "v": 1.0, "layer": {"kernel": 1.0, "bias": 1.0}, name: OPERATORS[name]}
    with pytest.raises(ValueError, match=rf"P is a matrix, at \['{name}'\].*change its directions.* larger eps"):
        noisy(preconditioner, max_noise=1.0)
    # A leaf that gets no noise is bounded by nothing.
    bounded = noisy(preconditioner, max_noise=1e-3, mask={"w": False, "v": True, "layer": False})
    assert np.abs(bounded["v"]).max() <= 1e-3 / GAMMA * np.abs(lgv.noise_like(0, 0, ZEROS)["v"]).max() * (1 + 1e-6)


# Products.


def publishing(p):
    return lgv.with_preconditioner(optax.identity(), lambda g, old, new: p)


def in_a_row(*ps, updates=None):
    tx = optax.chain(*map(publishing, ps), noise())
    updates = {"w": ZEROS["w"]} if updates is None else updates
    return tx.update(updates, tx.init(updates))[0]


@pytest.mark.slow
@pytest.mark.parametrize("d", [4.0, jnp.float32(4.0), np.full((1, 1), 4.0, np.float32)], ids=["float", "0-d", "(1, 1)"])
def test_a_number_beside_a_matrix(d):
    """In both orders, and two of them."""
    p = {"w": OPERATORS["w"]}
    twice = jax.tree.map(lambda u: 2 * u, noisy(p, {"w": ZEROS["w"]}))
    assert_close(in_a_row(p, {"w": d}), twice)
    assert_close(in_a_row({"w": d}, p), twice)
    assert_close(in_a_row({"w": d}, p, {"w": d}), jax.tree.map(lambda u: 2 * u, twice))
    for one in ({"w": 1.0}, {"w": 1}):
        assert bits(in_a_row(p, one)) == bits(in_a_row(one, p)) == bits(in_a_row(p))


def test_a_factor_beside_a_matrix_must_commute_with_it():
    """One number per layer of a stack, or along an axis that P does not mix; nothing else has a symmetric product."""
    stack = jnp.zeros((4, 2, 3))
    p = lgv.Kronecker(None, np.stack([LEFT] * 4), RIGHT)
    per_layer = np.arange(1.0, 5.0, dtype=np.float32).reshape(4, 1, 1)
    for order in ((p, per_layer), (per_layer, p)):
        ours = in_a_row(*({"w": x} for x in order), updates={"w": stack})
        assert_close(ours, {"w": np.sqrt(per_layer) * noisy({"w": p}, {"w": stack})["w"]})
    along_columns = np.array([[1.0, 4.0, 9.0]], np.float32)
    left = lgv.Kronecker(LEFT, None)
    ours = in_a_row({"w": along_columns}, {"w": left})
    assert_close(ours, {"w": np.sqrt(along_columns) * noisy({"w": left}, {"w": ZEROS["w"]})["w"]})
    # The update of the two is a symmetric matrix times the gradient, and its root is S.
    symmetric = kron([LEFT @ LEFT.T, np.diag(along_columns[0])])
    root = kron([LEFT, np.diag(np.sqrt(along_columns[0]))])
    np.testing.assert_allclose(root @ root.T, symmetric, rtol=1e-5, atol=1e-5)
    for bad in (D, D[:1], D[:, :1], np.ones((2, 3), np.float32)):
        for order in ((OPERATORS["w"], bad), (bad, OPERATORS["w"])):
            with pytest.raises(ValueError, match=r"of shape \(2, 3\), one is a matrix: .* not symmetric"):
                in_a_row(*({"w": x} for x in order))
    with pytest.raises(ValueError, match=r"of shape \(2, 3\), one is a matrix"):
        in_a_row({"w": OPERATORS["w"]}, {"w": OPERATORS["w"]})


def test_coupled_leaves_and_ones_in_a_row():
    layer = {"layer": ZEROS["layer"]}
    one = {"layer": {"kernel": 1.0, "bias": 1.0}}
    alone = in_a_row({"layer": JOINT}, updates=layer)
    for order in ((one, {"layer": JOINT}), ({"layer": JOINT}, one)):
        assert bits(in_a_row(*order, updates=layer)) == bits(alone)
    with pytest.raises(ValueError, match="one is a matrix"):
        in_a_row({"layer": JOINT}, {"layer": {"kernel": 2.0, "bias": 2.0}}, updates=layer)


# Masks.


def test_masks_select_whole_leaves_or_layers_of_a_stack():
    """The noise of what is selected is that without the mask: block by block for stacked layers."""
    params = {"stack": jnp.zeros((4, 2, 3)), "v": jnp.zeros(3)}
    p = {"stack": lgv.Kronecker(None, np.float32(DRAW.normal(size=(4, 2, 2))), RIGHT), "v": 4.0}
    everywhere = noisy(p, params)
    layers = np.array([True, False, True, False]).reshape(4, 1, 1)
    for mask in ({"stack": layers, "v": False}, lambda tree: {"stack": jnp.asarray(layers), "v": False}):
        some = noisy(p, params, mask=mask)
        assert bits(some["stack"][::2]) == bits(everywhere["stack"][::2])
        assert not np.any(some["stack"][1::2])
        assert not np.any(some["v"])
    other = noisy(p, params, mask={"stack": False, "v": True})
    assert bits(other["v"]) == bits(everywhere["v"])
    assert not np.any(other["stack"])


@pytest.mark.slow
def test_the_layers_of_a_stack_in_layer_langevin():
    """Of the first block of a scanned model, behind Shampoo: the others get no noise, and the first that of all."""
    params = {"blocks": {"kernel": jnp.asarray(DRAW.normal(size=(3, 2, 3)), jnp.float32)}}
    stacks = {"scanned": {"blocks": 0}}

    def step(sigma, mask=None):
        tx = lgv.shampoo(GAMMA, sigma, 0, mask=mask, **stacks)
        return tx.update(params, tx.init(params), params)[0]["blocks"]["kernel"]

    first, everywhere, nowhere = step(SIGMA, lgv.layer_mask(1, **stacks)), step(SIGMA), step(0.0)
    assert bits(first[0]) == bits(everywhere[0]) != bits(nowhere[0])
    assert bits(first[1:]) == bits(nowhere[1:]) != bits(everywhere[1:])


HALF = {"w": True, "v": True, "layer": {"kernel": True, "bias": False}}
NONE = {"w": True, "v": True, "layer": False}
COUPLES = r"couples 2 leaves, of which only 1 are here: \['layer'\]\['kernel'\]\. A mask or a partition must take all"


def test_leaves_that_P_couples_are_selected_together():
    everywhere = noisy(OPERATORS)
    with pytest.raises(ValueError, match=COUPLES):
        noisy(OPERATORS, mask=HALF)
    without = noisy(OPERATORS, mask=NONE)
    assert bits([without["w"], without["v"]]) == bits([everywhere["w"], everywhere["v"]])
    assert not np.any(without["layer"]["kernel"])


@pytest.mark.parametrize("inside", [False, True], ids=["around the noise", "around both"])
def test_what_optax_hides_of_coupled_leaves(inside):
    """masked and partition: all of them or none."""
    spread = jax.tree.map(lambda _: False, PARAMS["layer"])
    none = {**NONE, "layer": spread}

    def run(wrap):
        scaler = publishing(OPERATORS)
        tx = wrap(optax.chain(scaler, noise())) if inside else optax.chain(scaler, wrap(noise()))
        return tx.update(ZEROS, tx.init(ZEROS), ZEROS)[0]

    def partition(mask):
        labels = jax.tree.map(lambda m: "noise" if m else "rest", mask)
        return lambda tx: optax.partition({"noise": tx, "rest": optax.identity()}, labels)

    everywhere = noisy(OPERATORS)
    for wrap in (lambda mask: lambda tx: optax.masked(tx, mask), partition):
        ours = run(wrap(none))
        assert_close([ours["w"], ours["v"]], [everywhere["w"], everywhere["v"]])
        assert not np.any(ours["layer"]["kernel"])
        with pytest.raises(ValueError, match=COUPLES):
            run(wrap(HALF))
    explicit = optax.masked(noise(), HALF)
    with pytest.raises(ValueError, match=COUPLES):
        explicit.update(ZEROS, explicit.init(ZEROS), preconditioner=OPERATORS)
    explicit = optax.masked(noise(), none)
    ours, _ = explicit.update(ZEROS, explicit.init(ZEROS), preconditioner=OPERATORS)
    assert_close([ours["w"], ours["v"]], [everywhere["w"], everywhere["v"]])


@pytest.mark.slow
@pytest.mark.parametrize("name", by_default(["shampoo"], ["soap", "shampoo"]))
def test_matrix_scalers_behind_a_mask_and_in_a_partition(name):
    """The leaves that they are given move as if they were alone."""
    params = {"w": jnp.asarray(D), "v": jnp.arange(3.0), "steps": jnp.arange(3)}
    tx = getattr(lgv, name)(GAMMA, SIGMA, 0)
    alone, state = {"w": params["w"]}, tx.init({"w": params["w"]})
    labels = {"w": "matrix", "v": "adam", "steps": "none"}
    others = {"adam": lgv.adam(GAMMA, SIGMA, 0), "none": optax.set_to_zero()}
    parted = optax.partition({"matrix": tx, **others}, labels)
    masked = optax.masked(tx, {"w": True, "v": False, "steps": False})
    states = [parted.init(params), masked.init(params)]
    for _ in range(2):
        ours, state = tx.update(alone, state, alone)
        for i, wrapped in enumerate((parted, masked)):
            theirs, states[i] = wrapped.update(params, states[i], params)
            np.testing.assert_allclose(theirs["w"], ours["w"], rtol=1e-5)
    assert np.any(ours["w"])


@pytest.mark.slow
def test_marks_of_operators_leave_nothing_behind():
    """Nor does the tracer that they hold."""
    own = lgv.with_preconditioner(
        optax.identity(), lambda g, old, new: {**OPERATORS, "w": lgv.Rotated((TURN_LEFT, None), 1 + g["w"] ** 2)}
    )
    tx = optax.chain(own, noise())
    state = tx.init(PARAMS)
    gc.collect()
    before = len(_marks._marks)
    with jax.checking_leaks():
        jax.jit(lambda g: tx.update(g, state)[0])(PARAMS)
        jax.jit(jax.vmap(lambda g: tx.update(g, state)[0]))(jax.tree.map(lambda p: jnp.stack([p, p]), PARAMS))
    tx.update(PARAMS, state)
    gc.collect()
    assert len(_marks._marks) == before
