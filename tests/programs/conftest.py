import signal

import pytest


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Where programs write that are not told where."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def interruptible():
    """As in a terminal: in the background of a script Ctrl-C is ignored. Whoever handles it puts all back."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler
