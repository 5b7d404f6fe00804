"""Runs at scale: a grid of settings, as lanes that train at once and go on from what is on disk.

From the bottom up: `logs`, `cubes` and `storage` (the folder of a study), `grids` (its lanes),
`study` (what they share), `keeping` (what stays of them), `running`, and `plans` (what it takes).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqbilevel.studies.keeping import parameters
    from deqbilevel.studies.running import run_group
    from deqbilevel.studies.study import Study

__all__ = ["Study", "parameters", "run_group"]

HOME = {"Study": "study", "parameters": "keeping", "run_group": "running"}


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: what only reads a grid needs no training."""
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOME[name]}"), name)
