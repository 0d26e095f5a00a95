"""The data of examples/image_classification: bundled, in a file, and from TensorFlow Datasets."""

import io
import warnings

import numpy as np
import PIL.Image
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow_datasets as tfds

from examples.image_classification import __main__ as demo
from examples.image_classification import data, flags
from tests.programs.drawn import figures

RNG = np.random.default_rng(0)


def arrays(**changes):
    parts = {
        "x_train": RNG.integers(0, 256, (50, 8, 6, 3), dtype=np.uint8),
        "y_train": RNG.integers(0, 4, (50, 1)),
        "x_test": RNG.integers(0, 256, (20, 8, 6, 3), dtype=np.uint8),
        "y_test": np.full(20, 6),
    } | changes
    return {name: part for name, part in parts.items() if part is not None}


def load(tmp_path, **changes):
    np.savez(tmp_path / "own.npz", **arrays(**changes))
    return data.load(str(tmp_path / "own.npz"))


def test_the_digits():
    digits = data.load("digits")
    assert digits.train_x.shape == (1437, 8, 8, 1) and digits.test_x.shape == (360, 8, 8, 1)
    normalized = (digits.train_x - digits.mean) / digits.std
    assert normalized.min() == 0 and normalized.max() == 1 and digits.classes == 10
    train_counts, test_counts = np.bincount(digits.train_y), np.bincount(digits.test_y)
    np.testing.assert_allclose(test_counts, (train_counts + test_counts) * 360 / 1797, atol=1)


def test_a_file(tmp_path):
    own = load(tmp_path)
    assert own.name == "own" and own.classes == 7 and own.train_y.shape == (50,) and own.train_y.dtype == np.int32
    assert own.train_x.dtype == np.uint8 and own.train_x.shape == (50, 8, 6, 3)
    normalized = (own.train_x - own.mean) / own.std
    np.testing.assert_allclose(normalized.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std((0, 1, 2)), 1, rtol=1e-5)
    grey = load(tmp_path, x_train=np.ones((50, 8, 6)), x_test=np.zeros((20, 8, 6)))
    assert grey.train_x.shape == (50, 8, 6, 1) and grey.train_x.dtype == np.float32
    np.testing.assert_array_equal((grey.train_x - grey.mean) / grey.std, 0)  # a constant channel is no nan
    assert (
        own.checksum
        != grey.checksum
        == load(tmp_path, x_train=np.ones((50, 8, 6)), x_test=np.zeros((20, 8, 6)), y_train=grey.train_y).checksum
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, "must hold x_train, y_train, x_test and y_test"),
        ({"x_train": np.zeros((50, 48))}, r"x_train must have shape \(images, height, width\[, channels\]\)"),
        ({"x_train": np.zeros((0, 8, 6, 3))}, r"x_train must have shape .* got \(0, 8, 6, 3\)"),
        ({"x_train": np.full((50, 8, 6, 3), np.nan)}, "x_train must hold finite numbers"),
        ({"x_train": np.full((50, 8, 6, 3), "a")}, "x_train must hold finite numbers, as float32, got dtype <U1"),
        ({"x_test": np.zeros((20, 8, 8, 3))}, r"differ in shape: \(8, 6, 3\) and \(8, 8, 3\)"),
        ({"y_train": np.zeros(49, int)}, r"y_train must hold a class, .* for each of the 50 images, got shape \(49,\)"),
        ({"y_train": np.zeros(50)}, "y_train must hold a class, .* and dtype float64"),
        ({"y_test": np.full(20, -1)}, "y_test must hold a class, a whole number from 0"),
        ({"x_train": np.array([{}] * 50)}, "as plain arrays: Object arrays cannot be loaded"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(changes, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        load(tmp_path, **changes)


def test_a_file_that_is_no_file(tmp_path):
    (tmp_path / "text.npz").write_text("not a zip")
    with pytest.raises(SystemExit, match="must hold x_train"):
        data.load(str(tmp_path / "text.npz"))
    with pytest.raises(SystemExit, match=r"cannot read .*none\.npz"):
        data.load(str(tmp_path / "none.npz"))


# TensorFlow Datasets


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("mnist", (28, 28, 1), 10),
        ("fashion_mnist", (28, 28, 1), 10),
        ("cifar10", (32, 32, 3), 10),
        ("cifar100", (32, 32, 3), 100),
    ],
)
def test_sets_of_tensorflow_datasets(name, shape, classes, tmp_path):
    with tfds.testing.mock_data(num_examples=30):
        got = data.load(name, str(tmp_path))
    assert got.name == name and got.classes == classes
    assert got.train_x.shape == got.test_x.shape == (30, *shape) and got.train_x.dtype == np.uint8
    assert got.train_y.shape == (30,) and got.train_y.max() < classes


