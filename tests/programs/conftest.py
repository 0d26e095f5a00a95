import pytest


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Where programs write that are not told where."""
    monkeypatch.chdir(tmp_path)
