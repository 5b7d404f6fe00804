"""The six figures of [REB] from the labelled results of a study.

A `results` is what `results.read` returns: dimensions (task, model, noise, tau, gamma, activation,
the study's own axes, epoch), NaN where a run does not exist or is not that far. A run has diverged
where `diverged` holds at its last epoch.
"""

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any, Literal

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from deqbilevel.plots.base import curve, finish, level, new_figure, note, picture_grid, styled
from deqbilevel.results import best, final, lowest, without_learning

NAMES = {"bilevel": "bilevel", "deq": "DEQ"}
COLOURS = {"bilevel": "tab:blue", "deq": "tab:orange"}
STYLES: dict[str, Literal["-", "--"]] = {"bilevel": "-", "deq": "--"}
RECONSTRUCTED = {"figure_2": "denoising", "figure_3": "inpainting", "figure_4": "deblurring"}
CAPTIONS: dict[str, dict[str, Any]] = {
    "denoising": {"tau": 0.5, "gamma": 0.1, "activation": "relu"},
    "inpainting": {"tau": 0.5, "gamma": 1.0, "activation": "softshrink"},
    "deblurring": {"tau": 0.5, "gamma": 0.5, "activation": "softshrink"},
}
"""The settings that Figures 2 to 4 of [REB] show, of both models."""

MAX_PICTURES = 5
MAX_NOISES = 3
HISTOGRAM_BINS = 20


def _coordinate(results: xr.Dataset, name: str) -> list[Any]:
    return results[name].values.tolist()


def _diverged(results: xr.Dataset) -> xr.DataArray:
    return final(results, "diverged").astype(bool)


def _finite(values: xr.DataArray, task: str, model: str) -> np.ndarray:
    """One value per run of a cell, of those that have one."""
    found = values.sel(task=task, model=model).values.ravel()
    return found[np.isfinite(found)]


def _model_patches(models: list[str]) -> list[Patch]:
    return [Patch(facecolor=COLOURS[name], alpha=0.8, label=NAMES[name]) for name in models]


@styled
def figure_1(results: xr.Dataset, threshold: float = 0.5) -> Figure:
    """Boxes of the final test loss per task and model, of runs below the threshold.

    Diverged runs are left out; above each box stands how many of the cell's runs remain.
    """
    tasks, models = _coordinate(results, "task"), _coordinate(results, "model")
    title = f"Figure 1: final test loss of the runs below {threshold:g}"
    figure = new_figure(max(5.5, 2.6 + 1.9 * len(tasks)), 4.0, title, results.attrs["caption"])
    axes = figure.subplots()
    diverged = _diverged(results)
    exists = diverged | results.test_loss.notnull().any("epoch")
    loss = final(results, "test_loss")
    kept = loss.where((loss < threshold) & ~diverged)
    top = float(kept.max().fillna(threshold))
    for t, task in enumerate(tasks):
        for m, model in enumerate(models):
            x = t + 0.4 * (m - (len(models) - 1) / 2)
            loss = _finite(kept, task, model)
            total = int(exists.sel(task=task, model=model).sum())
            place = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center"}
            remain = f"{len(loss) or 'none'} of {total}"
            axes.annotate(remain, (x, loss.max(initial=0)), **place, fontsize=8)
            if len(loss) < 5:
                axes.plot([x] * len(loss), loss, "o", color=COLOURS[model], zorder=3)
            if len(loss):
                axes.boxplot(
                    loss,
                    positions=[x],
                    widths=0.28,
                    patch_artist=True,
                    manage_ticks=False,
                    boxprops={"facecolor": COLOURS[model], "alpha": 0.8},
                    medianprops={"color": "black"},
                    flierprops={"marker": ".", "markersize": 4, "markeredgecolor": "0.4"},
                )
    axes.set(xlim=(-0.6, len(tasks) - 0.4), ylim=(0, 1.12 * top), ylabel="final test loss")
    axes.set_xticks(range(len(tasks)), tasks)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    figure.legend(handles=_model_patches(models), loc="outside right upper")
    return figure


@styled
def reconstruction_figure(results: xr.Dataset, task: str) -> Figure:
    """Pictures of the run that [REB] shows and of the best run of each model, a block for each of
    at most 3 noise levels.

    Args:
        results: with `truth`, `measurement`, the `best_*` variables and, for the runs of CAPTIONS,
            the pictures of every run; `height` and `width` among its attributes.
        task: one of the tasks present.

    Raises:
        ValueError: the task is not among the results.
    """
    if task not in _coordinate(results, "task"):
        raise ValueError(f"task={task!r}: there is only {_coordinate(results, 'task')}")
    noises = _coordinate(results, "noise")
    spread = np.linspace(0, len(noises) - 1, min(MAX_NOISES, len(noises)))
    shown = results.sel(task=task)
    captioned = _captioned(results, task)
    blocks = {}
    for index in spread.round().astype(int):
        block = shown.isel(noise=index)
        rows = {"truth $u$": _pictures(block.truth)}
        rows["measurement $f$"] = _pictures(block.measurement)
        for model in _coordinate(results, "model"):
            own = block.sel(model=model)
            if task != "denoising":
                measured = _pictures(own.best_measured_reconstruction)
                rows[f"{NAMES[model]} $K u^*$, best"] = measured
            which = "best"
            if captioned is not None:
                theirs = captioned.isel(noise=index).sel(model=model)
                if theirs.best_test_loss == own.best_test_loss:
                    which = "as in [REB], best"
                else:
                    said = _label(theirs, model, "as in [REB]")
                    rows[said] = _pictures(theirs.best_reconstruction)
            rows[_label(own, model, which)] = _pictures(own.best_reconstruction)
        blocks[f"noise {noises[index]:g}"] = rows
    number = next(name for name, held in RECONSTRUCTED.items() if held == task)
    title = f"{number.replace('_', ' ').capitalize()}: {task} by each model"
    caption = results.attrs["caption"]
    if captioned is None:
        setting = ", ".join(f"{name} {value}" for name, value in CAPTIONS[task].items())
        caption = (
            f"{caption.rstrip('. ')}. The figure of [REB] is of {setting}; no such run is among "
            "these, so that only the best ones are shown"
        )
    shape = (int(results.attrs["height"]), int(results.attrs["width"]))
    return picture_grid(blocks, shape, title, caption)


