"""Images of one's own: arrays, files of them, what a function draws, and the range of values."""

import io
import pickle
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import untyped

from deqbilevel import data, losses
from deqbilevel.data import DataError, Images, arrays, drawn, load, pictures
from deqbilevel.pictures import mapped, write

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (9, 4, 5), dtype=np.uint8)
BYTES[0, 0, :2] = 0, 255
TRAIN, TEST = BYTES[:6], BYTES[6:]
UNIT = BYTES / 255


def rows(pictures):
    return pictures.reshape(len(pictures), -1)


@pytest.mark.parametrize(
    ("given", "to"),
    [((0, 255), (-1, 1)), ((0, 255), (0, 1)), ((0, 255), (0, 255)), ((-9, 300), (2, 3))],
)
def test_bytes_are_mapped_exactly(given, to):
    """To the float32 next to the rational number."""
    images = arrays(TRAIN, TEST, value_range=given, to=to)
    scale = Fraction(to[1] - to[0], given[1] - given[0])
    for found, whole in ((images.train, TRAIN), (images.test, TEST)):
        exact = [float(to[0] + scale * (int(x) - given[0])) for x in whole.ravel()]
        np.testing.assert_array_equal(found.ravel(), np.array(exact, np.float32))
        assert found.dtype == np.float32 and found.shape == (len(whole), 20)
    assert images.shape == (4, 5) and images.range == to and images.peak == to[1] - to[0]
    assert images.source == "6 + 3 images of one's own, 4x5"


