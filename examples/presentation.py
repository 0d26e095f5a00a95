"""What the examples share to show what they did: progress, numbers, tables, CSV files, the frame of a picture."""

import csv
import io
import math
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from tqdm import tqdm

from examples.storage import write_whole

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Colours of Okabe and Ito, which the colour-blind tell apart; lines and marks differ too.
STYLES: Any = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
    ("#E69F00", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#56B4E9", (0, (3, 1)), "P"),
    ("#000000", (0, (1, 1)), "X"),
    ("#7F7F7F", (0, (6, 2)), "*"),
)
FONTS: Any = {"font.size": 11, "axes.titlesize": 12, "axes.labelsize": 11, "legend.fontsize": 11}


class Bar(tqdm):
    """Progress; in a log, which has no line to overwrite, now and then a line of its own."""

    def __init__(self, total: float):
        super().__init__(
            total=total,
            desc="compiling",
            bar_format="{percentage:3.0f}% |{bar:30}| {elapsed}, {remaining} left: {desc}",
            mininterval=0.5 if sys.stderr.isatty() else 10,
            smoothing=0.02,  # the optimisers differ in speed: judge by the last half minute, not the last second
        )

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], Any]:
        return tqdm.status_printer(file) if file.isatty() else lambda line: print(line, file=file, flush=True)


def counted(number: int, unit: str) -> str:
    """1 seed, 6 seeds, 1 block per stage, 3 blocks per stage."""
    return f"{number} {unit if number == 1 else plural(unit)}"


def plural(unit: str) -> str:
    """Hidden layers, batches, processes, blocks per stage."""
    first, separator, rest = unit.partition(" per ")
    if first.endswith("dy"):  # study
        return first[:-1] + "ies" + separator + rest
    return first + ("es" if first.endswith(("s", "tch")) else "s") + separator + rest


def seeds(number: int) -> str:
    return "seed 0" if number == 1 else f"seeds 0 {'and' if number == 2 else 'to'} {number - 1}"


def rounded(value: float, digits: int = 3) -> str:
    """To so many significant digits, without powers of ten: 0.0123, 1.5, 230, 12,300."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    text = f"{round(value, places):,.{max(0, places)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float, digits: int = 3) -> str:
    """12 µs, 230 ms, 1.5 s."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if float(f"{seconds / size:.{digits - 1}e}") >= 1:
            return f"{rounded(seconds / size, digits)} {unit}"
    return f"{rounded(seconds / 1e-6, digits)} µs"


def side_by_side(number: int, width: float) -> np.ndarray:
    """Places around 0 for what would lie on top of each other."""
    return width * ((np.arange(number) + 0.5) / number - 0.5)


def as_text(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].rjust(widths[0]), *(c.ljust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    heading, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([heading, "| ---: |" + " :--- |" * (len(rows[0]) - 1), *body])


def short(accuracy: float) -> str:
    """.957, and 1.000."""
    return f"{accuracy:.3f}".removeprefix("0")


def write_csv(heading: Sequence[str], rows: Iterable[Sequence[Any]], path: Path) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heading, *rows])
    return write_whole(path, text.getvalue())


def finish(figure: Any, title: str, note: str, path: Path, legend: bool = True, legend_columns: int = 3) -> Path:
    """Save, with title and legend above and the settings below, whatever the size."""
    width, height = figure.get_size_inches()
    note = textwrap.fill(note, int(width * 15))
    figure.text(0.5, 1 - 0.1 / height, title, fontsize=13, ha="center", va="top")
    above = 0.4
    if legend:
        lines, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            lines,
            names,
            loc="upper center",
            ncols=legend_columns,
            frameon=False,
            bbox_to_anchor=(0.5, 1 - 0.32 / height),
        )
        above += 0.1 + 0.27 * -(-len(names) // legend_columns)
    figure.text(0.1 / width, 0.1 / height, note, fontsize=9, va="bottom", color="0.25")
    below = (0.1 + 0.17 * len(note.splitlines())) / height
    figure.tight_layout(rect=(0, below, 1, 1 - above / height))
    partial = path.with_suffix(f".partial{path.suffix}")
    figure.savefig(partial, dpi=130)
    os.replace(partial, path)
    plt.close(figure)
    return path
