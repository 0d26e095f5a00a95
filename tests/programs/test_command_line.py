"""Bad input to the programs: each stops before it begins to work, and says the rule and what it got.

`BAD` is the table: what follows ``python -m`` and the name of the program, and the message, as a regular expression.
argparse exits with status 2; with status 1 a program exits that had to look at files, data or devices first.
"""

import re
import shlex

import numpy as np
import pytest
from orbax import checkpoint

from benchmarks import __main__ as benchmarks
from examples.distributed import __main__ as distributed
from examples.image_classification import __main__ as image_classification
from examples.image_classification.sweep import Sweep
from examples.spirals import __main__ as spirals

ENTRIES = "must be a whole number from 1 to 1e12, such as 1e7, got"
WHOLE = "must be a whole number from 1 to 2147483647, got"
NUMBER = r"must be a number from 0 to 3\.4e\+38, got"
SHARE = "must be a share above 0 and up to 1, got"
INDEX = "must be a whole number from 0 to 2147483647, got"
LAYERS = r"must be a whole number of layers, or a share above 0 and up to 1\.0, got"
KEYS = "must be KEY=VALUE,... with keys of learning_rate, .*, coupling, got"
FEW = "expected at least one argument"
IMAGES = r"must have shape \(images, height, width\[, channels\]\), got"
FINITE = "must hold finite numbers, as float32, got dtype"
CLASSES = "must hold a class, a whole number from 0, for each of the"
ARRAYS = "must hold x_train, y_train, x_test and y_test as plain arrays:"

