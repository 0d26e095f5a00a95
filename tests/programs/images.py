"""What the tests of examples/image_classification share: a few images, and what is trained on them."""

import contextlib
import functools
import io
import json

import numpy as np

from examples.image_classification import __main__ as demo
from examples.image_classification import data, methods, train

DIGITS = data.load("digits")
SMALL = DIGITS._replace(
    name="small",
    train_x=DIGITS.train_x[:256],
    train_y=DIGITS.train_y[:256],
    test_x=DIGITS.test_x[:128],
    test_y=DIGITS.test_y[:128],
)
DEFAULTS = dict(data="small", data_checksum=SMALL.checksum, model="dense", depth=2, width=64)
DEFAULTS |= dict(augment=False, batch_size=128, epochs=2)


def method(text, for_all=""):
    """From the command line's words, without those of a preset."""
    return methods.method(*methods.parse(text), methods.parse_settings(for_all) if for_all else {})


def task(text="adam", **changes):
    return train.Task(**DEFAULTS | changes, method=method(text))


@functools.cache
def curves(task, seeds=(0, 1)):
    """Accuracy and loss, (epochs, seeds)."""
    training = train.prepare(task, SMALL)
    runs, epochs = training.start(seeds), []
    for number in range(task.epochs):
        runs, curve = training.epoch(runs, np.int32(number), training.images)
        epochs.append(curve)
    return [np.array(curve) for curve in zip(*epochs, strict=True)]


def main(*argv):
    """Both outputs."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        demo.main([str(argument) for argument in argv])
    return stdout.getvalue(), stderr.getvalue()


def runs(output):
    """The files of all that have ended."""
    return [json.loads(path.read_text()) for path in sorted((output / "runs").glob("*.json"))]
