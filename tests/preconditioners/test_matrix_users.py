"""What users do with matrix preconditioners: NNX, many chains, extreme gradients, counts at their end, mistakes."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

import langevin_optax as lgv
from tests.cases import bits, by_default

pytestmark = pytest.mark.filterwarnings("ignore:prong has no covariances")
NAMES = ["soap", "shampoo", "prong"]
every = pytest.mark.parametrize("name", NAMES)
PARAMS = {"Dense_0": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}
GIVEN = {"Dense_0": jnp.eye(5) + 0.1}


def made(name, sigma=1e-3, **kwargs):
    return getattr(lgv, name)(1e-2, sigma, 0, **kwargs)


def gradient(step, scale=1.0):
    return jax.tree.map(lambda p: scale * jax.random.normal(jax.random.key(step), p.shape), PARAMS)


STACKS = """
import jax, jax.numpy as jnp, langevin_optax as lgv
params = {f"blocks_{i}": {"w": jnp.ones((4, 128, 128))} for i in range(4)}
for name in ("shampoo", "soap"):
    tx = getattr(lgv, name)(1e-2, 1e-3, 0, precondition_frequency=1, scanned=dict.fromkeys(params, 0))
    update, state = jax.jit(tx.update), tx.init(params)
    for step in range(4):
        g = jax.tree.map(lambda p: jax.random.normal(jax.random.key(step), p.shape), params)
        updates, state = update(g, state, params)
        jax.block_until_ready(updates)
print("done")
"""


@pytest.mark.slow
def test_stacks_of_large_matrices_do_not_hang():
    """As batches of LAPACK's eigenvectors on several threads do."""
    done = subprocess.run([sys.executable, "-c", STACKS], capture_output=True, text=True, timeout=600)
    assert done.stdout == "done\n", done.stderr


def primitives(jaxpr, found=None):
    found = set() if found is None else found
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns") and equation.primitive.name != "while":
                    primitives(inner, found)
    return found


@every
def test_chains_pay_for_no_refresh_that_is_not_due(name):
    """Under vmap too eigenvectors and QR are within loops, which run when they are due, and not in a choice."""
    tx = made(name)
    states = jax.vmap(lambda chain: lgv.fold_in(tx.init(PARAMS), chain))(jnp.arange(3))
    program = jax.make_jaxpr(jax.vmap(lambda s: tx.update(PARAMS, s, PARAMS, input_covariances=GIVEN)))(states)
    assert not primitives(program.jaxpr) & {"eigh", "qr", "householder_product", "geqrf"}
    assert "while" in primitives(program.jaxpr)


@pytest.mark.slow
@pytest.mark.parametrize("name", by_default(["soap"], ["soap", "shampoo"]))
@pytest.mark.parametrize("frozen", [False, True])
def test_nnx_optimizer(name, frozen):
    """Whose state may hold nothing but arrays: the same as on a dict."""
    tx = made(name, precondition_frequency=2)
    if frozen:
        scaler = lgv.freeze_preconditioner(getattr(lgv, f"scale_by_{name}")(eps=1e-3), 2)
        noise = lgv.add_preconditioned_noise(1e-2, 1e-3, 0)
        tx = optax.chain(scaler, noise, optax.scale_by_learning_rate(1e-2))
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(4):
        grads = nnx.grad(lambda m: jnp.sum(m(jnp.ones((2, 4))) ** 2))(model)
        optimizer.update(model, grads)
        updates, state = update(nnx.to_pure_dict(grads), state, params)
        params = optax.apply_updates(params, updates)
    for a, b in zip(*map(jax.tree.leaves, (nnx.to_pure_dict(nnx.state(model, nnx.Param)), params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)  # eager here, compiled there


@pytest.mark.slow
@every
def test_a_step_beyond_float32_is_forgotten(name):
    """Its squares are infinite: they do not enter the matrices, which would never be finite again."""
    tx = made(name)
    state, update = tx.init(PARAMS), jax.jit(lambda g, s: tx.update(g, s, PARAMS, input_covariances=GIVEN))
    for step in range(25):
        updates, state = update(gradient(step, 1e20 if step == 3 else 1.0), state)
    assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))


def test_a_covariance_that_is_no_number_is_forgotten():
    """Where it is not known to be none, as within jit."""
    tx = made("prong", precondition_frequency=1)
    update = jax.jit(lambda s, given: tx.update(PARAMS, s, PARAMS, input_covariances=given))
    state = tx.init(PARAMS)
    for given in (GIVEN, jax.tree.map(lambda x: x * jnp.nan, GIVEN), GIVEN):
        updates, state = update(state, given)
    alone = tx.init(PARAMS)
    for _ in range(3):
        expected, alone = update(alone, GIVEN)
    for a, b in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.slow
