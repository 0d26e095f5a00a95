"""Masks of layers: which leaves they select, and what they do where they are used."""

import functools
import re
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import langevin_optax as lgv
from tests.layers.models import NnxLifted, X, linear
from tests.layers.trees import NOISE, SGD, chosen, flat, layers, moved_layers, numbered, tree

# Neither sorted nor natural.
ORDER = ["Dense_3", "Dense_0", "Conv_1", "Dense_2", "Dense_10", "Dense_1"]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (1, ORDER[:1]),
        (4, ["Dense_3", "Dense_0", "Conv_1", "Dense_2"]),
        (6, ORDER),
        (np.int64(2), ["Dense_3", "Dense_0"]),
        (0.5, ["Dense_3", "Dense_0", "Conv_1"]),
        (np.float32(0.5), ["Dense_3", "Dense_0", "Conv_1"]),
        (Fraction(2, 3), ["Dense_3", "Dense_0", "Conv_1", "Dense_2"]),
        (0.1, ["Dense_3"]),
        (1.0, ORDER),
        (slice(2), ["Dense_3", "Dense_0"]),
        (slice(-2, None), ["Dense_10", "Dense_1"]),
        (slice(None, None, 2), ["Dense_3", "Conv_1", "Dense_10"]),
        (slice(4, 99), ["Dense_10", "Dense_1"]),
        ([0, -1], ["Dense_3", "Dense_1"]),
        ((5, 2, 2), ["Conv_1", "Dense_1"]),
        ([-6], ["Dense_3"]),
        (range(1, 3), ["Dense_0", "Conv_1"]),
        ([np.int32(3)], ["Dense_2"]),
        (lambda path: path.endswith("_1"), ["Conv_1", "Dense_1"]),
        ("Dense_1", ["Dense_1"]),
        ("Dense_.*", ["Dense_3", "Dense_0", "Dense_2", "Dense_10", "Dense_1"]),
        ("Conv_1|Dense_1", ["Conv_1", "Dense_1"]),
        (re.compile("dense_1", re.IGNORECASE), ["Dense_1"]),
    ],
)
@pytest.mark.parametrize("paths", [ORDER, [(name,) for name in ORDER]], ids=["str", "tuple"])
def test_which_layers(which, expected, paths):
    assert layers(lgv.layer_mask(which, paths)(tree(*ORDER))) == set(expected)
    assert layers(lgv.layer_mask(which, paths)({"params": tree(*ORDER)})) == set(expected)


@pytest.mark.parametrize(
    ("fraction", "n", "count"),
    [
        *[(0.29, 100, 29), (0.57, 100, 57), (0.58, 50, 29), (0.7, 10, 7), (0.99, 100, 99)],
        *[(0.34, 3, 1), (0.66, 3, 1), (0.67, 3, 2), (0.2899, 100, 28), (0.999999, 10, 9)],
        *[(0.1, 3, 1), (1e-12, 5, 1), (0.3, 1, 1), (1.0, 7, 7)],
    ],
)
def test_a_fraction_rounds_down_but_not_below_its_decimal(fraction, n, count):
    assert layers(lgv.layer_mask(fraction, numbered(n))(tree(*numbered(n)))) == set(numbered(count))


def test_every_percentage_of_100_layers():
    params = tree(*numbered(100))
    assert [len(layers(lgv.layer_mask(i / 100, numbered(100))(params))) for i in range(1, 101)] == list(range(1, 101))


def test_predicates_and_regular_expressions_see_whole_paths():
    params, seen = tree("enc/block_1/Dense_0", "enc/block_10/Dense_0", "head"), []
    lgv.layer_mask(lambda path: seen.append(path) or True)({"params": params})
    assert seen == ["enc/block_1/Dense_0", "enc/block_10/Dense_0", "head"]
    for order in (None, ["head", "enc/block_10/Dense_0", "enc/block_1/Dense_0"]):
        mask = lambda which, order=order: layers(lgv.layer_mask(which, order)(params))
        assert mask("enc/block_1/.*") == {"enc/block_1/Dense_0"}
        assert mask("enc/.*") == {"enc/block_1/Dense_0", "enc/block_10/Dense_0"}
        assert mask(lambda path: "block_10" in path) == {"enc/block_10/Dense_0"}
        with pytest.raises(ValueError, match="layers='Dense_0' selects none of the layers"):
            mask("Dense_0")


