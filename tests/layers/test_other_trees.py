"""Layers in trees of other kinds: flat dicts, lists, Haiku's, and Equinox's with None for what is no array."""

import dataclasses
import re
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
import pytest

import langevin_optax as lgv
from tests.layers.trees import SGD, moved, numbered, tree

W, B = jnp.zeros((2, 2)), jnp.zeros(2)
COUNTS = [1, 2, 0.3, 1.0, slice(1), [0], [-1]]
NOTHING_SAYS = "counts layers, but nothing says which layers the parameters {} belong to. Pass order="


def selected(mask):
    """The paths of the leaves that a mask selects."""
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    assert all(type(m) is bool for _, m in leaves)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, m in leaves if m}


# Flat dicts.


@pytest.mark.parametrize("which", [1, 2, 0.3, 0.6, slice(1, None), [0, -1], "Dense_1[01]", lambda path: "_2" in path])
@pytest.mark.parametrize("collection", ["", "params/"])
@pytest.mark.parametrize("in_order", [False, True])
def test_a_flat_dict_has_the_layers_of_the_nested_one(which, collection, in_order):
    nested = tree(*(f"{collection}{name}" for name in numbered(12)))
    flat = flax.traverse_util.flatten_dict(nested, sep="/")
    mask = lgv.layer_mask(which, [f"Dense_{i}" for i in (3, 0, 11, *range(4, 11), 1, 2)] if in_order else None)
    assert mask(flat) == flax.traverse_util.flatten_dict(mask(nested), sep="/")
    half = {path: leaf for path, leaf in flat.items() if "Dense_1/" not in path}
    half[f"{collection}Dense_1"] = {"kernel": W, "bias": B}
    assert selected(mask(half)) == selected(mask(flat)) == selected(mask(nested))


def test_noise_on_a_flat_dict_goes_to_the_first_layers_only():
    params = flax.traverse_util.flatten_dict(tree(*numbered(4)), sep="/")
    moves = moved(SGD(mask=lgv.layer_mask(0.3)), params)
    assert {path for path, m in moves.items() if m.any()} == {"Dense_0/bias", "Dense_0/kernel"}


LOOSE = {
    "dict": ({"W1": W, "W2": W, "b1": B, "b2": B}, ["W1", "W2", "b1", "b2"]),
    "collection": ({"params": {"W1": W, "b1": B}}, ["W1", "b1"]),
    "numbered": ({"w1": W, "w2": W}, ["w1", "w2"]),
    "list": ([W, B, W, B], ["0", "1", "2", "3"]),
    "array": (W, [""]),
    "one leaf": ({"w": W}, ["w"]),
    "one layer": ({"kernel": W, "bias": B}, ["bias", "kernel"]),
    "and a layer": ({"scale": B, "Dense_0": {"kernel": W}}, ["scale"]),
    "dots": ({"layer1.weight": W, "layer2.weight": W}, ["layer1.weight", "layer2.weight"]),
    "in one place": ({"net": {"W1": W, "b1": B, "W2": W, "b2": B}}, ["net/W1", "net/W2", "net/b1", "net/b2"]),
    "a list in one place": ({"weights": [W, W]}, ["weights/0", "weights/1"]),
}


@pytest.mark.parametrize(("params", "names"), LOOSE.values(), ids=LOOSE)
@pytest.mark.parametrize("which", COUNTS, ids=str)
def test_leaves_of_no_layer_do_not_count(params, names, which):
    with pytest.raises(ValueError, match=re.escape(NOTHING_SAYS.format(names))):
        lgv.layer_mask(which)(params)


