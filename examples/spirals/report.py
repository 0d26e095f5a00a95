"""What the studies found: a summary and every run as CSV, and a picture."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from examples.spirals import pictures
from examples.spirals.figures import NAMES, Study
from examples.spirals.train import Result, losses_between
from examples.storage import write_whole

NUMBERS = ("seeds", "mean", "sd", "low", "high", "smallest", "largest")
SUMMARY = ("figure", "task", "method", "measure", "steps", *NUMBERS, "diverged", "published")
RUNS = ("task", "method", "seed", "final", "best", "final_loss")


def summary(study: Study, results: Sequence[Result]) -> list[list[str]]:
    """A row for each setting of each method."""
    rows = []
    for r in results:
        where, published = [study.name, r.task.title], f"{r.method.published or ''}"
        for setting, final, losses in zip(r.method.settings, r.final, r.loss[:, :, -1], strict=True):
            of = [r.method.label(setting), "test accuracy", f"{r.steps[-1]}"]
            rows.append([*where, *of, *_numbers(final), f"{(~np.isfinite(losses)).sum()}", published])
        if study.name == "3" and r is not results[0]:
            line, (start, end) = losses_between(results[0], r, pictures.LINE), map(list(pictures.LINE).index, (0, 1))
            found = line[:, start], line[:, end], line[:, start : end + 1].max(axis=1)
            for name, losses in zip(("loss at 0", "loss at 1", "highest loss between"), found, strict=True):
                of = [f"{results[0].method.name} to {r.method.name}", name, f"{r.steps[-1]}"]
                rows.append([*where, *of, *_numbers(losses), "0", ""])
    return rows


def _numbers(found: np.ndarray) -> list[str]:
    """How many, mean, standard deviation (n − 1), the ends of the mean's 95 % interval by t, smallest, largest."""
    n, mean = len(found), found.mean()
    sd = found.std(ddof=1) if n > 1 else np.nan
    half = stats.t.ppf(0.975, n - 1) * sd / np.sqrt(n)
    numbers = (mean, sd, mean - half, mean + half, found.min(), found.max())
    return [str(n), *("" if np.isnan(x) else f"{x:.3f}" for x in numbers)]


def update(study: Study, results: Sequence[Result], output: Path) -> list[Path]:
    """Write a study to ``output``, beside those that are there; returns the files."""
    runs = [
        [r.task.title, r.method.label(setting), seed, f"{accuracy[-1]:.3f}", f"{accuracy.max():.3f}", f"{loss[-1]:.6g}"]
        for r in results
        for i, setting in enumerate(r.method.settings)
        for seed, (accuracy, loss) in enumerate(zip(r.accuracy[i], r.loss[i], strict=True))
    ]
    path, of_runs, picture = output / "results.csv", output / f"{study.file}.csv", output / f"{study.file}.png"
    _write(RUNS, runs, of_runs)
    os.replace(pictures.draw(study, results, output / "partial.png"), picture)
    there = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:] if path.exists() else []
    rows = [row for row in there if row[0] != study.name] + summary(study, results)
    _write(SUMMARY, sorted(rows, key=lambda row: NAMES.index(row[0])), path)
    return [path, of_runs, picture]


def _write(heading: Sequence[str], rows: Sequence[Sequence[Any]], path: Path) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heading, *rows])
    write_whole(path, text.getvalue())
