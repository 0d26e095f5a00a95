"""Values of flags, for argparse: each says its rule, and what it got."""

import argparse
from collections.abc import Callable
from typing import Any

LARGEST = 2**31 - 1  # of int32, which counts steps
LARGEST_FLOAT = 3.4e38  # about that of float32


def _value(kind: Callable[[str], Any], rule: str, holds: Callable[[Any], bool]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
            if holds(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"must be {rule}, got {text!r}")

    return parse


positive = _value(int, f"a whole number from 1 to {LARGEST}", lambda n: 1 <= n <= LARGEST)
index = _value(int, f"a whole number from 0 to {LARGEST}", lambda n: 0 <= n <= LARGEST)
rate = _value(float, f"a number from 0 to {LARGEST_FLOAT:g}", lambda x: 0 <= x <= LARGEST_FLOAT)
share = _value(float, "a share above 0 and up to 1", lambda x: 0 < x <= 1)


def _layers(text: str) -> str:
    return str(positive(text)) if text.isdecimal() else repr(share(text))


def layers(text: str) -> str:
    """``"4"``, or the share ``"0.3"``."""
    try:
        return _layers(text)
    except argparse.ArgumentTypeError:
        rule = "a whole number of layers, or a share above 0 and up to 1.0"
        raise argparse.ArgumentTypeError(f"must be {rule}, got {text!r}") from None
