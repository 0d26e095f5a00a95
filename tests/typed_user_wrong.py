"""Calls that a type checker must refuse: what `mypy --strict` says of each stands behind it. Never run."""

import jax
import jax.numpy as jnp
import optax

import langevin_optax as lgv


def optimisers() -> None:
    lgv.adam(1e-3)  # error: call-arg
    lgv.adam(1e-3, key=0)  # error: call-arg
    lgv.adam(1e-3, sigma=1e-3)  # error: call-arg
    lgv.adam("1e-3", 1e-3, 0)  # error: arg-type
    lgv.adam(None, 1e-3, 0)  # error: arg-type
    lgv.adam(1e-3, optax.adam(1e-3), 0)  # error: arg-type
    lgv.adam(1e-3, 1e-3, key="0")  # error: arg-type
    lgv.adam(1e-3, 1e-3, key=None)  # error: arg-type
    lgv.adam(1e-3, 1e-3, 0, sampler="gauss")  # error: arg-type
    lgv.adam(1e-3, 1e-3, 0, sampler=one_argument)  # error: arg-type
    lgv.adam(1e-3, 1e-3, 0, weight_decay=1e-4)  # error: call-arg
    lgv.adamw(1e-3, 1e-3, 0, b1="0.9")  # error: arg-type
    lgv.adams(1e-3, 1e-3, 0)  # error: attr-defined
    lgv.langevin(optax.adamw, 1e-3, 0)(1e-3, beta1=0.9)  # error: call-arg
    lgv.langevin(optax.adamw, 1e-3, 0)("1e-3")  # error: arg-type
    lgv.langevin(optax.adam(1e-3), 1e-3, 0)  # error: arg-type
    lgv.langevin(optax.adam, 1e-3)  # error: call-arg


def chains() -> None:
    lgv.scale_by_adam(sampler="normal")  # error: call-arg
    lgv.with_preconditioner(optax.scale(0.25), one_argument)  # error: arg-type
    lgv.add_langevin_noise(1e-3, 1e-3, 0, after_learning_rate="yes")  # error: arg-type
    optax.chain(lgv.scale_by_adam, optax.scale(-1e-3))  # error: arg-type
    lgv.scale_by_adam().apply(jnp.ones(3))  # error: attr-defined


def integrators() -> None:
    lgv.overdamped_langevin(0.1, 1e-4, 0, scheme="x")  # error: arg-type
    lgv.baoab(0.1, 1e-4, key=0)  # error: call-arg
    lgv.baoab(0.1, 1e-4, 1.0, 0, sampler="normal")  # error: call-arg
    lgv.adaptive_langevin(0.1, 1e-4, 0.01, 0.1, 0, initial_thermostat=lambda step: 0.1)  # error: arg-type
    lgv.partitioned(optax.sgd(0.1), "adam")  # error: arg-type
    lgv.adlala(0.1, 0, temperature=1e-4, sigma=0.01, coupling=0.1)  # error: call-arg
    lgv.lol(0.1, 0, temperature=1e-4, friction=1.0, layers=None)  # error: arg-type


def layers() -> None:
    lgv.layer_mask(["Dense_0"])  # error: list-item
    lgv.layer_mask(None)  # error: arg-type
    lgv.layer_mask(1, 2)  # error: arg-type
    lgv.layer_mask(1, scanned="blocks")  # error: arg-type
    lgv.layer_order(None, jnp.ones(3)).keys()  # error: attr-defined


def states() -> None:
    lgv.noise_like("0", 0, jnp.ones(3))  # error: arg-type
    lgv.noise_like(0, "first", jnp.ones(3))  # error: arg-type
    lgv.noise_like(0, 0, jnp.ones(3), sampler=None)  # error: arg-type
    lgv.fold_in(jnp.ones(3))  # error: call-arg
    lgv.LangevinState(jnp.zeros([], jnp.int32))  # error: call-arg
    lgv.LangevinState(0, jax.random.key(0))  # error: arg-type
    lgv.LangevinState(jnp.zeros([], jnp.int32), jax.random.key(0))._replace(sigma=0)  # error: call-arg
    lgv.inverse_sqrt_log_schedule(lambda step: 1e-3, 1e-2)  # error: arg-type


def one_argument(key: jax.Array) -> jax.Array:
    return key
