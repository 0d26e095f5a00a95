"""What a step costs whose P is a matrix, with noise and without: SOAP, Shampoo, natural networks."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import langevin_optax as lgv
from benchmarks import contenders
from benchmarks.contenders import RATE, SIGMA, Contender, of_optax
from benchmarks.measures import Row, Sizes, step_times

NEVER = 10**6  # steps between two refreshes that no measurement reaches


def dense_layers(layers: int = 4, width: int = 256) -> Any:
    """Dense layers, each with a bias, to four times the width and back."""
    shapes = [(width, 4 * width), (4 * width, width)] * (layers // 2)
    return {f"Dense_{i}": {"kernel": jnp.ones(shape), "bias": jnp.ones(shape[1])} for i, shape in enumerate(shapes)}


def entries(params: Any, every: int) -> list[Contender]:
    """Each optimiser without noise, with normal and with rademacher noise; ``every`` so many steps P is refreshed."""
    covariances = {name: jnp.eye(layer["kernel"].shape[0] + 1) for name, layer in params.items()}
    found = [contenders.ADAM, contenders.NORMAL]
    for name in ("soap", "shampoo", "prong"):
        build = getattr(lgv, name)
        for label, sigma, sampler in (
            ("without noise", 0.0, "normal"),
            ("normal", SIGMA, "normal"),
            ("rademacher", SIGMA, "rademacher"),
        ):
            tx = build(RATE, sigma, 0, precondition_frequency=every, sampler=sampler)
            found.append(of_optax(f"lgv.{name}, {label}", _given(tx, covariances) if name == "prong" else tx))
    return found


def _given(tx: optax.GradientTransformationExtraArgs, covariances: Any) -> optax.GradientTransformationExtraArgs:
    """``tx`` with these input covariances in every step."""

    def update_fn(updates, state, params=None, **extra_args):
        return tx.update(updates, state, params, input_covariances=covariances, **extra_args)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


def matrices(sizes: Sizes) -> Iterator[Row]:
    """Steps in place, without a refresh (A) and with one in each (B). One every k steps makes it A + (B − A)/k."""
    params = dense_layers()
    case = f"{len(params)} dense layers, {sum(p.size for p in jax.tree.leaves(params)):.1e} parameters"
    yield from step_times(f"{case}, no refresh", entries(params, NEVER), params, sizes.seconds)
    quiet = [c for c in entries(params, 1) if c.name.endswith("without noise")]
    yield from step_times(f"{case}, all refreshed", [contenders.ADAM, *quiet], params, sizes.seconds)
