"""The rooms of the package: who imports whom, what is private, and how long a file may be."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "langevin_optax").rglob("*.py"))
OUTSIDE = sorted(file for folder in ("examples", "benchmarks", "docs") for file in (ROOT / folder).rglob("*.py"))
EVERYTHING = [*PACKAGE, *OUTSIDE, *sorted((ROOT / "tests").rglob("*.py"))]


# Tests may look into the room whose tests they are; these look into another.
INSIDERS = {"tests.package.test_guard", "tests.optimizers.test_langevin"}


def imports(file):
    """Full names of what a file imports, wherever in it: `from a.b import c` is a.b.c."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def rooms_that(room):
    """The rooms and files of the package from which a room imports."""
    found = set()
    for file in PACKAGE:
        if module(file).startswith(f"langevin_optax.{room}"):
            found |= {name.split(".")[1] for name in imports(file) if name.startswith("langevin_optax.")}
    return found - {room}


# A room may import from those before it. Layers and noise know nothing of each other.
SHARED = {"_types", "_checks", "_trees", "_mesh"}
MAY_IMPORT = {
    "_types": set(),
    "_checks": set(),
    "_trees": set(),
    "_mesh": set(),
    "noise": SHARED,
    "layers": SHARED,
    "preconditioners": SHARED,
    "integrators": {*SHARED, "noise", "layers"},
    "optimizers": {*SHARED, "noise", "layers", "preconditioners"},
    "sampling": {*SHARED, "noise", "layers", "preconditioners", "optimizers", "integrators"},
}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_from_these_rooms_only(room):
    assert rooms_that(room) <= MAY_IMPORT[room]


def test_every_room_has_its_rule():
    top = {file.relative_to(ROOT / "langevin_optax").parts[0].removesuffix(".py") for file in PACKAGE}
    assert top - {"__init__"} == {*MAY_IMPORT}


def test_the_marks_are_known_to_one_file_alone():
    """One file marks and reads. The engine hands P on as a local variable."""
    marks = "langevin_optax.preconditioners._marks"
    users = {module(file) for file in PACKAGE if any(name.startswith(marks) for name in imports(file))}
    assert users == {"langevin_optax.preconditioners._publish"}


@pytest.mark.parametrize("file", EVERYTHING, ids=module)
def test_nothing_private_of_others_is_imported(file):
    for name in imports(file):
        assert not re.match(r"(jax|optax|flax|orbax|chex)\._src", name), name
        if re.search(r"^langevin_optax(\.\w+)*\._", name):
            assert file in PACKAGE or module(file).split(".")[1] == name.split(".")[1] or module(file) in INSIDERS, name
    if file in OUTSIDE:
        assert not re.search(r"\b(lgv|langevin_optax)(\.\w+)*\._[a-z]", file.read_text())


@pytest.mark.parametrize("file", PACKAGE, ids=module)
def test_no_file_is_long_and_each_says_what_it_holds(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 250
    first = ast.get_docstring(ast.parse(text)).split("\n")[0]
    assert (first and first[0].isupper()) or first[0] in "`σ", first


def test_no_list_of_states():
    """`fold_in` and `kinetic_temperature` find states by what these declare: each class stays where it lives."""
    for name in ("LangevinState", "BaoabState", "AdaptiveLangevinState"):
        users = {module(file) for file in PACKAGE if re.search(rf"import .*\b{name}\b", file.read_text())}
        optimizers = {f"optimizers.{file}" for file in ("_term", "_engine", "_matrix")}
        allowed = {"LangevinState": {*optimizers, "integrators._overdamped"}}
        assert users - {"langevin_optax"} <= {f"langevin_optax.{user}" for user in allowed.get(name, ())}
