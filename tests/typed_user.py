"""A user's program, checked by `mypy --strict` against the installed package and run where there is no Flax.

Every public function has a line here that says what a type checker makes of it.
"""

from typing import Any, assert_type

import jax
import jax.numpy as jnp
import optax

import langevin_optax as lgv
from langevin_optax import sampling

Params = dict[str, dict[str, jax.Array]]
Transformation = optax.GradientTransformationExtraArgs
ORDER = [f"Dense_{i}" for i in range(4)]


def optimisers() -> list[Transformation]:
    key, gamma, sigma = jax.random.key(0), jnp.asarray(1e-3), optax.linear_schedule(1e-3, 0.0, 100)
    first_layers = lgv.layer_mask(0.3, ORDER)
    return [
        assert_type(lgv.sgd(1e-3, 1e-3, 0, momentum=0.9), Transformation),
        assert_type(lgv.adam(1e-3, sigma=1e-3, key=0, sampler="rademacher"), Transformation),
        assert_type(lgv.adamw(1e-3, sigma, key, weight_decay=1e-4, weight_decay_mask=first_layers), Transformation),
        assert_type(lgv.nadam(gamma, sigma, key, mask=first_layers), Transformation),
        assert_type(lgv.amsgrad(gamma, sigma=0, key=key, b1=jnp.asarray(0.8)), Transformation),
        assert_type(lgv.adamax(1e-3, 1e-3, 0, mask=dict.fromkeys(ORDER, True)), Transformation),
        assert_type(lgv.adabelief(1e-3, 1e-3, 0, sampler=jax.random.normal), Transformation),
        assert_type(lgv.radam(1e-3, 1e-3, 0, sampler=rademacher), Transformation),
        assert_type(lgv.yogi(1e-3, lgv.inverse_sqrt_log_schedule(1e-3, 1e-2), 0), Transformation),
        assert_type(lgv.rmsprop(1e-3, 1e-3, 0, momentum=None, centered=True), Transformation),
        assert_type(lgv.adagrad(1e-3, 1e-3, 0), Transformation),
        assert_type(lgv.adadelta(None, 1e-3, 0), Transformation),
        assert_type(lgv.adadelta(sigma=1e-3, key=0), Transformation),
        assert_type(lgv.langevin(optax.adamw, 1e-3, 0, mask=first_layers)(1e-3, weight_decay=1e-4), Transformation),
        assert_type(lgv.langevin(optax.lamb, sigma, key, preconditioner=None)(gamma), Transformation),
        assert_type(lgv.soap(1e-3, sigma, key, scanned={}, max_dimension=512), Transformation),
        assert_type(lgv.shampoo(1e-3, 1e-3, 0, weight_decay=1e-4, mask=first_layers), Transformation),
        assert_type(lgv.prong(1e-3, 1e-3, 0, eps=0.1, like={"Dense_0": jnp.eye(5)}), Transformation),
    ]


def scalers() -> list[Transformation]:
    return [
        assert_type(lgv.identity(), Transformation),
        assert_type(lgv.trace(decay=0.9, nesterov=True), Transformation),
        assert_type(lgv.scale_by_adam(eps=1e-6, mu_dtype=jnp.float32), Transformation),
        assert_type(lgv.scale_by_amsgrad(), Transformation),
        assert_type(lgv.scale_by_adamax(), Transformation),
        assert_type(lgv.scale_by_belief(), Transformation),
        assert_type(lgv.scale_by_radam(threshold=4), Transformation),
        assert_type(lgv.scale_by_yogi(), Transformation),
        assert_type(lgv.scale_by_rms(), Transformation),
        assert_type(lgv.scale_by_stddev(), Transformation),
        assert_type(lgv.scale_by_rss(), Transformation),
        assert_type(lgv.scale_by_adadelta(), Transformation),
        assert_type(lgv.with_preconditioner(optax.scale(0.25), quarter), Transformation),
        assert_type(lgv.scale_by_soap(precondition_frequency=2, merge_dimension=64), Transformation),
        assert_type(lgv.scale_by_shampoo(b2=1.0), Transformation),
        assert_type(lgv.scale_by_prong(decay=0.9), Transformation),
        assert_type(lgv.freeze_preconditioner(lgv.scale_by_adam(), after=100), Transformation),
        assert_type(lgv.add_localization(1.0, center=None), Transformation),
    ]


