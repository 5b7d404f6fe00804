"""The log of a study, `metrics.jsonl`: a line of JSON for each lane and epoch.

It is only ever appended to, but where a run has to be made again; see `storage`.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deqbilevel.disk import files

Key = tuple[Any, ...]
"""A lane's values along the axes."""

MEASURED = ("test_loss", "needed_evaluations", "made_evaluations")
"""Records that every epoch has as finite numbers; others may be null."""


class Log(NamedTuple):
    """The file, and what a line of it holds."""

    path: Path
    axes: tuple[str, ...]
    epochs: int
    records: tuple[str, ...]
    """The names of what is recorded for each epoch; `diverged` is a yes or no."""

    def key(self, lane: Mapping[str, Any]) -> Key:
        """A lane as a dictionary's key."""
        return tuple(lane[axis] for axis in self.axes)

    def append(
        self, lanes: Sequence[Mapping[str, Any]], epoch: int, record: Mapping[str, Any]
    ) -> None:
        """Store an epoch's record of some lanes; each value of `record` has one entry a lane."""
        rows = [{name: _plain(record[name][i]) for name in self.records} for i in range(len(lanes))]
        lines = [
            json.dumps({"lane": lane, "epoch": epoch} | row | _mark()) + "\n"
            for lane, row in zip(lanes, rows, strict=True)
        ]
        files.append(self.path, "".join(lines))

    def read(self, known: set[Key]) -> tuple[dict[Key, dict[int, Any]], list[str]]:
        """lane -> epoch -> record, without a torn last line, of the lanes that are known; and what
        is none, in words."""
        found: dict[Key, dict[int, Any]] = {}
        problems: list[str] = []
        if not self.path.exists():
            return found, problems
        *lines, _torn = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                key, epoch = self.key(entry["lane"]), entry["epoch"]
                record = {name: entry[name] for name in self.records}
                wrong = self._wrong(entry, key in known)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                wrong = f"{type(error).__name__}: {error}"
            if wrong:
                problems.append(f"{self.path}, line {number}: not a record of this study ({wrong})")
            else:
                found.setdefault(key, {})[epoch] = record
        return found, problems

    def cut(self) -> None:
        """Take off a torn last line."""
        if self.path.exists():
            os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)

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

    def forget(self, chosen: Callable[[Key], bool]) -> None:
        """Take the records of the lanes whose keys are chosen out: they are made again."""
        kept = []
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                gone = chosen(self.key(json.loads(line)["lane"]))
            except (ValueError, LookupError, TypeError):
                gone = False  # not a record, which `read` names
            if not gone:
                kept.append(line)
        with files.whole(self.path) as file:
            file.write(b"".join(kept))


def _mark() -> dict[str, str]:
    return {"run": files.mark()} if files.mark() else {}


def _plain(value: Any) -> Any:
    """A scalar for JSON: float32 as it is, and null for what was not measured."""
    value = np.asarray(value).item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