def test_digits_as_arrays_are_the_digits():
    digits = load(train_size=50, test_size=20)
    train, test = (np.round((x + 1) * 127.5).astype(np.uint8) for x in digits[:2])
    images = arrays(train, test, value_range=(0, 255), shape=(28, 28))
    np.testing.assert_allclose(images.train, digits.train, rtol=0, atol=1e-7)
    np.testing.assert_allclose(images.test, digits.test, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_every_type_of_numbers(dtype, as_array):
    stored = BYTES.astype(dtype)
    given = as_array(
        stored.astype(stored.dtype.newbyteorder("=")) if as_array != np.asarray else stored
    )
    images = arrays(given[:6], given[6:], value_range=(0, 255), to=(0, 1))
    np.testing.assert_allclose(images.train, rows(UNIT[:6]), rtol=1e-7)


def test_floats_of_the_range_asked_for_are_as_they_were():
    x = RNG.uniform(-1, 1, (4, 3, 3)).astype(np.float32) * np.float32(1e-9)
    x[0, 0, 0] = -1
    images = arrays(x[:2], x[2:], value_range=(-1, 1))
    np.testing.assert_array_equal(images.train, rows(x[:2]))
    bits = arrays(BYTES[:2] > 99, BYTES[2:] > 99, value_range=(0, 1))
    assert set(np.unique(bits.train)) == {-1, 1}


def test_rows_are_pictures_row_by_row():
    flat = arrays(rows(TRAIN), rows(TEST), value_range=(0, 255), shape=(4, 5))
    whole = arrays(TRAIN, TEST, value_range=(0, 255))
    np.testing.assert_array_equal(flat.train, whole.train)
    again = whole.as_pictures(whole.test)
    np.testing.assert_array_equal(np.round((again + 1) * 127.5), TEST)
    assert whole.as_pictures(jnp.zeros((2, 20))).shape == (2, 4, 5)
    for wrong in (np.zeros((2, 21)), np.zeros(20), np.zeros((0, 20))):
        with untyped(), pytest.raises(ValueError, match=r"rows: of shape .*\[batch, 20\]"):
            whole.as_pictures(wrong)


NAN = np.where(np.arange(180).reshape(9, 4, 5) == 65, np.nan, UNIT)


@pytest.mark.parametrize(
    ("train", "test", "request_", "says"),
    [
        (TRAIN[0], TEST, {}, r"train: of shape \[4, 5\].*one image is x\[None\]; flat rows need"),
        (TRAIN, rows(TEST), {}, r"test: of shape \[3, 20\]; expected \[images, height, width\]"),
        (rows(TRAIN), rows(TEST), {"shape": (4, 4)}, "with as many pixels"),
        (TRAIN, TEST, {"shape": (5, 4)}, r"of another shape than \(5, 4\); leave shape out"),
        (TRAIN, TEST, {"shape": 20}, "shape=20: expected the height and the width"),
        (TRAIN, TEST, {"shape": (0, 4)}, "shape=0: expected a whole number"),
        (TRAIN[..., None], TEST, {}, "grey images have no channels"),
        (TRAIN[None, None], TEST, {}, "of shape .* see data.arrays"),
        (TRAIN[:0], TEST, {}, r"train: of shape \[0, 4, 5\]; expected one image or more"),
        (TRAIN, TEST[:, :3], {}, "train has images of 4x5 and test of 3x5"),
        (TRAIN * 1j, TEST, {}, "train: of type complex128; expected an array of real numbers"),
        (TRAIN.astype(str), TEST, {}, "train: of type <U3"),
        (None, TEST, {}, "train: of type object"),
        ([[1, 2], [3]], TEST, {}, "train: expected an array"),
        (NAN[:6], UNIT[6:], {"value_range": (0, 1)}, r"train\[3\]: values from nan"),
        (
            UNIT[:6],
            np.where(UNIT[6:] == UNIT[7, 0, 0], np.inf, UNIT[6:]),
            {},
            r"test\[1\]: .* inf,",
        ),
        (
            TRAIN,
            TEST,
            {"value_range": (0, 1)},
            r"train\[0\]: values from 0 to 255, expected .*\[0, 1",
        ),
        (UNIT[:6], 1.00001 * UNIT[:1], {"value_range": (0, 1)}, r"test\[0\]: values from 0 to 1.0"),
        (TRAIN, TEST, {"value_range": (255, 0)}, r"value_range=\(255, 0\): expected two finite"),
        (TRAIN, TEST, {"value_range": (0, np.nan)}, "expected two finite numbers"),
        (TRAIN, TEST, {"to": (1, 1)}, r"to=\(1, 1\): expected two finite numbers, the lower first"),
        (
            TRAIN,
            TRAIN[4:],
            {},
            r"train\[4\] and test\[0\]; train\[5\] and test\[1\]: the same image",
        ),
        (BYTES, BYTES, {}, r"train\[2\] and test\[2\] and 6 more pairs: the same image"),
        (0 * TRAIN, TEST, {}, "every pixel of every training image is -1 in"),
        (TRAIN, 0 * TEST, {"to": (0, 1)}, r"every pixel of every test image is 0 in \[0, 1\]"),
    ],
)
def test_what_are_no_images(train, test, request_, says):
    with untyped(), pytest.raises(DataError, match=says):
        arrays(train, test, **{"value_range": (0, 255)} | request_)


def test_values_beyond_the_range_by_rounding_are_clipped():
    x = np.float32([[[1 + 1e-7, -1e-8]], [[0.5, 0.25]], [[0.1, 0.2]]])
    images = arrays(x[:2], x[2:], value_range=(0, 1), to=(0, 1))
    assert images.train.min() == 0 and images.train.max() == 1


# ---- files


def saved(path, **named):
    np.savez_compressed(path, **named)
    return f"arrays:{path}"


def test_two_arrays_of_a_file(tmp_path):
    spec = saved(tmp_path / "own.npz", train=TRAIN, test=TEST)
    images = load(spec)
    expected = arrays(TRAIN, TEST, value_range=(0, 255))
    np.testing.assert_array_equal(images.train, expected.train)
    np.testing.assert_array_equal(images.test, expected.test)
    assert images.source == "6 + 3 images of own.npz, 4x5" and images.range == (-1, 1)
    few = load(spec, train_size=2, test_size=1, seed=5, value_range=(0, 1))
    np.testing.assert_array_equal(few.train, rows(UNIT[:2]).astype(np.float32))
    assert (len(few.test), few.range) == (1, (0, 1))
    assert data.fingerprint(load(spec)) == data.fingerprint(images)
    with pytest.raises(DataError, match=r"test_size=4: there are only 3 test images here; .* 3$"):
        load(spec, test_size=4)


@pytest.mark.parametrize(
    ("values", "more"),
    [
        (UNIT, {}),
        (UNIT.astype(np.float16), {}),
        (BYTES.astype(np.uint16) * 257, {}),
        (UNIT * 4000 - 1000, {"range": (-1000, 3000)}),
        (2 * UNIT - 1, {"range": (-1.0, 1.0)}),
        (rows(BYTES).astype(int), {"range": [0, 255], "shape": (4, 5)}),
    ],
)
def test_the_range_of_a_file(tmp_path, values, more):
    images = load(saved(tmp_path / "own.npz", train=values[:6], test=values[6:], **more))
    half = values.dtype == np.float16
    np.testing.assert_allclose(images.train, 2 * rows(UNIT[:6]) - 1, atol=1e-3 if half else 1e-6)
    assert images.shape == (4, 5)


def test_one_array_is_split_by_the_seed(tmp_path):
    many = RNG.integers(0, 256, (20, 3, 3), dtype=np.uint8)
    np.save(tmp_path / "own.npy", many)
    spec = f"arrays:{tmp_path / 'own.npy'}"
    images = load(spec, value_range=(0, 255))
    assert (len(images.train), len(images.test)) == (16, 4)
    both = np.concatenate(images[:2])
    assert sorted(both.tolist()) == sorted(rows(many).tolist())
    few = load(spec, train_size=3, test_size=2, value_range=(0, 255))
    np.testing.assert_array_equal(few.train, images.train[:3])
    np.testing.assert_array_equal(few.test, images.test[:2])
    assert not np.array_equal(load(spec, seed=1, value_range=(0, 255)).test, images.test)
    np.save(tmp_path / "own.npy", rows(many))
    np.testing.assert_array_equal(load(spec, shape=(3, 3)).train, load(spec, shape=(3, 3)).train)
    with pytest.raises(DataError, match="flat rows need shape"):
        load(spec)
    np.save(tmp_path / "own.npy", many[:1])
    with pytest.raises(DataError, match=r"own.npy: only one image here; training and test need"):
        load(spec)
    np.save(tmp_path / "own.npy", np.concatenate([many[:1]] * 3))
    with pytest.raises(DataError, match=r"the same image .*np.unique\(images, axis=0\)"):
        load(spec)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"train": TRAIN}, "own.npz: no test; expected train, test, range, shape"),
        ({"x": TRAIN}, "own.npz: no train, test"),
        ({"train": TRAIN, "test": TEST, "y": TEST}, "own.npz: y, which is unheard of"),
        ({"train": TRAIN, "test": TEST[:, :3]}, r"test: of shape .*height \(4\), width \(5\)"),
        ({"train": TRAIN, "test": rows(TEST)}, "test: of shape"),
        ({"train": TRAIN[0], "test": TEST[0]}, "flat rows need shape"),
        ({"train": TRAIN[:0], "test": TEST}, "train: of shape"),
        ({"train": np.array([None]), "test": TEST}, "train: of type object; expected number"),
        ({"train": TRAIN > 9, "test": TEST > 9}, "train: of type bool; expected number"),
        ({"train": NAN, "test": UNIT}, "own.npz: train: expected finite numbers"),
        ({"train": TRAIN, "test": TEST, "range": 255}, "range: of shape"),
        ({"train": TRAIN, "test": TEST, "range": (9, 1)}, r"own.npz: range=\(9, 1\): expected two"),
        ({"train": TRAIN * 1j, "test": TEST, "range": (0, 255)}, "train: of type complex128"),
        (
            {"train": TRAIN.astype(int), "test": TEST},
            "type int64 and uint8, which do not tell what",
        ),
        (
            {"train": 2 * UNIT[:6] - 1, "test": UNIT[6:]},
            r"train\[0\]: values from -1 .*say the range",
        ),
    ],
)
def test_files_of_no_images(tmp_path, named, says):
    with pytest.raises(DataError, match=says):
        load(saved(tmp_path / "own.npz", **named))


