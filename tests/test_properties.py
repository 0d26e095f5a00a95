"""Properties over arbitrary trees, shapes, masks, keys and steps."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import langevin_optax as lgv

# Few shapes, so that leaves share them and compiled draws are used again.
shapes = st.sampled_from([(), (1,), (3,), (2, 3), (33,), (0, 2)])
names = st.text("ab/'[]0.", min_size=1, max_size=3)
trees = st.recursive(
    shapes, lambda inner: st.dictionaries(names, inner, max_size=3) | st.lists(inner, max_size=2), max_leaves=5
)
samplers = st.sampled_from(["normal", "rademacher"])
keys = st.integers(0, 2**31 - 1)


def arrays(tree, value=0.5):
    return jax.tree.map(lambda shape: jnp.full(shape, value), tree, is_leaf=lambda x: isinstance(x, tuple))


def without(tree, left_out):
    """The tree with the leaves at these positions taken away."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(treedef, [None if i in left_out else leaf for i, leaf in enumerate(leaves)])


@given(trees, st.sets(st.integers(0, 4)), keys, keys, samplers)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_taking_leaves_away_changes_no_other_noise(tree, left_out, key, step, sampler):
    tree = arrays(tree)
    whole = jax.tree.leaves(lgv.noise_like(key, step, tree, sampler))
    rest = lgv.noise_like(key, step, without(tree, left_out), sampler)
    kept = [xi for i, xi in enumerate(whole) if i not in left_out]
    for a, b in zip(kept, jax.tree.leaves(rest), strict=True):
        np.testing.assert_array_equal(a, b)
    for leaf, xi in zip(jax.tree.leaves(tree), whole, strict=True):
        assert leaf.shape == xi.shape
        assert xi.dtype == jnp.float32
        assert np.all(np.isfinite(xi))


@given(trees, keys)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_no_two_leaves_share_their_noise(tree, key):
    noise = [xi for xi in jax.tree.leaves(lgv.noise_like(key, 0, arrays(tree))) if xi.size]
    entries = np.concatenate([np.ravel(xi) for xi in noise]) if noise else np.zeros(0)
    assert len(np.unique(entries)) == len(entries)


@given(trees, st.lists(st.booleans(), min_size=5, max_size=5), keys, st.floats(0, 10), st.floats(0, 10))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_sgld_is_its_equation(tree, chosen, key, gamma, sigma):
    params = arrays(tree)
    leaves, treedef = jax.tree.flatten(params)
    mask = jax.tree.unflatten(treedef, chosen[: len(leaves)])
    tx = lgv.sgd(gamma, sigma, key, mask=mask)
    updates, _ = tx.update(params, tx.init(params), params)
    xi = jax.tree.leaves(lgv.noise_like(key, 0, params))
    for u, g, x, noisy in zip(jax.tree.leaves(updates), leaves, xi, jax.tree.leaves(mask), strict=True):
        exact = -gamma * g + (sigma * np.sqrt(gamma) * np.asarray(x, np.float64) if noisy else 0)
        np.testing.assert_allclose(u, exact, rtol=1e-5, atol=1e-6 * (1 + gamma + sigma * np.sqrt(gamma)))
