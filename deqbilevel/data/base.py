"""What every source of images shares: the result, and cutting pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from deqbilevel import checks
from deqbilevel.data.checked import check_memory, first, generator, positive, size
from deqbilevel.pictures import (
    SIGNED,
    DataError,
    Picture,
    Range,
    checked_range,
    existing_folder,
    mapped,
    read_grey,
    to_grey,
)

__all__ = [
    "SIGNED",
    "DataError",
    "Images",
    "Picture",
    "Range",
    "check_memory",
    "check_not_empty",
    "checked_range",
    "crops",
    "existing_folder",
    "first",
    "from_bytes",
    "from_pictures",
    "generator",
    "mapped",
    "middle",
    "positive",
    "read_grey",
    "size",
    "to_grey",
]


class Images(NamedTuple):
    """Two disjoint sets of grey images of one size, flattened to rows.

    Attributes:

        train: float32, one image per row, pixels in row-major order.
        test: the same for images that no training may see.
        shape: (height, width), with height * width = pixels.
        source: one line for captions.
        range: the values of black and of white, which bound all others.

    >>> rows = np.array([[0.0, 1.0]], np.float32)
    >>> images = data.Images(rows, 1 - rows, (1, 2), "two pixels", (0, 1))
    >>> print(images.peak, images.as_pictures(rows).shape, images.mapped((-1, 1)).train)
    1.0 (1, 1, 2) [[-1.  1.]]
    """

    train: Float[np.ndarray, "train pixels"]
    test: Float[np.ndarray, "test pixels"]
    shape: tuple[int, int]
    source: str
    range: Range = SIGNED

    @property
    def peak(self) -> float:
        """From black to white: the `data_range` of `losses.psnr` and `losses.ssim`."""
        return float(self.range[1] - self.range[0])

    def as_pictures(
        self, rows: Float[np.ndarray | Array, "batch pixels"]
    ) -> Float[np.ndarray | Array, "batch height width"]:
        """Rows, such as `train` or reconstructions, as pictures.

        Raises:

            ValueError: not one or more rows of as many pixels as these images have.
        """
        return checks.rows("rows", rows, checks.pixels(self.shape)).reshape(-1, *self.shape)

    def mapped(self, value_range: Range) -> "Images":
        """The same images with values in another range, see `pictures.mapped`.

        Raises:

            DataError: what is no range of two finite numbers.
        """
        to = checked_range("value_range", value_range)
        if to == self.range:
            return self
        train, test = (mapped(rows, self.range, to) for rows in (self.train, self.test))
        return self._replace(train=train, test=test, range=to)


def check_not_empty(name: str, images: Images) -> None:
    """Raises `DataError` for black images, and for training images of a single grey."""
    black, white = images.range
    for side, rows, grey in (("training", images.train, None), ("test", images.test, black)):
        least, most = rows.min(), rows.max()
        if least == most and grey in (None, least):
            raise DataError(
                f"{name}: every pixel of every {side} image is {least:g} in [{black:g}, "
                f"{white:g}]; nothing can be learned from these, choose other images"
            )


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
    picture: Picture, shape: tuple[int, int] | None, name: object, option: str = "shape"
) -> Float32[np.ndarray, "rows columns"]:
    """The part of that shape in the middle of a picture, all of it where `shape` is None.

    Raises:

        DataError: the picture, called by its name, is smaller, and the option asks for the shape.
    """
    if shape is None:
        return picture
    _check_holds(picture, shape, name, option)
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


def _check_holds(picture: Picture, shape: tuple[int, int], name: object, option: str) -> None:
    if any(has < wanted for has, wanted in zip(picture.shape, shape, strict=True)):
        raise DataError(
            f"{name}: {size(picture.shape)} is smaller than {size(shape)}; use a smaller {option}"
        )
