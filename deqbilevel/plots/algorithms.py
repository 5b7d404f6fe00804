"""Upper-level algorithms against each other."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from deqbilevel.plots.base import new_figure, note, styled

AXES = {"calls": "oracle calls", "seconds": "seconds"}
"""What the courses are drawn against."""

HEIGHTS = {
    "loss": "upper loss at the minimiser",
    "gradient_norm": "norm of the hypergradient",
    "snr_db": "SNR / dB",
    "psnr_db": "PSNR / dB",
    "accuracy": "test accuracy",
}
"""What can be drawn; the first two on a logarithmic scale."""


@styled
def algorithm_figure(
    rows: Sequence[dict[str, Any]], caption: str, *, single: Sequence[str] = (), title: str = ""
) -> Figure:
    """Loss, norm of the hypergradient and what else was measured, against calls and seconds.

    A row has method, calls, seconds and the quantities of HEIGHTS, each a list over seeds: a line
    is their median, the area around it reaches from the least to the greatest. Methods of `single`
    have dashed lines. Values that are not finite are left out.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    quantities = [name for name in HEIGHTS if rows and name in rows[0]]
    width = 2.2 + 4.2 * len(AXES)
    figure = new_figure(width, 0.6 + 2.9 * max(len(quantities), 1), title, caption)
    panels = figure.subplots(max(len(quantities), 1), len(AXES), squeeze=False, sharey="row")
    colours = mpl.colormaps["tab20"](np.linspace(0, 1, max(len(methods), 2)))
    for line, quantity in zip(panels, quantities, strict=True):
        for axes, against in zip(line, AXES, strict=True):
            for method, colour in zip(methods, colours, strict=False):
                own = [row for row in rows if row["method"] == method]
                values = _finite([row[quantity] for row in own])
                x = np.array([np.mean(row[against]) for row in own], float)
                shown = np.isfinite(values).any(axis=1) & (x > 0)
                if shown.any():
                    x, values = x[shown], values[shown]
                    style = "--" if method in single else "-"
                    axes.plot(x, np.nanmedian(values, axis=1), style, color=colour, label=method)
                    low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
                    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.set_xscale("log")
            if quantity in ("loss", "gradient_norm"):
                axes.set_yscale("log")
            axes.set_xlabel(AXES[against])
            axes.grid(color="0.92")
            axes.set_axisbelow(True)
        line[0].set_ylabel(HEIGHTS[quantity])
    if quantities:
        handles = panels[0][0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside right upper", fontsize=7)
    else:
        note(panels[0][0], "nothing was measured")
    return figure


def _finite(values: Sequence[Any]) -> np.ndarray:
    """[points, seeds], NaN for what is None or not finite."""
    x = np.array(values, float)
    return np.where(np.isfinite(x), x, np.nan)
