"""Stacked layers: found in the model, counted block by block, masked step by step."""

import copy
import json
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import langevin_optax as lgv
from tests.layers.models import Block, NnxScanned, Scanned, X
from tests.layers.stacks import NO_STACKS, STACKS, Around, NnxAlternating, Owning, scan
from tests.layers.trees import SGD, chosen, flat, moved

# The layers of Scanned and of NnxScanned.
STACK = ["embed", "blocks/Dense_0", "blocks/Dense_1", "head"]
NNX_STACK = ["embed", "blocks/inner", "blocks/out", "head"]

# Found in the model.


def params_of(model, x=X):
    """Parameters of zeros."""
    if isinstance(model, nnx.Module):
        tree = nnx.state(model, nnx.Param)
    else:
        tree = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), tree)


@pytest.mark.parametrize(("model", "scanned"), STACKS.values(), ids=STACKS)
def test_stacks_are_found(model, scanned):
    order = lgv.layer_order(model, X)
    assert order.scanned == scanned
    for which in (1, 0.3, slice(2), [0]):
        with pytest.raises(ValueError, match=re.escape(f"write scanned={json.dumps(scanned)};")):
            lgv.layer_mask(which, order)
    everything = lgv.layer_mask(1.0, order, scanned=order.scanned)(params_of(model))
    assert jax.tree.all(everything)


@pytest.mark.parametrize("model", NO_STACKS.values(), ids=NO_STACKS)
def test_members_side_by_side_and_layers_called_again_are_no_stacks(model):
    order = lgv.layer_order(model, X)
    assert order.scanned == {}
    assert chosen(lgv.layer_mask(1.0, order)(params_of(model)))


def test_an_order_with_stacks_is_a_list():
    order = lgv.layer_order(Scanned(), X)
    assert isinstance(order, list) and order == STACK and json.loads(json.dumps(order)) == STACK
    for again in (copy.copy(order), copy.deepcopy(order), pickle.loads(pickle.dumps(order))):
        assert again == order and again.scanned == order.scanned == {"blocks": 0}


@pytest.mark.parametrize("name", ["axis 1", "with remat", "of a function", "of stacks"])
def test_where_flax_does_not_name_the_transformations_the_shapes_tell(name, monkeypatch):
    monkeypatch.setattr("langevin_optax.layers._order._lifts", lambda path: None)
    model, scanned = STACKS[name]
    assert lgv.layer_order(model, X).scanned == scanned


# Counted, and masked.

NONE, ALL = [0, 0, 0], [1, 1, 1]


def stack(axis=0, nnx_model=False):
    """Parameters with three stacked blocks of two layers, and the paths of these layers."""
    model, order = (NnxScanned(nnx.Rngs(0), axis), NNX_STACK) if nnx_model else (Scanned(axis), STACK)
    assert lgv.layer_order(model, X) == order
    return params_of(model), order


def along(axis, steps, ndim):
    """A boolean array of rank ``ndim`` that has ``steps`` on ``axis``, or one bool if they are all the same."""
    if len(set(steps)) == 1:
        return bool(steps[0])
    return np.array(steps, bool).reshape([3 if a == axis % ndim else 1 for a in range(ndim)])


# What is selected: of embed, of the steps of the blocks, of which each holds two layers, of head. Counts are of blocks.
COUNTED = [
    (1, (1, NONE, NONE, 0)),
    (2, (1, [1, 0, 0], [1, 0, 0], 0)),
    (3, (1, [1, 1, 0], [1, 1, 0], 0)),
    (4, (1, ALL, ALL, 0)),
    (5, (1, ALL, ALL, 1)),
    (0.5, (1, [1, 0, 0], [1, 0, 0], 0)),
    (0.6, (1, [1, 1, 0], [1, 1, 0], 0)),
    (1.0, (1, ALL, ALL, 1)),
    ([-1, -2, 1], (0, [1, 0, 1], [1, 0, 1], 1)),
    (slice(1, None, 2), (0, [1, 0, 1], [1, 0, 1], 0)),
    (slice(2, 4), (0, [0, 1, 1], [0, 1, 1], 0)),
]
NAMED = [
    ("blocks/0/.*", (0, [1, 0, 0], [1, 0, 0], 0)),
    ("blocks/[12]/(Dense_1|out)|head", (0, NONE, [0, 1, 1], 1)),
    (lambda path: path.startswith(("blocks/1/Dense_0", "blocks/1/inner")), (0, [0, 1, 0], NONE, 0)),
]
SCANNED = COUNTED + NAMED


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("nnx_model", [False, True], ids=["linen", "nnx"])
def test_stacked_layers_count_block_by_block(nnx_model, axis):
    params, order = stack(axis, nnx_model)
    assert flat(params)[f"{order[1]}/kernel"].shape == {0: (3, 4, 4), 1: (4, 3, 4), -1: (4, 4, 3)}[axis]
    for which, (embed, first, second, head) in SCANNED:
        expected = dict(zip(order, ([embed], first, second, [head]), strict=True))
        mask = lgv.layer_mask(which, order, scanned={"blocks": axis})(params)
        assert jax.tree.structure(mask) == jax.tree.structure(params)
        for path, m in flat(mask).items():
            want = along(axis, expected[path.rpartition("/")[0]], flat(params)[path].ndim)
            assert isinstance(m, np.ndarray if isinstance(want, np.ndarray) else bool), (which, path)
            np.testing.assert_array_equal(m, want, err_msg=f"{which} {path}", strict=True)


