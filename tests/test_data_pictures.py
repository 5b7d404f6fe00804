"""Images from pictures: those of a folder, whole or cut, and those that packages bring."""

import shutil
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import skimage.data

from deqbilevel.data import DataError, load, shipped
from deqbilevel.data.tfds import write_tfds
from deqbilevel.pictures import read_grey, to_grey


def save(path, pixels):
    path.parent.mkdir(exist_ok=True, parents=True)
    imageio.imwrite(path, np.asarray(pixels))


@pytest.fixture
def pictures(tmp_path):
    """Eleven flat pictures, each of its own grey, in two levels of folders."""
    for i in range(11):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", np.full((9, 12), 20 * i, np.uint8))
    return tmp_path


def greys(rows):
    return {int(value) for value in np.unique(np.round((rows + 1) * 127.5))}


def test_no_picture_is_in_training_and_test(pictures):
    for seed in range(5):
        images = load(f"images:{pictures}", train_size=30, test_size=10, patch=4, seed=seed)
        assert images.train.shape == (30, 16) and images.test.shape == (10, 16)
        assert images.shape == (4, 4) and images.train.dtype == np.float32
        assert len(greys(images.train)) == 9 and len(greys(images.test)) == 2
        assert not greys(images.train) & greys(images.test)
    assert images.source == f"4x4 patches of 9 + 2 pictures in {pictures.name}"


def test_train_and_test_folders_are_used(tmp_path):
    for i, name in enumerate(["train/a", "train/deep/b", "train/c", "test/d", "e"]):
        save(tmp_path / f"{name}.png", np.full((8, 8), i, np.uint8))
    images = load(f"images:{tmp_path}", train_size=7, test_size=4, patch=6)
    assert greys(images.train) == {0, 1, 2} and greys(images.test) == {3}
    counts = np.unique(images.train[:, 0], return_counts=True)[1]
    assert sorted(counts) == [2, 2, 3]


def test_patches_follow_the_seed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 30, 30), dtype=np.uint8)
    for i, picture in enumerate(noise):
        save(tmp_path / f"{i}.png", picture)

    def patches(**request):
        settings = {"train_size": 50, "test_size": 10, "patch": 5} | request
        return load(f"images:{tmp_path}", **settings)

    one = patches(seed=1)
    for again in (patches(seed=1), patches(seed=1, test_size=3)):
        np.testing.assert_array_equal(one.train, again.train)
    assert not np.array_equal(one.train, patches(seed=2).train)
    assert len(np.unique(one.train, axis=0)) == 50


def test_patches_are_cut_row_major_and_never_twice(tmp_path):
    save(tmp_path / "train" / "p.png", np.arange(9, dtype=np.uint8).reshape(3, 3))
    save(tmp_path / "test" / "p.png", np.arange(1, 10, dtype=np.uint8).reshape(3, 3))
    rows = load(f"images:{tmp_path}", train_size=4, test_size=1, patch=2).train
    found = sorted(np.round((rows + 1) * 127.5).astype(int).tolist())
    assert found == [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    with pytest.raises(DataError, match=r"p.png: 3x3 has 4 places for 2x2 patches, 5 are needed"):
        load(f"images:{tmp_path}", train_size=5, test_size=1, patch=2)


def test_training_images_of_one_grey_are_refused(tmp_path):
    for i, name in enumerate(["train/a", "test/b"]):
        save(tmp_path / f"{name}.png", np.full((8, 8), 40 + i, np.uint8))
    with pytest.raises(DataError, match=r"every pixel of every training image is -0\.68"):
        load(f"images:{tmp_path}", whole=True)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"patch": 10}, r"\d+.png: 9x12 is smaller than 10x10; use a smaller --patch"),
        ({"patch": 0}, "patch=0"),
        ({"seed": -1}, "seed=-1"),
        ({"train_size": 0}, "train_size=0"),
        ({"test_size": -1}, "test_size=-1"),
    ],
)
def test_wrong_request_of_pictures(pictures, request_, says):
    with pytest.raises(DataError, match=says):
        load(f"images:{pictures}", **request_)


