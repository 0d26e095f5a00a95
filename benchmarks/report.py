"""The table, the machine it was made on, and the picture."""

import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt

from benchmarks.measures import Row
from examples import presentation

HEADING = ["measure", "case", "contender", "value", "/ the first", "quartiles", "note"]
PACKAGES = [
    "jax",
    "jaxlib",
    "libtpu",
    "jax-cuda13-plugin",
    "optax",
    "flax",
    "langevin_optax",
    "blackjax",
    "sgmcmcjax",
    "posteriors",
    "numpyro",
    "devinterp",
    "torch",
]


def machine() -> str:
    devices = jax.devices()
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}); {processor}, {cores} cores; "
        f"{platform.system()}, Python {platform.python_version()}; {', '.join(versions)}"
    )


def cells(row: Row) -> list[str]:
    value = presentation.duration(row.value)
    if _unit(row) != "seconds":
        value = f"{row.value:,.0f} bytes" if _unit(row) == "bytes" else f"{row.value:.3g}"
    ratio = quartiles = ""
    if row.ratio is not None:
        ratio = f"{row.ratio.median:.2f}"
        quartiles = f"{row.ratio.low:.2f} to {row.ratio.high:.2f}" if row.ratio.low < row.ratio.high else ""
    return [row.measure, row.case, row.contender, value, ratio, quartiles, row.note]


def _unit(row: Row) -> str:
    if row.measure.startswith(("effective", "matrix")):
        return row.measure.partition(" per ")[0]
    return "bytes" if row.measure in ("state", "temporary memory", "bytes moved") else "seconds"


def line(cells: Sequence[str]) -> str:
    """A row as text, for a table that is printed as it grows."""
    widths = (37, 56, 36, 18, 12, 14, 0)
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def markdown(rows: Sequence[Row]) -> str:
    """A table for each measure."""
    text = []
    for measure in dict.fromkeys(row.measure for row in rows):
        body = [cells(row)[1:] for row in rows if row.measure == measure]
        kept = [i for i, name in enumerate(HEADING[1:]) if any(line[i] for line in body)]
        text.append(f"## {measure.capitalize()}")
        text.append(_table([[line[i] for i in kept] for line in [HEADING[1:], *body]]))
    return "\n\n".join(text)


def _table(rows: Sequence[Sequence[str]]) -> str:
    heading, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([heading, "|" + " :--- |" * len(rows[0]), *body])


def write(rows: Sequence[Row], command: str, folder: Path) -> list[Path]:
    """Write the tables as Markdown and CSV, and the picture if both curves were measured."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = _picture(rows, folder / "cost.png")
    text = ["# Results", f"`{command}`, on {machine()}."]
    text += [f"![Time against parameters and leaves]({picture.name})"] if picture else []
    written = [folder / "results.md"]
    written[0].write_text("\n\n".join([*text, markdown(rows)]) + "\n", encoding="utf-8")
    heading = ["measure", "case", "contender", "value", "unit", "ratio_25", "ratio_50", "ratio_75", "note"]
    lines = [(*row[:4], _unit(row), *(row.ratio or ("", "", "")), row.note) for row in rows]
    written.append(presentation.write_csv(heading, lines, folder / "results.csv"))
    return [*written, *([picture] if picture else [])]


def _picture(rows: Sequence[Row], path: Path) -> Path | None:
    """Time against parameters and leaves, and compile time against leaves."""
    curves = [row for row in rows if row.case.startswith("curve:")]
    one_leaf = [row for row in curves if not row.case.endswith("in all")]
    leaves = [row for row in curves if row.case.endswith("in all")]
    if not one_leaf or not leaves:
        path.unlink(missing_ok=True)
        return None

    def number(position: int) -> Callable[[Row], float]:
        return lambda row: float(row.case.split()[position])

    panels = [
        ("update, one leaf", one_leaf, "update", "parameters", number(3)),
        ("step in place, one leaf", one_leaf, "step in place", "parameters", number(3)),
        ("update, many leaves", leaves, "update", "leaves, a million parameters in all", number(1)),
        ("compile time, many leaves", leaves, "compile", "leaves, a million parameters in all", number(1)),
    ]
    with plt.rc_context(presentation.FONTS):
        figure, axes = plt.subplots(2, 2, figsize=(11, 8))
        for ax, (title, of, measure, label, place) in zip(axes.flat, panels, strict=True):
            _curves(ax, [row for row in of if row.measure == measure], place)
            ax.set(title=title, xlabel=label, ylabel="time / optax.adam's")
        return presentation.finish(
            figure,
            "What the noise costs",
            "Medians, bands between the quartiles; float32; logarithmic axes; noisy_sgd up to 320 leaves. "
            f"{machine()}.",
            path,
            legend_columns=4,
        )


def _curves(ax: Any, rows: Sequence[Row], place: Any) -> None:
    names = list(dict.fromkeys(row.contender for row in rows))
    for (colour, dashes, mark), name in zip(presentation.STYLES, names, strict=False):
        own = [row for row in rows if row.contender == name and row.ratio is not None]
        x = [place(row) for row in own]
        low, median, high = zip(*(row.ratio for row in own if row.ratio), strict=True)
        ax.plot(x, median, color=colour, linestyle=dashes, marker=mark, label=name)
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.set(xscale="log", yscale="log")
    ticks = [1, 2, 5, 10, 20, 50]
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.set_yticks([], minor=True)
    ax.grid(alpha=0.3)
