"""A picture as a file of 16 bits, which `read_grey` reads as it was written."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float
from PIL import Image, PngImagePlugin

from deqbilevel.disk.files import whole
from deqbilevel.pictures.base import DataError, Range, check_size, checked_range

WHITE = 2**16 - 1


def write(
    path: str | Path, picture: Float[Array | np.ndarray, "height width"], value_range: Range
) -> int:
    """Write a picture as a grey PNG of 16 bits: the least of the range is black, the largest white.

    The file appears whole or not at all, in folders that are made where they are missing. What it
    holds is the value in the range to within half of 1/65535 of its width.

    Args:

        path: ends in `.png`.
        picture: finite values; those beyond the range are clipped to it.
        value_range: of the values, such as (-1, 1).

    Returns:

        How many values were clipped; those that the rounding to 16 bits hides are none.

    Raises:

        DataError: another ending, or what is no picture of finite values.
        OSError: the file cannot be written; what was there before is there still.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "one.png")
    ...     print(pictures.write(path, np.array([[0.0, 0.5, 3.0]]), (0, 1)))  # one was clipped
    1
    """
    path = Path(path)
    low, high = checked_range("value_range", value_range)
    values = np.asarray(picture)
    if path.suffix.lower() != ".png":
        raise DataError(f"{path}: expected a name that ends in .png")
    if values.ndim != 2:
        shape = list(values.shape)
        raise DataError(f"{path}: a picture of shape {shape}; expected [height, width]")
    check_size(*values.shape)
    if not np.isfinite(values).all():
        bad = values.size - int(np.isfinite(values).sum())
        raise DataError(f"{path}: {bad} of {values.size} values are not finite; mend them first")
    levels = np.rint((values.astype(np.float64) - low) * (WHITE / (high - low)))
    clipped = int(((levels < 0) | (levels > WHITE)).sum())
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = _png(np.clip(levels, 0, WHITE).astype(np.uint16))
    with whole(path) as file:
        file.write(encoded)
    return clipped


def _png(levels: np.ndarray) -> bytes:
    """With a word that all 16 bits count, without which dark pictures look like ones of 12."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"sBIT", b"\x10")
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="PNG", pnginfo=chunks)
    return file.getvalue()
