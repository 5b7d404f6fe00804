"""The IDX files in which MNIST was published, read strictly."""

import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from deqbilevel.data.base import DataError, Images, existing_folder, first, from_bytes

STEMS = {"train": "train", "test": "t10k"}
DIGIT = (28, 28)

_TYPES = {0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float", 0x0E: "double"}
_HOLDS = {1: "labels", 3: "images"}


class Split(NamedTuple):
    """The digits of one split, and their labels where a labels file lies beside them."""

    images: UInt8[np.ndarray, "n 28 28"]
    labels: UInt8[np.ndarray, " n"] | None


def load_idx(
    folder: str | Path,
    train_size: int | None = None,
    test_size: int | None = None,
    source: str | None = None,
) -> Images:
    """The first digits of each split of the IDX files in a folder (None: all).

    Raises:
        DataError: a file is missing or malformed, or holds fewer digits than asked for.
    """
    folder = existing_folder(folder)
    train, test = read_split(folder, "train").images, read_split(folder, "test").images
    return from_bytes(
        train[: first(train_size, len(train), "train")],
        test[: first(test_size, len(test), "test")],
        source or f"IDX files in {folder.resolve().name}",
    )


def load_idx_labels(
    folder: str | Path,
) -> tuple[UInt8[np.ndarray, " train"], UInt8[np.ndarray, " test"]]:
    """All training and test labels of the IDX files in a folder, in the order of the images.

    Raises:
        DataError: a file is missing or malformed, or not one label per image.
    """
    train, test = read_labelled(folder, "train"), read_labelled(folder, "test")
    return train[1], test[1]


def read_labelled(
    folder: str | Path, split: str
) -> tuple[UInt8[np.ndarray, "n 28 28"], UInt8[np.ndarray, " n"]]:
    """Images and labels of one split, "train" or "test"; raises `DataError` as `read_split`."""
    images, labels = read_split(folder, split)
    if labels is None:
        raise _missing(existing_folder(folder), f"{STEMS[split]}-labels", 1)
    return images, labels


def read_split(folder: str | Path, split: str) -> Split:
    """Images, and labels if there are any, of one split, "train" or "test".

    Raises:
        DataError: the images file is missing, or one of the files is malformed.
    """
    folder = existing_folder(folder)
    images_stem, labels_stem = f"{STEMS[split]}-images", f"{STEMS[split]}-labels"
    images_file, labels_file = _find(folder, images_stem, 3), _find(folder, labels_stem, 1)
    if images_file is None:
        raise _missing(folder, images_stem, 3)
    images = _read(images_file, 3)
    if images.shape[1:] != DIGIT:
        height, width = images.shape[1:]
        raise DataError(f"{images_file}: images of {height}x{width}, digits are 28x28")
    if labels_file is None:
        return Split(images, None)
    labels = _read(labels_file, 1)
    if len(labels) != len(images):
        raise DataError(
            f"{labels_file}: {len(labels)} labels, but {images_file.name} has {len(images)} images"
        )
    return Split(images, labels)


def _names(stem: str, dimensions: int) -> list[str]:
    """The original name, and the variants that mirrors and unpacking make of it."""
    return [f"{stem}{dot}idx{dimensions}-ubyte{end}" for dot in "-." for end in (".gz", "")]


def _find(folder: Path, stem: str, dimensions: int) -> Path | None:
    candidates = (folder / name for name in _names(stem, dimensions))
    return next((path for path in candidates if path.is_file()), None)


def _missing(folder: Path, stem: str, dimensions: int) -> DataError:
    return DataError(f"{folder}: no file named any of {', '.join(_names(stem, dimensions))}")


def _unpacked(path: Path) -> bytes:
    """The bytes of a file, gzipped or not, whatever its name says."""
    packed = path.read_bytes()
    if not packed:
        raise DataError(f"{path}: the file is empty")
    if not packed.startswith(b"\x1f\x8b"):
        return packed
    try:
        return gzip.decompress(packed)
    except EOFError as error:
        raise DataError(f"{path}: truncated, the gzip stream ends early") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip stream ({error})") from error


def _read(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The array of an IDX file: zero, zero, type, dimensions, big-endian sizes, values."""
    data = _unpacked(path)
    if len(data) < 4:
        raise DataError(f"{path}: truncated, {len(data)} bytes where the header has at least 4")
    if data[:2] != b"\0\0" or data[2] not in _TYPES:
        raise DataError(
            f"{path}: not an IDX file, gzipped or not (begins with {data[:4].hex(' ')})"
        )
    if data[2] != 0x08:
        raise DataError(f"{path}: holds {_TYPES[data[2]]} values (type {data[2]:#04x}), not uint8")
    if data[3] != dimensions:
        found = f"{_HOLDS.get(data[3], 'an array')} ({data[3]} dimensions)"
        raise DataError(f"{path}: holds {found}, not {_HOLDS[dimensions]} ({dimensions})")
    header = 4 + 4 * dimensions
    if len(data) < header:
        raise DataError(f"{path}: truncated, {len(data)} bytes where the header has {header}")
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, header, 4)]
    promised = header + math.prod(shape)
    if len(data) != promised:
        fault = "truncated" if len(data) < promised else "trailing bytes"
        raise DataError(f"{path}: {fault}, {len(data)} bytes where the header says {promised}")
    if shape[0] == 0:
        raise DataError(f"{path}: holds no {_HOLDS[dimensions]}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
