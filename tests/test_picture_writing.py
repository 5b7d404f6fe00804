"""Pictures written as files of 16 bits: what other programs and our own reader find in them."""

import struct
import zlib

import imageio.v3 as imageio
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import untyped

from deqbilevel.disk import files
from deqbilevel.pictures import DataError, read_grey, write

LEVELS = np.random.default_rng(0).integers(0, 2**16, (9, 14))
LEVELS[0, :2] = 0, 65535


def unpacked(path):
    """The samples of a grey PNG of 16 bits, by the specification: filters 0 to 4 undone."""
    data, chunks, start = path.read_bytes(), {}, 8
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while start < len(data):
        (length,) = struct.unpack_from(">I", data, start)
        kind, body = data[start + 4 : start + 8], data[start + 8 : start + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack_from(">I", data, start + 8 + length)[0]
        chunks[kind] = chunks.get(kind, b"") + body
        start += 12 + length
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [16, 0, 0, 0, 0] and chunks[b"sBIT"] == b"\x10"
    stored = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8)
    rows = stored.reshape(height, 1 + 2 * width).astype(int)
    out = np.zeros((height + 1, 2 * width + 2), int)  # a row above, and a sample to the left
    for y, (kind, *row) in enumerate(rows, start=1):
        for x, value in enumerate(row, start=2):
            a, b, c = out[y, x - 2], out[y - 1, x], out[y - 1, x - 2]
            nearest = min((a, b, c), key=lambda near: abs(a + b - c - near))
            out[y, x] = (value + (0, a, b, (a + b) // 2, nearest)[kind]) % 256
    return out[1:, 2:].astype(np.uint8).tobytes(), (height, width)


@pytest.mark.parametrize("value_range", [(-1, 1), (0, 1), (0.0, 255.0), (-3.5, 10.0)])
def test_two_libraries_and_our_own_read_what_was_written(tmp_path, value_range):
    low, width = value_range[0], value_range[1] - value_range[0]
    picture = low + width * LEVELS / 65535
    path = tmp_path / "sub" / "folder" / "a.png"
    assert write(path, picture, value_range) == 0
    found = imageio.imread(path)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, LEVELS)
    samples, shape = unpacked(path)
    np.testing.assert_array_equal(np.frombuffer(samples, ">u2").reshape(shape), LEVELS)
    np.testing.assert_allclose(read_grey(path), 2 * LEVELS / 65535 - 1, atol=2e-7)


def test_what_lies_between_two_levels_goes_to_the_nearer(tmp_path):
    picture = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (20, 30)), jnp.float32)
    assert write(tmp_path / "a.png", picture, (-1, 1)) == 0
    np.testing.assert_allclose(read_grey(tmp_path / "a.png"), picture, atol=1.001 / 65535)


def test_what_is_beyond_the_range_is_clipped_and_counted(tmp_path):
    half = 0.5 / 65535
    picture = np.array([[-0.1, -0.9 * half, 0.0], [1.0, 1 + 0.9 * half, 7.0]])
    assert write(tmp_path / "a.png", picture, (0, 1)) == 2
    np.testing.assert_array_equal(imageio.imread(tmp_path / "a.png"), [[0] * 3, [65535] * 3])


@pytest.mark.parametrize("white", [0, 1, 255, 4095, 4096])
def test_dark_pictures_are_read_as_they_were_written(tmp_path, white):
    """Without a word in the file they would be taken for pictures of 12 bits, and refused."""
    picture = np.linspace(0, white / 65535, 12).reshape(3, 4)
    write(tmp_path / "a.png", picture, (0, 1))
    np.testing.assert_allclose((read_grey(tmp_path / "a.png") + 1) / 2, picture, atol=0.51 / 65535)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a.tif", LEVELS, (0, 1)), "a.tif: expected a name that ends in .png"),
        (("a.png", LEVELS[0], (0, 1)), r"a.png: a picture of shape \[14\]; expected \[height, wi"),
        (("a.png", LEVELS[:0], (0, 1)), "0x14 pixels"),
        (("a.png", LEVELS / np.where(LEVELS == 0, np.nan, 1), (0, 1)), "1 of 126 values are not"),
        (("a.png", LEVELS, (1, 0)), r"value_range=\(1, 0\): expected two finite numbers, the low"),
        (("a.png", LEVELS, (0, np.inf)), "expected two finite numbers"),
        (("a.png", LEVELS, (0, 1e-60)), "expected two finite numbers"),
        (("a.png", LEVELS, (0, 1, 2)), "expected two finite numbers"),
        (("a.png", LEVELS, "01"), "value_range='01': expected two finite numbers"),
        (("a.png", LEVELS, None), "value_range=None: expected two finite numbers"),
    ],
)
def test_what_cannot_be_written(tmp_path, arguments, says):
    name, *others = arguments
    with untyped(), pytest.raises(DataError, match=says):
        write(tmp_path / name, *others)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_picture_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write(path, LEVELS / 65535, (0, 1))

    def full(_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            write(path, 1 - LEVELS / 65535, (0, 1))
    np.testing.assert_array_equal(imageio.imread(path), LEVELS)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
