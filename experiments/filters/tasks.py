"""The images of filter learning: what is learned from, watched, and reconstructed at the end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage
from jaxtyping import Float

from deqbilevel import pretrained
from deqbilevel.commands import folders
from deqbilevel.data import folder
from deqbilevel.data.base import SIGNED, Picture, mapped
from deqbilevel.data.folder import read_grey
from deqbilevel.data.groups import Group, by_shape

UNIT = (0.0, 1.0)
"""The range of the images, as in [CF]."""

Rows = Float[np.ndarray, "images pixels"]

CORNERS = ((310, 220), (220, 370), (100, 250))
"""First row and column of the training patches of the cameraman, [CF] D, counted from 0."""

HELD_OUT_CORNERS = ((20, 20), (200, 300), (300, 350))
"""Of patches that are not learned from."""

PATCH = 50
"""Height and width of either."""

HELD_OUT = 20
"""Patches of test pictures that are watched while learning."""

SHOWN = 8
"""Test pictures of one's own that are reconstructed at the end."""


class Task(NamedTuple):
    """The images of an experiment."""

    groups: list[Group]
    """For training, by shape."""
    held_out: Group
    """Watched while learning."""
    pictures: dict[str, Picture]
    """To be reconstructed at the end, by their path below their folder."""
    cut: Callable[[Picture], Rows] | None
    """picture -> training images, where these are parts of the only picture and of its noise."""
    source: str


def task(
    experiment: str, image: Path | None, test_images: Path | None, count: int, patch: int, seed: int
) -> Task:
    """The images of an experiment by name. Raises: ValueError for ones that cannot be used."""
    if experiment == "vertical-bars":
        return _bars()
    if experiment == "cameraman":
        return _cameraman(image)
    return _folders(experiment, image, test_images, count, patch, seed)


def _bars() -> Task:
    bars = np.zeros((32, 32))
    bars[:, ::4] = 1
    bars -= bars.mean()
    group = Group(bars.shape, bars.reshape(1, -1))
    return Task([group], group, {"bars": bars}, lambda x: x.reshape(1, -1), "bars")


def _cameraman(image: Path | None) -> Task:
    if image is None:
        whole = skimage.data.camera() / 255.0
        source = "scikit-image's camera (not the cameraman of [CF])"
    else:
        whole, source = _unit(image), image.name
    rows, columns = (max(corner) + PATCH for corner in zip(*CORNERS, strict=True))
    if whole.shape[0] < rows or whole.shape[1] < columns:
        raise ValueError(
            f"{source}: {whole.shape[0]}x{whole.shape[1]} pixels, but the training patches reach "
            f"to row {rows} and column {columns}"
        )

    def cut(x: Picture, corners: Any = CORNERS) -> Rows:
        parts = [x[row : row + PATCH, column : column + PATCH] for row, column in corners]
        return np.stack(parts).reshape(len(corners), -1)

    group, held_out = (
        Group((PATCH, PATCH), cut(whole, corners)) for corners in (CORNERS, HELD_OUT_CORNERS)
    )
    return Task([group], held_out, {Path(source).stem: whole}, cut, source)


def _folders(
    experiment: str, image: Path | None, test_images: Path | None, count: int, patch: int, seed: int
) -> Task:
    if image is None:
        raise ValueError(f"{experiment}: give a folder of images with --image")
    paths = folder.pictures(image)
    if test_images is not None:
        test_paths = folder.pictures(test_images)
        folder.check_apart(paths, test_paths)
    else:
        paths, test_paths = folder.split(image, seed)
    streams = [np.random.default_rng((seed, 4 + i)) for i in range(2)]
    if patch:
        unit = mapped(folder.patches(paths, count, patch, streams[0]), SIGNED, UNIT)
        groups = [Group((patch, patch), unit)]
    else:
        if count > len(paths):
            raise ValueError(
                f"--images {count}: {image} has only {len(paths)} pictures to learn from; ask for "
                f"at most {len(paths)}, or cut patches of them (--patch)"
            )
        groups = by_shape([_unit(path) for path in paths[:count]])
    size = patch or PATCH
    held_out = mapped(folder.patches(test_paths, HELD_OUT, size, streams[1]), SIGNED, UNIT)
    shown = test_paths if experiment == "natural" else test_paths[:SHOWN]
    taken = f"{size}x{size} patches" if patch else "all"
    source = f"{taken} of {len(paths)} pictures in {image.resolve().name}"
    names = folder.names(shown, image if test_images is None else test_images)
    pictures = {name: _unit(path) for name, path in zip(names, shown, strict=True)}
    return Task(groups, Group((size, size), held_out), pictures, None, source)


def _unit(path: Path) -> Picture:
    return mapped(read_grey(path), SIGNED, UNIT)


def inputs_of(task: Task, start: str | None) -> dict[str, str]:
    """What tells the images and the filters to start with from others."""
    read: dict[str, Any] = {"images": task._replace(cut=None, source="")}
    if start is not None:
        learned = pretrained.load(start)
        read["--start"] = (learned.params, learned.boundary)
    return folders.given(read) | {"source": task.source}


class Measured(NamedTuple):
    """Noisy images of a lane."""

    f: list[Rows]
    """Of each group, its realisations one after the other."""
    held_out: Rows
    pictures: dict[str, Picture]


def measured(task: Task, noise: float, realisations: int, seed: int) -> Measured:
    """Every image with white noise of that standard deviation, the same for the same seed."""
    rng, watched = np.random.default_rng(seed), np.random.default_rng((seed, 2))

    def noisy(x: np.ndarray, rng: np.random.Generator = rng) -> np.ndarray:
        return x + noise * rng.standard_normal(x.shape)

    pictures = {name: noisy(x) for name, x in task.pictures.items()}
    held_out = noisy(task.held_out.truth, watched)
    if task.cut is None:
        f = [np.concatenate([noisy(g.truth) for _ in range(realisations)]) for g in task.groups]
        return Measured(f, held_out, pictures)
    (name,) = pictures
    wholes = [pictures[name], *(noisy(task.pictures[name]) for _ in range(realisations - 1))]
    return Measured([np.concatenate([task.cut(x) for x in wholes])], held_out, pictures)


def truths(task: Task, realisations: int) -> list[Rows]:
    """The true training images of each group, once for each realisation of the noise."""
    return [np.tile(group.truth, (realisations, 1)) for group in task.groups]
