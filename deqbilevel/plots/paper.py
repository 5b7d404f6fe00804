"""The figures of [REB] from the labelled results of a study; 2 to 4 are in `paper_pictures`.

A `results` is what `results.read` returns: dimensions (task, model, noise, tau, gamma, activation,
the study's own axes, epoch), NaN where a run does not exist or is not that far. A run has diverged
where `diverged` holds at its last epoch.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from math import ceil
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from deqbilevel.plots.base import (
    curve,
    finish,
    key,
    level,
    log_ticks,
    new_figure,
    note,
    proxies,
    whole,
)
from deqbilevel.plots.paper_pictures import NAMES, reconstruction_figure
from deqbilevel.plots.style import LINE, PALETTE, WIDTH, styled
from deqbilevel.results import final, lowest, without_learning

COLOURS = {"bilevel": PALETTE[0], "deq": PALETTE[1]}
LOOKS: dict[str, dict[str, Any]] = {
    "bilevel": {"linestyle": "-", "marker": "o"},
    "deq": {"linestyle": "--", "marker": "s"},
}
RECONSTRUCTED = {"figure_2": "denoising", "figure_3": "inpainting", "figure_4": "deblurring"}

HISTOGRAM_BINS = 20
MEASUREMENT = "measurement f"
"""What the measurement is called among the baselines of a study."""


def _coordinate(results: xr.Dataset, name: str) -> list[Any]:
    return results[name].values.tolist()


def _diverged(results: xr.Dataset) -> xr.DataArray:
    return final(results, "diverged").astype(bool)


def _finite(values: xr.DataArray, task: str, model: str) -> np.ndarray:
    """One value per run of a cell, of those that have one."""
    found = values.sel(task=task, model=model).values.ravel()
    return found[np.isfinite(found)]


def _model_patches(models: list[str]) -> list[Artist]:
    return [Patch(facecolor=COLOURS[name], alpha=0.8, label=NAMES[name]) for name in models]


@styled
def figure_1(results: xr.Dataset, threshold: float = 0.5) -> Figure:
    """Boxes of the final test loss of the runs below the threshold, for each task, noise and model.

    Below them stands how many runs are left out: those that diverged, and those that ended at the
    threshold or above.
    """
    tasks, models = _coordinate(results, "task"), _coordinate(results, "model")
    noises = _coordinate(results, "noise")
    figure = new_figure(WIDTH, 3.6, results.attrs["caption"])
    boxes, failures = figure.subplots(
        2, len(tasks), squeeze=False, sharex=True, sharey="row", height_ratios=[4, 1]
    )
    diverged = _diverged(results)
    exists = diverged | results.test_loss.notnull().any("epoch")
    loss = final(results, "test_loss")
    kept = loss.where((loss < threshold) & ~diverged)
    for t, task in enumerate(tasks):
        above, below = boxes[t], failures[t]
        above.set(yscale="log")
        for (n, noise), (m, model) in product(enumerate(noises), enumerate(models)):
            cell = {"task": task, "noise": noise, "model": model}
            x = n + 0.4 * (m - (len(models) - 1) / 2)
            own = kept.sel(cell).values.ravel()
            own = own[np.isfinite(own)]
            _box(above, own, x, COLOURS[model])
            ended = int(exists.sel(cell).sum()) - len(own)
            lost = int(diverged.sel(cell).sum())
            style = {"width": 0.32, "edgecolor": COLOURS[model], "linewidth": 0.8}
            below.bar(x, ended - lost, facecolor=COLOURS[model], alpha=0.5, **style)
            below.bar(x, lost, bottom=ended - lost, facecolor="none", hatch="//////", **style)
        above.set_title(task)
        if not np.isfinite(kept.sel(task=task)).any():
            note(above, "no run remains")
        below.set_xticks(range(len(noises)), [f"{noise:g}" for noise in noises])
        below.set(xlim=(-0.5, len(noises) - 0.5), xlabel="noise level")
    whole(failures[0].yaxis, 3)
    failures[0].set_ylim(0, max(1.0, failures[0].get_ylim()[1]))
    log_ticks(boxes[0].yaxis)
    boxes[0].set_ylabel(f"final test loss\nof runs below {threshold:g}")
    failures[0].set_ylabel("runs\nleft out")
    handles = _model_patches(models)
    handles.append(Patch(facecolor="0.6", label=f"ended at {threshold:g} or above"))
    handles.append(Patch(facecolor="none", edgecolor="0.3", hatch="//////", label="diverged"))
    key(figure, handles, 4)
    return figure


def _box(axes: Axes, values: np.ndarray, x: float, colour: str) -> None:
    """A box of values, and the points themselves where they are few."""
    if len(values) < 5:
        axes.plot([x] * len(values), values, "o", color=colour, zorder=3)
    if len(values):
        axes.boxplot(
            values,
            positions=[x],
            widths=0.28,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": colour, "alpha": 0.8},
            medianprops={"color": "black"},
            flierprops={"marker": ".", "markeredgecolor": "0.4"},
        )


def _panels(
    results: xr.Dataset, caption: str, lines: int = 1
) -> tuple[Figure, dict[str, list[Axes]]]:
    """A figure with a column of panels per task, side by side."""
    tasks = _coordinate(results, "task")
    figure = new_figure(WIDTH, 2 * LINE + 2.1 * lines, caption)
    grid = figure.subplots(lines, len(tasks), squeeze=False, sharex=True, sharey=True)
    panels = {task: list(column) for task, column in zip(tasks, grid.T, strict=True)}
    for task, column in panels.items():
        column[0].set_title(task)
    return figure, panels


@styled
def figure_5(results: xr.Dataset) -> Figure:
    """The course of the one run with the lowest final test loss for each task, model and noise.

    A column per task; above its loss on test images, below on training images: [REB] 4.4. The
    colour of a line is its noise level, its style the model. Above are also the loss of the
    measurement, and of the best of doing nothing where that is another.
    """
    figure, panels = _panels(results, results.attrs["caption"], lines=2)
    loss = final(results, "test_loss")
    least, index = lowest(results, loss.where(~_diverged(results) & np.isfinite(loss)))
    splits = {"test": results.test_loss, "training": results.train_loss}
    courses = {
        split: losses.load().isel(index).where(least.notnull()) for split, losses in splits.items()
    }
    noises, models = _coordinate(results, "noise"), _coordinate(results, "model")
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(noises)))
    levels = "baseline_loss" in results
    for task, column in panels.items():
        for axes, course in zip(column, courses.values(), strict=True):
            axes.set_yscale("log")
            for noise, colour in zip(noises, colours, strict=True):
                for model in models:
                    line = course.sel(task=task, noise=noise, model=model)
                    style = {"color": colour, "markerfacecolor": "none"} | LOOKS[model]
                    curve(axes, _coordinate(results, "epoch"), line.values.tolist(), **style)
                if levels and axes is column[0]:
                    known = without_learning(results, task, noise)
                    measured = known.get(MEASUREMENT, np.inf)
                    if np.isfinite(measured):
                        level(axes, measured, "", color=colour)
                    if min(known.values()) < measured:
                        level(axes, min(known.values()), "", color=colour, linestyle="-.")
            if not course.sel(task=task).notnull().any():
                note(axes, "no run remains")
    for axes, split in zip(panels[next(iter(panels))], courses, strict=True):
        axes.set_ylabel(f"mean squared error\non {split} images")
    for axes in figure.axes:
        finish(axes, "epoch" if axes in [column[-1] for column in panels.values()] else "")
    looks: dict[str, Mapping[str, Any]] = {
        f"noise {noise:g}": {"color": colour} for noise, colour in zip(noises, colours, strict=True)
    }
    dark = {"color": "0.3"}
    looks |= {NAMES[name]: dark | LOOKS[name] for name in models}
    if levels:
        looks |= {MEASUREMENT: dark | {"linestyle": ":"}}
        looks |= {"best without learning": dark | {"linestyle": "-."}}
    key(figure, proxies(looks), 5)
    return figure


@styled
def figure_6(
    results: xr.Dataset, cap_seconds: float | None = None, threshold: float = 0.5
) -> Figure:
    """How many epochs the runs with a final test loss below the threshold reach in an hour.

    A panel per task. Of a study with a limit (`hours` among its attributes) it is what they did
    reach; else it is extrapolated from a run's mean seconds per trained epoch, its evaluation
    included.

    Args:
        results: with `seconds` and `evaluation_seconds`.
        cap_seconds: another time than an hour, to which it is then extrapolated.
    """
    loss = final(results, "test_loss")
    counts = (loss < threshold) & ~_diverged(results)
    seconds = results.seconds + results.evaluation_seconds
    limit = results.attrs.get("hours") if cap_seconds is None else None
    if limit is not None:
        within = results.test_loss.notnull() & (seconds.cumsum("epoch") <= 3600 * limit)
        reached = (within * results.epoch).max("epoch").where(counts)
        said = f"A run's training ended when {limit:g} h were used, or with its last epoch"
    else:
        cap_seconds = 3600.0 if cap_seconds is None else cap_seconds
        mean = seconds.isel(epoch=slice(1, None)).mean("epoch")
        # a quotient that rounding left just below an integer is that integer
        reached = np.floor(cap_seconds / mean.where(counts & (mean > 0)) * (1 + 1e-9))
        said = (
            f"Epochs within {cap_seconds:g} s are extrapolated from the measured seconds per epoch "
            "(training and evaluation)"
            if reached.notnull().any()
            else "No such run was timed"
        )
    caption = f"{results.attrs['caption'].rstrip('. ')}. {said}."
    figure, panels = _panels(results, caption)
    models = _coordinate(results, "model")
    low, high = float(reached.min().fillna(0)), float(reached.max().fillna(0))
    width = ceil((high - low + 1) / HISTOGRAM_BINS)
    bins = np.arange(low, high + width + 1, width) - 0.5
    for task, (axes,) in panels.items():
        counts = [_finite(reached, task, model) for model in models]
        axes.hist(counts, bins=bins.tolist(), color=[COLOURS[name] for name in models], alpha=0.8)
        finish(axes, "epochs" if limit is None else f"epochs in {limit:g} h")
        if not any(map(len, counts)):
            note(axes, "no such run was timed")
    first = panels[next(iter(panels))][0]
    first.set_ylabel(f"runs that end below {threshold:g}")
    whole(first.yaxis, 6)
    key(figure, _model_patches(models), 2)
    return figure


def drawings(results: xr.Dataset) -> dict[str, Callable[[], Figure]]:
    """How to draw each figure of the paper, by name; `figure_2` to `figure_4` where their task is
    present."""
    drawn: dict[str, Callable[[], Figure]] = {"figure_1": partial(figure_1, results)}
    for name, task in RECONSTRUCTED.items():
        if task in _coordinate(results, "task"):
            drawn[name] = partial(reconstruction_figure, results, task)
    return drawn | {"figure_5": partial(figure_5, results), "figure_6": partial(figure_6, results)}


def figures(results: xr.Dataset) -> dict[str, Figure]:
    """The figures of the paper by name, see `drawings`."""
    return {name: draw() for name, draw in drawings(results).items()}
