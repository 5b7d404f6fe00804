"""Look at a study that is under way, or finished: `python -m experiments.watch DIR`.

Prints the table and draws the figures again from what is on disk; it never disturbs the study.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
import xarray as xr

from deqbilevel import results
from experiments import common, report


@dataclass(frozen=True)
class Watch:
    """The table and figures of a study, from what it has stored so far."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The study's --out."""
    every: float | None = None
    """Look again after so many seconds, until the study has finished; by default once."""


def main(config: Watch) -> dict[str, Any]:
    """Show the study, once or until it has finished; returns how far it is."""
    with common.clear_errors():
        if config.every is not None and config.every <= 0:
            raise ValueError(f"--every {config.every}: expected seconds, above 0")
        dataset = results.read(config.folder)
    while True:
        report.present(dataset, results.summary(dataset), config.folder)
        numbers = _how_far(dataset)
        if config.every is None or numbers["finished"] == numbers["runs"]:
            return numbers | {"out": str(config.folder)}
        time.sleep(config.every)
        dataset = results.read(config.folder)


def _how_far(dataset: xr.Dataset) -> dict[str, Any]:
    """Runs, how many have started, finished and diverged, and the work that was done."""
    exists = dataset.test_loss.notnull()
    needed, made = dataset.needed_evaluations.sum(), dataset.made_evaluations.sum()
    return {
        "runs": int(dataset.attrs["runs"]),
        "started": int(exists.any("epoch").sum()),
        "finished": int(results.finished(dataset).sum()),
        "diverged": int(results.final(dataset, "diverged").sum()),
        "epochs": int(exists.sum()),
        "evaluations": float(needed),
        "useful_work": float(needed / made),
    }


if __name__ == "__main__":
    common.last_line(main(tyro.cli(Watch)))