@pytest.mark.parametrize(
    ("names", "k", "expected"),
    [
        (["Dense_10", "Dense_2", "Dense_1"], 2, ["Dense_1", "Dense_2"]),
        (["block_10/Dense_0", "block_2/Dense_0"], 1, ["block_2/Dense_0"]),
        (["block_2/Dense_10", "block_10/Dense_2", "block_2/Dense_9"], 2, ["block_2/Dense_9", "block_2/Dense_10"]),
        (["layers_0", "layers_2", "layers_11", "layers_1"], 0.75, ["layers_0", "layers_1", "layers_2"]),
        (["Dense_2", "Dense_10"], slice(-1, None), ["Dense_10"]),
    ],
)
def test_natural_order(names, k, expected):
    assert layers(lgv.layer_mask(k)(tree(*names))) == set(expected)
    assert layers(lgv.layer_mask(k)({"params": tree(*names)})) == set(expected)


def test_natural_order_of_other_trees():
    assert lgv.layer_mask(1, [""])(jnp.zeros(3)) is True
    assert lgv.layer_mask(1, [""])({"w": jnp.zeros(3), "b": jnp.zeros(())}) == {"w": True, "b": True}
    assert lgv.layer_mask(2)([{"w": 0.0} for _ in range(12)]) == [{"w": i < 2} for i in range(12)]
    state = nnx.state(nnx.eval_shape(lambda: nnx.List([linear(nnx.Rngs(0)) for _ in range(11)])))
    assert chosen(lgv.layer_mask([2, -1])(state)) == {"2/bias", "2/kernel", "10/bias", "10/kernel"}


@pytest.mark.parametrize(
    "names", [["Conv_0", "Dense_0"], ["Dense_0", "Dense_1/Dense_0"], ["layer", "layer_1"], ["a", "b"]]
)
def test_names_that_do_not_say_their_order_raise(names):
    for which in (1, 0.5, slice(1), [0]):
        with pytest.raises(
            ValueError, match=re.escape(f"called: {names}. Pass order=langevin_optax.layer_order(model")
        ):
            lgv.layer_mask(which)(tree(*names))
    assert layers(lgv.layer_mask(names[1])(tree(*names))) == {names[1]}


def test_paths_of_order_within_the_tree():
    params = {"blocks": [{"w": 0.0, "sub": {"w": 0.0}}, {"w": 0.0, "sub": {"w": 0.0}}]}
    select = lambda which, order: jax.tree.leaves(lgv.layer_mask(which, order)(params))  # sub of 0, w of 0, …
    assert select(1, [("blocks", 1), ("blocks", 0)]) == [False, False, True, True]
    assert select(1, ["blocks/1/sub", ("blocks", 1), "blocks/0"]) == [False, False, True, False]
    assert select([1], ["blocks/1/sub", ("blocks", 1), "blocks/0"]) == [False, False, False, True]
    assert select(1, ["", "blocks/0/sub"]) == [False, True, True, True]
    assert select(1, [("blocks",)]) == [True, True, True, True]


def test_a_collection_is_only_taken_off_where_it_is_one():
    params = {"params": tree("Dense_0", "Dense_1")}
    assert layers(lgv.layer_mask(1, ["params/Dense_1", "params/Dense_0"])(params)) == {"Dense_1"}
    assert layers(lgv.layer_mask(1, ["Dense_1", "Dense_0"])(params)) == {"Dense_1"}
    mask = lgv.layer_mask(1, ["params", "head"])(tree("params", "head"))
    assert mask == {"params": {"bias": True, "kernel": True}, "head": {"bias": False, "kernel": False}}


