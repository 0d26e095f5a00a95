"""The data: a set that scikit-learn bundles, any image set of TensorFlow Datasets, or an ``.npz`` file."""

import functools
import logging
import sys
import textwrap
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Data(NamedTuple):
    name: str
    train_x: np.ndarray  # (images, height, width, channels), as it is stored, uint8 for most sets
    train_y: np.ndarray  # (images,), int32, from 0 to classes − 1
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int
    mean: np.ndarray  # (channels,): networks see (x − mean) / std
    std: np.ndarray

    @property
    def checksum(self) -> int:
        arrays = self.train_x, self.train_y, self.test_x, self.test_y, self.mean, self.std
        return functools.reduce(lambda checksum, array: zlib.crc32(array.tobytes(), checksum), arrays, 0)


def load(name: str, data_dir: str | None = None) -> Data:
    """``digits``, a file that ends in ``.npz``, or the name of a set of TensorFlow Datasets."""
    if name == "digits":
        return _digits()
    return _npz(Path(name)) if name.endswith(".npz") else _tfds(name, data_dir)


def _digits() -> Data:
    x, y = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        x.reshape(-1, 8, 8, 1).astype(np.uint8), y.astype(np.int32), test_size=360, stratify=y, random_state=0
    )
    # To [0, 1], as in the literature's figures for them.
    return Data("digits", train_x, train_y, test_x, test_y, 10, np.zeros(1, np.float32), np.full(1, 16, np.float32))


def _npz(path: Path) -> Data:
    try:
        with np.load(path) as file:
            arrays = [file[part] for part in ("x_train", "y_train", "x_test", "y_test")]
    except OSError as error:
        _stop(f"cannot read {str(path)!r}: {error.strerror or error}")
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        _stop(f"{str(path)!r} must hold x_train, y_train, x_test and y_test as plain arrays: {error}")
    return _standardized(path.stem, *arrays)


def _tfds(name: str, data_dir: str | None) -> Data:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        _stop(f'{name!r} is read with tensorflow-datasets: pip install "tensorflow-datasets"')
    where = {} if data_dir is None else {"data_dir": data_dir}
    try:
        builder = tfds.builder(name, **where)  # prepared earlier, in whatever format
        if not builder.is_prepared():
            builder = tfds.builder(name, file_format="array_record", **where)  # what is read without TensorFlow
    except Exception as error:
        _stop(f"{name!r} is neither 'digits', nor an .npz file, nor a set of tensorflow-datasets: {_line(error)}")
    features: Any = builder.info.features or {}
    if "image" not in features or "label" not in features or not hasattr(features["label"], "num_classes"):
        _stop(f"the set {name!r} of tensorflow-datasets has no 'image' and class 'label', but {features}")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # without a connection: a warning for each of many attempts
    if not builder.is_prepared():
        print(f"Preparing {name} in {builder.data_dir} (without a connection it takes minutes to give up).", flush=True)
    try:
        builder.download_and_prepare()
    except Exception as error:
        flag = "" if data_dir is None else f" --data_dir={data_dir}"
        _stop(
            f"{name!r} is not prepared in {builder.data_dir} and cannot be fetched now ({_line(error)}). Prepare it "
            "where there are a connection and TensorFlow, which is needed for that only, with\n"
            f"  tfds build {name} --file_format=array_record{flag}\n"
            "and copy the folder to where --data-dir says; or name an .npz file."
        )
    train, test = _read(tfds, builder, "train"), _read(tfds, builder, "test")
    return _standardized(name, *train, *test)._replace(classes=features["label"].num_classes)


def _read(tfds: Any, builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The images and the labels of a split, without TensorFlow where the format allows."""
    try:
        rows = builder.as_data_source(split)
    except NotImplementedError:  # how tensorflow-datasets says that TensorFlow alone reads this format
        try:
            rows = list(tfds.as_numpy(builder.as_dataset(split=split)))
        except ImportError:
            _stop(
                f"{builder.data_dir} is in a format that only TensorFlow reads: pip install tensorflow, or prepare it "
                f"anew with tfds build {builder.name} --file_format=array_record"
            )
    pairs = [(row["image"], row["label"]) for row in (rows[i] for i in range(len(rows)))]
    x, y = zip(*pairs, strict=True)
    return np.stack(x), np.array(y)


def _standardized(name: str, train_x: Any, train_y: Any, test_x: Any, test_y: Any) -> Data:
    """Checked; each channel of the training images has mean 0 and standard deviation 1."""
    (train_x, train_y), (test_x, test_y) = _checked("train", train_x, train_y), _checked("test", test_x, test_y)
    if train_x.shape[1:] != test_x.shape[1:]:
        _stop(f"training and test images differ in shape: {train_x.shape[1:]} and {test_x.shape[1:]}")
    classes = int(max(train_y.max(), test_y.max())) + 1
    if not 2 <= classes <= 100_000:
        _stop(f"{name} must have from 2 to 100000 classes, counted from 0, got {classes}")
    axes: Any = (0, 1, 2)
    mean, std = train_x.mean(axes, dtype=np.float64), train_x.std(axes, dtype=np.float64)
    std = np.where(std > 0, std, 1)  # a channel that is constant
    return Data(name, train_x, train_y, test_x, test_y, classes, mean.astype(np.float32), std.astype(np.float32))


def _checked(part: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or not len(x):
        _stop(f"x_{part} must have shape (images, height, width[, channels]), got {x.shape}")
    if x.dtype != np.uint8:
        if x.dtype.kind not in "fiu" or not (np.abs(x) <= np.finfo(np.float32).max).all():
            _stop(f"x_{part} must hold finite numbers, as float32, got dtype {x.dtype}")
        x = x.astype(np.float32)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or y.min() < 0:
        got = f"got shape {y.shape} and dtype {y.dtype}"
        _stop(f"y_{part} must hold a class, a whole number from 0, for each of the {len(x)} images, {got}")
    return x, y.astype(np.int32)


def _stop(message: str) -> NoReturn:
    sys.exit(f"error: {message}")


def _line(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {str(error).strip()}".splitlines()[0], 200)