@pytest.mark.parametrize(("nnx_model", "axis", "case"), [(False, 0, 2), (False, 1, -3), (False, -1, -2), (True, 1, 2)])
def test_noise_on_stacked_layers(nnx_model, axis, case):
    params, order = stack(axis, nnx_model)
    which, (embed, first, second, head) = SCANNED[case]
    expected = dict(zip(order, ([embed], first, second, [head]), strict=True))
    tx = SGD(mask=lgv.layer_mask(which, order, scanned={"blocks": axis}))
    for path, entries in flat(moved(tx, params)).items():
        want = along(axis, expected[path.rpartition("/")[0]], entries.ndim)
        np.testing.assert_array_equal(entries, np.broadcast_to(want, entries.shape), err_msg=path)


def test_noise_on_a_slice_is_that_of_the_whole():
    params = {"blocks": {"kernel": jnp.zeros((3, 40))}}
    updates = lambda tx: jax.jit(tx.update)(params, tx.init(params), params)[0]["blocks"]["kernel"]
    part = updates(SGD(mask=lgv.layer_mask("blocks/1", scanned={"blocks": 0})))
    np.testing.assert_array_equal(part[1], updates(SGD())[1])
    assert not np.any(part[0]) and not np.any(part[2])


def test_stacks_without_an_order():
    params, _ = stack()
    blocks = {"blocks": params["blocks"]}
    steps = lambda mask, name: np.ravel(mask["blocks"][name]["bias"]).tolist()
    mask = lgv.layer_mask(2, scanned={"blocks": 0})(blocks)
    assert steps(mask, "Dense_0") == steps(mask, "Dense_1") == [True, True, False]
    mask = lgv.layer_mask("blocks/2/Dense_0", scanned={"blocks": 0})(params)
    assert steps(mask, "Dense_0") == [False, False, True] and steps(mask, "Dense_1") == [False]
    with pytest.raises(ValueError, match=r"'embed', 'head'\]\. Pass order="):
        lgv.layer_mask(3, scanned={"blocks": 0})(params)


def test_a_stack_may_be_one_layer_the_whole_tree_or_one_of_two():
    def names(order, scanned, params):
        seen = []
        lgv.layer_mask(lambda path: seen.append(path) or True, order, scanned=scanned)(params)
        return seen

    leaf = lambda n: {"w": jnp.zeros((n, 4))}
    assert names(["a", "b"], {"a": 0}, {"a": leaf(2), "b": leaf(3)}) == ["a/0", "a/1", "b"]
    assert names([("x", "a"), "b"], {("x", "a"): 0}, {"x": {"a": leaf(2)}, "b": leaf(3)}) == ["x/a/0", "x/a/1", "b"]
    assert names(["b", "a"], {"a": 0, "b": 0}, {"a": leaf(2), "b": leaf(3)}) == ["b/0", "b/1", "b/2", "a/0", "a/1"]
    assert names(["b", "a"], {"": 0}, {"a": leaf(2), "b": leaf(2)}) == ["0/b", "0/a", "1/b", "1/a"]
    # A name that merely begins like the stack's is not of the stack.
    assert names(["a", "ab"], {"a": 0}, {"a": leaf(2), "ab": leaf(3)}) == ["a/0", "a/1", "ab"]


@pytest.mark.parametrize("scanned", [{"block": 0}, {"blocks": 0, "blocks_2": 0}, {("params", "blocks"): 0}])
def test_scanned_that_holds_no_layer_raises(scanned):
    params, order = stack()
    wrong = "/".join(path) if isinstance(path := next(reversed(scanned)), tuple) else path
    with pytest.raises(
        ValueError, match=re.escape(f"scanned names ['{wrong}'], which hold none of the layers {order}.")
    ):
        lgv.layer_mask(1, order, scanned=scanned)(params)


