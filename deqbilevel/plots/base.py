"""What every figure is made of: a page with a caption, grids of pictures, curves. None is shown."""

import functools
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Rows = dict[str, Float[np.ndarray, "pictures pixels"]]
P = ParamSpec("P")
T = TypeVar("T")


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """The function under matplotlib's own style: a user's may ask for what is not there (LaTeX)."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            return draw(*args, **kwargs)

    return drawn


@styled
def save(figure: Figure, path: str | Path) -> None:
    """Writes the figure as PNG at 150 dpi; a reader of `path` never sees half a file.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(part, format="png", dpi=150)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def new_figure(
    width: float, height: float, title: str, caption: str, layout: Any = "constrained"
) -> Figure:
    """An empty figure of that size in inches, higher by what the wrapped caption needs."""
    caption = textwrap.fill(caption, int(15 * width))
    height += 0.15 * (1 + caption.count("\n"))
    figure = Figure(figsize=(width, height), layout=layout)
    if title:
        wrapped = textwrap.fill(title, int(9 * width))
        figure.suptitle(wrapped, x=0.02, ha="left", fontsize=12)
    figure.supxlabel(caption, x=0.02, ha="left", fontsize=8, color="0.35", parse_math=False)
    return figure


def note(axes: Axes, text: str) -> None:
    """A remark in the middle of axes that have nothing to show."""
    middle = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, text, color="0.45", fontsize=8, **middle)


@styled
def picture_grid(
    blocks: dict[str, Rows], shape: tuple[int, int], title: str, caption: str
) -> Figure:
    """Blocks of labelled rows of grey pictures below each other, a column per picture."""
    labelled = [(head, label, rows[label]) for head, rows in blocks.items() for label in rows]
    columns = max((len(pictures) for _, _, pictures in labelled), default=0)
    if not columns:
        raise ValueError("rows: there is no picture to draw")
    wide = float(np.clip(12 / len(labelled), 0.75, 1))
    high = wide * float(np.clip(shape[0] / shape[1], 0.5, 2))
    height = 0.4 + len(labelled) * (high + 0.06) + 0.3 * len(blocks)
    width = max(5.5, 2.2 + columns * (wide + 0.06))
    figure = new_figure(width, height, title, caption, "compressed")
    grid = figure.subplots(len(labelled), columns, squeeze=False)
    seen = set()
    for line, (head, label, pictures) in zip(grid, labelled, strict=True):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
        if head not in seen:
            line[0].set_title(head, loc="left", fontsize=10, fontweight="bold")
            seen.add(head)
        for axes, picture in zip(line, pictures, strict=False):
            axes.imshow(picture.reshape(shape), cmap="gray", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if np.isnan(picture).all():
                axes.set_facecolor("0.93")
                note(axes, "none")
        for axes in line[len(pictures) :]:
            axes.set_axis_off()
    return figure


def finish(axes: Axes, x_label: str, grid: Literal["both", "y"] = "y") -> None:
    """Whole epochs or runs on the axes that are not logarithmic, a light grid behind."""
    axes.set_xlabel(x_label)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "linear":
            most = 5 if axis is axes.xaxis else 10  # labels of thousands stand side by side
            ticks = MaxNLocator(most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
            axis.set_major_locator(ticks)
    axes.grid(which="both", axis=grid, color="0.92")
    axes.set_axisbelow(True)


def curve(axes: Axes, epochs: Sequence[Any], loss: Sequence[Any], **style: Any) -> None:
    """One loss against the epoch; few epochs are marked, so that a single one is visible."""
    marker = "o" if len(epochs) <= 20 else ""
    axes.plot(epochs, loss, marker=marker, markersize=3, linewidth=1.5, **style)


def level(axes: Axes, value: float, label: str, **style: Any) -> None:
    """A dotted line at a loss that nothing was learned for."""
    axes.axhline(value, linestyle=":", linewidth=1, label=label, **style)
