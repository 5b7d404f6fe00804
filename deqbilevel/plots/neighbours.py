"""Ways to learn the same filters: what they reach by the time, and after other iterations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deqbilevel.plots.base import finish, key, new_figure, proxies
from deqbilevel.plots.style import LINE, WIDTH, look, styled

Points = Sequence[Sequence[Any]]
"""Pairs of numbers; those with a null are not drawn."""

PANELS = {
    "learned for": ("seconds of learning", "PSNR of held-out images / dB"),
    "changed": ("iterations at test", "PSNR of test pictures / dB"),
}
"""The axes of the two panels."""

SHOWN_DB = 8.0
"""Below the best value of a panel, drawn."""


@styled
def neighbour_figure(panels: Mapping[str, Mapping[str, Points]], caption: str) -> Figure:
    """PSNR against seconds of learning, and against the iterations of the reconstruction.

    panels: "learned for" and "changed", each from a way to its points. What is `SHOWN_DB` below the
    best of a panel is cut off, so that what diverges hides nothing.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    looks = {name: look(i) for i, name in enumerate(names)}
    figure = new_figure(WIDTH, 2.8 + LINE * (1 + len(names) / 4), caption)
    axes = figure.subplots(1, len(PANELS), squeeze=False)[0]
    for at, (panel, labels) in zip(axes, PANELS.items(), strict=True):
        best = -np.inf
        for name, points in panels[panel].items():
            # What is there before any learning has no place on a logarithmic axis.
            x, y = _drawn([point for point in points if point[0] > 0])
            if len(x):
                at.set_xscale("log")
            at.plot(x, y, label=name, **looks[name])
            best = max(best, *y[np.isfinite(y)], -np.inf)
        at.set_ylabel(labels[1])
        if np.isfinite(best):
            at.set_ylim(bottom=max(at.get_ylim()[0], best - SHOWN_DB))
        finish(at, labels[0])
    key(figure, proxies(looks), 4)
    return figure


@styled
def points_figure(panels: Mapping[str, Mapping[str, Points]], caption: str) -> Figure:
    """Curves through a few points, a panel for each group."""
    figure = new_figure(WIDTH, 2.6, caption)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for at, (title, curves) in zip(axes, panels.items(), strict=True):
        for i, (label, points) in enumerate(curves.items()):
            at.plot(*_drawn(points), **look(i))
            at.set_ylabel(label)
        at.set_title(title)
    return figure


def _drawn(points: Points) -> tuple[np.ndarray, np.ndarray]:
    known = np.array([point for point in points if None not in point], float).reshape(-1, 2)
    return known[:, 0], known[:, 1]
