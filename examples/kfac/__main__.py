"""K-FAC with Langevin noise on scikit-learn's digits: ``python -m examples.kfac``."""

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import langevin_optax as lgv
from examples import interrupts, values

try:
    import kfac_jax
except (ImportError, AttributeError):  # not there, or not for this JAX
    sys.exit("error: this example needs kfac-jax: pip install git+https://github.com/google-deepmind/kfac-jax")

BATCH_SIZE, TEST_IMAGES = 128, 360


def evaluate(equation: Any, values: Any) -> Any:
    """What an equation of a jaxpr gives, as JAX asks for it since 0.9.2."""
    with jax.extend.source_info_util.user_context(equation.source_info.traceback):
        out = equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))
    return out if isinstance(out, list) else [out]


# The last release of kfac-jax, 0.0.8, asks as before. Its repository does both.
kfac_jax.tag_graph_matcher.eval_jaxpr_eqn = evaluate


@interrupts.ending()
def main(argv: Sequence[str] | None = None) -> dict[str, tuple[float, float]]:
    """The test loss and accuracy of each optimiser."""
    parser = argparse.ArgumentParser(prog="python -m examples.kfac", description=__doc__)
    parser.add_argument("--steps", type=values.positive, default=100)
    parser.add_argument("--learning-rate", type=values.rate, default=0.1)
    parser.add_argument("--sigma", type=values.rate, default=1e-2, help="of the noise; falls to 0 (default: 0.01)")
    parser.add_argument("--seed", type=values.index, default=0)
    options = parser.parse_args(argv)

    images, labels = load_digits(return_X_y=True)
    order = jax.random.permutation(jax.random.key(options.seed), len(labels))
    data = jnp.asarray(images, jnp.float32)[order] / 16, jnp.asarray(labels)[order]
    model = nn.Sequential([nn.Dense(64), nn.tanh, nn.Dense(10)])
    sigma = optax.linear_schedule(options.sigma, 0.0, options.steps)
    first = lgv.layer_mask(1, lgv.layer_order(model, data[0][:1]))
    results = {}
    for name, falling, mask in (("K-FAC", 0.0, None), ("L-K-FAC", sigma, None), ("LL-K-FAC", sigma, first)):
        noise = lgv.add_preconditioned_noise(options.learning_rate, falling, options.seed, mask=mask)
        results[name] = train(model, data, noise, options)
        print(f"{name:>8}: test loss {results[name][0]:.4f}, accuracy {results[name][1]:.4f}", flush=True)
    return results


def train(model: nn.Module, data: Any, noise: Any, options: argparse.Namespace) -> tuple[float, float]:
    def loss_fn(params, batch):
        x, y = batch
        logits = model.apply(params, x)
        kfac_jax.register_softmax_cross_entropy_loss(logits, y)  # for K-FAC to know the output of the network
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    preconditioner = kfac_jax.OptaxPreconditioner(loss_fn, damping=0.1, use_exact_inverses=True, pmap_axis_name=None)
    tx = optax.chain(
        lgv.kfac_preconditioner(preconditioner), noise, optax.scale_by_learning_rate(options.learning_rate)
    )

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, opt_state, kfac_state, key):
        batch_key, kfac_key = jax.random.split(key)
        chosen = jax.random.randint(batch_key, (BATCH_SIZE,), TEST_IMAGES, len(data[1]))
        batch = data[0][chosen], data[1][chosen]
        grads = jax.grad(loss_fn)(params, batch)
        kfac_state = preconditioner.maybe_update(kfac_state, (params, batch), kfac_key)
        updates, opt_state = tx.update(grads, opt_state, params, precond_state=kfac_state)
        return optax.apply_updates(params, updates), opt_state, preconditioner.increment_count(kfac_state)

    init_key, kfac_key, key = jax.random.split(jax.random.key(options.seed), 3)
    params = model.init(init_key, data[0][:1])
    kfac_state = preconditioner.init((params, (data[0][:BATCH_SIZE], data[1][:BATCH_SIZE])), kfac_key)
    opt_state = tx.init(params)
    for i in range(options.steps):
        params, opt_state, kfac_state = step(params, opt_state, kfac_state, jax.random.fold_in(key, i))
    x, y = data[0][:TEST_IMAGES], data[1][:TEST_IMAGES]
    return float(loss_fn(params, (x, y))), float(jnp.mean(model.apply(params, x).argmax(-1) == y))


if __name__ == "__main__":
    main()
