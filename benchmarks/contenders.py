"""The optimisers that are compared, each as a start and a step from gradients to new parameters."""

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import optax

import langevin_optax as lgv

RATE = 1e-3
SIGMA = 1e-3


class Contender(NamedTuple):
    name: str
    start: Callable[[Any], Any]  # from the parameters
    update: Callable[[Any, Any], Any]  # from what start returned and gradients to the update alone, with the new state
    step: Callable[[Any, Any], Any]  # the same to new parameters, as start or step returned them


def of_optax(name: str, tx: optax.GradientTransformation) -> Contender:
    def update(carry, gradients):
        params, state = carry
        return tx.update(gradients, state, params)

    def step(carry, gradients):
        updates, state = update(carry, gradients)
        return optax.apply_updates(carry[0], updates), state

    return Contender(name, lambda params: (params, tx.init(params)), update, step)


ADAM = of_optax("optax.adam", optax.adam(RATE))
ADAM_AGAIN = ADAM._replace(name="optax.adam, again")  # how far from 1 a ratio of equals is
NORMAL = of_optax("lgv.adam, normal", lgv.adam(RATE, SIGMA, 0))
RADEMACHER = of_optax("lgv.adam, rademacher", lgv.adam(RATE, SIGMA, 0, sampler="rademacher"))
THREE_POINT = of_optax("lgv.adam, three_point", lgv.adam(RATE, SIGMA, 0, sampler="three_point"))
NOISY_SGD = of_optax("optax.noisy_sgd", optax.noisy_sgd(RATE, key=0))
OTHERS = [
    of_optax("optax.rmsprop", optax.rmsprop(RATE)),
    of_optax("lgv.rmsprop, normal", lgv.rmsprop(RATE, SIGMA, 0)),
    of_optax("optax.sgd", optax.sgd(RATE)),
    of_optax("lgv.sgd, normal", lgv.sgd(RATE, SIGMA, 0)),
]


def rbg() -> Contender:
    """With the keys of the accelerators' own generators."""
    return of_optax("lgv.adam, normal, rbg key", lgv.adam(RATE, SIGMA, jax.random.key(0, impl="rbg")))


def layer_langevin(mask: Any) -> Contender:
    return of_optax("lgv.adam, normal, 30 % of the layers", lgv.adam(RATE, SIGMA, 0, mask=mask))


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def peers() -> Iterator[Contender]:
    """SGLD of the libraries in JAX that are installed."""
    if installed("blackjax"):
        import blackjax

        sgld = blackjax.sgld(lambda params, gradients: jax.tree.map(lambda g: -g, gradients))

        def blackjax_step(carry, gradients):
            params, key = carry
            key, now = jax.random.split(key)
            return sgld.step(now, params, gradients, RATE), key

        yield Contender("blackjax, SGLD", lambda params: (params, jax.random.key(0)), blackjax_step, blackjax_step)
    if installed("sgmcmcjax"):
        from sgmcmcjax.diffusions import sgld as diffusion

        init, update, _ = diffusion(RATE)

        def sgmcmcjax_step(carry, gradients):
            state, key = carry
            key, now = jax.random.split(key)
            return update(0, now, gradients, state), key

        yield Contender(
            "SGMCMCJax, SGLD", lambda params: (init(params), jax.random.PRNGKey(0)), sgmcmcjax_step, sgmcmcjax_step
        )


def in_torch(params: Any, gradients: Any) -> dict[str, Callable[[], Any]]:
    """Steps in PyTorch on the same trees, in place, not compiled; on the device that JAX computes on."""
    if not installed("torch"):
        return {}
    # Or its threads go on spinning after a step, on the cores of whoever comes next.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import numpy as np
    import torch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        return {}

    def tensors(tree):
        leaves = [np.array(leaf, np.float32) for leaf in jax.tree.leaves(tree)]
        return {str(i): torch.from_numpy(leaf).to(device) for i, leaf in enumerate(leaves)}

    def waited_for():
        if device == "cuda":
            torch.cuda.synchronize()

    g = tensors(gradients)
    parameters = tensors(params)
    for name, tensor in parameters.items():
        tensor.requires_grad_(True).grad = g[name]
    adam = torch.optim.Adam(parameters.values(), lr=RATE, fused=True)

    def adam_step():
        adam.step()
        waited_for()

    programs = {"torch.optim.Adam, fused": adam_step}
    if installed("posteriors"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import posteriors

        # Its steps differentiate for themselves: of a linear function, which has the gradients that the others get.
        def linear(params, batch):
            return -sum((params[name] * batch[name]).sum() for name in params), torch.zeros(())

        sgld = posteriors.sgmcmc.sgld.build(linear, RATE)
        carry = [sgld.init(tensors(params))]

        def sgld_step():
            carry[0], _ = sgld.update(carry[0], g, inplace=True)
            waited_for()

        programs["posteriors, SGLD (torch)"] = sgld_step
    return programs
