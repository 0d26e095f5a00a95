"""What the programs share: how numbers are written, what a folder keeps, what Ctrl-C does."""

import json
import os
import signal
import threading

import numpy as np
import pytest

from examples import interrupts
from examples.presentation import counted, duration, plural, rounded, seeds, side_by_side
from examples.storage import Shown, StorageError


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
    shown = Shown(tmp_path)
    shown.check({"a": 1})  # an empty folder takes anything
    shown.write({"a": 1, "b": {"x": (1, 2), "y": None}})
    shown.check({"b": {"x": (1, 2), "y": None}, "a": 1, "more": True})
    for settings, said in (
        ({"a": 1}, r"\(b is left out\)"),
        ({"a": 2, "b": {"x": (1, 2), "y": None}}, r"\(a was 1, is 2\)"),
        (
            {"a": 1, "b": {"x": (1, 3), "y": 0, "z": 5}},
            r"b: x was \[1, 2\], is \[1, 3\], b: y was None, is 0, b: z was N",
        ),
        ({"b": {}}, r"a is left out, b: x was \[1, 2\], is None\)"),
    ):
        with pytest.raises(StorageError, match=rf"has tables .*{said}.*; choose another --output"):
            shown.check(settings)
        assert not shown.holds(settings)
    shown.check({"a": 1, "c": {"x": (1, 2), "y": None}}, renamed=True)
    shown.write({"a": {"b": {"x": 1, "y": 2}}})
    with pytest.raises(StorageError, match=r"\(a: b: y was 2, is 3\)"):
        shown.check({"a": {"b": {"x": 1, "y": 3}}}, renamed=True)
    shown.write({str(i): i for i in range(5)})
    with pytest.raises(StorageError, match=r"\(0 is left out, 1 is left out, 2 is left out, and 2 more\)"):
        shown.check({})
    assert json.loads((tmp_path / "settings.json").read_text()) == {str(i): i for i in range(5)}
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


@pytest.fixture
def left(interruptible, monkeypatch):
    """The statuses with which the program would have ended at once."""
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    return statuses


def press():
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_once_stops_and_twice_ends(left, capfd):
    with interrupts.stopping("saving") as stop:
        assert not stop.is_set()
        press()
        assert stop.is_set() and not left
        press()
    assert left == [130]
    assert capfd.readouterr().err == "interrupted: saving (Ctrl-C once more ends it at once)\n"


@pytest.mark.parametrize(("message", "said"), [("going", "interrupted: going\n"), (None, "")])
def test_ctrl_c_ends(message, said, left, capfd):
    with interrupts.ending(message):
        press()
    assert left == [130] and capfd.readouterr().err == said


def test_ctrl_c_in_one_line(left, capfd):
    with pytest.raises(SystemExit) as stop, interrupts.in_one_line():
        press()
    assert stop.value.code == 130 and capfd.readouterr().err == "interrupted\n"


def test_ctrl_c_that_is_ignored_stays_so(left, capfd):
    """A job in the background of a script: the terminal's Ctrl-C is not for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts.stopping("saving") as stop:
        press()
    assert not stop.is_set() and not capfd.readouterr().err and not left
    assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN


def test_in_another_thread_there_are_no_signals():
    found = []

    def work():
        with interrupts.stopping("saving") as stop, interrupts.ending("going"):
            found.append(stop.is_set())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
