"""examples/image_classification killed, interrupted and started again: what has ended is neither lost nor repeated."""

import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import langevin_optax as lgv
from examples.image_classification import sweep as sweeps
from examples.image_classification import train
from examples.image_classification.sweep import Run, Sweep
from tests.programs import processes
from tests.programs.images import SMALL, runs, task

pytestmark = pytest.mark.usefixtures("elsewhere", "compiled_once")


@pytest.fixture(scope="module")
def compiled_once():
    """Each training of this file, by its first epoch; on one device."""
    prepared, prepare, device = {}, train.prepare, jax.devices()[:1]

    def once(task, data):
        return prepared[task] if task in prepared else prepared.setdefault(task, prepare(task, data))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train, "prepare", once)
        monkeypatch.setattr(jax, "local_devices", lambda: device)
        yield


TASKS = [task(name, depth=1, epochs=4) for name in ("l-adam", "adlala")]


class Epochs(list):
    """All that were trained; an error after so many of them."""

    def __init__(self, fails_after=None):
        self.fails_after = fails_after

    def epoch(self, task, seeds):
        self.append((task.method.name, tuple(seeds)))
        if len(self) == self.fails_after:
            raise RuntimeError("the lights went out")


def sweep(folder, epochs=None, at_once=2, tasks=TASKS):
    folder.mkdir(exist_ok=True)
    made = Sweep(SMALL, folder / "runs", at_once, (Epochs() if epochs is None else epochs).epoch)
    made.run(tasks, range(2))
    return made


def raw(folder):
    return {path.name: path.read_text() for path in (folder / "runs").iterdir()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, compiled_once):
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep(folder)
    return folder


@pytest.mark.parametrize(("fails_after", "ended"), [(2, []), (7, ["l-adam"] * 2), (8, ["l-adam"] * 2)])
def test_an_error_in_the_middle(fails_after, ended, tmp_path, undisturbed):
    first, second = Epochs(fails_after), Epochs()
    with pytest.raises(RuntimeError, match="the lights went out"):
        sweep(tmp_path, first)
    assert len(first) == fails_after and [run["task"]["method"]["name"] for run in runs(tmp_path)] == ended
    sweep(tmp_path, second)
    assert raw(tmp_path) == raw(undisturbed) and len(raw(tmp_path)) == 4
    names = [name for name in ("l-adam", "adlala") if name not in ended]
    assert second == [(name, (0, 1)) for name in names for _ in range(4)]


def test_a_seed_does_not_depend_on_the_others(tmp_path, undisturbed):
    epochs = Epochs()
    sweep(tmp_path, epochs, at_once=1, tasks=TASKS[:1])
    assert epochs == [("l-adam", (seed,)) for seed in (0, 1) for _ in range(4)]
    together = {run["seed"]: run["loss"] for run in runs(undisturbed) if run["task"]["method"]["name"] == "l-adam"}
    for run in runs(tmp_path):
        np.testing.assert_allclose(run["loss"], together[run["seed"]], rtol=1e-5)


def test_an_error_ends_all_on_every_device(tmp_path, monkeypatch):
    """More tasks than devices: none waits for a device for ever, and none trains on."""
    for devices in (1, 2):
        monkeypatch.setattr(jax, "local_devices", lambda devices=devices: jax.devices()[:devices])
        epochs = Epochs(fails_after=3)
        with pytest.raises(RuntimeError, match="the lights went out"):
            sweep(tmp_path / str(devices), epochs, at_once=1, tasks=[*TASKS, task("adam", depth=1, epochs=4)])
        assert len(epochs) <= 3 + devices - 1


@pytest.mark.parametrize(("convolutional", "together"), [((), [(0, 1)]), (("dense",), [(0,), (1,)])])
def test_convolutions_train_one_seed_at_a_time(convolutional, together, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps.models, "CONVOLUTIONAL", convolutional)
    epochs = Epochs()
    sweep(tmp_path, epochs, at_once=None, tasks=TASKS[:1])
    assert epochs == [("l-adam", seeds) for seeds in together for _ in range(4)]


def start(folder, *more):
    command = ["--depths", 1, "--methods", "adam", "ll-adam", "l-adam", "--seeds", 2, "--seeds-at-once", 1, *more]
    return processes.start("examples.image_classification", *command, "--output", folder)


