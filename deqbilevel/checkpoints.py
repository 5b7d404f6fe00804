"""Checkpoints on disk, through orbax: a run that was interrupted goes on from its last epoch.

The latest and the best state are kept in folders of their own, because one orbax manager with both
rules may delete the newest. A checkpoint appears whole or not at all.
"""

from pathlib import Path
from typing import Any, TypeVar

import orbax.checkpoint as ocp

Tree = TypeVar("Tree")


def _manager(folder: str | Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
    return ocp.CheckpointManager(Path(folder).absolute(), options=options)


def save(folder: str | Path, step: int, tree: Any) -> None:
    """Write a pytree of arrays as checkpoint `step` of a folder; older ones are then removed."""
    with _manager(folder) as manager:
        manager.save(step, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()


def latest_step(folder: str | Path) -> int | None:
    """The number of the newest checkpoint of a folder; None where there is none."""
    if not Path(folder).is_dir():
        return None
    with _manager(folder) as manager:
        return manager.latest_step()


def restore(folder: str | Path, like: Tree) -> Tree:
    """The newest checkpoint of a folder, with the structure, shapes and dtypes of `like`.

    Raises: FileNotFoundError if the folder holds no checkpoint.
    """
    step = latest_step(folder)
    if step is None:
        raise FileNotFoundError(f"{folder}: holds no checkpoint; train with --out first")
    with _manager(folder) as manager:
        return manager.restore(step, args=ocp.args.StandardRestore(like))
