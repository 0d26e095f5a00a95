"""Values of flags, for argparse: each says its rule, and what it got."""

import argparse
import math

LARGEST = 2**31 - 1  # of int32, which counts steps
LARGEST_FLOAT = 3.4e38  # about that of float32


def positive(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    if int(text) > LARGEST:
        raise argparse.ArgumentTypeError(f"must be a whole number of at most {LARGEST}, got {text!r}")
    return int(text)


def index(text: str) -> int:
    """A seed, or a place counted from 0."""
    if not (text.isdecimal() and int(text) <= LARGEST):
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {LARGEST}, got {text!r}")
    return int(text)


def address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not (host and port.isdecimal() and 1 <= int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, with a port from 1 to 65535, got {text!r}")
    return text


def _finite(text: str) -> float:
    """Or nan, which no rule takes."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return value if math.isfinite(value) else math.nan


def rate(text: str) -> float:
    value = _finite(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    if value > LARGEST_FLOAT:
        raise argparse.ArgumentTypeError(f"must be a number of at most {LARGEST_FLOAT:g}, got {text!r}")
    return value


def share(text: str) -> float:
    value = _finite(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a share above 0 and up to 1, got {text!r}")
    return value


def layers(text: str) -> str:
    if text.isdecimal() and 1 <= int(text) <= LARGEST:
        return str(int(text))
    value = _finite(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of layers, or a share above 0 and up to 1.0, got {text!r}"
        )
    return repr(value)
