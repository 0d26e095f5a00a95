"""The text to learn, as bytes: any file, or what every Python brings along."""

import sysconfig
import zlib
from pathlib import Path

import numpy as np

from examples.storage import StorageError


class Text:
    """Batches of a step, a function of the step and the seed alone: a resumed run needs no state of the data."""

    def __init__(self, path: Path | None, length: int):
        try:
            content = _standard_library() if path is None else path.read_bytes()
        except OSError as error:
            raise StorageError(f"--text: cannot read {path} ({error.strerror})") from None
        self.checksum = zlib.crc32(content)
        everything = np.frombuffer(content, np.uint8)
        held_out = max(len(everything) // 20, length + 1)
        if len(everything) < 2 * held_out:
            raise StorageError(f"the text has {len(everything)} bytes, which is too short for --length {length}")
        self.training, self._held_out = everything[:-held_out], everything[-held_out:]
        self._length = length

    def batch(self, size: int, step: int, seed: int) -> np.ndarray:
        """Bytes of shape (size, length + 1), from random places."""
        places = np.random.default_rng((seed, step)).integers(len(self.training) - self._length, size=size)
        return self.training[places[:, None] + np.arange(self._length + 1)].astype(np.int32)

    def held_out(self, size: int) -> np.ndarray:
        """The first bytes of the last twentieth of the text, of the same shape."""
        places = np.linspace(0, len(self._held_out) - self._length - 1, size).astype(int)
        return self._held_out[places[:, None] + np.arange(self._length + 1)].astype(np.int32)


def _standard_library() -> bytes:
    """The modules of Python's own library, about 5 MB of code and English."""
    folder = Path(sysconfig.get_path("stdlib"))
    return b"\n".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
