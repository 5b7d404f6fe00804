"""A study on disk: what is finished stays, whatever happens to the process.

    results.zarr      every record, a dimension per axis and `epoch`; xarray opens it lazily, also
                      while the study runs
    metrics.jsonl     the same records, a line for each lane and epoch, only ever appended to
    states/           what each lane that is under way needs to go on
    parameters/       the final parameters that were asked for

The line in `metrics.jsonl` is what counts: it is written after the pictures and parameters of a
run, and before the state that the next epoch starts from. `results.zarr` is made from it again at
every start. One process writes the records; each process writes the states of its own lanes.
"""

import hashlib
import itertools
import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr
from numcodecs import Zstd

Lane = dict[str, Any]

CELL = 3
"""Axes, counted from the first, whose every value has files of its own in `results.zarr`."""


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

    def key(self, lane: Mapping[str, Any]) -> tuple[Any, ...]:
        """A lane as a dictionary's key."""
        return tuple(lane[axis] for axis in self.axes)

    def places(self, lanes: Sequence[Lane]) -> tuple[list[int], ...]:
        """Where the lanes stand along each axis."""
        return tuple([values.index(x[name]) for x in lanes] for name, values in self.axes.items())

    def create(self, extra: xr.Dataset) -> None:
        """Make `results.zarr` with nothing in it but the coordinates and `extra`."""
        shape = tuple(len(values) for values in self.axes.values())
        cells = tuple(1 if i < CELL else n for i, n in enumerate(shape))
        names, encoding, arrays = tuple(self.axes), {}, {}
        for name in self.records:
            yes_or_no = name == "diverged"
            values = np.full(
                (*shape, self.epochs + 1),
                False if yes_or_no else np.nan,
                bool if yes_or_no else np.float32,
            )
            arrays[name] = ((*names, "epoch"), values)
            encoding[name] = {"chunks": (*cells, 1)}
        for name, size in self.pictures.items():
            empty = np.broadcast_to(np.float32(np.nan), (*shape, *size))
            arrays[name] = ((*names, "picture", "pixel"), empty)
            encoding[name] = {"chunks": (*cells, *size)}
        dataset = xr.Dataset(arrays, self.axes | {"epoch": np.arange(self.epochs + 1)}).merge(extra)
        for name in encoding:
            encoding[name]["compressors"] = Zstd(level=1, checksum=True)
        dataset.assign_attrs(extra.attrs).to_zarr(
            self.results, mode="w", zarr_format=2, consolidated=True, encoding=encoding
        )

    def append(self, lanes: Sequence[Lane], epoch: int, record: Mapping[str, Any]) -> None:
        """Store an epoch's record of some lanes; each value of `record` has one entry a lane."""
        rows = [{name: _plain(record[name][i]) for name in self.records} for i in range(len(lanes))]
        lines = [
            json.dumps({"lane": lane, "epoch": epoch} | row) + "\n"
            for lane, row in zip(lanes, rows, strict=True)
        ]
        with self.log.open("a") as file:
            file.write("".join(lines))
        group, places = self._group(), self.places(lanes)
        for name in self.records:
            values = np.asarray(record[name], group[name].dtype)
            group[name].set_coordinate_selection((*places, [epoch] * len(lanes)), values)

    def append_pictures(self, lanes: Sequence[Lane], pictures: Mapping[str, np.ndarray]) -> None:
        """Store the pictures of finished lanes, [lanes, pictures, pixels]; before their record."""
        group, places = self._group(), self.places(lanes)
        for name in self.pictures:
            for i, place in enumerate(zip(*places, strict=True)):
                group[name][place] = pictures[name][i]

    def look(self, lanes: Iterable[Lane]) -> tuple["Progress", list[str]]:
        """What is on disk of these lanes, and what cannot be read, in words; nothing is changed."""
        logged, problems = self._read_log()
        lost = self._unreadable_pictures()
        problems += [f"{self.results}: unreadable pictures ({what})" for what in lost.values()]
        done: dict[tuple[Any, ...], int] = {}
        for lane in lanes:
            key = self.key(lane)
            records = {} if key[:CELL] in lost else logged.get(key, {})
            # Records without a gap, from epoch 0 on.
            last = next(e for e in itertools.count(-1) if e + 1 not in records)
            if 0 < last < self.epochs:
                last, problem = self._stored_epoch(lane, last)
                problems += problem
            done[key] = last
            logged[key] = {e: r for e, r in records.items() if e <= last}
        return Progress(done, logged), problems

    def recover(self, lanes: Iterable[Lane]) -> tuple["Progress", list[str]]:
        """As `look`, and mended for a study that goes on.

        A torn last line of the log is cut off, pictures that cannot be read are emptied, states
        of lanes that are finished are removed, and `results.zarr` is made to agree with the log.
        For one process, before the others look.
        """
        lanes = list(lanes)
        progress, problems = self.look(lanes)
        if self.log.exists():
            os.truncate(self.log, self.log.read_bytes().rfind(b"\n") + 1)
        for cell in self._unreadable_pictures():
            place = tuple(v.index(x) for v, x in zip(self.axes.values(), cell, strict=False))
            for name in self.pictures:
                self._group()[name][place] = np.nan
        for lane in lanes:
            if progress.done[self.key(lane)] == self.epochs:
                self.path("states", lane).unlink(missing_ok=True)
        self._rewrite(progress.records)
        return progress, problems

    def _stored_epoch(self, lane: Lane, last: int) -> tuple[int, list[str]]:
        """The epoch that a lane can go on from: that of its state, or 0."""
        try:
            epoch, _ = read_state(self.path("states", lane))
        except FileNotFoundError:
            return 0, []
        except ValueError as error:
            return 0, [f"{error}; this run starts again"]
        return epoch if epoch <= last else 0, []

    def _read_log(self) -> tuple[dict[tuple[Any, ...], dict[int, Any]], list[str]]:
        """lane -> epoch -> record, without a torn last line."""
        found: dict[tuple[Any, ...], dict[int, Any]] = {}
        problems: list[str] = []
        if not self.log.exists():
            return found, problems
        *lines, _torn = self.log.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                key, epoch = self.key(entry.pop("lane")), entry.pop("epoch")
                record = {name: entry[name] for name in self.records}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                problems.append(f"{self.log}, line {number}: not a record ({error})")
                continue
            found.setdefault(key, {})[epoch] = record
        return found, problems

    def _unreadable_pictures(self) -> dict[tuple[Any, ...], str]:
        """The cells that have pictures which cannot be read, and why."""
        group, lost = self._group(), {}
        cells = list(self.axes.items())[:CELL]
        for place in itertools.product(*(range(len(values)) for _, values in cells)):
            for name in self.pictures:
                try:
                    group[name][place]
                except Exception as error:  # whatever a decoder makes of damaged bytes
                    cell = tuple(v[i] for (_, v), i in zip(cells, place, strict=True))
                    lost[cell] = f"{name} of {', '.join(map(str, cell))}: {error}"
        return lost

    def _rewrite(self, logged: Mapping[tuple[Any, ...], Mapping[int, Any]]) -> None:
        """Make the records of `results.zarr` those of the log."""
        group, lanes = self._group(), [dict(zip(self.axes, k, strict=True)) for k in logged]
        found = [
            ((*place, epoch), record)
            for place, records in zip(
                zip(*self.places(lanes), strict=True), logged.values(), strict=True
            )
            for epoch, record in records.items()
        ]
        for name in self.records:
            values = np.full(group[name].shape, group[name].fill_value, group[name].dtype)
            for place, record in found:
                values[place] = np.nan if record[name] is None else record[name]
            group[name][...] = values

    def _group(self) -> Any:
        return zarr.open_group(self.results, mode="r+", zarr_format=2)


