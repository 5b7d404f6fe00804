"""A `results.zarr` looked at before it is opened: it may be of anybody, and name any codec.

zarr makes whatever codec the metadata names, and some run code (numcodecs' pickle). `studies.cubes`
writes arrays of numbers and short texts, compressed by Zstandard, and nothing else is opened.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deqbilevel.disk.files import FileError

CODECS = ("zstd", "blosc")
"""Of these the second is what earlier versions wrote."""

MOST_BYTES = 2**31
"""Of a chunk, unpacked."""


FILES = r"(\w+/)?(\.zgroup|\.zattrs|\.zmetadata|\.zarray|\d+(\.\d+)*)(\.[0-9a-f]{32}\.partial)?"
"""The names of a store's files, as zarr gives them."""

RESTORE = "repeat the study's command, which restores it"
"""What to do about a damaged store."""


def check(path: Path) -> None:
    """Raises: FileError, which names the file, for what `studies.cubes` does not write."""
    if not path.is_dir():
        raise FileError(f"{path}: not a store of results; give a study's --out")
    for file in path.rglob("zarr.json"):
        raise FileError(f"{file}: of another version of zarr than a study's results; remove it")
    for file, name, array in _arrays(path):
        wrong = _wrong(array)
        if wrong:
            raise FileError(f"{file}: {name}: {wrong}; it is not opened")


def strangers(path: Path) -> list[str]:
    """The files in a store that zarr did not write, and a store that is none itself."""
    if not path.is_dir():
        return [path.name]
    found = [p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()]
    return [name for name in found if not re.fullmatch(FILES, name)]


def _arrays(path: Path) -> Iterator[tuple[Path, str, Any]]:
    """file, array and metadata of every array; those of `.zmetadata` are what xarray reads.

    Raises: FileError where something is missing.
    """
    for file in sorted(path.rglob(".zarray")):
        yield file, file.parent.name, _read(file)
    whole = path / ".zmetadata"
    entries = _read(whole).get("metadata")
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if not (path / name).is_file():
            raise FileError(f"{path}: has no {name}; {RESTORE}")
        if name.endswith(".zarray"):
            yield whole, name.rpartition("/")[0], entry


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise FileError(f"{file}: cannot be read ({error}); {RESTORE}") from error
    if not isinstance(found, dict):
        raise FileError(f"{file}: not metadata of an array; {RESTORE}")
    return found


def _wrong(array: Any) -> str:
    """What is not as `studies.cubes` writes it, in words; "" if nothing is."""
    if not isinstance(array, dict):
        return "no metadata of an array"
    compressor, filters = array.get("compressor"), array.get("filters")
    for codec in [compressor, *(filters if isinstance(filters, list) else [filters])]:
        name = codec.get("id") if isinstance(codec, dict) else codec
        if codec is not None and (name not in CODECS or codec is not compressor):
            return f"codec {name!r}, expected {' or '.join(CODECS)} alone"
    try:
        dtype = np.dtype(array["dtype"])
        size = dtype.itemsize * math.prod(map(int, array["chunks"]))
    except (KeyError, TypeError, ValueError) as error:
        return f"no type and chunks ({error})"
    if dtype.kind not in "fiubU" or dtype.hasobject:
        return f"type {dtype}, expected numbers or short texts"
    return f"chunks of {size} bytes" if not 0 <= size <= MOST_BYTES else ""
