"""The settings of the local learning coefficient: a sweep over step size and localisation, and its picture."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from langevin_optax._checks import check_nonnegative, check_positive
from langevin_optax._types import Mask
from langevin_optax.sampling import _program
from langevin_optax.sampling._llc_estimator import Estimator
from langevin_optax.sampling._llc_result import LLC, warn_of


class LLCSweep(NamedTuple):
    """Estimates over a grid of settings."""

    learning_rates: tuple[float, ...]
    localizations: tuple[float, ...]
    llcs: list[list[LLC]]  # [learning rate][localisation]

    @property
    def means(self) -> np.ndarray:
        """shape=(learning rates, localisations)."""
        return np.array([[llc.mean for llc in row] for row in self.llcs])

    @property
    def standard_errors(self) -> np.ndarray:
        """shape=(learning rates, localisations)."""
        return np.array([[llc.standard_error for llc in row] for row in self.llcs])

    def plot(self) -> Any:
        """The traces of each setting, with what came out; a red title has ``warnings``.

        A setting is good where the chains lie on each other, level and above 0, and its neighbours agree.

        Returns:
          A ``matplotlib.figure.Figure``, to show or to save.

        Raises:
          ImportError: without Matplotlib, which is in the extra ``sampling``.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "plot needs Matplotlib, which the extra `sampling` brings: pip install 'langevin_optax[sampling]'."
            ) from error
        rows, columns = len(self.learning_rates), len(self.localizations)
        figure = Figure(figsize=(1 + 2.4 * columns, 0.8 + 1.7 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for row, rate in enumerate(self.learning_rates):
            for column, localization in enumerate(self.localizations):
                _trace(axes[row][column], self.llcs[row][column])
                if row == rows - 1:
                    axes[row][column].set_xlabel(f"draw\nlocalization {localization:g}")
            axes[row][0].set_ylabel(f"learning rate {rate:g}\nnβ (L − L₀)")
        axes[0][0].set_ylim(*self._limits())
        return figure

    def _limits(self) -> tuple[float, float]:
        """Of all traces without the settings that run away."""
        fine = [llc.traces for row in self.llcs for llc in row if np.isfinite(llc.traces).all()]
        ends = np.array([np.quantile(traces, [0.01, 0.99]) for traces in fine] or [[0.0, 1.0]])
        most = 4 * max(float(np.median(np.abs(ends).max(axis=1))), 1e-9)
        low, high = max(ends[:, 0].min(), -most), min(ends[:, 1].max(), most)
        return min(0.0, low) - 0.05 * most, max(0.0, high) + 0.05 * most


def _trace(axis: Any, llc: LLC) -> None:
    for trace in llc.traces:
        axis.plot(trace, linewidth=0.4, alpha=0.6)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.axhline(llc.mean, color="black", linewidth=1, linestyle="--")
    axis.set_title(
        f"{llc.mean:.3g} ± {llc.standard_error:.2g}", color="firebrick" if llc.warnings else "black", fontsize="medium"
    )


def llc_sweep(
    loss_fn: Callable[[Any, Any], Any],
    params: Any,
    data: Any,
    key: jax.Array | int,
    *,
    batch_size: int,
    learning_rates: Sequence[float] = (1e-3, 3e-3, 1e-2, 3e-2),
    localizations: Sequence[float] = (0.1, 1.0, 10.0, 100.0),
    draws: int = 1000,
    chains: int = 4,
    burn_in: int = 1000,
    nbeta: float | None = None,
    optimizer: Callable[[float, Any, Any], optax.GradientTransformation] | None = None,
    mask: Mask | None = None,
    progress: bool = True,
) -> LLCSweep:
    """The local learning coefficient with all pairs of a learning rate and a localisation, in one compiled program.

    The estimate is to be trusted where it does not depend on either. The chains of all settings are vmapped, with the
    same minibatches and noise: they need len(learning_rates) × len(localizations) × chains times the memory of one.

    Args:
      learning_rates: each as in :func:`local_learning_coefficient`.
      localizations: likewise.
      optimizer: ``(sigma, key, learning_rate) -> tx``, another sampler, such as
        ``lambda sigma, key, learning_rate: lgv.sgd(learning_rate, sigma, key)``.

    The other arguments, errors and the sampler are those of :func:`local_learning_coefficient`.

    Returns:
      An :class:`LLCSweep`: ``llcs[i][j]`` of learning rate i and localisation j, ``means`` and ``standard_errors`` as
      arrays, and ``plot()``, the picture to choose by.

    Warns:
      UserWarning: once, if any estimate has ``warnings``.

    Example:
      >>> import jax.numpy as jnp
      >>> from langevin_optax import sampling
      >>> loss = lambda params, batch: ((params - batch) ** 2).sum(-1).mean() / 2
      >>> sweep = sampling.llc_sweep(
      ...     loss, jnp.zeros(2), jnp.zeros((1000, 2)), 0, batch_size=1000, learning_rates=(0.01, 0.02), progress=False)
      >>> sweep.means.shape
      (2, 4)
    """
    learning_rates, localizations = tuple(learning_rates), tuple(localizations)
    for rate, localization in itertools.zip_longest(learning_rates, localizations, fillvalue=1.0):
        check_positive("learning_rates", rate)
        check_nonnegative("localizations", localization)
    settings = list(itertools.product(learning_rates, localizations))
    if not settings:
        raise ValueError("learning_rates and localizations must each have at least one value.")
    estimate = Estimator(loss_fn, data, key, batch_size, draws, chains, burn_in, nbeta, optimizer, mask, True)
    with _program.bar(burn_in + draws, progress) as shown:
        llcs = estimate(params, settings, shown)
    warn_of(llcs)
    width = len(localizations)
    rows = [llcs[start : start + width] for start in range(0, len(llcs), width)]
    return LLCSweep(learning_rates, localizations, rows)
