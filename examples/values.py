"""Values of flags, for argparse: each says its rule, and what it got."""

import argparse
import math


def positive(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


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
    return value


def share(text: str) -> float:
    value = _finite(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a share above 0 and up to 1, got {text!r}")
    return value


def layers(text: str) -> str:
    if text.isdecimal() and int(text) >= 1:
        return str(int(text))
    value = _finite(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of layers, or a share above 0 and up to 1.0, got {text!r}"
        )
    return repr(value)
