"""The figures of Leimkuhler, Matthews and Vlaar (arXiv 1908.11843): which methods, on which tasks, with which settings.

Settings are those of the captions; what no source of ours says is marked "taken". Figures 1, 2, 11 and 12 are absent:
the formula of their data is not known to us.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import optax

import langevin_optax as lgv
from examples.spirals.train import Method, Task


class Study(NamedTuple):
    name: str  # the number of the figure
    title: str
    seeds: int
    parts: Sequence[tuple[Task, Method]]
    keep: bool = False  # the parameters, for pictures of them

    @property
    def tasks(self) -> list[Task]:
        return list(dict.fromkeys(task for task, _ in self.parts))

    @property
    def file(self) -> str:
        return f"figure_{self.name:0>2}" if self.name.isdecimal() else self.name


NAMES = ("3", "4", "5", "6", "7", "8", "9", "10", "13", "14", "15", "16", "waves")


def sgd(order, key, h=0.1):
    return optax.sgd(h)


def adam(order, key):
    return optax.adam(0.005)


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


def lols(h, friction, taus):
    """No source says which temperature the rest had: both readings, and Euler's scheme."""
    makes: dict[str, Callable] = {"LOL": lol, "LOL, τ₂ = 0": partial(lol, rest_tau=0.0), "LOL, Euler": lol_by_euler}
    settings = [{"tau": tau} for tau in taus]
    return [Method(name, partial(make, h=h, friction=friction), settings) for name, make in makes.items()]


def adlalas(published=None, name="AdLaLa", **settings):
    makes: dict[str, Callable] = {name: adlala, f"{name}, per tensor": partial(adlala, per_tensor=True)}
    return [Method(name, partial(make, **settings), published=published) for name, make in makes.items()]


def plain(sgd_h=0.1, sigma=0.01, published=(None, None, None)):
    makes: dict[str, Callable] = {"SGD": partial(sgd, h=sgd_h), "Adam": adam, "SGLD": partial(sgld, sigma=sigma)}
    return [Method(name, make, published=of) for (name, make), of in zip(makes.items(), published, strict=True)]


def on(*tasks: Task) -> Callable[..., list[tuple[Task, Method]]]:
    return lambda *methods: [(task, method) for task in tasks for method in methods]


def figures(short: bool) -> dict[str, Study]:
    """The studies by name; the short ones have fewer steps and seeds, and say nothing of the published figures."""
    two, four, of_adam = Task(2, 20, 20_000), Task(4, 100, 10_000), Method("Adam", adam)
    # Taken: the task of figure 4.
    made = [Study("3", "Loss between the minima", 10, on(two)(of_adam, *adlalas(friction=0.5)), keep=True)]

    # Taken: friction .5 as in figure 8, and N(0, .5²) as the other initialisation.
    first = on(two)(of_adam._replace(published=0.91), *adlalas(0.99, friction=0.5))
    second = on(replace(two, init_sd=0.5))(of_adam._replace(published=0.94), *adlalas(0.98, friction=0.5))
    made += [Study("4", "Two initialisations", 10, first + second, keep=True)]

    # Taken: settings and nodes.
    parts = on(two, replace(two, nodes=100))(*plain(), *adlalas(friction=0.5))
    made += [Study("5", "Test accuracy on 2-turn spirals", 10, parts)]

    # Taken: the number of nodes.
    seven = *plain(0.2, 0.01, (0.58, 0.67, 0.54)), *adlalas(0.80, friction=0.1)
    made += [Study("6", "Evolution of weights and biases", 1, on(four)(*seven[:4]), keep=True)]
    parts = on(*(replace(four, nodes=nodes) for nodes in (100, 200, 500)))(*seven)
    made += [Study("7", "Test accuracy on 4-turn spirals", 10, parts)]

    # Taken: 20 nodes, and batches of 5 % as well as of 2 %, which figure 14 has.
    rest = adlalas(0.934, "AdLaLa, friction 0.5", friction=0.5) + adlalas(0.855, "AdLaLa, friction 10", friction=10.0)
    few, eight = replace(two, steps=10_000, batch_size=10), plain(0.1, 0.1, (0.79, 0.837, 0.78))
    parts = on(replace(few, batch_size=25))(*eight, *rest) + on(few)(*eight, *rest[::2])
    made += [Study("8", "Spread over the runs", 100, parts)]

    wide = Task(4, 500, 60_000, batch_size=10, power=1.0, records=60)
    parts = on(replace(wide, init_sd=0.5))(of_adam)
    parts += on(replace(wide, init_sd=0.01))(*adlalas(friction=0.03, h=0.1, rest_tau=1e-5))
    made += [Study("9", "Decision regions in time", 5, parts, keep=True)]

    # Taken: 20,000 steps.
    several = Method("SGLD", sgld, [{"sigma": sigma} for sigma in (0.0, 0.005, 0.01, 0.05, 0.1)])
    parts = on(replace(four, steps=20_000))(*adlalas(friction=0.1, coupling=0.05), several, of_adam)
    made += [Study("10", "AdLaLa, and SGLD of several σ", 10, parts)]

    # Taken: 20,000 steps, batches of 5 %, AdLaLa's σ, ε and first temperature, and its h, that of LOL.
    rest = adlalas(friction=1000.0, h=0.1, rest_tau=1e-8) + lols(0.1, 1.0, [1e-6])
    parts = on(replace(two, nodes=500, noise=0.1))(of_adam, *rest)
    made += [Study("13", "LOL on blurred spirals", 10, parts)]

    # Taken: friction .5, 10,000 steps; N(0, .01²), which Adam has, for AdLaLa's "Gaussian" too.
    parts = on(few)(*plain(0.25)[:2], *adlalas(friction=0.5), *lols(0.25, 0.01, [1e-3]))
    parts += on(replace(few, init_sd=0.01))(of_adam, adlalas(friction=0.5)[0])
    made += [Study("14", "Mean and variance over the runs", 100, parts)]

    # Taken: the axes, which are the two settings that the caption leaves open, and 10,000 steps.
    grid = [
        {"tau": tau, "sigma": sigma} for tau in (1e-5, 1e-4, 1e-3, 1e-2) for sigma in (0.001, 0.005, 0.01, 0.05, 0.1)
    ]
    heat = Method("AdLaLa", partial(adlala, friction=0.03, h=0.1, rest_tau=1e-8), grid)
    made += [Study("15", "AdLaLa's temperature and σ", 10, on(four)(heat))]

    parts = on(Task(4, 200, 50_000))(*lols(0.8, 1.0, (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)))
    made += [Study("16", "Accuracy against temperature", 10, parts)]
    parts = on(Task(3, 100, 20_000, shape="waves"))(*plain(), *adlalas(friction=0.5))
    made += [Study("waves", "Waves of our own", 10, parts)]
    return {study.name: _shortened(study) if short else study for study in made}


def _shortened(study: Study) -> Study:
    parts = [(replace(task, steps=min(task.steps, 3000), records=15), method) for task, method in study.parts]
    return study._replace(seeds=min(study.seeds, 2 if study.seeds < 100 else 20), parts=parts)
