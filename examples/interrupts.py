"""Ctrl-C: one line, and the exit status that shells have for it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

STATUS = 128 + signal.SIGINT


@contextlib.contextmanager
def ending(message: str | None = None) -> Iterator[None]:
    """Within, Ctrl-C ends the program at once, without waiting for a thread: files are written whole or not at all."""

    def handle(number: int, frame: Any) -> None:
        line = "interrupted" if message is None else f"interrupted: {message}"
        # Past Python's buffers, in which the signal may have come; on a line of its own if there is a progress bar.
        os.write(2, f"{os.linesep if os.isatty(2) else ''}{line}{os.linesep}".encode())
        os._exit(STATUS)

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