def test_layers_of_prong_have_averages_of_their_own():
    """Also one that comes later, and not in every step: Σ = 2I gives P = 1/2 as soon as it has come."""
    params = {name: {"kernel": jnp.ones((3, 2))} for name in ("early", "late")}
    scaler = lgv.scale_by_prong(eps=1e-12, decay=0.9, precondition_frequency=1)
    state = scaler.init(params)
    for step in range(10):
        given = {"early": 2 * jnp.eye(3)} | ({"late": 2 * jnp.eye(3)} if step % 3 == 2 else {})
        updates, state = scaler.update(params, state, input_covariances=given)
        expected = 0.5 if "late" in given else 1.0
        np.testing.assert_allclose(updates["early"]["kernel"], 0.5, rtol=1e-5)
        np.testing.assert_allclose(updates["late"]["kernel"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", by_default(["shampoo"], NAMES))
def test_counts_at_their_end(name):
    """Past 2³¹ − 1 steps P and the debiasing stay what they are."""
    tx = made(name, sigma=0.0, precondition_frequency=1)
    step = jax.jit(lambda s: tx.update(PARAMS, s, PARAMS, input_covariances=GIVEN))
    state = tx.init(PARAMS)
    for _ in range(4):
        _, state = step(state)
    state = optax.tree.set(state, count=jnp.int32(2**31 - 3))
    seen = []
    for _ in range(5):
        updates, state = step(state)
        seen.append(float(updates["Dense_0"]["kernel"][0, 0]))
    assert np.ptp(seen) < 0.2 * abs(seen[0])


@pytest.mark.parametrize("name", by_default(["soap"], NAMES))
def test_one_chain_per_device_within_shard_map(name):
    mesh = jax.make_mesh((2,), ("chains",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = made(name)

    def chain(kernel):
        params = {"Dense_0": {"kernel": kernel[0], "bias": kernel[0, 0]}}

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(params, state, params, input_covariances=GIVEN)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=3)[0][0]["Dense_0"]["kernel"][None]

    spec = PartitionSpec("chains")
    both = jax.jit(jax.shard_map(chain, mesh=mesh, in_specs=spec, out_specs=spec))(jnp.ones((2, 4, 3)))
    assert both.shape == (2, 4, 3)
    assert np.all(np.isfinite(both))


def test_map_params():
    tx = made("soap")
    state = tx.init(PARAMS)
    assert bits(optax.tree.map_params(tx, lambda x, p: x, state, PARAMS)) == bits(state)


def test_complex_leaves_keep_their_imaginary_parts():
    z = {"w": jnp.array([1 + 3j, 2 - 1j])}
    scaler = lgv.freeze_preconditioner(lgv.scale_by_adam(b1=0.0), 2)
    state = scaler.init(z)
    for _ in range(4):
        updates, state = scaler.update(z, state)
    np.testing.assert_allclose(updates["w"], z["w"] / np.abs(z["w"]), rtol=1e-4)
    tx = optax.chain(lgv.scale_by_rms(0.0), lgv.add_localization(2.0, center=jax.tree.map(jnp.zeros_like, z)))
    pulled = tx.update({"w": jnp.ones(2, z["w"].dtype)}, tx.init(z), z)[0]["w"]
    np.testing.assert_allclose(pulled, 1 + 2 * z["w"], rtol=1e-5)
    with pytest.raises(TypeError, match="need real leaves"):
        made("prong").init(z)


def test_a_masked_localization_takes_the_centre_of_all():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    pull = optax.masked(
        lgv.add_localization(1.0, center={"a": jnp.zeros(2), "b": jnp.zeros(2)}), {"a": True, "b": False}
    )
    tx = optax.chain(lgv.scale_by_rms(0.0), pull)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], 2.0, rtol=1e-5)
    np.testing.assert_allclose(updates["b"], 1.0, rtol=1e-5)


def test_one_operator_at_two_places_of_a_tree():
    """Is that of each place by itself."""

    class Double:
        def root(self, xi):
            return jax.tree.map(lambda x: 2 * x, xi)

    double, params = Double(), {name: {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)} for name in "ac"}
    noise = lgv.add_preconditioned_noise(1.0, 1.0, 0)
    updates, _ = noise.update(params, noise.init(params), preconditioner={"a": double, "c": double})
    for u, xi in zip(*map(jax.tree.leaves, (updates, lgv.noise_like(0, 0, params))), strict=True):
        np.testing.assert_allclose(u, 2 * xi, rtol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "prong", "decay": 1.0}, "decay must be in"),
        ({"name": "soap", "b2": 1.0}, "b2 must be in"),
        ({"name": "shampoo", "eps": 0.0}, "eps must be > 0"),
        ({"name": "prong", "eps": 0.0}, "eps must be > 0"),
    ],
    ids=str,
)
def test_numbers_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        made(**kwargs)
