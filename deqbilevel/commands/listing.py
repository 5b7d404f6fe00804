"""Whose a file in a run's folder is: a run lists what it writes before that appears.

`files.txt` holds a line for each: a path from the folder, or FOLDER/KIND, see KINDS. What is not on
the list is not the run's, and is never removed. A link is neither: it would lead what is written or
removed elsewhere.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from deqbilevel.disk import stores
from deqbilevel.disk.files import whole

LIST, LOCK = "files.txt", ".lock"

HEAD = "# What a run of deqbilevel writes here, and removes when it is started anew."

KINDS = {
    "<checkpoint>": r"\d+(\.orbax-checkpoint-tmp(-\d+)?)?"
    r"(/default(\.orbax-checkpoint-tmp(-\d+)?)?|/descriptor|/metrics)?(/array_metadatas)?"
    r"(/ocdbt\.process_\d+)?(/d)?"
    r"/(_CHECKPOINT_METADATA|commit_success\.txt|_METADATA|_sharding|_strings\.json|process_\d+"
    r"|(manifest|checkpoint)(\.ocdbt)?(\.__lock)?|[0-9a-f]{32}(\.__lock)?|descriptor\.pbtxt)"
    r"|\.probe\.\d+",
    "<zarr>": stores.FILES,
    "<lanes>": r"[^/]*-[0-9a-f]{6}\.npz",
}
"""What a folder on the list holds, by the names that orbax, zarr and `storage` give."""


def found(out: Path) -> list[str]:
    """Every file below a folder, by its path from there, without the lock.

    Raises: ValueError for a link.
    """
    paths = []
    for folder, folders, files in os.walk(out):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                raise ValueError(
                    f"--out {out}: {path.relative_to(out)} is a link, and a run's folder holds "
                    "none; remove it, or choose another --out"
                )
            if name in files:
                paths.append(path.relative_to(out).as_posix())
    return sorted(path for path in paths if path != LOCK)


def entries(out: Path) -> list[str]:
    """The lines of the folder's list; none where there is no list of ours."""
    path = out / LIST
    if not path.is_file():
        return []
    head, *lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True) or [""]
    if head.rstrip() != HEAD:
        return []
    return [HEAD, *(line.rstrip("\n") for line in lines if line.endswith("\n"))]


def is_ours(path: str, listed: Sequence[str]) -> bool:
    """Whether a file is one of those on the list, or what an interruption left of one."""
    path = re.sub(r"(?<=[^/])\.partial$", "", path)
    path = re.sub(r"(^|/)\.([^/]+)\.\d+\.part$", r"\1\2", path)
    if path in listed:
        return True
    for entry in listed:
        folder, _, kind = entry.rpartition("/")
        inside = path.removeprefix(f"{folder}/")
        if kind in KINDS and inside != path and re.fullmatch(KINDS[kind], inside):
            return True
    return False


def folders_of(listed: Sequence[str]) -> list[str]:
    """The folders at the top that the run makes."""
    return sorted({entry.split("/")[0] for entry in listed[1:] if "/" in entry})


def will_write(out: Path, names: Sequence[str]) -> None:
    """Put on the list what is about to be written, in a folder that is made if need be.

    Raises: ValueError for a file that is there and is not the run's.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: a folder is needed, this is a file")
    out.mkdir(parents=True, exist_ok=True)
    listed = entries(out)
    new = [name for name in names if name not in listed]
    places = {name: out / name.partition("<")[0] for name in new}
    theirs = [name for name, path in places.items() if path.exists() or path.is_symlink()]
    if theirs:
        raise ValueError(
            f"--out {out}: holds {named(theirs)}, which is to be written and which no run wrote; "
            "move it away, or choose another --out"
        )
    if not listed and (out / LIST).exists():
        raise ValueError(f"--out {out}: {LIST} is not the list of a run; move it away")
    if new or not listed:
        start(out, [*listed[1:], *new])


def start(out: Path, names: Sequence[str]) -> None:
    """Make these the list."""
    with whole(out / LIST) as file:
        file.write("".join(f"{line}\n" for line in (HEAD, *names)).encode())


def named(paths: Sequence[str]) -> str:
    """Some paths, and how many more there are."""
    shown = ", ".join(paths[:5])
    return shown if len(paths) <= 5 else f"{shown} and {len(paths) - 5} more"
