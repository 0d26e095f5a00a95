"""A run that is saved, killed and resumed in another process equals the undisturbed one, bit for bit."""

import subprocess
import sys

import jax
import optax
import orbax.checkpoint as ocp
import pytest

import langevin_optax as lgv
from tests.cases import EPS, bits, params_like, run

SECOND_HALF = """
import sys
import jax, numpy as np, optax, orbax.checkpoint as ocp
import langevin_optax as lgv
from tests.cases import bits, params_like, run

directory, name, impl = sys.argv[1:]
key = 5 if impl == "int" else jax.random.key(5, impl=impl)
tx = getattr(lgv, name)(optax.linear_schedule(1e-2, 0.0, 20), optax.linear_schedule(1e-1, 0.0, 20), key)
params = params_like()
like = jax.eval_shape(lambda: (params, tx.init(params)))
with ocp.StandardCheckpointer() as checkpointer:
    params, state = checkpointer.restore(directory, like)
result = run(tx, params, 5, state)
sys.stdout.buffer.write(b"".join(bits(result)))
"""


@pytest.mark.parametrize(("name", "impl"), [("adam", "int"), ("rmsprop", "threefry2x32"), ("sgd", "rbg")])
def test_resumed_in_a_new_process(tmp_path, name, impl):
    key = 5 if impl == "int" else jax.random.key(5, impl=impl)
    tx = getattr(lgv, name)(optax.linear_schedule(1e-2, 0.0, 20), optax.linear_schedule(1e-1, 0.0, 20), key)
    half = run(tx, params_like(), 5)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "half", half)
    undisturbed = run(tx, *[half[0], 5, half[1]])
    done = subprocess.run(
        [sys.executable, "-c", SECOND_HALF, str(tmp_path / "half"), name, impl], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert done.stdout == b"".join(bits(undisturbed))
    # A run that forgot its count or its key would not pass.
    fresh = run(tx, half[0], 5)
    assert bits(fresh) != bits(undisturbed)
    reseeded = run(tx, half[0], 5, optax.tree.set(half[1], key=jax.random.key(6, impl=None if impl == "int" else impl)))
    assert bits(reseeded) != bits(undisturbed)


def test_the_two_halves_are_the_whole():
    tx = lgv.adam(1e-2, 1e-1, 5)
    params, state = run(tx, params_like(), 5)
    assert bits(run(tx, params, 5, state)) == bits(run(tx, params_like(), 10))


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "adagrad"])
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