def _pictures(values: xr.DataArray) -> np.ndarray:
    return values.isel(picture=slice(MAX_PICTURES)).transpose("picture", "pixel").values


def _captioned(results: xr.Dataset, task: str) -> xr.Dataset | None:
    """The runs of CAPTIONS as `best_*` variables, (model, noise); the best along other axes. None
    where the study has no such runs."""
    where = {name: [value] for name, value in CAPTIONS[task].items()}
    if any(name not in results.dims for name in where) or "reconstruction" not in results:
        return None
    if any(values[0] not in results[name].values for name, values in where.items()):
        return None
    return xr.Dataset(best(results.sel(where | {"task": [task]}))).squeeze("task")


def _label(run: xr.Dataset, model: str, which: str) -> str:
    """The row label of a run: what it is, its hyperparameters and its test loss."""
    name, loss = f"{NAMES[model]} $u^*$, {which}", float(run.best_test_loss)
    if not np.isfinite(loss):
        return f"{name}\nno run remains"
    chosen = f"$\\tau$ {float(run.best_tau):.3g}, $\\gamma$ {float(run.best_gamma):.3g}"
    return f"{name}\n{chosen}, {run.best_activation.item()}\ntest loss {loss:.3g}"


def _panels(
    results: xr.Dataset, title: str, caption: str, lines: int = 1
) -> tuple[Figure, dict[str, list[Axes]]]:
    """A figure with a column of panels per task, side by side."""
    tasks = _coordinate(results, "task")
    figure = new_figure(2.8 + 3 * len(tasks), 0.8 + 3 * lines, title, caption)
    grid = figure.subplots(lines, len(tasks), squeeze=False, sharex=True, sharey=True)
    panels = {task: list(column) for task, column in zip(tasks, grid.T, strict=True)}
    for task, column in panels.items():
        column[0].set_title(task, fontsize=10)
    return figure, panels


@styled
def figure_5(results: xr.Dataset) -> Figure:
    """The course of the one run with the lowest final test loss for each task, model and noise.

    A column per task; above its loss on test images, below on training images: [REB] 4.4. The
    colour of a line is its noise level, its style the model; dotted is the best of doing nothing.
    """
    title = "Figure 5: the run with the lowest final test loss"
    figure, panels = _panels(results, title, results.attrs["caption"], lines=2)
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
            for noise, colour in zip(noises, colours, strict=True):
                for model in models:
                    line = course.sel(task=task, noise=noise, model=model)
                    style = {"color": colour, "linestyle": STYLES[model]}
                    curve(axes, _coordinate(results, "epoch"), line.values.tolist(), **style)
                if levels and axes is column[0]:
                    known = without_learning(results, task, noise)
                    level(axes, min(known.values()), "", color=colour)
            axes.set_yscale("log")
            finish(axes, "epoch" if axes is column[-1] else "", "both")
            if not course.sel(task=task).notnull().any():
                note(axes, "no run remains")
    for axes, split in zip(panels[next(iter(panels))], courses, strict=True):
        axes.set_ylabel(f"loss on {split} images")
    handles = [
        Line2D([], [], color=colour, label=f"noise {noise:g}")
        for noise, colour in zip(noises, colours, strict=True)
    ]
    styles: dict[str, Any] = {NAMES[name]: STYLES[name] for name in models}
    styles |= {"without learning": ":"} if levels else {}
    handles += [Line2D([], [], color="0.3", linestyle=x, label=name) for name, x in styles.items()]
    figure.legend(handles=handles, loc="outside right upper")
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
    title = f"Figure 6: epochs in the time cap, of runs that end below {threshold:g}"
    figure, panels = _panels(results, title, caption)
    models = _coordinate(results, "model")
    low, high = float(reached.min().fillna(0)), float(reached.max().fillna(0))
    width = ceil((high - low + 1) / HISTOGRAM_BINS)
    bins = np.arange(low, high + width + 1, width) - 0.5
    for task, (axes,) in panels.items():
        counts = [_finite(reached, task, model) for model in models]
        axes.hist(counts, bins=bins.tolist(), color=[COLOURS[name] for name in models], alpha=0.8)
        finish(axes, "epochs")
        if not any(map(len, counts)):
            note(axes, "no such run was timed")
    panels[next(iter(panels))][0].set_ylabel("runs")
    figure.legend(handles=_model_patches(models), loc="outside right upper")
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
