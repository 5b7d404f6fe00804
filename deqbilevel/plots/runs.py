"""The pictures and curves of training runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deqbilevel.plots.base import curve, finish, label_ends, level, new_figure
from deqbilevel.plots.greys import (
    BELOW,
    ERRORS,
    Pictures,
    bar,
    blank,
    error_scale,
    numbers,
    show,
)
from deqbilevel.plots.style import LINE, PALETTE, WIDTH, styled

SHOWN = 4
"""Pictures of a row, at most, so that their errors stand beside them."""

LOSS = "mean squared error"

COLUMNS = 8
"""Pictures of a line of `gallery`."""


@styled
def reconstructions(
    rows: Mapping[str, Pictures],
    shape: tuple[int, int],
    caption: str,
    *,
    grey: tuple[float, float] = (-1.0, 1.0),
    compared: Sequence[str] | None = None,
) -> Figure:
    """A row of grey pictures for each entry; below those that are compared with the first row, the
    truth, their PSNR and SSIM, and beside them the maps of |u - truth|.

    All greys have one scale, and all errors one, see `error_scale`.

    Args:
        rows: label to pictures, the truth first, then such as measurement and reconstruction; the
            first four pictures of each are drawn.
        shape: (height, width), with height * width = pixels.
        caption: stands below, wrapped.
        grey: the values of black and white, whose difference is the peak of PSNR and SSIM.
        compared: the rows that are; all but the first by default.

    Raises:
        ValueError: the shape is not that of the pictures, or there is none.
    """
    labels = list(rows)
    count = min((len(pictures) for pictures in rows.values()), default=0)
    if not count:
        raise ValueError("rows: there is no picture to draw")
    compared = labels[1:] if compared is None else compared
    shown = {name: np.asarray(pictures[:SHOWN], float) for name, pictures in rows.items()}
    truth, wide = shown[labels[0]], min(count, SHOWN)
    of_all = f" The first {wide} of {count} pictures." if count > wide else ""
    said = f" {BELOW}" if compared else ""
    columns = wide * (2 if compared else 1)
    side = float(np.clip((WIDTH - 1.2) / columns, 0.5, 1.3))
    high = side * float(np.clip(shape[0] / shape[1], 0.5, 2))
    height = len(rows) * (high + 0.05) + LINE * (len(compared) + 3)
    sentence = f"{caption.rstrip('. ')}.{said}{of_all}" if said or of_all else caption
    figure = new_figure(1.2 + columns * side, height, sentence, "compressed")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    errors = {name: np.abs(shown[name] - truth) for name in compared}
    most = error_scale(errors.values())
    image = map_ = None
    for name, line in zip(labels, grid, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        below = [""] * wide
        if name in compared:
            below = numbers(shown[name], truth, shape, grey[1] - grey[0])
        for i, (axes, picture) in enumerate(zip(line, shown[name], strict=False)):
            image = show(axes, picture.reshape(shape), grey, below[i])
        for axes, error in zip(line[wide:], errors.get(name, ()), strict=False):
            map_ = show(axes, error.reshape(shape), (0.0, most), cmap=ERRORS)
        if name not in compared:
            for axes in line[wide:]:
                blank(axes)
    across: dict[str, Any] = {"location": "bottom", "shrink": 0.6, "aspect": 25, "pad": 0.02}
    if image is not None:
        bar(figure, image, grid[:, :wide].ravel(), "grey values", **across)
    if map_ is not None:
        label = f"|u - {labels[0].splitlines()[0]}|"
        bar(figure, map_, grid[:, wide:].ravel(), label, extend="max", **across)
    return figure


@styled
def gallery(
    pictures: Pictures, shape: tuple[int, int], caption: str, grey: tuple[float, float]
) -> Figure:
    """All pictures in lines of eight, with one scale.

    Raises:
        ValueError: the shape is not that of the pictures, or there is none.
    """
    if not len(pictures):
        raise ValueError("pictures: there is no picture to draw")
    columns = min(COLUMNS, len(pictures))
    lines = -(-len(pictures) // columns)
    high = 0.8 * float(np.clip(shape[0] / shape[1], 0.5, 2))
    width = max(0.8 * columns + 0.6, 3.0)
    figure = new_figure(width, lines * (high + 0.05) + 0.1, caption, "compressed")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    image: Any = None
    for axes, picture in zip(grid, pictures, strict=False):
        image = show(axes, np.asarray(picture).reshape(shape), grey)
    for axes in grid[len(pictures) :]:
        blank(axes)
    bar(figure, image, grid, "grey values", location="right")
    return figure


def loss_curves(
    records: list[dict[str, Any]],
    caption: str,
    levels: Mapping[str, float] | None = None,
    loss: str = LOSS,
) -> Figure:
    """Train and test loss against the epoch, from dicts with epoch, train_loss and test_loss.

    levels: label to a loss that is drawn across, such as that of the measurement. loss: its name.
    """
    splits = {s: [record[f"{s}_loss"] for record in records] for s in ("train", "test")}
    return compared_losses({"": splits}, [r["epoch"] for r in records], caption, levels, loss)


@styled
def compared_losses(
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    epochs: Sequence[int],
    caption: str,
    levels: Mapping[str, float] | None = None,
    loss: str = LOSS,
) -> Figure:
    """Train (dashed) and test loss of several models against the epoch: {model: {split: loss}}.

    levels, loss: see `loss_curves`.
    """
    height = 3.2
    figure = new_figure(5.5, height, caption)
    axes = figure.subplots()
    for i, (label, value) in enumerate((levels or {}).items()):
        level(axes, value, label, color=str(0.6 * i / len(levels or {})))
    for colour, (model, splits) in zip(PALETTE, curves.items(), strict=False):
        for split, values in splits.items():
            style = {"linestyle": "--", "marker": "s"} if split == "train" else {"marker": "o"}
            label = f"{model}, {split}" if model else f"{split} loss"
            curve(axes, epochs, values, color=colour, label=label, **style)
    axes.set(yscale="log", ylabel=loss)
    finish(axes, "epoch")
    label_ends(axes, height - 0.6)
    return figure
