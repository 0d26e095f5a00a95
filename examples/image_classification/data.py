"""The data: scikit-learn's bundled digits, 8×8 grey levels, nothing to download."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Data(NamedTuple):
    train_x: np.ndarray  # (images, features), float32
    train_y: np.ndarray  # (images,), int32
    test_x: np.ndarray
    test_y: np.ndarray


def digits() -> Data:
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int32)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=360, stratify=y, random_state=0)
    return Data(train_x, train_y, test_x, test_y)
