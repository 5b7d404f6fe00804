"""A study on disk: what is finished stays, whatever happens to the process.

    results.zarr      every record, a dimension per axis and `epoch`; xarray opens it lazily, also
                      while the study runs
    metrics.jsonl     the same records, a line for each lane and epoch, only ever appended to
    states/           what each lane that is under way needs to go on
    parameters/       the final parameters that were asked for

The line in `metrics.jsonl` is what counts: it is written after the pictures and parameters of a
run, and before the state that the next epoch starts from. `results.zarr` is made from it again at
every start, and made anew where it is damaged: what no line holds, the pictures of a finished run,
is kept where it can be read, and else that run starts again.

One process writes the records; each process writes the states of its own lanes.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr
from numcodecs import Zstd

from deqbilevel import arrays, files, stores
from deqbilevel.files import FileError

Lane = dict[str, Any]

CELL = 3
"""Axes, counted from the first, whose every value has files of its own in `results.zarr`."""


MEASURED = ("test_loss", "needed_evaluations", "made_evaluations")
"""Records that every epoch has as finite numbers; others may be null."""


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
        self._write(self._empty(extra), self.results)

    def ready(self, extra: xr.Dataset) -> list[str]:
        """Make `results.zarr` where it is missing, and anew where it is damaged: how, in words.

        For one process, before `recover`. Raises: FileError for what no study wrote there.
        """
        empty = self._empty(extra)
        if not self.results.exists():
            self._write(empty, self.results)
            return []
        damage = self._damage(empty)
        if not damage:
            return []
        theirs = stores.strangers(self.results)
        if theirs:
            raise FileError(
                f"{self.results}: {damage}, and is to be made anew, but holds {', '.join(theirs)}, "
                "which no study wrote; move it away"
            )
        fresh = self.folder / "results.zarr.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        self._write(empty, fresh)
        for name in self.pictures:
            for path in (self.results / name).glob("[0-9]*"):
                os.replace(path, fresh / name / path.name)
        shutil.rmtree(self.results)
        os.replace(fresh, self.results)
        files.sync(self.folder)
        return [f"{self.results}: {damage}; made anew from {self.log.name}"]

    def _damage(self, empty: xr.Dataset) -> str:
        """What is not as it was made, in words; "" if nothing is."""
        try:
            stores.check(self.results)
            with xr.open_zarr(self.results, chunks=None) as found:
                if any(found.attrs.get(name) != x for name, x in empty.attrs.items()):
                    return "says something else of itself"
                differences = (_differs(found, empty, name) for name in empty.variables)
                return next((difference for difference in differences if difference), "")
        except Exception as error:  # of JSON, of xarray, of a codec
            return f"cannot be read ({' '.join(str(error).split())[:200]})"

    def _empty(self, extra: xr.Dataset) -> xr.Dataset:
        """The coordinates and `extra`, and nothing of any run."""
        shape = tuple(len(values) for values in self.axes.values())
        cells = tuple(1 if i < CELL else n for i, n in enumerate(shape))
        names, encoding, values_of = tuple(self.axes), {}, {}
        for name in self.records:
            yes_or_no = name == "diverged"
            values = np.full(
                (*shape, self.epochs + 1),
                False if yes_or_no else np.nan,
                bool if yes_or_no else np.float32,
            )
            values_of[name] = ((*names, "epoch"), values)
            encoding[name] = {"chunks": (*cells, 1)}
        for name, size in self.pictures.items():
            empty = np.broadcast_to(np.float32(np.nan), (*shape, *size))
            values_of[name] = ((*names, "picture", "pixel"), empty)
            encoding[name] = {"chunks": (*cells, *size)}
        epochs = {"epoch": np.arange(self.epochs + 1)}
        dataset = xr.Dataset(values_of, self.axes | epochs).merge(extra).assign_attrs(extra.attrs)
        for name in dataset.variables:
            dataset[name].encoding = encoding.get(name, {}) | {
                "compressors": Zstd(level=1, checksum=True)
            }
        return dataset

    def _write(self, dataset: xr.Dataset, path: Path) -> None:
        dataset.to_zarr(path, mode="w", zarr_format=2, consolidated=True)

    def append(self, lanes: Sequence[Lane], epoch: int, record: Mapping[str, Any]) -> None:
        """Store an epoch's record of some lanes; each value of `record` has one entry a lane."""
        rows = [{name: _plain(record[name][i]) for name in self.records} for i in range(len(lanes))]
        lines = [
            json.dumps({"lane": lane, "epoch": epoch} | row | _mark()) + "\n"
            for lane, row in zip(lanes, rows, strict=True)
        ]
        files.append(self.log, "".join(lines))
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
        progress, problems, _ = self._look(list(lanes))
        return progress, problems

    def _look(self, lanes: Sequence[Lane]) -> tuple["Progress", list[str], list[tuple[Any, ...]]]:
        """Also the cells whose pictures are lost."""
        stores.check(self.results)
        logged, problems = self._read_log({self.key(lane) for lane in lanes})
        lost = self._lost_pictures(logged)
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
        return Progress(done, logged), problems, list(lost)

    def recover(self, lanes: Iterable[Lane]) -> tuple["Progress", list[str]]:
        """As `look`, and mended for a study that goes on.

        A torn last line of the log is cut off, pictures that cannot be read are emptied and the
        records of their runs taken out of the log, states
        of lanes that are finished are removed, and `results.zarr` is made to agree with the log.
        For one process, before the others look.
        """
        lanes = list(lanes)
        progress, problems, lost = self._look(lanes)
        if self.log.exists():
            os.truncate(self.log, self.log.read_bytes().rfind(b"\n") + 1)
        if lost:
            self._forget(lost)
        for cell in lost:
            place = tuple(v.index(x) for v, x in zip(self.axes.values(), cell, strict=False))
            for name in self.pictures:
                self._group()[name][place] = np.nan
        for lane in lanes:
            if progress.done[self.key(lane)] == self.epochs:
                self.path("states", lane).unlink(missing_ok=True)
        self._rewrite(progress.records)
        return progress, problems

    def _forget(self, cells: Sequence[tuple[Any, ...]]) -> None:
        """Take the records of cells out of the log: they are made again."""
        kept = []
        for line in self.log.read_bytes().splitlines(keepends=True):
            try:
                gone = self.key(json.loads(line)["lane"])[:CELL] in cells
            except (ValueError, LookupError, TypeError):
                gone = False  # not a record, which `look` names
            if not gone:
                kept.append(line)
        with files.whole(self.log) as file:
            file.write(b"".join(kept))

    def _stored_epoch(self, lane: Lane, last: int) -> tuple[int, list[str]]:
        """The epoch that a lane can go on from: that of its state, or 0."""
        try:
            epoch, _ = read_state(self.path("states", lane))
        except FileNotFoundError:
            return 0, []
        except ValueError as error:
            return 0, [f"{error}; this run starts again"]
        return epoch if epoch <= last else 0, []

    def _read_log(
        self, known: set[tuple[Any, ...]]
    ) -> tuple[dict[tuple[Any, ...], dict[int, Any]], list[str]]:
        """lane -> epoch -> record, without a torn last line, of the lanes that are known."""
        found: dict[tuple[Any, ...], dict[int, Any]] = {}
        problems: list[str] = []
        if not self.log.exists():
            return found, problems
        *lines, _torn = self.log.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                key, epoch = self.key(entry["lane"]), entry["epoch"]
                record = {name: entry[name] for name in self.records}
                wrong = self._wrong(entry, key in known)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                wrong = f"{type(error).__name__}: {error}"
            if wrong:
                problems.append(f"{self.log}, line {number}: not a record of this study ({wrong})")
            else:
                found.setdefault(key, {})[epoch] = record
        return found, problems

    def _wrong(self, entry: dict[str, Any], known: bool) -> str:
        """What makes a line no record of this study; "" if nothing does."""
        if not known:
            return "no run of its grid"
        if entry.get("run", "") != files.mark():
            return "of another study"
        epoch = entry["epoch"]
        if type(epoch) is not int or not 0 <= epoch <= self.epochs:
            return f"epoch {epoch!r}, not one of 0 to {self.epochs}"
        for name in self.records:
            value = entry[name]
            if name == "diverged":
                right = isinstance(value, bool)
            elif value is None:
                right = name not in MEASURED
            else:
                right = type(value) in (int, float) and math.isfinite(value)
            if not right:
                return f"{name} is {value!r}"
        return ""

    def _lost_pictures(self, logged: Mapping[tuple[Any, ...], Any]) -> dict[tuple[Any, ...], str]:
        """The cells that have pictures which cannot be read or, though a run has finished there
        that did not diverge, are missing; and why."""
        finished: dict[tuple[Any, ...], list[tuple[int, ...]]] = {}
        for key, records in logged.items():
            last = records.get(self.epochs)
            if last and not last.get("diverged"):
                place = tuple(v.index(x) for v, x in zip(self.axes.values(), key, strict=True))
                finished.setdefault(key[:CELL], []).append(place[CELL:])
        group, lost = self._group(), {}
        cells = list(self.axes.items())[:CELL]
        for place in itertools.product(*(range(len(values)) for _, values in cells)):
            for name in self.pictures:
                cell = tuple(v[i] for (_, v), i in zip(cells, place, strict=True))
                try:
                    values = group[name][place]
                    there = [values[run] for run in finished.get(cell, [])]
                    why = "missing" if np.isnan(there).any() else ""
                except Exception as error:  # whatever a decoder makes of damaged bytes
                    why = str(error)
                if why:
                    lost.setdefault(cell, "")
                    lost[cell] = lost[cell] or f"{name} of {', '.join(map(str, cell))}: {why}"
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


def _mark() -> dict[str, str]:
    return {"run": files.mark()} if files.mark() else {}


def _differs(found: xr.Dataset, empty: xr.Dataset, name: Any) -> str:
    """What of a variable is not as it was made, in words; "" if nothing is."""
    if name not in found.variables:
        return f"has no {name}"
    a, b = found[name], empty[name]
    if (a.dims, a.shape, a.dtype.kind) != (b.dims, b.shape, b.dtype.kind):
        return f"{name} is of other dimensions"
    if "chunks" in b.encoding:
        same = tuple(a.encoding["chunks"]) == tuple(b.encoding["chunks"])
    elif b.dtype.kind == "f":
        same = np.allclose(a.values, b.values, rtol=0, atol=1e-4)
    else:
        same = np.array_equal(a.values, b.values)
    return "" if same else f"{name} is not what it was"


def _plain(value: Any) -> Any:
    """A scalar for JSON: float32 as it is, and null for what was not measured."""
    value = np.asarray(value).item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
