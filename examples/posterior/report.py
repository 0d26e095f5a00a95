"""What came out: tables, as text, Markdown and CSV."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.posterior import llc, pictures
from examples.posterior.compare import NUTS, POINT, Outcome, Sizes, width_in_gap
from examples.presentation import as_markdown, rounded, short, write_csv
from examples.storage import write_whole

CSV = (
    *("problem", "method", "step size", "steps", "accuracy or RMSE", "log score", "gain", "standard error of the gain"),
    *("calibration error", "coverage", "median R-hat", "largest R-hat", "median ESS", "least ESS", "width in the gap"),
)
LLC_CSV = ("step", "training loss", "test loss", "test accuracy", "LLC", "standard error", "R-hat", "warnings")


def tables(outcomes: Sequence[Outcome], learning: llc.Result) -> dict[str, list[list[str]]]:
    """By the title, the heading first."""
    found = {}
    for name in dict.fromkeys(outcome.problem for outcome in outcomes):
        group = [outcome for outcome in outcomes if outcome.problem == name]
        found[name.capitalize()] = _gap(group) if name == "gap" else _scores(group)
    return found | {"Learning coefficient": _learning(learning)}


def _gap(group: Sequence[Outcome]) -> list[list[str]]:
    widths = {outcome.method: width_in_gap(outcome) for outcome in group}
    heading = ["Method", "Step size", "Steps", "Width in the gap", "Over that of NUTS", "R-hat", "ESS"]
    body = [
        [*_settings(o), f"{widths[o.method]:.2f}", f"{widths[o.method] / widths[NUTS]:.2f}", *_convergence(o)]
        for o in group
    ]
    return [heading, *body]


def _scores(group: Sequence[Outcome]) -> list[list[str]]:
    regression = group[0].scores.coverage is not None
    kinds = ["RMSE", "In the 90 % band"] if regression else ["Accuracy", "Calibration error"]
    heading = ["Method", "Step size", "Steps", kinds[0], "Log score", "Gain", kinds[1], "R-hat", "ESS"]
    body = []
    for o in group:
        gain, error = gain_over_point(o, group)
        main, last = o.scores.main, o.scores.coverage if regression else o.scores.calibration_error
        log_score = f"{o.scores.log_scores.mean():.3f}"
        cells = [f"{main:.3f}" if regression else short(main), log_score]
        cells.append("" if o.method == POINT else f"{gain:+.3f} ± {error:.3f}")
        body.append([*_settings(o), *cells, short(last or 0.0), *_convergence(o)])
    return [heading, *body]


def gain_over_point(outcome: Outcome, group: Sequence[Outcome]) -> tuple[float, float]:
    """In the log score, over that of the point estimate, and its standard error over test examples."""
    (point,) = [o for o in group if (o.problem, o.method) == (outcome.problem, POINT)]
    gains = outcome.scores.log_scores - point.scores.log_scores
    return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))


def _settings(o: Outcome) -> list[str]:
    return [o.method, "adapted" if o.step_size is None else f"{o.step_size:g}", f"{o.steps:,}"]


def _convergence(o: Outcome) -> list[str]:
    if o.r_hat is None or o.ess is None:
        return ["–", "–"]
    return [f"{np.median(o.r_hat):.2f} ({o.r_hat.max():.2f})", f"{np.median(o.ess):.0f} ({o.ess.min():.0f})"]


def _learning(r: llc.Result) -> list[list[str]]:
    heading = ["Step", "Training loss", "Test loss", "Test accuracy", "LLC", "R-hat", "Warnings"]
    body = [
        [
            f"{step:,}",
            *(f"{loss:.1e}" if loss < 1e-3 else rounded(loss, 2) for loss in r.losses[:, step]),
            short(r.test_accuracy[step]),
            f"{found.mean:.1f} ± {found.standard_error:.1f}",
            f"{found.rhat:.2f}",
            str(len(found.warnings) or "–"),
        ]
        for step, found in zip(r.steps, r.llcs, strict=True)
    ]
    return [heading, *body]


def write(outcomes: Sequence[Outcome], learning: llc.Result, sizes: Sizes, output: Path) -> list[Path]:
    """Write everything to ``output``; returns the files."""
    drawn = pictures.draw(outcomes, learning, sizes, output)
    sections = ["# Posteriors of small networks"]
    for title, rows in tables(outcomes, learning).items():
        sections += [f"## {title}", as_markdown(rows)]
    sections += [f"![{picture.stem}]({picture.name})" for picture in drawn]
    write_whole(output / "results.md", "\n\n".join(sections) + "\n")
    csv = write_csv(CSV, (_row(o, outcomes) for o in outcomes), output / "results.csv")
    along = write_csv(LLC_CSV, _along(learning), output / "llc.csv")
    return [output / "results.md", csv, along, *drawn]


def _along(r: llc.Result) -> Iterator[list[Any]]:
    for step, found in zip(r.steps, r.llcs, strict=True):
        numbers = [found.mean, found.standard_error, found.rhat, len(found.warnings)]
        yield [step, *r.losses[:, step], r.test_accuracy[step], *numbers]


def _row(o: Outcome, outcomes: Sequence[Outcome]) -> list[Any]:
    gap, s = o.problem == "gap", o.scores
    scores = ["", "", "", ""] if gap else [s.main, s.log_scores.mean(), *gain_over_point(o, outcomes)]
    more = ["", ""] if gap else ["" if x is None else x for x in (s.calibration_error, s.coverage)]
    chains = ["", "", "", ""]
    if o.r_hat is not None and o.ess is not None:
        chains = [np.median(o.r_hat), o.r_hat.max(), np.median(o.ess), o.ess.min()]
    step_size = "" if o.step_size is None else o.step_size
    return [o.problem, o.method, step_size, o.steps, *scores, *more, *chains, width_in_gap(o) if gap else ""]
