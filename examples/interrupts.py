"""Ctrl-C: one line, what is finished is kept, and the exit status that shells have for it."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

STATUS = 128 + signal.SIGINT


@contextlib.contextmanager
def stopping(message: str) -> Iterator[threading.Event]:
    """Within, Ctrl-C says the message and sets the event, on which the work ends where it can; once more: at once.

    An exception, which is Python's own way, would leave the other threads to the end of the interpreter.
    """
    stop = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            os._exit(STATUS)
        else:
            stop.set()
            _say(f"interrupted: {message} (Ctrl-C once more ends it at once)")

    with _handler(handle):
        yield stop


@contextlib.contextmanager
def ending(message: str | None) -> Iterator[None]:
    """Within, Ctrl-C says the message and ends the program at once, without waiting for any other process."""

    def handle(number: int, frame: Any) -> None:
        if message is not None:
            _say(f"interrupted: {message}")
        os._exit(STATUS)

    with _handler(handle):
        yield


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Where nothing needs care: without a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(STATUS)


@contextlib.contextmanager
def _handler(handle: Any) -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    # Signals come to the main thread alone; in the background of a script they are ignored, and stay so.
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _say(line: str) -> None:
    """Past Python's buffers, in which the signal may have come; on a line of its own if there is a progress bar."""
    os.write(2, f"{os.linesep if os.isatty(2) else ''}{line}{os.linesep}".encode())
