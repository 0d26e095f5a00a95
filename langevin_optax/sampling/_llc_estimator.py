"""Estimates of the local learning coefficient, around any parameters with any settings, in one compiled program."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from langevin_optax._checks import check_positive, check_whole
from langevin_optax._types import Mask
from langevin_optax.noise import _keys
from langevin_optax.sampling import _program, _samples
from langevin_optax.sampling._llc_sampler import distance, local_sampler
from langevin_optax.sampling._samples import as_arviz


class LLC(NamedTuple):
    """An estimate of a local learning coefficient, with what it was made of."""

    mean: float
    standard_error: float  # of the mean, from the spread of the chains
    traces: np.ndarray  # shape=(chains, draws), nβ (L_t − L₀), whose mean is the estimate
    distances: np.ndarray  # shape=(chains, draws), ‖θ_t − θ₀‖
    baseline: float  # L₀
    warnings: tuple[str, ...]

    @property
    def rhat(self) -> float:
        """ArviZ's R-hat of the traces, of the extra ``sampling``."""
        return float(as_arviz().rhat(self.traces))

    @property
    def ess(self) -> float:
        """ArviZ's bulk effective sample size of the traces."""
        return float(as_arviz().ess(self.traces))


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
        self.n, self.key = _length(data), _keys.as_key(key)
        if nbeta is None:
            if self.n < 3:
                raise ValueError(f"n / log n wants n ≥ 3 examples, got {self.n}: pass nbeta.")
            nbeta = self.n / math.log(self.n)
        check_positive("nbeta", nbeta)
        self.nbeta, self.draws, self.chains, self.burn_in = nbeta, draws, chains, burn_in
        self.data, self.batch_size = jax.tree.map(jnp.asarray, data), batch_size
        self.loss_and_grads = jax.jit(jax.value_and_grad(loss_fn))
        self.tx = local_sampler(math.sqrt(2 / nbeta), self.key, burn_in, optimizer, mask, passes_learning_rate)
        self.program: _program.Program | None = None

        def gradient(params, key):
            batch = self.data
            if batch_size < self.n:
                chosen = jax.random.randint(key, (batch_size,), 0, self.n)
                batch = jax.tree.map(lambda x: x[chosen], self.data)
            return jax.value_and_grad(loss_fn)(params, batch)

        self.gradient = gradient

    def __call__(self, params: Any, settings: Sequence[tuple[float, float]], bar: Any) -> list[LLC]:
        """An estimate for each ``(learning_rate, localization)``; all have the same minibatches and noise."""
        params = jax.tree.map(_program.strong, params)
        baseline, norm = self._at_start(params)
        theta, state = self._start(params, settings)
        if self.program is None:
            self.program = _program.Program(self.gradient, self.tx, distance, theta, state)
        samples = self.program(theta, state, self.draws, self.burn_in, 1, bar, fresh=False)
        traces = self.nbeta * (np.asarray(samples.losses, np.float64) - baseline)
        parts = zip(np.split(traces, len(settings)), np.split(np.asarray(samples.draws), len(settings)), strict=True)
        force = self.nbeta * norm
        return [
            _llc(trace, distances, baseline, force, localization)
            for (trace, distances), (_, localization) in zip(parts, settings, strict=True)
        ]

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

    def _at_start(self, params: Any) -> tuple[float, float]:
        """The mean loss over all data at θ₀, and the norm of its gradient, batch by batch."""
        total, gradient = 0.0, None
        for start in range(0, self.n, self.batch_size):
            batch = jax.tree.map(lambda x, start=start: x[start : start + self.batch_size], self.data)
            share = min(self.batch_size, self.n - start) / self.n
            loss, grads = self.loss_and_grads(params, batch)
            total += share * float(loss)
            scaled = jax.tree.map(lambda g, share=share: share * g, grads)
            gradient = scaled if gradient is None else jax.tree.map(jnp.add, gradient, scaled)
        return total, float(optax.tree.norm(gradient))


def _llc(traces: Any, distances: Any, baseline: float, force: float, localization: float) -> LLC:
    fine = np.isfinite(traces).all(axis=1)
    means = traces[fine].mean(axis=1)
    mean = float(means.mean()) if len(means) else math.nan
    error = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan
    found = _warnings(traces[fine], fine, mean, error, force, localization)
    return LLC(mean, error, traces, distances, baseline, tuple(found))


def _length(data: Any) -> int:
    lengths = {jnp.shape(x)[0] if jnp.ndim(x) else None for x in jax.tree.leaves(data)}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            f"data must be arrays with the examples in front, equally many, got lengths {sorted(map(str, lengths))}."
        )
    (length,) = lengths
    return int(length or 0)


def _warnings(traces: Any, fine: Any, mean: float, error: float, force: float, localization: float) -> list[str]:
    found = []
    if not math.isfinite(force):
        found.append("the loss or its gradient is not finite at params.")
    elif not fine.all():
        found.append(f"chains {np.flatnonzero(~fine).tolist()} diverged, and are not in the mean: lower learning_rate.")
    if mean < 0:
        found.append(
            f"the estimate is negative, {mean:.3g}: the chains found lower losses than that of params, no minimum. "
            "Train longer, or localise more."
        )
    if localization > 0 and force > math.sqrt(localization):
        found.append(
            f"nβ‖∇L‖ = {force:.3g} at params, above √localization = {math.sqrt(localization):.3g}: within the "
            "region that is left to the chains the loss falls, so that params is no minimum."
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
