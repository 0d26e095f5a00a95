"""The local learning coefficient of a perceptron with a hidden layer: ten chains at once, and one after the other.

All take the same steps, of SGLD as in devinterp, with minibatches that lie in memory.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sklearn.datasets

import langevin_optax as lgv
from benchmarks.measures import Row
from benchmarks.turns import Contender, in_turn, minibatch, of_peers, rows
from langevin_optax import sampling

CHAINS, BATCH = 10, 256
EPSILON, GAMMA = 1e-4, 100.0  # devinterp's step size and localisation


def digits() -> tuple[Any, Any]:
    """Parameters that Adam found, and the data."""
    x, y = sklearn.datasets.load_digits(return_X_y=True)
    data = jnp.asarray(x / 16, jnp.float32), jnp.asarray(y, jnp.int32)
    first, second = jax.random.split(jax.random.key(0))
    params = {"w0": jax.random.normal(first, (64, 64)) / 8, "w1": jax.random.normal(second, (64, 10)) / 8}
    params |= {"b0": jnp.zeros(64), "b1": jnp.zeros(10)}
    adam = optax.adam(1e-2)

    def step(carry, _):
        updates, state = adam.update(jax.grad(loss)(carry[0], data), carry[1])
        return (optax.apply_updates(carry[0], updates), state), None

    return jax.lax.scan(step, (params, adam.init(params)), length=500)[0][0], data


def loss(params: Any, batch: Any) -> jax.Array:
    x, y = batch
    logits = jax.nn.relu(x @ params["w0"] + params["b0"]) @ params["w1"] + params["b1"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def nbeta(data: Any) -> float:
    return len(data[0]) / math.log(len(data[0]))


def vmapped(params: Any, data: Any) -> Iterator[Contender]:
    def run(steps):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of estimates from few steps
            found = sampling.local_learning_coefficient(
                loss,
                params,
                data,
                0,
                batch_size=BATCH,
                draws=steps // 2,
                burn_in=steps - steps // 2,
                chains=CHAINS,
                localization=GAMMA,
                optimizer=lambda sigma, key: lgv.sgd(EPSILON * nbeta(data) / 2, sigma, key),
                progress=False,
            )
        return found.traces / nbeta(data) + found.baseline

    yield Contender("lgv.sampling, chains vmapped", run)


def one_by_one(params: Any, data: Any) -> Iterator[Contender]:
    """The same steps, chain after chain."""
    sigma, strength = math.sqrt(2 / nbeta(data)), GAMMA / nbeta(data)

    def sgld(chain):
        return lgv.sgd(EPSILON * nbeta(data) / 2, sigma, chain)  # whose key is in its state, and not in its update

    def step(carry, key):
        theta, state = carry
        value, grads = jax.value_and_grad(loss)(theta, minibatch(key, data, BATCH))
        pulled = jax.tree.map(lambda g, t, c: g + strength * (t - c), grads, theta, params)
        updates, state = sgld(0).update(pulled, state, theta)
        return (optax.apply_updates(theta, updates), state), value

    def scanned(steps):
        return jax.jit(lambda carry, key: jax.lax.scan(step, carry, jax.random.split(key, steps))[1])

    def looped(steps):
        compiled = jax.jit(lambda carry, key, i: step(carry, jax.random.fold_in(key, i)))

        def chain(carry, key):
            losses = []
            for i in range(steps):
                carry, value = compiled(carry, key, i)
                losses.append(value)
            return jnp.stack(losses)

        return chain

    def runs(build):
        def run(steps):
            chain, keys = build(steps), jax.random.split(jax.random.key(1), CHAINS)
            starts = [(params, sgld(c).init(params)) for c in range(CHAINS)]
            return np.array([chain(*both) for both in zip(starts, keys, strict=True)])[:, steps // 2 :]

        return run

    yield Contender("JAX, chain after chain, scan", runs(scanned))
    yield Contender("JAX, chain after chain, Python loop", runs(looped))


def devinterp(params: Any, data: Any) -> Iterator[Contender]:
    """Its own loop over the steps of a chain, which gets whole minibatches, so that nothing is collated."""
    import torch
    from devinterp.optim.sgmcmc import SGMCMC
    from devinterp.slt.sampler import sample_single_chain

    x, y = (torch.from_numpy(np.array(part)) for part in data)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    names = {"0.weight": "w0", "0.bias": "b0", "2.weight": "w1", "2.bias": "b1"}
    model.load_state_dict({name: torch.from_numpy(np.array(params[of].T)) for name, of in names.items()})

    class Digits(torch.utils.data.Dataset):
        def __len__(self):
            return len(x)

        def __getitems__(self, chosen):
            return [{"input_ids": x[chosen], "labels": y[chosen].long()}]

    def evaluate(model, batch):
        return torch.nn.functional.cross_entropy(model(batch["input_ids"][0]), batch["labels"][0]), {}

    def run(steps):
        losses = torch.zeros(CHAINS, steps // 2)

        def record(loss, draw, chain, **_):
            losses[chain, draw] = loss

        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for c in range(CHAINS):
                sample_single_chain(
                    model,
                    Digits(),
                    evaluate,
                    dict.fromkeys(names),
                    num_draws=steps // 2,
                    num_burnin_steps=steps - steps // 2,
                    sampling_method=SGMCMC.sgld,
                    sampling_method_kwargs={"lr": EPSILON, "nbeta": nbeta(data), "localization": GAMMA},
                    chain=c,
                    seed=c,
                    dataloader_seed=c,
                    batch_size=BATCH,
                    callbacks=[record],
                )
        return losses.numpy()

    yield Contender("devinterp (torch)", run)


PEERS: list[Callable[..., Iterator[Contender]]] = [devinterp]


def learning_coefficient(steps: int, rounds: int) -> Iterator[Row]:
    both = digits()
    turns = in_turn([*vmapped(*both), *one_by_one(*both), *of_peers(PEERS, *both)], steps, rounds)
    notes = {}
    for name, turn in turns.items():
        means = nbeta(both[1]) * (turn.result.mean(1) - float(loss(*both)))
        notes[name] = f"estimate {means.mean():.2f} ± {means.std(ddof=1) / math.sqrt(len(means)):.2f}"
    case = f"LLC by SGLD, {CHAINS} chains, perceptron 64-64-10, minibatch {BATCH}"
    yield from rows("sampling step", case, {name: turn.step for name, turn in turns.items()}, notes)
    yield from rows("compile and begin", case, {name: turn.start for name, turn in turns.items()})
