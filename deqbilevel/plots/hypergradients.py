"""Ways to a hypergradient against each other."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deqbilevel.plots.base import finish, key, new_figure, proxies
from deqbilevel.plots.style import LINE, WIDTH, look, styled

QUANTITIES = {
    "budget": "budget of the lower level / evaluations",
    "evaluations": "evaluations and products",
    "seconds": "time / s",
    "peak_mb": "memory / MB",
}
"""What the error can be drawn against."""

ASIDE = 0.6
"""Width over which the methods of one budget stand side by side, in natural logarithms."""


@styled
def method_figure(
    rows: Sequence[dict[str, Any]],
    caption: str,
    quantities: Sequence[str] = ("budget", "seconds", "peak_mb"),
) -> Figure:
    """Relative error of each method against `quantities`, a line of panels for each problem.

    A row has problem, method, relative_error and the quantities; what is not finite is left out.
    The methods of one budget stand side by side, as many have the same error. Points are joined
    where a larger budget is further right, which it need not be in time or memory.
    """
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    looks = {method: look(i) | {"linewidth": 0.8} for i, method in enumerate(methods)}
    legend = LINE * (1 + len(methods) / 4)
    figure = new_figure(WIDTH, 2.4 * len(problems) + legend, caption)
    panels = figure.subplots(len(problems), len(quantities), squeeze=False, sharey="row")
    for line, problem in zip(panels, problems, strict=True):
        for axes, quantity in zip(line, quantities, strict=True):
            axes.set(xscale="log", yscale="log")
            for i, method in enumerate(methods):
                own = [r for r in rows if r["problem"] == problem and r["method"] == method]
                shown = [r for r in own if r["relative_error"] and r[quantity]]
                if shown:
                    x, y = np.array([(r[quantity], r["relative_error"]) for r in shown], float).T
                    style = looks[method].copy()
                    if quantity == "budget":
                        x = x * np.exp(ASIDE * (i / max(len(methods) - 1, 1) - 0.5))
                    elif quantity != "evaluations":
                        style["linestyle"] = ""
                    axes.plot(x, y, label=method, **style)
            finish(axes, QUANTITIES[quantity])
        line[0].set_ylabel("relative error of the gradient")
        line[0].set_title(problem, fontweight="bold")
    key(figure, proxies(looks), 4)
    return figure


@styled
def estimate_figure(rows: Sequence[dict[str, Any]], caption: str) -> Figure:
    """Relative error of each estimate against the lower-level iterations T, and below it divided by
    rho^T; a column for each problem.

    A row has problem, estimate, iterations, relative_error and the contraction rho of an iteration.
    Errors below 1e-13 are left out, and with them what comes after. A dashed line grows as T.
    """
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    names = list(dict.fromkeys(row["estimate"] for row in rows))
    figure = new_figure(max(4.5, WIDTH * len(problems) / 3), 4.2, caption)
    panels = figure.subplots(2, len(problems), squeeze=False, sharey="row")
    for (above, below), problem in zip(panels.T, problems, strict=True):
        own = [row for row in rows if row["problem"] == problem]
        above.set(yscale="log")
        below.set(xscale="log", yscale="log")
        top = 0.0
        for i, name in enumerate(names):
            points = sorted(
                (r["iterations"], r["relative_error"], r["rho"])
                for r in own
                if r["estimate"] == name
            )
            shown = list(itertools.takewhile(lambda point: point[1] > 1e-13, points))
            if shown:
                T, errors, rho = np.array(shown, float).T
                above.plot(T, errors, **look(i))
                below.plot(T, errors / rho**T, **look(i))
                top = max(top, *errors / rho**T)
        last = max((r["iterations"] for r in own if r["relative_error"] > 1e-13), default=1)
        below.plot([last / 5, last], [top / 5, top], "--", color="0.5", linewidth=0.8)
        above.set_title(problem, fontweight="bold")
        finish(above, "")
        finish(below, "lower-level iterations T")
    panels[0][0].set_ylabel("relative error\nof the gradient")
    panels[1][0].set_ylabel("relative error / $\\rho^T$")
    looks = {name: look(i) for i, name in enumerate(names)}
    key(figure, proxies(looks | {"growth as T": {"color": "0.5", "linestyle": "--"}}), 4)
    return figure
