"""Named arrays in a file of numpy's, checked by name, type, shape and value before they are used.

    schema = {"A": Array(("kernels", "size", "size")), "C": Array(("kernels", "size", "size"))}
    arrays = read(path, schema)

A file of one array without a name, as `np.save` writes it, is one of an array named `SINGLE`. What
a file says of its arrays is compared with the schema before anything is unpacked, so that a file
of the wrong kind costs no memory. Imports nothing of ours.
"""

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

SINGLE = "array"
"""What an array that has no name is called."""

MOST_BYTES = 2**28
"""Of all arrays in a file together, where the schema leaves their sizes open."""


class Array(NamedTuple):
    """What is expected of an array."""

    shape: tuple[int | str, ...]
    """Sizes; a name stands for any size above 0, the same wherever it occurs in a schema."""
    dtype: Any = np.floating
    """A type, or a kind of types such as `np.floating`, `np.integer` and `np.str_`."""
    optional: bool = False
    finite: bool = True
    """Whether every number must be finite, also in float32."""


Schema = Mapping[str, Array]
"""What a file holds, by name."""


def like(array: Any, *, finite: bool = True) -> Array:
    """That an array has the shape and the type of this one; of a shape and type alone too."""
    return Array(tuple(array.shape), np.dtype(array.dtype), finite=finite)


class Header(NamedTuple):
    """What a file says of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype


class _Member(NamedTuple):
    """An array as it is stored."""

    size: int
    """In bytes, unpacked."""
    open: Callable[[], IO[bytes]]


def headers(path: Path) -> dict[str, Header]:
    """The names, shapes and types of the arrays in a file; nothing is unpacked.

    Raises: ValueError that names a file which is none of named arrays; FileNotFoundError.
    """
    with _named(path), _opened(path) as members:
        return _headers(members)


def read(path: Path, schema: Schema, most_bytes: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """The arrays of a file, which are those of the schema.

    Raises: ValueError that names the file, and what is expected of which array, where one is
    missing, unheard of, of another type or shape, not finite, holds Python objects, or cannot be
    read; and where arrays whose sizes the schema leaves open take more than `most_bytes`.
    FileNotFoundError where there is no file.
    """
    with _named(path), _opened(path) as members:
        _compare(_headers(members), schema, most_bytes)
        found = {}
        for name, member in members.items():
            with member.open() as stored:
                array = npy.read_array(stored, allow_pickle=False)
                found[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
            if schema[name].finite and not _finite(found[name]):
                raise ValueError(f"{name}: expected finite numbers")
    return found


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file as a ValueError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # a zip file, its compression and a header have errors of their own
        raise ValueError(f"{path}: cannot be read ({error})") from error


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, _Member]]:
    """The arrays of a file by name, whatever the file's own name ends in."""
    with path.open("rb") as start:
        if start.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            yield {SINGLE: _Member(path.stat().st_size, partial(path.open, "rb"))}
            return
    with zipfile.ZipFile(path) as file:
        members: dict[str, _Member] = {}
        for entry in file.infolist():
            name = entry.filename.removesuffix(".npy")
            if name == entry.filename or name in members:
                raise ValueError(f"{entry.filename!r}: expected one array for each name")
            members[name] = _Member(entry.file_size, partial(file.open, entry))
        yield members


def _headers(members: Mapping[str, _Member]) -> dict[str, Header]:
    found: dict[str, Header] = {}
    for name, member in members.items():
        with member.open() as stored:
            version = npy.read_magic(stored)
            reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = reader(stored)
            size = stored.tell() + dtype.itemsize * math.prod(shape)
        if size != member.size and not dtype.hasobject:
            raise ValueError(
                f"{name}: {member.size} bytes where {dtype} of shape {shape} has {size}"
            )
        found[name] = Header(shape, dtype)
    return found


def _compare(found: Mapping[str, Header], schema: Schema, most_bytes: int) -> None:
    """Raises ValueError for the first difference."""
    missing = [name for name, x in schema.items() if not x.optional and name not in found]
    extra = [name for name in found if name not in schema]
    if missing or extra:
        what = f"no {', '.join(missing)}" if missing else f"{', '.join(extra)}, which is unheard of"
        raise ValueError(f"{what}; expected {', '.join(schema)}")
    sizes: dict[str, int] = {}
    open_bytes = 0
    for name, expected in schema.items():
        if name not in found:
            continue
        shape, dtype = found[name]
        wide = dtype.kind == "f" and dtype.itemsize > 8  # not of JAX
        if wide or not np.issubdtype(dtype, expected.dtype):
            kind = getattr(expected.dtype, "__name__", expected.dtype)
            raise ValueError(f"{name}: of type {dtype}; expected {kind}")
        if not _fits(shape, expected, sizes):
            raise ValueError(f"{name}: of shape {shape}; expected {_written(expected, sizes)}")
        open_bytes += 0 if _known(expected) else dtype.itemsize * math.prod(shape)
    if open_bytes > most_bytes:
        raise ValueError(f"{open_bytes} bytes of arrays; expected {most_bytes} at most")


def _fits(shape: tuple[int, ...], expected: Array, sizes: dict[str, int]) -> bool:
    """Whether a shape is the expected one; `sizes` of names that come up are put down."""
    if len(shape) != len(expected.shape):
        return False
    for n, wanted in zip(shape, expected.shape, strict=True):
        if n != (sizes.setdefault(wanted, n) if isinstance(wanted, str) else wanted):
            return False
        if n < 1 and isinstance(wanted, str):
            return False
    return True


def _known(expected: Array) -> bool:
    """Whether the schema gives an array's size in bytes."""
    sized = isinstance(expected.dtype, np.dtype)
    return sized and all(isinstance(n, int) for n in expected.shape)


def _written(expected: Array, sizes: Mapping[str, int]) -> str:
    words = [f"{n} ({sizes[n]})" if n in sizes else n for n in map(str, expected.shape)]
    return f"[{', '.join(words)}]" if words else "a single value"


def _finite(x: np.ndarray) -> bool:
    if not np.issubdtype(x.dtype, np.inexact):
        return True
    return bool((np.abs(x) <= np.finfo(np.float32).max).all())