def test_partitioned_parameters_of_linen():
    init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    model = nn.Sequential([nn.Dense(4, kernel_init=init), nn.Dense(4, kernel_init=init)])
    params = jax.eval_shape(model.init, jax.random.key(0), X)
    mask = lgv.layer_mask(1, lgv.layer_order(model, X))(params)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    assert jax.tree.leaves(mask) == [True, True, False, False]


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        (0, ValueError, "layers as a number of layers must be ≥ 1, got 0."),
        (-1, ValueError, "layers as a number of layers must be ≥ 1, got -1."),
        (np.int64(0), ValueError, "layers as a number of layers must be ≥ 1, got 0."),
        (True, TypeError, "not a bool, got True."),
        (np.False_, TypeError, "not a bool, got False."),
        (0.0, ValueError, "layers as a fraction must lie in (0, 1], got 0.0."),
        (-0.5, ValueError, "layers as a fraction must lie in (0, 1], got -0.5."),
        (1.5, ValueError, "layers as a fraction must lie in (0, 1], got 1.5."),
        (float("nan"), ValueError, "layers as a fraction must lie in (0, 1], got nan."),
        (float("inf"), ValueError, "layers as a fraction must lie in (0, 1], got inf."),
        (
            ["Dense_0"],
            TypeError,
            "layers as a sequence must hold indices, got ['Dense_0']. For paths, write a predicate.",
        ),
        ([0, 1.0], TypeError, "layers as a sequence must hold indices, got [0, 1.0]."),
        ([True], TypeError, "layers as a sequence must hold indices, got [True]."),
        (None, TypeError, "layers must be an int, a fraction, a slice, a sequence of indices, a predicate"),
        (1j, TypeError, "or a regular expression, got 1j."),
        ({"Dense_0"}, TypeError, "or a regular expression, got {'Dense_0'}."),
    ],
)
def test_wrong_layers_raise_at_construction(which, error, message):
    for order in (None, ["Dense_0"]):
        with pytest.raises(error, match=re.escape(message)):
            lgv.layer_mask(which, order)


def test_wrong_orders_raise_at_construction():
    with pytest.raises(ValueError, match="order must name at least one layer, got none"):
        lgv.layer_mask(1, [])
    for order in (["a/b", "c", "a/b"], ["a/b", "c", ("a", "b")]):
        with pytest.raises(ValueError, match=re.escape("order must name each layer once, got ['a/b', 'c', 'a/b'].")):
            lgv.layer_mask(1, order)


@pytest.mark.parametrize("which", [4, [3], [-4], [0, 7]])
def test_more_layers_than_there_are_raise(which):
    message = f"layers={which} asks for more than the 3 layers ['Dense_0', 'Dense_1', 'Dense_2']."
    for order in (None, numbered(3)):
        with pytest.raises(ValueError, match=re.escape(message)):
            lgv.layer_mask(which, order)(tree(*numbered(3)))


@pytest.mark.parametrize("which", ["Dense", "dense_0", "ense_0", [], slice(0), slice(3, None), lambda path: False])
def test_selecting_nothing_raises(which):
    message = f"layers={which!r} selects none of the layers ['Dense_0', 'Dense_1', 'Dense_2']."
    for order in (None, numbered(3)):
        with pytest.raises(ValueError, match=re.escape(message)):
            lgv.layer_mask(which, order)(tree(*numbered(3)))


def test_why_nothing_is_selected():
    """An expression that matches a part of a path, and layers that are frozen, each with what to do."""
    with pytest.raises(
        ValueError, match=r"selects none of .*\. \(An expression must match the whole path, as 'Dense_0' does"
    ):
        lgv.layer_mask("Dense")(tree(*numbered(3)))
    frozen = optax.partition(
        {"trained": SGD(mask=lgv.layer_mask(1, numbered(3))), "frozen": optax.set_to_zero()},
        {"Dense_0": "frozen", "Dense_1": "trained", "Dense_2": "trained"},
    )
    with pytest.raises(ValueError, match=r"selects none of .*\. \(The selected ones are hidden, as frozen layers are"):
        frozen.init(tree(*numbered(3)))
    with pytest.raises(ValueError) as nothing:
        lgv.layer_mask("Conv")(tree(*numbered(3)))
    assert str(nothing.value).endswith("'Dense_2'].")


def test_a_leaf_outside_the_order_raises():
    for order in (["Dense_0"], ["Dense_0", "Dense_10"], ["Dense_0", "Dense"]):
        message = f"the parameter 'Dense_1/bias' belongs to none of the layers of order, {order}."
        for which in (1, "Dense_0", slice(1)):
            with pytest.raises(ValueError, match=re.escape(message)):
                lgv.layer_mask(which, order)({"params": tree("Dense_0", "Dense_1")})


