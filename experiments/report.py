"""What a study shows of itself: table, figures, and the page that holds them."""

from pathlib import Path
from typing import Any

import xarray as xr

from deqbilevel import grids, plots, results
from deqbilevel.data import Images
from deqbilevel.storage import Lane
from experiments import folders
from experiments.drawing import draw


def present(dataset: xr.Dataset, rows: list[dict[str, Any]], out: Path) -> None:
    """Print the table of a study, and draw its figures and summary."""
    table = results.table(rows)
    print(table, flush=True)
    drawn = plots.drawings(dataset)
    there = [name for name, figure in drawn.items() if draw(out / f"{name}.png", figure)]
    folders.write(out / "summary.md", _summary(dataset.attrs["caption"], table, there))


def caption(options: dict[str, Any], grid: list[Lane], images: Images) -> str:
    """What was run on what, in a sentence."""

    def listed(values: Any) -> str:
        if isinstance(values, grids.Range):
            return f"in [{values.low:g}, {values.high:g}]" + " (logarithmic)" * values.log
        return "{" + ", ".join(f"{v}" for v in values) + "}"

    axes = {name: options[f"{name}s"] for name in results.AXES[2:5] if f"{name}s" in options}
    scalars = ", ".join(f"{name} {listed(x)}" for name, x in (axes | options["axes"]).items())
    return (
        f"{len(grid)} runs: {scalars}, {listed(options['activations'])}; setting "
        f"{options['setting']}, epochs: {options['epochs']}, on {len(images.train)} images, tested "
        f"on {len(images.test)}; {images.source}"
    )


def _summary(caption: str, table: str, figures: list[str]) -> str:
    pictures = "\n\n".join(f"![{name}]({name}.png)" for name in figures)
    return (
        "# Deep equilibrium models versus bilevel learning\n\n"
        f"{caption}.\n\nTest loss is the mean squared error on images in [-1, 1] after the last "
        "epoch. Median, quartiles and best are over the runs that did not diverge and ended under "
        f"the threshold.\n\n{table}\n\n{pictures}\n"
    )
