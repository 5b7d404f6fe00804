"""What the runs of a group go on from: on the devices while they train, and now and then on disk.

The states of all lanes of a group are one array with a row for each, for every leaf. A chunk's are
gathered from it and put back, so that lanes change their order without leaving the devices. A
thread writes them to disk every few minutes, and `flush` writes what is not there yet: so a killed
process costs the epochs of the last minutes, which are made again, to the bit. What does not fit
into memory, and what several processes share, is written after every chunk instead.
"""

import contextlib
import contextvars
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import NamedSharding, PartitionSpec

from deqbilevel.disk import archives
from deqbilevel.disk.files import FileError
from deqbilevel.lanes import Lanes, mine
from deqbilevel.studies.storage import Lane, Storage

EVERY = 180.0
"""Seconds between two savings."""

SHARE = 3
"""States stay on the devices where their free memory is so many times as large: a gather and the
copy that is saved take as much again each."""


class _Saved(NamedTuple):
    path: Path
    epoch: int
    leaves: list[np.ndarray]


class States:
    """The states of the lanes of one group after another, saved every so many seconds.

    `written` counts the bytes that went to disk. All methods but `flush` are for one thread.
    """

    def __init__(self, every: float = EVERY) -> None:
        self.every, self.written = every, 0
        self._lock = threading.RLock()
        self._writer: threading.Thread | None = None
        self._failed: FileError | None = None
        self._unsaved: dict[Path, int] = {}
        self._over: set[Path] = set()

    @contextlib.contextmanager
    def of(
        self, store: Storage, lanes: Lanes, group: Sequence[Lane], like: Sequence[Any]
    ) -> Iterator[None]:
        """Hold the states of a group meanwhile, each with leaves like these; at the end, whatever
        it comes by, they are on disk. Raises: FileError where something could not be written."""
        self._begin(store, lanes, group, like)
        try:
            yield
        finally:
            self.flush()
            self._pool, self._held, self._over = [], set(), set()
            self._complain()

    def _begin(
        self, store: Storage, lanes: Lanes, group: Sequence[Lane], like: Sequence[Any]
    ) -> None:
        self._store, self._lanes, self._like = store, lanes, like
        self._context = contextvars.copy_context()
        self._rows = {self._path(lane): i for i, lane in enumerate(group)}
        self._held: set[Path] = set()
        self._saved_at = time.monotonic()
        each = sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in like)
        rows = -(-len(group) // lanes.mesh.size) * lanes.mesh.size
        fits = SHARE * rows * each <= free_memory() * lanes.mesh.size
        self.resident = jax.process_count() == 1 and fits
        if not self.resident:
            return
        sharding = NamedSharding(lanes.mesh, PartitionSpec("lane"))

        def take(pool: list[Any], rows: Any) -> list[Any]:
            return [x[rows] for x in pool]

        def put(pool: list[Any], leaves: list[Any], rows: Any) -> list[Any]:
            return [x.at[rows].set(y, mode="drop") for x, y in zip(pool, leaves, strict=True)]

        def nothing() -> list[Any]:
            return [jnp.zeros((rows, *x.shape), x.dtype) for x in like]

        self._take = jax.jit(take, out_shardings=sharding)
        self._put = jax.jit(put, donate_argnums=0, out_shardings=sharding)
        self._pool = jax.jit(nothing, out_shardings=sharding)()

    def take(self, filled: Sequence[Lane]) -> list[Any]:
        """The leaves of the states of these lanes, those of this process, on their devices.

        Raises: FileError for those that are on disk and cannot be read.
        """
        if not self.resident:
            return self._lanes.put(self._stored(filled))
        paths = [self._path(lane) for lane in filled]
        if not self._held.issuperset(paths):
            missing = [lane for lane in filled if self._path(lane) not in self._held]
            missing += missing[-1:] * (len(filled) - len(missing))
            self._hold(missing, self._lanes.put(self._stored(missing)))
        return self._take(self._pool, self._index(paths))

    def put(self, chunk: Sequence[Lane], epoch: int, leaves: Sequence[Any]) -> None:
        """Keep the states in which the lanes of a chunk, filled up, ended an epoch.

        Raises: FileError where something could not be written, also of before.
        """
        if not self.resident:
            own = list(chunk)[self._lanes.local]
            arrays = mine(list(leaves))
            saved = [
                _Saved(self._path(lane), epoch, [x[i, ...] for x in arrays])
                for i, lane in enumerate(own)
            ]
            self._attempt(saved)
        else:
            self._hold(chunk, leaves)
            with self._lock:
                self._unsaved |= {self._path(lane): epoch for lane in chunk}
            if time.monotonic() - self._saved_at >= self.every and not self._writing():
                self._save()
        self._complain()

    def forget(self, lanes: Sequence[Lane]) -> None:
        """Lanes that are finished need no state."""
        for path in map(self._path, lanes):
            with self._lock:
                self._unsaved.pop(path, None)
                self._over.add(path)
            path.unlink(missing_ok=True)

    def flush(self) -> None:
        """Write what is not on disk, and wait until it is; from any thread."""
        with self._lock:
            self._wait()
            if self._unsaved:
                self._save()
                self._wait()
            for path in self._over:
                path.unlink(missing_ok=True)

    # ---- on the devices

    def _hold(self, lanes: Sequence[Lane], leaves: Sequence[Any]) -> None:
        paths = [self._path(lane) for lane in lanes]
        # A chunk is filled up with its last lane, whose row is written once.
        index = self._index([*dict.fromkeys(paths)], len(leaves[0]))
        with self._lock:
            self._pool = self._put(self._pool, list(leaves), index)
            self._held |= set(paths)

    def _index(self, paths: Sequence[Path], length: int = 0) -> np.ndarray:
        """Their rows, and then rows that there are none of."""
        beyond = len(self._pool[0])
        rows = [self._rows[path] for path in paths]
        return np.asarray(rows + [beyond] * (length - len(rows)), np.int32)

    # ---- on disk

    def _path(self, lane: Lane) -> Path:
        return self._store.path("states", lane)

    def _stored(self, lanes: Sequence[Lane]) -> list[np.ndarray]:
        """The leaves of the states on disk, each file read once."""
        paths = [self._path(lane) for lane in lanes]
        leaves = {path: archives.read_state(path, self._like)[1] for path in dict.fromkeys(paths)}
        return [np.stack(x) for x in zip(*(leaves[path] for path in paths), strict=True)]

    def _writing(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def _wait(self) -> None:
        if self._writer is not None:
            self._writer.join()

    def _save(self) -> None:
        """Copy what is not on disk to this process's memory, and let a thread write it."""
        with self._lock:
            paths = list(self._unsaved)
            rows = [self._rows[path] for path in paths]
            arrays = [np.asarray(x)[rows] for x in self._pool]
            saved = [
                _Saved(path, self._unsaved[path], [x[i, ...] for x in arrays])
                for i, path in enumerate(paths)
            ]
            self._unsaved.clear()
        self._saved_at = time.monotonic()
        # The mark of the study is in the context, which a thread does not inherit.
        run = self._context.copy().run
        self._writer = threading.Thread(target=run, args=(self._attempt, saved), name="states")
        self._writer.start()

    def _attempt(self, saved: Sequence[_Saved]) -> None:
        """Write what can be written; what cannot is tried again with the next."""
        for path, epoch, leaves in saved:
            if path in self._over:
                continue
            try:
                archives.write_state(path, epoch, leaves)
                self.written += sum(x.nbytes for x in leaves)
            except OSError as error:
                self._unsaved.setdefault(path, epoch)
                self._failed = FileError(
                    f"epoch {epoch} of {path.stem} could not be stored ({error}). Everything "
                    "before it is on disk: make room, then repeat the command"
                )

    def _complain(self) -> None:
        """Raises: FileError where something could not be written."""
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed


def free_memory() -> int:
    """Bytes that are free on each device; a CPU's devices share those of the machine."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return psutil.virtual_memory().available // jax.local_device_count()