@pytest.mark.parametrize(
    "tx",
    [
        lambda mask: SGD(mask=mask),
        pytest.param(lambda mask: NOISE(mask=mask), marks=pytest.mark.slow),
        pytest.param(lambda mask: optax.masked(NOISE(), mask), marks=pytest.mark.slow),
        lambda mask: optax.chain(
            lgv.scale_by_adam(), optax.masked(lgv.add_preconditioned_noise(0.1, 0.1, 0), mask), optax.scale(-0.1)
        ),
        lambda mask: optax.partition({True: SGD(), False: optax.sgd(0.1)}, mask),
    ],
    ids=["sgd", "mask", "masked", "chain", "partition"],
)
def test_noise_goes_to_the_selected_layers_only(tx):
    params = tree(*ORDER)
    assert moved_layers(tx(lgv.layer_mask(2, ORDER)), params) == {"Dense_3", "Dense_0"}
    assert moved_layers(tx(lgv.layer_mask("Dense_1")), {"params": params}) == {"Dense_1"}


def test_masks_within_masks():
    params, last = tree(*ORDER), lgv.layer_mask(slice(1, None), ORDER)
    for inner in (SGD(mask=lgv.layer_mask(2, ORDER)), optax.masked(SGD(), lgv.layer_mask(2, ORDER))):
        assert moved_layers(optax.masked(inner, last), params) == {"Dense_0"}
        assert moved_layers(optax.partition({True: inner, False: optax.sgd(0.1)}, last), params) == {"Dense_0"}
    nothing = optax.masked(SGD(mask=lgv.layer_mask(1, ORDER)), last)
    with pytest.raises(ValueError, match=re.escape(f"layers=1 selects none of the layers {ORDER}.")):
        nothing.init(params)


def test_a_tree_without_leaves_is_returned_as_it_is():
    for empty in ({}, [], {"Dense_0": optax.MaskedNode()}, {"params": {}}):
        assert lgv.layer_mask(3, ["Dense_0"], scanned={"blocks": 0})(empty) is empty
    assert lgv.layer_mask(1)(None) is None


def test_map_params_of_a_masked_noise():
    params, mask = tree(*ORDER), lgv.layer_mask(2, ORDER)
    for tx in (optax.masked(NOISE(), mask), SGD(mask=mask)):
        state = tx.init(params)
        assert jax.tree.structure(optax.tree.map_params(tx, lambda leaf: leaf + 1, state)) == jax.tree.structure(state)
    tx = optax.chain(lgv.scale_by_adam(), optax.masked(lgv.add_preconditioned_noise(0.1, 0.1, 0), mask))
    scaler, noise = optax.tree.map_params(tx, lambda leaf: leaf + 1, tx.init(params))
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves((scaler.mu, scaler.nu)))
    assert len(jax.tree.leaves(scaler.mu)) == 12
    assert noise.inner_state.count == 0 and noise.inner_state.key == jax.random.key(0)


def test_masks_under_jit_and_eval_shape_are_bools():
    mask, seen = lgv.layer_mask(2, ORDER), []

    def look(params):
        seen.append(layers(mask(params)))
        return params

    jax.eval_shape(look, tree(*ORDER))
    jax.jit(lambda params: look(params))(tree(*ORDER))
    assert seen == [{"Dense_3", "Dense_0"}] * 2


