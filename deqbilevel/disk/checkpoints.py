"""Checkpoints on disk, through orbax: a run that was interrupted goes on from its last epoch.

The latest and the best state are kept in folders of their own, because one orbax manager with both
rules may delete the newest. A checkpoint appears whole or not at all, and is on the disk before the
one before it is removed. It knows its own number, and the run that it is of (`files.marked`).
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import lazy_loader
import numpy as np

from deqbilevel.disk.files import FileError, mark, room_for, sync

ocp: Any = lazy_loader.load("orbax.checkpoint", suppress_warning=True)
"""Orbax, imported when a checkpoint is."""

Tree = TypeVar("Tree")

ADVICE = "put it back, or start anew with --fresh"
"""What to do about a damaged checkpoint."""


def save(folder: str | Path, step: int, tree: Any) -> None:
    """Write a pytree of arrays as checkpoint `step` of a folder; all others are then removed.

    Raises: OSError before anything is begun where there is no room; FileError for what orbax makes
    of the rest.
    """
    folder = Path(folder).absolute()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    room_for(folder, 2 * size + 2**16)
    before = _steps(folder)
    for late in (x for x in before if x >= step):  # of a course that begins again before them
        shutil.rmtree(folder / str(late))
    with _named(folder, "cannot be written"), _manager(folder) as manager:
        manager.save(step, args=ocp.args.StandardSave(_wrapped(step, tree)))
        manager.wait_until_finished()
    if step not in _steps(folder):
        raise FileError(f"{folder}: checkpoint {step} was not written; {ADVICE}")
    for path, _, names in os.walk(folder / str(step), topdown=False):
        for name in names:
            sync(Path(path, name))
        sync(Path(path))
    sync(folder)
    for early in (x for x in before if x < step):
        shutil.rmtree(folder / str(early))


def latest_step(folder: str | Path) -> int | None:
    """The number of the newest checkpoint of a folder; None where there is none.

    Raises: FileError where the folder holds something else.
    """
    return max(_steps(Path(folder)), default=None)


def restore(folder: str | Path, like: Tree) -> Tree:
    """The newest checkpoint of a folder, with the structure, shapes and dtypes of `like`.

    Raises: FileNotFoundError where there is none; FileError, which names the folder, for one that
    is damaged, has other arrays, or is of another run.
    """
    folder = Path(folder).absolute()
    step = latest_step(folder)
    if step is None:
        raise FileNotFoundError(f"{folder}: holds no checkpoint; {ADVICE}, or train first")
    expected = _wrapped(step, like)
    place = folder / str(step)
    with _named(place, "cannot be read"), _manager(folder) as manager:
        found: Any = manager.restore(step, args=ocp.args.StandardRestore(expected))
    shapes = [[(np.shape(x), x.dtype) for x in jax.tree.leaves(t)] for t in (found, expected)]
    if shapes[0] != shapes[1]:
        raise FileError(f"{place}: holds arrays of other shapes or types; {ADVICE}")
    if int(found["step"]) != step:
        raise FileError(f"{place}: is checkpoint {int(found['step'])} by what it holds; {ADVICE}")
    if mark() and not np.array_equal(found["run"], expected["run"]):
        raise FileError(f"{place}: is of another run; {ADVICE}")
    return found["tree"]


def _manager(folder: Path) -> Any:
    return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(create=True))


def _wrapped(step: int, tree: Any) -> dict[str, Any]:
    run = np.frombuffer(mark().encode().ljust(32)[:32], np.uint8)
    return {"step": np.asarray(step), "run": run, "tree": tree}


def _steps(folder: Path) -> list[int]:
    """The numbers of the checkpoints of a folder."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise FileError(f"{folder}: a folder of checkpoints is needed, this is a file; remove it")
    found = []
    for path in folder.iterdir():
        if path.name.isdecimal() and path.is_dir():
            found.append(int(path.name))
        elif ".orbax-checkpoint-tmp" not in path.name and not path.name.startswith("."):
            raise FileError(f"{path}: no checkpoint, in a folder of them; move it away")
    return found


@contextlib.contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Whatever orbax and what is below it raise, as an error that names the folder."""
    try:
        yield
    except Exception as error:  # of JSON, of tensorstore, of the file system, of structures
        said = " ".join(str(error).split())
        said = said if len(said) < 200 else f"{said[:200]}..."
        raise FileError(f"{path}: {what} ({type(error).__name__}: {said}); {ADVICE}") from error
