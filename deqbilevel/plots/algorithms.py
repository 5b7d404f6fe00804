"""Upper-level algorithms against each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deqbilevel.plots.base import finish, key, new_figure, note, proxies
from deqbilevel.plots.style import LINE, WIDTH, look, styled

AXES = {"calls": "oracle calls", "seconds": "time / s"}
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
    looks = {
        m: look(i) | {"linestyle": "--" if m in single else "-"} for i, m in enumerate(methods)
    }
    height = 2.3 * max(len(quantities), 1) + LINE * (2 + len(methods) / 4)
    figure = new_figure(WIDTH, height, caption)
    panels = figure.subplots(max(len(quantities), 1), len(AXES), squeeze=False, sharey="row")
    for line, quantity in zip(panels, quantities, strict=True):
        for axes, against in zip(line, AXES, strict=True):
            axes.set_xscale("log")
            if quantity in ("loss", "gradient_norm"):
                axes.set_yscale("log")
            for i, (method, style) in enumerate(looks.items()):
                own = [row for row in rows if row["method"] == method]
                values = _finite([row[quantity] for row in own])
                x = np.array([np.mean(row[against]) for row in own], float)
                shown = np.isfinite(values).any(axis=1) & (x > 0)
                if shown.any():
                    x, values = x[shown], values[shown]
                    every = -(-len(x) // 6)
                    middle = np.nanmedian(values, axis=1)
                    axes.plot(x, middle, markevery=(i % every, every), **style)
                    low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
                    colour = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
                    axes.fill_between(x, low, high, **colour)
            finish(axes, AXES[against])
        line[0].set_ylabel(HEIGHTS[quantity])
    panels[0][0].set_title(title, fontweight="bold")
    if quantities:
        key(figure, proxies(looks), 4)
    else:
        note(panels[0][0], "nothing was measured")
    return figure


def _finite(values: Sequence[Any]) -> np.ndarray:
    """[points, seeds], NaN for what is None or not finite."""
    x = np.array(values, float)
    return np.where(np.isfinite(x), x, np.nan)
