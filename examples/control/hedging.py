"""Deep hedging: a call is sold, and a network at each time step chooses how much of the stock to hold until the next.

The price is a geometric Brownian motion, S_{k+1} = S_k exp(−ς²Δ/2 + ς√Δ Z_k), and trading costs a share of its value.
What is left at the end is

    Σ δ_k (S_{k+1} − S_k) − c Σ S_k |δ_k − δ_{k−1}| − (S_N − 1)⁺

and its expected shortfall is to be least. Each δ_k is an input of δ_{k+1}, so the gradient goes through all networks: N
steps are a network of 3 N layers.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import langevin_optax as lgv

VOLATILITY, HORIZON, COST, SHORTFALL = 0.2, 1.0, 0.002, 0.5
WIDTH, BATCH, TEST = 32, 256, 10_000
LEARNING_RATE, EPS, MAX_NOISE, NOISY = 2e-3, 1e-8, 0.01, 0.6  # the share of the steps with noise


class Trade(nn.Module):
    """One time step: from the price and what is held to what is held from here on."""

    @nn.compact
    def __call__(self, carry, returns):
        price, held, wealth = carry
        x = jnp.stack([jnp.log(price) / VOLATILITY, held], axis=-1)
        for _ in range(2):
            x = nn.relu(nn.Dense(WIDTH)(x))
        new = nn.sigmoid(nn.Dense(1)(x))[..., 0]
        wealth += new * price * jnp.expm1(returns) - COST * price * jnp.abs(new - held)
        return (price * jnp.exp(returns), new, wealth), None


class Hedge(nn.Module):
    """A network for each time step; from log returns of shape (steps, paths) to what is left at the end."""

    @nn.compact
    def __call__(self, returns):
        zeros = jnp.zeros(returns.shape[1])
        steps = nn.scan(Trade, variable_axes={"params": 0}, split_rngs={"params": True}, length=len(returns))
        (price, _, wealth), _ = steps(name="steps")((zeros + 1, zeros, zeros), returns)
        return wealth - nn.relu(price - 1)


def log_returns(key: jax.Array, steps: int, paths: int) -> jax.Array:
    dt = HORIZON / steps
    return VOLATILITY * jnp.sqrt(dt) * jax.random.normal(key, (steps, paths)) - VOLATILITY**2 * dt / 2


def expected_shortfall(left: jax.Array) -> jax.Array:
    """The mean of the worst half."""
    worst = jnp.sort(left)[: int(SHORTFALL * len(left))]
    return -worst.mean()


def black_scholes(steps: int) -> float:
    """The risk of the hedge that is right without costs."""
    returns = log_returns(jax.random.key(1), steps, TEST)
    price = jnp.exp(jnp.concatenate([jnp.zeros((1, TEST)), jnp.cumsum(returns, 0)]))
    left = HORIZON * (1 - jnp.arange(steps) / steps)[:, None]
    d_1 = (jnp.log(price[:-1]) + VOLATILITY**2 * left / 2) / (VOLATILITY * jnp.sqrt(left))
    held = jax.scipy.stats.norm.cdf(d_1)
    traded = jnp.abs(jnp.diff(held, axis=0, prepend=jnp.zeros((1, TEST))))
    wealth = (held * jnp.diff(price, axis=0) - COST * price[:-1] * traded).sum(0)
    return float(expected_shortfall(wealth - jnp.maximum(price[-1] - 1, 0)))


def optimizer(name: str, sigma: float, steps: int, updates: int, key: Any) -> optax.GradientTransformation:
    """Adam, L-Adam, or LL-Adam with noise in the first 30 % of the time steps; γ falls to 0, and σ before it."""
    gamma = optax.cosine_decay_schedule(LEARNING_RATE, updates)
    if name == "Adam":
        return optax.adam(gamma, eps=EPS)
    order = lgv.layer_order(Hedge(), jnp.zeros((steps, 1)))
    mask = lgv.layer_mask(0.3, order, scanned=order.scanned) if name.startswith("LL-") else None
    noise = optax.linear_schedule(sigma, 0.0, max(1, int(NOISY * updates)))
    return lgv.adam(gamma, noise, key, eps=EPS, mask=mask, max_noise=MAX_NOISE)


def train(name: str, sigma: float, steps: int, updates: int, records: int, seed: jax.Array) -> jax.Array:
    """The risk on test paths, so many times along the training. Weights and paths depend on the seed alone."""
    model, test = Hedge(), log_returns(jax.random.key(1), steps, TEST)
    init_key, path_key, noise_key = jax.random.split(jax.random.key(seed), 3)
    tx = optimizer(name, sigma, steps, updates, noise_key)
    params = model.init(init_key, test[:, :1])

    def step(carry, count):
        params, state = carry
        returns = log_returns(jax.random.fold_in(path_key, count), steps, BATCH)
        grads = jax.grad(lambda p: expected_shortfall(model.apply(p, returns)))(params)
        updates_, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates_), state), None

    def record(carry, first):
        carry, _ = jax.lax.scan(step, carry, first + jnp.arange(updates // records))
        return carry, expected_shortfall(model.apply(carry[0], test))

    start = params, tx.init(params)
    return jax.lax.scan(record, start, jnp.arange(records) * (updates // records))[1]
