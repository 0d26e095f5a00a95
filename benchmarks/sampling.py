"""What `langevin_optax.sampling` is worth beside its peers: effective samples per second, and steps of ten chains.

The samplers of the posterior are held against a long run of NUTS, so that one that is fast and wrong shows.
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sklearn.datasets

import langevin_optax as lgv
from benchmarks.coefficient import learning_coefficient
from benchmarks.measures import Row
from benchmarks.turns import Contender, in_turn, minibatch, of_peers, rows
from langevin_optax import sampling as lgv_sampling

CHAINS, BATCH, THIN = 4, 128, 10
RATE = 1e-3  # of SGLD, for the log density of all data, whose curvatures are 1 to 85
STEP, FRICTION = 1e-2, 10.0  # of the underdamped samplers: as far in a step, with as much heat from the minibatches


def sampling(sizes: Any, steps: int = 100_000, llc_steps: int = 2000, rounds: int = 5) -> Iterator[Row]:
    """The rows of this section. ``sizes`` is not used: what is shorter is compilation alone."""
    del sizes
    yield from effective_samples(steps, rounds)
    yield from learning_coefficient(llc_steps, rounds)


def breast_cancer() -> tuple[jax.Array, jax.Array]:
    """569 examples of 30 features, standardised, and a 1 for the bias."""
    x, y = sklearn.datasets.load_breast_cancer(return_X_y=True)
    x = np.concatenate([(x - x.mean(0)) / x.std(0), np.ones((len(x), 1))], axis=1)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def likelihood(theta: Any, data: Any) -> jax.Array:
    """The logarithm, of an example or of each of many."""
    x, y = data
    return y * (x @ theta) - jnp.logaddexp(0, x @ theta)


def prior(theta: Any) -> jax.Array:
    return -jnp.sum(jnp.square(theta)) / 2


def ours(data: Any) -> Iterator[Contender]:
    n, features = data[0].shape

    def loss(theta, batch):
        return -jnp.mean(likelihood(theta, batch)) - prior(theta) / n

    def gradient(theta, key):
        return jax.value_and_grad(loss)(theta, minibatch(key, data, BATCH))

    def runs(tx):
        return lambda steps: (
            lgv_sampling.sample(
                gradient, tx, jnp.zeros(features), 1, draws=steps // THIN, thin=THIN, chains=CHAINS, progress=False
            ).draws
        )

    yield Contender("lgv.sampling, SGLD", runs(lgv.sgd(RATE * n, math.sqrt(2 / n), 0)))
    tx = lgv.baoab(STEP * math.sqrt(n), 1 / n, FRICTION / math.sqrt(n), 2)
    yield Contender("lgv.sampling, BAOAB", runs(tx))


def blackjax(data: Any) -> Iterator[Contender]:
    import blackjax

    estimate = blackjax.sgmcmc.gradients.grad_estimator(prior, likelihood, len(data[0]))
    sgld, sghmc = blackjax.sgld(estimate), blackjax.sghmc(estimate, THIN, FRICTION)
    keys, starts = jax.random.split(jax.random.key(1), CHAINS), jnp.zeros((CHAINS, data[0].shape[1]))

    def step(theta, key, algorithm=sgld, rate=RATE):
        batch, noise = jax.random.split(key)
        return algorithm.step(noise, theta, minibatch(batch, data, BATCH), rate)

    def sgld_draw(theta, key):
        theta, _ = jax.lax.scan(lambda theta, key: (step(theta, key), None), theta, jax.random.split(key, THIN))
        return theta, theta

    def sghmc_draw(theta, key):
        theta = step(theta, key, sghmc, STEP)
        return theta, theta

    def scanned(draw):
        def run(steps):
            def chain(theta, key):
                return jax.lax.scan(draw, theta, jax.random.split(key, steps // THIN))[1]

            return jax.jit(jax.vmap(chain))(starts, keys)

        return run

    def looped(steps):
        compiled = jax.jit(jax.vmap(lambda theta, key, i: step(theta, jax.random.fold_in(key, i)), (0, 0, None)))
        theta, draws = starts, []
        for i in range(1, steps + 1):
            theta = compiled(theta, keys, i)
            if i % THIN == 0:
                draws.append(theta)
        return jnp.stack(draws, axis=1)

    yield Contender("blackjax, SGLD, scan", scanned(sgld_draw))
    yield Contender("blackjax, SGLD, Python loop", looped, 0.1)
    yield Contender(f"blackjax, SGHMC, {THIN} to a minibatch", scanned(sghmc_draw), 4)


def posteriors(data: Any) -> Iterator[Contender]:
    """The chains are the first axis of the parameters, and their log densities are summed."""
    import posteriors
    import torch

    x, y = (torch.from_numpy(np.array(part)) for part in data)

    def log_posterior(params, chosen):
        logits = torch.einsum("cbi,ci->cb", x[chosen], params["theta"])
        means = (y[chosen] * logits - torch.nn.functional.softplus(logits)).mean(1)
        return len(x) * means.sum() - params["theta"].square().sum() / 2, torch.tensor([])

    def runs(transform):
        def run(steps):
            state, draws = transform.init({"theta": torch.zeros(CHAINS, x.shape[1])}), []
            for i in range(1, steps + 1):
                state, _ = transform.update(state, torch.randint(len(x), (CHAINS, BATCH)), inplace=True)
                if i % THIN == 0:
                    draws.append(state.params["theta"].clone())
            return torch.stack(draws, dim=1).numpy()

        return run

    yield Contender("posteriors, SGLD (torch)", runs(posteriors.sgmcmc.sgld.build(log_posterior, RATE)), 0.1)
    yield Contender("posteriors, BAOA (torch)", runs(posteriors.sgmcmc.baoa.build(log_posterior, STEP, FRICTION)), 0.1)


def numpyro(data: Any, seed: int = 1) -> Iterator[Contender]:
    """With the gradient of all data. A draw for each that the others keep, after 1000 of adaptation.

    HMC goes for a quarter of a period, where its default, a whole one, comes back to where it was.
    """
    from numpyro.infer import HMC, MCMC, NUTS

    def runs(kernel):
        def run(steps):
            mcmc = MCMC(
                kernel(potential_fn=lambda theta: -prior(theta) - jnp.sum(likelihood(theta, data))),
                num_warmup=1000,
                num_samples=steps // THIN,
                num_chains=CHAINS,
                chain_method="vectorized",
                progress_bar=False,
            )
            mcmc.run(jax.random.key(seed), init_params=jnp.zeros((CHAINS, data[0].shape[1])))
            return mcmc.get_samples(group_by_chain=True)

        return run

    yield Contender(f"NumPyro, NUTS, a draw for {THIN} steps", runs(NUTS), 0.2)
    yield Contender(
        f"NumPyro, HMC, a draw for {THIN} steps", runs(functools.partial(HMC, trajectory_length=math.pi / 2)), 0.2
    )


PEERS: list[Callable[..., Iterator[Contender]]] = [blackjax, posteriors, numpyro]


def effective_samples(steps: int, rounds: int) -> Iterator[Row]:
    """Of the worst of all coordinates and the log density; the first tenth of the draws is burn-in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz  # slow to import
    data = breast_cancer()
    turns = in_turn([*ours(data), *of_peers(PEERS, data)], steps, rounds)
    density = jax.jit(jax.vmap(jax.vmap(lambda theta: prior(theta) + jnp.sum(likelihood(theta, data)))))
    nuts = next(of_peers([numpyro], data, 2)).run(steps) if any("NUTS" in name for name in turns) else None
    rates, notes = {}, {}
    for name, turn in turns.items():
        draws = turn.result[:, turn.result.shape[1] // 10 :].astype(np.float64)
        functions = [*np.moveaxis(draws, 2, 0), np.asarray(density(draws), np.float64)]
        rates[name] = min(float(arviz.ess(each)) for each in functions) / (turn.step * steps)
        notes[name] = f"R-hat at most {max(float(arviz.rhat(each)) for each in functions):.3f}"
        if nuts is not None:
            error = np.abs(draws.mean((0, 1)) - nuts.mean((0, 1))) / nuts.std((0, 1))
            spread = draws.std((0, 1)) / nuts.std((0, 1))
            notes[name] += f"; means off by up to {error.max():.2f} sd, sds {spread.min():.2f} to {spread.max():.2f}"
    case = f"logistic regression, {CHAINS} chains, minibatch {BATCH}"
    yield from rows("effective samples per second", case, rates, notes)
    yield from rows("sampling step", case, {name: turn.step for name, turn in turns.items()})
    yield from rows("compile and begin", case, {name: turn.start for name, turn in turns.items()})
