"""Files of named arrays: the states and the final parameters of a study, and whatever else is one.

They are written whole or not at all, and checked when they are read.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deqbilevel.disk import arrays, files
from deqbilevel.disk.files import FileError


def write_state(path: Path, epoch: int, leaves: Sequence[np.ndarray]) -> None:
    """The arrays that a lane goes on from after `epoch`, whole or not at all."""
    named = {str(i): x for i, x in enumerate(leaves)}
    write_arrays(path, {"epoch": np.asarray(epoch), "run": np.asarray(files.mark())} | named)


def read_state(path: Path, like: Sequence[Any] | None = None) -> tuple[int, list[np.ndarray]]:
    """What `write_state` wrote; leaves of the shapes and types of `like` where that is given.

    Raises: FileError that names a file which cannot be read, holds other arrays, numbers that are
    not finite, or the state of another study.
    """
    if like is None:
        headers = _checked(path, arrays.headers)
        leaves = {name: arrays.like(x) for name, x in headers.items() if name.isdecimal()}
    else:
        leaves = {str(i): arrays.like(x) for i, x in enumerate(like)}
    names = {str(i): leaves.get(str(i), arrays.Array(())) for i in range(max(len(leaves), 1))}
    schema = {"epoch": arrays.Array((), np.integer), "run": arrays.Array((), np.str_)} | names
    found = _checked(path, lambda path: arrays.read(path, schema))
    if str(found["run"]) != files.mark():
        raise FileError(f"{path}: the state of another study; remove it")
    return int(found["epoch"]), [found[name] for name in names]


def write_arrays(path: Path, named: Mapping[str, np.ndarray]) -> None:
    """Write named arrays, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with files.whole(path) as file:
        np.savez(file, allow_pickle=False, **named)


def read_arrays(path: Path, schema: arrays.Schema) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote, checked against a schema.

    Raises: FileError that names a file which cannot be read or holds something else;
    FileNotFoundError.
    """
    return _checked(path, lambda path: arrays.read(path, schema))


def _checked(path: Path, read: Callable[[Path], Any]) -> Any:
    try:
        return read(path)
    except ValueError as error:
        raise FileError(f"{error}; remove the file, and what is in it is made again") from error
