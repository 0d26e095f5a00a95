"""A run that is saved, killed and resumed in another process equals the undisturbed one, bit for bit."""

import subprocess
import sys

import jax
import optax
import orbax.checkpoint as ocp
import pytest

import langevin_optax as lgv
from tests.cases import EPS, INTEGRATORS, OPTIMIZERS, RESUMED, bits, is_key, params_like, resumed, run

SECOND_HALF = """
import pathlib, sys
import jax, orbax.checkpoint as ocp
from tests.cases import RESUMED, bits, params_like, resumed, run

directory = pathlib.Path(sys.argv[1])
for name, impl in RESUMED:
    tx, params = resumed(name, impl), params_like()
    like = jax.eval_shape(lambda: (params, tx.init(params)))
    with ocp.StandardCheckpointer() as checkpointer:
        params, state = checkpointer.restore(directory / name, like)
    (directory / f"{name}.result").write_bytes(b"".join(bits(run(tx, params, 5, state))))
"""


@pytest.mark.slow
def test_resumed_in_a_new_process(tmp_path):
    txs = {name: resumed(name, impl) for name, impl in RESUMED}
    five = {name: jax.jit(lambda params, state, tx=tx: run(tx, params, 5, state)) for name, tx in txs.items()}
    halves = {name: five[name](params_like(), tx.init(params_like())) for name, tx in txs.items()}
    with ocp.StandardCheckpointer() as checkpointer:
        for name, half in halves.items():
            checkpointer.save(tmp_path / name, half)
    command = [sys.executable, "-c", SECOND_HALF, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    for name, impl in RESUMED:
        params, state = halves[name]
        undisturbed = bits(five[name](params, state))
        assert (tmp_path / f"{name}.result").read_bytes() == b"".join(undisturbed), name
        # A run that forgot its count or its key would not pass.
        assert bits(five[name](params, txs[name].init(params))) != undisturbed, name
        key = jax.random.key(6, impl=None if impl == "int" else impl)
        assert bits(five[name](params, optax.tree.set(state, key=key))) != undisturbed, name


INTEGRATOR = {integrator.id: integrator for integrator in INTEGRATORS}
SWAPS = [
    ("baoab", "adaptive_langevin"),
    ("adaptive_langevin", "baoab"),
    ("overdamped_langevin", "baoab"),
    ("baoab", "overdamped_langevin"),
    ("adlala", "lala"),
    ("lala", "adlala"),
    ("lol", "lala"),
    ("lala", "lol"),
    ("baoab", "lala"),
    ("lala", "baoab"),
]


@pytest.mark.parametrize("saved", ["baoab", "adlala"])
def test_orbax_restores_no_other_integrator(tmp_path, saved):
    """Nor does an integrator take what is restored without a structure."""
    tx, params = INTEGRATOR[saved].langevin(), params_like()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", tx.init(params))
        checkpointer.wait_until_finished()
        for name, integrator in INTEGRATOR.items():
            if name != saved:
                like = jax.eval_shape(integrator.langevin().init, params)
                with pytest.raises(ValueError, match=r"(?is)structure.*(thermostat|momentum|count)"):
                    checkpointer.restore(tmp_path / "state", like)
        restored = checkpointer.restore(tmp_path / "state")
    assert isinstance(restored, dict)
    with pytest.raises(ValueError, match=r"got dict\. .*restored without its structure"):
        tx.update(params, restored, params)


@pytest.mark.parametrize(("theirs", "ours"), SWAPS)
def test_the_state_of_another_integrator(theirs, ours):
    params = params_like()
    state = INTEGRATOR[theirs].langevin().init(params)
    message = r"needs a state of its own, \w+State, got \w+State\. Was the checkpoint written by another integrator"
    with pytest.raises(ValueError, match=message):
        INTEGRATOR[ours].langevin().update(params, state, params)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_state_of_an_optimiser(name):
    params = params_like()
    state = getattr(lgv, name)(1e-2, 1e-2, 0).init(params)
    for integrator in INTEGRATORS:
        with pytest.raises(ValueError, match=r"got tuple\. Was the checkpoint written by another integrator"):
            integrator.langevin().update(params, state, params)


@pytest.mark.parametrize("name", ["adlala", "lol", "lala"])
def test_the_state_of_another_selection_of_layers(name):
    params = params_like()
    state = INTEGRATOR[name].langevin(layers="Dense_1").init(params)
    with pytest.raises(ValueError, match=r"momenta of \w+ are like the parameters of init, got\n.*\nfor gradients"):
        INTEGRATOR[name].langevin().update(params, state, params)


@pytest.mark.parametrize("name", ["baoab", "adaptive_langevin"])
def test_the_state_of_another_model(name):
    params, tx = params_like(), INTEGRATOR[name].langevin()
    with pytest.raises(ValueError, match=f"momenta of {name} are like the parameters of init"):
        tx.update(params, tx.init({"w": params["scale"]}), params)


def test_the_two_halves_are_the_whole():
    tx = lgv.adam(1e-2, 1e-1, 5)
    params, state = run(tx, params_like(), 5)
    assert bits(run(tx, params, 5, state)) == bits(run(tx, params_like(), 10))


@pytest.mark.parametrize(
    "name", ["adam", *(pytest.param(n, marks=pytest.mark.slow) for n in ("adamw", "rmsprop", "adagrad"))]
)
def test_a_stock_checkpoint_goes_on_as_langevin(tmp_path, name):
    """State of stock Optax with its count: the noise goes on at that count, and the schedules with it."""
    gamma, sigma = optax.linear_schedule(1e-2, 0.0, 20), optax.linear_schedule(0.1, 0.0, 20)
    kwargs = {"eps": EPS[name]} if name in EPS else {}
    stock = getattr(optax, name)(gamma, **kwargs)
    params, stock_state = run(stock, params_like(), 7)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "stock", stock_state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "stock", jax.eval_shape(stock.init, params))

    tx = getattr(lgv, name)(gamma, sigma, 0)
    state = (*restored, optax.tree.set(tx.init(params)[-1], count=7))
    quiet = getattr(lgv, name)(gamma, 0.0, 0)
    assert bits(run(quiet, params, 5, state)[0]) == bits(run(stock, params, 5, stock_state)[0])
    noisy, state = run(tx, params, 5, state)
    assert bits(noisy) != bits(run(stock, params, 5, stock_state)[0])
    assert int(state[-1].count) == 12


@pytest.mark.parametrize("row", [*OPTIMIZERS, *INTEGRATORS], ids=lambda row: row.id)
def test_a_key_that_is_not_the_optimisers(row):
    """Of another kind, or restored as bare data: an error, and no other noise than the checkpoint's."""
    params = params_like()
    tx, other = row.langevin(key=1), row.langevin(key=jax.random.key(1, impl="rbg"))
    with pytest.raises(ValueError, match=r"is of rbg, .* of threefry2x32, .*key=jax\.random\.key\(seed, impl='rbg'\)"):
        tx.update(params, other.init(params), params)

    def bare(state):
        return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, state)

    with pytest.raises(TypeError, match=r"must be a jax\.random\.key, got .*jax\.random\.wrap_key_data"):
        tx.update(params, bare(tx.init(params)), params)
    with pytest.raises(TypeError, match=r"must be a jax\.random\.key, got .*jax\.random\.wrap_key_data"):
        jax.jit(tx.update)(params, bare(tx.init(params)), params)
