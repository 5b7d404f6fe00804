"""The figures of the convolutional comparison: kernels of A and C, losses of several models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from deqbilevel.plots.base import curve, finish, level, new_figure, styled


@styled
def kernel_figure(
    stages: Mapping[str, Float[np.ndarray, "kernels rows columns"]], caption: str, columns: int = 15
) -> Figure:
    """Kernels of each stage (such as A before and after) in their order, below each other.

    The greys of a kernel are its own, symmetric about zero: what counts is its shape.
    """
    count = max(len(kernels) for kernels in stages.values())
    columns = min(columns, count)
    lines = -(-count // columns)
    wide = 0.6 if count > 4 else 1.6
    height = 0.3 + len(stages) * (0.25 + (wide + 0.05) * lines)
    figure = new_figure(max(5.5, 0.4 + (wide + 0.05) * columns), height, "", caption)
    parts: Any = figure.subfigures(len(stages), 1, squeeze=False)[:, 0]
    for part, (name, kernels) in zip(parts, stages.items(), strict=True):
        part.suptitle(name, fontsize=9, x=0.02, ha="left")
        grid = part.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid[len(kernels) :]:
            axes.set_axis_off()
        for axes, kernel in zip(grid, kernels, strict=False):
            most = max(float(np.abs(kernel).max()), np.finfo(float).tiny)
            axes.imshow(kernel, cmap="gray", vmin=-most, vmax=most)
            axes.set(xticks=[], yticks=[])
    return figure


@styled
def compared_losses(
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    epochs: Sequence[int],
    caption: str,
    levels: Mapping[str, float] | None = None,
) -> Figure:
    """Train (dashed) and test loss of several models against the epoch: {model: {split: loss}}.

    levels: see `loss_curves`.
    """
    figure = new_figure(6.5, 3.8, "", caption)
    axes = figure.subplots()
    for i, (model, splits) in enumerate(curves.items()):
        for split, loss in splits.items():
            style = "--" if split == "train" else "-"
            curve(axes, epochs, loss, color=f"C{i}", linestyle=style, label=f"{model}, {split}")
    for i, (label, value) in enumerate((levels or {}).items()):
        level(axes, value, label, color=f"{0.25 * i}")
    axes.set(yscale="log", ylabel="mean squared error")
    finish(axes, "epoch", "both")
    axes.legend(fontsize=8)
    return figure
