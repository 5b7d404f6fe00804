"""A run's folder: who may write there, what belongs to the run, and what does not.

    options.json   the options that decide the numbers; without it nothing there counts
    inputs.json    what was read: digests of the loaded images and of the files that were given
    files.txt      what the run writes, a line each, listed before it appears
    .lock          held by the program that is at work there

`options.json` is the last of these to appear and the first to go, so that whatever an interruption
leaves is taken for what it is. What is not on the list is not ours: it is never removed.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np

from deqbilevel import data
from deqbilevel.commands import listing
from deqbilevel.commands.listing import LIST, LOCK, named
from deqbilevel.commands.schema import fault
from deqbilevel.disk.files import FileError, marked, sync, whole

MARKER, INPUTS = "options.json", "inputs.json"

LENGTHS = ("epochs", "iterations")
"""Options that say how long a run is."""


@contextlib.contextmanager
def claim(
    out: Path | None,
    name: str,
    options: Mapping[str, Any],
    *,
    files: Sequence[str],
    inputs: Mapping[str, Any] | None = None,
    sources: Mapping[str, Path | None] | None = None,
    fresh: bool,
) -> Iterator[Path]:
    """Make a folder a run's, and this program's alone; start anew if `fresh`.

    Args:
        out: what was asked for; None: `name` below runs/.
        files: what the run writes: see `listing`.
        inputs: digests of what was read, by name: a run goes on over the same alone.
        sources: option -> what it reads, which has to be apart from the folder.
        fresh: remove what a run has written there, by its list, and nothing else.

    What the disk refuses, and what is found to be broken there, ends the program in one line.

    Raises: ValueError, see `agree`, and if another program is at work there.
    """
    given = dict(inputs or {})
    folder = Path("runs") / name if out is None else out
    _apart(folder, sources or {}, chosen=out is not None)
    agree(folder, options, given, fresh=fresh)
    with alone_in(folder):
        agree(folder, options, given, fresh=fresh)
        if fresh:
            _remove_run(folder)
        listing.will_write(folder, files)
        if not (folder / MARKER).exists():
            write(folder / INPUTS, json.dumps(given, indent=1))
            write(folder / MARKER, json.dumps(options, indent=1))
        try:
            with marked(mark(options, given)):
                yield folder
        except (OSError, FileError) as error:
            where = "" if str(folder) in str(error) else f"{folder}: "
            sys.exit(
                f"error: {where}{error}. Everything that was stored before is there: mend that, "
                "make room if need be, and repeat the command"
            )


def claim_over(
    images: data.Images,
    config: Any,
    name: str,
    options: Mapping[str, Any],
    files: Sequence[str],
    *,
    read: Mapping[str, Any] | None = None,
    sources: Mapping[str, Path | None] | None = None,
) -> AbstractContextManager[Path]:
    """`claim` for a command that reads the images of its --data, and what is in `read` (see
    `given`) from further `sources`."""
    return claim(
        config.out,
        name,
        options,
        files=files,
        inputs=data.fingerprint(images) | given(read or {}),
        sources={"--data": data.place(config.data), **(sources or {})},
        fresh=config.fresh,
    )


def growing(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that tell a run from others: without its length where the learning rate does not
    depend on it, so that the same run can be made longer."""
    free = options.get("schedule") == "constant"
    return {name: x for name, x in options.items() if not (free and name in LENGTHS)}


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Make a folder, and keep other programs of ours out of it meanwhile.

    Raises: ValueError if one is at work there.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        lock = filelock.FileLock(out / LOCK).acquire(timeout=0)
    except filelock.Timeout as error:
        raise ValueError(f"--out {out}: another program writes there; wait for its end") from error
    with lock:
        yield


