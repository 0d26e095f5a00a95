"""One program at a time writes to a folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


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