def chains() -> list[Transformation]:
    noise = lgv.add_preconditioned_noise(1e-3, 1e-3, key=0, sampler="normal", mask=lgv.layer_mask(2, ORDER))
    assert_type(noise, Transformation)
    white = assert_type(lgv.add_langevin_noise(1e-3, 1e-3, 0, after_learning_rate=True), Transformation)
    return [
        assert_type(optax.chain(lgv.scale_by_adam(), noise, optax.scale(-1e-3)), Transformation),
        assert_type(optax.chain(optax.sgd(1e-3), white), Transformation),
    ]


def integrators() -> list[Transformation]:
    h = optax.constant_schedule(0.1)
    overdamped = assert_type(lgv.overdamped_langevin(h, 1e-4, 0, scheme="leimkuhler_matthews"), Transformation)
    return [
        overdamped,
        assert_type(lgv.baoab(h, temperature=1e-4, friction=1.0, key=jax.random.key(0)), Transformation),
        assert_type(lgv.adaptive_langevin(0.1, 1e-4, 0.01, 0.1, 0, initial_thermostat=1), Transformation),
        assert_type(lgv.partitioned(overdamped, optax.adam(1e-3), layers=[0, -1], order=ORDER), Transformation),
        assert_type(
            lgv.adlala(0.1, 0, temperature=1e-4, sigma=0.01, coupling=0.1, friction=1.0, layers=slice(2), order=ORDER),
            Transformation,
        ),
        assert_type(lgv.lol(0.1, 0, temperature=1e-4, friction=1.0, layers=lambda p: p == "Dense_0"), Transformation),
        assert_type(lgv.lala(0.1, 0, temperature=1e-4, friction=1.0, layers=r"Dense_[01]"), Transformation),
    ]


