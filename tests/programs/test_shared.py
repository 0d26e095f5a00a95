"""What the programs share: how numbers are written, what a folder keeps, what Ctrl-C does."""

import argparse
import json
import os
import signal
import threading

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from examples import interrupts, storage, values
from examples.presentation import counted, duration, finish, plural, rounded, seeds, side_by_side


@pytest.mark.parametrize(
    ("value", "text"),
    [(230.4, "230"), (1.0, "1"), (0.012345, "0.0123"), (12345, "12,300"), (9.9996, "10"), (0, "0"), (-2.5, "-2.5")],
)
def test_numbers_have_no_powers_of_ten(value, text):
    assert rounded(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.23, "230 ms"), (2.3e-5, "23 µs"), (1.5, "1.5 s"), (0.99996, "1 s"), (9.9996e-4, "1 ms"), (3e-9, "0.003 µs")],
)
def test_times_can_be_read(seconds, text):
    assert duration(seconds) == text
    assert duration(0.2345, digits=2) == "230 ms"  # and not 2.3e+02 ms


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ("1 seed", "2 seeds"),
        ("1 epoch", "2 epochs"),
        ("1 batch", "2 batches"),
        ("1 process", "2 processes"),
        ("1 study", "2 studies"),
        ("1 block per stage", "2 blocks per stage"),
    ],
)
def test_grammar(one, several):
    unit = one.removeprefix("1 ")
    assert (counted(1, unit), counted(2, unit)) == (one, several)
    assert counted(0, unit) == f"0 {plural(unit)}"


def test_seeds_are_named():
    assert [seeds(number) for number in (1, 2, 10)] == ["seed 0", "seeds 0 and 1", "seeds 0 to 9"]


def test_side_by_side():
    np.testing.assert_allclose(side_by_side(1, 0.5), [0])
    np.testing.assert_allclose(side_by_side(4, 2), [-0.75, -0.25, 0.25, 0.75])


def test_a_folder_may_show_more_and_nothing_less(tmp_path):
    storage.check(tmp_path, {"a": 1})  # an empty folder takes anything
    storage.keep(tmp_path, {"a": 1, "b": {"x": (1, 2), "y": None}})
    storage.check(tmp_path, {"b": {"x": (1, 2), "y": None}, "a": 1, "more": True})
    for settings, said in (
        ({"a": 1}, r"\(b is left out\)"),
        ({"a": 2, "b": {"x": (1, 2), "y": None}}, r"\(a was 1, is 2\)"),
        ({"b": None}, r"\(a is left out, b was {'x': \[1, 2\], 'y': None}, is None\)"),
    ):
        with pytest.raises(SystemExit, match=rf"error: .* has results of .*{said}; choose another --output"):
            storage.check(tmp_path, settings)
    storage.keep(tmp_path, {"a": None})
    with pytest.raises(SystemExit, match="a is left out"):
        storage.check(tmp_path, {})
    assert json.loads((tmp_path / "settings.json").read_text()) == {"a": None}
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(SystemExit, match=r"error: .*settings\.json cannot be read; mend or remove it"):
        storage.check(tmp_path, {})


def test_a_folder_is_made(tmp_path):
    path = storage.folder(str(tmp_path / "a" / "b"))
    assert path.is_dir() and storage.folder(str(path)) == path
    (tmp_path / "file").write_text("")
    with pytest.raises(argparse.ArgumentTypeError, match=r"cannot make the folder '.*file': File exists"):
        storage.folder(str(tmp_path / "file"))


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = storage.write_whole(tmp_path / "a.json", "1")
    monkeypatch.setattr(os, "replace", lambda partial, to: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        storage.write_whole(path, "2")
    assert path.read_text() == "1"


def test_a_picture_is_drawn_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    figure, axis = plt.subplots()
    axis.plot([1, 2])
    assert finish(figure, "title", "note", path, legend=False) == path
    before = path.read_bytes()

    def torn(figure, path, **kwargs):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", torn)
    with pytest.raises(KeyboardInterrupt):
        finish(plt.figure(), "title", "note", path, legend=False)
    assert path.read_bytes() == before and len(before) > 1000


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (values.positive, {"1": 1, "2147483647": 2147483647}, ["0", "-1", "1.5", "", "x", "2147483648"]),
        (values.index, {"0": 0, "7": 7}, ["-1", "2147483648", "one"]),
        (values.rate, {"0": 0.0, "1e-3": 1e-3}, ["-1", "nan", "inf", "1e39", ""]),
        (values.share, {"1": 1.0, "0.3": 0.3}, ["0", "1.5", "nan", "-0.1"]),
        (values.layers, {"4": "4", "04": "4", "0.30": "0.3", "1.0": "1.0"}, ["0", "1.5", "-1", "nan", "99999999999"]),
    ],
)
def test_values_of_flags(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"must be a .*, got '{text}'"):
            kind(text)


@pytest.fixture
def left(interruptible, monkeypatch):
    """The statuses with which the program would have ended at once."""
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    return statuses


@pytest.mark.parametrize(("message", "said"), [("going", "interrupted: going\n"), (None, "interrupted\n")])
def test_ctrl_c_ends(message, said, left, capfd):
    with interrupts.ending(message):
        signal.raise_signal(signal.SIGINT)
    assert left == [130] and capfd.readouterr().err == said


def test_ctrl_c_that_is_ignored_stays_so(left, capfd):
    """A job in the background of a script: the terminal's Ctrl-C is not for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts.ending("going"):
        signal.raise_signal(signal.SIGINT)
    assert not capfd.readouterr().err and not left
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN


def test_in_another_thread_there_are_no_signals():
    found = []

    def work():
        with interrupts.ending("going"):
            found.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found