@pytest.mark.parametrize("wrap", [lambda mask: SGD(mask=mask), lambda mask: optax.masked(SGD(), mask)])
def test_an_nnx_optimizer(wrap):
    model = NnxLifted(nnx.Rngs(0))
    before = flat(jax.tree.map(np.array, nnx.state(model, nnx.Param)))
    optimizer = nnx.Optimizer(model, wrap(lgv.layer_mask(2, lgv.layer_order(model, X))), wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    after = flat(nnx.state(model, nnx.Param))
    changed = {path for path, leaf in before.items() if np.all(leaf != after[path])}
    unchanged = {path for path, leaf in before.items() if np.all(leaf == after[path])}
    assert changed == {"c/bias", "c/kernel", "b/bias", "b/kernel"}
    assert unchanged == {"a/bias", "a/kernel"}


def test_order_as_a_string_and_a_broken_regular_expression_raise_at_construction():
    with pytest.raises(TypeError, match="order must be a sequence of paths, got the string 'Dense_0'"):
        lgv.layer_mask(1, "Dense_0")
    with pytest.raises(ValueError, match=r"layers='\(' is no regular expression"):
        lgv.layer_mask("(")


def test_an_order_with_layers_that_are_not_there_raises():
    params = {f"Dense_{i}": {"kernel": jnp.ones((2, 2))} for i in range(10)}
    with pytest.raises(ValueError, match=r"order names the layers \['Dense_10', .*which the parameters do not hold"):
        lgv.layer_mask(0.1, [f"Dense_{i}" for i in range(100)])(params)
    hidden = {**params, "Dense_10": optax.MaskedNode()}
    mask = lgv.layer_mask(2, [f"Dense_{i}" for i in range(11)])(hidden)
    assert [name for name in params if mask[name]["kernel"]] == ["Dense_0", "Dense_1"]


def test_hidden_layers_keep_their_place_without_an_order():
    """Freezing the first layer does not make the second one the first, with an order or without."""
    params = {f"Dense_{i}": {"kernel": jnp.ones((2, 2))} for i in range(3)}
    hidden = {**params, "Dense_0": {"kernel": optax.MaskedNode()}}
    assert jax.tree.leaves(lgv.layer_mask(2)(hidden)) == [True, False]
    tx = optax.masked(
        lgv.lol(0.1, 0, temperature=1.0, friction=1.0), {"Dense_0": False, "Dense_1": True, "Dense_2": True}
    )
    for which in (1, [0]):
        with pytest.raises(ValueError, match="selects none of the layers"):
            lgv.layer_mask(which)(hidden)
    with pytest.raises(ValueError, match="selects none of the layers"):
        tx.init(params)


BY_NUMBER = (
    "with order=langevin_optax.layer_order(model, *args), or written by hand: the list of the paths of the layers."
)


@pytest.mark.parametrize(
    ("mask", "got", "write"),
    [
        (0.3, "0.3 at (root)", f"mask=langevin_optax.layer_mask(0.3, order), {BY_NUMBER}"),
        (3, "3 at (root)", f"mask=langevin_optax.layer_mask(3, order), {BY_NUMBER}"),
        (np.float64(0.5), "np.float64(0.5) at (root)", f"mask=langevin_optax.layer_mask(0.5, order), {BY_NUMBER}"),
        (slice(2), "slice(None, 2, None) at", "mask=langevin_optax.layer_mask(slice(None, 2, None), order)"),
        ([0, 2], "0 at [0]", f"mask=langevin_optax.layer_mask([0, 2], order), {BY_NUMBER}"),
        ("Dense_0", "'Dense_0' at (root)", "mask=langevin_optax.layer_mask('Dense_0')."),
        (["Dense_0"], "'Dense_0' at [0]", "mask=langevin_optax.layer_mask('Dense_0')."),
        (("Dense_1", "Dense_0"), "'Dense_1' at [0]", "mask=langevin_optax.layer_mask('Dense_0|Dense_1')."),
        ({"Dense_0"}, "{'Dense_0'} at (root)", "mask=langevin_optax.layer_mask('Dense_0')."),
        (re.compile("D.*"), "re.compile('D.*') at", "mask=langevin_optax.layer_mask(re.compile('D.*'))."),
        ({"Dense_0": 1, "Dense_1": 0}, "1 at ['Dense_0']", "langevin_optax.layer_mask makes such a tree."),
    ],
)
def test_a_selection_for_a_mask_says_what_to_write(mask, got, write):
    message = re.escape(f"mask must hold bools or boolean arrays, got {got}") + ".*" + re.escape(write)
    for make in (SGD, NOISE, functools.partial(lgv.langevin, optax.sgd, 0.1, 0)):
        with pytest.raises(TypeError, match=message):
            make(mask=mask)


def test_a_mask_of_another_tree_names_layer_mask():
    with pytest.raises(ValueError, match=r"for parameters(.|\n)*langevin_optax\.layer_mask makes such a tree"):
        SGD(mask=[True, False]).init(tree("Dense_0"))
