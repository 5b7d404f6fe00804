"""What operators read from files of one's own: a matrix, and which frequencies are sampled."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Inexact
from numpy.lib import format as npy

from deqbilevel import pictures
from deqbilevel.disk import arrays

MOST_BYTES = 2**34
"""Of a matrix."""


def matrix(file: str | None, pixels: int) -> Inexact[np.ndarray, "data pixels"]:
    """A matrix of a file, as `numpy.save` writes it, real or complex.

    Raises: ValueError that names the file, where there is none, and what is no matrix of so many
    columns, not finite, or zero.
    """
    if file is None:
        raise ValueError("file: none is given; expected one of a matrix, as numpy.save writes it")
    wanted = {arrays.SINGLE: arrays.Array(("data", pixels), np.number)}
    found = arrays.read(_there(file), wanted, MOST_BYTES)[arrays.SINGLE]
    if not found.any():
        raise ValueError(f"{file}: zero everywhere; expected a matrix that measures something")
    return found.astype(complex if np.iscomplexobj(found) else float, copy=False)


def mask(file: str, shape: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """A mask of a file: an array as `numpy.save` writes it, of 0 and 1, or a picture, black and
    white; the mean frequency is in the middle, at (height // 2, width // 2), as in `patterns`.

    Raises: ValueError that names the file, where there is none, and what is no mask of that shape,
    has other values, or samples nothing.
    """
    path = _there(file)
    with path.open("rb") as start:
        stored = start.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
    if stored:
        kinds = {"b": np.bool_, "i": np.integer, "u": np.unsignedinteger}
        kind = kinds.get(arrays.headers(path)[arrays.SINGLE].dtype.kind, np.floating)
        wanted = {arrays.SINGLE: arrays.Array(("height", "width"), kind, finite=False)}
        found, one = arrays.read(path, wanted)[arrays.SINGLE], "1"
    else:
        found, one = (pictures.read_grey(path) + 1) / 2, "white"
    if found.shape != shape:
        raise ValueError(
            f"{file}: of shape {list(found.shape)}; expected a mask {list(shape)}, as the images"
        )
    sampled = found == 1
    other = found[~sampled & (found != 0)]
    if other.size:
        raise ValueError(
            f"{file}: {other.size} values such as {other[0]}; expected 0, and {one} where a "
            "frequency is sampled"
        )
    if not sampled.any():
        raise ValueError(f"{file}: samples nothing; expected {one} somewhere")
    return sampled


def _there(file: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"{file}: there is no such file")
    return path
