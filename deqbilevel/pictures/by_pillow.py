"""Pictures that Pillow reads: PNG, JPEG, BMP, WebP, GIF and PNM, and some kinds of TIFF."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from deqbilevel.pictures.base import DARK, DataError, Pixels, check_size, check_values

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM")
"""By content. Some of Pillow's others run programs."""

TIFF = ("TIFF",)
"""Only for what `by_tifffile` lets pass."""

_DIRECT = ("1", "L", "RGB", "LA", "RGBA", "F")
_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""How Pillow holds 16 bits; I is 32, in which PNG and PNM keep 16."""

_GREY = 0
"""A colour type of PNG."""


class _PngHeader(NamedTuple):
    depth: int
    """Bits a sample."""
    colour: int
    """The colour type."""
    bits: int
    """How many of the depth hold something: the least of sBIT."""
    said: bool = False
    """Whether the file says so."""


def read_pillow(path: Path, formats: tuple[str, ...]) -> Pixels:
    """The pixels of a picture, turned as it says, for `to_grey`.

    Raises:

        DataError: several frames, another colour model, or values of no known range. What Pillow
            raises for files that it cannot read.
    """
    with warnings.catch_warnings():
        # The size has a check of its own, which is an error.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        opened = Image.open(path, formats=formats)
    with opened as image:
        check_size(image.height, image.width)
        _check_frames(image)
        image.load()
        png = _png_header(path) if image.format == "PNG" else None
        if png and "transparency" in image.info:
            _scale_transparency(image, png)
        pixels = _pixels(ImageOps.exif_transpose(image))
    if png:
        pixels = _filled(pixels, png)
    elif image.format == "PPM" and pixels.dtype == np.uint16:
        pixels = pixels.astype(np.float32) / 65535  # of the maximum that the file names
    check_values(pixels)
    return pixels


def _check_frames(image: Image.Image) -> None:
    frames = getattr(image, "n_frames", 1)
    if image.format == "MPO":
        # A photograph with what a camera adds, previews or a map of its light, is one picture.
        entries = getattr(image, "mpinfo", {}).get(0xB002, ())
        kinds = [entry["Attribute"]["MPType"] for entry in entries]
        frames = 1 + sum(kind.startswith("Multi-Frame") for kind in kinds[1:])
    if frames > 1:
        raise DataError("several frames or pages; save the one that is meant by itself")


def _pixels(image: Image.Image) -> Pixels:
    """The values, colours for a palette, and alpha for every way to say transparent."""
    mode = image.mode
    if mode in _SIXTEEN:
        values = np.asarray(image)
        if not 0 <= values.min() <= values.max() < 2**16:
            raise DataError(f"values from {values.min()} to {values.max()}, not 8 or 16 bits")
        return values.astype(np.uint16)
    if mode in ("P", "PA", "RGBX"):
        mode = "RGBA" if image.has_transparency_data else "RGB"
    elif mode in ("1", "L", "RGB") and image.has_transparency_data:
        mode = "RGBA" if mode == "RGB" else "LA"
    if mode not in _DIRECT:
        raise DataError(f"a {mode} picture, not a grey or RGB one; convert it to RGB")
    return np.asarray(image.convert(mode))


def _png_header(path: Path) -> _PngHeader:
    """What Pillow does not tell of a PNG file."""
    with path.open("rb") as file:
        header = file.read(33)
        depth, colour = header[24], header[25]
        while len(chunk := file.read(8)) == 8 and chunk[4:] != b"IDAT":
            length = int.from_bytes(chunk[:4], "big")
            if chunk[4:] == b"sBIT":
                bits = min(file.read(length), default=0)
                said = 0 < bits <= depth
                return _PngHeader(depth, colour, bits if said else depth, said)
            file.seek(length + 4, 1)
    return _PngHeader(depth, colour, depth)


def _scale_transparency(image: Image.Image, png: _PngHeader) -> None:
    """Pillow gives the values as 8 bits, and the one that is transparent as it is stored."""
    if png.depth == 16:
        raise DataError("16 bits with one value for transparent; save it with alpha")
    if png.colour == _GREY:
        image.info["transparency"] *= 255 // (2**png.depth - 1)


def _filled(pixels: Pixels, png: _PngHeader) -> Pixels:
    """Values that fill their bits. A PNG of fewer bits is to fill them and say so in sBIT; grey
    that says so and does not is scaled, and dark grey that says 16 bits has them."""
    depth, bits = png.depth, png.bits
    if png.colour == _GREY and pixels.ndim == 2 and depth >= 8:
        if png.said and bits == depth == 16 and pixels.max() < DARK:
            return pixels.astype(np.float32) / 65535
        full = bits > depth - 4 and not (pixels % 2 ** (depth - bits)).any()
        if bits == depth or full or pixels.max() >= 2**bits:
            return pixels
        return pixels.astype(np.float32) / (2**bits - 1)
    colours = pixels[..., :3] if pixels.shape[-1] > 2 else pixels[..., :1]
    if depth == 16 and colours.max() < DARK // 256:
        raise DataError(
            f"16 bits, but no value above {DARK - 1} of 65535, as if they were 12 or fewer "
            "bits; write the values over all 16 bits"
        )
    return pixels
