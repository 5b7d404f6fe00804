"""The checks on what is asked of a source of images: how many, which seed, how much memory."""

import numpy as np
import psutil

from deqbilevel.pictures import DataError


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


def check_memory(count: int, shape: tuple[int, int], option: str) -> None:
    """Raises `DataError` for more images of a shape, which the option sets, than memory holds."""
    needed, free = 4 * count * shape[0] * shape[1], psutil.virtual_memory().available
    if needed > free:
        raise DataError(
            f"{count} images of {size(shape)} take {needed / 2**30:.1f} GiB, {free / 2**30:.1f} "
            f"are free; ask for fewer (train_size, test_size) or use a smaller {option}"
        )


def size(shape: tuple[int, ...]) -> str:
    """A shape as messages write it, such as 218x178."""
    return "x".join(map(str, shape))
