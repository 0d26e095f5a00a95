"""Properties over arbitrary trees, shapes, dtypes, masks, schedules, samplers and compositions.

The examples are the same in every run. ``PROPERTY_EXAMPLES=10 pytest tests/test_properties.py`` tries ten times as
many, and others each time.
"""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import langevin_optax as lgv
from tests.cases import INTEGRATORS, OPTIMIZERS, bits, is_key

TIMES = int(os.environ.get("PROPERTY_EXAMPLES", "0"))


def examples(number):
    return settings(
        max_examples=number * max(TIMES, 1),
        derandomize=not TIMES,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


# Trees, as `Leaf` and its containers, and the arrays of them.


class Leaf(NamedTuple):
    shape: tuple[int, ...]
    dtype: str = "float32"


class Pair(NamedTuple):
    """One of its fields has the name of what NNX and Linen wrap leaves in."""

    value: Any
    rest: Any


# Few shapes and names, so that leaves share them, and that compiled programs are used again.
shapes = st.sampled_from([(), (3,), (2, 3), (0, 2), (1, 33, 1, 1)])
names = st.text("ab/'[]0.", min_size=1, max_size=3)
leaves = st.builds(Leaf, shapes, st.just("float32"))
real_leaves = st.builds(Leaf, shapes, st.sampled_from(["float32", "bfloat16", "float16"]))
any_leaves = st.builds(Leaf, shapes, st.sampled_from(["float32", "bfloat16", "float16", "complex64"]))


@st.composite
def trees(draw, leaves):
    """Up to four leaves in dicts, lists, tuples and named tuples, now and then next to None or an empty container."""
    nodes = [*draw(st.lists(st.sampled_from([None, {}, ()]), max_size=1)), *draw(st.lists(leaves, max_size=4))]
    nodes = draw(st.permutations(nodes))
    while len(nodes) > 1:
        inner, nodes = nodes[: (k := draw(st.integers(2, len(nodes))))], nodes[k:]
        kind = draw(st.sampled_from([dict, list, tuple, Pair]))
        if kind is dict:
            keys = draw(st.lists(names, min_size=k, max_size=k, unique=True))
            node = dict(zip(keys, inner, strict=True))
        else:
            node = Pair(inner[0], inner[1:]) if kind is Pair else kind(inner)
        nodes = [node, *nodes]
    return {} if nodes in ([], [None]) else nodes[0]  # None would say that there are no parameters


def arrays(tree, seed=0, zeros=0.2):
    """Numbers of many sizes, and a share of zeros."""
    rng = np.random.default_rng(seed)

    def array(leaf):
        values = rng.normal(size=leaf.shape) * 10.0 ** rng.uniform(-3, 1, leaf.shape)
        values = values * (rng.uniform(size=leaf.shape) >= zeros)
        if leaf.dtype.startswith("complex"):
            values = values * (1 + 0.5j)
        return jnp.asarray(values.astype(jnp.dtype(leaf.dtype)))

    return jax.tree.map(array, tree, is_leaf=lambda node: isinstance(node, Leaf))


def without(tree, left_out):
    """The tree with the leaves at these positions taken away."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(treedef, [None if i in left_out else leaf for i, leaf in enumerate(leaves)])


def wide(x):
    """As float64 or complex128."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def likes(tree):
    """What updates keep."""
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


# Arguments


def values(*constants):
    """Constants and schedules with values of that size, from 0 and to 0 too, within three steps."""
    constant = st.sampled_from(constants)
    return st.one_of(
        constant,
        constant.map(jnp.float32),
        st.builds(optax.linear_schedule, constant, st.just(0.0), st.integers(1, 2)),
        st.builds(optax.linear_schedule, st.just(0.0), constant, st.integers(1, 2)),
        st.builds(optax.piecewise_constant_schedule, constant, st.just({1: 0.0})),
        st.builds(optax.cosine_decay_schedule, constant, st.integers(1, 2)),
        st.builds(lgv.inverse_sqrt_log_schedule, constant, st.just(1.0)),
    )


def uniform(key, shape, dtype):
    return np.sqrt(12.0).astype(dtype) * (jax.random.uniform(key, shape, dtype) - 0.5)


def one(key, shape, dtype):
    return jnp.ones(shape, dtype)


rates, sigmas = values(0.0, 1e-3, 0.1, 2.0), values(0.0, 1e-3, 0.3)
samplers = st.sampled_from(["normal", "rademacher", uniform])
keys = st.integers(0, 2**31 - 1)
seeds = st.integers(0, 99)
chosen = st.lists(st.booleans(), min_size=10, max_size=10)
optimizers = st.sampled_from(OPTIMIZERS)
of_one_part = st.sampled_from([i for i in INTEGRATORS if not i.parts])


def at(value, count):
    return float(value(count) if callable(value) else value)


@st.composite
def masks(draw, params):
    """A mask, and the boolean arrays that it stands for, leaf by leaf."""
    leaves, treedef = jax.tree.flatten(params)
    kind = draw(st.sampled_from(["none", "prefix", "bools", "arrays", "function"]))
    if kind == "none":
        return None, [True] * len(leaves)
    bools = st.booleans()
    if kind == "prefix":  # of the children of the root
        mask = jax.tree.map(lambda _: draw(bools), params, is_leaf=lambda node: node is not params)
        where = jax.tree.leaves(jax.tree.map(lambda m, p: jax.tree.map(lambda _: m, p), mask, params))
        return mask, where
    if kind == "arrays":
        rng = np.random.default_rng(draw(seeds))
        where = [
            rng.uniform(size=tuple(n if rng.uniform() < 0.7 else 1 for n in x.shape)) < 0.5
            if draw(bools)
            else draw(bools)
            for x in leaves
        ]
    else:
        where = [draw(bools) for _ in leaves]
    mask = jax.tree.unflatten(treedef, where)
    return (lambda params: mask) if kind == "function" else mask, where


# The noise


@given(trees(any_leaves), st.sets(st.integers(0, 4)), keys, keys, samplers)
@examples(10)
def test_taking_leaves_away_changes_no_other_noise(tree, left_out, key, step, sampler):
    tree = arrays(tree)
    whole = jax.tree.leaves(lgv.noise_like(key, step, tree, sampler))
    rest = lgv.noise_like(key, step, without(tree, left_out), sampler)
    kept = [xi for i, xi in enumerate(whole) if i not in left_out]
    for a, b in zip(jax.tree.leaves(rest), kept, strict=True):
        # XLA may round the arithmetic of one's own sampler in another way when it compiles it for several leaves.
        np.testing.assert_allclose(a, b, rtol=1e-6 if callable(sampler) else 0, atol=0)
    for leaf, xi in zip(jax.tree.leaves(tree), whole, strict=True):
        assert leaf.shape == xi.shape
        assert xi.dtype == (jnp.complex64 if jnp.iscomplexobj(leaf) else jnp.float32)
        assert np.all(np.isfinite(xi))


@given(trees(leaves), keys)
@examples(10)
def test_no_two_leaves_share_their_noise(tree, key):
    noise = [xi for xi in jax.tree.leaves(lgv.noise_like(key, 0, arrays(tree))) if xi.size]
    entries = np.concatenate([np.ravel(xi) for xi in noise]) if noise else np.zeros(0)
    assert len(np.unique(entries)) == len(entries)


@given(
    trees(any_leaves), st.data(), rates, sigmas, keys, samplers, st.booleans(), st.none() | st.sampled_from([0.0, 0.01])
)
@examples(8)
def test_the_noise_is_its_formula(tree, data, gamma, sigma, key, sampler, scaled, most):
    """σ√(γP)ξ, in units of the parameters, for any P ≥ 0, where the mask is."""
    updates = arrays(tree)
    mask, where = data.draw(masks(updates))
    rng = np.random.default_rng(data.draw(seeds))
    p = jax.tree.map(lambda u: np.abs(rng.normal(size=u.shape[:1] + (1,) * (u.ndim - 1))) * rng.integers(2), updates)
    tx = lgv.add_preconditioned_noise(
        gamma, sigma, key, sampler=sampler, mask=mask, after_learning_rate=scaled, max_noise=most
    )
    state = tx.init(updates)
    for count in range(2):
        new, state = tx.update(updates, state, updates, preconditioner=p)
        assert likes(new) == likes(updates)
        assert int(state.count) == count + 1
        xi = jax.tree.leaves(lgv.noise_like(key, count, updates, sampler))
        gamma_now, sigma_now = at(gamma, count), at(sigma, count)
        everything = (jax.tree.leaves(tree) for tree in (updates, new, p))
        for u, n, p_, x, w in zip(*everything, xi, where, strict=True):
            size = sigma_now * np.sqrt(gamma_now * p_)
            size = np.where(w, size if most is None else np.minimum(size, most), 0.0)
            if not scaled:
                size = size / gamma_now if gamma_now else 0 * size
            size = np.broadcast_to(size, u.shape)
            n, u, tolerance = wide(n), wide(u), rounding(u.dtype)
            np.testing.assert_array_equal(n[size == 0], u[size == 0])
            np.testing.assert_allclose(n, u + size * wide(x), **tolerance)


# Optimisers and integrators


@given(optimizers, trees(any_leaves), st.data(), rates, sigmas, keys)
@examples(4)
def test_optimisers_are_those_of_optax_and_noise(optimizer, tree, data, gamma, sigma, key):
    """To the bit where there is no noise; where there is, it is one and the same σ√(γP) ≥ 0 times each ξ."""
    params, gradients = arrays(tree, 1), arrays(tree, data.draw(seeds))
    if optimizer.name == "adadelta":  # has no real P for complex leaves
        params, gradients = (jax.tree.map(jnp.real, tree) for tree in (params, gradients))
    mask, where = data.draw(masks(params))
    normal, signed = (optimizer.langevin(gamma, sigma, key, mask=mask, sampler=s) for s in ("normal", "rademacher"))
    transformations = optimizer.stock(gamma), normal, signed
    states = [tx.init(params) for tx in transformations]
    for count in range(2):
        steps = [tx.update(gradients, s, params) for tx, s in zip(transformations, states, strict=True)]
        updates, states = zip(*steps, strict=True)
        for state in states[1:]:
            assert bits(state[:-1]) == bits(states[0])
            assert state[-1].count == count + 1
        assert likes(updates[0]) == likes(updates[1]) == likes(updates[2])
        noise = [lgv.noise_like(key, count, params, sampler) for sampler in ("normal", "rademacher")]
        quiet = 0 in (at(gamma, count), at(sigma, count))
        for *leaves, w in zip(*map(jax.tree.leaves, (*updates, *noise)), where, strict=True):
            rounds = 4 * float(jnp.finfo(leaves[0].dtype).eps)
            stock, normal, signed, xi, sign = map(wide, leaves)
            w = np.broadcast_to(w, stock.shape) & np.isfinite(stock) & (not quiet)
            np.testing.assert_array_equal(normal[~w], stock[~w])
            np.testing.assert_array_equal(signed[~w], stock[~w])
            stock, normal, signed, xi, sign = (x[w] for x in (stock, normal, signed, xi, sign))
            size = ((signed - stock) * np.conj(sign)).real
            error = rounds * (np.abs(stock) + np.abs(signed))
            assert np.all(size >= -error)
            assert np.all(np.abs(normal - stock - size * xi) <= (3 + np.abs(xi)) * error + 1e-6 * np.abs(normal))


@given(optimizers, trees(any_leaves), st.sets(st.integers(0, 4)), keys, st.sampled_from(["absent", "masked", "apart"]))
@examples(4)
def test_a_leaf_does_not_know_of_the_others(optimizer, tree, left_out, key, how):
    """Whether they are absent, masked by `optax.masked`, or in a part of their own."""
    params, gradients = arrays(tree, 1), arrays(tree, 2)
    if optimizer.name == "adadelta":
        params, gradients = (jax.tree.map(jnp.real, tree) for tree in (params, gradients))
    tx = optimizer.langevin(0.1, 0.3, key)
    whole, _ = tx.update(gradients, tx.init(params), params)
    leaves, treedef = jax.tree.flatten(gradients)
    mask = treedef.unflatten([i not in left_out for i in range(len(leaves))])
    if how == "absent":
        params, gradients = without(params, left_out), without(gradients, left_out)
        expected = without(whole, left_out)
    elif how == "masked":
        tx = optax.masked(tx, mask)
        expected = jax.tree.map(lambda m, u, g: u if m else g, mask, whole, gradients)
    else:
        tx = optax.partition({True: tx, False: optax.set_to_zero()}, mask)
        expected = jax.tree.map(lambda m, u: u if m else jnp.zeros_like(u), mask, whole)
    assert bits(tx.update(gradients, tx.init(params), params)[0]) == bits(expected)


@given(of_one_part, trees(real_leaves), values(1e-3, 0.1), values(0.3, 0.5), st.lists(keys, min_size=2, max_size=2))
@examples(4)
def test_integrators(integrator, tree, h, tau, two_keys):
    """They keep shapes and dtypes, and without a temperature their key makes no difference."""
    params, gradients = arrays(tree, 1), arrays(tree, 2)

    def run(make, key):
        tx = make(h, key=key)
        state, steps = tx.init(params), []
        for count in range(2):
            updates, state = tx.update(gradients, state, params)
            steps.append(updates)
            assert likes(updates) == likes(params)
            assert state.count == count + 1
            assert all(np.all(np.isfinite(wide(u))) for u in jax.tree.leaves(updates))
        return steps

    run(lambda h, key: integrator.langevin(h, tau, key), two_keys[0])
    quiet = dict.fromkeys(integrator.sizes, 0.0)
    first, second = (run(lambda h, key: integrator.langevin(h, key=key, **quiet), key) for key in two_keys)
    assert bits(first) == bits(second)


@given(trees(leaves), st.sampled_from([1e-3, 0.1]), st.sampled_from([0.0, 0.3]), keys)
@examples(4)
def test_euler_is_sgld(tree, h, tau, key):
    params, gradients = arrays(tree, 1), arrays(tree, 2)
    euler, sgld = lgv.overdamped_langevin(h, tau, key), lgv.sgd(h, float(np.sqrt(2 * tau)), key)
    updates, expected = (tx.update(gradients, tx.init(params), params)[0] for tx in (euler, sgld))
    for u, e in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(u, e, rtol=1e-5, atol=1e-6)


@given(optimizers | of_one_part, trees(real_leaves), keys, st.integers(0, 2))
@examples(4)
def test_a_state_of_numpy_arrays_goes_on_to_the_bit(row, tree, key, steps):
    params, gradients = arrays(tree, 1), arrays(tree, 2)
    tx = row.langevin(0.1, 0.3, key)
    state = tx.init(params)
    for _ in range(steps):
        _, state = tx.update(gradients, state, params)
    saved, treedef = jax.tree.flatten(state)
    saved = [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in saved]
    restored = [
        jax.random.wrap_key_data(x) if is_key(like) else jnp.asarray(x)
        for x, like in zip(saved, jax.tree.leaves(state), strict=True)
    ]
    restored = jax.tree.unflatten(treedef, restored)
    assert bits(tx.update(gradients, restored, params)) == bits(tx.update(gradients, state, params))


# Compositions

PARAMS = arrays({"a": Leaf((3,)), "b": [Leaf((2, 3)), Leaf((3,))]}, 1, zeros=0.0)
STEPS = [arrays({"a": Leaf((3,)), "b": [Leaf((2, 3)), Leaf((3,))]}, seed) for seed in (2, 3, 4)]
COMPOSITIONS = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1e9), tx),
    "named_chain": lambda tx: optax.named_chain(("clip", optax.clip(1e9)), ("langevin", tx)),
    "masked": lambda tx: optax.masked(tx, lambda tree: jax.tree.map(lambda _: True, tree)),
    "partition": lambda tx: optax.partition({"all": tx}, lambda tree: jax.tree.map(lambda _: "all", tree)),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, lambda step: step >= 0),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(lambda unused: tx)(unused=1.0),
}


