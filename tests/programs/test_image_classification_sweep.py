"""examples/image_classification killed, interrupted and taken up again: nothing is lost, repeated or changed."""

import shutil
import signal
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import langevin_optax as lgv
from examples import storage
from examples.image_classification import __main__ as demo
from examples.image_classification import flags, results, train
from examples.image_classification.results import Results, Run
from examples.image_classification.sweep import Sweep
from tests.programs import processes
from tests.programs.images import SMALL, lines, main, task

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


class Epochs:
    """All that were trained; an error in one of them."""

    def __init__(self, fails_at=None):
        self.trained, self.fails_at = [], fails_at

    def epoch(self, task, seeds, number):
        self.trained.append((task.method.name, tuple(seeds), number))
        if self.trained[-1] == self.fails_at:
            raise RuntimeError("the lights went out")


COMMON = ["--depths", "1", "--seeds", "2", "--epochs", "4", "--methods", "l-adam", "adlala"]


@pytest.fixture
def small(monkeypatch):
    """What the program has by default."""
    monkeypatch.setattr(demo.data, "load", lambda name, folder: SMALL)


def tasks(folder):
    return flags.tasks(flags.parse([*COMMON, "--output", str(folder)]), SMALL)


def sweep(folder, epochs, of=tasks, at_once=2, checkpoint_minutes=5.0):
    file, checkpoints = Results(folder / "runs.jsonl"), folder / "checkpoints"
    every = Sweep(SMALL, file, checkpoints, lambda task: at_once, checkpoint_minutes, epochs.epoch)
    every.run(of(folder), range(2))


def raw(folder):
    return sorted((folder / "runs.jsonl").read_text().splitlines())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, compiled_once):
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep(folder, Epochs())
    return folder


