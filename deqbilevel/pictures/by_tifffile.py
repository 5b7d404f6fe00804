"""TIFF files, whose tags say what the samples mean. tifffile reads the samples but for those that
are compressed in a way that it does not know alone."""

import itertools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from deqbilevel.pictures.base import DataError, Pixels, check_size, check_values

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_PAGES = 32
"""A picture and its smaller copies are fewer."""

_COLOURS = {"MINISBLACK": 1, "MINISWHITE": 1, "PALETTE": 1, "RGB": 3}
"""How many samples of a pixel are its colour."""

_PLAIN, _DEFLATE = ("NONE", "PACKBITS"), ("ADOBE_DEFLATE", "DEFLATE")
"""What tifffile decodes by itself."""

_PREMULTIPLIED, _ALPHA = 1, 2
"""Extra samples that are transparency; others mean nothing here."""

_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}
"""By the tag of orientation: where the first row and the first column are seen."""


def is_tiff(path: Path) -> bool:
    """Whether a file begins as TIFF does."""
    with path.open("rb") as file:
        return file.read(4) in _MAGIC


def read_tiff(path: Path) -> Pixels | None:
    """The pixels of the picture of a TIFF file, turned as it says, for `to_grey`; None for one
    that Pillow reads right, and tifffile does not.

    Raises:

        DataError: several pages, another colour model, samples whose meaning or range the file
            does not tell, missing parts. What tifffile raises otherwise.
    """
    with tifffile.TiffFile(path) as file:
        page = _only_page(file)
        colours = _checked(page)
        if not _is_tifffiles(page):
            return None
        _check_parts(file, page)
        samples = page.asarray()
        if page.axes == "SYX":
            samples = np.moveaxis(samples, 0, -1)
        samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
        samples = samples.reshape(*samples.shape[:2], -1)
        check_values(samples[..., :colours])
        pixels = _with_alpha(page, _coloured(page, samples[..., :colours]), samples[..., colours:])
        turn = page.tags.valueof(274, default=1)
    return _TURNS.get(turn, _TURNS[1])(pixels)


def _only_page(file: tifffile.TiffFile) -> Any:
    """The page of the picture; smaller copies of it and masks are none."""
    pages = [page.aspage() for page in itertools.islice(file.pages, _PAGES)]
    whole = [page for page in pages if not page.is_reduced and not page.is_mask]
    if not whole:
        raise DataError("no whole picture in it: truncated, or only smaller copies of one")
    # The list of pages may run in a circle, so its end is asked for only where it is near.
    several = len(whole) > 1 or len(pages) == _PAGES
    if several or any(series.size > whole[0].size for series in file.series):
        raise DataError("several frames or pages; save the one that is meant by itself")
    return whole[0]


def _checked(page: Any) -> int:
    """How many samples of a pixel are its colour; raises `DataError` unless this is known."""
    check_size(page.imagelength, page.imagewidth)
    model = getattr(page.photometric, "name", str(page.photometric))
    if model == "YCBCR" and _compression(page) == "JPEG":
        model = "RGB"  # as libtiff gives it
    if model not in _COLOURS:
        said = "CMYK (separated)" if model == "SEPARATED" else model
        raise DataError(f"a picture in {said}, not in grey, RGB or of a palette; convert it to RGB")
    colours = _COLOURS[model]
    extra = page.samplesperpixel - colours
    meant = extra == len(page.extrasamples) and page.extrasamples.count(0) < 2
    if not meant or page.axes not in ("YX", "YXS", "SYX"):
        raise DataError(
            f"{page.samplesperpixel} samples a pixel in {model}, an array of shape {page.shape}: "
            "not one grey or RGB picture"
        )
    return colours


def _compression(page: Any) -> str:
    return getattr(page.compression, "name", str(page.compression))


def _is_tifffiles(page: Any) -> bool:
    """Whether tifffile reads it and not Pillow; raises `DataError` where neither does."""
    bits, compression, model = page.bitspersample, _compression(page), page.photometric.name
    if bits in (16, 32, 64) and model == "PALETTE":
        raise DataError(f"numbers of {bits} bits of a palette; convert it to RGB")
    if bits in (8, 16, 32, 64) and compression in _PLAIN + _DEFLATE:
        return True
    known = bits in (1, 2, 4, 8) or (bits == 16 and model == "MINISBLACK")
    extra = len(page.extrasamples)
    if not known or page.sampleformat != 1 or extra > (bits == 8 and model == "RGB"):
        raise DataError(
            f"{bits}-bit samples in {model} and {extra} more a pixel under {compression} "
            "compression; save it without compression, with 8 or 16 bits or as float"
        )
    return False


def _check_parts(file: tifffile.TiffFile, page: Any) -> None:
    """Raises `DataError` for parts that are missing, or that unpack to more than they should."""
    counts = page.databytecounts
    if not counts or not all(counts):
        raise DataError("truncated, parts of the picture are missing")
    most = int(np.prod(page.chunks)) * page.dtype.itemsize
    for offset, count in zip(page.dataoffsets, counts, strict=True):
        if offset + count > file.filehandle.size:
            raise DataError("truncated, the file ends before the picture does")
        if _compression(page) in _DEFLATE:
            file.filehandle.seek(offset)
            packed = file.filehandle.read(count)
            if len(zlib.decompressobj().decompress(packed, most + 1)) > most:
                raise DataError("damaged, a part unpacks to more than its pixels")


def _coloured(page: Any, samples: np.ndarray) -> np.ndarray:
    """Samples as light: what is 0 for white turned round, numbers of a palette looked up."""
    if page.photometric.name == "PALETTE":
        palette = np.asarray(page.colormap)
        # Some write 8 bits where the format has 16.
        eight = palette if palette.max() < 256 else palette // 256
        if samples.max() >= palette.shape[1]:
            raise DataError(f"numbers up to {samples.max()} of a palette of {palette.shape[1]}")
        return eight.astype(np.uint8).T[samples[..., 0]]
    if page.photometric.name == "MINISWHITE":
        most = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
        return most - samples
    return samples


def _with_alpha(page: Any, colours: np.ndarray, extra: np.ndarray) -> Pixels:
    """Colours, and the first extra sample that is transparency, if one is."""
    kinds = [int(kind) for kind in page.extrasamples]
    meant = [i for i, kind in enumerate(kinds) if kind in (_PREMULTIPLIED, _ALPHA)]
    if not meant:
        return colours
    alpha = extra[..., meant[0]][..., None]
    if alpha.dtype.kind == "f":
        check_values(alpha)
    if kinds[meant[0]] == _ALPHA:
        return np.concatenate([colours, alpha.astype(colours.dtype)], -1)
    most = 1 if colours.dtype.kind == "f" else np.iinfo(colours.dtype).max
    # Already multiplied: what is missing to opaque is white.
    return np.minimum(colours + (most - alpha).astype(colours.dtype), most)
