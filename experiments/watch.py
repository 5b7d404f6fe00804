"""Look at a study that is under way, or finished: `python -m experiments.watch DIR`.

Prints the table and draws the figures again from what is on disk; it never disturbs the study.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from deqbilevel import learning, results
from deqbilevel.commands import command, common, options
from deqbilevel.disk.files import FileError
from experiments import report

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Watch:
    """The table and figures of a study, from what it has stored so far."""

    folder: Annotated[Path, tyro.conf.Positional, options.folder("the --out of a study")]
    """The study's --out."""
    every: Annotated[float | None, options.number(above=0), options.default("once")] = None
    """Look again after so many seconds, until the study has finished."""


@command.checked
def main(config: Watch) -> dict[str, Any]:
    """Show the study, once or until it has finished; returns how far it is."""
    with common.clear_errors():
        dataset = _read(config.folder)
    while True:
        report.present(dataset, results.summary(dataset), config.folder)
        numbers = _how_far(dataset)
        if config.every is None or numbers["finished"] == numbers["runs"]:
            return numbers | {"out": str(config.folder)}
        time.sleep(config.every)
        dataset = _read(config.folder)


def _read(folder: Path) -> "xr.Dataset":
    """The results of a study. Raises: ValueError where a part of them is missing."""
    dataset = results.read(folder)
    needed = (*learning.RECORDS, *results.PICTURES, "truth")
    missing = [name for name in needed if name not in dataset]
    missing += ["their caption"] if "caption" not in dataset.attrs else []
    if missing:
        raise FileError(
            f"{folder}: its results have lost {', '.join(missing)}; repeat the study's command, "
            "which restores them"
        )
    return dataset


def _how_far(dataset: "xr.Dataset") -> dict[str, Any]:
    """Runs, how many have started, finished and diverged, and the work that was done."""
    exists = dataset.test_loss.notnull()
    needed, made = dataset.needed_evaluations.sum(), dataset.made_evaluations.sum()
    crossed = np.prod([dataset.sizes[d] for d in results.others(dataset)])
    return {
        "runs": int(dataset.attrs.get("runs", crossed)),
        "started": int(exists.any("epoch").sum()),
        "finished": int(results.finished(dataset).sum()),
        "diverged": int(results.final(dataset, "diverged").sum()),
        "epochs": int(exists.sum()),
        "evaluations": float(needed),
        "useful_work": float(needed / made),
    }


if __name__ == "__main__":
    command.run(Watch, main)
