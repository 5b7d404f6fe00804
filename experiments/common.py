"""What every experiment shares: options, errors, records and the last line of standard output."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Bad input ends the program with its message alone; only for what precedes the long work."""
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def at_least(minimum: int, **values: int | None) -> None:
    """Raises ValueError for a value below the minimum; None is left to its default."""
    for name, value in values.items():
        if value is not None and value < minimum:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} {value}: expected {minimum} or more")


def options_of(config: Any, *, without: tuple[str, ...] = ("out", "fresh")) -> dict[str, Any]:
    """The options that decide the numbers, ready for JSON."""
    options = dataclasses.asdict(config)
    return {name: value for name, value in options.items() if name not in without}


def make_cpu_devices(count: int) -> None:
    """Make so many devices of a CPU; only before jax is used for the first time."""
    at_least(1, cpu_devices=count)
    if count > 1:
        jax.config.update("jax_num_cpu_devices", count)


def digest(options: dict[str, Any]) -> str:
    """Eight characters that name a set of options."""
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Make a folder, and keep other programs of ours out of it meanwhile.

    Raises: ValueError if one is at work there.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        lock = filelock.FileLock(out / ".lock").acquire(timeout=0)
    except filelock.Timeout as error:
        raise ValueError(f"--out {out}: another program writes there; wait for its end") from error
    with lock:
        yield


@contextlib.contextmanager
def claim(out: Path, options: dict[str, Any], *, fresh: bool) -> Iterator[None]:
    """Make `out` the folder of these options, and this program's alone; start anew if `fresh`.

    Only files that an experiment of ours wrote are removed. Raises: ValueError, see `agree` and
    `alone_in`.
    """
    agree(out, options, fresh=fresh)
    with alone_in(out):
        marker = out / "options.json"
        if fresh and marker.exists():
            _remove_run(out)
        write(marker, json.dumps(options, indent=1))
        yield


def agree(out: Path, options: dict[str, Any], *, fresh: bool) -> None:
    """Raises ValueError if `out` is a file, or unless `fresh` the folder of a run with other
    options, naming the differences."""
    marker = out / "options.json"
    if marker.exists() and not fresh:
        stored = json.loads(marker.read_text())
        current = json.loads(json.dumps(options))
        names = sorted(set(stored) | set(current))
        changed = [
            f"{name}: {stored.get(name)!r} there, {current.get(name)!r} asked for"
            for name in names
            if stored.get(name) != current.get(name)
        ]
        if changed:
            raise ValueError(
                f"{out} holds a run with other options ({'; '.join(changed)}); choose another "
                "--out, or --fresh to start it anew"
            )
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: a folder is needed, this is a file")


def _remove_run(out: Path) -> None:
    for name in ("latest", "best", "results.zarr", "states", "parameters"):
        shutil.rmtree(out / name, ignore_errors=True)
    for pattern in ("*.json", "*.jsonl", "*.png", "summary.md"):
        for path in out.glob(pattern):
            path.unlink()


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file with one JSON object a line; none where there is no file.

    A last line that is not whole is what an interrupted program left: it is dropped, and cut from
    the file, so that the next record begins a line of its own.
    Raises: ValueError for another line that is not JSON.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(
                    f"{path}, line {number}: not a record in JSON ({error}); mend the line, or "
                    "start anew with --fresh"
                ) from error
    if lines and not (len(found) == len(lines) and lines[-1].endswith(b"\n")):
        keep(path, found)
    return found


def append(path: Path, record: dict[str, Any]) -> None:
    """Write one record more, see `records`."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def keep(path: Path, kept: list[dict[str, Any]]) -> None:
    """Make these the only records of a file."""
    write(path, "".join(json.dumps(record) + "\n" for record in kept))


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """A record of NumPy scalars as JSON values; what was not measured (NaN) becomes null."""

    def value(x: Any) -> Any:
        x = x.item() if isinstance(x, np.ndarray | np.generic) else x
        return None if isinstance(x, float) and not np.isfinite(x) else x

    return {name: value(x) for name, x in record.items()}


def line(cells: Iterable[str]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"


def last_line(numbers: dict[str, Any]) -> None:
    """The headline numbers: one JSON object, the last line of standard output."""
    print(json.dumps(plain(numbers)), flush=True)
