"""The table, the machine it was made on, and the picture."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt

from benchmarks import timing
from benchmarks.measures import Row
from benchmarks.samplers import Statistics
from examples import presentation

HEADING = ["measure", "case", "contender", "value", "against optax.adam (quartiles)"]
PACKAGES = ["jax", "jaxlib", "optax", "flax", "langevin_optax", "blackjax", "sgmcmcjax", "posteriors", "torch"]


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
    in_bytes = row.measure in ("state", "temporary memory")
    value = f"{row.value:,.0f} bytes" if in_bytes else _seconds(row.value)
    return [row.measure, row.case, row.contender, value, "; ".join(filter(None, [_ratio(row.ratio), row.note]))]


def _seconds(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _ratio(ratio: timing.Quartiles | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio.median:.2f}" + (f" ({ratio.low:.2f} to {ratio.high:.2f})" if ratio.low < ratio.high else "")


def line(row: Row) -> str:
    """A row as text, for a table that is printed as it grows."""
    widths = (16, 42, 36, 20, 0)
    return "  ".join(cell.ljust(width) for cell, width in zip(cells(row), widths, strict=True)).rstrip()


def statistics_table(found: Sequence[Statistics]) -> list[list[str]]:
    heading = ["sampler", "mean", "variance", "E ξ³", "E ξ⁴", "share beyond ±4 (N(0, 1): 1)", "largest"]
    rows = [[s.name, *(f"{x:.4f}" for x in s[1:5]), f"{s.beyond_4:.2f}", f"{s.largest:.2f}"] for s in found]
    return [heading, *rows]


def write(
    rows: Sequence[Row], statistics: Sequence[Statistics], entries: int, command: str, folder: Path
) -> list[Path]:
    """Write the table as Markdown and CSV, and the picture if the curves were measured."""
    folder.mkdir(parents=True, exist_ok=True)
    text = [f"`{command}`, on {machine()}.", presentation.as_markdown([HEADING, *map(cells, rows)])]
    if statistics:
        text.append(f"Statistics of {entries:,} draws of each sampler:")
        text.append(presentation.as_markdown(statistics_table(statistics)))
    written = [folder / "results.md"]
    written[0].write_text("\n\n".join(text) + "\n", encoding="utf-8")
    heading = ["measure", "case", "contender", "value", "ratio_25", "ratio_50", "ratio_75", "note"]
    lines = [(*row[:4], *(row.ratio or ("", "", "")), row.note) for row in rows]
    written.append(presentation.write_csv(heading, lines, folder / "results.csv"))
    picture = _picture(rows, folder)
    return [*written, *([picture] if picture else [])]


def _picture(rows: Sequence[Row], folder: Path) -> Path | None:
    """Time against parameters and leaves, and compile time against leaves."""
    one_leaf = [row for row in rows if row.case.startswith("1 leaf,") and row.case.endswith("parameters")]
    leaves = [row for row in rows if row.case.endswith("leaves, 1e+06 parameters")]
    if not one_leaf or not leaves:
        return None
    panels = [
        (one_leaf, "update", "parameters, in one leaf", lambda row: float(row.case.split()[2])),
        (one_leaf, "step in place", "parameters, in one leaf", lambda row: float(row.case.split()[2])),
        (leaves, "update", "leaves of one million parameters", lambda row: float(row.case.split()[0])),
        (leaves, "compile", "leaves of one million parameters", lambda row: float(row.case.split()[0])),
    ]
    with plt.rc_context(presentation.FONTS):
        figure, axes = plt.subplots(2, 2, figsize=(11, 8))
        for ax, (of, measure, label, place) in zip(axes.flat, panels, strict=True):
            _curves(ax, [row for row in of if row.measure == measure], place)
            ax.set(title=measure, xlabel=label, ylabel="time against optax.adam")
        return presentation.finish(
            figure,
            "What the noise costs",
            f"Medians, bands between the quartiles; float32; logarithmic axes; {machine()}.",
            folder / "cost.png",
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
