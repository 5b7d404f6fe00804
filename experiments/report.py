"""What a study shows of itself: table, figures, and the page that holds them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqbilevel import plots, results
from deqbilevel.commands import folders
from deqbilevel.commands.drawing import draw
from deqbilevel.data import Images
from deqbilevel.studies import grids
from deqbilevel.studies.storage import Lane

if TYPE_CHECKING:
    import xarray as xr

FEW = "{} training images, where [REB] has the 60,000 of MNIST: --data idx:DIR"
"""What the paper's preset says where it has fewer."""


def present(
    dataset: xr.Dataset, rows: list[dict[str, Any]], out: Path, *, figures: bool = True
) -> None:
    """Print the table of a study, and write its summary, with the figures unless unwanted."""
    table, warnings = results.table(rows), results.warnings(rows)
    print(table, flush=True)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    drawn = plots.drawings(dataset) if figures else {}
    there = [name for name, figure in drawn.items() if draw(out / f"{name}.png", figure)]
    text = _summary(dataset.attrs["caption"], table, warnings, there)
    folders.write(out / "summary.md", text)


def caption(options: dict[str, Any], grid: list[Lane], images: Images) -> str:
    """What was run on what, in a sentence."""

    def listed(values: Any) -> str:
        if isinstance(values, grids.Range):
            return f"in [{values.low:g}, {values.high:g}]" + " (logarithmic)" * values.log
        return "{" + ", ".join(f"{v}" for v in values) + "}"

    axes = {name: options[f"{name}s"] for name in results.AXES[2:5] if f"{name}s" in options}
    scalars = ", ".join(f"{name} {listed(x)}" for name, x in (axes | options["axes"]).items())
    also = ", and those of Figures 2 to 4 of [REB]" * bool(options["captions"])
    few = options["preset"] == "paper" and len(images.train) < 60_000
    note = f" ({FEW.format(len(images.train))})" * few
    return (
        f"{len(grid)} runs: {scalars}, {listed(options['activations'])}{also}; setting "
        f"{options['setting']} in {options['precision']}, epochs: {options['epochs']}, on "
        f"{len(images.train)} images, tested on {len(images.test)}; {images.source}{note}"
    )


def _summary(caption: str, table: str, warnings: list[str], figures: list[str]) -> str:
    nothing = "Nothing useful was learned:\n\n" + "\n".join(f"- {x}" for x in warnings) + "\n\n"
    pictures = "\n\n".join(f"![{name}]({name}.png)" for name in figures)
    return (
        "# Deep equilibrium models versus bilevel learning\n\n"
        f"{caption}.\n\nTest loss is the mean squared error on images in [-1, 1] after the last "
        "epoch. Median, quartiles and best are over the runs that did not diverge and ended under "
        "the threshold. Before the models stands what doing nothing gives.\n\n"
        f"{table}\n\n{nothing * bool(warnings)}{pictures}\n"
    )