def test_one_picture_or_none_is_not_enough(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("nor this")
    with pytest.raises(DataError, match="no images here"):
        load(f"images:{tmp_path}")
    save(tmp_path / "only.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(DataError, match=r"only only.png here; training and test need one each"):
        load(f"images:{tmp_path}")


def whole(folder, **request):
    return load(f"images:{folder}", whole=True, **request)


@pytest.mark.parametrize(
    ("request_", "counts"),
    [
        ({}, (6, 5)),
        ({"train_size": 2, "test_size": 3}, (2, 3)),
        ({"train_size": 10}, (10, 1)),
        ({"train_size": 2}, (2, 5)),
        ({"test_size": 9}, (2, 9)),
    ],
)
def test_whole_pictures_are_split(pictures, request_, counts):
    for seed in range(3):
        images = whole(pictures, seed=seed, **request_)
        assert (len(images.train), len(images.test)) == counts and images.shape == (9, 12)
        assert len(greys(images.train)) == counts[0] and len(greys(images.test)) == counts[1]
        assert not greys(images.train) & greys(images.test)
    assert images.train.dtype == np.float32
    assert images.source == f"{counts[0]} + {counts[1]} pictures in {pictures.name}, 9x12"


def test_whole_pictures_follow_the_seed_and_no_other_size(pictures):
    one, fewer = whole(pictures, seed=1), whole(pictures, seed=1, train_size=6, test_size=2)
    np.testing.assert_array_equal(one.train, fewer.train)
    np.testing.assert_array_equal(one.test[-2:], fewer.test)
    assert greys(one.train) != greys(whole(pictures, seed=2).train)


def test_whole_pictures_of_train_and_test_folders(tmp_path):
    for i, name in enumerate(["train/a", "train/deep/b", "train/c", "test/d", "e"]):
        save(tmp_path / f"{name}.png", np.full((3, 2), i, np.uint8))
    images = whole(tmp_path)
    assert greys(images.train) == {0, 1, 2} and greys(images.test) == {3}
    assert len(whole(tmp_path, train_size=2).train) == 2
    with pytest.raises(DataError, match=r"test_size=2: there are only 1 test images here; .* 1$"):
        whole(tmp_path, test_size=2)


def test_the_middle_of_whole_pictures(tmp_path):
    numbers = np.arange(5 * 6, dtype=np.uint8).reshape(5, 6)
    for name, corner in (("a", 0), ("b", 255)):
        numbers[0, 0] = corner
        save(tmp_path / f"{name}.png", numbers)
    save(tmp_path / "c.png", numbers[1:4, 1:])
    for rows in whole(tmp_path, shape=(1, 3))[:2]:
        read = {tuple(row) for row in np.round((rows + 1) * 127.5).astype(int).tolist()}
        assert read <= {(13, 14, 15), (14, 15, 16)}
    with pytest.raises(DataError, match=r"(a|b).png is 5x6 but .*c.png is 3x5|c.png is 3x5 but"):
        whole(tmp_path)
    with pytest.raises(DataError, match=r"c.png: 3x5 is smaller than 4x2; use a smaller shape"):
        whole(tmp_path, shape=(4, 2))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"train_size": 11}, "train_size=11: .* has 11 pictures .* ask for at most 10"),
        ({"test_size": 12}, "test_size=12: .* has 11 pictures"),
        ({"train_size": 6, "test_size": 6}, "train_size=6 and test_size=6: .* only 11 pictures"),
        ({"train_size": 0}, "train_size=0: ask for at least 1"),
        ({"seed": -1}, "seed=-1: give 0 or more"),
    ],
)
def test_wrong_request_of_whole_pictures(pictures, request_, says):
    with pytest.raises(DataError, match=says):
        whole(pictures, **request_)