def test_the_ways_out_of_leaves_of_no_layer():
    params = {"W1": W, "b1": B, "W2": W, "b2": B}
    assert selected(lgv.layer_mask(1, [""])(params)) == {*params}
    assert selected(lgv.layer_mask(2, ["W1", "b1", "W2", "b2"])(params)) == {"W1", "b1"}
    assert selected(lgv.layer_mask(".1")(params)) == selected(lgv.layer_mask(lambda path: "1" in path)(params))
    assert selected(lgv.layer_mask(".1")(params)) == {"W1", "b1"}
    assert selected(lgv.layer_mask("Dense_.|scale")({"scale": B, "head": {"w": W}})) == {"scale"}
    assert selected(lgv.layer_mask(r"layer1\..*")({"layer1.weight": W, "layer2.weight": W})) == {"layer1.weight"}
    assert selected(lgv.layer_mask([0], ["net/W1", "net"])({"net": {"W1": W, "W2": W}})) == {"net/W1"}
    assert lgv.layer_mask(1, [""])(W) is lgv.layer_mask("")(W) is True


@pytest.mark.parametrize(
    ("params", "first"),
    [
        ([(W, B), (W, B), (W, B)], {"0/0", "0/1"}),
        ([(W, B), (), (W, B), ()], {"0/0", "0/1"}),
        ({"net": [{"w": W}, {"w": W}]}, {"net/0/w"}),
        ({"mlp/~/linear_10": {"w": W, "b": B}, "mlp/~/linear_2": {"w": W}}, {"mlp/~/linear_2/w"}),
    ],
    ids=["pairs", "pairs and nothing", "list of layers", "Haiku"],
)
def test_layers_that_are_told_apart_count(params, first):
    for which in (1, 0.3, slice(1), [0]):
        assert selected(lgv.layer_mask(which)(params)) == first


STACKED = jnp.zeros((12, 2, 2))


@pytest.mark.parametrize(
    "params",
    [
        {"head": {"w": W, "b": B}},
        {"blocks": {"kernel": STACKED, "bias": STACKED}},
        {"net": {"hidden": W, "out": W}},
        {"net": {"l1_w": W, "l1_b": B, "out_w": W, "out_b": B}},
    ],
    ids=["a layer", "scanned", "two layers", "pairs by name"],
)
def test_a_single_place_is_never_the_whole_tree_in_silence(params):
    """It may be one layer, several, or a stack of them: without an order nothing says which."""
    (place,) = params
    for which in (1, 0.3, slice(1), [0]):
        with pytest.raises(
            ValueError, match=rf"nothing says which layers the parameters .* or \['{place}'\] if all is one"
        ):
            lgv.layer_mask(which)(params)
        assert selected(lgv.layer_mask(which, [place])(params)) == {f"{place}/{name}" for name in params[place]}
    assert selected(lgv.layer_mask(place)(params)) == {f"{place}/{name}" for name in params[place]}


def test_names_without_an_order_say_how_to_write_it():
    params = {name: {"w": W, "b": B} for name in ("linear", "linear_1", "conv")}  # as Haiku names them
    message = (
        r"called: \['conv', 'linear', 'linear_1'\]\. Pass order=langevin_optax\.layer_order\(.*written by hand, in"
    )
    with pytest.raises(ValueError, match=message):
        lgv.layer_mask(2)(params)
    mask = lgv.layer_mask(2, ["conv", "linear", "linear_1"])(params)
    assert selected(mask) == {"conv/w", "conv/b", "linear/w", "linear/b"}


# None, as Equinox leaves it for what is no array.


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Linear:
    weight: Any = dataclasses.field(default_factory=lambda: W)
    bias: Any = dataclasses.field(default_factory=lambda: B)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Lambda:
    fn: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pooling:
    init: Any = None
    operation: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Mlp:
    layers: Any
    activation: Any = None
    final_activation: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Named:
    """Functions and layers under names of one kind."""

    layer1: Any
    layer2: Any
    layer3: Any


def leaves_of(*indices):
    return {f"layers/{i}/{leaf}" for i in indices for leaf in ("weight", "bias")}


ALTERNATING = [Linear(), Lambda(), Linear(), Lambda(), Linear()]