@pytest.mark.parametrize(
    "fails_at",
    [
        pytest.param(("l-adam", (0, 1), 0), marks=pytest.mark.slow),
        ("l-adam", (0, 1), 2),
        pytest.param(("adlala", (0, 1), 3), marks=pytest.mark.slow),
    ],
)
def test_an_error_in_the_middle(fails_at, tmp_path, undisturbed):
    first, second = Epochs(fails_at), Epochs()
    with pytest.raises(RuntimeError, match="the lights went out"):
        sweep(tmp_path, first, checkpoint_minutes=0)
    assert first.trained[-1] == fails_at
    sweep(tmp_path, second, checkpoint_minutes=0)
    assert raw(tmp_path) == raw(undisturbed) and len(raw(tmp_path)) == 4
    # The epoch that failed had no checkpoint yet, so it is trained again; all before it are not.
    assert second.trained[0] == fails_at and len(first.trained) + len(second.trained) == 8 + 1
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
def test_killed(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def start(folder):
        command = ["--depths", 1, "--methods", "adam", "ll-adam", "--seeds", 2, "--epochs", 40, "--batch-size", 512]
        return processes.start("examples.image_classification", *command, "--checkpoint-minutes", 0, "--output", folder)

    def finish(process):
        status, stdout, stderr = processes.finish(process)
        assert status == 0, stderr[-3000:]
        return stdout

    undisturbed, process = start(whole), start(killed)
    processes.wait_until(
        lambda: any(path.name.isdecimal() and int(path.name) >= 3 for path in killed.glob("checkpoints/*/*")),
        process,
    )
    process.kill()  # SIGKILL
    process.communicate()
    finished = raw(killed) if (killed / "runs.jsonl").exists() else []
    assert len(finished) < 4
    stdout = finish(start(killed))
    finish(undisturbed)
    assert raw(killed) == raw(whole) and set(finished) <= set(raw(whole)) and len(raw(whole)) == 4
    steps = int(stdout.split(" steps, of all")[0].rsplit("\n", 1)[-1])
    assert 0 < steps <= (4 - len(finished)) * 2 * 40 - 2 * 2 * 3  # what a checkpoint has is not trained again
    assert (killed / "summary.csv").read_text() == (whole / "summary.csv").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_what_a_kill_in_the_last_epoch_leaves(tmp_path):
    """All is trained, and nothing is written: the next start trains nothing and reports."""
    options = [*COMMON[:-1], "--output", str(tmp_path)]
    task = tasks(tmp_path)[0]
    store = Results(tmp_path / "runs.jsonl")
    with pytest.raises(RuntimeError, match="disk"):
        Sweep(SMALL, Full(store.path), tmp_path / "checkpoints", lambda task: 2, 0.0).run([task], range(2))
    demo.main(options)
    assert len(raw(tmp_path)) == 2 and (tmp_path / "summary.csv").exists()

    # A checkpoint that cannot be read is a message, and stays where it is.
    (tmp_path / "runs.jsonl").unlink()
    with pytest.raises(RuntimeError, match="disk"):
        Sweep(SMALL, Full(store.path), tmp_path / "checkpoints", lambda task: 2, 0.0).run([task], range(2))
    (broken,) = (tmp_path / "checkpoints").glob("*/4")
    shutil.rmtree(broken / "default")
    with pytest.raises(SystemExit, match=r"the checkpoint in .* cannot be read .*; delete that folder"):
        demo.main(options)
    assert broken.exists() and not (tmp_path / "runs.jsonl").exists()


def interrupt():
    """Ctrl-C, which the main thread gets."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


INTERRUPTED = "interrupted: ending with the epochs that are under way (Ctrl-C once more ends it at once)\n"


@pytest.mark.usefixtures("interruptible", "small")
def test_ctrl_c(tmp_path, monkeypatch, capfd):
    """The epoch ends and is saved, what is finished stays, nothing is torn away; the same command goes on."""
    epochs, run, epoch = [], Sweep.run, demo.Progress.epoch

    def and_remember(sweep, *args):
        epochs.append(sweep)
        return run(sweep, *args)

    def and_interrupt(progress, task, seeds, number):
        epoch(progress, task, seeds, number)
        epochs.append((task.method.name, number))
        if epochs[-1] == ("adlala", 1) and not any(isinstance(e, str) for e in epochs):
            epochs.append("interrupted")
            interrupt()
            assert epochs[0].stop.wait(timeout=240)

    monkeypatch.setattr(Sweep, "run", and_remember)
    monkeypatch.setattr(demo.Progress, "epoch", and_interrupt)
    with pytest.raises(SystemExit) as stop:
        demo.main([*COMMON, "--output", str(tmp_path)])
    assert stop.value.code == 130
    said = capfd.readouterr()
    assert "2 of 4 runs finished; the same command goes on from there.\n" in said.out
    assert INTERRUPTED in said.err and "Traceback" not in said.err
    assert [(line["task"]["method"]["name"], line["seed"]) for line in lines(tmp_path / "runs.jsonl")] == [
        ("l-adam", 0),
        ("l-adam", 1),
    ]
    assert not (tmp_path / "results.md").exists()

    before = len(epochs)
    demo.main([*COMMON, "--output", str(tmp_path)])
    assert epochs[before + 1 :] == [("adlala", 2), ("adlala", 3)] and (tmp_path / "results.md").exists()


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_elsewhere(monkeypatch, capfd, tmp_path):
    """While the data is read, say: one line as well."""

    def load(name, folder):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    monkeypatch.setattr(demo.data, "load", load)
    with pytest.raises(SystemExit) as stop:
        demo.main(["--output", str(tmp_path)])
    assert stop.value.code == 130 and capfd.readouterr().err == "interrupted\n"


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_of_a_process(times, tmp_path):
    """As it is for users; the second one ends it at once, and costs no more than a kill does."""
    command = ["--depths", 1, "--epochs", 100_000, "--checkpoint-minutes", 0, "--output", tmp_path]
    process = processes.start("examples.image_classification", *command)
    processes.wait_until(
        lambda: any(path.name.isdecimal() for path in tmp_path.glob("checkpoints/*/*")),
        process,
    )
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    status, stdout, stderr = processes.finish(process)
    assert status == 130 and INTERRUPTED in stderr
    if times == 1:
        assert "0 of 24 runs finished; the same command goes on from there.\n" in stdout


class Full(Results):
    def append(self, task, runs):
        raise RuntimeError("the disk is full")


def test_seeds_one_at_a_time(tmp_path, undisturbed):
    """A seed does not depend on the others."""
    sweep(tmp_path, Epochs(), at_once=1, of=lambda folder: tasks(folder)[:1])
    one, both = lines(tmp_path / "runs.jsonl"), lines(undisturbed / "runs.jsonl")
    assert [line["seed"] for line in one] == [0, 1]
    together = [line["loss"] for line in both if line["task"]["method"]["name"] == "l-adam"]
    np.testing.assert_allclose([line["loss"] for line in one], together, rtol=1e-5)


def test_the_file_of_results(tmp_path):
    path, own, other = tmp_path / "runs.jsonl", task("ll-adam"), task("ll-adam:layers=last:0.3")
    runs = [Run(seed, np.array([0.1, 0.2]), np.array([2.0, np.nan]), 0.5) for seed in (0, 1)]
    Results(path).append(own, runs)
    Results(path).append(other, runs[:1])
    whole = path.read_bytes()
    assert len(whole.splitlines()) == 3 and b"NaN" not in whole
    read = Results(path).runs(own)
    assert list(read) == [0, 1]
    np.testing.assert_array_equal(read[1].loss, runs[1].loss)
    np.testing.assert_array_equal(read[1].accuracy, runs[1].accuracy)
    assert list(Results(path).runs(other)) == [0] and not Results(path).runs(task(epochs=4))

    for cut in (2, 50, len(whole.splitlines()[-1])):  # what a kill in the middle of a write would leave
        path.write_bytes(whole[:-cut])
        torn = Results(path)
        assert list(torn.runs(own)) == [0, 1] and not torn.runs(other)
        torn.append(other, runs[:1])
        assert path.read_bytes() == whole

    path.write_bytes(whole[:-1])  # what an editor may do
    assert list(Results(path).runs(other)) == [0] and path.read_bytes() == whole

    path.write_bytes(whole.replace(b'"seed"', b'"sead"', 1))
    with pytest.raises(results.ResultsError, match=r"line 1 of .*runs.jsonl is not the result of a run"):
        Results(path)


def test_results_of_other_code_are_not_taken(tmp_path, monkeypatch):
    store, own = Results(tmp_path / "runs.jsonl"), task()
    store.append(own, [Run(0, np.zeros(2), np.ones(2), 0.0)])
    assert store.runs(own)
    monkeypatch.setattr(jax, "__version__", "0.0")
    assert not store.runs(own)
    monkeypatch.undo()
    assert store.runs(own)
    monkeypatch.setattr(results, "_code", lambda: "other")
    assert not store.runs(own)


@pytest.mark.parametrize("changed", ["__init__.py", "noise", "optimizers", "examples", "methods.py"])
def test_the_code_is_all_of_the_package_and_what_trains(changed, tmp_path, monkeypatch):
    package, example = tmp_path / "langevin_optax", tmp_path / "examples"
    shutil.copytree(Path(lgv.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(results.__file__).parent, example, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(lgv, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(results, "__file__", str(example / "results.py"))
    before = results._code.__wrapped__()
    folder = {"examples": example, "methods.py": example / changed}.get(changed, package / changed)
    path = folder if folder.suffix else sorted(folder.rglob("*.py"))[-1]
    path.write_text(path.read_text() + "\n# changed\n")
    assert results._code.__wrapped__() != before


def test_one_program_a_folder(tmp_path):
    with storage.alone(tmp_path), pytest.raises(SystemExit, match="another program is writing to"):
        main("--output", tmp_path)