def occurs(part, picture):
    windows = np.lib.stride_tricks.sliding_window_view(picture, part.shape)
    alike = windows[windows[..., 0, 0] == part[0, 0]]
    return (alike == part).all((1, 2)).any()


def test_photographs_are_parts_of_different_pictures():
    images = load("photographs", train_size=6, test_size=5, shape=(16, 12))
    assert images.source == "6 + 5 parts of scikit-image's photographs, 16x12"
    assert not set(shipped.TRAIN) & set(shipped.TEST)
    for rows, names in ((images.train, shipped.TRAIN), (images.test, shipped.TEST)):
        photographs = [to_grey(getattr(skimage.data, Path(name).stem)()) for name in names]
        found = [[occurs(row.reshape(16, 12), p) for p in photographs] for row in rows]
        assert np.sum(found, 1).tolist() == [1] * len(rows)
        assert sorted(np.sum(found, 0)) == [1, 1, 1, 1, len(rows) - 4]


def test_photographs_by_default_are_as_large_as_celeba():
    images = load("photographs")
    assert images.shape == (218, 178)
    for rows in (images.train, images.test):
        assert rows.shape == (10, 218 * 178) and rows.dtype == np.float32
        assert rows.min() >= -1 and rows.max() <= 1 and rows.std(1).min() > 0.02
    np.testing.assert_array_equal(images.test, load("photographs", train_size=1).test)
    assert not np.array_equal(images.test, load("photographs", train_size=1, seed=1).test)


def test_faces():
    images = load("faces", train_size=50, test_size=50, seed=3)
    assert images.shape == (25, 25) and images.train.dtype == np.float32
    assert images.source == "50 + 50 faces of scikit-image's lfw_subset, 25x25"
    every = 2 * skimage.data.lfw_subset()[:100].reshape(100, -1).astype(np.float32) - 1
    read = np.concatenate([images.train, images.test])
    np.testing.assert_array_equal(np.unique(read, axis=0), np.unique(every, axis=0))
    few = load("faces", seed=3)
    np.testing.assert_array_equal(few.train, images.train[:10])
    np.testing.assert_array_equal(few.test, images.test[:10])
    assert not np.array_equal(few.train, load("faces").train)
    middles = load("faces", shape=(5, 4), seed=3).train.reshape(-1, 5, 4)
    np.testing.assert_array_equal(middles, few.train.reshape(-1, 25, 25)[:, 10:15, 10:14])


@pytest.mark.parametrize("spec", ["photographs", "faces"])
def test_an_installation_without_pictures(tmp_path, monkeypatch, spec):
    """They are not downloaded."""
    monkeypatch.setattr(shipped, "files", lambda _: tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path}.* without its pictures; run\n.*pip install"):
        load(spec)


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """Twenty JPEG files of 218x178 that differ in their colours too."""
    folder = tmp_path_factory.mktemp("portraits")
    parts = np.concatenate(load("photographs", train_size=10, test_size=10)[:2])
    planes = np.round((parts + 1) * 127.5).astype(np.uint8).reshape(-1, 218, 178)
    for i in range(20):
        save(folder / f"{i:02}.jpg", np.stack([planes[i], planes[i - 1], planes[i - 2]], -1))
    return folder


@pytest.mark.data
def test_twenty_faces(data_dir, portraits):
    folder = data_dir / "celeba"
    folder = folder if folder.is_dir() else portraits
    images = whole(folder, train_size=10, test_size=10)
    assert images.shape == (218, 178)
    assert images.source == f"10 + 10 pictures in {folder.name}, 218x178"
    rows = np.concatenate([images.train, images.test])
    assert rows.shape == (20, 218 * 178) and len(np.unique(rows, axis=0)) == 20
    assert rows.min() >= -1 and rows.max() <= 1 and rows.std(1).min() > 0.02


CELEB_A_TRAIN, CELEB_A_TEST = 4, 3


