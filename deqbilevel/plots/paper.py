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

from deqbilevel.plots.base import curve, finish, new_figure, note, picture_grid, styled
from deqbilevel.results import final, others

NAMES = {"bilevel": "bilevel", "deq": "DEQ"}
COLOURS = {"bilevel": "tab:blue", "deq": "tab:orange"}
STYLES: dict[str, Literal["-", "--"]] = {"bilevel": "-", "deq": "--"}
RECONSTRUCTION_FIGURES = {
    "figure_2": "denoising",
    "figure_3": "inpainting",
    "figure_4": "deblurring",
}
MAX_PICTURES = 5
MAX_NOISES = 3
HISTOGRAM_BINS = 20


def _coordinate(results: xr.Dataset, name: str) -> list[Any]:
    return results[name].values.tolist()


def _diverged(results: xr.Dataset) -> xr.DataArray:
    return final(results, "diverged").astype(bool)


def _flat(values: xr.DataArray, task: str, model: str) -> np.ndarray:
    """One value per run of a cell."""
    return values.sel(task=task, model=model).values.ravel()


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
            loss = _flat(kept, task, model)
            loss = loss[np.isfinite(loss)]
            total = int(_flat(exists, task, model).sum())
            axes.annotate(
                f"{len(loss) or 'none'} of {total}",
                (x, loss.max(initial=0)),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
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
    """Pictures of the best run of each model, a block for each of at most 3 noise levels.

    Args:
        results: with `truth`, `measurement` and the `best_*` variables; `height` and `width` among
            its attributes.
        task: one of the tasks present.

    Raises:
        ValueError: the task is not among the results.
    """
    if task not in _coordinate(results, "task"):
        raise ValueError(f"task={task!r}: there is only {_coordinate(results, 'task')}")
    noises = _coordinate(results, "noise")
    spread = np.linspace(0, len(noises) - 1, min(MAX_NOISES, len(noises)))
    shown = results.sel(task=task).isel(picture=slice(MAX_PICTURES))
    blocks = {}
    for index in spread.round().astype(int):
        block = shown.isel(noise=index)

        def pictures(name: str, block: xr.Dataset = block, **where: str) -> np.ndarray:
            return block[name].sel(where).transpose("picture", "pixel").values

        rows = {"truth $u$": pictures("truth"), "measurement $f$": pictures("measurement")}
        for model in _coordinate(results, "model"):
            if task != "denoising":
                measured = pictures("best_measured_reconstruction", model=model)
                rows[f"{NAMES[model]} $K u^*$"] = measured
            rows[_best_label(block.sel(model=model), model)] = pictures(
                "best_reconstruction", model=model
            )
        blocks[f"noise {noises[index]:g}"] = rows
    number = next(name for name, held in RECONSTRUCTION_FIGURES.items() if held == task)
    title = f"{number.replace('_', ' ').capitalize()}: best {task} by each model"
    shape = (int(results.attrs["height"]), int(results.attrs["width"]))
    return picture_grid(blocks, shape, title, results.attrs["caption"])


def _best_label(best: xr.Dataset, model: str) -> str:
    """The row label of a best run: what it is, its hyperparameters and its test loss."""
    name, loss = f"{NAMES[model]} $u^*$", float(best.best_test_loss)
    if not np.isfinite(loss):
        return f"{name}\nno run remains"
    chosen = f"$\\tau$ {float(best.best_tau):.3g}, $\\gamma$ {float(best.best_gamma):.3g}"
    return f"{name}\n{chosen}, {best.best_activation.item()}\ntest loss {loss:.3g}"


def _panels(results: xr.Dataset, title: str, caption: str) -> tuple[Figure, dict[str, Axes]]:
    """A figure with one panel per task, side by side."""
    tasks = _coordinate(results, "task")
    figure = new_figure(2.8 + 3 * len(tasks), 3.8, title, caption)
    grid = figure.subplots(1, len(tasks), squeeze=False, sharey=True)
    panels = dict(zip(tasks, grid[0], strict=True))
    for task, axes in panels.items():
        axes.set_title(task, fontsize=10)
    return figure, panels


@styled
def figure_5(results: xr.Dataset) -> Figure:
    """The best test loss at each epoch over the runs that did not diverge, a panel per task.

    The colour of a line is its noise level, its style the model.
    """
    title = "Figure 5: best test loss at each epoch"
    figure, panels = _panels(results, title, results.attrs["caption"])
    loss = results.test_loss.where(~_diverged(results) & np.isfinite(results.test_loss))
    best = loss.min(others(results, "task", "model", "noise"))
    noises, models = _coordinate(results, "noise"), _coordinate(results, "model")
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(noises)))
    for task, axes in panels.items():
        for noise, colour in zip(noises, colours, strict=True):
            for model in models:
                line = best.sel(task=task, noise=noise, model=model)
                style = {"color": colour, "linestyle": STYLES[model]}
                curve(axes, _coordinate(results, "epoch"), line.values.tolist(), **style)
        axes.set_yscale("log")
        finish(axes, "epoch", "both")
        if not best.sel(task=task).notnull().any():
            note(axes, "no run remains")
    panels[next(iter(panels))].set_ylabel("best test loss")
    handles = [
        Line2D([], [], color=colour, label=f"noise {noise:g}")
        for noise, colour in zip(noises, colours, strict=True)
    ]
    handles += [
        Line2D([], [], color="0.3", linestyle=STYLES[name], label=NAMES[name]) for name in models
    ]
    figure.legend(handles=handles, loc="outside right upper")
    return figure


