"""Picture files as grey values, judged by what a file holds and not by its name, and
the way back: `write`.

Read right: grey, palette and RGB pictures of PNG, JPEG, BMP, WebP, GIF, PNM and TIFF files, with
transparency, turned as they say. Everything else is refused by name: several pages or frames,
ink (CMYK) and other colour models, and values whose range the file does not tell.
"""

from pathlib import Path

from deqbilevel.pictures.base import (
    SIGNED,
    DataError,
    Picture,
    Range,
    checked_range,
    mapped,
    to_grey,
)
from deqbilevel.pictures.by_pillow import FORMATS, TIFF, read_pillow
from deqbilevel.pictures.by_tifffile import is_tiff, read_tiff
from deqbilevel.pictures.in_folder import check_apart, existing_folder, folder_path, names, pictures
from deqbilevel.pictures.writing import write

__all__ = [
    "SIGNED",
    "DataError",
    "Picture",
    "Range",
    "check_apart",
    "checked_range",
    "existing_folder",
    "folder_path",
    "mapped",
    "names",
    "pictures",
    "read_grey",
    "to_grey",
    "write",
]


def read_grey(path: str | Path) -> Picture:
    """One picture file as grey values in [-1, 1].

    Transparent parts are laid on white, also where a file is transparent everywhere. Colour
    profiles and gamma are left as they are. Pillow keeps 8 of 16 bits of PNG and PNM colours.

    Raises:

        DataError: naming the file: not readable, or not one grey or RGB picture of known range.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "one.png")
    ...     clipped = pictures.write(path, np.array([[0.0, 0.5, 1.0]]), (0, 1))
    ...     print(pictures.read_grey(path))
    [[-1.  0.  1.]]
    """
    path = Path(path)
    try:
        tiff = is_tiff(path)
        pixels = read_tiff(path) if tiff else None
        if pixels is None:
            pixels = read_pillow(path, TIFF if tiff else FORMATS)
        return to_grey(pixels)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # every decoder raises its own kinds
        raise DataError(f"{path}: cannot be read as an image ({error})") from error
