"""Files that a restart depends on: whole or not at all, and on the disk before they count."""

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any


class FileError(ValueError):
    """A file or folder that cannot be used; the message names it and says what to do."""


_MARK: ContextVar[str] = ContextVar("mark", default="")


@contextlib.contextmanager
def marked(run: str) -> Iterator[None]:
    """What is stored meanwhile is of this run, and nothing of another one is read."""
    before = _MARK.set(run)
    try:
        yield
    finally:
        _MARK.reset(before)


def mark() -> str:
    """The mark of the run that is under way; "" of none."""
    return _MARK.get()


@contextlib.contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write in, which takes the place of `path` when all of it is on the disk.

    Raises: OSError, after which `path` is what it was; where a link is planted, which would lead
    the bytes elsewhere, too.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb", opener=_no_link) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        if not partial.is_symlink():
            partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def append(path: Path, text: str) -> None:
    """Write further lines at the end of a file, and wait until they are on the disk.

    Raises: OSError, also where the file is a link.
    """
    new = not path.exists()
    with open(path, "ab", opener=_no_link) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():  # has no such thing for folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def room_for(folder: Path, size: int) -> None:
    """Make the folder, and see that so many bytes can be written there.

    Raises: OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe.{os.getpid()}"
    try:
        with open(probe, "xb", opener=_no_link) as file:
            file.write(b"\0")
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
    finally:
        probe.unlink(missing_ok=True)


def _no_link(path: Any, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
