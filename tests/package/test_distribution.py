"""What users get: the sdist and the wheel, in an environment of their own, with types, on the versions admitted."""

import email
import inspect
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import langevin_optax as lgv

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PROGRAM = ROOT / "tests" / "typed_user.py"
WRONG = ROOT / "tests" / "typed_user_wrong.py"


def run(*command, cwd, expected=0):
    """The output of a command that sees nothing of the repository."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout


def build(hook, source, target):
    code = f"import sys, hatchling.build; print(hatchling.build.{hook}(sys.argv[1]))"
    return target / run(sys.executable, "-c", code, target, cwd=source).split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return build("build_sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist):
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    return sdist.parent / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory):
    return build("build_wheel", unpacked, tmp_path_factory.mktemp("wheel"))


class Environment:
    """A new virtual environment, into which the pip of this one installs."""

    def __init__(self, folder):
        venv.create(folder, symlinks=os.name != "nt")
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.site = Path(self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())

    def run(self, *arguments):
        return run(self.python, "-I", *arguments, cwd=self.folder)

    def install(self, *arguments):
        pip = (sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check")
        run(*pip, "install", "--no-cache-dir", *arguments, cwd=self.folder)

    def check(self):
        """It holds the package, not that of the repository, no Flax, and a user's program runs in it."""
        assert self.run("-c", "import importlib.util as u; print(u.find_spec('flax'))").strip() == "None"
        assert Path(self.run("-W", "error", PROGRAM).strip()) == self.site / "langevin_optax" / "__init__.py"


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The wheel in an empty environment, which has JAX, Optax and all that these need by links."""
    environment = Environment(tmp_path_factory.mktemp("environment"))
    for name in needed_by("jax", "optax"):
        files = metadata.distribution(name).files
        for entry in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            (environment.site / entry).symlink_to(metadata.distribution(name).locate_file(entry))
    environment.install("--no-index", wheel)  # pip refuses if a dependency is not there
    return environment


def needed_by(*names):
    found = set()
    todo = [*names]
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            requirements = map(Requirement, metadata.requires(name) or [])
            todo += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def files_in(*folders):
    files = [file.relative_to(ROOT) for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    return {file.as_posix() for file in files if not {"__pycache__", "_build"} & {*file.parts}}


def test_the_sdist(unpacked):
    names = {file.relative_to(unpacked).as_posix() for file in unpacked.rglob("*") if file.is_file()}
    assert names == {
        *files_in("langevin_optax", "tests", "examples", "benchmarks", "docs"),
        *("README.md", "CHANGELOG.md", "RELEASING.md", "CITATION.cff", "LICENSE"),
        *("Makefile", "pyproject.toml", "hatch_build.py"),
        *(".gitignore", "PKG-INFO"),  # the backend's
    }
    for page in unpacked.rglob("*.md"):
        text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)#:]+)[)#]", text):
            assert (page.parent / target).exists(), (page, target)


def test_the_wheel(wheel):
    about = f"langevin_optax-{lgv.__version__}.dist-info"
    package = files_in("langevin_optax")
    assert "langevin_optax/py.typed" in package
    with zipfile.ZipFile(wheel) as archive:
        read = {name: archive.read(name) for name in archive.namelist()}
    assert set(read) == {*package, *(f"{about}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE"))}
    for name in package:
        assert read[name] == (ROOT / name).read_bytes()
    assert read[f"{about}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert wheel.name == f"langevin_optax-{lgv.__version__}-py3-none-any.whl"

    fields = email.message_from_bytes(read[f"{about}/METADATA"])
    assert (fields["Name"], fields["Version"]) == ("langevin_optax", lgv.__version__)
    assert fields["Requires-Python"] == ">=3.11"
    assert (fields["License-Expression"], fields["License-File"]) == ("Apache-2.0", "LICENSE")
    assert "Typing :: Typed" in fields.get_all("Classifier")
    assert set(fields.get_all("Provides-Extra")) == set(EXTRAS)
    needed = [Requirement(field) for field in fields.get_all("Requires-Dist")]
    runtime = {r for r in needed if r.marker is None}
    assert runtime == {*map(Requirement, PROJECT["dependencies"])}
    assert {r.name for r in runtime} == {"jax", "optax"}
    check_description(fields.get_payload(decode=True).decode())


def check_description(text):
    """The README, but that links to files of the repository are addresses, which work on the package index."""
    repository = re.escape(PROJECT["urls"]["Repository"])
    targets = re.findall(rf"{repository}/(?:blob|raw)/main/([^)]+)", text)
    assert targets and all((ROOT / target.partition("#")[0]).exists() for target in targets)
    assert not re.findall(r"\]\((?!https://|#)[^)]*\)", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S))
    relative = re.sub(rf"\({repository}/(?:blob|raw)/main/", "(", text)
    assert relative == (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_in_an_empty_environment(environment):
    environment.check()


@pytest.mark.slow
def test_the_types_of_a_user(environment, tmp_path):
    """Optax has no `py.typed`: a user who wants its types tells the type checker to follow it."""
    for file in (PROGRAM, WRONG):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-optax.*]\nfollow_untyped_imports = true\n")
    mypy = (sys.executable, "-m", "mypy", "--strict", "--config-file", "mypy.ini", "--python-executable")
    report = run(*mypy, environment.python, PROGRAM.name, WRONG.name, cwd=tmp_path, expected=1)

    lines = enumerate(WRONG.read_text().splitlines(), start=1)
    expected = {(WRONG.name, str(i), code) for i, line in lines for code in re.findall(r"# error: ([\w-]+)$", line)}
    errors = re.findall(r"^((.+?):(\d+): error: .*\[([\w-]+)\])$", report, re.MULTILINE)
    found = {(name, line, code): message for message, name, line, code in errors}
    assert len(expected) > 30
    assert [message for place, message in found.items() if place not in expected] == []
    assert expected - set(found) == set()


def test_the_types_of_every_public_function_are_tested():
    functions = {name for name, value in vars(lgv).items() if inspect.isroutine(value)}
    assert functions <= set(re.findall(r"\blgv\.(\w+)\(", PROGRAM.read_text()))


def test_the_oldest_versions_are_the_lower_bounds():
    bounds = [Requirement(r) for r in (*PROJECT["dependencies"], *EXTRAS["flax"])]
    oldest = [Requirement(line) for line in (ROOT / "tests" / "oldest.txt").read_text().splitlines() if line[:1] != "#"]
    lower = {r.name: Version(s.version) for r in bounds for s in r.specifier if s.operator == ">="}
    pinned = {r.name: Version(s.version) for r in oldest for s in r.specifier if s.operator == "=="}
    assert pinned == {**lower, "jaxlib": lower["jax"]}
    assert len(oldest) == 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_with_its_dependencies_in_an_empty_environment(kind, request):
    """As `pip install` does it: dependencies, and what builds the sdist, come from the package index."""
    with tempfile.TemporaryDirectory() as folder:  # half a gigabyte, which pytest would keep
        environment = Environment(Path(folder))
        environment.install(request.getfixturevalue(kind))
        environment.check()
