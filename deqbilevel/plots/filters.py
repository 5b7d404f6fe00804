"""The figures of filter learning: filters, pictures with their profiles, and the course of it."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from deqbilevel.plots.base import new_figure, styled

Picture = Float[np.ndarray, "height width"]
Stage = tuple[Float[np.ndarray, "filters rows columns"], Float[np.ndarray, " filters"]]


@styled
def filter_figure(stages: Mapping[str, Stage], caption: str, columns: int = 12) -> Figure:
    """Filters of each stage (such as before and after), by falling effective strength.

    A stage is (filters, strengths e^{beta_0 + beta_k} ||c_k||); the strength stands above each
    filter, whose greys are its own, symmetric about zero.
    """
    count = max(len(c) for c, _ in stages.values())
    columns = min(columns, count)
    lines = -(-count // columns)
    height = 0.4 + len(stages) * (0.3 + 0.95 * lines)
    figure = new_figure(0.6 + 0.8 * columns, height, "", caption)
    parts: Any = figure.subfigures(len(stages), 1, squeeze=False)[:, 0]
    for part, (name, (c, strengths)) in zip(parts, stages.items(), strict=True):
        part.suptitle(name, fontsize=10, fontweight="bold")
        grid = part.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid[len(c) :]:
            axes.set_axis_off()
        for axes, k in zip(grid, np.argsort(strengths)[::-1], strict=False):
            most = max(float(np.abs(c[k]).max()), np.finfo(float).tiny)
            axes.imshow(c[k], cmap="gray", vmin=-most, vmax=most)
            axes.set_title(f"{strengths[k]:.2g}", fontsize=7, pad=2)
            axes.set(xticks=[], yticks=[])
    return figure


@styled
def profile_figure(pictures: Mapping[str, Picture], row: int, caption: str) -> Figure:
    """Pictures on [0, 1] beside each other under their labels, and their values along a row."""
    height, width = next(iter(pictures.values())).shape
    high = float(np.clip(2.6 * height / width, 1.2, 3.5))
    figure = new_figure(2.6 * len(pictures) + 0.4, high + 2.2, "", caption)
    parts: Any = figure.subfigures(2, 1, height_ratios=[high, 1.8])
    above, below = parts
    first = next(iter(pictures.values()))
    low, most = float(first.min()), float(first.max())
    for axes, (name, picture) in zip(
        above.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True
    ):
        axes.imshow(picture, cmap="gray", vmin=low, vmax=most)
        axes.axhline(row, color="tab:red", linewidth=0.5)
        axes.set_title(name, fontsize=9)
        axes.set(xticks=[], yticks=[])
    axes = below.subplots()
    for name, picture in pictures.items():
        axes.plot(picture[row], linewidth=1, label=name.splitlines()[0])
    axes.set(xlabel="column", ylabel=f"values in row {row}")
    axes.grid(color="0.92")
    axes.legend(fontsize=8)
    return figure


@styled
def course_figure(
    course: Mapping[str, Float[np.ndarray, "iterations lanes"]], caption: str
) -> Figure:
    """Quantities of every upper-level iteration below each other, a line for each lane."""
    figure = new_figure(7.0, 0.4 + 1.7 * len(course), "", caption)
    panels = figure.subplots(len(course), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, course.items(), strict=True):
        axes.plot(values, linewidth=0.8)
        if np.nanmin(values) > 0:
            axes.set_yscale("log")
        axes.set_ylabel(textwrap.fill(name, 18), fontsize=8)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    panels[-1].set_xlabel("upper-level iteration")
    return figure


@styled
def map_figure(
    maps: Mapping[str, Float[np.ndarray, "rows columns"]],
    values: Float[np.ndarray, " points"],
    labels: tuple[str, str],
    caption: str,
) -> Figure:
    """Functions of two coefficients beside each other, on a logarithmic scale.

    labels: of the columns and of the rows, both of which run over `values`.
    """
    figure = new_figure(3.1 * len(maps), 3.1, "", caption)
    ends = (values[0], values[-1])
    for axes, (name, function) in zip(
        figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True
    ):
        # What vanishes by symmetry would stretch the scale to rounding.
        shown = np.where(function > 1e-8 * np.nanmax(function), function, np.nan)
        picture = axes.imshow(shown, origin="lower", extent=(*ends, *ends), norm="log")
        figure.colorbar(picture, ax=axes, shrink=0.8)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.set_title(textwrap.fill(name, 26), fontsize=9)
    return figure


@styled
def function_figure(
    x: Float[np.ndarray, " points"],
    panels: Mapping[str, Mapping[str, Float[np.ndarray, " points"]]],
    labels: tuple[str, str],
    caption: str,
) -> Figure:
    """Functions of one variable, a panel for each group; labels are those of the axes."""
    figure = new_figure(4.2 * len(panels), 3.8, "", caption)
    for axes, (title, curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for label, values in curves.items():
            axes.plot(x, values, linewidth=1.2, label=label)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.set_title(title, loc="left", fontsize=10)
        axes.grid(color="0.92")
        axes.legend(fontsize=8)
    return figure
