"""The IDX files in which MNIST was published, read strictly."""

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from deqbilevel.data.base import DataError, Images, existing_folder, first, from_bytes

STEMS = {"train": "train", "test": "t10k"}
DIGIT = (28, 28)

MOST = 2**20
"""Digits of a file; no known set has as many, and a small file can unpack to any number."""

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

    >>> import pathlib
    >>> train, test = data.load_idx_labels(pathlib.Path(data.__file__).parent / "mnist")
    >>> print(len(train), len(test), train.max())
    6000 1000 9
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
    if labels_file is None:
        return Split(images, None)
    labels = _read(labels_file, 1)
    if len(labels) != len(images):
        raise DataError(
            f"{labels_file}: {len(labels)} labels, but {images_file.name} has {len(images)} images"
        )
    if labels.max() > 9:
        raise DataError(f"{labels_file}: label {labels.max()}; the labels of digits are 0 to 9")
    return Split(images, labels)


def _names(stem: str, dimensions: int) -> list[str]:
    """The original name, and the variants that mirrors and unpacking make of it."""
    return [f"{stem}{dot}idx{dimensions}-ubyte{end}" for dot in "-." for end in (".gz", "")]


def _find(folder: Path, stem: str, dimensions: int) -> Path | None:
    candidates = (folder / name for name in _names(stem, dimensions))
    return next((path for path in candidates if path.is_file()), None)


def _missing(folder: Path, stem: str, dimensions: int) -> DataError:
    return DataError(f"{folder}: no file named any of {', '.join(_names(stem, dimensions))}")


def _read(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """The array of an IDX file, gzipped or not, whatever its name says. No more is unpacked than
    its header promises, and what that may be is checked before."""
    size = path.stat().st_size
    if not size:
        raise DataError(f"{path}: the file is empty")
    try:
        with path.open("rb") as stored:
            packed = stored.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            shape = _shape(path, file.read, dimensions)
            header, values = 4 + 4 * dimensions, math.prod(shape)
            if not packed:
                _check_length(path, size, header + values)
            _check_shape(path, shape)
            # One more than there are to be: the end is reached and its checksum compared.
            data = file.read(values + 1)
    except EOFError as error:
        raise DataError(f"{path}: truncated, the gzip stream ends early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip stream ({error})") from error
    _check_length(path, header + len(data), header + values)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(path: Path, read: Callable[[int], bytes], dimensions: int) -> tuple[int, ...]:
    """The header: zero, zero, type, dimensions, big-endian sizes."""
    start = read(4)
    if len(start) < 4:
        raise DataError(f"{path}: truncated, {len(start)} bytes where the header has at least 4")
    if start[:2] != b"\0\0" or start[2] not in _TYPES:
        raise DataError(f"{path}: not an IDX file, gzipped or not (begins with {start.hex(' ')})")
    if start[2] != 0x08:
        raise DataError(
            f"{path}: holds {_TYPES[start[2]]} values (type {start[2]:#04x}), not uint8"
        )
    if start[3] != dimensions:
        found = f"{_HOLDS.get(start[3], 'an array')} ({start[3]} dimensions)"
        raise DataError(f"{path}: holds {found}, not {_HOLDS[dimensions]} ({dimensions})")
    sizes = read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise DataError(
            f"{path}: truncated, {4 + len(sizes)} bytes where the header has {4 + 4 * dimensions}"
        )
    return struct.unpack(f">{dimensions}I", sizes)


def _check_length(path: Path, found: int, promised: int) -> None:
    if found != promised:
        fault = "truncated" if found < promised else "trailing bytes"
        raise DataError(f"{path}: {fault}, {found} bytes where the header says {promised}")


def _check_shape(path: Path, shape: tuple[int, ...]) -> None:
    holds = _HOLDS[len(shape)]
    if shape[0] == 0:
        raise DataError(f"{path}: holds no {holds}")
    if shape[0] > MOST:
        raise DataError(f"{path}: {shape[0]} {holds}; at most {MOST} are read")
    if shape[1:] not in ((), DIGIT):
        raise DataError(f"{path}: images of {shape[1]}x{shape[2]}, digits are 28x28")
