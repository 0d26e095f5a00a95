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
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from examples.distributed import train
from examples.distributed.__main__ import main, parse
from examples.distributed.model import Sizes, Transformer
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
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["bits_per_byte"] for line in lines]


def run(folder, text, cache, *flags, processes=1, port=None, code=0, file_limit=None):
    """The same command by so many processes, which have four devices together."""
    common = [*SHORT, "--text", text, "--output", folder, *flags]
    several = ["--coordinator", f"localhost:{port}", "--processes", processes] if processes > 1 else []
    logs = [folder.parent / f"{folder.name}-{i}.log" for i in range(processes)]
    how = {"devices": 4 // processes, "cache": cache, "file_limit": file_limit}
    commands = [[*common, *several, *(["--process", i] if several else [])] for i in range(processes)]
    running = [forked.start(command, log, **how) for command, log in zip(commands, logs, strict=True)]
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
    assert "on 4 devices of 1 process, from step 0 to 12." in said[0]
    port = random.Random(str(tmp_path)).randrange(20_000, 50_000)
    run(two, text, cache, processes=2, port=port)
    said = run(four, text, cache, processes=4, port=port + 1)
    assert "on 4 devices of 4 processes" in said[0]
    assert not any("bits per byte" in s for s in said[1:])  # the first speaks for all

    def assert_same(a, b):
        np.testing.assert_allclose(metrics(a), metrics(b), rtol=1e-5)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), *end(a, b))

    def end(*folders):
        return [{k: v for k, v in checkpoint(f, 12).items() if k != "optimizer"} for f in folders]

    assert len(metrics(one)) == 12
    assert_same(one, two)
    assert_same(one, four)

    # Written by four, read by one on another mesh; written by one, read by four; and gone on with on the same mesh.
    by_one, by_four = before_the_end(four, tmp_path / "by_one"), before_the_end(one, tmp_path / "by_four")
    assert "from step 8 to 12" in run(by_one, text, cache, "--tensor", 2)[0]
    assert "from step 8 to 12" in run(by_four, text, cache, processes=4, port=port + 2)[0]
    assert bits(checkpoint(by_one, 8)) == bits(checkpoint(four, 8))
    assert_same(by_one, four)
    assert_same(by_four, one)
    # Processes add up gradients in another order than one process does; the same number of them does not.
    again = before_the_end(four, tmp_path / "again")
    run(again, text, cache, processes=4, port=port + 3)
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


@pytest.mark.slow
def test_a_full_disk(text, cache, tmp_path):
    folder, finished = tmp_path / "full", tmp_path / "finished"
    run(finished, text, cache)
    (said,) = run(folder, text, cache, code=1, file_limit=60_000)
    # Orbax logs its tracebacks before; of the program there is one line.
    assert re.search(r"^error: cannot write a checkpoint to .*; those before are whole \(.+\)$", said, re.MULTILINE)
    run(folder, text, cache)  # when there is space again
    assert bits(checkpoint(folder, 12)) == bits(checkpoint(finished, 12)) and metrics(folder) == metrics(finished)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_ctrl_c(number, text, tmp_path):
    """A terminal sends it to all processes: each ends at once, though the others do not answer any more."""
    port = random.Random(str(tmp_path)).randrange(20_000, 50_000)
    command = [*SMALL.split(), "--steps", 1_000_000, "--checkpoint-steps", 4, "--text", text, "--output", tmp_path]
    several = ["--coordinator", f"localhost:{port}", "--processes", number, "--process"] if number > 1 else []
    running = [processes.start("examples.distributed", *command, *several, *[i] * (number > 1)) for i in range(number)]
    processes.wait_until(lambda: list(tmp_path.glob("checkpoints/4")), *running)
    for process in running:
        process.send_signal(signal.SIGINT)
    for status, stdout, stderr in map(processes.finish, running):
        assert status == 130 and "after" not in stdout
        assert stderr.endswith("interrupted: the same command goes on from the last checkpoint\n")


@pytest.fixture(scope="module")
def compiled():
    """The one program of ``here``."""
    return []