UNEVEN = [
    {"a": {"w": jnp.zeros((3, 4))}, "b": {"w": jnp.zeros((2, 4))}},
    {"a": {"v": jnp.zeros((2, 4)), "w": jnp.zeros((3, 4))}, "b": {"w": jnp.zeros((3, 4))}},
    {"a": {"v": jnp.zeros((3, 4)), "w": jnp.zeros((2, 4))}, "b": {"w": jnp.zeros((2, 4))}},
]


@pytest.mark.parametrize("params", UNEVEN, ids=["layers", "first-leaf", "last-leaf"])
def test_a_stack_of_different_lengths_raises(params):
    message = "scanned={'': 0}: the leaves under '' must share one length, got [2, 3]."
    for which in (1, "0/a"):
        with pytest.raises(ValueError, match=re.escape(message)):
            lgv.layer_mask(which, ["a", "b"], scanned={"": 0})(params)


@pytest.mark.parametrize("axis", [2, -3, 7])
@pytest.mark.parametrize("first", [(3, 3), (3, 3, 3), ()])
def test_an_axis_that_a_leaf_does_not_have_raises(axis, first):
    params = {"a": {"v": jnp.zeros(first), "w": jnp.zeros((3, 3))}}
    with pytest.raises(ValueError, match=r"scanned=\{'a': -?\d\}"):
        lgv.layer_mask(1, ["a"], scanned={"a": axis})(params)


def steps(mask):
    """What a mask selects of each layer: True, False, or the steps of those that are stacked."""
    found = {}
    for path, m in flat(mask).items():
        part = m if isinstance(m, bool) else np.flatnonzero(m).tolist()
        assert found.setdefault(path.rpartition("/")[0], part) == part
    return found


def test_the_first_blocks_of_a_transformer():
    """Of an embedding, twelve blocks and a head: a share of them, and the first blocks alone."""
    model = Around(lambda: scan(Block, length=12))
    order, params = lgv.layer_order(model, X), params_of(model)
    select = lambda which, **kwargs: steps(lgv.layer_mask(which, order, **kwargs)(params))
    blocks = lambda part, embed: {"embed": embed, "blocks/Dense_0": part, "blocks/Dense_1": part, "head": False}
    assert select(0.3, scanned={"blocks": 0}) == blocks([0, 1, 2], embed=True)
    assert select(5, scanned={"blocks": 0}) == blocks([0, 1, 2, 3], embed=True)
    for first_four in ("blocks/[0-3]/.*", r"blocks/[0-3](/.*)?", slice(1, 5), range(1, 5)):
        assert select(first_four, scanned={"blocks": 0}) == blocks([0, 1, 2, 3], embed=False)
    assert select(0.3, scanned=order.scanned) == select(0.3, scanned={"blocks": 0})
    # Without steps, a layer of the blocks is one.
    assert select(2, scanned={}) == blocks(True, embed=True) | {"blocks/Dense_1": False}
    assert select("blocks/Dense_1") == blocks(False, embed=False) | {"blocks/Dense_1": True}
    with pytest.raises(ValueError, match=re.escape('(With scanned={"blocks": 0} the steps of those that are stacked')):
        select("blocks/[0-3]/.*")


def test_the_parameter_that_a_block_owns_is_of_the_block():
    model = Around(lambda: scan(Owning))
    order, params = lgv.layer_order(model, X), params_of(model)
    select = lambda which: steps(lgv.layer_mask(which, order, scanned={"blocks": 0})(params))
    assert order == ["embed", "blocks", "blocks/Dense_0", "head"]
    assert select(2) == {"embed": True, "blocks": [0], "blocks/Dense_0": [0], "head": False}
    assert select("blocks/[01](/.*)?") == {"embed": False, "blocks": [0, 1], "blocks/Dense_0": [0, 1], "head": False}


def test_one_of_two_stacks_left_out_raises():
    model, scanned = STACKS["two"]
    order, params = lgv.layer_order(model, X), params_of(model)
    left = "layers=4 counts layers, and ['decoder/Dense_0', 'decoder/Dense_1'] are stacked"
    with pytest.raises(ValueError, match=re.escape(left)):
        lgv.layer_mask(4, order, scanned={"encoder": 0})
    found = steps(lgv.layer_mask(4, order, scanned=scanned)(params))
    assert found == dict.fromkeys(order[:2], True) | {name: [0] for name in order[2:]}
    # A name does not count.
    assert steps(lgv.layer_mask("encoder/0/.*", order, scanned={"encoder": 0})(params))["encoder/Dense_0"] == [0]


