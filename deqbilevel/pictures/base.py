"""What reading and writing picture files share: the error, the limits, grey values of pixels, and
their range."""

from typing import TYPE_CHECKING, Any

import lazy_loader
import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image

if TYPE_CHECKING:
    import skimage
else:
    skimage = lazy_loader.load("skimage")

Picture = Float32[np.ndarray, "height width"]
"""Grey values in [-1, 1]."""

Pixels = Shaped[np.ndarray, "height width *channels"]
"""See `to_grey`."""

Range = tuple[float | int, float | int]
"""The least and the largest of the values that images have: black and white."""

SIGNED: Range = (-1.0, 1.0)
"""Of all that is read, unless another one is asked for."""

BLOCK = 2**22
"""Values that are mapped at a time, in double precision."""

DARK = 2**12
"""Sixteen bits that never reach this value are fewer bits, written without saying so."""


class DataError(ValueError):
    """Images that cannot be had; the message names the file or argument and what to do."""


def check_size(height: int, width: int) -> None:
    """Raises `DataError` for no pixels, or more than Pillow takes for a picture and no bomb."""
    most = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)
    if not 0 < height * width <= most:
        raise DataError(f"{height}x{width} pixels; expected 1 to {most} of them")


def check_values(pixels: Pixels) -> None:
    """Raises `DataError` for values whose range the file does not tell."""
    if pixels.dtype in (np.uint8, np.bool_):
        return
    if pixels.dtype == np.uint16:
        if 0 < pixels.max() < DARK:
            raise DataError(
                f"16 bits, but no value above {pixels.max()} of 65535, as if they were 12 or "
                "fewer bits; write the values over all 16 bits, or a PNG that says so (sBIT)"
            )
        return
    if pixels.dtype.kind != "f" or not 0 <= pixels.min() <= pixels.max() <= 1:
        held = f"from {pixels.min()} to {pixels.max()}"
        raise DataError(
            f"{pixels.dtype} values {held}, not 8 or 16 bits or floats in [0, 1]; scale them"
        )


def to_grey(pixels: Pixels) -> Picture:
    """Grey values in [-1, 1] of a picture: bits, 8 or 16 bits, or floats in [0, 1].

    Args:

        pixels: no axis of channels, or one of: grey; grey, alpha; red, green, blue; red, green,
            blue, alpha. Transparent parts are laid on white.

    >>> print(pictures.to_grey(np.array([[0, 255]], np.uint8)))
    [[-1.  1.]]
    """
    unit = skimage.util.img_as_float32(pixels)
    unit = unit[..., None] if unit.ndim == 2 else unit
    channels = unit.shape[-1]
    if channels == 2:
        unit = unit[..., [0, 0, 0, 1]]
    if channels in (2, 4):
        unit = skimage.color.rgba2rgb(unit)
    grey = unit[..., 0] if channels == 1 else skimage.color.rgb2gray(unit)
    return np.clip(2 * grey - 1, -1, 1)


def checked_range(name: str, given: Any) -> Range:
    """The range as two floats; raises `DataError` unless these are finite, the lower first.

    >>> print(pictures.checked_range("value_range", [0, 255]))
    (0.0, 255.0)
    """
    try:
        low, high = (float("nan" if isinstance(x, str) else x) for x in given)
    except (TypeError, ValueError):
        low = high = np.nan
    with np.errstate(over="ignore"):
        ends = np.array([low, high], np.float32)
    if not (np.isfinite(ends).all() and ends[0] < ends[1]):
        raise DataError(
            f"{name}={given!r}: expected two finite numbers, the lower first, such as (0, 1)"
        )
    return low, high


def mapped(
    values: Shaped[np.ndarray, "n ..."], given: Range, to: Range
) -> Float32[np.ndarray, "n ..."]:
    """Values of one range in another, clipped to it:

        to_0 + (x - given_0) (to_1 - to_0) / (given_1 - given_0),

    rounded once, to float32. Where the two are one range, they are as they were.

    >>> print(pictures.mapped(np.array([0.0, 51.0, 300.0]), (0, 255), (0, 1)))
    [0.  0.2 1. ]
    """
    out = np.empty(values.shape, np.float32)
    step = max(1, BLOCK // max(1, values[:1].size))
    for start in range(0, len(values), step):
        x = values[start : start + step].astype(np.float64)
        if given != to:
            x = to[0] + (x - given[0]) * ((to[1] - to[0]) / (given[1] - given[0]))
        out[start : start + step] = np.clip(x, *to)
    return out