@pytest.mark.parametrize(
    ("params", "first_two"),
    [
        (Mlp((Linear(), Linear(), Linear())), leaves_of(0, 1)),
        (Mlp(ALTERNATING), leaves_of(0, 2)),
        (Mlp([Linear(), None, Linear(), None, Linear(), None]), leaves_of(0, 2)),
        (Mlp([Linear(), Pooling(), Lambda(), Linear(), Linear()]), leaves_of(0, 3)),
        (Mlp([Linear(bias=None), Linear(bias=None), Linear(bias=None)]), {"layers/0/weight", "layers/1/weight"}),
        (Mlp([Linear(), None, Linear(bias=None), Linear()]), leaves_of(0) | {"layers/2/weight"}),
    ],
    ids=["activation", "functions", "bare functions", "pooling", "no bias", "a bias"],
)
def test_none_that_is_no_layer_does_not_count(params, first_two):
    for which in (2, 0.7, slice(2), [0, 1], [0, -2]):
        assert selected(lgv.layer_mask(which)(params)) == first_two
    with pytest.raises(ValueError, match=re.escape("layers=4 asks for more than the 3 layers ['layers/0', ")):
        lgv.layer_mask(4)(params)
    assert selected(lgv.layer_mask("layers/0")(params)) < first_two
    moves = jax.tree_util.tree_leaves_with_path(moved(SGD(mask=lgv.layer_mask(2)), params))
    assert {jax.tree_util.keystr(p, simple=True, separator="/") for p, m in moves if m.any()} == first_two


HIDDEN = Linear(None, None)


@pytest.mark.parametrize(
    ("params", "places"),
    [
        (Mlp([HIDDEN, Linear(), Linear()]), ["layers/0/weight", "layers/0/bias"]),
        (Mlp([Linear(), HIDDEN, Lambda(), Linear()]), ["layers/1/weight", "layers/1/bias"]),
        (Named(Linear(), None, Linear()), ["layer2"]),
        ({"Dense_0": None, "Dense_1": {"kernel": W}}, ["Dense_0"]),
        ({"Dense_0": {"kernel": None}, "Dense_1": {"kernel": W}}, ["Dense_0/kernel"]),
        ({"embed": {"weight": None}, "layers": [Linear(), Linear()]}, ["embed/weight"]),
        ([(None, None), (W, B)], ["0/0", "0/1"]),
    ],
)
def test_none_that_may_be_a_hidden_layer_asks_for_an_order(params, places):
    for which in (1, 0.3, slice(1), [-1]):
        message = f"counts layers, and the parameters hold None at {places}: of hidden layers, which count, or of none?"
        with pytest.raises(ValueError, match=re.escape(message)):
            lgv.layer_mask(which)(params)
    assert selected(lgv.layer_mask(".*")(params)) == selected(jax.tree.map(lambda _: True, params))


def test_an_order_says_what_none_is():
    params = Mlp([HIDDEN, Linear(), Linear()])
    every = ["layers/0", "layers/1", "layers/2"]
    assert selected(lgv.layer_mask(2, every)(params)) == leaves_of(1)
    assert selected(lgv.layer_mask(2, every[1:])(params)) == leaves_of(1, 2)
    with pytest.raises(ValueError, match="layers=1 selects none of the layers"):
        lgv.layer_mask(1, every)(params)


def test_a_layer_of_order_is_there_or_hidden_where_it_would_be():
    """A None elsewhere does not stand for it: the order is another model's."""
    order = ["layers/0", "layers/1", "layers/2", "layers/3"]
    for params in (Mlp([Linear(), Linear()]), Mlp([Linear(), Linear(), optax.MaskedNode()])):
        with pytest.raises(
            ValueError, match=r"order names the layers \[.*'layers/3'\], which the parameters do not hold"
        ):
            lgv.layer_mask(0.5, order)(params)
    hidden = Mlp([Linear(), Linear(), optax.MaskedNode(), Linear(None, optax.MaskedNode())])
    assert selected(lgv.layer_mask(0.5, order)(hidden)) == leaves_of(0, 1)
    # What stands for all of a model's part stands for its layers.
    assert selected(lgv.layer_mask([2], ["a/b", "a/c", "d"])({"a": None, "d": {"w": W}})) == {"d/w"}


