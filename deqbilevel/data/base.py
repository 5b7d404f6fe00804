"""What every source of images shares: the result, the error, and the checks on the request."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8


class DataError(ValueError):
    """Images that cannot be had; the message names the file or argument and what to do."""


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


def existing_folder(folder: str | Path) -> Path:
    """The folder as a path, `~` expanded; raises `DataError` where there is none."""
    path = Path(folder).expanduser()
    if not path.exists():
        raise DataError(f"{path}: there is no such folder")
    if not path.is_dir():
        raise DataError(f"{path}: a folder is needed, this is a file")
    return path


def positive(asked: int, split: str) -> int:
    """The size asked of a split; raises `DataError` below 1."""
    if asked < 1:
        raise DataError(f"{split}_size={asked}: ask for at least 1, or leave it out")
    return asked


def first(asked: int | None, available: int, split: str) -> int:
    """How many of the available images of a split to take, all where `asked` is None.

    Raises:
        DataError: fewer than one asked for, or more than there are.
    """
    if asked is None:
        return available
    if positive(asked, split) > available:
        raise DataError(
            f"{split}_size={asked}: there are only {available} {split} images here; "
            f"ask for at most {available}, or read a larger set (idx:DIR or tfds:DIR)"
        )
    return asked


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