@pytest.fixture(scope="module")
def celeb_a(portraits, tmp_path_factory):
    """A prepared `celeb_a` of a few portraits."""
    import tensorflow_datasets as tfds

    features = tfds.builder("celeb_a", data_dir=tmp_path_factory.mktemp("none")).info.features
    others = {
        group: {name: 0 for name in features[group]}
        for group in ("landmarks", "attributes", "identity")
    }
    examples = [{"image": path, **others} for path in sorted(portraits.iterdir())]
    folder = tmp_path_factory.mktemp("celeb_a")
    splits = {
        "train": examples[:CELEB_A_TRAIN],
        "test": examples[CELEB_A_TRAIN : CELEB_A_TRAIN + CELEB_A_TEST],
    }
    assert write_tfds("celeb_a", splits, folder) == (CELEB_A_TRAIN, CELEB_A_TEST)
    return folder


def test_celeb_a_equals_its_pictures(portraits, celeb_a, monkeypatch):
    images = load(f"celeb_a:{celeb_a}", train_size=2, test_size=CELEB_A_TEST)
    assert images.shape == (218, 178) and images.train.dtype == np.float32
    assert images.source == "2 + 3 faces of CelebA through tensorflow-datasets, 218x178"
    pictures = [read_grey(path).ravel() for path in sorted(portraits.iterdir())]
    level = 2 / 255  # decoders of JPEG may differ by one
    np.testing.assert_allclose(images.train, pictures[:2], atol=1.5 * level)
    np.testing.assert_allclose(
        images.test, pictures[CELEB_A_TRAIN:][:CELEB_A_TEST], atol=1.5 * level
    )
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(celeb_a))
    middles = load("celeb_a", train_size=2, test_size=1, shape=(20, 10)).train.reshape(2, 20, 10)
    whole_pictures = images.train.reshape(2, 218, 178)
    np.testing.assert_array_equal(middles, whole_pictures[:, 99:119, 84:94])


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({}, f"train_size=10: there are only {CELEB_A_TRAIN} train images here; .* 4$"),
        ({"train_size": 1, "test_size": 4}, "test_size=4: there are only 3"),
        ({"train_size": 1, "test_size": 1, "shape": (219, 1)}, "a face: 218x178 is smaller"),
    ],
)
def test_wrong_request_of_celeb_a(celeb_a, request_, says):
    with pytest.raises(DataError, match=says):
        load(f"celeb_a:{celeb_a}", **request_)


def test_celeb_a_as_tfrecord_cannot_be_read(celeb_a, tmp_path):
    """As tensorflow-datasets writes it where no format is named."""
    shutil.copytree(celeb_a, tmp_path, dirs_exist_ok=True)
    info = next(tmp_path.rglob("dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="CelebA cannot be read as array_record; remove it"):
        load(f"celeb_a:{tmp_path}")


@pytest.mark.data
def test_pictures_of_sixteen_bits_are_read_whole(data_dir, tmp_path):
    """Medical ones, where they are there: every one of their values, and no picture for both."""
    folder = data_dir / "mri"
    if not folder.is_dir():
        folder = tmp_path
        rng = np.random.default_rng(0)
        for i in range(4):
            save(folder / f"{i}.png", rng.integers(0, 2**16, (20, 16), dtype=np.uint16))
    images = whole(folder, train_size=2, test_size=1, value_range=(0, 1))
    stored = {imageio.imread(path).tobytes() for path in folder.glob("*.png")}
    for row in (*images.train, *images.test):
        values = np.round(row.reshape(images.shape) * 65535).astype(np.uint16)
        assert np.any(values % 257)  # of no 8 bits
        assert values.tobytes() in stored
        np.testing.assert_allclose(values / 65535, row.reshape(images.shape), atol=1e-7)
        stored.remove(values.tobytes())
    ct = data_dir / "ct" / "ct_small.png"
    if ct.exists():
        known = imageio.imread(ct) / 65535
        np.testing.assert_allclose((read_grey(ct) + 1) / 2, known, atol=1e-6)
