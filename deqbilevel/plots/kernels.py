"""Convolution kernels and learned filters, before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from deqbilevel.plots.base import new_figure
from deqbilevel.plots.greys import bar, blank, show
from deqbilevel.plots.style import LINE, WIDTH, styled

Kernels = Float[np.ndarray, "kernels rows columns"]
Stage = tuple[Kernels, Float[np.ndarray, " kernels"]]


@styled
def kernel_figure(stages: Mapping[str, Kernels], caption: str, columns: int = 15) -> Figure:
    """Kernels of each stage (such as A before and after) in their order, below each other.

    The greys of a stage have one scale, symmetric about zero.
    """
    labels = {name: [""] * len(kernels) for name, kernels in stages.items()}
    return _kernels(stages, labels, "", caption, columns)


@styled
def filter_figure(stages: Mapping[str, Stage], caption: str, columns: int = 12) -> Figure:
    """Filters of each stage (such as before and after), by falling effective strength.

    A stage is (filters, strengths e^{beta_0 + beta_k} ||c_k||); the strength stands above each
    filter, whose greys are its entries over the largest of them: what counts is its shape.
    """
    shapes, labels = {}, {}
    for name, (c, strengths) in stages.items():
        order = np.argsort(strengths)[::-1]
        most = np.abs(c[order]).max(axis=(1, 2), keepdims=True)
        shapes[name] = c[order] / np.maximum(most, np.finfo(np.float32).tiny)
        labels[name] = [f"{x:.2g}" for x in strengths[order]]
    return _kernels(shapes, labels, "entry / largest", caption, columns)


def _kernels(
    stages: Mapping[str, Kernels],
    labels: Mapping[str, Sequence[str]],
    scale: str,
    caption: str,
    columns: int,
) -> Figure:
    """A block of kernels for each stage, a label above each, and a bar that says the scale."""
    count = max(len(kernels) for kernels in stages.values())
    columns = min(columns, count)
    lines = -(-count // columns)
    rows, wide = next(iter(stages.values())).shape[1:]
    side = min(0.9, (WIDTH - 0.9) / columns)
    labelled = any(any(texts) for texts in labels.values())
    line = side * float(np.clip(rows / wide, 0.4, 2)) + 0.06 + LINE * labelled
    heights = 1.5 * LINE + max(lines * line, 0.7)
    figure = new_figure(max(3.5, 0.9 + side * columns), heights * len(stages), caption)
    parts: Any = figure.subfigures(len(stages), 1, squeeze=False)[:, 0]
    for part, (name, kernels) in zip(parts, stages.items(), strict=True):
        part.suptitle(name, x=0.01, ha="left")
        grid = part.subplots(lines, columns, squeeze=False).ravel()
        most = float(max(np.abs(kernels).max(), np.finfo(np.float32).tiny))
        image: Any = None
        for axes, kernel, label in zip(grid, kernels, labels[name], strict=False):
            image = show(axes, kernel, (-most, most))
            axes.set_title(label, loc="center", pad=2)
            axes.spines[:].set(visible=True, color="0.8")
        for axes in grid[len(kernels) :]:
            blank(axes)
        bar(part, image, grid, scale)
    return figure
