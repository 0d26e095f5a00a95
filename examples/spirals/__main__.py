"""The figures of the partitioned integrators, on spirals: ``python -m examples.spirals --figures 8 14 16``."""

import argparse
import csv
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from scipy import stats

from examples import interrupts, storage
from examples.presentation import Bar, as_text, write_csv
from examples.spirals import pictures
from examples.spirals.figures import NAMES, Study, figures
from examples.spirals.train import Result, losses_between, train

NUMBERS = ("seeds", "mean", "sd", "low", "high", "smallest", "largest")
SUMMARY = ("figure", "task", "method", "measure", "steps", *NUMBERS)
RUNS = ("task", "method", "seed", "final", "final_loss")


@interrupts.ending("figures that are finished are written; --figures with the others goes on from there")
def main(argv: Sequence[str] | None = None) -> None:
    preset, chosen, output = parse(argv)
    storage.check(output, {"preset": preset})
    storage.keep(output, {"preset": preset})
    for study, results in run(chosen):
        found = summary(study, results)
        print(f"\n{study.name}. {study.title}\n", as_text([row[1:] for row in (SUMMARY, *found)]), sep="\n")
        print("\nWritten:", *write(study, results, found, output), sep="\n", flush=True)


def run(chosen: Sequence[Study]) -> Iterator[tuple[Study, list[Result]]]:
    """Every study as soon as it is finished. Each program uses little more than one core, so several run at a time."""

    def cost(study, task, method):  # in steps; compilation takes as long as some
        return 150_000 + task.steps * study.seeds * len(method.settings)

    def one(part):
        study, task, method = part

        def progress(steps):
            bar.set_description_str(f"{study.name}: {task.title}, {method.name}", refresh=False)
            bar.update(cost(*part) * steps / task.steps)

        return train(task, method, study.seeds, progress, keep=study.keep)

    parts = [(study, *part) for study in chosen for part in study.parts]
    with Bar(sum(cost(*part) for part in parts)) as bar, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        found = threads.map(one, parts)
        for study in chosen:
            yield study, list(islice(found, len(study.parts)))


def summary(study: Study, results: Sequence[Result]) -> list[list[str]]:
    """A row for each setting of each method, and in figure 3 for the losses between two."""
    rows = []
    for r in results:
        found = {(r.method.label(s), "test accuracy"): of_s for s, of_s in zip(r.method.settings, r.final, strict=True)}
        if study.name == "3" and r is not results[0]:
            both = f"{results[0].method.name} to {r.method.name}"
            losses = losses_between(results[0], r, np.linspace(0, 1, 41))
            found |= {(both, "loss at 0"): losses[:, 0], (both, "loss at 1"): losses[:, -1]}
            found |= {(both, "highest loss between"): losses.max(axis=1)}
        rows += [[study.name, r.task.title, *names, f"{r.steps[-1]}", *_numbers(of)] for names, of in found.items()]
    return rows


def _numbers(found: np.ndarray) -> list[str]:
    """How many, mean, standard deviation (n − 1), the ends of the mean's 95 % interval by t, smallest, largest."""
    n, mean = len(found), found.mean()
    sd = found.std(ddof=1) if n > 1 else np.nan
    half = stats.t.ppf(0.975, n - 1) * sd / np.sqrt(n)
    numbers = (mean, sd, mean - half, mean + half, found.min(), found.max())
    return [str(n), *("" if np.isnan(x) else f"{x:.3f}" for x in numbers)]


def write(study: Study, results: Sequence[Result], found: list[list[str]], output: Path) -> list[Path]:
    """A study, beside those that are there; returns the files."""
    runs = [
        (r.task.title, r.method.label(setting), seed, f"{accuracy:.3f}", f"{loss:.6g}")
        for r in results
        for setting, *of_seeds in zip(r.method.settings, r.final, r.loss[:, :, -1], strict=True)
        for seed, (accuracy, loss) in enumerate(zip(*of_seeds, strict=True))
    ]
    path, name = output / "results.csv", f"figure_{study.name:0>2}" if study.name.isdecimal() else study.name
    picture = pictures.draw(study, results, output / f"{name}.png")
    there = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))[1:] if path.exists() else []
    rows = sorted([row for row in there if row[0] != study.name] + found, key=lambda row: NAMES.index(row[0]))
    return [write_csv(RUNS, runs, output / f"{name}.csv"), picture, write_csv(SUMMARY, rows, path)]


def parse(argv: Sequence[str] | None) -> tuple[str, list[Study], Path]:
    parser = argparse.ArgumentParser(
        prog="python -m examples.spirals",
        description="Reproduce the figures of Leimkuhler, Matthews and Vlaar (arXiv 1908.11843) on generated spirals.",
    )
    some = ("4", "8", "15", "16")
    of_figures = f"which of {', '.join(NAMES)} (default: all with --preset full, {', '.join(some)} with short)"
    parser.add_argument("--figures", choices=NAMES, nargs="+", metavar="FIGURE", help=of_figures)
    of_preset = "full: the steps and seeds of the literature; short (default): few of either, to see how it works"
    parser.add_argument("--preset", choices=("short", "full"), default="short", help=of_preset)
    of_output = "where files go (default: results/spirals/PRESET)"
    parser.add_argument("--output", type=storage.folder, metavar="DIR", help=of_output)
    flags = parser.parse_args(argv)
    everything = figures(short=flags.preset == "short")
    names = flags.figures or (NAMES if flags.preset == "full" else some)
    output = flags.output or storage.folder(f"results/spirals/{flags.preset}")
    return flags.preset, [everything[name] for name in dict.fromkeys(names)], output


if __name__ == "__main__":
    main()
