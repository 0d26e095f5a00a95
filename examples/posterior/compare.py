"""Every method on every problem: what came out."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from examples.posterior import llc, methods, problems
from examples.posterior.methods import METHODS, Method
from examples.posterior.problems import Problem
from examples.posterior.scores import Scores, convergence, log_likelihoods, scores
from examples.presentation import Bar

POINT, ENSEMBLE, NUTS = "Point estimate", "Deep ensemble", "NUTS"


class Sizes(NamedTuple):
    """How much is done of everything."""

    chains: int = 4  # and members of the ensemble
    adam: int = 3000  # steps
    draws: int = 500  # of a chain
    nuts: int = 400  # draws of a chain, after as many steps to adapt
    thin: dict[str, int] = {"gap": 100, "diabetes": 40, "breast cancer": 40, "digits": 30}  # noqa: RUF012
    llc: tuple[int, int, int] = (3000, 14, 500)  # steps of the training, checkpoints, draws


FULL = Sizes()
QUICK = Sizes(2, 20, 20, 20, dict.fromkeys(FULL.thin, 2), (30, 3, 10))


class Outcome(NamedTuple):
    problem: str
    method: str
    step_size: float | None
    steps: int
    scores: Scores
    band: np.ndarray  # the quantiles 5 %, 50 % and 95 % of the mean of a regression, or nothing
    r_hat: np.ndarray | None  # of each test example, as the sample size
    ess: np.ndarray | None


def run(sizes: Sizes) -> tuple[list[Outcome], llc.Result]:
    found = [problems.gap(), problems.diabetes(), problems.breast_cancer(), problems.digits()]
    # One more than cores: Python traces one program while XLA compiles others.
    with ThreadPoolExecutor(max_workers=1 + (os.cpu_count() or 1)) as threads:
        ensembles = {p.name: threads.submit(methods.ensemble, p, sizes.chains, sizes.adam) for p in found}
        jobs = [_job(problem, method, ensembles[problem.name].result, sizes) for problem, method in _plan(found)]
        with Bar(total=len(jobs) + 1) as bar:

            def done(name: str, function: Callable[[], Any]) -> Any:
                result = function()
                bar.set_description_str(name, refresh=False)
                bar.update(1)
                return result

            coefficients = threads.submit(done, "learning coefficient", lambda: llc.run(*sizes.llc))
            outcomes = [*threads.map(lambda job: done(*job), reversed(jobs))][::-1]  # the longest first
            return [outcome for group in outcomes for outcome in group], coefficients.result()


def _plan(found: Sequence[Problem]) -> list[tuple[Problem, Method | str]]:
    """In the order of the tables."""
    plan: list[tuple[Problem, Method | str]] = []
    for problem in found:
        plan += [(problem, ENSEMBLE), *((problem, method) for method in METHODS if problem.name in method.step_sizes)]
    return [*plan[:4], (found[0], NUTS), *plan[4:]]


def _job(problem: Problem, method: Method | str, starts: Callable[[], Any], sizes: Sizes) -> Any:
    """What the bar calls it, and a function that returns outcomes."""

    def work() -> list[Outcome]:
        if method == ENSEMBLE:
            return _of_ensemble(problem, np.asarray(jax.vmap(problem.predict)(starts())), sizes.adam)
        if isinstance(method, Method):
            draws = np.asarray(methods.chains(problem, method, starts(), sizes.draws, sizes.thin[problem.name]).draws)
            steps = methods.steps(method, sizes.draws, sizes.thin[problem.name])
            return [_of_chains(problem, method.name, method.step_sizes[problem.name], steps, draws)]
        return [
            _of_chains(problem, NUTS, None, 2 * sizes.nuts, np.asarray(methods.nuts(problem, starts(), sizes.nuts)))
        ]

    return f"{problem.name}, {method.name if isinstance(method, Method) else method}", work


def _of_ensemble(problem: Problem, members: np.ndarray, steps: int) -> list[Outcome]:
    """Of the members one by one, averaged, and of all together."""
    single = [scores(problem, member[None]) for member in members]
    average: Any = (None if x[0] is None else np.mean(x, axis=0) for x in zip(*single, strict=True))
    together = scores(problem, members)
    return [
        Outcome(problem.name, POINT, methods.ADAM, steps, Scores(*average), _band(problem, members[:1]), None, None),
        Outcome(problem.name, ENSEMBLE, methods.ADAM, steps, together, _band(problem, members), None, None),
    ]


def _of_chains(problem: Problem, name: str, step_size: float | None, steps: int, draws: np.ndarray) -> Outcome:
    together = draws.reshape(-1, *draws.shape[2:])
    r_hat, ess = convergence(draws if problem.noise is not None else log_likelihoods(problem, draws))
    found = scores(problem, together)
    return Outcome(problem.name, name, step_size, steps, found, _band(problem, together), r_hat, ess)


def _band(problem: Problem, draws: np.ndarray) -> np.ndarray:
    return np.quantile(draws, [0.05, 0.5, 0.95], axis=0) if problem.noise is not None else np.zeros((3, 0))


def width_in_gap(outcome: Outcome) -> float:
    left, right = problems.GAP
    inside = (left < problems.GRID) & (right > problems.GRID)
    return float((outcome.band[2] - outcome.band[0])[inside].mean())
