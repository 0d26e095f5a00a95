"""A folder of results: one program at a time writes to it, and none takes away what another one put there."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class StorageError(Exception):
    """A folder cannot be used as it is; the message is for the user."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(
                f"another program is writing to {folder}; wait for it, or choose another --output"
            ) from None
        yield


class Shown:
    """What the tables and pictures of a folder show, by name, in its settings.json: they may grow, and lose nothing."""

    def __init__(self, folder: Path):
        self._folder, self._path = folder, folder / "settings.json"

    def check(self, settings: Mapping[str, Any], renamed: bool = False) -> None:
        """Raises StorageError if these settings leave out or change what is there, under another name if it may be."""
        if not self._path.exists():
            return
        try:
            there = dict(json.loads(self._path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise StorageError(f"{self._path} cannot be read; mend or remove it") from None
        here = json.loads(json.dumps(settings))
        if renamed:
            there = {name: v for name, v in there.items() if not (isinstance(v, dict) and v in here.values())}
        differences = list(_differences(there, here))
        if differences:
            more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
            raise StorageError(
                f"{self._folder} has tables that would be replaced ({', '.join(differences[:3])}{more}); choose "
                "another --output, or ask for all that is there and more"
            )

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Whether all that is there is in these settings."""
        try:
            self.check(settings)
        except StorageError:
            return False
        return True

    def write(self, settings: Mapping[str, Any]) -> None:
        write_whole(self._path, json.dumps(settings, indent=2) + "\n")


def _differences(there: dict[str, Any], here: dict[str, Any]) -> Iterator[str]:
    for name, value in there.items():
        if name in here:
            yield from _changes(name, value, here[name])
        else:
            yield f"{name} is left out"


def _changes(name: str, there: Any, here: Any) -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in there | here:
            yield from _changes(f"{name}: {key}", there.get(key), here.get(key))
    elif there != here:
        yield f"{name} was {there!r}, is {here!r}"


def write_whole(path: Path, content: str) -> None:
    """All of it or nothing."""
    partial = path.with_suffix(".partial")
    partial.write_text(content, encoding="utf-8")
    os.replace(partial, path)