def rademacher(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.rademacher(key, shape, dtype)


def quarter(updates: Any, old: Any, new: Any) -> Any:
    return jax.tree.map(lambda u: jnp.full_like(u, 0.25), updates)


def initial_params() -> Params:
    kernels = jax.random.normal(jax.random.key(1), (len(ORDER), 4, 4))
    return {name: {"kernel": kernel, "bias": jnp.zeros(4)} for name, kernel in zip(ORDER, kernels, strict=True)}


def loss(params: Params) -> jax.Array:
    x = jnp.ones((8, 4))
    for layer in params.values():
        x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return jnp.square(x - 0.5).mean()


def steps(tx: optax.GradientTransformation, number: int) -> list[tuple[Params, optax.OptState]]:
    @jax.jit
    def step(params: Params, state: optax.OptState) -> tuple[Any, optax.OptState]:
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    done = [(initial_params(), tx.init(initial_params()))]
    for _ in range(number):
        done.append(step(*done[-1]))
    return done[1:]


def differ(a: Params, b: Params) -> list[str]:
    return [name for name in ORDER if not (a[name]["kernel"] == b[name]["kernel"]).all()]


def check_training() -> None:
    [(plain, _)] = steps(optax.adam(1e-2, eps=1e-6), 1)
    noisy = steps(lgv.adam(1e-2, sigma=1e-3, key=0, mask=lgv.layer_mask(0.5, ORDER)), 30)
    assert differ(noisy[0][0], plain) == ORDER[:2]
    assert loss(noisy[-1][0]) < 0.5 * loss(plain)
    state = noisy[-1][1]
    noise = state[-1] if isinstance(state, tuple) else None
    assert isinstance(noise, lgv.LangevinState)
    assert assert_type(noise.count, jax.Array) == 30
    assert assert_type(noise.key, jax.Array) == jax.random.key(0)
    assert_type(noise._replace(key=jax.random.key(1)), lgv.LangevinState)


def check_integrators() -> None:
    *_, (params, state) = steps(lgv.baoab(0.1, 1e-4, 1.0, key=0), 3)
    assert isinstance(state, lgv.BaoabState)
    assert assert_type(state.count, jax.Array) == 3
    assert assert_type(state.last_step, jax.Array) == jnp.float32(0.1)
    assert differ(state.momentum, params) == ORDER
    assert lgv.kinetic_temperature(state) > 0
    other = lgv.fold_in(state, 1)
    assert isinstance(other, lgv.BaoabState)
    assert other.key != state.key

    state = lgv.adaptive_langevin(0.1, 1e-4, 0.01, 0.1, key=0).init(params)
    assert isinstance(state, lgv.AdaptiveLangevinState)
    assert assert_type(state.thermostat, jax.Array) == jnp.float32(0.1)
    assert assert_type(state.kinetic, jax.Array) == 0


def check_the_rest() -> None:
    noise = lgv.noise_like(jax.random.key(0), jnp.asarray(7), jnp.zeros(3), "rademacher")
    assert jnp.abs(noise).tolist() == [1, 1, 1]
    assert_type(lgv.inverse_sqrt_log_schedule(1e-3, 1e-2), optax.Schedule)
    assert_type(lgv.__version__, str)
    try:
        assert_type(lgv.kfac_preconditioner("no preconditioner"), Transformation)
    except TypeError as error:
        assert "kfac_jax.OptaxPreconditioner" in str(error)
    identity = lgv.Kronecker(jnp.eye(3), None)
    assert (identity.root(jnp.ones((3, 2))) == 1).all()
    assert lgv.Rotated((None,), jnp.asarray([4.0])).root(jnp.ones(1)).tolist() == [2.0]
    try:
        covariances: dict[str, jax.Array] = lgv.input_covariances("no model", {}, jnp.ones((1, 4)))
        print(covariances)
    except TypeError as error:
        assert "flax.linen.Module" in str(error)
    try:
        order: list[str] = lgv.layer_order("no model", jnp.ones((1, 4)), train=True)
        print(order)
    except TypeError as error:
        assert "flax.linen.Module" in str(error)


def check_sampling() -> None:
    def loss_of(theta: jax.Array, batch: jax.Array) -> jax.Array:
        return jnp.sum((theta - batch) ** 2) / 2

    def gradient(theta: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return loss_of(theta, jnp.zeros(1)), theta

    posterior = sampling.tempered_posterior(loss_of, 100, prior_precision=1.0)
    assert_type(posterior.sigma, float)
    gamma, sigma, keep = sampling.cyclical_schedules(0.1, posterior.sigma, steps=20, cycles=2)
    assert keep(jnp.arange(20)).sum() == 10
    tx = optax.chain(sampling.with_metrics(lgv.sgd(gamma, sigma, key=0)), sampling.moments(), sampling.snapshots(3))
    samples = sampling.sample(gradient, tx, jnp.zeros(2), 0, draws=20, chains=2, progress=False)
    assert_type(samples, sampling.Samples)
    assert_type(samples.state, sampling.SamplerState)
    assert assert_type(samples.diverged, jax.Array).tolist() == [False, False]
    mean, variance = sampling.mean_and_variance(samples.state)
    assert (mean.shape, variance.shape, sampling.snapshots_of(samples.state).shape) == ((2, 2), (2, 2), (2, 3, 2))
    noise: sampling.Metrics = jax.vmap(sampling.metrics)(samples.state.tx_state)
    assert noise.sigma.shape == (2,)
    stock = optax.adam(1e-3, eps=1e-6)
    state = sampling.from_optax(stock.init(jnp.zeros(2)), lgv.adam(1e-3, 1e-3, key=0), jnp.zeros(2), eps=1e-6)
    sampling.to_optax(state)
    assert assert_type(sampling.configurational_temperature(jnp.ones(2), jnp.ones(2)), jax.Array) == 1
    better = sampling.control_variate(jax.grad(loss_of), jnp.zeros(2), jnp.zeros(2))
    assert better(jnp.zeros(2), jnp.ones(1)).tolist() == [0, 0]
    data = jnp.zeros((100, 1))
    llc = sampling.local_learning_coefficient(
        loss_of, jnp.zeros(2), data, 0, batch_size=100, draws=20, burn_in=20, progress=False
    )
    assert_type(llc, sampling.LLC)
    assert_type(llc.mean, float)
    llcs = sampling.llc_along_training(
        loss_of, [jnp.zeros(2)], data, 0, batch_size=100, draws=20, burn_in=20, progress=False
    )
    assert_type(llcs, list[sampling.LLC])
    sweep = sampling.llc_sweep(
        loss_of, jnp.zeros(2), data, 0, batch_size=100, learning_rates=[1e-2], draws=20, burn_in=20, progress=False
    )
    assert assert_type(sweep, sampling.LLCSweep).means.shape == (1, 4)


if __name__ == "__main__":
    for transformation in (*optimisers(), *scalers(), *chains(), *integrators()):
        transformation.init(initial_params())
    check_training()
    check_integrators()
    check_sampling()
    check_the_rest()
    print(lgv.__file__)