def test_stacks_that_one_scan_runs_through_alternate():
    model = nnx.eval_shape(lambda: NnxAlternating(nnx.Rngs(0)))
    order, params = lgv.layer_order(model, X), params_of(model)
    assert order == ["attention", "mlp", "head"]
    select = lambda which: steps(lgv.layer_mask(which, order, scanned=order.scanned)(params))
    assert select(2) == {"attention": [0, 1], "mlp": [0, 1], "head": False}
    assert select([-1, 0]) == {"attention": [0], "mlp": [0], "head": True}
    with pytest.raises(ValueError, match=re.escape("4 layers ['attention/0+mlp/0', 'attention/1+mlp/1',")):
        select(5)


@pytest.mark.parametrize(
    ("scanned", "error", "message"),
    [
        ({"blocks": 1}, ValueError, "the layers of 'blocks' are stacked on axis 0, not on 1"),
        ({"blocks/Dense_0": 1, "blocks/Dense_1": 0}, ValueError, "are stacked on axis 0, not on 1"),
        ({"blocks": 0, "blocks/Dense_0": 0}, ValueError, "'blocks/Dense_0' lies within 'blocks'. Name the outer"),
        ({"blocks": None}, TypeError, "the axis of 'blocks' must be an int, got None"),
        ({"blocks": True}, TypeError, "the axis of 'blocks' must be an int, got True"),
        (
            "blocks",
            TypeError,
            "scanned must say on which axis each path is stacked, as {\"blocks\": 0} does, got 'blocks'",
        ),
        (["blocks"], TypeError, "scanned must say on which axis each path is stacked"),
    ],
)
def test_wrong_scanned_raises_at_construction(scanned, error, message):
    order = lgv.layer_order(Around(lambda: scan(Block)), X)
    for which in (1, "blocks/0/.*"):
        with pytest.raises(error, match=re.escape(message)):
            lgv.layer_mask(which, order, scanned=scanned)


def test_an_axis_that_the_shapes_allow_is_believed():
    """Four steps of width four: the order says axis 0, and cannot know better."""
    order = lgv.layer_order(Around(lambda: scan(Block, length=4)), X)
    params = {"embed": {"w": jnp.zeros(4)}, "head": {"w": jnp.zeros(4)}}
    params["blocks"] = {name: {"w": jnp.zeros((4, 4))} for name in ("Dense_0", "Dense_1")}
    mask = lgv.layer_mask(2, order, scanned={"blocks": 1})(params)
    np.testing.assert_array_equal(mask["blocks"]["Dense_0"]["w"], [[True, False, False, False]])


def test_parts_of_a_stack_written_as_stacks_are_its_blocks():
    order, params = lgv.layer_order(Scanned(), X), params_of(Scanned())
    parts = {"blocks/Dense_0": 0, "blocks/Dense_1": 0}
    assert steps(lgv.layer_mask(2, order, scanned=parts)(params))["blocks/Dense_1"] == [0]


def test_blocks_of_layers_whose_names_have_no_order_have_one():
    leaf = {"w": jnp.zeros((3, 4))}
    params = {f"blocks_{i}": {"attention": leaf, "mlp": {"up": leaf, "down": leaf}} for i in (10, 2)}
    mask = lgv.layer_mask(4, scanned={"blocks_2": 0, "blocks_10": 0})(params)
    assert set(map(str, steps(mask["blocks_2"]).values())) == {"True"}
    assert set(map(str, steps(mask["blocks_10"]).values())) == {"[0]"}
    # And leaves that lie at the root, stacked.
    mask = lgv.layer_mask(2, scanned={"": 0})({"W": jnp.zeros((3, 4)), "b": jnp.zeros(3)})
    assert mask["W"].tolist() == [[True], [True], [False]] and mask["b"].tolist() == [True, True, False]


def test_a_hidden_stack_keeps_its_place():
    model = Around(lambda: scan(Block, length=12))
    order, params = lgv.layer_order(model, X), params_of(model)
    frozen = {"embed": True, "blocks": False, "head": True}
    first = lgv.layer_mask([0, -1, 3], order, scanned={"blocks": 0})
    tx = optax.masked(SGD(mask=first), frozen)
    assert {path.split("/")[0] for path, m in flat(moved(tx, params)).items() if m.any()} == {"embed", "head"}
    with pytest.raises(ValueError, match=r"asks for more than the 14 layers \['embed', 'blocks/0', 'blocks/1', "):
        optax.masked(SGD(mask=lgv.layer_mask(15, order, scanned={"blocks": 0})), frozen).init(params)
    written = lgv.layer_mask(1, list(order), scanned={"blocks": 0})  # an order that does not know how many there are
    with pytest.raises(ValueError, match=r"the leaves under 'blocks' must share one length, got \[\]"):
        optax.masked(SGD(mask=written), frozen).init(params)