def test_hostile_files_are_refused(tmp_path):
    path = tmp_path / "own.npy"
    np.save(path, np.array([print], dtype=object), allow_pickle=True)
    whole = io.BytesIO()
    np.save(whole, BYTES)
    shape = whole.getvalue().replace(b"(9, 4, 5), ", b"(9**9,4,5),")
    vast = whole.getvalue().replace(b"(9, 4, 5), }    ", b"(9999, 4, 5), } ")
    contents = (path.read_bytes(), pickle.dumps(print), b"", shape, vast, whole.getvalue()[:-1])
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"own\.npy: "):
            load(f"arrays:{path}")


def test_arrays_that_no_memory_holds_are_not_unpacked(tmp_path, monkeypatch):
    from deqbilevel.data import numpy_file

    class Little:
        available = 100

    monkeypatch.setattr(numpy_file.psutil, "virtual_memory", Little)
    with pytest.raises(DataError, match="180 bytes of arrays; expected 100 at most"):
        load(saved(tmp_path / "own.npz", train=TRAIN, test=TEST))


def test_patches_of_arrays_are_refused(tmp_path):
    with pytest.raises(DataError, match="patch=9: arrays have no patches"):
        load(saved(tmp_path / "own.npz", train=TRAIN, test=TEST), patch=9)


