"""The example examples/posterior: what it writes, and its scores against values by hand."""

import csv
import math

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from scipy import stats

from examples.posterior import __main__ as program
from examples.posterior import compare, methods, problems, report, scores
from examples.posterior.methods import METHODS
from examples.posterior.scores import Scores

SETS = "gap", "diabetes", "breast cancer", "digits"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning:arviz")
def test_the_program_has_every_method_on_every_set(tmp_path, capsys):
    program.main(["--quick", "--output", str(tmp_path)])
    printed, text = capsys.readouterr().out, (tmp_path / "results.md").read_text(encoding="utf-8")
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = [
        (name, method)
        for name in SETS
        for method in (
            "Point estimate",
            "Deep ensemble",
            *(method.name for method in METHODS if name in method.step_sizes),
            *(["NUTS"] if name == "gap" else []),
        )
    ]
    assert [(row["problem"], row["method"]) for row in rows] == expected
    for row in rows:
        assert row["method"] in printed and row["method"] in text
        needed = {"width in the gap"} if row["problem"] == "gap" else {"accuracy or RMSE", "log score", "gain"}
        if row["method"] not in ("Point estimate", "Deep ensemble", "NUTS"):
            needed |= {"median R-hat", "largest R-hat", "median ESS", "least ESS"}
        assert all(math.isfinite(float(row[name])) for name in needed)
    with (tmp_path / "llc.csv").open(encoding="utf-8") as file:
        learning = list(csv.DictReader(file))
    assert len(learning) == 3 and all(math.isfinite(float(cell)) for row in learning for cell in row.values())
    for name in ("bands", "gains", "llc"):
        picture = matplotlib.image.imread(tmp_path / f"{name}.png")
        assert min(picture.shape[:2]) > 500 and picture.std() > 0.05
    with pytest.raises(SystemExit, match="choose another --output"):
        program.main(["--output", str(tmp_path)])


def test_the_calibration_error_by_hand():
    """Two right of confidence .95, one wrong of .65 and one right of .6: |2 − 1.9|/4 + |1 − 1.25|/4."""
    first = np.array([0.95, 0.95, 0.65, 0.6])
    probabilities, y = np.stack([first, 1 - first], 1), np.array([0, 0, 1, 0])
    assert scores.expected_calibration_error(probabilities, y) == pytest.approx(0.1 / 4 + 0.25 / 4)
    assert scores.expected_calibration_error(np.eye(2), np.array([0, 1])) == 0


def test_the_coverage_by_hand():
    """One normal: ±1.645 noise; two far apart: each target has half of the mass below it, or a quarter at a mean."""
    targets = np.array([-1.7, -1.6, 0, 1.6, 1.7])
    assert scores.coverage(np.zeros((1, 5)), 1.0, targets) == pytest.approx(3 / 5)
    assert scores.coverage(np.zeros((1, 5)), 2.0, 2 * targets) == pytest.approx(3 / 5)
    apart = np.array([[-100.0] * 3, [100.0] * 3])
    assert scores.coverage(apart, 1.0, np.array([-100.0, 0.0, -102.0])) == pytest.approx(2 / 3)


def test_scores_of_draws_by_hand():
    regression = problems.gap()._replace(test_y=jnp.array([0.0, 1.0]), noise=0.5)
    draws = np.array([[0.0, 1.0], [1.0, 1.0]])
    found = scores.scores(regression, draws)
    densities = stats.norm.pdf([[0, 0], [1, 0]], scale=0.5)
    assert found.main == pytest.approx(np.sqrt(0.25 / 2)) and found.calibration_error is None
    np.testing.assert_allclose(found.log_scores, np.log(densities.mean(0)), rtol=1e-6)
    classes = problems.gap()._replace(test_y=jnp.array([1]), noise=None)
    found = scores.scores(classes, np.log([[[0.8, 0.2]], [[0.4, 0.6]]]))
    assert (found.main, found.coverage) == (0, None)
    np.testing.assert_allclose(found.log_scores, np.log([0.4]), rtol=1e-6)


def test_chains_that_agree_and_chains_that_do_not():
    draws = np.random.default_rng(0).normal(size=(4, 500, 2))
    draws[0, :, 1] += 3
    (agree, differ), (many, few) = scores.convergence(draws)
    assert agree < 1.02 and differ > 1.3 and many > 1000 > 100 > few


def test_the_gain_is_paired_over_examples():
    def outcome(name, log_scores):
        return compare.Outcome(
            "set", name, None, 1, Scores(0.0, np.array(log_scores), 0.0, None), np.zeros((3, 0)), None, None
        )

    point, other = outcome(compare.POINT, [-1.0, -9.0]), outcome("other", [-0.5, -8.3])
    gain, error = report.gain_over_point(other, [point, other])
    assert gain == pytest.approx(0.6) and error == pytest.approx(0.1)


@pytest.mark.slow
def test_chains_start_at_members_and_have_noise_of_their_own(one_device):
    problem = problems.gap()
    starts = jax.vmap(problem.from_the_prior)(jax.random.split(jax.random.key(0), 2))
    still = METHODS[0]._replace(step_sizes={"gap": 1e-12})
    draws = methods.chains(problem, still, starts, 4, 1).draws
    np.testing.assert_allclose(draws[:, 0], jax.vmap(problem.predict)(starts), atol=1e-3)
    same = jax.tree.map(lambda leaf: jnp.stack([leaf[0]] * 2), starts)
    draws = methods.chains(problem, METHODS[0], same, 4, 1).draws
    assert np.abs(draws[0] - draws[1]).max() > 1e-4


def test_a_folder_that_cannot_be(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        program.main(["--output", str(tmp_path / "file")])
    assert stop.value.code == 2 and "--output: cannot make the folder" in capsys.readouterr().err