class Progress(NamedTuple):
    """How far each lane is."""

    done: dict[tuple[Any, ...], int]
    """lane -> its last epoch that is stored and that it can go on from; -1 for none."""
    records: dict[tuple[Any, ...], dict[int, dict[str, Any]]]
    """lane -> epoch -> what was recorded."""


def nothing(store: Storage, lanes: Iterable[Lane]) -> Progress:
    """The progress of lanes that have not started."""
    keys = [store.key(lane) for lane in lanes]
    return Progress(dict.fromkeys(keys, -1), {key: {} for key in keys})


def write_state(path: Path, epoch: int, leaves: Sequence[np.ndarray]) -> None:
    """The arrays that a lane goes on from after `epoch`, whole or not at all."""
    write_arrays(path, {"epoch": np.asarray(epoch)} | {str(i): x for i, x in enumerate(leaves)})


def read_state(path: Path) -> tuple[int, list[np.ndarray]]:
    """What `write_state` wrote. Raises: ValueError that names a file which cannot be read."""
    arrays = read_arrays(path)
    return int(arrays.pop("epoch")), [arrays[str(i)] for i in range(len(arrays))]


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(partial, path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote, checked.

    Raises: ValueError that names a file which cannot be read; FileNotFoundError.
    """
    try:
        with path.open("rb") as file, np.load(file) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def _plain(value: Any) -> Any:
    """A scalar for JSON: float32 as it is, and null for what was not measured."""
    value = np.asarray(value).item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
