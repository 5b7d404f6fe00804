"""A `results.zarr` looked at before it is opened: it may be of anybody, and name any codec.

zarr makes whatever codec the metadata names, and some run code (numcodecs' pickle). `storage`
writes arrays of numbers and short texts, compressed by Zstandard, and nothing else is opened.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deqbilevel.files import FileError

CODECS = ("zstd", "blosc")
"""Of these the second is what earlier versions wrote."""

MOST_BYTES = 2**31
"""Of a chunk, unpacked."""


def check(path: Path) -> None:
    """Raises: FileError, which names the file, for what `storage` does not write."""
    if not path.is_dir():
        raise FileError(f"{path}: not a store of results; give a study's --out")
    for file in path.rglob("zarr.json"):
        raise FileError(f"{file}: of another version of zarr than a study's results; remove it")
    for file, entry, array in _metadata(path):
        wrong = _wrong(array)
        if wrong:
            raise FileError(f"{file}: {entry}: {wrong}; it is not opened")


def _metadata(path: Path) -> Iterator[tuple[Path, str, Any]]:
    """file, array and metadata of every array; those of `.zmetadata` are what xarray reads."""
    for file in sorted(path.glob("*/.zarray")):
        yield file, file.parent.name, _read(file)
    file = path / ".zmetadata"
    if file.exists():
        entries = _read(file).get("metadata")
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            if name.endswith(".zarray"):
                yield file, name.rpartition("/")[0], entry


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise FileError(f"{file}: cannot be read ({error}); {RESTORE}") from error
    if not isinstance(found, dict):
        raise FileError(f"{file}: not metadata of an array; {RESTORE}")
    return found


RESTORE = "repeat the study's command, which restores it"


def _wrong(array: Any) -> str:
    """What is not as `storage` writes it, in words; "" if nothing is."""
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
