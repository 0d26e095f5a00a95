"""What the package shows to the world: documented exports, stock signatures, a README whose code runs."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import optax
import pytest

import langevin_optax as lgv
from tests.cases import EPS, INTEGRATORS, OPTIMIZERS, SCALERS

ROOT = Path(__file__).parents[2]
PUBLIC = sorted(name for name in vars(lgv) if not name.startswith("_"))
FUNCTIONS = [name for name in PUBLIC if inspect.isfunction(getattr(lgv, name))]
ARGUMENTS = ("step_size", "temperature", "key")
README = (ROOT / "README.md").read_text()


def test_the_exports():
    assert set(PUBLIC) == {
        *("LangevinState", "add_langevin_noise", "add_preconditioned_noise", "with_preconditioner", "noise_like"),
        *("layer_mask", "layer_order", "inverse_sqrt_log_schedule", "fold_in"),
        *("AdaptiveLangevinState", "BaoabState", "partitioned", "kinetic_temperature"),
        *{integrator.name for integrator in INTEGRATORS},
        *{optimizer.name for optimizer in OPTIMIZERS},
        *{scaler.name for scaler in SCALERS},
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_documented(name):
    function = getattr(lgv, name)
    doc = inspect.getdoc(function)
    for section in ("Returns:", "Raises:", "Example:", "References:", ">>> import langevin_optax as lgv"):
        assert section in doc, section
    # Every argument stands in the section of arguments.
    arguments = doc.split("Args:")[-1].split("Returns:")[0]
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"\b{parameter}\b", arguments) or f"*{parameter}" in arguments, parameter


@pytest.mark.parametrize("name", sorted({optimizer.name for optimizer in OPTIMIZERS}))
def test_optimisers_have_the_arguments_of_optax(name):
    ours = inspect.signature(getattr(lgv, name)).parameters
    stock = dict(inspect.signature(getattr(optax, name)).parameters)
    assert list(ours)[:3] == ["learning_rate", "sigma", "key"]
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


@pytest.mark.parametrize("name", sorted({scaler.name for scaler in SCALERS}))
def test_scalers_have_the_arguments_of_optax(name):
    ours, stock = (inspect.signature(getattr(package, name)).parameters for package in (lgv, optax))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [(p.name, p.kind, p.default) for p in stock.values()]


# The integrators as they are called, each with its defaults.
def overdamped_langevin(step_size, temperature, key, *, scheme="euler"): ...
def baoab(step_size, temperature, friction, key): ...
def adaptive_langevin(step_size, temperature, sigma, coupling, key, *, initial_thermostat=0.1): ...
def partitioned(first, rest, layers=1, order=None): ...
def adlala(step_size, key, *, temperature, sigma, coupling, friction, rest_temperature=None, layers=1, order=None): ...
def lol(step_size, key, *, temperature, friction, rest_temperature=None, layers=1, order=None): ...
def lala(step_size, key, *, temperature, friction, rest_temperature=None, rest_friction=None, layers=1, order=None): ...
def kinetic_temperature(state): ...


@pytest.mark.parametrize(
    "function",
    [overdamped_langevin, baoab, adaptive_langevin, partitioned, adlala, lol, lala, kinetic_temperature],
    ids=lambda function: function.__name__,
)
def test_integrators_have_these_arguments(function):
    ours, expected = (inspect.signature(f).parameters for f in (getattr(lgv, function.__name__), function))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in expected.values()
    ]


@pytest.mark.parametrize("integrator", INTEGRATORS, ids=lambda integrator: integrator.id)
def test_integrators_are_the_transformations_of_optax(integrator):
    assert isinstance(integrator.langevin(), optax.GradientTransformationExtraArgs)
    step_size, temperature, key = (inspect.signature(getattr(lgv, integrator.name)).parameters[p] for p in ARGUMENTS)
    assert step_size.default == temperature.default == key.default == inspect.Parameter.empty


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.S), ids=lambda code: code.split("\n")[0])
def test_the_code_of_the_readme_runs(code):
    exec(compile(code, "README.md", "exec"), {})


def test_the_files_that_the_readme_names_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_neither_flax_nor_anything_private_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, langevin_optax; print('flax' in sys.modules, 'orbax' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]
    for file in (ROOT / "langevin_optax").glob("*.py"):
        assert not re.search(r"(jax|optax|flax)\._src", file.read_text()), file