# ---- drawn


def discs(key, count):
    """Of random radii and greys."""
    radius, grey = jax.random.uniform(key, (2, count, 1, 1), minval=0.3)
    y, x = jnp.mgrid[-1:1:8j, -1:1:6j]
    return grey * (x**2 + y**2 < radius**2)


def test_drawn_images_follow_the_key():
    key = jax.random.key(3)
    request = {"train_size": 7, "test_size": 2, "shape": (8, 6), "value_range": (0, 1)}
    images = drawn(discs, key=key, **request)
    for_train, for_test = jax.random.split(key)
    np.testing.assert_allclose(images.train, 2 * rows(discs(for_train, 7)) - 1, atol=1e-6)
    np.testing.assert_allclose(images.test, 2 * rows(discs(for_test, 2)) - 1, atol=1e-6)
    assert images.source == "7 + 2 images of discs, 8x6" and images.shape == (8, 6)
    other = drawn(discs, key=jax.random.fold_in(key, 1), **request)
    assert data.fingerprint(other) != data.fingerprint(images)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"draw": 3}, "draw: a int; expected a function"),
        (
            {"draw": lambda key, n: discs(key, n)[0]},
            r"of shape \[8, 6\] for a count of 2; expected",
        ),
        ({"shape": (6, 8)}, r"gives an array of shape \[2, 8, 6\] for a count of 2; .*\[2, 6, 8\]"),
        ({"train_size": 0}, "train_size=0: expected a whole number, 1 or more"),
        ({"test_size": 2.5}, "test_size=2.5: expected a whole number"),
        ({"key": 3}, "key: a int; expected a random key"),
        ({"train_size": 10**9, "shape": (10**4, 10**4)}, "images of 10000x10000 take"),
        ({"value_range": (0, 0.1)}, r"train\[0\]: values from 0 to .*\[0, 0.1\]"),
        (
            {"draw": lambda key, n: jnp.ones((n, 8, 6))},
            "every pixel of every training image is 1 in",
        ),
    ],
)
def test_what_cannot_be_drawn(change, says):
    request = {"train_size": 7, "test_size": 2, "shape": (8, 6), "value_range": (0, 1)}
    request |= {"draw": discs, "key": jax.random.key(0)} | change
    with untyped(), pytest.raises(ValueError, match=says):
        drawn(request.pop("draw"), **request)


# ---- the range


