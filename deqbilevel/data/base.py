"""What every source of images shares: the result, cutting pictures, and the checks on the
request."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from jaxtyping import Float, Float32, UInt8

from deqbilevel.pictures import DataError, Picture, existing_folder, read_grey, to_grey

__all__ = [
    "DataError",
    "Images",
    "Picture",
    "check_memory",
    "crops",
    "existing_folder",
    "first",
    "from_bytes",
    "from_pictures",
    "generator",
    "middle",
    "positive",
    "read_grey",
    "size",
    "to_grey",
]


class Images(NamedTuple):
    """Two disjoint sets of grey images of one size, flattened to rows.

    Attributes:
        train: float32 in [-1, 1], one image per row, pixels in row-major order.
        test: the same for images that no training may see.
        shape: (height, width), with height * width = pixels.
        source: one line for captions.
    """

    train: Float[np.ndarray, "train pixels"]
    test: Float[np.ndarray, "test pixels"]
    shape: tuple[int, int]
    source: str


def positive(asked: int, split: str) -> int:
    """The size asked of a split; raises `DataError` below 1."""
    if asked < 1:
        raise DataError(f"{split}_size={asked}: ask for at least 1, or leave it out")
    return asked


def first(
    asked: int | None,
    available: int,
    split: str,
    *,
    larger: str | None = "idx:DIR or tfds:DIR",
) -> int:
    """How many of the available images of a split to take, all where `asked` is None.

    Args:
        asked: by the user, or None.
        available: at least 1.
        split: "train" or "test", for the message.
        larger: where there are more, for the message.

    Raises:
        DataError: fewer than one asked for, or more than there are.
    """
    if asked is None:
        return available
    if positive(asked, split) > available:
        advice = f", or read a larger set ({larger})" if larger else ""
        raise DataError(
            f"{split}_size={asked}: there are only {available} {split} images here; "
            f"ask for at most {available}{advice}"
        )
    return asked


def generator(seed: int, stream: int) -> np.random.Generator:
    """One of the independent random streams of a seed; raises `DataError` for one below 0."""
    if seed < 0:
        raise DataError(f"seed={seed}: give 0 or more")
    return np.random.default_rng((seed, stream))


def from_bytes(
    train: UInt8[np.ndarray, "train height width"],
    test: UInt8[np.ndarray, "test height width"],
    source: str,
) -> Images:
    """Images from 8-bit grey values: 0 becomes -1 and 255 becomes 1."""

    def rows(images: UInt8[np.ndarray, "n height width"]) -> Float[np.ndarray, "n pixels"]:
        return images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1

    height, width = train.shape[1:]
    counted = f"{source} ({len(train)} + {len(test)} digits)"
    return Images(rows(train), rows(test), (height, width), counted)


def from_pictures(train: Sequence[Picture], test: Sequence[Picture], source: str) -> Images:
    """Images from whole pictures of one shape, at least one for training and one for test."""
    height, width = train[0].shape
    train_rows, test_rows = (np.stack([picture.ravel() for picture in of]) for of in (train, test))
    counted = f"{len(train)} + {len(test)} {source}, {height}x{width}"
    return Images(train_rows, test_rows, (height, width), counted)


def middle(
    picture: Picture, shape: tuple[int, int] | None, name: object
) -> Float32[np.ndarray, "rows columns"]:
    """The part of that shape in the middle of a picture, all of it where `shape` is None.

    Raises:
        DataError: the picture, called by its name, is smaller.
    """
    if shape is None:
        return picture
    _check_holds(picture, shape, name, "shape")
    rows, columns = (
        slice((has - wanted) // 2, (has - wanted) // 2 + wanted)
        for has, wanted in zip(picture.shape, shape, strict=True)
    )
    return picture[rows, columns]


def crops(
    paths: Sequence[Path],
    count: int,
    shape: tuple[int, int],
    rng: np.random.Generator,
    option: str,
) -> Float[np.ndarray, "count pixels"]:
    """`count` parts of that shape, row i from picture i modulo their number, pictures in random
    order; no part is cut twice.

    Args:
        paths: of picture files.
        count: at least 1.
        shape: (height, width).
        rng: chooses the order and the places.
        option: sets the shape, for the messages.

    Raises:
        DataError: a picture that cannot be read or is too small for its parts, or more parts than
            memory holds.
    """
    check_memory(count, shape, option)
    order = rng.permutation(len(paths))
    rows = np.empty((count, shape[0] * shape[1]), np.float32)
    for start, picture in enumerate(order[:count]):
        share = rows[start :: len(paths)]
        share[:] = _cut(paths[picture], len(share), shape, rng, option)
    return rows


def check_memory(count: int, shape: tuple[int, int], option: str) -> None:
    """Raises `DataError` for more images of a shape, which the option sets, than memory holds."""
    needed, free = 4 * count * shape[0] * shape[1], psutil.virtual_memory().available
    if needed > free:
        raise DataError(
            f"{count} images of {size(shape)} take {needed / 2**30:.1f} GiB, {free / 2**30:.1f} "
            f"are free; ask for fewer (train_size, test_size) or use a smaller {option}"
        )


def _cut(
    path: Path, count: int, shape: tuple[int, int], rng: np.random.Generator, option: str
) -> Float[np.ndarray, "count pixels"]:
    """Parts at distinct random places of one picture."""
    grey = read_grey(path)
    _check_holds(grey, shape, path, option)
    windows = np.lib.stride_tricks.sliding_window_view(grey, shape)
    places = windows.shape[0] * windows.shape[1]
    if places < count:
        raise DataError(
            f"{path}: {size(grey.shape)} has {places} places for {size(shape)} patches, {count} "
            f"are needed; ask for fewer (train_size, test_size) or use a smaller {option}"
        )
    rows, columns = np.divmod(rng.choice(places, count, replace=False), windows.shape[1])
    return windows[rows, columns].reshape(count, -1)


def size(shape: tuple[int, ...]) -> str:
    """A shape as messages write it, such as 218x178."""
    return "x".join(map(str, shape))


def _check_holds(picture: Picture, shape: tuple[int, int], name: object, option: str) -> None:
    if any(has < wanted for has, wanted in zip(picture.shape, shape, strict=True)):
        raise DataError(
            f"{name}: {size(picture.shape)} is smaller than {size(shape)}; use a smaller {option}"
        )