@pytest.mark.slow
def test_killed(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed, process = start(whole), start(killed)
    processes.wait_until(lambda: any(killed.glob("runs/*.json")), process)
    process.kill()  # SIGKILL
    process.communicate()
    finished = {name: text for name, text in raw(killed).items() if name.endswith(".json")}
    assert 1 <= len(finished) < 6
    process = start(killed)
    for one in (undisturbed, process):
        status, stdout, stderr = processes.finish(one)
        assert status == 0, stderr[-3000:]
    assert f"{len(finished)} of 6 runs are in" in stdout
    assert finished.items() <= raw(whole).items() and len(raw(whole)) == 6
    assert raw(whole).items() <= raw(killed).items()  # which may have what the kill left of a file
    assert (killed / "summary.csv").read_text() == (whole / "summary.csv").read_text()


@pytest.mark.slow
def test_ctrl_c_of_a_process(tmp_path):
    """As it is for users."""
    process = start(tmp_path, "--epochs", 100_000)
    processes.wait_until(lambda: (tmp_path / "runs").exists(), process)
    process.send_signal(signal.SIGINT)
    status, _, stderr = processes.finish(process)
    said = "interrupted: runs that have ended are kept; the same command goes on from there\n"
    assert status == 130 and stderr.endswith(said) and not raw(tmp_path)


def test_the_file_of_a_run(tmp_path):
    store, own, other = Sweep(SMALL, tmp_path), task("ll-adam"), task("ll-adam:layers=last:0.3")
    for one, seed in ((own, 0), (own, 1), (other, 0)):
        store._write(one, Run(seed, np.array([0.1, 0.2]), np.array([2.0, np.nan]), 0.5))
    files = list(tmp_path.iterdir())
    assert len(files) == 3 and all(b"NaN" not in path.read_bytes() for path in files)
    read = store.read(own, 1)
    assert (read.seed, read.noisy_share) == (1, 0.5)
    np.testing.assert_array_equal(read.loss, [2.0, np.nan])
    np.testing.assert_array_equal(read.accuracy, [0.1, 0.2])
    assert [store.missing(one, range(3)) for one in (own, other, task(epochs=4))] == [[2], [1, 2], [0, 1, 2]]

    whole = files[0].read_bytes()
    renamed, shorter = whole.replace(b'"seed"', b'"sead"'), whole.replace(b"[0.1, 0.2]", b"[0.1]")
    for spoilt in (b"", b"[]", whole[:50], renamed, shorter, whole.replace(b"0.1", b'"a"')):
        for path in files:
            path.write_bytes(spoilt)
        with pytest.raises(SystemExit, match=r"error: .*\.json is not the result of a run; remove it"):
            store.read(own, 0)


def test_results_of_other_code_are_not_taken(tmp_path, monkeypatch):
    store, own = Sweep(SMALL, tmp_path), task()
    store._write(own, Run(0, np.zeros(2), np.ones(2), 0.0))
    assert not store.missing(own, [0])
    monkeypatch.setattr(jax, "__version__", "0.0")
    assert store.missing(own, [0])
    monkeypatch.undo()
    assert not store.missing(own, [0])
    with jax.default_matmul_precision("highest"):
        assert store.missing(own, [0])
    monkeypatch.setattr(sweeps, "_code", lambda: "other")
    assert store.missing(own, [0])


@pytest.mark.parametrize("changed", ["__init__.py", "noise", "optimizers", "examples", "methods.py"])
def test_the_code_is_all_of_the_package_and_what_trains(changed, tmp_path, monkeypatch):
    package, example = tmp_path / "langevin_optax", tmp_path / "examples"
    shutil.copytree(Path(lgv.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(sweeps.__file__).parent, example, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(lgv, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(sweeps, "__file__", str(example / "sweep.py"))
    before = sweeps._code.__wrapped__()
    folder = {"examples": example, "methods.py": example / changed}.get(changed, package / changed)
    path = folder if folder.suffix else sorted(folder.rglob("*.py"))[-1]
    path.write_text(path.read_text() + "\n# changed\n")
    assert sweeps._code.__wrapped__() != before