# Masks that hold arrays.


def block_mask():
    params = params_of(Scanned())
    mask = lgv.layer_mask(2, lgv.layer_order(Scanned(), X), scanned={"blocks": 0})
    return params, mask, mask(params)["blocks"]["Dense_0"]["kernel"]


WHOLE = (
    "selects some of the steps of stacked layers, which are parts of leaves. optax.masked, .* as mask= to the Langevin"
)


@pytest.mark.parametrize(
    ("tx", "error"),
    [
        (lambda mask: optax.masked(SGD(), mask), ValueError),
        (lambda mask: optax.adamw(0.1, mask=mask), ValueError),
        (lambda mask: optax.partition({True: SGD(), False: optax.sgd(0.1)}, mask), TypeError),
    ],
    ids=["masked", "weight decay", "partition"],
)
def test_a_mask_of_steps_where_whole_leaves_are_asked_for_raises(tx, error):
    params, mask, _ = block_mask()
    for given in (mask, mask(params)):
        with pytest.raises(error, match=WHOLE):
            tx(given).init(params)


def test_a_mask_of_steps_is_an_array():
    params, mask, steps = block_mask()
    assert isinstance(steps, np.ndarray) and steps.dtype == bool and steps.shape == (3, 1, 1)
    with pytest.raises(ValueError, match=WHOLE):
        bool(steps)
    with pytest.raises(TypeError, match=WHOLE):
        hash(steps)
    for again in (copy.deepcopy(steps), copy.copy(steps), pickle.loads(pickle.dumps(steps)), steps.copy()):
        np.testing.assert_array_equal(again, steps, strict=True)
        with pytest.raises(ValueError, match=WHOLE):
            bool(again)
    assert steps.any() and not steps.all() and np.any(steps) and steps.sum() == 1 and bool(steps[0, 0, 0])
    leaf = params["blocks"]["Dense_0"]["kernel"]
    for where in (jnp.where, jax.jit(jnp.where)):
        assert float(where(steps, 1.0, leaf).sum()) == 16
    tx = SGD(mask=mask(params))
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    for again in (copy.deepcopy(mask(params)), pickle.loads(pickle.dumps(mask(params)))):
        same = SGD(mask=again)
        jax.tree.map(np.testing.assert_array_equal, updates, same.update(params, same.init(params), params)[0])


# Integrators of two parts.

PARTS = {
    "partitioned": lambda **kwargs: lgv.partitioned(SGD(), optax.sgd(0.1), **kwargs),
    "adlala": lambda **kwargs: lgv.adlala(0.1, 0, temperature=1e-3, sigma=0.01, coupling=0.1, friction=0.5, **kwargs),
    "lol": lambda **kwargs: lgv.lol(0.1, 0, temperature=1e-3, friction=0.5, **kwargs),
    "lala": lambda **kwargs: lgv.lala(0.1, 0, temperature=1e-3, friction=0.5, **kwargs),
}


def first_part(tx, params):
    """The leaves of the first part."""
    momenta = tx.init(params).inner_states["first"].inner_state
    leaves = jax.tree_util.tree_leaves_with_path(momenta)
    return {path[-2].key for path, leaf in leaves if getattr(path[-1], "key", None) == "kernel"}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_partition_does_not_cut_a_stack(part):
    order, params = lgv.layer_order(Scanned(), X), params_of(Scanned())
    cut = r"takes some of the steps of the stacked layers and leaves the others \(scanned=\{'blocks': 0\}\), but a part"
    for which in (2, 0.5, slice(1, 3), [1]):
        with pytest.raises(ValueError, match=cut):
            part(layers=which, order=order).init(params)
    with pytest.raises(TypeError, match="scanned"):
        part(layers=1, order=order, scanned={"blocks": 0})


@pytest.mark.parametrize("part", [PARTS["adlala"], PARTS["lala"]], ids=["adlala", "lala"])
def test_a_partition_takes_whole_stacks(part):
    order, params = lgv.layer_order(Scanned(), X), params_of(Scanned())
    assert first_part(part(order=order), params) == {"embed"}
    assert first_part(part(layers=4, order=order), params) == {"embed", "Dense_0", "Dense_1"}
    assert first_part(part(layers=slice(1, 4), order=order), params) == {"Dense_0", "Dense_1"}
    assert first_part(part(layers="blocks/Dense_0|embed", order=order), params) == {"embed", "Dense_0"}
