"""examples/distributed: under several processes, killed, on a full disk, from a checkpoint that is not its own."""

import contextlib
import io
import json
import random
import re
import shutil
import signal
import time

import flax.linen as nn
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import langevin_optax as lgv
from examples.distributed import __main__ as program
from examples.distributed.__main__ import main
from examples.distributed.model import Sizes, Transformer
from examples.distributed.text import Text
from examples.distributed.train import Training
from tests import forked
from tests.cases import bits
from tests.programs import processes

SMALL = "--layers 2 --width 16 --heads 2 --length 16 --batch-size 8 --log-steps 1 --optimizer ll-adam --sigma 1e-3"
SHORT = [*SMALL.split(), "--steps", "12", "--checkpoint-steps", "4"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_bytes(np.random.default_rng(0).integers(32, 96, 4000, np.uint8).tobytes())
    return path


COMPILED = {}


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    yield
    COMPILED.clear()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Of compiled programs."""
    return tmp_path_factory.mktemp("cache")


def checkpoint(folder, step):
    """What is on the disk, on one device, without the program that wrote it."""
    path = (folder / "checkpoints" / str(step) / "default").absolute()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            checkpointer.metadata(path).item_metadata.tree,
        )
        return checkpointer.restore(path, like)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["bits_per_byte"] for line in lines]


def run(folder, text, cache, processes=1, port=None, code=0, file_limit=None):
    """The same command by so many processes, which have four devices together."""
    folder.mkdir(exist_ok=True)
    common = [*SHORT, "--text", text, "--output", folder]
    several = ["--coordinator", f"localhost:{port}", "--processes", processes] if processes > 1 else []
    logs = [folder.parent / f"{folder.name}-{i}.log" for i in range(processes)]
    running = [
        forked.start(
            [*common, *several, *(["--process", i] if several else [])],
            log,
            devices=4 // processes,
            cache=cache,
            file_limit=file_limit,
        )
        for i, log in enumerate(logs)
    ]
    return [forked.finish(process, log, code) for process, log in zip(running, logs, strict=True)]


def before_the_end(folder, to):
    """A copy without its last checkpoint, as if it had been killed after the one before."""
    shutil.copytree(folder, to)
    shutil.rmtree(to / "checkpoints" / "12")
    return to


@pytest.mark.slow
def test_processes(tmp_path, text, cache):
    one, two, four = tmp_path / "one", tmp_path / "two", tmp_path / "four"
    said = run(one, text, cache)
    assert "on {'data': 4, 'tensor': 1}" in said[0] and "of 1 process, from step 0 to 12" in said[0]
    port = random.Random(str(tmp_path)).randrange(20_000, 50_000)
    run(two, text, cache, 2, port)
    said = run(four, text, cache, 4, port + 1)
    assert "of 4 processes" in said[0] and not any("bits per byte" in s for s in said[1:])  # the first speaks for all

    def assert_same(a, b):
        np.testing.assert_allclose(metrics(a), metrics(b), rtol=1e-5)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), *end(a, b))

    def end(*folders):
        return [{k: v for k, v in checkpoint(f, 12).items() if k != "optimizer"} for f in folders]

    assert len(metrics(one)) == 12
    assert_same(one, two)
    assert_same(one, four)

    # Written by four, read by one; written by one, read by four; and gone on with on the same mesh.
    by_one, by_four = before_the_end(four, tmp_path / "by_one"), before_the_end(one, tmp_path / "by_four")
    assert "from step 8 to 12" in run(by_one, text, cache)[0]
    assert "from step 8 to 12" in run(by_four, text, cache, 4, port + 2)[0]
    assert bits(checkpoint(by_one, 8)) == bits(checkpoint(four, 8))
    assert_same(by_one, four)
    assert_same(by_four, one)
    # Processes add up gradients in another order than one process does; the same number of them does not.
    again = before_the_end(four, tmp_path / "again")
    run(again, text, cache, 4, port + 3)
    assert bits(end(again)) == bits(end(four))


@pytest.mark.slow
def test_killed_twenty_times(tmp_path, text, cache):
    """SIGKILL at random moments: the parameters, the checkpoints and the metrics are those of the undisturbed run."""
    common = [*SMALL.split(), "--steps", "200", "--checkpoint-steps", "4", "--text", text]
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"

    def start(folder):
        return forked.start([*common, "--output", folder], log, cache=cache)

    def lines(folder):
        path = folder / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    process = start(whole)
    while not lines(whole) and process.is_alive():
        time.sleep(0.001)
    began = time.monotonic()
    forked.finish(process, log)
    duration = time.monotonic() - began

    moments = random.Random(0)
    resumed_at = []
    for _ in range(20):
        before = lines(killed)
        process = start(killed)
        while lines(killed) <= before and process.is_alive():  # the first step, or what the last kill had lost
            time.sleep(0.001)
            if lines(killed) < before:
                before = lines(killed)
        time.sleep(moments.uniform(0, duration / 15))
        process.kill()  # if it is not at its end already
        process.join()
        resumed_at.append(before)
    assert max(resumed_at) > 4  # it got on in between
    forked.finish(start(killed), log)
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert len(metrics(killed)) == 200
    assert bits(checkpoint(killed, 200)) == bits(checkpoint(whole, 200))
    names = {path.name for path in (whole / "checkpoints").iterdir()}
    assert {path.name for path in (killed / "checkpoints").iterdir()} == names == {"196", "200"}


def here(folder, text, *flags, like=None):
    """The same in this process, on its eight devices; what it said. Each set of flags is compiled once."""
    said = io.StringIO()
    key = flags if like is None else like  # the flags of a run with the same program

    def once(*args):
        return COMPILED[key] if key in COMPILED else COMPILED.setdefault(key, Training(*args))

    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(said):
        monkeypatch.setattr(program, "Training", once)
        main([*SHORT, "--text", str(text), "--output", str(folder), *flags])
    return said.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("finished") / "run"
    said = here(folder, text)
    (folder.parent / "said").write_text(said)
    return folder


def test_what_it_says(finished):
    first, speed, result, written = (finished.parent / "said").read_text().splitlines()
    assert re.fullmatch(
        r"0\.\d+ million parameters in float32 on .* cpu devices of 1 process, from step 0 to 12\.", first
    )
    assert "{'data': 8, 'tensor': 1}" in first
    assert re.fullmatch(r"[\d.]+ [mµ]?s per step, [\d,.]+ bytes per second\.", speed)
    assert re.fullmatch(r"\d\.\d{3} bits per byte on held-out text after 12 steps\.", result)
    assert written == f"Written: {finished / 'metrics.jsonl'}, {finished / 'checkpoints'}"
    assert len(metrics(finished)) == 12


def test_one_step_and_no_line_of_metrics(text, tmp_path):
    said = here(tmp_path, text, "--steps", "1", "--log-steps", "2", like=())
    assert "after 1 step." in said and said.endswith(f"Written: {tmp_path / 'checkpoints'}\n")


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("at", [5, 11])
def test_ctrl_c_saves_the_step_that_is_done(at, finished, text, tmp_path, monkeypatch, capfd):
    """And the same command goes on from there, to the same end."""
    batch = Text.batch

    def and_interrupt(self, size, step, seed):
        if step == at:
            signal.raise_signal(signal.SIGINT)
        return batch(self, size, step, seed)

    monkeypatch.setattr(Text, "batch", and_interrupt)
    if at == 11:  # everything is done: there is nothing to go on with
        assert "after 12 steps" in here(tmp_path, text)
    else:
        with pytest.raises(SystemExit) as stop:
            here(tmp_path, text)
        assert stop.value.code == 130
        assert list(checkpoint_steps(tmp_path))[-1] == at + 1 == len(metrics(tmp_path))
    said = capfd.readouterr().err
    assert "interrupted: saving the step that is done (Ctrl-C once more ends it at once)\n" in said
    assert "Traceback" not in said
    monkeypatch.undo()
    if at < 11:
        assert f"from step {at + 1} to 12." in here(tmp_path, text)
    assert bits(checkpoint(tmp_path, 12)) == bits(checkpoint(finished, 12)) and metrics(tmp_path) == metrics(finished)


def checkpoint_steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_of_a_process(times, text, tmp_path):
    command = [*SMALL.split(), "--steps", 1_000_000, "--text", text, "--output", tmp_path]
    process = processes.start("examples.distributed", *command)
    processes.wait_until((tmp_path / "metrics.jsonl").exists, process)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    status, stdout, stderr = processes.finish(process)
    assert status == 130 and "interrupted: saving the step that is done" in stderr
    assert times == 2 or re.search(r"Step \d+ of 1000000 is saved; the same command goes on from there\.", stdout)


@pytest.mark.slow
def test_ctrl_c_of_several_processes(text, tmp_path):
    """A terminal sends it to all of them: each ends at once, though the others do not answer any more."""
    port = random.Random(str(tmp_path)).randrange(20_000, 50_000)
    command = [*SMALL.split(), "--steps", 1_000_000, "--checkpoint-steps", 4, "--text", text, "--output", tmp_path]
    command += ["--coordinator", f"localhost:{port}", "--processes", 2, "--process"]
    both = [processes.start("examples.distributed", *command, i) for i in range(2)]
    processes.wait_until(lambda: list(tmp_path.glob("checkpoints/4")), *both)
    for process in both:
        process.send_signal(signal.SIGINT)
    said = [processes.finish(process) for process in both]
    assert [status for status, _, _ in said] == [130, 130], said
    assert "interrupted: the same command goes on from the last checkpoint" in said[0][2]


OTHERS = [
    (["--optimizer", "adam"], "optimizer was 'll-adam', is 'adam'"),
    (["--sampler", "rademacher"], "sampler was 'normal', is 'rademacher'"),
    (["--width", "32", "--steps", "13"], "steps was 12, is 13, width was 16, is 32"),
    (["--seed", "1"], "seed was 0, is 1"),
]


@pytest.mark.parametrize(("flags", "message"), OTHERS)
def test_the_checkpoint_of_another_run(flags, message, finished, text):
    before = files(finished)
    common = [*SHORT, "--text", str(text)]
    with pytest.raises(SystemExit, match=r"holds a run with other settings .*; choose another --output") as error:
        main([*common, "--output", str(finished), *flags])
    assert message in str(error.value)
    assert files(finished) == before


def test_the_checkpoint_of_another_kind_of_key(finished, text):
    common = [*SHORT, "--text", str(text)]
    before = files(finished)
    with (
        jax.default_prng_impl("rbg"),
        pytest.raises(SystemExit, match="keys was 'threefry2x32', is 'rbg'"),
    ):
        main([*common, "--output", str(finished)])
    assert files(finished) == before


def test_a_checkpoint_that_cannot_be_read(finished, text, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(finished, folder)
    for path in (folder / "checkpoints" / "12" / "default").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = files(folder)
    with pytest.raises(SystemExit, match=r"the checkpoint .*12 cannot be read \(.+\); delete that folder"):
        main([*SHORT, "--text", str(text), "--output", str(folder)])
    assert files(folder) == before
    shutil.rmtree(folder / "checkpoints" / "12")  # as it says
    here(folder, text)
    assert bits(checkpoint(folder, 12)) == bits(checkpoint(finished, 12)) and metrics(folder) == metrics(finished)


def test_a_checkpoint_that_cannot_be_written(text, tmp_path, monkeypatch):
    def save(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    with pytest.raises(
        SystemExit, match=r"the checkpoint of step 1 cannot be written to .*No space.* before are whole"
    ):
        here(tmp_path, text)


@pytest.mark.slow
def test_a_full_disk(text, cache, tmp_path):
    folder, finished = tmp_path / "full", tmp_path / "finished"
    run(finished, text, cache)
    (said,) = run(folder, text, cache, code=1, file_limit=60_000)
    assert "the checkpoint of step" in said and "cannot be written to" in said and "those before are whole" in said
    run(folder, text, cache)  # when there is space again
    assert bits(checkpoint(folder, 12)) == bits(checkpoint(finished, 12)) and metrics(folder) == metrics(finished)


def test_the_most_noisy_layers_are_those_of_the_mask(monkeypatch, tmp_path):
    """What the command line refuses, and no more, the mask does not take."""
    monkeypatch.setattr(program, "_train", lambda options: options)
    monkeypatch.chdir(tmp_path)
    for number in (5, 6):
        model = Transformer(Sizes(2, 16, 2))
        params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8), np.int32))["params"]
        mask = lgv.layer_mask(number, lgv.layer_order(model, np.zeros((1, 8), np.int32)), scanned={"blocks": 0})
        command = [*SMALL.split(), "--noisy-layers", str(number)]
        if number == 5:
            assert main(command).noisy_layers == "5" and all(map(np.all, jax.tree.leaves(mask(nn.unbox(params)))))
        else:
            with pytest.raises(SystemExit):
                main(command)
            with pytest.raises(ValueError, match="5 layers"):
                mask(nn.unbox(params))


BAD = [
    (["--tensor", "3"], "--tensor 3 does not divide the 8 devices"),
    (["--width", "20"], "--width 20 is no multiple of the 8 devices that it is divided over"),
    (["--batch-size", "9"], "--batch-size 9 is no multiple of the 8 devices"),
    (["--tensor", "8", "--heads", "4"], "--heads 4 is no multiple of the 8 devices"),
    (["--heads", "3"], "--width 16 is no multiple of twice the --heads 3"),
    (["--text", "no-such-file"], "--text: cannot read no-such-file (No such file or directory)"),
    (["--length", "3000"], "the text has 4000 bytes, which is too short for --length 3000"),
]


@pytest.mark.parametrize(("flags", "message"), BAD)
def test_what_only_the_devices_and_the_text_tell(flags, message, text, tmp_path):
    with pytest.raises(SystemExit) as error:
        main([*SMALL.split(), "--text", str(text), "--output", str(tmp_path), *flags])
    assert message in str(error.value)
    assert not list(tmp_path.rglob("*.json*"))
