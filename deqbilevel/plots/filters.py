"""The figures of filter learning: pictures with their profiles, the course of it, functions."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from deqbilevel.plots.base import finish, label_ends, log_ticks, new_figure, whole
from deqbilevel.plots.greys import ERRORS, bar, blank, error_scale, show
from deqbilevel.plots.style import LINE, LINES, PALETTE, WIDTH, styled

Picture = Float[np.ndarray, "height width"]


@styled
def profile_figure(
    pictures: Mapping[str, Picture],
    row: int,
    caption: str,
    grey: tuple[float, float] | None = None,
) -> Figure:
    """Pictures beside each other under their labels, the truth first, the maps of |u - truth| below
    them, and their values along a row.

    grey: the values of black and white; by default the least and the greatest of the truth.
    """
    truth = next(iter(pictures.values()))
    height, width = truth.shape
    count = len(pictures)
    side = min((WIDTH - 0.6) / count, 2.2)
    high = side * float(np.clip(height / width, 0.4, 1.5))
    heads = LINE * max(1 + name.count("\n") for name in pictures)
    errors = {name: np.abs(u - truth) for name, u in pictures.items()}
    most = error_scale(list(errors.values())[1:])
    top, profile = high * (2 if count > 1 else 1) + heads + 0.1, 1.7
    figure = new_figure(0.6 + side * count, top + profile, caption)
    parts: Any = figure.subfigures(2, 1, height_ratios=[top, profile])
    grid = parts[0].subplots(2 if count > 1 else 1, count, squeeze=False)
    grey = (float(truth.min()), float(truth.max())) if grey is None else grey
    for i, (name, picture) in enumerate(pictures.items()):
        image = show(grid[0][i], picture, grey)
        grid[0][i].axhline(row, color=PALETTE[1], linewidth=0.6)
        grid[0][i].set_title(name)
        if i == 0:
            bar(parts[0], image, grid[0], "")
    if count > 1:
        blank(grid[1][0])
        for axes, error in zip(grid[1][1:], list(errors.values())[1:], strict=True):
            map_ = show(axes, error, (0.0, most), cmap=ERRORS)
        bar(parts[0], map_, grid[1], "|u - truth|", extend="max")
    axes = parts[1].subplots()
    for i, (name, picture) in enumerate(pictures.items()):
        axes.plot(picture[row], linewidth=1, label=name.splitlines()[0], zorder=3 - 0.01 * i)
    axes.set(ylabel=f"values in row {row}")
    finish(axes, "column / pixels")
    label_ends(axes, profile - 0.4)
    return figure


@styled
def course_figure(
    course: Mapping[str, Float[np.ndarray, "iterations lanes"]], caption: str
) -> Figure:
    """Quantities of every upper-level iteration, a thin line for each lane and their median."""
    lines = -(-len(course) // 2)
    figure = new_figure(WIDTH, 1.9 * lines, caption)
    grid = figure.subplots(lines, 2, sharex=True, squeeze=False)
    for axes, (name, values) in zip(grid.ravel(), course.items(), strict=False):
        values = np.asarray(values, float)
        iterations, lanes = np.arange(1, len(values) + 1), values.shape[1]
        if np.nanmin(values) > 0:
            axes.set_yscale("log")
        if lanes > 1:
            axes.plot(iterations, values, color=PALETTE[4], linewidth=0.5)
        axes.plot(iterations, np.nanmedian(values, axis=1), color=PALETTE[0], linewidth=1)
        axes.set_title(name)
        finish(axes)
        if axes.get_yscale() == "linear" and (values == np.round(values)).all():
            whole(axes.yaxis, 5)
    for axes in grid.ravel()[len(course) :]:
        blank(axes)
    for axes in grid[-1]:
        axes.set_xlabel("upper-level iteration")
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
    columns = min(3, len(maps))
    lines = -(-len(maps) // columns)
    figure = new_figure(WIDTH, 2.2 * lines, caption)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    ends = (values[0], values[-1])
    for axes in grid[len(maps) :]:
        blank(axes)
    for axes, (name, function) in zip(grid, maps.items(), strict=False):
        # What vanishes by symmetry would stretch the scale to rounding.
        shown = np.where(function > 1e-8 * np.nanmax(function), function, np.nan)
        where = {"origin": "lower", "extent": (*ends, *ends), "norm": "log", "cmap": "viridis"}
        picture = axes.imshow(shown, **where)
        log_ticks(figure.colorbar(picture, ax=axes, shrink=0.8).ax.yaxis)
        axes.grid(visible=False)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.set_title(textwrap.fill(name, 20))
    return figure


@styled
def function_figure(
    x: Float[np.ndarray, " points"],
    panels: Mapping[str, Mapping[str, Float[np.ndarray, " points"]]],
    labels: tuple[str, str],
    caption: str,
) -> Figure:
    """Functions of one variable, a panel for each group; labels are those of the axes."""
    figure = new_figure(WIDTH, 2.8, caption)
    for axes, (title, curves) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for i, (label, values) in enumerate(curves.items()):
            axes.plot(x, values, LINES[i % len(LINES)], label=label)
        axes.set(xlabel=labels[0], ylabel=labels[1])
        axes.set_title(title)
        label_ends(axes, 2.2)
    return figure