def test_masked_layers_keep_their_place_among_none():
    params = Mlp(ALTERNATING)
    last = Mlp([Linear(False, False), Lambda(), Linear(True, True), Lambda(), Linear(True, True)])
    moves = jax.tree_util.tree_leaves_with_path(moved(optax.masked(SGD(mask=lgv.layer_mask(2)), last), params))
    assert {jax.tree_util.keystr(p, simple=True, separator="/") for p, m in moves if m.any()} == leaves_of(2)


def test_functions_among_the_parameters_raise():
    for params in (Mlp([Linear(), Linear()], activation=jax.nn.relu), Mlp([Linear(), Lambda(jnp.tanh), Linear()])):
        for which in (1, "layers/0"):
            with pytest.raises(
                TypeError, match=r"the leaf \..* is a function, .* equinox\.filter\(model, equinox\.is_ine"
            ):
                lgv.layer_mask(which)(params)


# The libraries themselves, where they are installed.


def test_models_of_equinox():
    eqx = pytest.importorskip("equinox")
    key = jax.random.key(0)
    arrays = lambda model: eqx.filter(model, eqx.is_inexact_array)
    linear = lambda: eqx.nn.Linear(2, 2, key=key)
    relu = eqx.nn.Lambda(jax.nn.relu)
    mlp = eqx.nn.MLP(2, 2, 2, 2, key=key)
    assert selected(lgv.layer_mask(2)(arrays(mlp))) == leaves_of(0, 1)
    sequential = eqx.nn.Sequential([linear(), relu, linear(), eqx.nn.Dropout(), linear(), eqx.nn.PReLU()])
    assert selected(lgv.layer_mask(2)(arrays(sequential))) == leaves_of(0, 2)
    convolutions = eqx.nn.Sequential(
        [eqx.nn.Conv2d(1, 2, 3, key=key), eqx.nn.MaxPool2d(2), relu, eqx.nn.Lambda(jnp.ravel), linear()]
    )
    assert selected(lgv.layer_mask([-1])(arrays(convolutions))) == leaves_of(4)
    # A layer whose every parameter is frozen, and one that has none, look the same.
    normalised = eqx.nn.Sequential([linear(), eqx.nn.LayerNorm(2, use_weight=False, use_bias=False), linear()])
    trained = jax.tree.map(lambda _: True, arrays(mlp))
    trained = eqx.tree_at(lambda m: (m.layers[1].weight, m.layers[1].bias), trained, (False, False))
    frozen, _ = eqx.partition(arrays(mlp), trained)
    for model in (arrays(normalised), frozen):
        with pytest.raises(ValueError, match=r"hold None at \['layers/1/weight', 'layers/1/bias'\]"):
            lgv.layer_mask(2)(model)
    assert selected(lgv.layer_mask(2, ["layers/0", "layers/2"])(arrays(normalised))) == leaves_of(0, 2)
    with pytest.raises(TypeError, match="is a function"):
        lgv.layer_mask(1)(mlp)
    with pytest.raises(TypeError, match=r"got MLP\. .* write the order by hand"):
        lgv.layer_order(mlp, jnp.ones(2))
    moves = moved(SGD(mask=lgv.layer_mask(1)), arrays(mlp))
    assert [bool(m.any()) for m in jax.tree.leaves(moves)] == [True, True, False, False, False, False]


def test_models_of_haiku():
    hk = pytest.importorskip("haiku")
    mlp = hk.transform(lambda x: hk.nets.MLP([2, 2, 2])(x)).init(jax.random.key(0), jnp.ones((1, 2)))
    assert selected(lgv.layer_mask(2)(mlp)) == {f"mlp/~/linear_{i}/{leaf}" for i in (0, 1) for leaf in "wb"}
