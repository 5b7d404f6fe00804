"""Which frequencies are sampled."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from deqbilevel.plots.base import new_figure
from deqbilevel.plots.greys import bar, blank, show
from deqbilevel.plots.style import LINE, WIDTH, styled

COLUMNS = 4
"""Masks of a line, so that each sample can be seen."""


@styled
def mask_figure(masks: Mapping[str, Float[np.ndarray, "height width"]], caption: str) -> Figure:
    """Weights of frequencies in [0, 1] under their labels, the mean in the middle: 1 is white.

    Raises:
        ValueError: there is none.
    """
    if not masks:
        raise ValueError("masks: there is none to draw")
    columns = min(COLUMNS, len(masks))
    lines = -(-len(masks) // columns)
    height, width = next(iter(masks.values())).shape
    side = (WIDTH - 0.6) / COLUMNS
    high = side * float(np.clip(height / width, 0.5, 2))
    heads = LINE * (1 + max(name.count("\n") for name in masks))
    figure = new_figure(side * columns + 0.6, lines * (high + heads + 0.1), caption, "compressed")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (name, mask) in zip(grid, masks.items(), strict=False):
        image = show(axes, np.asarray(mask, float), (0.0, 1.0))
        axes.set_title(name)
    for axes in grid[len(masks) :]:
        blank(axes)
    bar(figure, image, grid, "s", location="right", shrink=0.5)
    return figure
