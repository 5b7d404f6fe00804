"""Ways to a hypergradient against each other."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from deqbilevel.plots.base import new_figure, styled

QUANTITIES = {
    "budget": "budget of the lower level",
    "evaluations": "evaluations and products",
    "seconds": "seconds",
    "peak_mb": "MB",
}
"""What the error can be drawn against."""


@styled
def method_figure(
    rows: Sequence[dict[str, Any]],
    caption: str,
    quantities: Sequence[str] = ("budget", "seconds", "peak_mb"),
) -> Figure:
    """Relative error of each method against `quantities`, a line of panels for each problem.

    A row has problem, method, relative_error and the quantities; what is not finite is left out.
    """
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = new_figure(2.0 + 3.3 * len(quantities), 3.4 * len(problems), "", caption)
    panels = figure.subplots(len(problems), len(quantities), squeeze=False, sharey="row")
    colours = mpl.colormaps["tab20"](np.linspace(0, 1, max(len(methods), 2)))[: len(methods)]
    for line, problem in zip(panels, problems, strict=True):
        for axes, quantity in zip(line, quantities, strict=True):
            for method, colour in zip(methods, colours, strict=True):
                own = [r for r in rows if r["problem"] == problem and r["method"] == method]
                shown = [r for r in own if r["relative_error"] and r[quantity]]
                if shown:
                    x, y = zip(*((r[quantity], r["relative_error"]) for r in shown), strict=True)
                    axes.plot(x, y, "o-", color=colour, markersize=3, linewidth=1, label=method)
            axes.set(xscale="log", yscale="log", xlabel=QUANTITIES[quantity])
            axes.grid(color="0.92")
            axes.set_axisbelow(True)
        line[0].set_ylabel("relative error of the gradient")
        line[0].set_title(problem, loc="left", fontsize=10, fontweight="bold")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    return figure


@styled
def estimate_figure(rows: Sequence[dict[str, Any]], caption: str) -> Figure:
    """Relative error of each estimate against the lower-level iterations T, and below it divided by
    rho^T; a column for each problem.

    A row has problem, estimate, iterations, relative_error and the contraction rho of an iteration.
    Errors below 1e-13 are left out, and with them what comes after. A dashed line grows as T.
    """
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    figure = new_figure(1.0 + 3.4 * len(problems), 5.6, "", caption)
    panels = figure.subplots(2, len(problems), squeeze=False, sharey="row")
    for (above, below), problem in zip(panels.T, problems, strict=True):
        own = [row for row in rows if row["problem"] == problem]
        top = 0.0
        for name in dict.fromkeys(row["estimate"] for row in own):
            points = sorted(
                (r["iterations"], r["relative_error"], r["rho"])
                for r in own
                if r["estimate"] == name
            )
            shown = list(itertools.takewhile(lambda point: point[1] > 1e-13, points))
            if shown:
                T, errors, rho = np.array(shown, float).T
                above.plot(T, errors, "o-", markersize=3, linewidth=1, label=name)
                below.plot(T, errors / rho**T, "o-", markersize=3, linewidth=1)
                top = max(top, *errors / rho**T)
        last = max((r["iterations"] for r in own if r["relative_error"] > 1e-13), default=1)
        below.plot([last / 5, last], [top / 5, top], "--", color="0.5", linewidth=0.8)
        above.set(yscale="log")
        below.set(xscale="log", yscale="log", xlabel="lower-level iterations T")
        above.set_title(problem, loc="left", fontsize=10, fontweight="bold")
        for axes in (above, below):
            axes.grid(color="0.92")
            axes.set_axisbelow(True)
    panels[0][0].set_ylabel("relative error of the gradient")
    panels[1][0].set_ylabel("the same / rho^T")
    panels[0][0].legend(fontsize=7)
    return figure
