"""Images in a file that numpy wrote: two arrays by name, or one that is split."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from deqbilevel.data.base import DataError, Range, checked_range, first, generator
from deqbilevel.disk import arrays

TEST_SHARE = 1 / 5
"""Of images that come in one array."""


class Stored(NamedTuple):
    """What a file holds, as `data.arrays` takes it."""

    train: np.ndarray
    test: np.ndarray
    value_range: Range
    shape: tuple[int, int] | None
    source: str


def read_arrays(
    file: str | Path,
    train_size: int | None = None,
    test_size: int | None = None,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
) -> Stored:
    """The images of a file: pictures [images, height, width] or flat rows [images, pixels].

    `np.savez(file, train=..., test=..., range=(0, 1))`: the first images of either; or one array,
    `np.save(file, images)`, of which a seeded fifth, at least one, is for the test. Without a
    range whole numbers of 8 and of 16 bits fill their bits, and floating ones are in [0, 1].

    Args:

        file: whatever its name ends in.
        train_size: number of training images; None: all.
        test_size: number of test images; None: all.
        shape: (height, width) of flat rows; None: what the file says as `shape`.
        seed: at least 0; chooses the fifth.

    Raises:

        DataError: no such file, or one that does not hold such arrays.
    """
    path = _expanded(file)
    found = _read(path)
    whole = found.get(arrays.SINGLE)
    train, test = (found["train"], found["test"]) if whole is None else _split(path, whole, seed)
    value_range = _range(path, found, train, test)
    if shape is None and "shape" in found:
        height, width = found["shape"].tolist()
        shape = height, width
    train = train[: first(train_size, len(train), "train", larger=None)]
    test = test[: first(test_size, len(test), "test", larger=None)]
    return Stored(train, test, value_range, shape, f"images of {path.name}")


def _expanded(file: str | Path) -> Path:
    try:
        return Path(file).expanduser()
    except (TypeError, RuntimeError) as error:
        raise DataError(f"{file!r}: expected a file ({error})") from error


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; raises `DataError` for one that holds none of images."""
    try:
        ranks = {name: len(header.shape) for name, header in arrays.headers(path).items()}
        single = arrays.SINGLE in ranks
        flat = ranks.get(arrays.SINGLE if single else "train") == 2
        image = ("pixels",) if flat else ("height", "width")
        if single:
            schema = {arrays.SINGLE: arrays.Array(("images", *image), np.number)}
        else:
            schema = {
                "train": arrays.Array(("training images", *image), np.number),
                "test": arrays.Array(("test images", *image), np.number),
                "range": arrays.Array((2,), np.number, optional=True),
                "shape": arrays.Array((2,), np.integer, optional=True),
            }
        return arrays.read(path, schema, psutil.virtual_memory().available)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except ValueError as error:
        raise DataError(str(error)) from error


def _split(path: Path, images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images for training, and the seeded share of them for the test."""
    if len(images) < 2:
        raise DataError(f"{path}: only one image here; training and test need one each")
    order = generator(seed, 0).permutation(len(images))
    held_out = max(1, round(TEST_SHARE * len(images)))
    return images[order[held_out:]], images[order[:held_out]]


def _range(path: Path, found: dict[str, np.ndarray], train: np.ndarray, test: np.ndarray) -> Range:
    """The range that a file says; without one, that of the type of its numbers."""
    if "range" in found:
        return checked_range(f"{path}: range", tuple(found["range"].tolist()))
    dtypes = {train.dtype, test.dtype}
    if len(dtypes) == 1 and train.dtype in (np.uint8, np.uint16):
        return 0, int(np.iinfo(train.dtype).max)
    if all(np.issubdtype(dtype, np.floating) for dtype in dtypes):
        return 0, 1
    raise DataError(
        f"{path}: numbers of type {' and '.join(sorted(map(str, dtypes)))}, which do not tell what "
        "is white; let the file say it: np.savez(file, train=..., test=..., range=(0, 4095))"
    )
