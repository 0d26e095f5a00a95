"""The experiments: which methods on which tasks, with the settings of the literature, and how long.

Settings are those published with the figures of Leimkuhler, Matthews and Vlaar (arXiv 1908.11843).
"""

from typing import NamedTuple

import optax

import langevin_optax as lgv
from examples.spirals.train import Method, Task


class Study(NamedTuple):
    name: str
    seeds: int
    parts: list[tuple[Task, Method]]
    regions: bool = False  # whether pictures show the decision regions

    @property
    def tasks(self) -> list[Task]:
        return list(dict.fromkeys(task for task, _ in self.parts))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method.name for _, method in self.parts))


NAMES = ("accuracy", "spread", "temperature", "thermostat", "wide")


def sgd(order, key):
    return optax.sgd(0.1)


def adam(order, key):
    return optax.adam(0.005)


def sgld(order, key, sigma=0.01):
    return lgv.sgd(0.1, sigma, key)


def lol(order, key):
    return lgv.lol(0.25, key, temperature=1e-3, friction=0.01, order=order)


def lol_of_temperature(order, key, temperature):
    return lgv.lol(0.8, key, temperature=temperature, friction=1.0, order=order)


def baoab_of_temperature(order, key, temperature):
    return lgv.baoab(0.4, temperature, friction=10.0, key=key)


def adlala(order, key, *, friction, coupling=0.1, sigma=0.01, step_size=0.25, rest_temperature=1e-4):
    return lgv.adlala(
        step_size,
        key,
        temperature=1e-4,
        sigma=sigma,
        coupling=coupling,
        friction=friction,
        rest_temperature=rest_temperature,
        order=order,
    )


def adlala_with(friction):
    return lambda order, key: adlala(order, key, friction=friction)


def adlala_of_thermostat(order, key, coupling, sigma):
    return adlala(order, key, friction=0.1, coupling=coupling, sigma=sigma)


def adlala_wide(order, key):
    return adlala(order, key, friction=0.03, step_size=0.1, rest_temperature=1e-5)


def studies(short: bool) -> dict[str, Study]:
    """The studies by name; the short ones have fewer networks, steps and seeds, and leave out the longest."""
    made = [_accuracy(short), _spread(short), _temperature(short), _thermostat(short)]
    return {study.name: study for study in (made if short else [*made, _wide()])}


def _accuracy(short: bool) -> Study:
    """Test accuracy against step: five methods, two and four turns, three widths, and the waves."""
    steps, widths = (10_000, (100,)) if short else (20_000, (20, 100, 500))
    tasks = [Task(turns, nodes, steps) for turns in (2, 4) for nodes in widths]
    if not short:
        tasks.append(Task(3, 100, steps, shape="waves"))
    parts = []
    for task in tasks:
        friction = 0.5 if task.turns < 4 else 0.1
        methods = [Method("SGD", sgd), Method("Adam", adam), Method("SGLD", sgld), Method("LOL", lol)]
        parts += [(task, method) for method in [*methods, Method("AdLaLa", adlala_with(friction))]]
    return Study("accuracy", 4 if short else 10, parts, regions=True)


def _spread(short: bool) -> Study:
    """The final accuracy of many runs."""
    task = Task(turns=2, nodes=20, steps=10_000)
    methods = [
        Method("SGD", sgd),
        Method("Adam", adam),
        Method("SGLD", sgld),
        Method("LOL", lol),
        Method("AdLaLa, friction 0.5", adlala_with(0.5)),
        Method("AdLaLa, friction 10", adlala_with(10.0)),
    ]
    return Study("spread", 20 if short else 100, [(task, method) for method in methods])


def _temperature(short: bool) -> Study:
    """Accuracy against temperature, for LOL and for Langevin on all layers."""
    steps = 10_000 if short else 50_000
    temperatures = [(tau,) for tau in (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)]
    parts = [
        (Task(4, 100 if short else 200, steps), Method("LOL", lol_of_temperature, temperatures)),
        (Task(4, 100 if short else 500, steps), Method("BAOAB", baoab_of_temperature, temperatures)),
    ]
    return Study("temperature", 2 if short else 10, parts)


def _thermostat(short: bool) -> Study:
    """AdLaLa with every coupling and sigma, against SGLD of several sigmas, and Adam."""
    task = Task(turns=4, nodes=100, steps=10_000 if short else 20_000)
    couplings = (0.05, 0.2) if short else (0.01, 0.02, 0.05, 0.1, 0.2)
    sigmas = (0.0, 0.01, 0.1) if short else (0.0, 0.005, 0.01, 0.05, 0.1)
    grid = [(coupling, sigma) for coupling in couplings for sigma in sigmas]
    parts = [
        (task, Method("AdLaLa", adlala_of_thermostat, grid)),
        (task, Method("SGLD", sgld, [(sigma,) for sigma in sigmas])),
        (task, Method("Adam", adam)),
    ]
    return Study("thermostat", 2 if short else 10, parts)


def _wide() -> Study:
    """500 nodes on batches of 2 %, from small weights: the decision regions as training goes on."""
    tasks = [Task(4, 500, steps, batch_size=10, init_sd=0.01) for steps in (20_000, 40_000, 60_000)]
    return Study("wide", 5, [(task, Method("AdLaLa", adlala_wide)) for task in tasks], regions=True)
