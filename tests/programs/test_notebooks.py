"""The notebooks: what can be told without running them. Slow: executed as they are, and what they state holds."""

import ast
import copy
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import langevin_optax as lgv

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "examples" / "notebooks"
REPOSITORY = "github.com/langevin-optax/langevin_optax"
OWN = r"github(?:\.com)?/langevin-optax/langevin_optax"

# What the text says, word for word, and the same of the notebook's variables. Seeds trained are given room: other
# hardware rounds differently, and then a seed may end elsewhere.
STATEMENTS = {
    "posterior_and_llc": {
        "The band is narrow where there are data, and wide where there are none": (
            "width[np.abs(grid) < 0.5].mean() > 2 * width[np.abs(np.abs(grid) - 2) < 0.5].mean()"
        ),
        "while its predictions mix well": "rhat < 1.05 and ess > 100",
        "theory (Aoyagi and Watanabe, 2005) counts $\\lambda = 3$": "abs(llc.mean - 3) < 4 * llc.standard_error",
        "With the smallest step the chains are still on their way, and the estimate is too low": (
            "sweep.means[0].max() < 2.5"
        ),
        "the estimate is far too low, too": "sweep.means[:, 2].max() < 1.5",
        "With the largest step and the two smaller pulls the estimates agree with theory": (
            "np.abs(sweep.means[2, :2] - 3).max() < 0.5"
        ),
    },
    "quick_start": {
        "both optimisers learn it": "min(*small_accuracy.values(), nnx_accuracy) > 0.85",
        "That is less than $\\varepsilon = 10^{-8}$": "max(gradient[path] for path in order[::10]) < 1e-8",
        "Adam as it comes stays at chance (.1) in most or all seeds": "trained['Adam'] <= 2",
        "it starts some of them": "trained['Adam, ε = 1e-14'] >= 1",
        "most or all of them start": "min(trained['L-Adam'], trained['LL-Adam 30 %']) >= 4",
        "the shallow one of section 1 is better": "min(small_accuracy.values()) > max(map(np.median, final.values()))",
        "set another key": "reseeded.opt_state[-1].key == jax.random.key(1) != state.opt_state[-1].key",
    },
    "layer_langevin": {
        "sorted, the normalisation comes before the convolution and `Dense_10` before `Dense_2`": (
            "sorted(order)[0] == 'BatchNorm_0' and sorted(order).index('Dense_10') < sorted(order).index('Dense_2')"
        ),
        "these are the convolutions and their normalisation": (
            "sum(rows['0.1']) == 4 and order[:4] == ['Conv_0', 'BatchNorm_0', 'Conv_1', 'BatchNorm_1']"
        ),
        "The noise of the chain is the same with the other sign": (
            "all(np.allclose(c + m, 2 * a, rtol=1e-5) for m, c, a in "
            "zip(*(jax.tree.leaves(step[name]) for name in ('mask=', 'chain', 'adam')), strict=True))"
        ),
        "Layers outside the mask take exactly the step of Adam": (
            "all(min(row[:2]) > 1e-6 and max(row[2:]) == 0 for row in noise.values())"
        ),
        "all shares end within .02 of each other": "np.ptp(mean['2 dense layers']) < 0.02",
        "stays at chance in most or all seeds when there is no noise, or noise on the first 10 %": (
            "max(trained['40 dense layers'][:2]) <= 2"
        ),
        "Noise on the first 30 % starts most of them": "min(trained['40 dense layers'][2:]) >= 3",
    },
    "adlala_spirals": {
        "AdLaLa ends well above Adam on average": "final['AdLaLa'].mean() - final['Adam'].mean() > 0.05",
        "changes the mean accuracies little": "max(abs(of_mean[n].mean() - final[n].mean()) for n in final) < 0.03",
        "Neither has learned all four turns": "max(values.mean() for values in final.values()) < 0.95",
        "begin hotter than $\\tau$ and come down towards it": (
            "all(values[0] > values[-LAST:].mean() > 0.9 * TEMPERATURE for values in temperature.values())"
        ),
        "is higher than the one it started with": "friction[-LAST:].mean() > 0.1",
        "$h\\xi$ is not small": "STEP_SIZE * friction[-LAST:].mean() > 0.5",
    },
}


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def is_install(cell):
    return "install" in cell.metadata.get("tags", [])


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook):
    return [output for cell in code_cells(notebook) for output in merged(cell.outputs)]


def merged(outputs):
    """One message per stream of a cell: into how many its text was split is a matter of time."""
    streams, others = {}, []
    for output in outputs:
        if output.output_type != "stream":
            others.append(output)
        elif output.name in streams:
            streams[output.name].text += output.text
        else:
            streams[output.name] = copy.deepcopy(output)
            others.append(streams[output.name])
    return others