BAD = {
    "examples.image_classification": {
        "--unknown 1": (2, "unrecognized arguments: --unknown 1"),
        "digits": (2, "unrecognized arguments: digits"),
        "--preset imagenet": (2, "--preset: invalid choice: 'imagenet'"),
        "--model transformer": (2, "--model: invalid choice: 'transformer'"),
        "--depths": (2, f"--depths: {FEW}"),
        "--depths 10 0": (2, f"--depths: {WHOLE} '0'"),
        "--seeds 0": (2, f"--seeds: {WHOLE} '0'"),
        "--epochs 1.5": (2, rf"--epochs: {WHOLE} '1\.5'"),
        "--batch-size -1": (2, f"--batch-size: {WHOLE} '-1'"),
        "--seeds-at-once 0": (2, f"--seeds-at-once: {WHOLE} '0'"),
        "--methods": (2, f"--methods: {FEW}"),
        "--methods adam l-adm": (2, "--methods: no optimiser 'l-adm'"),
        "--methods adam:eps": (2, f"--methods: {KEYS} 'eps'"),
        "--methods adam:epsilon=1": (2, f"--methods: {KEYS} 'epsilon=1'"),
        "--methods adam:eps=1,eps=2": (2, "--methods: eps is given twice"),
        "--methods ll-adam:layers=:0.3": (2, "--methods: layers must be K, SHARE, last:SHARE or .*, got ':0.3'"),
        "--methods adam:eps=-1": (2, f"--methods: eps {NUMBER} '-1'"),
        "--methods adam:sigma=1": (
            2,
            "--methods: adam has no sigma; it has learning_rate, learning_rate_schedule, eps",
        ),
        "--methods l-adam:layers=1": (2, "--methods: l-adam has no layers; it has"),
        "--methods lol:coupling=1": (2, "--methods: lol has no coupling; it has"),
        "--all ''": (2, f"--all: {KEYS} ''"),
        "--all sigma=1,2": (2, f"--all: {KEYS} '2'"),
        "--all learning_rate=1e39": (2, f"--all: learning_rate {NUMBER} '1e39'"),
        "--all learning_rate_schedule=warmup": (2, "--all: learning_rate_schedule must be one of .*, got 'warmup'"),
        "--all layers=last:0": (2, f"--all: layers {LAYERS} '0'"),
        "--all noisy_steps=1.5": (2, rf"--all: noisy_steps {SHARE} '1\.5'"),
        "--output text.npz": (2, r"--output: cannot make the folder 'text\.npz': File exists"),
        "--data none.npz": (1, r"cannot read 'none\.npz': No such file or directory"),
        "--data folder.npz": (1, r"cannot read 'folder\.npz': Is a directory"),
        "--data text.npz": (1, rf"'text\.npz' {ARRAYS}"),
        "--data flipped.npz": (1, rf"'flipped\.npz' {ARRAYS} Bad CRC-32 for file 'x_train.npy'"),
        "--data of_rows.npz": (1, rf"x_train {IMAGES} \(200, 64\)"),
        "--data of_nans.npz": (1, f"x_train {FINITE} float64"),
        "--data of_one_hot.npz": (1, rf"y_train {CLASSES} 200 images, got shape \(200, 10\) and dtype int64"),
        "--data of_one_class.npz": (1, "of_one_class must have from 2 to 100000 classes, counted from 0, got 1"),
        "--data no_such_set": (1, r"'no_such_set' is neither 'digits', nor an \.npz file, nor a set of tens"),
        "--batch-size 2000": (1, "--batch-size: digits has only 1437 training images"),
        "--methods ll-adam:layers=12 --depths 9": (
            1,
            "dense with 9 hidden layers and ll-adam:.* on digits: layers=12, but there are 10 layers with param",
        ),
        "--methods baoab:learning_rate=0,learning_rate_schedule=constant": (
            1,
            r"baoab:.* on digits: step_size must be > 0, got 0\.0",
        ),
        "--output shows": (1, r"shows has results of .* \(1 hidden layer, SGD is left out\); choose another --output"),
        "--output torn": (1, r"torn/settings\.json cannot be read; mend or remove it"),
    },
    "examples.spirals": {
        "--unknown 1": (2, "unrecognized arguments: --unknown 1"),
        "--preset long": (2, "--preset: invalid choice: 'long'"),
        "--figures": (2, f"--figures: {FEW}"),
        "--figures 4 1": (2, "--figures: invalid choice: '1'"),
        "--output text.npz": (2, r"--output: cannot make the folder 'text\.npz': File exists"),
        "--output shows": (1, r"shows has results .* \(1 hidden layer, SGD is left out\); choose another --output"),
    },
    "examples.distributed": {
        "--unknown 1": (2, "unrecognized arguments: --unknown 1"),
        "--optimizer sgd": (2, "--optimizer: invalid choice: 'sgd'"),
        "--dtype float16": (2, "--dtype: invalid choice: 'float16'"),
        "--sampler gauss": (2, "--sampler: invalid choice: 'gauss'"),
        "--steps 1.5": (2, rf"--steps: {WHOLE} '1\.5'"),
        "--sigma nan": (2, f"--sigma: {NUMBER} 'nan'"),
        "--seed -1": (2, f"--seed: {INDEX} '-1'"),
        "--noisy-layers 0": (2, f"--noisy-layers: {LAYERS} '0'"),
        "--noisy-layers 10": (1, "--noisy-layers: layers=10 asks for more than the 9 layers"),
        "--output text.npz": (2, r"--output: cannot make the folder 'text\.npz': File exists"),
        "--processes 2 --process 2": (1, "JAX does not find the other processes by --cluster, or --coordinator"),
        "--tensor 3": (1, "--tensor 3 must divide the 8 devices and the --heads"),
        "--tensor 8 --heads 4": (1, "--tensor 8 must divide the 8 devices and the --heads"),
        "--width 250": (1, "on this mesh --batch-size must be a multiple of 8, --width of 16"),
        "--batch-size 9": (1, "on this mesh --batch-size must be a multiple of 8, --width of 16"),
        "--text none.txt": (1, r"No such file or directory: 'none\.txt'"),
        "--text nothing.npz": (1, "the text has 0 bytes, which is too short for --length 128"),
    },
    "benchmarks": {
        "--unknown 1": (2, "unrecognized arguments: --unknown 1"),
        "--only": (2, f"--only: {FEW}"),
        "--only everything": (2, "--only: invalid choice: 'everything'"),
        "--dtypes float64": (2, "--dtypes: invalid choice: 'float64'"),
        "--entries 0": (2, f"--entries: {ENTRIES} '0'"),
        "--entries -5": (2, f"--entries: {ENTRIES} '-5'"),
        "--entries 1.5": (2, rf"--entries: {ENTRIES} '1\.5'"),
        "--entries nan": (2, f"--entries: {ENTRIES} 'nan'"),
        "--entries 1e400": (2, f"--entries: {ENTRIES} '1e400'"),
        "--entries many": (2, "--entries: must be a number, got 'many'"),
        "--seconds -1": (2, "--seconds: must be a number from 0 to 1e6, got '-1'"),
        "--seconds inf": (2, "--seconds: must be a number from 0 to 1e6, got 'inf'"),
        "--seconds nan": (2, "--seconds: must be a number from 0 to 1e6, got 'nan'"),
        "--entries 1e13": (2, f"--entries: {ENTRIES} '1e13'"),
        "--output text.npz": (2, r"--output: cannot make the folder 'text\.npz': File exists"),
        "--output shows": (1, r"shows has results of .* \(1 hidden layer, SGD is left out\); choose another --output"),
        "--seconds ten": (2, "--seconds: must be a number, got 'ten'"),
    },
}
PROGRAMS = {
    "examples.image_classification": image_classification,
    "examples.spirals": spirals,
    "examples.distributed": distributed,
    "benchmarks": benchmarks,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of data and of results that are not what they should be."""
    folder = tmp_path_factory.mktemp("command_line")
    rng = np.random.default_rng(0)
    good = {
        "x_train": rng.integers(0, 256, (200, 8, 8), np.uint8),
        "y_train": np.arange(200) % 10,
        "x_test": rng.integers(0, 256, (20, 8, 8), np.uint8),
        "y_test": np.arange(20) % 10,
    }

    def npz(name, **changes):
        np.savez(folder / f"{name}.npz", **{k: v for k, v in (good | changes).items() if v is not None})

    npz("of_rows", x_train=np.ones((200, 64)))
    npz("of_nans", x_train=np.full((200, 8, 8), np.nan))
    npz("of_one_hot", y_train=np.eye(10, dtype=int)[good["y_train"]])
    npz("of_one_class", y_train=np.zeros(200, int), y_test=np.zeros(20, int))
    npz("good")
    whole = (folder / "good.npz").read_bytes()
    middle = whole.index(good["x_train"].tobytes()) + 1000
    (folder / "flipped.npz").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    (folder / "text.npz").write_text("not a zip")
    (folder / "nothing.npz").write_bytes(b"")
    (folder / "folder.npz").mkdir()

    for name, settings in {"shows": '{"1 hidden layer, SGD": {}}', "torn": "{"}.items():
        (folder / name).mkdir()
        (folder / name / "settings.json").write_text(settings)
    return folder


@pytest.fixture(autouse=True)
def not_begun(folder, monkeypatch):
    """In that folder, where a program that begins to work fails the test."""
    monkeypatch.chdir(folder)

    def begin(*args, **kwargs):
        pytest.fail("the program began to work")

    for owner, name in ((Sweep, "run"), (spirals, "run"), (checkpoint, "CheckpointManager")):
        monkeypatch.setattr(owner, name, begin)
    monkeypatch.setattr(benchmarks, "SECTIONS", dict.fromkeys(benchmarks.SECTIONS, begin))


@pytest.mark.parametrize(
    ("program", "argv", "status", "message"),
    [(program, argv, *row) for program, table in BAD.items() for argv, row in table.items()],
    ids=[f"{program} {argv}" for program, table in BAD.items() for argv in table],
)
def test_bad_input(program, argv, status, message, capsys):
    with pytest.raises(SystemExit) as stop:
        PROGRAMS[program].main(shlex.split(argv))
    code, said = stop.value.code, capsys.readouterr().err
    if isinstance(code, str):  # Python prints it, and exits with status 1
        code, said = 1, code
    assert code == status
    assert re.search(rf"\berror: .*{message}", said), said
