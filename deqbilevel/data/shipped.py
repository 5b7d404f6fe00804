"""Photographs and faces that scikit-image's wheel holds, so that nothing is downloaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from deqbilevel.data.base import (
    DataError,
    Images,
    crops,
    first,
    from_pictures,
    generator,
    middle,
    positive,
    size,
    to_grey,
)

SIZE = 10
"""Of either split by default, as in [REB]'s journal version."""

SHAPE = (218, 178)
"""Height and width of the aligned faces of CelebA."""

TRAIN = ("astronaut.png", "brick.png", "coffee.png", "gravel.png", "moon.png")
TEST = ("camera.png", "chelsea.png", "coins.png", "grass.png", "rocket.jpg")
"""Both with people or animals, things, and textures. The retina is left out: it is a disc on
black, and a part of it can be all black."""

FACES = 100


def load_photographs(
    train_size: int | None = None,
    test_size: int | None = None,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
) -> Images:
    """Parts of ten photographs, at places that the seed chooses.

    Five photographs are for training (astronaut, brick, coffee, gravel, moon) and five for test
    (camera, chelsea, coins, grass, rocket); every one gives as many parts as the others of its
    split, one more or less. As scikit-image names the terms: camera, chelsea and coffee are CC0
    by their photographers; brick, gravel and grass are CC0 textures; astronaut (NASA) and rocket
    (SpaceX) are in the public domain; coins (Brooklyn Museum) has no known restrictions; of moon
    it says nothing.

    Args:

        train_size: number of training parts; None: 10.
        test_size: number of test parts; None: 10.
        shape: (height, width) of the parts, at most 300x384; None: 218x178, as CelebA.
        seed: at least 0.

    Raises:

        DataError: more or larger parts than there are, or an installation without the files.
    """
    shape = SHAPE if shape is None else shape
    counts = [
        positive(SIZE if asked is None else asked, split)
        for asked, split in ((train_size, "train"), (test_size, "test"))
    ]
    streams = [generator(seed, stream) for stream in (1, 2)]
    with _shipped() as folder:
        train, test = (
            crops([_existing(folder / name) for name in names], count, shape, rng, "shape")
            for names, count, rng in zip((TRAIN, TEST), counts, streams, strict=True)
        )
    source = f"{counts[0]} + {counts[1]} parts of scikit-image's photographs, {size(shape)}"
    return Images(train, test, shape, source)


def load_faces(
    train_size: int | None = None,
    test_size: int | None = None,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
) -> Images:
    """Small faces, 25x25: a hundred of Labelled Faces in the Wild, in a seeded order.

    The first fifty of the order are for training, the others for test. scikit-image names no
    licence; the set was made for research: Huang, Mattar, Lee, Learned-Miller. Learning to align
    from scratch. NIPS 2012.

    Args:

        train_size: number of training faces, at most 50; None: 10.
        test_size: number of test faces, at most 50; None: 10.
        shape: (height, width) of the middle of each face to take; None: all of it.
        seed: at least 0.

    Raises:

        DataError: more or larger faces than there are, or an installation without the file.
    """
    half = FACES // 2
    train_size, test_size = (
        first(SIZE if asked is None else asked, half, split, larger="images:DIR or celeb_a:DIR")
        for asked, split in ((train_size, "train"), (test_size, "test"))
    )
    order = generator(seed, 0).permutation(FACES)
    with _shipped() as folder:
        faces = np.load(_existing(folder / "lfw_subset.npy"))[:FACES]
    train, test = (
        [middle(to_grey(faces[i]), shape, f"face {i}") for i in chosen]
        for chosen in (order[:train_size], order[half : half + test_size])
    )
    return from_pictures(train, test, "faces of scikit-image's lfw_subset")


@contextmanager
def _shipped() -> Iterator[Path]:
    """The folder of scikit-image's pictures. Its functions would download what is not there."""
    try:
        own = files("skimage.data")
    except ModuleNotFoundError as error:
        raise DataError(
            "photographs and faces: are scikit-image's, which is not installed; run\n"
            "    pip install scikit-image"
        ) from error
    with as_file(own) as folder:
        yield folder


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(
            f"{path}: this scikit-image came without its pictures; run\n"
            "    pip install --force-reinstall --no-deps scikit-image"
        )
    return path
