"""The figures of Leimkuhler, Matthews and Vlaar (arXiv 1908.11843): which methods, on which tasks, with which settings.

Settings are those of the captions; what no source of ours says is marked "taken". Figures 1, 2, 11 and 12 are absent:
the formula of their data is not known to us.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import product
from typing import NamedTuple

import jax
import optax

import langevin_optax as lgv
from examples.spirals.train import Method, Task, waves


class Study(NamedTuple):
    name: str  # the number of the figure
    title: str
    parts: Sequence[tuple[Task, Method]]
    seeds: int = 10
    keep: bool = False  # the parameters, for pictures of them


def sgd(order, key, h):
    return optax.sgd(h)


def sgld(order, key, sigma):
    return lgv.sgd(0.1, sigma, key)


def adlala(order, key, friction, h=0.25, tau=1e-4, rest_tau=1e-4, sigma=0.01, coupling=0.1, per_tensor=False):
    """One thermostat for the first layer, as in the paper's equations, or one per tensor, as in the authors' code."""
    first = lgv.adaptive_langevin(h, tau, sigma, coupling, key, initial_thermostat=0.1)
    if per_tensor:
        names = partial(jax.tree.map_with_path, lambda path, _: path[-1].key)
        first = optax.partition({"kernel": first, "bias": first}, names)
    return lgv.partitioned(first, lgv.baoab(h, rest_tau, friction, key), order=order)


def lol(order, key, h, friction, tau, rest_tau=None):
    return lgv.lol(h, key, temperature=tau, friction=friction, rest_temperature=rest_tau, order=order)


def lol_by_euler(order, key, h, friction, tau):
    """The rest by Euler's scheme with step h; the authors' has step h²/2."""
    return lgv.partitioned(lgv.baoab(h, tau, friction, key), lgv.overdamped_langevin(h, tau, key), order=order)


ADAM = Method("Adam", lambda order, key: optax.adam(0.005))


def plain(h=0.1, sigma=0.01):
    return [Method("SGD", partial(sgd, h=h)), ADAM, Method("SGLD", partial(sgld, sigma=sigma))]


def adlalas(name="AdLaLa", **same):
    makes: dict[str, Callable] = {name: adlala, f"{name}, per tensor": partial(adlala, per_tensor=True)}
    return [Method(name, partial(make, **same)) for name, make in makes.items()]


def lols(taus, **same):
    """No source says which temperature the rest had: both readings, and Euler's scheme."""
    makes: dict[str, Callable] = {"LOL": lol, "LOL, τ₂ = 0": partial(lol, rest_tau=0.0), "LOL, Euler": lol_by_euler}
    return [Method(name, partial(make, **same), [{"tau": tau} for tau in taus]) for name, make in makes.items()]


def every(tasks: Iterable[Task], methods: Iterable[Method]) -> list[tuple[Task, Method]]:
    return list(product(tasks, methods))


def figures(short: bool) -> dict[str, Study]:
    """The studies by name; the short ones, with fewer steps and seeds, say nothing of the published figures."""
    two, four, long = Task(2, 20, 20_000), Task(4, 100, 10_000), Task(4, 500, 60_000, 10, power=1.0, records=60)
    few, mild = two._replace(steps=10_000, batch_size=10), adlalas(friction=0.5)
    # Taken: the task of figure 4.
    made = [Study("3", "Loss between the minima", every([two], [ADAM, *mild]), keep=True)]
    # Taken: friction .5 as in figure 8, and N(0, .5²) as the other initialisation.
    parts = every([two, two._replace(init_sd=0.5)], [ADAM, *mild])
    made += [Study("4", "Two initialisations", parts, keep=True)]
    # Taken: settings and nodes.
    parts = every([two, two._replace(nodes=100)], [*plain(), *mild])
    made += [Study("5", "Test accuracy on 2-turn spirals", parts)]
    # Taken: the number of nodes.
    five = [*plain(0.2), *adlalas(friction=0.1)]
    made += [Study("6", "Evolution of weights and biases", every([four], five[:4]), seeds=1, keep=True)]
    parts = every([four._replace(nodes=nodes) for nodes in (100, 200, 500)], five)
    made += [Study("7", "Test accuracy on 4-turn spirals", parts)]
    # Taken: 20 nodes, and batches of 5 % as well as of 2 %, which figure 14 has.
    rest = adlalas("AdLaLa, friction 0.5", friction=0.5) + adlalas("AdLaLa, friction 10", friction=10.0)
    hot = plain(sigma=0.1)
    parts = every([few._replace(batch_size=25)], hot + rest) + every([few], hot + rest[::2])
    made += [Study("8", "Spread over the runs", parts, seeds=100)]
    parts = every([long._replace(init_sd=0.5)], [ADAM])
    parts += every([long._replace(init_sd=0.01)], adlalas(friction=0.03, h=0.1, rest_tau=1e-5))
    made += [Study("9", "Decision regions in time", parts, seeds=5, keep=True)]
    # Taken: 20,000 steps.
    several = Method("SGLD", sgld, [{"sigma": sigma} for sigma in (0.0, 0.005, 0.01, 0.05, 0.1)])
    parts = every([four._replace(steps=20_000)], [*adlalas(friction=0.1, coupling=0.05), several, ADAM])
    made += [Study("10", "AdLaLa, and SGLD of several σ", parts)]
    # Taken: 20,000 steps, batches of 5 %, AdLaLa's σ, ε and first temperature, and its h, that of LOL.
    rest = adlalas(friction=1000.0, h=0.1, rest_tau=1e-8) + lols([1e-6], h=0.1, friction=1.0)
    made += [Study("13", "LOL on blurred spirals", every([two._replace(nodes=500, noise=0.1)], [ADAM, *rest]))]
    # Taken: friction .5, 10,000 steps; N(0, .01²), which Adam has, for AdLaLa's "Gaussian" too.
    parts = every([few], [*plain(0.25)[:2], *mild, *lols([1e-3], h=0.25, friction=0.01)])
    parts += every([few._replace(init_sd=0.01)], [ADAM, mild[0]])
    made += [Study("14", "Mean and variance over the runs", parts, seeds=100)]
    # Taken: the axes, which are the two settings that the caption leaves open, and 10,000 steps.
    axes = (1e-5, 1e-4, 1e-3, 1e-2), (0.001, 0.005, 0.01, 0.05, 0.1)
    grid = [{"tau": tau, "sigma": sigma} for tau, sigma in product(*axes)]
    heat = Method("AdLaLa", partial(adlala, friction=0.03, h=0.1, rest_tau=1e-8), grid)
    made += [Study("15", "AdLaLa's temperature and σ", every([four], [heat]))]
    rest = lols((0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2), h=0.8, friction=1.0)
    made += [Study("16", "Accuracy against temperature", every([Task(4, 200, 50_000)], rest))]
    parts = every([Task(3, 100, 20_000, shape=waves)], [*plain(), *mild])
    made += [Study("waves", "Waves of our own", parts)]
    return {study.name: _shortened(study) if short else study for study in made}


def _shortened(study: Study) -> Study:
    parts = [(task._replace(steps=min(task.steps, 3000), records=15), method) for task, method in study.parts]
    return study._replace(seeds=min(study.seeds, 2 if study.seeds < 100 else 20), parts=parts)


NAMES = tuple(figures(short=False))