def agree(out: Path, options: Mapping[str, Any], inputs: Mapping[str, Any], *, fresh: bool) -> None:
    """Nothing is changed. Raises ValueError where a run of these options cannot begin or go on:

    the folder is a file, holds a link or something that no run wrote, holds a run of other options
    or over other data (unless `fresh`), or what is left of a run without its options.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: a folder is needed, this is a file")
    listed, others = listing.entries(out), strangers(out)
    marked = (out / MARKER).exists()
    if others and not listed:
        raise ValueError(
            f"--out {out}: holds {named(others)}, which no run wrote (or one of a version that "
            "kept no list of its files); choose another --out, or move them away"
        )
    if fresh:
        tops = tuple(f"{top}/" for top in listing.folders_of(listed))
        below = [path for path in others if path.startswith(tops)]
        if below:
            raise ValueError(
                f"--out {out}: holds {named(below)}, which no run wrote, in a folder that is to "
                "be removed; move it away, then repeat"
            )
    elif marked:
        _agree_on(out, options, inputs)
    elif tops := sorted(
        {p.split("/")[0] for p in listing.found(out) if listing.is_ours(p, listed)}
    ):
        raise ValueError(
            f"--out {out}: holds {named(tops)} of a run without its {MARKER}, as an "
            "interrupted --fresh leaves it; --fresh removes them and starts anew"
        )


def _agree_on(out: Path, options: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Raises ValueError, naming what differs from the stored options and inputs."""
    stored, current = stored_options(out), json.loads(json.dumps(options))
    changed = [
        f"{name}: {stored.get(name)!r} there, {current.get(name)!r} asked for"
        for name in sorted(set(stored) | set(current))
        if stored.get(name) != current.get(name)
    ]
    if changed:
        longer = [n for n in LENGTHS if stored.get(n) != current.get(n) and "schedule" in current]
        grows = "".join(f"--{n} may grow where it began with --schedule constant; " for n in longer)
        raise ValueError(
            f"{out} holds a run with other options ({'; '.join(changed)}); {grows}choose another "
            "--out, or --fresh to start it anew"
        )
    read = data.changes(_object(out / INPUTS), json.loads(json.dumps(inputs)))
    if read:
        raise ValueError(
            f"{out} holds a run over other data ({'; '.join(read)}); give it what it began with, "
            "choose another --out, or --fresh to start it anew"
        )


def stored_options(out: Path) -> dict[str, Any]:
    """The options of the run in a folder. Raises: FileError."""
    return _object(out / MARKER)


def identity(out: Path) -> str:
    """The mark of the run in a folder; "" where there is none. Raises: FileError."""
    return mark(stored_options(out), _object(out / INPUTS)) if (out / MARKER).exists() else ""


def mark(options: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """Eight characters that name a run's options and inputs.

    They are stored with what the run records, so that what another run did is not taken for it.
    """
    text = json.dumps([options, inputs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def strangers(out: Path) -> list[str]:
    """What a folder holds that its run does not write."""
    listed = listing.entries(out)
    known = _bookkeeping(listed)
    return [p for p in listing.found(out) if p not in known and not listing.is_ours(p, listed)]


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with whole(path) as file:
        file.write(text.encode())


def fingerprint(tree: Any) -> str:
    """What tells one pytree of arrays from another: their names, types, shapes and values."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def given(read: Mapping[str, Any]) -> dict[str, str]:
    """Digests of pytrees of arrays by name, without those that are None."""
    return {name: fingerprint(tree) for name, tree in read.items() if tree is not None}


def stored(path: Path, schema: dict[str, Any]) -> dict[str, Any]:
    """What a run has stored in a file of JSON, if of that schema (`records.Log`).

    Raises: FileError.
    """
    found = _object(path)
    if wrong := fault(found, schema):
        raise FileError(f"{path}: {wrong}; start anew with --fresh")
    return found


def _apart(out: Path, sources: Mapping[str, Path | None], *, chosen: bool) -> None:
    """Raises ValueError where a run would write among what it reads."""
    own = out.resolve()
    for option, path in sources.items():
        read = None if path is None else path.expanduser().resolve()
        if read is None or not read.exists():
            continue
        # Below runs/ nothing is read as data, wherever the program is started.
        if own == read or own in read.parents or (chosen and read in own.parents):
            raise ValueError(
                f"--out {out}: is, holds or lies in {path}, which {option} reads; choose a folder "
                "apart from it"
            )


def _remove_run(out: Path) -> None:
    """Remove the run's files, its options first; what is not on its list stays."""
    listed = listing.entries(out)
    (out / MARKER).unlink(missing_ok=True)
    sync(out)
    for path in listing.found(out):
        if listing.is_ours(path, listed):
            (out / path).unlink()
    for top in listing.folders_of(listed):
        for path, _, _ in os.walk(out / top, topdown=False):
            os.rmdir(path)
    (out / INPUTS).unlink(missing_ok=True)
    if listed:
        listing.start(out, ())


def _bookkeeping(listed: Sequence[str]) -> set[str]:
    """The names of what this module writes; a user's own are not, where there is no list."""
    names = (MARKER, INPUTS, LIST) if listed else ()
    return {f"{LIST}.partial"} | {name + end for name in names for end in ("", ".partial")}


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FileError(
            f"{path}: cannot be read ({error}); choose another --out, or start anew with --fresh"
        ) from error
    if not isinstance(found, dict):
        raise FileError(
            f"{path}: not what a run writes; choose another --out, or start anew with --fresh"
        )
    return found
