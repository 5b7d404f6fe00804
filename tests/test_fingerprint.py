"""The fingerprint of loaded images: the same for the same values, and what differs by name."""

import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image

from deqbilevel.data import Images, changes, fingerprint, load


@pytest.fixture
def images():
    train, test = np.split(np.linspace(-1, 1, 30, dtype=np.float32).reshape(5, 6), [3])
    return Images(train, test, (2, 3), "five pictures")


def test_it_is_what_json_keeps(images):
    found = fingerprint(images)
    assert found == json.loads(json.dumps(found))
    assert found["source"] == "five pictures" and found["shape"] == [2, 3]
    assert (found["train_rows"], found["test_rows"]) == (3, 2)
    assert found["train_dtype"] == found["test_dtype"] == "float32"
    assert found["train_sha256"] == hashlib.sha256(images.train.tobytes()).hexdigest()


def test_the_range_that_all_had_is_not_in_it(images):
    """Runs of before go on, and only over data of that range."""
    assert "range" not in fingerprint(images) and images.range == (-1, 1)
    mapped = images.mapped((0, 1))
    assert fingerprint(mapped)["range"] == [0.0, 1.0]
    assert fingerprint(mapped._replace(range=(-1, 1))) != fingerprint(images)
    assert fingerprint(images.mapped((-1, 1))) == fingerprint(images)


def test_the_fingerprint_of_the_digits_is_that_of_before():
    found = fingerprint(load(train_size=100, test_size=10))
    assert found.keys() == {
        *("source", "shape", "train_rows", "train_dtype", "train_sha256"),
        *("test_rows", "test_dtype", "test_sha256"),
    }
    assert found["train_sha256"].startswith("dad958bfa361") and found["test_sha256"].startswith(
        "be4a681abb29"
    )


def test_the_layout_in_memory_is_no_difference(images):
    for train in (np.asfortranarray(images.train), images.train.astype(">f4")):
        assert fingerprint(images._replace(train=train)) == fingerprint(images)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda images: {"train": images.train[::-1]}, ["train_sha256"]),
        (lambda images: {"test": np.nextafter(images.test, np.float32(2))}, ["test_sha256"]),
        (lambda images: {"test": images.test[:1]}, ["test_rows", "test_sha256"]),
        (lambda images: {"train": images.train.astype(float)}, ["train_dtype", "train_sha256"]),
        (lambda images: {"shape": (3, 2), "source": "other"}, ["source", "shape"]),
        (lambda images: {"range": (-1.0, 2.0)}, ["range"]),
        (lambda images: images.mapped((0, 1))._asdict(), ["train_sha256", "test_sha256", "range"]),
    ],
)
def test_what_differs_is_named(images, change, names):
    before = fingerprint(images)
    found = changes(before, fingerprint(images._replace(**change(images))))
    assert [change.split(" was ")[0] for change in found] == names
    assert not changes(before, fingerprint(images))


def test_a_folder_written_another_way_is_the_same(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((9, 9), 9 * i, np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    ways = (".", "../own", str(folder), os.path.relpath(folder), str(tmp_path / "link"))
    found = [fingerprint(load(f"images:{way}", whole=True)) for way in ways]
    assert all(other == found[0] for other in found)
