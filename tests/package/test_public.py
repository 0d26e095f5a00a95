"""What the package shows to the world: documented exports, stock signatures, a README whose code runs."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import optax
import pytest

import langevin_optax as lgv
from langevin_optax import sampling
from tests.cases import EPS, INTEGRATORS, MATRICES, OPTIMIZERS, SCALERS

ROOT = Path(__file__).parents[2]
PUBLIC = sorted(name for name in vars(lgv) if not name.startswith("_"))
SAMPLING = sorted(name for name in vars(sampling) if not name.startswith("_"))
FUNCTIONS = [
    pytest.param(room, name, id=name)
    for room, names in ((lgv, PUBLIC), (sampling, SAMPLING))
    for name in names
    if inspect.isfunction(getattr(room, name))
]
ARGUMENTS = ("step_size", "temperature", "key")
README = (ROOT / "README.md").read_text()
ROOMS = {"noise", "preconditioners", "optimizers", "layers", "integrators", "sampling"}
STOCK_ARGUMENTS = {"identity", "trace", *(scaler.name for scaler in SCALERS)}


def test_the_exports():
    assert set(PUBLIC) - ROOMS == {
        *("LangevinState", "add_langevin_noise", "add_preconditioned_noise", "with_preconditioner", "noise_like"),
        *("layer_mask", "layer_order", "inverse_sqrt_log_schedule", "fold_in", "langevin", "trace", "identity"),
        *("AdaptiveLangevinState", "BaoabState", "partitioned", "kinetic_temperature"),
        *{integrator.name for integrator in INTEGRATORS},
        *{optimizer.name for optimizer in OPTIMIZERS},
        *{scaler.name for scaler in SCALERS},
        *("Kronecker", "Rotated", "input_covariances", "freeze_preconditioner", "add_localization"),
        "kfac_preconditioner",
        *(name for row in MATRICES for name in (row.name, f"scale_by_{row.name}")),
    }


def test_the_exports_of_sampling():
    assert set(SAMPLING) == {
        *("sample", "Samples", "SamplerState", "moments", "MomentsState", "mean_and_variance"),
        *("snapshots", "SnapshotsState", "snapshots_of", "cyclical_schedules", "tempered_posterior", "Posterior"),
        *("with_metrics", "metrics", "Metrics", "MetricsState", "from_optax", "to_optax", "control_variate"),
        *("configurational_temperature", "local_learning_coefficient", "LLC"),
        *("llc_along_training", "llc_sweep", "LLCSweep"),
    }


@pytest.mark.parametrize(("room", "name"), FUNCTIONS)
def test_every_function_is_documented(room, name):
    """An equation or a first sentence, and every argument; an example once per family, which the doctests run."""
    function = getattr(room, name)
    doc = inspect.getdoc(function)
    assert len(doc.split("\n\n")) > 1
    arguments = doc.split("Args:")[-1].split("Returns:")[0] if "Args:" in doc else doc
    parameters = [*inspect.signature(function).parameters]
    if "The other arguments, errors" in doc:
        parameters = [
            p for p in parameters if p not in inspect.signature(sampling.local_learning_coefficient).parameters
        ]
    if name in STOCK_ARGUMENTS:
        assert f"arguments are those of ``optax.{name}``" in " ".join(doc.split()) or not parameters
        return
    for parameter in parameters:
        assert re.search(rf"^\s*(\*|\w+, )*{parameter}[,:]|, {parameter}[,:]", arguments, re.M) or re.search(
            rf"^\s*\*+{parameter}:", arguments, re.M
        ), parameter


@pytest.mark.parametrize("name", sorted({optimizer.name for optimizer in OPTIMIZERS}))
def test_optimisers_have_the_arguments_of_optax(name):
    ours = inspect.signature(getattr(lgv, name)).parameters
    stock = dict(inspect.signature(getattr(optax, name)).parameters)
    assert list(ours)[:3] == ["learning_rate", "sigma", "key"]
    required = [p for p in ours if ours[p].default is inspect.Parameter.empty]
    assert required == ([] if name == "adadelta" else ["learning_rate", "sigma", "key"])
    if name == "adamw":
        stock["weight_decay_mask"] = stock.pop("mask")
    for parameter, theirs in stock.items():
        if parameter == "learning_rate":
            continue
        assert ours[parameter].kind == theirs.kind
        assert ours[parameter].default == (EPS[name] if parameter == "eps" and name in EPS else theirs.default)
    assert set(ours) == {*stock, "sigma", "key", "mask", "sampler", "max_noise"}
    assert ours["mask"].default is None
    assert ours["sampler"].default == "normal"
    assert ours["max_noise"].default is None


@pytest.mark.parametrize("name", sorted(STOCK_ARGUMENTS))
def test_scalers_have_the_arguments_of_optax(name):
    ours, stock = (inspect.signature(getattr(package, name)).parameters for package in (lgv, optax))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [(p.name, p.kind, p.default) for p in stock.values()]


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda integrator: integrator.id)
def test_integrators_are_the_transformations_of_optax(integrator):
    assert isinstance(integrator.langevin(), optax.GradientTransformationExtraArgs)
    step_size, temperature, key = (inspect.signature(getattr(lgv, integrator.name)).parameters[p] for p in ARGUMENTS)
    assert step_size.default == temperature.default == key.default == inspect.Parameter.empty


OFTEN = ("README", "quick_start")  # the code of the others runs with -m slow
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "api").glob("*.md"))]
CODE = [(page, code) for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)]


@pytest.mark.parametrize(
    ("page", "code"),
    [
        pytest.param(page, code, id=f"{page.stem}-{i}", marks=() if page.stem in OFTEN else pytest.mark.slow)
        for i, (page, code) in enumerate(CODE)
    ],
)
def test_the_code_of_the_pages_runs(page, code):
    exec(compile(code, page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_the_files_and_headings_that_a_page_names_exist(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.S)
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        file = page.parent / target if target else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, heading


def test_neither_flax_nor_orbax_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, langevin_optax; print('flax' in sys.modules, 'orbax' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]