def test_images_in_another_range():
    signed, unit = load("faces"), load("faces", value_range=(0, 1))
    assert signed.range == (-1, 1) and signed.peak == 2 and unit.range == (0, 1) and unit.peak == 1
    np.testing.assert_allclose(unit.train, (signed.train + 1) / 2, atol=1e-7)
    np.testing.assert_allclose(unit.mapped((-1, 1)).test, signed.test, atol=1e-7)
    assert signed.mapped((-1, 1)) is signed and unit.train.dtype == np.float32
    for wrong in ((1, 0), (0, np.inf), 1, "01", (0, 1, 2)):
        with untyped(), pytest.raises(DataError, match=r"value_range=.*: expected two finite"):
            load("faces", value_range=wrong)


def test_psnr_is_the_same_in_every_range():
    """And structural similarity in all whose black is 0: it looks at means."""
    found = []
    for value_range in ((-1, 1), (0, 1), (0, 255)):
        images = load("faces", value_range=value_range)
        truth = jnp.asarray(images.test)
        u = truth + 0.05 * images.peak * jnp.asarray(
            np.random.default_rng(1).normal(size=truth.shape)
        )
        measures = [
            losses.psnr(u, truth, data_range=images.peak),
            losses.ssim(u, truth, images.shape, data_range=images.peak),
        ]
        found.append(np.concatenate(measures))
    np.testing.assert_allclose(found[2], found[1], rtol=1e-4)
    count = len(found[0]) // 2
    np.testing.assert_allclose(found[0][:count], found[1][:count], rtol=1e-5)


def test_mapping_in_blocks_is_mapping(monkeypatch):
    from deqbilevel.pictures import base

    x = RNG.uniform(0, 1, (7, 3, 2))
    expected = mapped(x, (0, 1), (-3, 5))
    np.testing.assert_allclose(expected, 8 * x - 3, atol=1e-6)
    monkeypatch.setattr(base, "BLOCK", 13)
    np.testing.assert_array_equal(mapped(x, (0, 1), (-3, 5)), expected)


# ---- pictures to be reconstructed


def test_pictures_of_a_folder_one_by_one(tmp_path):
    shapes = {"b": (3, 4), "a/c": (5, 2), "a/b.x": (1, 1), ".hidden": (2, 2), "run/d": (2, 2)}
    for i, (name, shape) in enumerate(shapes.items()):
        write(tmp_path / f"{name}.png", np.full(shape, i / 4), (0, 1))
    (tmp_path / "run" / "options.json").write_text("{}")
    found = list(pictures(tmp_path, (0, 255)))
    assert [name for name, _ in found] == ["a/b.x", "a/c", "b"]
    assert [picture.shape for _, picture in found] == [(1, 1), (5, 2), (3, 4)]
    np.testing.assert_allclose([x.mean() for _, x in found], [127.5, 63.75, 0], atol=0.003)
    assert all(x.dtype == np.float32 for _, x in found)
    np.testing.assert_array_equal(dict(pictures(tmp_path))["b"], -np.ones((3, 4)))


def test_pictures_are_refused_as_those_to_learn_from(tmp_path):
    with pytest.raises(DataError, match="no images here"):
        pictures(tmp_path, (0, 1))  # before any is read
    write(tmp_path / "a.png", np.zeros((2, 2)), (-1, 1))
    (tmp_path / "b.png").write_text("no picture")
    with untyped(), pytest.raises(DataError, match="value_range=None: expected two finite"):
        pictures(tmp_path, None)
    one_by_one = pictures(tmp_path, (0, 1))
    assert next(one_by_one)[0] == "a"
    with pytest.raises(DataError, match=r"b.png: cannot be read as an image"):
        next(one_by_one)
    (tmp_path / "options.json").write_text("{}")
    with pytest.raises(DataError, match="a run's folder"):
        pictures(tmp_path, (0, 1))


def test_a_range_is_that_of_all_where_none_is_said():
    assert Images(np.zeros((1, 1)), np.ones((1, 1)), (1, 1), "two").range == (-1, 1)
