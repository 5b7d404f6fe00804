"""What the readers of picture files share: the error, the limits, and grey values of pixels."""

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image
from skimage.color import rgb2gray, rgba2rgb
from skimage.util import img_as_float32

Picture = Float32[np.ndarray, "height width"]
"""Grey values in [-1, 1]."""

Pixels = Shaped[np.ndarray, "height width *channels"]
"""See `to_grey`."""

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
    """
    unit = img_as_float32(pixels)
    unit = unit[..., None] if unit.ndim == 2 else unit
    channels = unit.shape[-1]
    if channels == 2:
        unit = unit[..., [0, 0, 0, 1]]
    if channels in (2, 4):
        unit = rgba2rgb(unit)
    grey = unit[..., 0] if channels == 1 else rgb2gray(unit)
    return np.clip(2 * grey - 1, -1, 1)
