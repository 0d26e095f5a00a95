"""Estimates of the local learning coefficient, around any parameters with any settings, in one compiled program."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from langevin_optax._checks import check_positive, check_whole
from langevin_optax._types import Mask
from langevin_optax.layers import _where
from langevin_optax.noise import _keys
from langevin_optax.sampling import _program, _samples
from langevin_optax.sampling._llc_curvature import step_times_curvature
from langevin_optax.sampling._llc_sampler import center, frozen, local_sampler, norm
from langevin_optax.sampling._samples import as_arviz


class LLC(NamedTuple):
    """An estimate of a local learning coefficient, with what it was made of."""

    mean: float
    standard_error: float  # of the mean, from the spread of the chains
    traces: np.ndarray  # shape=(chains, draws), nβ (L(θ_t) − L(θ₀)), on the minibatch of t, whose mean is the estimate
    distances: np.ndarray  # shape=(chains, draws), ‖θ_t − θ₀‖
    baseline: float  # L₀
    warnings: tuple[str, ...]

    @property
    def rhat(self) -> float:
        """ArviZ's R-hat of the traces that did not diverge; of the extra ``sampling``."""
        return float(as_arviz().rhat(self.traces[np.isfinite(self.traces).all(axis=1)]))

    @property
    def ess(self) -> float:
        """ArviZ's bulk effective sample size of the same."""
        return float(as_arviz().ess(self.traces[np.isfinite(self.traces).all(axis=1)]))


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
        self.at_start, self.steps = jax.jit(self._at_start), jax.jit(self._steps)

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
        steps = self.steps(params, samples.params, samples.state.tx_state) if self.heats else [0.0] * len(settings)
        traces = self.nbeta * np.asarray(rises, np.float64)
        parts = zip(np.split(traces, len(settings)), np.split(np.asarray(distances), len(settings)), strict=True)
        precision = float(jnp.finfo(rises.dtype).eps) * self.nbeta * abs(start.loss)
        return [
            _llc(trace, away, start, self.nbeta, rate if self.heats else 0.0, localization, precision, float(step))
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

    def _steps(self, params: Any, theta: Any, state: Any) -> jax.Array:
        """ηλ₁(√P H √P) of the first chain of each setting, on some batches."""
        batch = jax.tree.map(lambda x: x[: 8 * self.batch_size], self.data)
        where = self._where(params)

        def of_chain(both: Any) -> jax.Array:
            theta, state = both
            p = jax.tree.map(lambda p, w: jnp.where(w, p, 0), frozen(state), where)
            direction = jax.tree.map(jnp.subtract, theta, params)
            rate = state.learning_rate
            return step_times_curvature(self.loss_fn, params, direction, batch, p, rate, self.nbeta)

        return jax.lax.map(of_chain, jax.tree.map(lambda x: x[:: self.chains], (theta, state)))

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


class Start(NamedTuple):
    """What is known at θ₀."""

    loss: float  # over all data
    force: float  # the norm of its gradient
    heat: float  # by how much minibatches heat the default sampler, for a learning rate of 1
    moving: float  # the number of parameters that move


def _llc(
    traces: Any,
    distances: Any,
    start: Start,
    nbeta: float,
    rate: float,
    localization: float,
    precision: float,
    step: float,
) -> LLC:
    fine = np.isfinite(traces).all(axis=1)
    means = traces[fine].mean(axis=1)
    mean = float(means.mean()) if len(means) else math.nan
    error = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan
    found = _of_start(start, nbeta, rate, localization, precision)
    if step > 1:
        found.append(
            f"the step is too large for the curvature: their product is {step:.1f}, and where it is above 1 estimates "
            "may be far too high; 2 is the limit of stability. Take a third of the learning_rate, with more draws, "
            "until this is gone."
        )
    if math.isfinite(start.loss + start.force):
        found += _of_traces(traces, fine, mean, error, start.moving)
    return LLC(mean, error, traces, distances, start.loss, tuple(found))


def _length(data: Any) -> int:
    lengths = {jnp.shape(x)[0] if jnp.ndim(x) else None for x in jax.tree.leaves(data)}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"data must be arrays with the examples in front, equally many, got lengths {sorted(map(str, lengths))}."
        )
    (length,) = lengths
    return int(length or 0)


def _of_start(start: Start, nbeta: float, rate: float, localization: float, precision: float) -> list[str]:
    """What θ₀ alone lets one expect."""
    found, force = [], nbeta * start.force
    if not math.isfinite(start.loss + start.force):
        return ["the loss or its gradient is not finite at params."]
    if localization > 0 and force > math.sqrt(localization):
        found.append(
            f"nβ‖∇L‖ = {force:.3g} at params, above √localization = {math.sqrt(localization):.3g}: the loss may fall "
            "within the region that is left to the chains, so that params is no minimum."
        )
    if rate * start.heat > 0.1:
        found.append(
            f"the noise of minibatches heats the chains by some {rate * start.heat:.0%}, and the estimate with them: "
            "take a larger batch_size, or a smaller learning_rate with more draws."
        )
    if precision > 0.1:
        found.append(
            f"the loss is rounded to {precision:.2g} in nβL: return it in float32 at least, or without a constant."
        )
    return found


def _of_traces(traces: Any, fine: Any, mean: float, error: float, moving: float) -> list[str]:
    """What the chains show."""
    found, traces = [], traces[fine]
    if not fine.all():
        found.append(f"chains {np.flatnonzero(~fine).tolist()} diverged, and are not in the mean: lower learning_rate.")
    if mean < -2 * (0 if math.isnan(error) else error):
        found.append(
            f"the estimate is negative, {mean:.3g}: the chains found lower losses than that of params, no minimum. "
            "Train longer, or localise more."
        )
    if mean - 3 * error > 0.55 * moving:
        found.append(
            f"the estimate is above d/2 = {moving / 2:g}, the most that a minimum of {moving:g} parameters has: the "
            "step is too large, minibatches heat the chains, or params is no minimum."
        )
    if len(traces) > 1 and traces.shape[1] >= 4:
        half = traces.shape[1] // 2
        rise = traces[:, half:].mean(1) - traces[:, :half].mean(1)
        clear = rise.mean() > 3 * rise.std(ddof=1) / math.sqrt(len(rise))
        if clear and rise.mean() > max(2 * error, 0.05 * abs(mean)):
            found.append(
                f"the loss still rises, by {rise.mean():.2g} in nβL between the halves of the draws: the estimate "
                "is too low. Choose more burn_in."
            )
    return found


def warn_of(llcs: Sequence[LLC]) -> None:
    """One warning for several estimates."""
    if number := sum(bool(llc.warnings) for llc in llcs):
        first = next(llc.warnings[0] for llc in llcs if llc.warnings)
        warnings.warn(f"{number} of {len(llcs)} estimates have warnings. The first: {first}", stacklevel=3)
