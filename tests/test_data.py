"""Where images come from: the specification, digits by three ways, and every way to fail."""

import gzip
import inspect
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from deqbilevel.data import DataError, load, load_idx_labels, prepare

ROOT = Path(__file__).parents[1]
TRAIN, TEST = 40, 20
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array, *, zeros=b"\0\0", kind=8, shape=None):
    """The bytes of an IDX file; the keywords make it a wrong one."""
    shape = array.shape if shape is None else shape
    sizes = b"".join(size.to_bytes(4, "big") for size in shape)
    return zeros + bytes([kind, len(shape)]) + sizes + array.tobytes()


def as_bytes(rows):
    return np.round((rows + 1) * 127.5).astype(np.uint8).reshape(-1, 28, 28)


@pytest.fixture(scope="module")
def sample():
    return load()


@pytest.fixture(scope="module")
def digits(sample, tmp_path_factory):
    """A folder of the four IDX files of a few dozen digits."""
    folder = tmp_path_factory.mktemp("idx")
    for stem, rows, count in (("train", sample.train, TRAIN), ("t10k", sample.test, TEST)):
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(idx(as_bytes(rows[:count])))
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


@pytest.fixture
def broken(digits, tmp_path):
    """A copy of the small folder, to be broken."""
    for file in digits.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.fixture(scope="module")
