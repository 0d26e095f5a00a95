"""The local learning coefficient along a training: modular addition, learnt by heart first and understood later."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax import sampling

MODULUS, TRAINED = 31, 0.4  # a + b mod p, from this share of all pairs (a, b)
EMBEDDING, HIDDEN = 24, 64
LEARNING_RATE, WEIGHT_DECAY = 0.01, 1.0
CHAINS, LOCALIZATION, SAMPLING_RATE = 4, 10.0, 0.03


class Result(NamedTuple):
    losses: np.ndarray  # (2, steps + 1), of training and test pairs
    test_accuracy: np.ndarray  # (steps + 1,)
    steps: np.ndarray  # of the checkpoints
    llcs: list[sampling.LLC]  # at the checkpoints


class Adder(nn.Module):
    @nn.compact
    def __call__(self, pairs):
        embedded = nn.Embed(MODULUS, EMBEDDING)(pairs)
        hidden = nn.relu(nn.Dense(HIDDEN, use_bias=False)(embedded).sum(-2))
        return nn.Dense(MODULUS, use_bias=False)(hidden)


def loss(params, data):
    pairs, sums = data
    logits = Adder().apply({"params": params}, pairs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, sums).mean()


def pairs() -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Training data and test data."""
    every = np.random.default_rng(0).permutation(np.stack(np.divmod(np.arange(MODULUS**2), MODULUS), 1))
    parts = np.split(every, [int(TRAINED * len(every))])
    train, test = ((jnp.asarray(part), jnp.asarray(part.sum(1) % MODULUS)) for part in parts)
    return train, test


def train(steps: int) -> tuple[np.ndarray, np.ndarray, list]:
    """Losses, the accuracy on test data, and the parameters, each before the first step and after every one."""
    data, (test_pairs, test_sums) = pairs()
    tx = optax.adamw(LEARNING_RATE, b2=0.98, weight_decay=WEIGHT_DECAY)

    def step(carry, _):
        params, state = carry
        value, gradients = jax.value_and_grad(loss)(params, data)
        logits = Adder().apply({"params": params}, test_pairs)
        accuracy = (logits.argmax(-1) == test_sums).mean()
        updates, state = tx.update(gradients, state, params)
        test_loss = optax.softmax_cross_entropy_with_integer_labels(logits, test_sums).mean()
        return (optax.apply_updates(params, updates), state), (value, test_loss, accuracy, params)

    params = Adder().init(jax.random.key(0), data[0])["params"]
    run = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), None, steps + 1)[1])
    *losses, accuracy, params = jax.device_get(run(params))
    return np.stack(losses), accuracy, params


def run(steps: int, checkpoints: int, draws: int) -> Result:
    losses, accuracy, params = train(steps)
    at = np.unique(np.geomspace(min(20, steps), steps, checkpoints).astype(int))
    chosen = [jax.tree.map(lambda leaf, step=step: leaf[step], params) for step in at]
    data, _ = pairs()
    llcs = sampling.llc_along_training(
        loss, chosen, data, 0, batch_size=len(data[1]), draws=draws, burn_in=draws, chains=CHAINS,
        localization=LOCALIZATION, learning_rate=SAMPLING_RATE, progress=False,
    )  # fmt: skip
    return Result(losses, accuracy, at, llcs)
