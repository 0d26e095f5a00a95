"""The ledger examples/REPRODUCTION.md: its commands parse, and its figures are those of the files of results."""

import csv
import re
import shlex
from pathlib import Path

import pytest

from examples.control import __main__ as control
from examples.image_classification import flags
from examples.image_classification.report import signed
from examples.presentation import short

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "examples" / "REPRODUCTION.md"
TEXT = LEDGER.read_text(encoding="utf-8")
PAGES = {page.name: page.read_text(encoding="utf-8") for page in (LEDGER, ROOT / "README.md")}
COMMANDS = re.findall(r"python -m (examples\.\w+)((?: (?:\\\n\s*)?[^\s`|]+)*)", TEXT)
# A table under a line that names the file that it is of.
TABLES = [
    (file, table.splitlines())
    for text in PAGES.values()
    for file, table in re.findall(r"\]\(((?:examples/)?results/\S+/summary\.csv)\)[^|]*?\n\n((?:\|.*\|\n)+)", text)
]


def test_there_are_commands_and_tables():
    assert len(COMMANDS) >= 8
    assert len(TABLES) >= 4
    assert len(SMALL) == 4


@pytest.mark.parametrize(("program", "argv"), COMMANDS, ids=[f"{i}" for i in range(len(COMMANDS))])
def test_the_commands_parse(program, argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = shlex.split(argv.replace("\\\n", " "))
    if program == "examples.image_classification":
        options = flags.parse(given)
        assert options.methods and options.depths
    else:
        assert program == "examples.control"
        control.parse(given)


@pytest.mark.parametrize(("file", "table"), TABLES, ids=[f"{i}-{file}" for i, (file, _) in enumerate(TABLES)])
def test_the_figures_are_those_of_the_results(file, table):
    with (LEDGER.parent / file.removeprefix("examples/")).open(encoding="utf-8") as rows:
        cells = {(row["method"], row["depth"]): (cell(row), difference(row)) for row in csv.DictReader(rows)}
    heading, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    depths = [column.split()[0] for column in heading[1:]]
    assert body
    for name, *figures in body:
        for depth, figure in zip(depths, figures, strict=True):
            assert any(equal(figure.replace("**", ""), cell) for cell in cells[name.replace("**", ""), depth])


SMALL = re.findall(r"^\| \[.+\]\((results/\S+/summary\.csv)\) \| (\d+) \| (.+) \| (.+) \| (.+) \|$", TEXT, re.M)


@pytest.mark.parametrize(("file", "seeds", "plain", "noisy", "by"), SMALL, ids=[file for file, *_ in SMALL])
def test_the_figures_of_one_network_in_a_row(file, seeds, plain, noisy, by):
    with (LEDGER.parent / file).open(encoding="utf-8") as rows:
        first, second = csv.DictReader(rows)
    assert first["seeds"] == second["seeds"] == first["trained"] == second["trained"] == seeds
    assert all(equal(figure, cell(row).split(")")[0] + ")") for figure, row in ((plain, first), (noisy, second)))
    assert equal(by, difference(second) if int(seeds) > 2 else difference(second).split()[0])


def equal(figure, cell):
    """Up to the third place, to which a median halfway between two thousandths is rounded either way."""
    numbers = r"\d*\.\d+"
    if re.sub(numbers, "", figure) != re.sub(numbers, "", cell):
        return False
    ours, theirs = ([*map(float, re.findall(numbers, text))] for text in (figure, cell))
    return ours == pytest.approx(theirs, abs=1.1e-3)


def cell(row):
    median, worst, best = (short(float(row[f"final_{what}"])) for what in ("median", "worst", "best"))
    diverged = f", {row['diverged']} diverged" if int(row["diverged"]) else ""
    return f"{median} ({worst} to {best}) {row['trained']}/{row['seeds']}{diverged}"


def difference(row):
    """From the strongest plain optimiser, with its interval."""
    mean, low, high = (row[key] and signed(float(row[key])) for key in ("difference", "low", "high"))
    return f"{mean} [{low}, {high}]"