def prepared(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    assert prepare(digits, folder) == (TRAIN, TEST)
    return folder


def test_sample(sample):
    assert sample.train.shape == (6000, 784) and sample.test.shape == (1000, 784)
    assert sample.shape == (28, 28)
    assert sample.source == "MNIST sample that ships with deqbilevel (6000 + 1000 digits)"
    for rows in (sample.train, sample.test):
        assert rows.dtype == np.float32 and rows.min() == -1 and rows.max() == 1


def test_sample_begins_with_the_first_digits_of_mnist(sample):
    folder = ROOT / "deqbilevel" / "data" / "mnist"
    train, test = load_idx_labels(folder)
    assert train[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert as_bytes(sample.train[:1])[0, 5, 12:18].tolist() == [3, 18, 18, 18, 126, 136]


def test_sizes_take_the_first(sample):
    few = load(train_size=7, test_size=3)
    np.testing.assert_array_equal(few.train, sample.train[:7])
    np.testing.assert_array_equal(few.test, sample.test[:3])
    assert "7 + 3" in few.source


@pytest.mark.data
def test_real_files_begin_with_the_sample(sample, data_dir):
    real = load(f"idx:{data_dir / 'mnist'}")
    np.testing.assert_array_equal(real.train[:6000], sample.train)
    np.testing.assert_array_equal(real.test[:1000], sample.test)


@pytest.mark.data
def test_real_labels_match_the_images(data_dir):
    train, test = load_idx_labels(data_dir / "mnist")
    real = load(f"idx:{data_dir / 'mnist'}")
    assert (len(train), len(test)) == (len(real.train), len(real.test))
    assert set(np.unique(train)) == set(range(10))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            "",
            "Known are sample, idx:DIR, tfds or tfds:DIR, images:DIR, arrays:FILE, photographs, "
            "faces, celeb_a or celeb_a:DIR",
        ),
        ("sampel", "did you mean sample"),
        ("image:photos", "did you mean images:DIR"),
        ("digits", "'digits': unknown data; Known"),
        ("photos", "did you mean photographs"),
        ("celeba", "did you mean celeb_a or celeb_a:DIR"),
        ("idx", "write idx:DIR"),
        ("images:", "write images:DIR"),
        ("arrays", "the file is missing, write arrays:FILE"),
        ("arrays:no/such.npz", "no/such.npz: there is no such file"),
        ("arrays:~no-such-user/a", "expected a file"),
        ("arrays:.", "cannot be read"),
        ("tfds:", "write tfds or tfds:DIR"),
        ("celeb_a:", "write celeb_a or celeb_a:DIR"),
        ("sample:more", "write sample"),
        ("faces:DIR", "write faces"),
        ("idx:no/such", "no/such: there is no such folder"),
        ("images:no/such", "no/such: there is no such folder"),
        (f"idx:{__file__}", "this is a file"),
    ],
)
def test_wrong_spec(spec, says):
    with pytest.raises(DataError, match=says):
        load(spec)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"train_size": 6001}, "train_size=6001: there are only 6000 .* at most 6000"),
        ({"test_size": 1001}, "test_size=1001: there are only 1000"),
        ({"train_size": 0}, "train_size=0: ask for at least 1"),
        ({"test_size": -3}, "test_size=-3: ask for at least 1"),
        ({"patch": 14}, "patch=14: digits are 28x28"),
        ({"shape": (14, 14)}, r"shape=\(14, 14\): digits are 28x28; shape is for whole pictures"),
        ({"spec": "faces", "patch": 14}, "patch=14: whole pictures have no patches; give shape"),
        ({"spec": "images:.", "whole": True, "patch": 14}, "whole pictures have no patches"),
        ({"spec": "images:.", "shape": (9, 9)}, "patches of images:DIR are square, give patch"),
        ({"spec": "faces", "shape": (0, 9)}, "shape=.0, 9.: give a height and a width"),
        (
            {"spec": "faces", "shape": (26, 9)},
            r"face \d+: 25x25 is smaller than 26x9; use a smaller",
        ),
        ({"seed": -1}, "seed=-1: give 0 or more"),
        ({"spec": "faces", "seed": -1}, "seed=-1: give 0 or more"),
        ({"spec": "faces", "test_size": 51}, "only 50 test images here; .* 50, .*celeb_a:DIR"),
        ({"spec": "photographs", "train_size": 0}, "train_size=0: ask for at least 1"),
        ({"spec": "photographs", "seed": -1}, "seed=-1: give 0 or more"),
        (
            {"spec": "photographs", "shape": (301, 9)},
            "300x451 is smaller than 301x9; use a smaller",
        ),
    ],
)
def test_wrong_request(request_, says):
    with pytest.raises(DataError, match=says):
        load(**request_)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"spec": None}, "None: expected a text, one of sample, idx:DIR"),
        ({"spec": Path("mnist")}, "expected a text"),
        ({"train_size": 2.5}, "train_size=2.5: give a whole number"),
        ({"test_size": "10"}, "test_size='10': give a whole number"),
        ({"train_size": True}, "train_size=True: give a whole number"),
        ({"test_size": float("nan")}, "test_size=nan: give a whole number"),
        ({"patch": None}, "patch=None: give a whole number"),
        ({"spec": "images:.", "patch": 2.5}, "patch=2.5: give a whole number"),
        ({"seed": None}, "seed=None: give a whole number"),
        ({"spec": "faces", "seed": 1.5}, "seed=1.5: give a whole number"),
        ({"spec": "images:.", "whole": "yes"}, "whole='yes': give True or False"),
        ({"spec": "photographs", "shape": "ab"}, "shape='ab': give a height and a width"),
        ({"spec": "photographs", "shape": 9}, "shape=9: give a height and a width"),
        ({"spec": "photographs", "shape": (9,)}, r"shape=\(9,\): give a height and a width"),
        ({"spec": "photographs", "shape": (9.5, 9)}, r"shape=\(9.5, 9\): give a height"),
        ({"spec": "photographs", "shape": (10**6, 10**6)}, "10 images of .* are free; ask for"),
        ({"spec": "photographs", "train_size": 10**12}, "1000000000000 images of 218x178 take"),
        ({"spec": "images:~no-such-user/a"}, "'~no-such-user/a': expected a folder"),
        ({"spec": f"images:{'a' * 5000}"}, "expected a folder .*name too long"),
        ({"spec": f"tfds:{__file__}"}, "a folder is needed, this is a file"),
    ],
)
def test_wrong_type_or_size_of_a_request(request_, says):
    with pytest.raises(DataError, match=says):
        inspect.unwrap(load)(**request_)


@pytest.mark.parametrize("dot", "-.")
@pytest.mark.parametrize("pack", [gzip.compress, bytes])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_under_every_name(sample, digits, tmp_path, dot, pack, end):
    """Gzip is told by its magic bytes, so a wrong ending does no harm."""
    for file in digits.iterdir():
        (tmp_path / (file.name.replace("-idx", f"{dot}idx") + end)).write_bytes(
            pack(file.read_bytes())
        )
    images = load(f"idx:{tmp_path}")
    np.testing.assert_array_equal(images.train, sample.train[:TRAIN])
    np.testing.assert_array_equal(images.test, sample.test[:TEST])
    assert load_idx_labels(tmp_path)[1][:3].tolist() == [0, 1, 2]


