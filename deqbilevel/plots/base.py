"""What every figure is made of: a page with a caption, curves with their labels, readable ticks."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from deqbilevel.plots.style import LINE, caption_height

LEADING = ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10)))
"""Digits that ticks of a logarithmic axis begin with, the fewest that suffice."""


def new_figure(width: float, height: float, caption: str, layout: Any = "constrained") -> Figure:
    """An empty figure of that size in inches, higher by what the wrapped caption needs."""
    caption = wrapped(caption, width)
    figure = Figure(figsize=(width, height + caption_height(caption)), layout=layout)
    if caption:
        figure.supxlabel(caption, x=0.01, ha="left", color="0.35", parse_math=False)
    return figure


def wrapped(caption: str, width: float) -> str:
    """A caption in the lines that a figure of that width in inches has for it."""
    return textwrap.fill(caption, int(16 * width))


def note(axes: Axes, text: str) -> None:
    """A remark in the middle of axes that have nothing to show."""
    middle = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, text, color="0.45", **middle)


def key(figure: Figure, handles: Iterable[Artist], columns: int) -> None:
    """What the curves are, above the panels, where it takes none of their width."""
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns)


def proxies(looks: Mapping[str, Mapping[str, Any]]) -> list[Artist]:
    """A line for `key` of each label, in its look."""
    lines: list[Artist] = []
    for label, style in looks.items():
        how: dict[str, Any] = {"markerfacecolor": "none", **style}
        lines.append(Line2D([], [], label=label, **how))
    return lines


def label_ends(axes: Axes, height: float) -> None:
    """The label of each line beside its last point, in its colour, none over another.

    height: of the axes in inches, about. To be called when everything is drawn.
    """
    axes.autoscale_view()
    ends = []
    for line in axes.lines:
        x, y = (np.asarray(values, float) for values in line.get_data())
        label, finite = str(line.get_label()), np.flatnonzero(np.isfinite(y))
        if finite.size and not label.startswith("_"):
            last = axes.transScale.transform((x[finite[-1]], y[finite[-1]]))
            ends.append((float(axes.transLimits.transform(last)[1]), label, line.get_color()))
    ends.sort(key=lambda end: end[0])
    places = spread([end[0] for end in ends], LINE / height)
    for place, (_, label, colour) in zip(places, ends, strict=True):
        beside = {"va": "center", "transform": axes.transAxes}
        axes.text(1.02, place, label, color=colour, **beside)


def spread(places: Sequence[float], gap: float) -> Float[np.ndarray, " places"]:
    """Ascending places moved apart to a gap at least, and into [0, 1] as far as they fit."""
    moved = np.clip(np.array(places, float), 0, 1)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    if len(moved):
        moved[-1] = min(moved[-1], max(1.0, gap * (len(moved) - 1)))
    for i in range(len(moved) - 2, -1, -1):
        moved[i] = min(moved[i], moved[i + 1] - gap)
    return moved


def finish(axes: Axes, x_label: str = "") -> None:
    """Ticks that can be read, whole numbers on an x axis that is not logarithmic.

    To be called when everything is drawn.
    """
    axes.set_xlabel(x_label)
    axes.autoscale_view()
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            log_ticks(axis, 4 if axis is axes.xaxis else 6)
    if axes.get_xscale() == "linear":
        whole(axes.xaxis, 5)


def whole(axis: Axis, most: int) -> None:
    """Ticks at whole numbers, at most so many."""
    axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))


def log_ticks(axis: Axis, most: int = 6) -> None:
    """Between three and `most` labels on a logarithmic axis, plain where numbers are near 1."""
    low, high = sorted(axis.get_view_interval())
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    inside = np.empty(0)
    for digits in LEADING:
        found = np.outer(decades, digits).ravel()
        inside = found[(found >= low) & (found <= high)]
        if len(inside) >= 3:
            break
    if len(inside) < 3:
        found = np.asarray(MaxNLocator(4).tick_values(low, high), float)
        inside = found[(found >= low) & (found <= high)]
    inside = inside[:: max(-(-len(inside) // most), 1)]
    plain = inside.min(initial=1) >= 1e-3 and inside.max(initial=1) < 1e4
    axis.set_ticks(inside, [f"{x:.4g}" if plain else _power(x) for x in inside])
    axis.set_minor_formatter(NullFormatter())


def _power(x: float) -> str:
    digits, exponent = f"{x:.2e}".split("e")
    leading = digits.rstrip("0").rstrip(".")
    factor = "" if leading == "1" else rf"{leading} \cdot "
    return f"${factor}10^{{{int(exponent)}}}$"


def curve(axes: Axes, x: Sequence[Any], y: Sequence[Any], marker: str = "o", **style: Any) -> None:
    """One line; few points are marked, so that a single one is visible."""
    axes.plot(x, y, marker=marker if len(x) <= 20 else "", **style)


def level(axes: Axes, value: float, label: str, **style: Any) -> None:
    """A line across at a loss that nothing was learned for."""
    how: dict[str, Any] = {"linestyle": ":", "label": label} | style
    axes.axhline(value, **how)
