"""A preconditioner that is frozen, and a pull to a point within it."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import langevin_optax as lgv
from langevin_optax.preconditioners._publish import published
from tests.cases import bits
from tests.optimizers import recursions
from tests.preconditioners import matrix_recursions
from tests.preconditioners.matrix_recursions import kron

B1, B2, EPS, EVERY, AFTER, STEPS = 0.9, 0.8, 1e-2, 3, 5, 9
SHAPES = {"bias": (3,), "kernel": (4, 3)}


def histories(steps=STEPS):
    """Gradients that change from step to step, and the covariances of as many batches of four inputs and a 1."""
    draw = np.random.default_rng(1)
    gradients = [
        {k: np.float32((1 + t % 3) * draw.normal(size=shape)) for k, shape in SHAPES.items()} for t in range(steps)
    ]
    inputs = [np.concatenate([draw.normal(size=(9, 4)), np.ones((9, 1))], 1) for _ in range(steps)]
    return gradients, [{"": np.float32(h.T @ h / 9)} for h in inputs]


def of_adam(gradients, after):
    """P of the first ``after`` gradients, times the debiased mean of all."""
    mean = recursions.debiased(gradients, B1)
    return mean / (np.sqrt(recursions.debiased(recursions.squares(gradients[:after]), B2)) + EPS)


def of_rms(gradients, after):
    return gradients[-1] / np.sqrt(recursions.average(recursions.squares(gradients[:after]), B2) + EPS)


def of_matrix(recursion):
    return lambda gradients, after: recursion(gradients, B1, B2, EPS, EVERY, after=after)[-1].update


FROZEN = {
    "adam": (lgv.scale_by_adam(B1, B2, EPS), of_adam),
    "rms": (lgv.scale_by_rms(B2, EPS), of_rms),
    "soap": (lgv.scale_by_soap(B1, B2, EPS, precondition_frequency=EVERY), of_matrix(matrix_recursions.soap)),
    "shampoo": (lgv.scale_by_shampoo(B1, B2, EPS, precondition_frequency=EVERY), of_matrix(matrix_recursions.shampoo)),
    "prong": (lgv.scale_by_prong(EPS, 0.9, precondition_frequency=EVERY), None),
}


def expected(name, gradients, covariances, after):
    """The update of the last of these gradients, with the P of the first ``after``, in float64."""
    if name == "prong":
        root = matrix_recursions.prong([c[""] for c in covariances], EPS, 0.9, EVERY, after)[-1]
        rows = root @ root @ np.concatenate([gradients[-1]["kernel"], gradients[-1]["bias"][None]])
        return {"bias": rows[-1], "kernel": rows[:-1]}
    return {k: FROZEN[name][1]([np.asarray(g[k], np.float64) for g in gradients], after) for k in SHAPES}


def recorder(scaler, seen):
    """A scaler, of whose every step ``seen`` gets S ξ for a ξ whose entries are 1."""

    def update(updates, state, params=None, **extra):
        new, state = scaler.update(updates, state, params, **extra)
        noise = lgv.add_preconditioned_noise(1.0, 1.0, 0, sampler=lambda key, shape, dtype: jnp.ones(shape, dtype))
        seen.append(jax.tree.map(jnp.subtract, noise.update(new, noise.init(updates))[0], new))
        return new, state

    return optax.GradientTransformationExtraArgs(scaler.init, update)


@functools.cache
def run(name, after=None):
    """Updates, and the noise of ξ = 1, of all steps. Without ``after`` those of the scaler itself."""
    scaler = FROZEN[name][0] if after is None else lgv.freeze_preconditioner(FROZEN[name][0], after)
    gradients, covariances = histories()

    @jax.jit
    def step(gradient, covariance, state):
        seen = []
        extra = {"input_covariances": covariance} if name == "prong" else {}
        updates, state = recorder(scaler, seen).update(gradient, state, **extra)
        return updates, seen[0], state

    state, updates, noises = scaler.init(gradients[0]), [], []
    for gradient, covariance in zip(gradients, covariances, strict=True):
        u, n, state = step(gradient, covariance, state)
        updates.append(u)
        noises.append(n)
    return updates, noises


@pytest.mark.parametrize("name", FROZEN)
def test_p_is_constant_from_a_step_on_and_the_momentum_goes_on(name):
    """Before: the scaler to the bit. After: the momentum of all gradients times the P of the first few."""
    gradients, covariances = histories()
    for after in (AFTER, 4):  # in the midst of two refreshes, and right behind one
        (updates, noises), (free, free_noises) = run(name, after), run(name)
        assert bits(updates[:after]) == bits(free[:after])
        assert bits(noises[:after]) == bits(free_noises[:after])
        for t in range(after, STEPS):
            theirs = expected(name, gradients[: t + 1], covariances[: t + 1], after)
            for k in SHAPES:
                np.testing.assert_allclose(updates[t][k], theirs[k], rtol=1e-3, atol=1e-4 * np.abs(theirs[k]).max())
        assert all(
            np.allclose(u, v, rtol=1e-4)
            for n in noises[after:]
            for u, v in zip(n.values(), noises[after].values(), strict=True)
        )
        # The scaler itself goes on otherwise.
        assert not np.allclose(updates[-1]["kernel"], free[-1]["kernel"], rtol=1e-2)
        assert not np.allclose(noises[-1]["kernel"], free_noises[-1]["kernel"], rtol=1e-2)


def test_a_p_of_ones_own_is_frozen_if_it_is_a_diagonal():
    """P = 1/(1 + count); what is 0 stays 0, and its momentum is taken for 0."""

    def p(updates, old, new):
        return {"w": jnp.array([1.0, 0.0]) / new.count}

    def update(updates, state, params=None):
        count = state.count + 1
        return {"w": updates["w"] * jnp.array([1.0, 0.0]) / count}, state._replace(count=count)

    stock = optax.GradientTransformation(lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update)
    tx = lgv.freeze_preconditioner(lgv.with_preconditioner(stock, p), 2)
    params = {"w": jnp.ones(2)}
    state, seen = tx.init(params), []
    for t in range(4):
        updates, state = tx.update({"w": jnp.full(2, 12.0 * (t + 1))}, state)
        seen.append((updates["w"].tolist(), np.asarray(published(updates)[0]).tolist()))
    assert seen == [([12, 0], [1, 0]), ([12, 0], [0.5, 0]), ([18, 0], [0.5, 0]), ([24, 0], [0.5, 0])]


def test_bfloat16_gradients_keep_a_float32_p():
    tx = lgv.freeze_preconditioner(lgv.scale_by_rms(B2, EPS), 1)
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(params, state)
    assert updates["w"].dtype == jnp.bfloat16
    assert published(updates)[0].dtype == np.float32
    np.testing.assert_allclose(np.float32(updates["w"]), (0.2 + EPS) ** -0.5, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "soap"])
def test_a_frozen_scaler_in_a_chain_resumes_and_scans(name):
    """Saved before, at and behind the step it is frozen at; and as one scan."""
    scaler = lgv.freeze_preconditioner(FROZEN[name][0], 4)
    tx = optax.chain(scaler, lgv.add_preconditioned_noise(0.1, 0.1, 0), optax.scale_by_learning_rate(0.1))
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *histories()[0])
    move = jax.jit(lambda carry, g: (optax.apply_updates(carry[0], (u := tx.update(g, carry[1], carry[0]))[0]), u[1]))
    start = (jax.tree.map(lambda g: g[0], stacked), tx.init(jax.tree.map(lambda g: g[0], stacked)))
    carries = [start]
    for t in range(STEPS):
        carries.append(move(carries[-1], jax.tree.map(lambda g, t=t: g[t], stacked)))
    for t in (3, 4, 5):
        carry = jax.tree.map(jnp.copy, carries[t])
        for later in range(t, STEPS):
            carry = move(carry, jax.tree.map(lambda g, t=later: g[t], stacked))
        assert bits(carry) == bits(carries[-1])
    scanned, _ = jax.lax.scan(lambda carry, g: (move(carry, g), None), start, stacked)
    for a, b in zip(jax.tree.leaves(scanned[0]), jax.tree.leaves(carries[-1][0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_frozen_raises():
    params = {"w": jnp.ones((2, 2))}
    for after, error, message in [
        (0, ValueError, "after must be ≥ 1, got 0"),
        (True, ValueError, "after must be ≥ 1, got True"),
        (1.5, TypeError, r"after must be an integer, got 1\.5"),
        (optax.constant_schedule(3), TypeError, "after must be an integer"),
    ]:
        with pytest.raises(error, match=message):
            lgv.freeze_preconditioner(lgv.scale_by_adam(), after)
    with pytest.raises(TypeError, match=r"must be an optax\.GradientTransformation"):
        lgv.freeze_preconditioner(lgv.scale_by_adam, 3)
    matrix = lgv.with_preconditioner(optax.identity(), lambda *_: {"w": lgv.Kronecker(jnp.eye(2), None)})
    for scaler, message in [
        (optax.scale_by_adam(), "the update of .* carries no preconditioner"),
        (optax.chain(lgv.scale_by_rms(), lgv.trace(0.9)), "takes the scaler alone"),
        (matrix, "has a matrix for a preconditioner, and no argument freeze_after"),
        (optax.named_chain(("shampoo", lgv.scale_by_shampoo())), "takes the scaler alone"),
    ]:
        tx = lgv.freeze_preconditioner(scaler, 3)
        with pytest.raises(ValueError, match=message):
            tx.update(params, tx.init(params), params)
    tx = lgv.freeze_preconditioner(lgv.scale_by_soap(), 1)
    with pytest.raises(ValueError, match="freeze it after 2 steps at least, got 1"):
        tx.update(params, tx.init(params), params)


def test_the_frozen_p_is_that_of_the_noise():
    """Behind it the noise has the variance σ²γP of the frozen P, not of the one that would go on."""
    gradients, _ = histories()
    _, noises = run("adam", AFTER)
    for k in SHAPES:
        of_leaf = [np.asarray(g[k], np.float64) for g in gradients[:AFTER]]
        p = 1 / (np.sqrt(recursions.debiased(recursions.squares(of_leaf), B2)) + EPS)
        np.testing.assert_allclose(noises[-1][k], np.sqrt(p), rtol=1e-4)


# A pull to a point.

THETA = {"bias": jnp.array([1.0, -2.0, 3.0]), "kernel": jnp.asarray(np.random.default_rng(5).normal(size=(4, 3)))}
CENTER = {"bias": jnp.array([0.5, 0.5, 0.5]), "kernel": jnp.ones((4, 3))}
LEFT, RIGHT = (np.float32(np.random.default_rng(6).normal(size=(n, n))) for n in (4, 3))
ROOTS = kron([LEFT, RIGHT])
MATRIX = {"bias": 4.0, "kernel": lgv.Kronecker(LEFT, RIGHT)}


def publishing(p):
    return lgv.with_preconditioner(optax.identity(), lambda g, old, new: p)


def pulled(scaler, strength, center=None, start=THETA, params=THETA, updates=None):
    tx = optax.chain(scaler, lgv.add_localization(strength, center))
    updates = jax.tree.map(jnp.ones_like, params) if updates is None else updates
    return tx.update(updates, tx.init(start), params)


def times_matrix(x):
    return {"bias": 4 * x["bias"], "kernel": (ROOTS @ ROOTS.T @ np.ravel(x["kernel"])).reshape(4, 3)}


@pytest.mark.parametrize("given", [False, True], ids=["default center", "center"])
def test_the_pull_is_p_times_lambda_times_the_distance(given):
    """With a diagonal and a matrix for P; the default center are the parameters at init."""
    start = jax.tree.map(lambda p: p + 1, THETA)
    center = CENTER if given else start
    distance = jax.tree.map(lambda p, c: np.asarray(p - c, np.float64), THETA, center)
    updates, state = pulled(publishing(MATRIX), 3.0, CENTER if given else None, start)
    assert bits(state[1].center) == bits(center)
    theirs = jax.tree.map(lambda x: 1 + 3 * x, times_matrix(distance))
    for k in SHAPES:
        np.testing.assert_allclose(updates[k], theirs[k], rtol=1e-4, atol=1e-4)
    diagonal = {"bias": jnp.array([1.0, 2.0, 3.0]), "kernel": 0.5}
    updates, _ = pulled(publishing(diagonal), 3.0, CENTER if given else None, start)
    for k in SHAPES:
        np.testing.assert_allclose(updates[k], 1 + 3 * np.asarray(diagonal[k]) * distance[k], rtol=1e-5)


def test_the_pull_couples_what_p_couples():
    """Kernel and bias of a natural network: u + A² λ (θ − θ₀)."""
    covariance = np.diag([1.0, 2.0, 3.0, 4.0, 1.0]) + 0.1
    scaler = lgv.scale_by_prong(eps=EPS)
    tx = optax.chain(scaler, lgv.add_localization(2.0, CENTER))
    zeros = jax.tree.map(jnp.zeros_like, THETA)
    updates, _ = tx.update(zeros, tx.init(THETA), THETA, input_covariances={"": jnp.float32(covariance)})
    distance = np.concatenate([THETA["kernel"] - CENTER["kernel"], (THETA["bias"] - CENTER["bias"])[None]])
    theirs = np.linalg.solve(covariance + EPS * np.eye(5), 2 * distance)
    np.testing.assert_allclose(updates["kernel"], theirs[:-1], rtol=1e-4)
    np.testing.assert_allclose(updates["bias"], theirs[-1], rtol=1e-4)


def test_the_strength_may_be_a_schedule():
    schedule = optax.piecewise_constant_schedule(1.0, {1: 0.5, 2: 0.0})
    tx = optax.chain(publishing({"w": 2.0}), lgv.add_localization(schedule, {"w": jnp.zeros(2)}))
    params = {"w": jnp.array([1.0, -3.0])}
    state, seen = tx.init(params), []
    for _ in range(3):
        updates, state = jax.jit(tx.update)({"w": jnp.zeros(2)}, state, params)
        seen.append(updates["w"].tolist())
    assert seen == [[2, -6], [1, -3], [0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("p", [MATRIX, {"bias": 4.0, "kernel": 0.25}], ids=["matrix", "diagonal"])
def test_the_noise_behind_a_pull_has_its_p(p):
    """It hands the mark on, also through an identity, so that the noise is that without the pull."""
    noise = lgv.add_preconditioned_noise(0.1, 0.3, 0)
    zeros = jax.tree.map(jnp.zeros_like, THETA)

    def run(*links):
        tx = optax.chain(publishing(p), *links)
        return tx.update(zeros, tx.init(THETA), jax.tree.map(lambda x: x + 1, THETA))[0]

    pull = lgv.add_localization(2.0)
    for links in ((pull,), (lgv.identity(), pull), (pull, lgv.identity())):
        theirs = jax.tree.map(jnp.add, run(pull), run(noise))
        for a, b in zip(jax.tree.leaves(run(*links, noise)), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_pull_in_bfloat16_is_taken_in_float32():
    """θ − θ₀ to the last bit, whose product is rounded once."""
    params, center = {"w": jnp.array([1.0078125, 3.0], jnp.bfloat16)}, {"w": jnp.array([1.0, 2.0])}
    tx = optax.chain(publishing({"w": 3.0}), lgv.add_localization(1.001, center))
    updates, _ = tx.update({"w": jnp.ones(2, jnp.bfloat16)}, tx.init(params), params)
    expected = (1 + 3 * np.float32(1.001) * np.array([0.0078125, 1.0], np.float32)).astype(jnp.bfloat16)
    assert updates["w"].dtype == jnp.bfloat16
    assert bits(updates["w"]) == bits(expected)


def test_a_localised_chain_is_the_posterior_with_a_prior():
    """On a Hessian A the stationary covariance is that of A + λI, with a matrix P; without the pull, that of A."""
    from scipy.linalg import solve_discrete_lyapunov

    hessian, strength, gamma, sigma, n = np.diag([0.5, 2.0]), 3.0, 0.05, 0.3, 4000
    root = np.array([[1.0, 0.0], [0.8, 0.6]])
    p = lgv.Kronecker(None, np.float32(root))
    tx = optax.chain(
        lgv.with_preconditioner(
            optax.stateless(lambda u, params: {"w": u["w"] @ (root @ root.T).astype(np.float32)}),
            lambda g, old, new: {"w": p},
        ),
        lgv.add_localization(strength),
        lgv.add_preconditioned_noise(gamma, sigma, 0),
        optax.scale_by_learning_rate(gamma),
    )

    def step(carry, _):
        theta, state = carry
        updates, state = tx.update({"w": theta["w"] @ np.float32(hessian)}, state, theta)
        return (optax.apply_updates(theta, updates), state), None

    start = {"w": jnp.zeros((n, 2))}  # a chain in each row
    (theta, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, length=120))((start, tx.init(start)))
    x = np.asarray(theta["w"], np.float64)

    def z(hessian):
        """The largest deviation of the covariance, in standard errors."""
        step = np.eye(2) - gamma * root @ root.T @ hessian
        exact = solve_discrete_lyapunov(step, sigma**2 * gamma * root @ root.T)
        error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / n)
        return np.abs((x.T @ x / n - exact) / error).max()

    assert z(hessian + strength * np.eye(2)) < 5
    assert z(hessian) > 20


def test_a_pull_without_a_p_or_a_point_raises():
    updates = jax.tree.map(jnp.ones_like, THETA)
    message = r"add_localization found no preconditioner on the updates \['bias'\], \['kernel'\]"
    for link in (
        optax.scale_by_adam(),
        optax.identity(),
        lgv.identity(),
        optax.chain(lgv.scale_by_rms(), optax.scale(2.0)),
    ):
        with pytest.raises(ValueError, match=message):
            pulled(link, 1.0)
    tx = optax.chain(lgv.scale_by_rms(), lgv.add_localization(1.0))
    with pytest.raises(ValueError, match="add_localization needs the parameters"):
        tx.update(updates, tx.init(THETA))
    for center in ({"bias": CENTER["bias"]}, {**CENTER, "kernel": jnp.ones((3, 4))}, jnp.ones(3)):
        with pytest.raises(ValueError, match="center must be like the parameters, got\n"):
            lgv.add_localization(1.0, center).init(THETA)
    for bad, error in ((-1.0, ValueError), (np.nan, ValueError), ("1", TypeError), (jnp.ones(3), ValueError)):
        with pytest.raises(error, match="strength must be"):
            lgv.add_localization(bad)