def test_idx_needs_only_the_images(broken):
    for file in broken.glob("*labels*"):
        file.unlink()
    assert len(load(f"idx:{broken}").train) == TRAIN
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte.gz, train-labels-idx1-ubyte, "):
        load_idx_labels(broken)


ZEROS = np.zeros((2, 28, 28), np.uint8)
GOOD = idx(ZEROS)
PACKED = gzip.compress(GOOD, mtime=0)  # a time would give each test process other test names
MANY = gzip.compress(idx(ZEROS, shape=(1_200_000, 28, 28)), mtime=0)
LARGE = gzip.compress(idx(ZEROS, shape=(1, 2**16, 2**16)), mtime=0)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        (IMAGES, None, "no file named any of train-images-idx3-ubyte.gz, train-images-idx3-ubyte"),
        (IMAGES, b"", "the file is empty"),
        (IMAGES, b"\0\0", "truncated, 2 bytes where the header has at least 4"),
        (IMAGES, GOOD[:10], "truncated, 10 bytes where the header has 16"),
        (IMAGES, GOOD[:-1], "truncated, 1583 bytes where the header says 1584"),
        (IMAGES, GOOD + b"\0", "trailing bytes, 1585 bytes where the header says 1584"),
        (IMAGES, PACKED[:-9], "truncated, the gzip stream ends early"),
        (IMAGES, PACKED[:2], "truncated, the gzip stream ends early"),
        (IMAGES, PACKED + b"more", "damaged gzip stream"),
        (IMAGES, PACKED[:-8] + b"\1\2\3\4" + PACKED[-4:], "damaged gzip stream"),
        (IMAGES, PACKED[:12] + b"\xff" * 9 + PACKED[21:], "damaged gzip stream|not an IDX file"),
        (IMAGES, b"<!DOCTYPE html>", "not an IDX file, gzipped or not .begins with 3c 21 44 4f"),
        (IMAGES, idx(ZEROS, kind=7), "not an IDX file"),
        (IMAGES, idx(ZEROS, zeros=b"\0\1"), "not an IDX file"),
        (IMAGES, idx(ZEROS, kind=0x0D), "holds float values .type 0x0d., not uint8"),
        (IMAGES, idx(ZEROS[:, 0, 0]), "holds labels .1 dimensions., not images .3."),
        (IMAGES, idx(ZEROS[0]), "holds an array .2 dimensions., not images"),
        (IMAGES, idx(ZEROS[:, :27]), "images of 27x28, digits are 28x28"),
        (IMAGES, idx(ZEROS[:0]), "holds no images"),
        (IMAGES, idx(ZEROS, shape=(2**32 - 1,) * 3), "truncated"),
        (IMAGES, MANY, "1200000 images; at most 1048576 are read"),
        (IMAGES, LARGE, "images of 65536x65536, digits are 28x28"),
        (LABELS, idx(np.full(TRAIN, 10, np.uint8)), "label 10; the labels of digits are 0 to 9"),
        (LABELS, GOOD, "holds images .3 dimensions., not labels .1."),
        (LABELS, idx(ZEROS[:, 0, 0]), f"2 labels, but {IMAGES} has {TRAIN} images"),
    ],
)
def test_malformed_idx(broken, file, content, says):
    (broken / file).unlink()
    if content is not None:
        (broken / file).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        load(f"idx:{broken}")
    assert str(broken if content is None else broken / file) in str(caught.value)


