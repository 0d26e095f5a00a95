"""Estimates of the local learning coefficient, around any parameters with any settings, in one compiled program."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax._checks import check_positive, check_whole
from langevin_optax._types import Mask
from langevin_optax.layers import _where
from langevin_optax.noise import _keys
from langevin_optax.sampling import _program, _samples
from langevin_optax.sampling._llc_curvature import step_times_curvature
from langevin_optax.sampling._llc_result import LLC, Start, judged
from langevin_optax.sampling._llc_sampler import center, frozen, local_sampler, norm


class Estimator:
    """Estimates around any parameters with any learning rates and localisations, in one compiled program."""

    def __init__(
        self,
        loss_fn: Any,
        data: Any,
        key: Any,
        batch_size: int,
        draws: int,
        chains: int,
        burn_in: int,
        nbeta: float | None,
        optimizer: Any,
        mask: Mask | None,
        passes_learning_rate: bool = False,
    ):
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("draws", draws, 1),
            ("chains", chains, 1),
            ("burn_in", burn_in, 0),
        ):
            check_whole(name, value, least)
        if optimizer is not None and not callable(optimizer):
            arguments = "(sigma, key, learning_rate)" if passes_learning_rate else "(sigma, key)"
            raise TypeError(
                f"optimizer must be a function {arguments} -> tx, which is given the σ of the temperature 1/(nβ), got "
                f"{type(optimizer).__name__}."
            )
        self.n, self.key = _length(data), _keys.as_key(key)
        if nbeta is None:
            if self.n < 3:
                raise ValueError(f"n / log n wants n ≥ 3 examples, got {self.n}: pass nbeta.")
            nbeta = self.n / math.log(self.n)
        check_positive("nbeta", nbeta)
        self.nbeta, self.draws, self.chains, self.burn_in = nbeta, draws, chains, burn_in
        self.data, self.batch_size = jax.tree.map(jnp.asarray, data), batch_size
        self.loss_fn, self.mask, self.heats = loss_fn, mask, optimizer is None
        self.tx = local_sampler(math.sqrt(2 / nbeta), self.key, burn_in, optimizer, mask, passes_learning_rate)
        self.program: _program.Program | None = None
        self.first: Any = None  # what all checkpoints must be like
        self.at_start, self.products = jax.jit(self._at_start), jax.jit(self._product)

    def __call__(self, params: Any, settings: Sequence[tuple[float, float]], bar: Any) -> list[LLC]:
        """An estimate for each ``(learning_rate, localization)``; all have the same minibatches and noise."""
        params = jax.tree.map(_program.strong, params)
        self._check(params)
        start = Start(*map(float, self.at_start(params, self.data)))
        theta, state = self._start(params, settings)
        if self.program is None:
            self.program = _program.Program(self._gradient, self.tx, self._look, theta, state)
        samples = self.program(theta, state, self.draws, self.burn_in, 1, bar, fresh=False)
        distances, rises = samples.draws
        steps = self._products(params, samples, settings)
        traces = self.nbeta * np.asarray(rises, np.float64)
        parts = zip(np.split(traces, len(settings)), np.split(np.asarray(distances), len(settings)), strict=True)
        precision = float(jnp.finfo(rises.dtype).eps) * self.nbeta * abs(start.loss)
        return [
            judged(trace, away, start, self.nbeta, rate if self.heats else 0.0, localization, precision, float(step))
            for (trace, away), (rate, localization), step in zip(parts, settings, steps, strict=True)
        ]

    def _check(self, params: Any) -> None:
        shapes = jax.tree.map(lambda x: f"{x.dtype}{[*x.shape]}", params)
        if self.first is None:
            if wrong := [x.dtype for x in jax.tree.leaves(params) if not jnp.issubdtype(x.dtype, jnp.floating)]:
                raise TypeError(f"params must be real, got leaves of dtype {wrong[0]}.")
            result = jax.eval_shape(self.loss_fn, params, self._batch(jax.random.key(0)))
            if getattr(result, "shape", None) != () or not jnp.issubdtype(result.dtype, jnp.floating):
                raise ValueError(f"loss_fn must return a real scalar, the mean over the batch, got {result}.")
            self.first = shapes
        elif jax.tree.flatten(shapes) != jax.tree.flatten(self.first):
            raise ValueError(f"all checkpoints must be alike: the first has\n  {self.first}\ngot\n  {shapes}.")

    def _batch(self, key: jax.Array) -> Any:
        if self.batch_size >= self.n:
            return self.data
        chosen = jax.random.randint(key, (self.batch_size,), 0, self.n)
        return jax.tree.map(lambda x: x[chosen], self.data)

    def _gradient(self, params: Any, key: jax.Array) -> Any:
        return jax.value_and_grad(self.loss_fn)(params, self._batch(key))

    def _look(self, params: Any, state: _samples.SamplerState) -> Any:
        """‖θ − θ₀‖, and L(θ) − L(θ₀) on one and the same minibatch, whose own noise nearly all falls away."""
        theta_0 = center(state.tx_state)
        batch = self._batch(_program.minibatch_key(state))
        away = norm(jax.tree.map(jnp.subtract, params, theta_0))
        return away, self.loss_fn(params, batch) - self.loss_fn(theta_0, batch)

    def _start(self, params: Any, settings: Sequence[tuple[float, float]]) -> Any:
        """The chains of each setting, one setting after the other."""
        theta, state = _program.start(self.tx, params, self.key, self.chains, None)
        if self.program is None:
            _samples.check_keys(state.tx_state)
        theta, state = jax.tree.map(lambda x: jnp.concatenate([x] * len(settings)), (theta, state))
        rates, pulls = (jnp.repeat(jnp.asarray(x, float), self.chains) for x in zip(*settings, strict=True))
        local = state.tx_state._replace(learning_rate=rates, strength=pulls / self.nbeta)
        carry = theta, state._replace(tx_state=local)
        sharding = _program.devices_for(params, self.chains * len(settings))
        return carry if sharding is None else jax.device_put(carry, sharding)

    def _products(self, params: Any, samples: _samples.Samples, settings: Sequence[Any]) -> Any:
        """Of step and curvature, for the first chain of each setting; 0 where they are not measured.

        That is where rounding hides the curvature, and where parameters are divided among devices.
        """
        eps = max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(params))
        if not self.heats or eps > 1e-6 or _program.spans_devices(params):
            return [0.0] * len(settings)
        size = min(self.batch_size, self.n)
        number = min(8, self.n // size)
        batches = jax.tree.map(lambda x: x[: number * size].reshape(number, size, *x.shape[1:]), self.data)
        local = samples.state.tx_state
        chains = samples.params, frozen(local), local.learning_rate, local.strength
        # The chains may be on several devices; these few need one.
        first = jax.device_get(jax.tree.map(lambda x: x[:: self.chains], chains))
        return self.products(params, first, batches)

    def _product(self, params: Any, chains: Any, batches: Any) -> jax.Array:
        where = self._where(params)

        def loss(params: Any, batches: Any) -> jax.Array:
            return jax.lax.map(functools.partial(self.loss_fn, params), batches).mean()

        def of_chain(chain: Any) -> jax.Array:
            theta, p, rate, strength = chain
            p = jax.tree.map(lambda p, w: jnp.where(w, p, 0), p, where)
            direction = jax.tree.map(jnp.subtract, theta, params)
            return step_times_curvature(loss, params, direction, batches, p, rate, strength, self.nbeta)

        return jax.lax.map(of_chain, chains)

    def _where(self, params: Any) -> Any:
        """Which entries move."""
        if self.mask is None:
            return jax.tree.map(lambda p: True, params)
        return _where.resolve(self.mask, params, params)

    def _at_start(self, params: Any, data: Any) -> Any:
        """What `Start` holds, batch by batch; the gradient of what moves alone."""
        whole = self.n // self.batch_size * self.batch_size
        batches = jax.tree.map(lambda x: x[:whole].reshape(-1, self.batch_size, *x.shape[1:]), data)
        where = self._where(params)

        def add(sums, batch, examples):
            loss, grads = jax.value_and_grad(self.loss_fn)(params, batch)
            grads = jax.tree.map(lambda g, w: jnp.where(w, g, 0).astype(jnp.float32), grads, where)
            seen = loss, grads, jax.tree.map(jnp.square, grads)
            return jax.tree.map(lambda a, b: a + examples * b, sums, seen)

        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)
        sums: Any = jnp.zeros([], float), zeros, zeros
        if whole:
            sums, _ = jax.lax.scan(lambda sums, batch: (add(sums, batch, self.batch_size), None), sums, batches)
        if whole < self.n:
            sums = add(sums, jax.tree.map(lambda x: x[whole:], data), self.n - whole)
        loss, mean, square = jax.tree.map(lambda x: x / self.n, sums)
        number = sum(jax.tree.leaves(jax.tree.map(lambda w, p: jnp.sum(jnp.broadcast_to(w, p.shape)), where, params)))
        # η P nβ v/2 of a coordinate whose gradient has the variance v over minibatches, P as of the default sampler.
        heats = jax.tree.map(lambda m, s: jnp.sum((s - m**2) / (jnp.sqrt(s) + 0.1)) * self.nbeta / 2, mean, square)
        return loss, norm(mean), sum(jax.tree.leaves(heats)) / jnp.maximum(number, 1), number


def _length(data: Any) -> int:
    lengths = {jnp.shape(x)[0] if jnp.ndim(x) else None for x in jax.tree.leaves(data)}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"data must be arrays with the examples in front, equally many, got lengths {sorted(map(str, lengths))}."
        )
    (length,) = lengths
    return int(length or 0)
