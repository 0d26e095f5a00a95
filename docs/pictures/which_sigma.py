"""The pictures of docs/which_sigma.md, beside this file: ``python docs/pictures/which_sigma.py``, in a minute."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits

import langevin_optax as lgv
from langevin_optax import sampling

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).parent
BLUE, RED, GREY = "#1f5fa8", "#c0392b", "#888888"


def training():
    """Langevin Adam on 40 dense layers: all σ and seeds are one program, by vmap."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    x, y, x_test, y_test = images[:1437], labels[:1437], images[1437:], labels[1437:]
    model = nn.Sequential([layer for _ in range(40) for layer in (nn.Dense(64), nn.relu)] + [nn.Dense(10)])
    steps, every, sigmas, seeds = 1100, 20, (1e-5, 1e-3, 3e-2), range(5)

    def train(sigma, seed):
        key = jax.random.key(seed)
        tx = sampling.with_metrics(lgv.adam(1e-3, lambda count: sigma * jnp.maximum(1 - count / (0.6 * steps), 0), key))
        params = model.init(jax.random.fold_in(key, 1), x[:1])

        def step(carry, i):
            params, state = carry
            batch = jax.random.choice(jax.random.fold_in(key, i + 2), len(x), (128,))

            def loss(p):
                return optax.softmax_cross_entropy_with_integer_labels(model.apply(p, x[batch]), y[batch]).mean()

            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), sampling.metrics(state).noise_to_update

        def record(carry, i):
            carry, ratios = jax.lax.scan(step, carry, i * every + jnp.arange(every))
            return carry, ((model.apply(carry[0], x_test).argmax(1) == y_test).mean(), ratios.mean())

        return jax.lax.scan(record, (params, tx.init(params)), jnp.arange(steps // every))[1]

    over_seeds = jax.vmap(train, (None, 0))
    accuracy, ratio = jax.jit(jax.vmap(over_seeds, (0, None)))(jnp.array(sigmas), jnp.array(seeds))
    when = every * np.arange(1, steps // every + 1)
    figure, axes = plt.subplots(2, 3, figsize=(10, 5), sharex=True, sharey="row", layout="constrained")
    titles = ("too little: σ = 10⁻⁵", "right: σ = 10⁻³", "too much: σ = 3 · 10⁻²")
    for column, title in enumerate(titles):
        axes[0, column].set_title(title)
        for seed in seeds:
            axes[0, column].plot(when, accuracy[column, seed], color=BLUE, alpha=0.7)
            axes[1, column].semilogy(when, ratio[column, seed], color=RED, alpha=0.7)
        axes[1, column].set(xlabel="step", ylim=(0.3, 1e4))
        print(title, "ends at", np.sort(accuracy[column, :, -1]), "ratio at the start", ratio[column, :, 0])
    axes[0, 0].set_ylabel("test accuracy")
    axes[1, 0].set_ylabel("noise to update")
    figure.savefig(FOLDER / "which_sigma_training.png", dpi=110)


def posterior():
    """A Bayesian regression whose posterior is known: its band, and that of the draws."""
    n, width = 50, 0.3
    inputs = np.random.default_rng(0).uniform(-1, 1, n)
    targets = np.sin(3 * inputs) + width * np.random.default_rng(1).normal(size=n)
    grid = np.linspace(-1.5, 1.5, 101)
    a, on_grid = jnp.vander(jnp.asarray(inputs), 4), np.vander(grid, 4)
    y = jnp.asarray(targets, jnp.float32)

    covariance = np.linalg.inv(np.asarray(a).T @ np.asarray(a) / width**2 + np.eye(4))
    exact = on_grid @ covariance @ np.asarray(a).T @ targets / width**2
    spread = 2 * np.sqrt(np.einsum("ij,jk,ik->i", on_grid, covariance, on_grid))

    def mean_loss(params):
        return ((a @ params - y) ** 2).mean() / (2 * width**2)

    loss, sigma = sampling.tempered_posterior(mean_loss, examples=n, prior_precision=1.0)

    def gradient(params, key):
        return jax.value_and_grad(loss)(params)

    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    titles = ("too little: σ = √(2/N) / 4", "right: σ = √(2/N)", "too much: σ = 4 √(2/N)")
    for axis, factor, title in zip(axes, (0.25, 1, 4), titles, strict=True):
        samples = sampling.sample(
            gradient, lgv.sgd(0.01, factor * sigma, 0), jnp.zeros(4), 0, draws=2000, chains=8, burn_in=5000, thin=20,
            progress=False,
        )  # fmt: skip
        curves = np.asarray(samples.draws).reshape(-1, 4) @ on_grid.T
        low, high = curves.mean(0) - 2 * curves.std(0), curves.mean(0) + 2 * curves.std(0)
        axis.fill_between(grid, low, high, color=BLUE, alpha=0.3, label="draws, ± 2 sd")
        axis.plot(grid, exact - spread, "k--", grid, exact + spread, "k--", lw=1, label="exact posterior, ± 2 sd")
        axis.plot(inputs, targets, ".", color=GREY, ms=4)
        axis.set(title=title, ylim=(-3, 3), xlabel="x")
        print(title, "sd of the draws over the exact", np.median((high - low) / 4 / (spread / 2)))
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].legend(handles[:2], labels[:2], loc="upper left", fontsize=8)
    figure.savefig(FOLDER / "which_sigma_posterior.png", dpi=110)


if __name__ == "__main__":
    training()
    posterior()
