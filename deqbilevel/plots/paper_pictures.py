"""Figures 2 to 4 of [REB]: pictures of a task's runs at up to three noise levels, side by side."""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.figure import Figure

from deqbilevel.plots.base import new_figure, wrapped
from deqbilevel.plots.greys import BELOW, bar, blank, numbers, show
from deqbilevel.plots.style import HEIGHT, LINE, WIDTH, caption_height, styled
from deqbilevel.results import best

NAMES = {"bilevel": "bilevel", "deq": "DEQ"}
CAPTIONS: dict[str, dict[str, Any]] = {
    "denoising": {"tau": 0.5, "gamma": 0.1, "activation": "relu"},
    "inpainting": {"tau": 0.5, "gamma": 1.0, "activation": "softshrink"},
    "deblurring": {"tau": 0.5, "gamma": 0.5, "activation": "softshrink"},
}
"""The settings that Figures 2 to 4 of [REB] show, of both models."""

MAX_NOISES = 3
COLUMNS = 6
"""Pictures beside each other, of all noise levels."""

GREY = (-1.0, 1.0)
"""The images of a study."""

GAP = 0.25
"""Between the pictures of two noise levels, over the width of one."""


class Row(NamedTuple):
    """A label and, for each noise level, what stands above and the pictures."""

    label: str
    heads: list[str]
    pictures: list[Float[np.ndarray, "pictures pixels"]]
    judged: bool
    """Whether PSNR and SSIM stand below."""


@styled
def reconstruction_figure(results: xr.Dataset, task: str) -> Figure:
    """Pictures of the run that [REB] shows and of the best run of each model, for at most 3 noise
    levels beside each other.

    Args:
        results: with `truth`, `measurement`, the `best_*` variables and, for the runs of CAPTIONS,
            the pictures of every run; `height` and `width` among its attributes.
        task: one of the tasks present.

    Raises:
        ValueError: the task is not among the results.
    """
    tasks = results.task.values.tolist()
    if task not in tasks:
        raise ValueError(f"task={task!r}: there is only {tasks}")
    noises = results.noise.values
    spread = np.linspace(0, len(noises) - 1, min(MAX_NOISES, len(noises))).round().astype(int)
    shown = min(COLUMNS // len(spread), results.sizes["picture"])
    some = {"noise": spread, "picture": slice(shown)}
    captioned = _captioned(results, task)
    caption = f"{results.attrs['caption'].rstrip('. ')}. {BELOW}"
    if captioned is None:
        setting = ", ".join(f"{name} {value}" for name, value in CAPTIONS[task].items())
        caption += (
            f" The figure of [REB] is of {setting}; no such run is among these, so that only the "
            "best ones are shown."
        )
    else:
        captioned = captioned.isel(some)
    rows = _rows(results.sel(task=task).isel(some), captioned, task)
    shape = (int(results.attrs["height"]), int(results.attrs["width"]))
    return _drawn(rows, [f"noise {noises[i]:g}" for i in spread], shape, caption)


def _rows(block: xr.Dataset, captioned: xr.Dataset | None, task: str) -> list[Row]:
    def row(label: str, values: xr.DataArray, heads: Any = None, judged: bool = True) -> Row:
        pictures = list(values.transpose("noise", "picture", "pixel").values)
        return Row(label, heads or [""] * len(pictures), pictures, judged)

    truth = block.truth.expand_dims(noise=block.noise)
    rows = [row("truth $u$", truth, judged=False), row("measurement $f$", block.measurement)]
    for model in block.model.values.tolist():
        own, name = block.sel(model=model), NAMES[model]
        if task != "denoising":
            measured = own.best_measured_reconstruction
            rows.append(row(f"{name} $K u^*$, best", measured, judged=False))
        if captioned is not None:
            theirs = captioned.sel(model=model)
            label = f"{name} $u^*$,\nas in [REB]"
            rows.append(row(label, theirs.best_reconstruction, _heads(theirs)))
        rows.append(row(f"{name} $u^*$, best", own.best_reconstruction, _heads(own)))
    return rows


def _heads(runs: xr.Dataset) -> list[str]:
    """The hyperparameters and the test loss of the run of each noise level."""
    heads = []
    for i in range(runs.sizes["noise"]):
        run = runs.isel(noise=i)
        loss = float(run.best_test_loss)
        chosen = f"$\\tau$ {float(run.best_tau):.3g}, $\\gamma$ {float(run.best_gamma):.3g}, "
        said = f"{chosen}{run.best_activation.item()}\ntest loss {loss:.3g}"
        heads.append(said if np.isfinite(loss) else "no run remains")
    return heads


def _drawn(rows: list[Row], levels: list[str], shape: tuple[int, int], caption: str) -> Figure:
    count = len(rows[0].pictures[0])
    ratios = ([1.0] * count + [GAP]) * len(levels)
    texts = sum(row.judged + 2 * any(row.heads) for row in rows) + 1.5
    aspect = float(np.clip(shape[0] / shape[1], 0.5, 2))
    free = HEIGHT - LINE * texts - caption_height(wrapped(caption, WIDTH))
    side = min((WIDTH - 1.6) / sum(ratios[:-1]), free / len(rows) / aspect - 0.04, 1.0)
    height = len(rows) * (side * aspect + 0.04) + LINE * texts
    figure = new_figure(WIDTH, height, caption, "compressed")
    grid = figure.subplots(len(rows), len(ratios) - 1, squeeze=False, width_ratios=ratios[:-1])
    for axes in grid[:, count :: count + 1].ravel():
        blank(axes)
    for line, row in zip(grid, rows, strict=True):
        line[0].set_ylabel(row.label, rotation=0, ha="right", va="center")
        for i, (head, pictures) in enumerate(zip(row.heads, row.pictures, strict=True)):
            block = line[i * (count + 1) :][:count]
            below = [""] * count
            if row.judged:
                below = numbers(pictures, rows[0].pictures[i], shape, GREY[1] - GREY[0])
            for axes, picture, text in zip(block, pictures, below, strict=True):
                show(axes, picture.reshape(shape), GREY, text)
            block[0].set_title(head, pad=2)
    for i, level in enumerate(levels):
        grid[0][i * (count + 1)].set_title(level, fontweight="bold")
    bar(figure, grid[0][0].images[0], grid.ravel(), "grey values", shrink=0.2, aspect=20)
    return figure


def _captioned(results: xr.Dataset, task: str) -> xr.Dataset | None:
    """The runs of CAPTIONS as `best_*` variables, (model, noise); the best along other axes. None
    where the study has no such runs."""
    where = {name: [value] for name, value in CAPTIONS[task].items()}
    if any(name not in results.dims for name in where) or "reconstruction" not in results:
        return None
    if any(values[0] not in results[name].values for name, values in where.items()):
        return None
    return xr.Dataset(best(results.sel(where | {"task": [task]}))).squeeze("task")
