"""Bad input to the programs: each stops before it begins to work, and says the rule and what it got.

`BAD` is the table: what follows ``python -m`` and the name of the program, and the message, as a regular expression.
argparse exits with status 2; with status 1 a program exits that had to look at files, data or devices first.
"""

import re
import shlex

import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from examples.distributed import __main__ as distributed
from examples.image_classification import __main__ as image_classification
from examples.image_classification.sweep import Sweep
from examples.spirals import __main__ as spirals

ENTRIES = "must be a whole number from 1 to 1e12, such as 1e7, got"
WHOLE = "must be a whole number of at least 1, got"
NUMBER = "must be a number of at least 0, got"
SHARE = "must be a share above 0 and up to 1, got"
MOST = "must be a whole number of at most 2147483647, got"
INDEX = "must be a whole number from 0 to 2147483647, got"
HUGE = r"must be a number of at most 3\.4e\+38, got"
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
        "--dtype float64": (2, "--dtype: invalid choice: 'float64'"),
        "--depths": (2, f"--depths: {FEW}"),
        "--depths 10 0": (2, f"--depths: {WHOLE} '0'"),
        "--depths -3": (2, f"--depths: {WHOLE} '-3'"),
        "--depths 1e3": (2, f"--depths: {WHOLE} '1e3'"),
        "--depths ''": (2, f"--depths: {WHOLE} ''"),
        "--width 0": (2, f"--width: {WHOLE} '0'"),
        "--seeds 0": (2, f"--seeds: {WHOLE} '0'"),
        "--epochs 1.5": (2, rf"--epochs: {WHOLE} '1\.5'"),
        "--epochs many": (2, f"--epochs: {WHOLE} 'many'"),
        "--batch-size -1": (2, f"--batch-size: {WHOLE} '-1'"),
        "--epochs 2147483648": (2, f"--epochs: {MOST} '2147483648'"),
        "--seeds-at-once 0": (2, f"--seeds-at-once: {WHOLE} '0'"),
        "--methods": (2, f"--methods: {FEW}"),
        "--methods adam l-adm": (2, "--methods: no optimiser 'l-adm'"),
        "--methods L-Adam": (2, "--methods: no optimiser 'L-Adam'"),
        "--methods ll-sgld:sigma=1": (2, "--methods: no optimiser 'll-sgld'"),
        "--methods adam:eps": (2, f"--methods: {KEYS} 'eps'"),
        "--methods adam:eps=1,": (2, f"--methods: {KEYS} ''"),
        "--methods adam:epsilon=1": (2, f"--methods: {KEYS} 'epsilon=1'"),
        "--methods adam:eps=1,eps=2": (2, "--methods: eps is given twice"),
        "--methods ll-adam:layers=:0.3": (2, "--methods: layers must be K, SHARE, last:SHARE or .*, got ':0.3'"),
        "--methods adam:eps=-1": (2, f"--methods: eps {NUMBER} '-1'"),
        "--methods adam:sigma=1": (
            2,
            "--methods: adam has no sigma; it has learning_rate, learning_rate_schedule, eps",
        ),
        "--methods l-sgd:eps=1": (2, "--methods: l-sgd has no eps; it has learning_rate, .*, max_noise"),
        "--methods l-adam:layers=1": (2, "--methods: l-adam has no layers; it has"),
        "--methods overdamped:friction=1": (2, "--methods: overdamped has no friction; it has"),
        "--all": (2, "--all: expected one argument"),
        "--all ''": (2, f"--all: {KEYS} ''"),
        "--all 1": (2, f"--all: {KEYS} '1'"),
        "--all sigma=1,2": (2, f"--all: {KEYS} '2'"),
        "--all rate=1": (2, f"--all: {KEYS} 'rate=1'"),
        "--all learning_rate=-1": (2, f"--all: learning_rate {NUMBER} '-1'"),
        "--all learning_rate=1e39": (2, f"--all: learning_rate {HUGE} '1e39'"),
        "--all learning_rate=nan": (2, f"--all: learning_rate {NUMBER} 'nan'"),
        "--all learning_rate_schedule=warmup": (2, "--all: learning_rate_schedule must be one of .*, got 'warmup'"),
        "--all sigma_schedule=cosine": (2, "--all: sigma_schedule must be one of constant, linear, .*, got 'cosine'"),
        "--all sigma=inf": (2, f"--all: sigma {NUMBER} 'inf'"),
        "--all sigma=": (2, f"--all: sigma {NUMBER} ''"),
        "--all layers=0": (2, f"--all: layers {LAYERS} '0'"),
        "--all layers=1.5": (2, rf"--all: layers {LAYERS} '1\.5'"),
        "--all layers=99999999999": (2, f"--all: layers {LAYERS} '99999999999'"),
        "--all layers=last:0": (2, f"--all: layers {LAYERS} '0'"),
        "--all layers=last": (2, f"--all: layers {LAYERS} 'last'"),
        "--all layers=middle:1": (2, "--all: layers must be K, SHARE, last:SHARE or random:SHARE, got 'middle:1'"),
        "--all noisy_steps=0": (2, f"--all: noisy_steps {SHARE} '0'"),
        "--all noisy_steps=1.5": (2, rf"--all: noisy_steps {SHARE} '1\.5'"),
        "--all noisy_steps=nan": (2, f"--all: noisy_steps {SHARE} 'nan'"),
        "--all max_noise=-1": (2, f"--all: max_noise {NUMBER} '-1'"),
        "--all eps=nan": (2, f"--all: eps {NUMBER} 'nan'"),
        "--all temperature=-1": (2, f"--all: temperature {NUMBER} '-1'"),
        "--all friction=inf": (2, f"--all: friction {NUMBER} 'inf'"),
        "--all thermostat_sigma=nan": (2, f"--all: thermostat_sigma {NUMBER} 'nan'"),
        "--all coupling=x": (2, f"--all: coupling {NUMBER} 'x'"),
        "--output text.npz": (2, r"--output: cannot make the folder 'text\.npz': File exists"),
        "--output text.npz/runs": (2, r"--output: cannot make the folder 'text\.npz/runs': Not a directory"),
        "--data none.npz": (1, r"cannot read 'none\.npz': No such file or directory"),
        "--data folder.npz": (1, r"cannot read 'folder\.npz': Is a directory"),
        "--data text.npz": (1, rf"'text\.npz' {ARRAYS}"),
        "--data nothing.npz": (1, rf"'nothing\.npz' {ARRAYS} No data left in file"),
        "--data flipped.npz": (1, rf"'flipped\.npz' {ARRAYS} Bad CRC-32 for file 'x_train.npy'"),
        "--data array.npz": (1, rf"'array\.npz' {ARRAYS}"),
        "--data without_test.npz": (1, rf"'without_test\.npz' {ARRAYS} 'x_test is not a file in the archive'"),
        "--data of_objects.npz": (1, rf"'of_objects\.npz' {ARRAYS} Object arrays cannot be loaded"),
        "--data of_rows.npz": (1, rf"x_train {IMAGES} \(200, 64\)"),
        "--data of_no_tests.npz": (1, rf"x_test {IMAGES} \(0, 8, 8, 1\)"),
        "--data of_nans.npz": (1, f"x_train {FINITE} float64"),
        "--data of_giants.npz": (1, f"x_test {FINITE} float64"),
        "--data of_bools.npz": (1, f"x_train {FINITE} bool"),
        "--data of_complex.npz": (1, f"x_train {FINITE} complex128"),
        "--data of_strings.npz": (1, f"x_train {FINITE} <U1"),
        "--data of_two_sizes.npz": (1, r"training and test images differ in shape: \(8, 8, 1\) and \(6, 6, 1\)"),
        "--data of_few_labels.npz": (1, rf"y_train {CLASSES} 200 images, got shape \(199,\) and dtype int64"),
        "--data of_floats.npz": (1, rf"y_train {CLASSES} 200 images, got shape \(200,\) and dtype float64"),
        "--data of_one_hot.npz": (1, rf"y_train {CLASSES} 200 images, got shape \(200, 10\) and dtype int64"),
        "--data of_words.npz": (1, rf"y_test {CLASSES} 20 images, got shape \(20,\) and dtype <U1"),
        "--data of_minus_one.npz": (1, rf"y_test {CLASSES} 20 images, got shape \(20,\) and dtype int64"),
        "--data no_such_set": (
            1,
            r"'no_such_set' is neither 'digits', nor a file that ends in \.npz, nor a set of tens",
        ),
        "--batch-size 2000": (1, "--batch-size: digits has only 1437 training images"),
        "--data small.npz --depths 2": (1, "--batch-size: small has only 3 training images"),
        "--methods ll-adam:layers=12 --depths 9": (
            1,
            "dense with 9 hidden layers and LL-Adam first 12 on digits: layers=12, but there are 10 layers with param",
        ),
        "--methods baoab:learning_rate=0 --depths 2 --preset mnist --data digits": (
            1,
            r"BAOAB on digits: step_size must be > 0, got 0\.0",
        ),
        "--output shows": (1, r"shows has tables .* \(1 hidden layer, SGD is left out\); choose another --output"),
        "--output torn": (1, r"torn/settings\.json cannot be read; mend or remove it"),
    },
    "examples.spirals": {
        "--unknown 1": (2, "unrecognized arguments: --unknown 1"),
        "16": (2, "unrecognized arguments: 16"),
        "--preset": (2, "--preset: expected one argument"),
        "--preset long": (2, "--preset: invalid choice: 'long'"),
        "--figures": (2, f"--figures: {FEW}"),
        "--figures 4 1": (2, "--figures: invalid choice: '1'"),
        "--output text.npz": (2, r"--output: cannot make the folder 'text\.npz': File exists"),
        "--output shows": (1, r"shows has tables .* \(1 hidden layer, SGD is left out\); choose another --output"),
        "--output text.npz/spirals": (2, r"--output: cannot make the folder 'text\.npz/spirals': Not a directory"),
    },
    "examples.distributed": {
        "--unknown 1": (2, "unrecognized arguments: --unknown 1"),
        "--optimizer sgd": (2, "--optimizer: invalid choice: 'sgd'"),
        "--dtype float16": (2, "--dtype: invalid choice: 'float16'"),
        "--sampler gauss": (2, "--sampler: invalid choice: 'gauss'"),
        "--layers 0": (2, f"--layers: {WHOLE} '0'"),
        "--steps 1.5": (2, rf"--steps: {WHOLE} '1\.5'"),
        "--devices 0": (2, f"--devices: {WHOLE} '0'"),
        "--learning-rate -1": (2, f"--learning-rate: {NUMBER} '-1'"),
        "--sigma nan": (2, f"--sigma: {NUMBER} 'nan'"),
        "--noisy-layers 0": (2, f"--noisy-layers: {LAYERS} '0'"),
        "--noisy-layers 99": (2, "--noisy-layers: must be a share, or at most 9, since there are 6 blocks .*, got 99"),
        "--noisy-layers 6 --layers 2": (2, "--noisy-layers: must be .* at most 5, since .* 2 blocks .*, got 6"),
        "--noisy-layers 5 --layers 1": (2, "--noisy-layers: must be .* at most 4, since .* 1 block .*, got 5"),
        "--steps 2147483648": (2, f"--steps: {MOST} '2147483648'"),
        "--sigma 1e39": (2, f"--sigma: {HUGE} '1e39'"),
        "--seed x": (2, f"--seed: {INDEX} 'x'"),
        "--seed -1": (2, f"--seed: {INDEX} '-1'"),
        "--seed 2147483648": (2, f"--seed: {INDEX} '2147483648'"),
        "--coordinator localhost --processes 2 --process 0": (
            2,
            "--coordinator: must be HOST:PORT, .*, got 'localhost'",
        ),
        "--coordinator :99 --processes 2 --process 0": (2, "--coordinator: must be HOST:PORT, .*, got ':99'"),
        "--coordinator a:1 --processes 2 --process 2": (2, "--process: must be below --processes, which is 2, got 2"),
        "--coordinator a:1 --processes 2 --process -1": (2, f"--process: {INDEX} '-1'"),
        "--coordinator a:1 --processes 2 --process 0 --cluster": (2, "--cluster and --coordinator exclude each other"),
        "--processes 2": (2, "--coordinator, --processes and --process belong together"),
        "--coordinator localhost:1234": (2, "--coordinator, --processes and --process belong together"),
        "--output text.npz": (2, r"--output: cannot make the folder 'text\.npz': File exists"),
        "--tensor 3": (1, "--tensor 3 does not divide the 8 devices"),
        "--width 250": (1, "--width 250 is no multiple of the 8 devices that it is divided over"),
        "--batch-size 9": (1, "--batch-size 9 is no multiple of the 8 devices that it is divided over"),
        "--heads 3": (1, "--width 256 is no multiple of twice the --heads 3"),
        "--tensor 8 --heads 4": (1, "--heads 4 is no multiple of the 8 devices that it is divided over"),
        "--text none.txt": (1, r"--text: cannot read none\.txt \(No such file or directory\)"),
        "--text folder.npz": (1, r"--text: cannot read folder\.npz \(Is a directory\)"),
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
        "--output shows": (1, r"shows has tables .* \(1 hidden layer, SGD is left out\); choose another --output"),
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

    npz("without_test", x_test=None)
    npz("of_objects", x_train=np.array([{}] * 200))
    npz("of_rows", x_train=np.ones((200, 64)))
    npz("of_no_tests", x_test=np.ones((0, 8, 8)), y_test=np.zeros(0, int))
    npz("of_nans", x_train=np.full((200, 8, 8), np.nan))
    npz("of_giants", x_test=np.full((20, 8, 8), 1e300))
    npz("of_bools", x_train=np.ones((200, 8, 8), bool))
    npz("of_complex", x_train=np.ones((200, 8, 8), complex))
    npz("of_strings", x_train=np.full((200, 8, 8), "a"))
    npz("of_two_sizes", x_test=np.ones((20, 6, 6), np.uint8))
    npz("of_few_labels", y_train=np.zeros(199, int))
    npz("of_floats", y_train=np.zeros(200))
    npz("of_one_hot", y_train=np.eye(10, dtype=int)[good["y_train"]])
    npz("of_words", y_test=np.full(20, "a"))
    npz("of_minus_one", y_test=np.full(20, -1))
    npz("small", x_train=np.ones((3, 4, 4)), y_train=np.arange(3), x_test=np.ones((2, 4, 4)), y_test=np.arange(2))
    npz("good")
    whole = (folder / "good.npz").read_bytes()
    middle = whole.index(good["x_train"].tobytes()) + 1000
    (folder / "flipped.npz").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    np.save(folder / "array.npy", good["x_train"])
    (folder / "array.npy").rename(folder / "array.npz")
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

    for owner, name in ((Sweep, "run"), (spirals, "run"), (distributed, "Checkpoints")):
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