@pytest.fixture(scope="module")
def here(text, compiled):
    """Trains in this process, on its eight devices, and gives what it said."""

    def once(*args):
        if not compiled:
            compiled.append(Training(*args))
        return compiled[0]

    def command(folder, *flags):
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(said):
            monkeypatch.setattr(train, "Training", once)
            main([*SHORT, "--text", str(text), "--output", str(folder), *flags])
        return said.getvalue()

    return command


@pytest.fixture(scope="module")
def finished(tmp_path_factory, here):
    folder = tmp_path_factory.mktemp("finished") / "run"
    (folder.parent / "said").write_text(here(folder))
    return folder


def test_what_it_says(finished, here):
    first, result = (finished.parent / "said").read_text().splitlines()
    assert re.fullmatch(r"0\.\d+ million parameters on 8 devices of 1 process, from step 0 to 12\.", first)
    assert re.fullmatch(rf"\d\.\d{{3}} bits per byte on held-out text after 12 steps: {finished}", result)
    assert len(metrics(finished)) == 12
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"8", "12"}
    before = files(finished)
    again = here(finished).splitlines()
    assert again[0].endswith("from step 12 to 12.") and again[1] == result and files(finished) == before


def test_a_run_that_diverges(finished, compiled, here, tmp_path, monkeypatch):
    step = compiled[0].step
    monkeypatch.setattr(compiled[0], "step", lambda state, batch: (step(state, batch)[0], jnp.nan))
    assert "after 2 steps:" in here(tmp_path, "--steps", "2")
    assert metrics(tmp_path) == [None, None]  # as JSON has no nan
    assert (tmp_path / "checkpoints" / "2").exists()  # the last step, whatever --checkpoint-steps


OTHERS = {
    "--optimizer adam": "optimizer was 'll-adam', is 'adam'",
    "--sampler rademacher": "sampler was 'normal', is 'rademacher'",
    "--width 32 --steps 13": "width was 16, is 32, steps was 12, is 13",
    "--seed 1": "seed was 0, is 1",
    f"--text {__file__}": "text was ",
}


def test_the_checkpoint_of_another_run(finished, here):
    before = files(finished)
    for flags, message in OTHERS.items():
        with pytest.raises(SystemExit, match=rf"^error: .* \({message}.*\); choose another --output"):
            here(finished, *flags.split())
    with jax.default_prng_impl("rbg"), pytest.raises(SystemExit, match="keys was 'threefry2x32', is 'rbg'"):
        here(finished)
    assert files(finished) == before


def test_a_checkpoint_that_cannot_be_read(finished, here, tmp_path):
    """The one before goes on to the same end, bit for bit."""
    folder = shutil.copytree(finished, tmp_path / "broken")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "bi')  # a kill
    for path in (folder / "checkpoints" / "12" / "default").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    before = files(folder)
    with pytest.raises(SystemExit, match=r"^error: cannot read the checkpoint .*12; delete it .* \(.+\)$"):
        here(folder)
    assert files(folder) == before
    shutil.rmtree(folder / "checkpoints" / "12")  # as it says
    assert "from step 8 to 12." in here(folder)
    assert bits(checkpoint(folder, 12)) == bits(checkpoint(finished, 12)) and metrics(folder) == metrics(finished)


def test_a_checkpoint_that_cannot_be_written(here, tmp_path, monkeypatch):
    def save(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    with pytest.raises(SystemExit, match=r"^error: cannot write a checkpoint to .*those before are whole .*No space"):
        here(tmp_path)


def test_the_noise_is_on_the_first_layers(tmp_path):
    """The embedding and a block of three: without gradients, the update is noise."""
    model = Transformer(Sizes(3, 16, 2))
    tx = train.optimizer(parse(["--noisy-layers", "2", "--output", str(tmp_path)]), model)
    params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))["params"])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    updates, _ = jax.jit(lambda z: tx.update(z, tx.init(z), z))(zeros)
    assert np.all(updates["embed"]["embedding"])
    for leaf in jax.tree.leaves(updates["blocks"]):
        assert np.all(leaf[0]) and not np.any(leaf[1:])
    assert not np.any(updates["head"]["kernel"]) and not np.any(updates["norm"]["scale"])
