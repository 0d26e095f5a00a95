"""Stochastic control with a network at each time step: ``python -m examples.control``."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from examples import interrupts, storage, values
from examples.control import hedging
from examples.presentation import FONTS, STYLES, Bar, as_markdown, as_text, finish, write_csv
from examples.storage import write_whole

METHODS = ("Adam", "L-Adam", "LL-Adam")


@interrupts.ending()
def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(argv)
    settings = {"steps": flags.steps, "seeds": flags.seeds, "updates": flags.updates, "sigma": flags.sigma}
    storage.check(flags.output, settings)
    risks = _run(flags)
    storage.keep(flags.output, settings)
    _write(flags, risks)


def _run(flags: argparse.Namespace) -> dict[tuple[int, str], np.ndarray]:
    """(seeds, records) of each number of time steps and method."""
    risks = {}
    with Bar(total=sum(flags.steps) * len(METHODS)) as bar:
        for steps in flags.steps:
            for name in METHODS:
                bar.set_description_str(f"{steps} time steps, {name}", refresh=True)
                run = partial(hedging.train, name, flags.sigma, steps, flags.updates, min(25, flags.updates))
                risks[steps, name] = np.asarray(jax.jit(jax.vmap(run))(jnp.arange(flags.seeds)))
                bar.update(steps)
    return risks


def _write(flags: argparse.Namespace, risks: dict[tuple[int, str], np.ndarray]) -> None:
    note = (
        f"{flags.seeds} seeds, {flags.updates} updates on {hedging.BATCH} new paths each, learning rate "
        f"{hedging.LEARNING_RATE:g} by a cosine to 0, sigma {flags.sigma:g} to 0 at {hedging.NOISY * 100:g} %, eps "
        f"{hedging.EPS:g}, max noise {hedging.MAX_NOISE:g}, cost {hedging.COST * 100:g} % of what is traded."
    )
    reference = {steps: hedging.black_scholes(steps) for steps in flags.steps}
    rows = [["Method", *(f"{steps} time steps" for steps in flags.steps)]]
    for name in METHODS:
        rows.append([name, *(_cell(risks[steps, name][:, -1]) for steps in flags.steps)])
    rows.append(["Black–Scholes delta", *(f"{reference[steps] * 100:.3f}" for steps in flags.steps)])
    said = "100 × expected shortfall on test paths after the last update: median (best to worst) over the seeds."
    print("", as_text(rows), "", said, sep="\n")
    table = f"{as_markdown(rows)}\n\n{said} {note}\n\n![Risk against update](risk.png)\n"
    write_whole(flags.output / "results.md", table)
    lines = [
        (steps, name, seed, record, f"{risk:.6f}")
        for (steps, name), of_seeds in risks.items()
        for seed, records in enumerate(of_seeds)
        for record, risk in enumerate(records, 1)
    ]
    write_csv(("steps", "method", "seed", "record", "risk"), lines, flags.output / "runs.csv")
    print("\nWritten:", flags.output / "results.md", flags.output / "runs.csv", _draw(flags, risks, note), sep="\n  ")


def _cell(risk: np.ndarray) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*(100 * x for x in (np.median(risk), risk.min(), risk.max())))


def _draw(flags: argparse.Namespace, risks: dict[tuple[int, str], np.ndarray], note: str) -> Path:
    with plt.rc_context(FONTS):
        figure, axes = plt.subplots(1, len(flags.steps), figsize=(4.6 * len(flags.steps), 4.4), squeeze=False)
        for axis, steps in zip(axes.flat, flags.steps, strict=True):
            for (colour, line, _), name in zip(STYLES, METHODS, strict=False):
                curves = 100 * risks[steps, name]
                updates = flags.updates / curves.shape[1] * np.arange(1, curves.shape[1] + 1)
                axis.plot(updates, curves.T, color=colour, linewidth=0.7, alpha=0.35)
                axis.plot(updates, np.median(curves, 0), color=colour, linestyle=line, linewidth=2.4, label=name)
            axis.axhline(100 * hedging.black_scholes(steps), color="0.4", linestyle=":", label="Black–Scholes delta")
            best = min(100 * risks[steps, name].min() for name in METHODS)
            axis.set(title=f"{steps} time steps", xlabel="Update", ylim=(0.998 * best, 1.03 * best))
            axis.grid(alpha=0.3)
        axes[0, 0].set_ylabel("100 × expected shortfall")
        title = "Risk on test paths: median (bold) and each seed (thin)"
        return finish(figure, title, note, flags.output / "risk.png", legend_columns=4)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.control",
        description="Hedge a call under trading costs with a network at each time step, by Adam, Langevin Adam and "
        "Layer Langevin Adam, whose noise is in the networks of the first time steps.",
    )
    parser.add_argument("--steps", type=values.positive, nargs="+", default=[10, 30, 50], metavar="N")
    parser.add_argument("--seeds", type=values.positive, default=4, metavar="N")
    parser.add_argument("--updates", type=values.positive, default=500, metavar="N")
    parser.add_argument("--sigma", type=values.rate, default=1e-3, metavar="X", help="default: 0.001")
    parser.add_argument("--output", type=storage.folder, default="results/control", metavar="DIR")
    flags = parser.parse_args(argv)
    flags.steps = sorted(set(flags.steps))
    return flags


if __name__ == "__main__":
    main()
