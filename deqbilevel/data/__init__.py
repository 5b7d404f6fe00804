"""Grey images to learn from, named by a short specification, and pictures to reconstruct."""

import difflib
import itertools
import operator
from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from deqbilevel.data import folder, phantoms
from deqbilevel.data.base import (
    SIGNED,
    DataError,
    Images,
    Picture,
    Range,
    check_not_empty,
    checked_range,
    mapped,
    middle,
)
from deqbilevel.data.fingerprint import changes, fingerprint
from deqbilevel.data.folder import load_folder, load_whole
from deqbilevel.data.given import arrays, drawn
from deqbilevel.data.idx import load_idx, load_idx_labels, read_labelled
from deqbilevel.data.numpy_file import read_arrays
from deqbilevel.data.phantoms import load_phantoms
from deqbilevel.data.shipped import load_faces, load_photographs
from deqbilevel.data.tfds import SPLITS, load_celeb_a, load_tfds, write_mnist

__all__ = [
    "DataError",
    "Images",
    "arrays",
    "changes",
    "drawn",
    "fingerprint",
    "load",
    "load_idx_labels",
    "middles",
    "phantoms",
    "pictures",
    "place",
    "prepare",
]

FORMS = {
    "sample": "sample",
    "idx": "idx:DIR",
    "tfds": "tfds or tfds:DIR",
    "images": "images:DIR",
    "arrays": "arrays:FILE",
    "photographs": "photographs",
    "faces": "faces",
    "celeb_a": "celeb_a or celeb_a:DIR",
    "phantoms": "phantoms:NAME",
}
DIGITS = ("sample", "idx", "tfds")


def load(
    spec: str = "sample",
    *,
    train_size: int | None = None,
    test_size: int | None = None,
    patch: int = 28,
    whole: bool = False,
    shape: tuple[int, int] | None = None,
    seed: int = 0,
    value_range: Range = SIGNED,
) -> Images:
    """Training and test images.

    Args:

        spec: where they come from.
            `sample`: 6000 + 1000 digits of MNIST that ship with the package.
            `idx:DIR`: the IDX files of MNIST in DIR, gzipped or not.
            `tfds` or `tfds:DIR`: MNIST as tensorflow-datasets keeps it (in DIR).
            `images:DIR`: the pictures in DIR and its subfolders, linked ones too, patches of them
                or whole; nothing hidden and nothing of a run is one of them.
            `arrays:FILE`: arrays of one's own, as numpy's `savez` or `save` writes them, see
                `numpy_file.read_arrays`.
            `photographs`: parts of ten photographs that ship with scikit-image.
            `faces`: small faces, 25x25, that ship with scikit-image.
            `celeb_a` or `celeb_a:DIR`: CelebA as tensorflow-datasets keeps it (in DIR).
            `phantoms:NAME`: shepp_logan, ellipses, piecewise_constant or piecewise_linear, drawn by
                the seed, see `phantoms`.
        train_size: number of training images, for digits, arrays and `celeb_a` the first ones.
            None: all digits and arrays, 6000 patches, half of the whole pictures, 40 phantoms, or
            10 of the others.
        test_size: number of test images. None: the same with 1000 patches and 10 phantoms.
        patch: height and width of the patches of `images:DIR`; digits are 28x28.
        whole: `images:DIR` gives whole pictures, which have one shape, and no patches. All other
            images are whole as they are.
        shape: (height, width) of the middle to take of whole pictures and faces, or of the parts
            of photographs; of arrays the shape of flat rows; of phantoms any. None: all of it,
            218x178 of photographs, and 128x128 of phantoms.
        seed: chooses among pictures and faces, and places in them, draws phantoms, and says what of
            one array is for the test; digits and `celeb_a` ignore it.
        value_range: the values of black and white in what is returned, such as (0, 1).

    Returns:

        Images as float32 rows with values in that range.

    Raises:

        DataError: a `ValueError`; the message names the argument or file and what to do.

    >>> images = data.load("sample", train_size=2, test_size=1)
    >>> print(images.train.shape, images.shape, images.range, images.peak)
    (2, 784) (28, 28) (-1.0, 1.0) 2.0
    """
    kind, place = _parsed(spec)
    _check_numbers(train_size=train_size, test_size=test_size, patch=patch, seed=seed)
    shape, to = _check_cut(kind, patch, whole, shape), checked_range("value_range", value_range)
    images = _loaded(kind, place, train_size, test_size, patch, whole, shape, seed, to)
    check_not_empty(repr(spec), images)
    return images.mapped(to)


def pictures(directory: str | Path, value_range: Range = SIGNED) -> Iterator[tuple[str, Picture]]:
    """The pictures of a folder one by one, to be reconstructed: name and values in the range.

    They have any shapes, and the order and the names of their paths below the folder; an ending is
    part of a name only where two pictures would have one name. Which files are pictures, and which
    are refused, is as for `images:DIR`.

    Raises:

        DataError: at once, a folder without pictures or what is no range; when its turn comes, a
            picture that cannot be read.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "one.png")
    ...     clipped = pictures.write(path, np.array([[0.0, 1.0]]), (0, 1))
    ...     print(list(data.pictures(folder, (0, 1))))
    [('one', array([[0., 1.]], dtype=float32))]
    """
    to = checked_range("value_range", value_range)
    paths = folder.pictures(directory)
    named = zip(folder.names(paths, directory), paths, strict=True)
    return ((name, mapped(folder.read_grey(path), SIGNED, to)) for name, path in named)


