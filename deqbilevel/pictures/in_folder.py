"""The picture files of a folder: which there are, what they are called, and that training and test
share none."""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from deqbilevel.pictures.base import DataError

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of the files of a folder that are taken for pictures, in lower case."""

OWNED = "options.json"
"""A folder that holds a file of this name is a run's: its pictures are results."""

_SHOWN = 3
"""Pairs of files that a message names."""


def folder_path(folder: str | Path) -> Path:
    """The path of a folder that may be missing, `~` expanded; raises `DataError` for a file, and
    for what cannot be a path.

    >>> print(pictures.folder_path("runs/none").name)  # it may be missing
    none
    """
    try:
        path = Path(folder).expanduser()
        is_file = path.exists() and not path.is_dir()
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise DataError(f"{folder!r}: expected a folder ({error})") from error
    if is_file:
        raise DataError(f"{path}: a folder is needed, this is a file")
    return path


def existing_folder(folder: str | Path) -> Path:
    """The folder as a path, `~` expanded; raises `DataError` where there is none.

    >>> print(pictures.existing_folder(".").is_dir())
    True
    """
    path = folder_path(folder)
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder")
    return path


def pictures(folder: str | Path) -> list[Path]:
    """The picture files of a folder and its subfolders, sorted by their path below it.

    Left out is every file and folder whose name starts with a dot, and every folder that a run
    owns (one that holds `options.json`). Links to files and folders are followed; no folder is
    searched twice, however many links lead to it.

    Raises:

        DataError: no pictures, a run's folder, a link that leads nowhere, or a folder that cannot
            be read.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.png", ".hidden.png", "a/c.jpg", "notes.txt"):
    ...         path = pathlib.Path(folder, name)
    ...         path.parent.mkdir(exist_ok=True)
    ...         path.touch()
    ...     found = pictures.pictures(folder)
    >>> print([path.name for path in found])
    ['c.jpg', 'b.png']
    """
    folder = existing_folder(folder)
    if (folder / OWNED).exists():
        raise DataError(
            f"{folder}: a run's folder ({OWNED}), its pictures are no data; give another one"
        )
    found = [path for path in _files(folder) if path.suffix.lower() in ENDINGS]
    if not found:
        raise DataError(f"{folder}: no images here ({', '.join(ENDINGS)})")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def names(paths: Sequence[Path], folder: str | Path) -> list[str]:
    """What to call pictures of a folder: their path below it, and their ending only where two
    would be called the same. So no two have one name.

    >>> import pathlib
    >>> paths = [pathlib.Path("a.png"), pathlib.Path("b.png"), pathlib.Path("b.jpg")]
    >>> print(pictures.names(paths, "."))
    ['a', 'b.png', 'b.jpg']
    """
    folder = existing_folder(folder)
    below = [path.relative_to(folder) for path in paths]
    short = [path.with_suffix("").as_posix() for path in below]
    times = Counter(short)
    return [
        name if times[name] == 1 else path.as_posix()
        for name, path in zip(short, below, strict=True)
    ]


def check_apart(train: Sequence[Path], test: Sequence[Path]) -> None:
    """Raises `DataError` where a training and a test picture are the same bytes, naming both.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     one, other = pathlib.Path(folder, "a.png"), pathlib.Path(folder, "b.png")
    ...     sizes = one.write_bytes(b"1"), other.write_bytes(b"2")
    ...     pictures.check_apart([one], [other])  # no error
    """
    sizes = [{path: path.stat().st_size for path in side} for side in (train, test)]
    both = set(sizes[0].values()) & set(sizes[1].values())
    # Only files of one size can be the same.
    trained = {_digest(path): path for path, size in sizes[0].items() if size in both}
    same = [
        (trained[digest], path)
        for path, size in sizes[1].items()
        if size in both and (digest := _digest(path)) in trained
    ]
    if same:
        listed = "; ".join(f"{one} and {other}" for one, other in same[:_SHOWN])
        more = f" and {len(same) - _SHOWN} more pairs" if len(same) > _SHOWN else ""
        raise DataError(
            f"{listed}{more}: the same picture for training and for test; remove one of the two"
        )


def _files(root: Path) -> Iterator[Path]:
    """All files below a folder that are not left out; linked folders come after all others, so
    that a folder's own path is the one that counts."""
    seen: set[tuple[int, int]] = set()
    own, linked = deque([root]), deque[Path]()
    while own or linked:
        here = (own or linked).popleft()
        try:
            status = here.stat()
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{here}: cannot be searched for images ({error.strerror})") from error
        if (status.st_dev, status.st_ino) in seen or any(e.name == OWNED for e in entries):
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            path, link = here / entry.name, entry.is_symlink()
            if entry.name.startswith("."):
                continue
            if os.path.isdir(path) if link else entry.is_dir():
                (linked if link else own).append(path)
            elif os.path.isfile(path) if link else entry.is_file():
                yield path
            elif link and path.suffix.lower() in ("", *ENDINGS) and not os.path.exists(path):
                raise DataError(f"{path}: a link to {os.readlink(path)}, which is not there")


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