@given(
    optimizers | of_one_part,
    values(1e-3, 0.1),
    values(0.0, 0.3),
    keys,
    st.lists(st.sampled_from([*COMPOSITIONS]), max_size=3),
    st.sampled_from(["jit", "scan"]),
)
@examples(4)
def test_compositions(row, gamma, size, key, names, mode):
    """Wrapped any number of times, step by step or in a scan, it is the same optimiser with the same noise."""
    plain = tx = row.langevin(gamma, size, key)
    for name in names:
        tx = COMPOSITIONS[name](tx)
    expected = by_steps(plain.update, plain.init(PARAMS))[0]
    if mode == "scan":
        step = lambda state, g: tx.update(g, state, PARAMS)[::-1]
        stacked = jax.tree.map(lambda *g: jnp.stack(g), *STEPS)
        state, updates = jax.jit(lambda state: jax.lax.scan(step, state, stacked))(tx.init(PARAMS))
        updates = [jax.tree.map(lambda u, i=i: u[i], updates) for i in range(len(STEPS))]
    else:
        updates, state = by_steps(jax.jit(tx.update), tx.init(PARAMS))
    for u, e in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(u, e, rtol=1e-4, atol=1e-6)
    (noise,) = [s for s in jax.tree.leaves(state, is_leaf=is_noise) if is_noise(s)]
    assert noise.count == len(STEPS)
    assert bits(noise.key) == bits(jax.random.key(key))