def test_no_more_is_unpacked_than_the_header_promises(broken):
    (broken / IMAGES).write_bytes(gzip.compress(GOOD + bytes(2**25)))
    tracemalloc.start()
    with pytest.raises(DataError, match="trailing bytes, 1585 bytes where the header says 1584"):
        load(f"idx:{broken}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(("stem", "side"), [("train", "training"), ("t10k", "test")])
def test_black_images_are_refused(broken, stem, side):
    file = broken / f"{stem}-images-idx3-ubyte"
    black = np.zeros((TRAIN if stem == "train" else TEST, 28, 28), np.uint8)
    file.write_bytes(idx(black))
    with pytest.raises(DataError, match=f"idx:{broken}': every pixel of every {side} image is -1"):
        load(f"idx:{broken}")


def test_tfds_equals_idx(digits, prepared):
    ours, plain = load(f"tfds:{prepared}"), load(f"idx:{digits}")
    np.testing.assert_array_equal(ours.train, plain.train)
    np.testing.assert_array_equal(ours.test, plain.test)
    assert ours.shape == plain.shape and f"{TRAIN} + {TEST}" in ours.source
    assert len(load(f"tfds:{prepared}", train_size=5).train) == 5
    with pytest.raises(DataError, match=f"train_size=41: there are only {TRAIN}"):
        load(f"tfds:{prepared}", train_size=41)


def test_a_plain_user_of_tfds_reads_the_prepared_folder(digits, prepared):
    import tensorflow_datasets as tfds

    source = tfds.data_source("mnist", data_dir=prepared, split="train")
    assert len(source) == TRAIN
    assert source[7]["image"].shape == (28, 28, 1) and source[7]["image"].dtype == np.uint8
    assert [int(example["label"]) for example in source] == load_idx_labels(digits)[0].tolist()
    info = tfds.builder("mnist", data_dir=prepared).info
    assert info.full_name == "mnist/3.0.1" and info.splits["test"].num_examples == TEST
    assert info.splits["train[10:30]"].num_examples == 20


def test_tfds_by_its_default_folder(prepared, tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(prepared))
    assert len(load("tfds").test) == TEST
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match="no MNIST prepared here"):
        load("tfds")


@pytest.mark.parametrize("name", ["empty", "no such"])
def test_unprepared_tfds_names_the_command(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no MNIST prepared here") as caught:
        load(f"tfds:{tmp_path / name}")
    assert "python -m experiments.prepare_tfds --idx DIR --out" in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("damage", ["tfrecord", "shard", "info"])
def test_damaged_tfds(digits, tmp_path, damage):
    prepare(digits, tmp_path)
    info = next(tmp_path.rglob("dataset_info.json"))
    if damage == "shard":
        next(tmp_path.rglob("*train*")).unlink()
    elif damage == "info":
        info.write_text("{")
    else:
        info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="cannot be read as array_record; remove it"):
        load(f"tfds:{tmp_path}")


@pytest.mark.parametrize("module", ["tensorflow_datasets", "array_record"])
def test_missing_packages(digits, prepared, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    install = f"pip install {module.replace('_', '-')}"
    with pytest.raises(DataError, match=install):
        load(f"tfds:{prepared}")
    with pytest.raises(DataError, match=install):
        prepare(digits, tmp_path)


def test_prepare_again_changes_nothing(digits, prepared):
    before = {file: file.stat().st_mtime_ns for file in prepared.rglob("*")}
    assert prepare(digits, prepared) == (TRAIN, TEST)
    assert {file: file.stat().st_mtime_ns for file in prepared.rglob("*")} == before


def test_prepare_refuses_another_set(broken, prepared):
    (broken / IMAGES).write_bytes(GOOD)
    (broken / LABELS).write_bytes(idx(np.zeros(2, np.uint8)))
    with pytest.raises(DataError, match=r"3.0.1: holds another data set already"):
        prepare(broken, prepared)


def test_prepare_refuses_labels_of_no_digit(broken, tmp_path):
    (broken / LABELS).write_bytes(idx(np.full(TRAIN, 10, np.uint8)))
    with pytest.raises(DataError, match=f"{LABELS}: label 10; the labels of digits are 0 to 9"):
        prepare(broken, tmp_path / "out")


def test_interrupted_prepare_leaves_nothing(digits, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(digits, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list(tmp_path.glob(".*")) == []
    assert prepare(digits, tmp_path) == (TRAIN, TEST)


def test_prepare_from_the_command_line(digits, tmp_path):
    def run(source):
        arguments = ["experiments.prepare_tfds", "--idx", str(source), "--out", str(tmp_path)]
        command = [sys.executable, "-W", "error", "-m", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = run(digits)
    assert done.returncode == 0, done.stderr
    summary = {"out": str(tmp_path), "train": TRAIN, "test": TEST}
    assert json.loads(done.stdout.splitlines()[-1]) == summary
    failed = run(tmp_path / "none")
    assert failed.returncode == 1 and "error: " in failed.stderr and failed.stdout == ""


def test_unprepared_celeb_a_says_what_to_do(prepared, tmp_path):
    for folder in (tmp_path, prepared):
        with pytest.raises(DataError, match="no CelebA prepared here") as caught:
            load(f"celeb_a:{folder}")
        command = f"tfds build celeb_a --file_format=array_record --data_dir={folder}"
        assert command in str(caught.value) and "images:DIR" in str(caught.value)
