"""The pictures of a folder, cut into square patches or whole, with training and test kept apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deqbilevel.data.base import (
    DataError,
    Images,
    Picture,
    check_memory,
    crops,
    existing_folder,
    first,
    from_pictures,
    generator,
    middle,
    positive,
    read_grey,
    size,
)
from deqbilevel.pictures import check_apart, names, pictures

__all__ = [
    "check_apart",
    "load_folder",
    "load_whole",
    "names",
    "patches",
    "pictures",
    "read_grey",
    "split",
]

TRAIN_SIZE, TEST_SIZE = 6000, 1000
TEST_SHARE = 1 / 5
"""How many patches for training and for test, and which part of the pictures is for test."""


def load_folder(
    folder: str | Path,
    train_size: int | None = None,
    test_size: int | None = None,
    patch: int = 28,
    seed: int = 0,
) -> Images:
    """Random patches of the pictures in a folder, the same for the same seed.

    Whole pictures go to training or test: those in `train/` and `test/` where the folder has
    both, else a seeded fifth of them, at least one, is for the test. Every picture of a split
    gives as many patches as the others, one more or less; no patch is drawn twice.

    Args:

        folder: searched with all its subfolders, see `pictures`.
        train_size: number of training patches; None: 6000.
        test_size: number of test patches; None: 1000.
        patch: height and width of the patches in pixels.
        seed: at least 0.

    Raises:

        DataError: too few pictures, one that cannot be read or is too small for its patches, or
            one for training and for test.
    """
    folder = existing_folder(folder)
    sizes = [
        positive(TRAIN_SIZE if train_size is None else train_size, "train"),
        positive(TEST_SIZE if test_size is None else test_size, "test"),
    ]
    if patch < 1:
        raise DataError(f"patch={patch}: give at least 1")
    streams = [generator(seed, stream) for stream in (1, 2)]
    pictures_of = split(folder, seed)
    train, test = (
        patches(paths, count, patch, rng)
        for paths, count, rng in zip(pictures_of, sizes, streams, strict=True)
    )
    counted = " + ".join(str(len(paths)) for paths in pictures_of)
    source = f"{patch}x{patch} patches of {counted} pictures in {folder.resolve().name}"
    return Images(train, test, (patch, patch), source)


def load_whole(
    folder: str | Path,
    train_size: int | None = None,
    test_size: int | None = None,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
) -> Images:
    """Whole pictures of a folder, which have one shape, chosen and ordered by the seed.

    Training and test pictures come from `train/` and `test/` where the folder has both, else
    from the two ends of one random order: neither split changes with the size of the other.
    [REB] learns from 10 of the 20 faces of its journal version and tests on the others.

    Args:

        folder: searched with all its subfolders, see `pictures`.
        train_size: number of training pictures. None: all of `train/`; without it half of the
            pictures, or what the test leaves of that.
        test_size: number of test pictures; None: the same with `test/`.
        shape: (height, width) of the middle of each picture to take; None: all of it.
        seed: at least 0.

    Raises:

        DataError: too few pictures, one that cannot be read, one of another shape, or one for
            training and for test.
    """
    folder = existing_folder(folder)
    train, test = _chosen(folder, train_size, test_size, seed)
    check_apart(train, test)
    pictures = _read_alike(train + test, shape)
    source = f"pictures in {folder.resolve().name}"
    return from_pictures(pictures[: len(train)], pictures[len(train) :], source)


def split(folder: str | Path, seed: int) -> tuple[list[Path], list[Path]]:
    """The training and the test pictures of a folder: those in `train/` and `test/` where it has
    both, else a seeded fifth of them, at least one, is for the test.

    Raises:

        DataError: fewer than two pictures, or the same bytes for training and for test.
    """
    folder = existing_folder(folder)
    apart = _apart(folder)
    if apart is None:
        paths = _shuffled(_several(folder), seed)
        held_out = max(1, round(TEST_SHARE * len(paths)))
        apart = paths[held_out:], paths[:held_out]
    check_apart(*apart)
    return apart


def patches(
    paths: list[Path], count: int, patch: int, rng: np.random.Generator
) -> Float[np.ndarray, "count pixels"]:
    """`count` patches, row i from picture i modulo their number, pictures in random order.

    Raises:

        DataError: a picture that cannot be read or is too small for its patches.
    """
    return crops(paths, count, (patch, patch), rng, "--patch")


def _apart(folder: Path) -> tuple[list[Path], list[Path]] | None:
    """The pictures of `train/` and `test/` where the folder has both."""
    train, test = folder / "train", folder / "test"
    return (pictures(train), pictures(test)) if train.is_dir() and test.is_dir() else None


def _several(folder: Path) -> list[Path]:
    paths = pictures(folder)
    if len(paths) < 2:
        raise DataError(f"{folder}: only {paths[0].name} here; training and test need one each")
    return paths


def _shuffled(paths: list[Path], seed: int) -> list[Path]:
    return [paths[i] for i in generator(seed, 0).permutation(len(paths))]


def _chosen(
    folder: Path, train_size: int | None, test_size: int | None, seed: int
) -> tuple[list[Path], list[Path]]:
    """The whole pictures for training and for test."""
    apart = _apart(folder)
    if apart:
        train, test = (_shuffled(paths, seed) for paths in apart)
        train_size = first(train_size, len(train), "train", larger=None)
        test_size = first(test_size, len(test), "test", larger=None)
        return train[:train_size], test[:test_size]
    paths = _shuffled(_several(folder), seed)
    total, half = len(paths), len(paths) // 2
    for asked, name in ((train_size, "train"), (test_size, "test")):
        if asked is not None and positive(asked, name) >= total:
            raise DataError(
                f"{name}_size={asked}: {folder} has {total} pictures for training and test "
                f"together; ask for at most {total - 1}"
            )
    if train_size is None:
        train_size = min(total - half, total - (test_size or half))
    if test_size is None:
        test_size = min(half, total - train_size)
    if train_size + test_size > total:
        raise DataError(
            f"train_size={train_size} and test_size={test_size}: {folder} has only {total} "
            "pictures for both; ask for fewer"
        )
    return paths[:train_size], paths[total - test_size :]


def _read_alike(paths: Sequence[Path], shape: tuple[int, int] | None) -> list[Picture]:
    """The pictures, or their middles; raises `DataError` at the first of another shape."""
    read: list[Picture] = []
    for path in paths:
        read.append(middle(read_grey(path), shape, path))
        if len(read) == 1:
            check_memory(len(paths), read[0].shape, "shape")
        if read[-1].shape != read[0].shape:
            raise DataError(
                f"{paths[0]} is {size(read[0].shape)} but {path} is {size(read[-1].shape)}: whole "
                "pictures need one shape; take their middles (shape) or cut patches (--patch)"
            )
    return read
