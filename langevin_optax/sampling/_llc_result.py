"""An estimate of a local learning coefficient, and what speaks against it."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

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


class Start(NamedTuple):
    """What is known at θ₀."""

    loss: float  # over all data
    force: float  # the norm of its gradient
    heat: float  # by how much minibatches heat the default sampler, for a learning rate of 1
    moving: float  # the number of parameters that move


def judged(
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
            "may be far too high (of a quadratic loss, with all data in each step, they are right up to 2, the "
            "limit of stability). Take a third of the learning_rate, with more draws, until this is gone."
        )
    if math.isfinite(start.loss + start.force):
        found += _of_traces(traces, fine, mean, error, start.moving)
    return LLC(mean, error, traces, distances, start.loss, tuple(found))


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
    if mean - 3 * error > 0.55 * moving or np.median(traces) > moving:
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