def by_steps(update, state):
    updates = []
    for g in STEPS:
        u, state = update(g, state, PARAMS)
        updates.append(u)
    return updates, state


def is_noise(node):
    return isinstance(node, (lgv.LangevinState, lgv.BaoabState, lgv.AdaptiveLangevinState))


@given(optimizers | of_one_part, st.integers(2, 3), keys, st.booleans())
@examples(4)
def test_the_noise_counts_the_steps_that_are_applied(row, every, key, finite):
    """Not those that are accumulated, nor those that are skipped."""
    tx = optax.apply_if_finite(optax.MultiSteps(row.langevin(key=key), every).gradient_transformation(), 9)
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    for number in range(4):
        bad = not finite and number == 1
        gradients = jax.tree.map(lambda g, bad=bad: g * jnp.nan if bad else g, STEPS[0])
        _, state = update(gradients, state, PARAMS)
        (noise,) = [s for s in jax.tree.leaves(state, is_leaf=is_noise) if is_noise(s)]
        assert noise.count == (number + 1 - (not finite and number >= 1)) // every


# Layers

words = st.text("ab_01", min_size=1, max_size=3)


@given(
    st.lists(st.lists(words, min_size=1, max_size=2).map(tuple), min_size=1, max_size=5, unique=True),
    st.randoms(use_true_random=False),
    st.data(),
    st.booleans(),
)
@examples(30)
def test_layers_are_those_of_the_order(paths, random, data, collection):
    """A leaf is of the innermost layer, and layers are selected by their place in the order."""
    order = ["/".join(path) for path in paths]
    random.shuffle(order)
    n = len(order)
    params = {}
    for path in paths:
        node = params
        for name in path:
            node = node.setdefault(name, {})
        node.update({f"{name}!": jnp.zeros(2) for name in range(random.randint(1, 2))})
    index = st.integers(-n, n - 1)
    layers = data.draw(
        st.integers(1, n)
        | st.sampled_from([0.1, 0.3, 0.5, 1.0])
        | st.lists(index, min_size=1, max_size=3)
        | st.builds(slice, st.integers(0, n - 1), st.none())
        | st.sampled_from(order).map(lambda name: lambda path: path >= name)
    )
    if isinstance(layers, int):
        selected = order[:layers]
    elif isinstance(layers, float):
        selected = order[: max(1, int(np.floor(round(layers * n, 9))))]
    elif isinstance(layers, list):
        selected = [order[i] for i in layers]
    else:
        selected = order[layers] if isinstance(layers, slice) else [name for name in order if layers(name)]
    mask = lgv.layer_mask(layers, order)({"params": params} if collection else params)
    for path, chosen in jax.tree_util.tree_leaves_with_path(mask["params"] if collection else mask):
        *layer, _ = (entry.key for entry in path)
        assert chosen is ("/".join(layer) in selected)


@given(optimizers, trees(st.builds(Leaf, shapes, st.sampled_from(["float64", "complex128"]))), keys)
@examples(4)
def test_in_float64(optimizer, tree, key):
    with jax.enable_x64(True):
        params = arrays(tree, 1)
        if optimizer.name == "adadelta":
            params = jax.tree.map(jnp.real, params)
        (noisy, stock), xi = (
            [
                tx.update(params, tx.init(params), params)[0]
                for tx in (optimizer.langevin(0.1, 0.3, key), optimizer.stock(0.1))
            ],
            lgv.noise_like(key, 0, params),
        )
        assert likes(noisy) == likes(stock) == likes(params) == likes(xi)
        for n, s, x in zip(*map(jax.tree.leaves, (noisy, stock, xi)), strict=True):
            size = (n - s) / x
            assert np.all(np.abs(size.imag) <= 1e-12 * np.abs(size)) and np.all(size.real > 0)


def rounding(dtype):
    """A few roundings of a result in float32, and one in its dtype."""
    return {"rtol": 2 * float(jnp.finfo(dtype).eps) + 2e-6, "atol": 1e-6}