def middles(
    directory: str | Path,
    shape: tuple[int, int] | None,
    count: int,
    *,
    option: str = "shape",
    value_range: Range = SIGNED,
) -> list[Picture]:
    """The middles [height, width] of the first pictures of a folder, these whole without a shape.

    Raises:

        DataError: see `pictures`; a picture that is smaller, naming the option that asks for more.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "one.png")
    ...     clipped = pictures.write(path, np.array([[0.0, 1.0, 0.0]]), (0, 1))
    ...     print(data.middles(folder, (1, 1), 9, value_range=(0, 1)))
    [array([[1.]], dtype=float32)]
    """
    first = itertools.islice(pictures(directory, value_range), count)
    return [middle(picture, shape, name, option) for name, picture in first]


def prepare(idx_directory: str | Path, tfds_directory: str | Path) -> tuple[int, int]:
    """Prepares MNIST for tensorflow-datasets from its IDX files, see `tfds.write_mnist`.

    Returns:

        The numbers of training and test digits.

    Raises:

        DataError: packages are missing, an IDX file is missing or malformed, or
            `tfds_directory` holds another `mnist`.
    """
    digits = {split: read_labelled(idx_directory, split) for split in SPLITS}
    return write_mnist(digits, tfds_directory)


def place(spec: str) -> Path | None:
    """The folder or file that a specification reads, where it names one.

    >>> print(data.place("images:photos"), data.place("phantoms:ellipses"))
    photos None
    """
    kind, _, path = spec.partition(":")
    return Path(path).expanduser() if path and kind != "phantoms" else None


def _parsed(spec: Any) -> tuple[str, str]:
    """The kind of data and the folder or file, which may be empty where the kind has a default."""
    if not isinstance(spec, str):
        raise DataError(f"{spec!r}: expected a text, one of {', '.join(FORMS.values())}")
    kind, colon, place = spec.partition(":")
    if kind not in FORMS:
        raise DataError(_unknown(spec, kind))
    form = FORMS[kind]
    if bool(place) != bool(colon) or (colon and ":" not in form):
        raise DataError(f"{spec!r}: write {form}")
    if not place and kind in ("idx", "images", "arrays", "phantoms"):
        what = {"arrays": "file", "phantoms": "name"}.get(kind, "folder")
        raise DataError(f"{spec!r}: the {what} is missing, write {form}")
    return kind, place


def _check_numbers(**values: Any) -> None:
    """Raises `DataError` for what is no whole number; None is left to its default."""
    for name, value in values.items():
        if not (_whole(value) or (value is None and name.endswith("size"))):
            raise DataError(f"{name}={value!r}: give a whole number")
    if values["seed"] < 0:
        raise DataError(f"seed={values['seed']}: give 0 or more")


def _whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _check_cut(kind: str, patch: int, whole: Any, shape: Any) -> tuple[int, int] | None:
    """The shape; raises `DataError` for a `patch` or a `shape` that these images cannot have."""
    if not isinstance(whole, bool):
        raise DataError(f"whole={whole!r}: give True or False")
    patches = kind == "images" and not whole
    if patch != 28 and kind in DIGITS:
        raise DataError(f"patch={patch}: digits are 28x28; only images:DIR has other patches")
    if patch != 28 and kind in ("arrays", "phantoms"):
        raise DataError(f"patch={patch}: {kind} have no patches; leave it out")
    if patch != 28 and not patches:
        raise DataError(f"patch={patch}: whole pictures have no patches; give shape to cut them")
    if shape is None:
        return None
    if kind in DIGITS or patches:
        has = "patches of images:DIR are square, give patch" if patches else "digits are 28x28"
        raise DataError(f"shape={shape}: {has}; shape is for whole pictures, photographs and faces")
    pair = isinstance(shape, Sequence) and len(shape) == 2 and all(map(_whole, shape))
    if not pair or min(shape) < 1:
        raise DataError(f"shape={shape!r}: give a height and a width, each at least 1")
    return shape[0], shape[1]


def _loaded(
    kind: str,
    place: str,
    train_size: int | None,
    test_size: int | None,
    patch: int,
    whole: bool,
    shape: tuple[int, int] | None,
    seed: int,
    to: Range,
) -> Images:
    match kind:
        case "arrays":
            stored = read_arrays(place, train_size, test_size, shape, seed)
            return arrays(**stored._asdict(), to=to)
        case "images" if whole:
            return load_whole(place, train_size, test_size, shape, seed)
        case "images":
            return load_folder(place, train_size, test_size, patch, seed)
        case "photographs":
            return load_photographs(train_size, test_size, shape, seed)
        case "faces":
            return load_faces(train_size, test_size, shape, seed)
        case "phantoms":
            return load_phantoms(place, train_size, test_size, shape, seed)
        case "celeb_a":
            return load_celeb_a(place or None, train_size, test_size, shape)
        case "idx":
            return load_idx(place, train_size, test_size)
        case "tfds":
            return load_tfds(place or None, train_size, test_size)
    with as_file(files(__name__) / "mnist") as shipped:
        name = "MNIST sample that ships with deqbilevel"
        return load_idx(shipped, train_size, test_size, source=name)


def _unknown(spec: str, kind: str) -> str:
    close = difflib.get_close_matches(kind.lower(), FORMS)
    close = [name for name in close if name[:4] == kind.lower()[:4]] or close
    hint = f"did you mean {FORMS[close[0]]}? " if close else ""
    return f"{spec!r}: unknown data; {hint}Known are {', '.join(FORMS.values())}"
