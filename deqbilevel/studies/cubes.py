"""The records and pictures of a study as labelled arrays, `results.zarr`, as it is written.

A dimension for each axis and `epoch`; xarray opens it lazily, also while the study runs. How it is
read, for tables and figures, is in `results`.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lazy_loader
import numpy as np
from numcodecs import Zstd

from deqbilevel.disk import files, stores
from deqbilevel.disk.files import FileError
from deqbilevel.studies.logs import Key

if TYPE_CHECKING:
    import xarray as xr
    import zarr
else:
    xr = lazy_loader.load("xarray")
    zarr = lazy_loader.load("zarr")

CELL = 3
"""Axes, counted from the first, whose every value has files of its own in `results.zarr`."""


class Cube(NamedTuple):
    """The store, and what it is to hold; the fields are those of `storage.Storage`."""

    path: Path
    axes: dict[str, list[Any]]
    epochs: int
    records: tuple[str, ...]
    pictures: dict[str, tuple[int, int]]

    def _places(self, lanes: Sequence[Mapping[str, Any]]) -> tuple[list[int], ...]:
        """Where the lanes stand along each axis."""
        return tuple([values.index(x[name]) for x in lanes] for name, values in self.axes.items())

    def create(self, extra: xr.Dataset) -> None:
        """Make it with nothing in it but the coordinates and `extra`."""
        self._write(self._empty(extra), self.path)

    def ready(self, extra: xr.Dataset) -> str:
        """Make it where it is missing, and anew where it is damaged: how, in words; "" if not.

        The records are then to be written again; of the pictures all files are taken over.
        Raises: FileError for what no study wrote there.
        """
        empty = self._empty(extra)
        if not self.path.exists():
            self._write(empty, self.path)
            return ""
        damage = self._damage(empty)
        if not damage:
            return ""
        theirs = stores.strangers(self.path)
        if theirs:
            raise FileError(
                f"{self.path}: {damage}, and is to be made anew, but holds {', '.join(theirs)}, "
                "which no study wrote; move it away"
            )
        fresh = self.path.with_name(self.path.name + ".new")
        if fresh.exists():
            shutil.rmtree(fresh)
        self._write(empty, fresh)
        for name in self.pictures:
            for path in (self.path / name).glob("[0-9]*"):
                os.replace(path, fresh / name / path.name)
        shutil.rmtree(self.path)
        os.replace(fresh, self.path)
        files.sync(self.path.parent)
        return damage

    def _damage(self, empty: xr.Dataset) -> str:
        """What is not as it was made, in words; "" if nothing is."""
        try:
            stores.check(self.path)
            with xr.open_zarr(self.path, chunks=None) as found:
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

    def append(
        self, lanes: Sequence[Mapping[str, Any]], epoch: int, record: Mapping[str, Any]
    ) -> None:
        """Store an epoch's record of some lanes; each value of `record` has one entry a lane."""
        group, places = self._group(), self._places(lanes)
        for name in self.records:
            values = np.asarray(record[name], group[name].dtype)
            group[name].set_coordinate_selection((*places, [epoch] * len(lanes)), values)

    def append_pictures(
        self, lanes: Sequence[Mapping[str, Any]], pictures: Mapping[str, np.ndarray]
    ) -> None:
        """Store the pictures of finished lanes, [lanes, pictures, pixels]; before their record."""
        group, places = self._group(), self._places(lanes)
        for name in self.pictures:
            for i, place in enumerate(zip(*places, strict=True)):
                group[name][place] = pictures[name][i]

    def lost_pictures(self, logged: Mapping[Key, Any]) -> dict[Key, str]:
        """The cells that have pictures which cannot be read or, though a run has finished there
        that did not diverge, are missing; and why."""
        finished: dict[Key, list[tuple[int, ...]]] = {}
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

    def empty_pictures(self, cells: Iterable[Key]) -> None:
        """Make the pictures of cells those of runs that have not finished."""
        for cell in cells:
            place = tuple(v.index(x) for v, x in zip(self.axes.values(), cell, strict=False))
            for name in self.pictures:
                self._group()[name][place] = np.nan

    def rewrite(self, logged: Mapping[Key, Mapping[int, Any]]) -> None:
        """Make the records those of the log."""
        group, lanes = self._group(), [dict(zip(self.axes, k, strict=True)) for k in logged]
        found = [
            ((*place, epoch), record)
            for place, records in zip(
                zip(*self._places(lanes), strict=True), logged.values(), strict=True
            )
            for epoch, record in records.items()
        ]
        for name in self.records:
            values = np.full(group[name].shape, group[name].fill_value, group[name].dtype)
            for place, record in found:
                values[place] = np.nan if record[name] is None else record[name]
            group[name][...] = values

    def _group(self) -> Any:
        return zarr.open_group(self.path, mode="r+", zarr_format=2)


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