def check_outputs(notebook):
    """Pictures and text, and nothing that a reader should not see."""
    outputs = outputs_of(notebook)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    assert [output for output in outputs if output.get("name") == "stdout"]


def test_every_notebook_is_tested():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(STATEMENTS)


def test_how_streams_are_split_makes_no_difference():
    def stream(name, text):
        return nbformat.v4.new_output("stream", name=name, text=text)

    picture = nbformat.v4.new_output("display_data", data={"image/png": ""})
    whole = [stream("stdout", "one\ntwo\n"), picture, stream("stderr", "three\n")]
    split = [
        stream("stdout", "o"),
        stream("stdout", "ne\n"),
        picture,
        stream("stderr", "three\n"),
        stream("stdout", "two\n"),
    ]
    assert merged(split) == whole == merged(whole)
    assert len(split) == 5 and split[0].text == "o"  # what came is left as it is


def prose(notebook):
    return " ".join(" ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown").split())


@pytest.mark.parametrize("name", STATEMENTS)
def test_its_text_and_its_code_are_of_this_package(name):
    """Cells compile, names exist, links lead somewhere, and what is checked of the text stands there."""
    notebook, text = read(name), prose(read(name))
    assert not [statement for statement in STATEMENTS[name] if statement not in text]
    for check in STATEMENTS[name].values():
        ast.parse(check, mode="eval")
    for cell in code_cells(notebook):
        code = re.sub(r"^(\s*)%.*", r"\1pass", cell.source, flags=re.MULTILINE)
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "langevin_optax":
                assert node.module == "langevin_optax" and all(hasattr(lgv, alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                assert not [a.name for a in node.names if a.name.startswith("langevin_optax.")]
    used = {used for cell in notebook.cells for used in re.findall(r"\blgv\.(\w+)", cell.source)}
    assert used and not [name for name in used if name.startswith("_") or not callable(getattr(lgv, name, None))]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        own = re.fullmatch(rf"https://(?:colab\.research\.google\.com/)?{OWN}/(?:blob|tree)/main/([^#]+)", target)
        if own or "://" not in target:
            assert (ROOT / own[1] if own else NOTEBOOKS / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("name", STATEMENTS)
def test_as_it_lies_in_the_repository(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert [cell.id for cell in notebook.cells] == [
        f"{name.replace('_', '-')}-{i:02d}" for i in range(len(notebook.cells))
    ]
    assert path.stat().st_size < 500_000
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r'"(?:[^"]*\s)?/(?:tmp|work|home|root|usr|opt)/', text)

    title = notebook.cells[0]
    assert title.cell_type == "markdown"
    assert title.source.startswith("# ")
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    target = (
        f"https://colab.research.google.com/{REPOSITORY.replace('github.com', 'github')}/blob/main/examples/notebooks"
    )
    assert f"[![Open In Colab]({badge})]({target}/{name}.ipynb)" in title.source

    install, *others = code_cells(notebook)
    assert is_install(install)
    assert not any(map(is_install, others))
    extras = "flax,sampling" if name == "posterior_and_llc" else "flax"
    assert f'%pip install -q "langevin_optax[{extras}] @ git+https://{REPOSITORY}"' in install.source
    assert 'if importlib.util.find_spec("langevin_optax") is None:' in install.source
    assert not install.outputs
    for cell in others:  # in Colab there is the package, and no clone around it
        assert not re.search(r"^\s*(from|import) (examples|tests|benchmarks)\b", cell.source, re.MULTILINE)

    # Executed from top to bottom.
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(others) + 2))
    assert not any("execution" in cell.metadata for cell in notebook.cells)
    check_outputs(notebook)


@pytest.mark.slow
@pytest.mark.parametrize("name", STATEMENTS)
def test_it_runs_and_its_text_is_true(name, tmp_path):
    notebook = read(name)
    committed = [output.output_type for output in outputs_of(notebook)]
    notebook.cells = [cell for cell in notebook.cells if not is_install(cell)]
    for cell in code_cells(notebook):
        cell.outputs = []
    verdicts = ", ".join(f"{statement!r}: bool({check})" for statement, check in STATEMENTS[name].items())
    notebook.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({{{verdicts}}}))"))

    # As users have it: no settings of this test suite, and none of the machine.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_", "MPL", "PYTEST"))}
    env |= {"IPYTHONDIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=where).execute(env=env)

    check = notebook.cells.pop()
    (said,) = merged(check.outputs)
    verdict = json.loads(said.text)
    assert all(verdict.values()), [statement for statement, holds in verdict.items() if not holds]
    check_outputs(notebook)
    assert [output.output_type for output in outputs_of(notebook)] == committed