class Shades(tfds.core.GeneratorBasedBuilder):
    """Grey images whose label is their brightness; the test images are darker."""

    VERSION = tfds.core.Version("1.0.0")
    reached = True

    def _info(self):
        features = {"image": tfds.features.Image(shape=(4, 4, 1)), "label": tfds.features.ClassLabel(num_classes=5)}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        if not self.reached:
            raise ConnectionError("no route to host")
        return {"train": self._generate_examples(40), "test": self._generate_examples(20)}

    def _generate_examples(self, brightness):
        for i in range(10):
            file = io.BytesIO()  # of an array tensorflow-datasets makes a file with TensorFlow
            PIL.Image.fromarray(np.full((4, 4), brightness + i % 5, np.uint8)).save(file, "png")
            file.seek(0)
            yield i, {"image": file, "label": i % 5}


def test_a_set_that_was_prepared_is_read_without_a_connection(tmp_path, monkeypatch):
    got = data.load("shades", str(tmp_path))
    monkeypatch.setattr(Shades, "reached", False)
    again = data.load("shades", str(tmp_path))
    assert got.checksum == again.checksum and got.classes == 5
    np.testing.assert_array_equal(got.train_x[:, 0, 0, 0], 40 + got.train_y)
    np.testing.assert_array_equal(got.test_x[:, 3, 3, 0], 20 + got.test_y)
    assert sorted(got.train_y) == sorted([*range(5)] * 2)


def test_a_set_that_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(Shades, "reached", False)
    with pytest.raises(SystemExit) as stop:
        demo.main(["--data", "shades", "--data-dir", str(tmp_path / "sets"), "--output", str(tmp_path)])
    message = stop.value.code
    assert "'shades' is not prepared in" in message and "no route to host" in message
    assert f"tfds build shades --file_format=array_record --data_dir={tmp_path / 'sets'}" in message


def test_a_set_that_tensorflow_alone_reads(tmp_path, monkeypatch):
    data.load("shades", str(tmp_path))

    def without(error):
        def fails(self, **kwargs):
            raise error

        return fails

    monkeypatch.setattr(Shades, "as_data_source", lambda self, split: without(NotImplementedError)(self))
    monkeypatch.setattr(Shades, "as_dataset", without(ImportError("no module named 'tensorflow'")))
    with pytest.raises(SystemExit, match="in a format that only TensorFlow reads: pip install tensorflow, or prepare"):
        data.load("shades", str(tmp_path))


def test_a_set_without_labels():
    with pytest.raises(SystemExit, match="'imdb_reviews' of tensorflow-datasets has no 'image' and class 'label'"):
        data.load("imdb_reviews", "nowhere")


CIFAR = [name for name in flags.PRESETS if name.startswith("cifar")]


def preset(name, tmp_path, *argv):
    with tfds.testing.mock_data(num_examples=12):
        small = ["--seeds", "1", "--epochs", "1", "--batch-size", "6"]
        demo.main(["--preset", name, "--data-dir", str(tmp_path), "--output", str(tmp_path / "results"), *small, *argv])
    return (tmp_path / "results" / "results.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10-vgg", "cifar100-resnet"])
def test_cifar_presets_end_to_end(name, tmp_path, monkeypatch):
    """Of depth 1, for the time that compiling takes; the slow test has all in full."""
    figures(monkeypatch)
    table = preset(name, tmp_path, "--methods", "ll-rmsprop", "--depths", "1")
    assert "LL-RMSprop 30 %" in table and f"{name.split('-')[0]}, 12 training and 12 test images, augmented" in table


@pytest.mark.slow
@pytest.mark.parametrize("name", CIFAR)
def test_cifar_presets_in_full(name, tmp_path):
    assert "LL-Adadelta 30 %" in preset(name, tmp_path)
