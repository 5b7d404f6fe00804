"""Grey images in [-1, 1] to learn from, named by a short specification."""

import difflib
from importlib.resources import as_file, files
from pathlib import Path

from deqbilevel.data.base import DataError, Images
from deqbilevel.data.folder import load_folder
from deqbilevel.data.idx import load_idx, load_idx_labels, read_labelled
from deqbilevel.data.tfds import SPLITS, load_tfds, write_tfds

__all__ = ["DataError", "Images", "load", "load_idx_labels", "prepare"]

FORMS = {
    "sample": "sample",
    "idx": "idx:DIR",
    "tfds": "tfds or tfds:DIR",
    "images": "images:DIR",
}


def load(
    spec: str = "sample",
    *,
    train_size: int | None = None,
    test_size: int | None = None,
    patch: int = 28,
    seed: int = 0,
) -> Images:
    """Training and test images.

    Args:
        spec: where they come from.
            `sample`: 6000 + 1000 digits of MNIST that ship with the package.
            `idx:DIR`: the IDX files of MNIST in DIR, gzipped or not.
            `tfds` or `tfds:DIR`: MNIST as tensorflow-datasets keeps it (in DIR).
            `images:DIR`: patches of the pictures in DIR.
        train_size: number of training images, for digits the first ones. None: all digits,
            or 6000 patches.
        test_size: number of test images. None: all digits, or 1000 patches.
        patch: height and width of the patches of `images:DIR`; digits are 28x28.
        seed: chooses the patches of `images:DIR`; digits ignore it.

    Returns:
        Images as float32 rows with values in [-1, 1].

    Raises:
        DataError: a `ValueError`; the message names the argument or file and what to do.
    """
    kind, colon, folder = spec.partition(":")
    if kind not in FORMS:
        raise DataError(_unknown(spec, kind))
    if bool(folder) != bool(colon) or (kind == "sample" and colon):
        raise DataError(f"{spec!r}: write {FORMS[kind]}")
    if kind in ("idx", "images") and not folder:
        raise DataError(f"{spec!r}: the folder is missing, write {FORMS[kind]}")
    if kind == "images":
        return load_folder(folder, train_size, test_size, patch, seed)
    if patch != 28:
        raise DataError(f"patch={patch}: digits are 28x28; only images:DIR has other patches")
    if kind == "idx":
        return load_idx(folder, train_size, test_size)
    if kind == "tfds":
        return load_tfds(folder or None, train_size, test_size)
    with as_file(files(__name__) / "mnist") as shipped:
        name = "MNIST sample that ships with deqbilevel"
        return load_idx(shipped, train_size, test_size, source=name)


def prepare(idx_directory: str | Path, tfds_directory: str | Path) -> tuple[int, int]:
    """Prepares MNIST for tensorflow-datasets from its IDX files, see `tfds.write_tfds`.

    Returns:
        The numbers of training and test digits.

    Raises:
        DataError: packages are missing, an IDX file is missing or malformed, or
            `tfds_directory` holds another `mnist`.
    """
    digits = {split: read_labelled(idx_directory, split) for split in SPLITS}
    return write_tfds(digits, tfds_directory)


def _unknown(spec: str, kind: str) -> str:
    close = difflib.get_close_matches(kind.lower(), FORMS, n=1)
    hint = f"did you mean {FORMS[close[0]]}? " if close else ""
    return f"{spec!r}: unknown data; {hint}Known are {', '.join(FORMS.values())}"
