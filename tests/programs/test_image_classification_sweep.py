"""examples/image_classification killed, interrupted and taken up again: nothing is lost, repeated or changed."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.image_classification import __main__ as demo
from examples.image_classification import data, flags
from examples.image_classification.results import Results
from examples.image_classification.sweep import Sweep

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("one_device")
DIGITS = data.load("digits")
SMALL = DIGITS._replace(train_x=DIGITS.train_x[:256], train_y=DIGITS.train_y[:256], test_x=DIGITS.test_x[:128])
SMALL = SMALL._replace(test_y=DIGITS.test_y[:128])


class Epochs:
    """All that were trained; an error in one of them."""

    def __init__(self, fails_at=None):
        self.trained, self.fails_at = [], fails_at

    def epoch(self, task, seeds, number, accuracy, loss):
        self.trained.append((task.optimizer, tuple(seeds), number))
        if self.trained[-1] == self.fails_at:
            raise RuntimeError("the lights went out")


def sweep(folder, observer, tmp_path, at_once=2):
    options = flags.parse(
        ["--depths", "1", "--epochs", "4", "--optimizers", "l-adam", "adlala", "--output", str(tmp_path)]
    )
    Sweep(SMALL, Results(folder / "runs.jsonl"), folder / "checkpoints", lambda task: at_once, 0.0, [observer]).run(
        flags.tasks(options, SMALL), range(2)
    )


def lines(folder):
    return sorted((folder / "runs.jsonl").read_text().splitlines())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep(folder, Epochs(), folder)
    return folder


@pytest.mark.parametrize("fails_at", [("l-adam", (0, 1), 0), ("l-adam", (0, 1), 2), ("adlala", (0, 1), 3)])
def test_an_error_in_the_middle(fails_at, tmp_path, undisturbed):
    disturbed = tmp_path / "disturbed"
    disturbed.mkdir()
    first, second = Epochs(fails_at), Epochs()
    with pytest.raises(RuntimeError, match="the lights went out"):
        sweep(disturbed, first, tmp_path)
    assert first.trained[-1] == fails_at
    sweep(disturbed, second, tmp_path)
    assert lines(disturbed) == lines(undisturbed) and len(lines(disturbed)) == 4
    # The epoch that failed had no checkpoint yet, so it is trained again; all before it are not.
    assert second.trained[0] == fails_at and len(first.trained) + len(second.trained) == 8 + 1
    assert not list((disturbed / "checkpoints").iterdir())


def test_killed(tmp_path):
    command = [
        sys.executable,
        "-m",
        "examples.image_classification",
        "--depths",
        "1",
        "--optimizers",
        "adam",
        "ll-adam",
    ]
    command += ["--seeds", "2", "--epochs", "40", "--batch-size", "512", "--checkpoint-minutes", "0", "--output"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def start(folder):
        return subprocess.Popen(
            [*command, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(process):
        stdout, stderr = process.communicate()
        assert process.returncode == 0, stderr[-3000:]
        return stdout

    undisturbed, process = start(whole), start(killed)
    deadline = time.monotonic() + 240
    while not any(path.name.isdecimal() and int(path.name) >= 3 for path in killed.glob("checkpoints/*/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()  # SIGKILL
    process.communicate()
    finished = lines(killed) if (killed / "runs.jsonl").exists() else []
    assert len(finished) < 4
    stdout = finish(start(killed))
    finish(undisturbed)
    assert lines(killed) == lines(whole) and set(finished) <= set(lines(whole)) and len(lines(whole)) == 4
    steps = int(stdout.split(" steps, of all")[0].rsplit("\n", 1)[-1])
    assert 0 < steps <= (4 - len(finished)) * 2 * 40 - 2 * 2 * 3  # what a checkpoint has is not trained again
    assert (killed / "summary.csv").read_text() == (whole / "summary.csv").read_text()


def test_what_a_kill_in_the_last_epoch_leaves(tmp_path):
    """All is trained, and nothing is written: the next start trains nothing and reports."""
    options = ["--depths", "1", "--seeds", "1", "--epochs", "2", "--optimizers", "adam", "--output", str(tmp_path)]
    flags_ = flags.parse(options)
    (task,) = flags.tasks(flags_, DIGITS)
    store = Results(tmp_path / "runs.jsonl")
    with pytest.raises(RuntimeError, match="disk"):
        Sweep(DIGITS, Full(store.path), tmp_path / "checkpoints", lambda task: 1, 0.0).run([task], range(1))
    demo.main(options)
    assert len(lines(tmp_path)) == 1 and (tmp_path / "summary.csv").exists()

    # A checkpoint that cannot be read is a message, and stays where it is.
    (tmp_path / "runs.jsonl").unlink()
    with pytest.raises(RuntimeError, match="disk"):
        Sweep(DIGITS, Full(store.path), tmp_path / "checkpoints", lambda task: 1, 0.0).run([task], range(1))
    (broken,) = (tmp_path / "checkpoints").glob("*/2")
    shutil.rmtree(broken / "default")
    with pytest.raises(SystemExit, match=r"the checkpoint in .* cannot be read .*; delete that folder"):
        demo.main(options)
    assert broken.exists() and not (tmp_path / "runs.jsonl").exists()


class Full(Results):
    def append(self, task, runs):
        raise RuntimeError("the disk is full")