@styled
def figure_6(results: xr.Dataset, cap_seconds: float | None = None) -> Figure:
    """How many runs reach how many epochs within a time cap, a panel per task.

    The number of epochs is extrapolated from a run's mean seconds per trained epoch, its
    evaluation included; every run that was timed counts, diverged or not.

    Args:
        results: with `seconds` and `evaluation_seconds`.
        cap_seconds: the cap; where it is None, the median over the runs of the time of 10
            epochs, rounded to 2 significant digits.
    """
    mean = (results.seconds + results.evaluation_seconds).mean("epoch")
    mean = mean.where(mean > 0)
    if cap_seconds is None:
        cap_seconds = float(f"{float(10 * mean.median()):.2g}")
    # a quotient that rounding left just below an integer is that integer
    reached = np.floor(cap_seconds / mean * (1 + 1e-9))
    said = (
        f"Time cap {cap_seconds:g} s; the number of epochs within it is extrapolated from the "
        "measured seconds per epoch (training and evaluation)."
        if mean.notnull().any()
        else "No run was timed."
    )
    caption = f"{results.attrs['caption'].rstrip('. ')}. {said}"
    title = "Figure 6: epochs that runs reach within a time cap"
    figure, panels = _panels(results, title, caption)
    models = _coordinate(results, "model")
    low, high = float(reached.min().fillna(0)), float(reached.max().fillna(0))
    width = ceil((high - low + 1) / HISTOGRAM_BINS)
    bins = np.arange(low, high + width + 1, width) - 0.5
    for task, axes in panels.items():
        counts = [_flat(reached, task, model) for model in models]
        counts = [count[np.isfinite(count)] for count in counts]
        axes.hist(counts, bins=bins.tolist(), color=[COLOURS[name] for name in models], alpha=0.8)
        finish(axes, "epochs")
        if not any(map(len, counts)):
            note(axes, "no run was timed")
    panels[next(iter(panels))].set_ylabel("runs")
    figure.legend(handles=_model_patches(models), loc="outside right upper")
    return figure


def drawings(results: xr.Dataset) -> dict[str, Callable[[], Figure]]:
    """How to draw each figure of the paper, by name; `figure_2` to `figure_4` where their task is
    present."""
    drawn: dict[str, Callable[[], Figure]] = {"figure_1": partial(figure_1, results)}
    for name, task in RECONSTRUCTION_FIGURES.items():
        if task in _coordinate(results, "task"):
            drawn[name] = partial(reconstruction_figure, results, task)
    return drawn | {"figure_5": partial(figure_5, results), "figure_6": partial(figure_6, results)}


def figures(results: xr.Dataset) -> dict[str, Figure]:
    """The figures of the paper by name, see `drawings`."""
    return {name: draw() for name, draw in drawings(results).items()}
