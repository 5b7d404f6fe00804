"""A study on disk: what is finished stays, whatever happens to the process.

    results.zarr      every record, a dimension per axis and `epoch`; xarray opens it lazily, also
                      while the study runs
    metrics.jsonl     the same records, a line for each lane and epoch, only ever appended to
    states/           what each lane that is under way needs to go on
    parameters/       the final parameters that were asked for

The line in `metrics.jsonl` is what counts: it is written after the pictures and parameters of a
run, and before the state that the next epoch starts from, which may be some epochs behind: those
are made again. `results.zarr` is made from it again at
every start, and made anew where it is damaged: what no line holds, the pictures of a finished run,
is kept where it can be read, and else that run starts again.

One process writes the records; each process writes the states of its own lanes (`states`). The log
is in `logs`, `results.zarr` in `cubes`, the files of the two folders in `archives`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lazy_loader
import numpy as np

from deqbilevel.disk import archives, stores
from deqbilevel.studies.cubes import CELL, Cube
from deqbilevel.studies.logs import Key, Log

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_loader.load("xarray")

Lane = dict[str, Any]
"""One setting of the hyperparameters, by the names of the axes."""


class Storage(NamedTuple):
    """The folder of a study, and what it is to hold."""

    folder: Path
    axes: dict[str, list[Any]]
    """The values of each axis, in the order of the dimensions."""
    epochs: int
    records: tuple[str, ...]
    """The names of what is recorded for each epoch; `diverged` is a yes or no."""
    pictures: dict[str, tuple[int, int]]
    """name -> [pictures, pixels], stored for each finished run."""

    @property
    def results(self) -> Path:
        """What `xarray.open_zarr` opens."""
        return self.folder / "results.zarr"

    @property
    def log(self) -> Path:
        """A line of JSON for each lane and epoch."""
        return self.folder / "metrics.jsonl"

    def path(self, kind: str, lane: Lane) -> Path:
        """The file of a lane in `states` or `parameters`, by a name that a person can read."""
        name = "-".join(str(lane[axis]) for axis in self.axes)
        mark = hashlib.sha256(json.dumps(lane, sort_keys=True).encode()).hexdigest()[:6]
        return self.folder / kind / f"{name}-{mark}.npz"

    def key(self, lane: Mapping[str, Any]) -> Key:
        """A lane as a dictionary's key."""
        return self._log.key(lane)

    @property
    def _log(self) -> Log:
        return Log(self.log, tuple(self.axes), self.epochs, self.records)

    @property
    def _cube(self) -> Cube:
        return Cube(self.results, self.axes, self.epochs, self.records, self.pictures)

    def create(self, extra: xr.Dataset) -> None:
        """Make `results.zarr` with nothing in it but the coordinates and `extra`."""
        self._cube.create(extra)

    def ready(self, extra: xr.Dataset) -> list[str]:
        """Make `results.zarr` where it is missing, and anew where it is damaged: how, in words.

        For one process, before `recover`. Raises: FileError for what no study wrote there.
        """
        damage = self._cube.ready(extra)
        return [f"{self.results}: {damage}; made anew from {self.log.name}"] if damage else []

    def append(self, lanes: Sequence[Lane], epoch: int, record: Mapping[str, Any]) -> None:
        """Store an epoch's record of some lanes; each value of `record` has one entry a lane."""
        self._log.append(lanes, epoch, record)
        self._cube.append(lanes, epoch, record)

    def append_pictures(self, lanes: Sequence[Lane], pictures: Mapping[str, np.ndarray]) -> None:
        """Store the pictures of finished lanes, [lanes, pictures, pixels]; before their record."""
        self._cube.append_pictures(lanes, pictures)

    def look(self, lanes: Iterable[Lane]) -> tuple[Progress, list[str]]:
        """What is on disk of these lanes, and what cannot be read, in words; nothing is changed."""
        progress, problems, _ = self._look(list(lanes))
        return progress, problems

    def _look(self, lanes: Sequence[Lane]) -> tuple[Progress, list[str], list[Key]]:
        """Also the cells whose pictures are lost."""
        stores.check(self.results)
        logged, problems = self._log.read({self.key(lane) for lane in lanes})
        lost = self._cube.lost_pictures(logged)
        problems += [f"{self.results}: unreadable pictures ({what})" for what in lost.values()]
        done: dict[Key, int] = {}
        for lane in lanes:
            key = self.key(lane)
            records = {} if key[:CELL] in lost else logged.get(key, {})
            # Records without a gap, from epoch 0 on.
            last = next(e for e in itertools.count(-1) if e + 1 not in records)
            logged[key] = {e: r for e, r in records.items() if e <= last}
            if 0 < last < self.epochs:
                last, problem = self._stored_epoch(lane, last)
                problems += problem
            done[key] = last
        return Progress(done, logged), problems, list(lost)

    def recover(self, lanes: Iterable[Lane]) -> tuple[Progress, list[str]]:
        """As `look`, and mended for a study that goes on.

        A torn last line of the log is cut off, pictures that cannot be read are emptied and the
        records of their runs taken out of the log, states of lanes that are finished are removed,
        and `results.zarr` is made to agree with the log. For one process, before the others look.
        """
        lanes = list(lanes)
        progress, problems, lost = self._look(lanes)
        self._log.cut()
        if lost:
            self._log.forget(lambda key: key[:CELL] in lost)
            self._cube.empty_pictures(lost)
        for lane in lanes:
            if progress.done[self.key(lane)] == self.epochs:
                self.path("states", lane).unlink(missing_ok=True)
        self._cube.rewrite(progress.records)
        return progress, problems

    def _stored_epoch(self, lane: Lane, last: int) -> tuple[int, list[str]]:
        """The epoch that a lane can go on from: that of its state, or 0."""
        try:
            epoch, _ = archives.read_state(self.path("states", lane))
        except FileNotFoundError:
            return 0, []
        except ValueError as error:
            return 0, [f"{error}; this run starts again"]
        return epoch if epoch <= last else 0, []


class Progress(NamedTuple):
    """How far each lane is."""

    done: dict[Key, int]
    """lane -> its last epoch that is stored and that it can go on from; -1 for none."""
    records: dict[Key, dict[int, dict[str, Any]]]
    """lane -> epoch -> what was recorded, also of epochs that have to be made again."""


def nothing(store: Storage, lanes: Iterable[Lane]) -> Progress:
    """The progress of lanes that have not started."""
    keys = [store.key(lane) for lane in lanes]
    return Progress(dict.fromkeys(keys, -1), {key: {} for key in keys})
