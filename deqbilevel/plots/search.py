"""What a search costs, by the number of parameters, and by the problem."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deqbilevel.plots.base import finish, key, new_figure, proxies
from deqbilevel.plots.style import LINE, WIDTH, look, styled

COSTS = {"evaluations": "evaluations of the lower level", "seconds": "time / s"}
"""What is drawn, from the numbers of a method."""

ARRIVALS = COSTS | {"evaluations": "evaluations"}
"""The same in few words."""

Numbers = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""{parameters or problem: {method: costs}}; a cost is None of a method that did not arrive."""


@styled
def search_figure(numbers: Numbers, caption: str, *, single: Collection[str] = ()) -> Figure:
    """Evaluations and seconds against the number of parameters.

    Costs that are None are left out. Methods of `single` have dashed lines.
    """
    looks = _looks(numbers, single)
    figure = new_figure(WIDTH, 2.6 + LINE * (1 + len(looks) / 4), caption)
    for axes, (cost, label) in zip(figure.subplots(1, len(COSTS)), COSTS.items(), strict=True):
        axes.set(xscale="log", yscale="log", ylabel=label)
        for name, style in looks.items():
            known = [(float(R), row[name][cost]) for R, row in numbers.items() if name in row]
            shown = np.array([pair for pair in known if pair[1] is not None], float)
            if len(shown):
                axes.plot(*shown.T, **style)
        finish(axes, "parameters")
    key(figure, proxies(looks), 4)
    return figure


@styled
def arrival_figure(numbers: Numbers, caption: str, *, single: Collection[str] = ()) -> Figure:
    """Evaluations and seconds of each method, a row of points, on each problem, a column.

    A method that did not arrive has in grey, in place of a point, by what part its loss is `above`
    the least, and one without numbers a dash. Names of `single` are in italics.
    """
    looks = _looks(numbers, ())
    names = list(looks)
    figure = new_figure(WIDTH, 2 * (0.4 + LINE * (1.5 + len(names))), caption)
    layout = {"squeeze": False, "sharex": "row", "sharey": True}
    panels = figure.subplots(len(ARRIVALS), len(numbers), **layout)
    for line, (cost, label) in zip(panels, ARRIVALS.items(), strict=True):
        for axes, (problem, row) in zip(line, numbers.items(), strict=True):
            axes.set(xscale="log", title=problem)
            place = {"ha": "right", "va": "center", "color": "0.45"}
            place |= {"transform": axes.get_yaxis_transform()}
            for i, name in enumerate(names):
                if name not in row:
                    axes.text(0.98, i, "-", **place)
                elif row[name][cost] is None:
                    axes.text(0.98, i, f"{row[name]['above']:+.1%}", **place)
                else:
                    axes.plot(row[name][cost], i, **looks[name])
        for axes in line:
            finish(axes, label)
            axes.tick_params(axis="x", labelrotation=45 if len(numbers) > 4 else 0)
        axes = line[0]
        axes.set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
        axes.set_yticklabels(names)
        for text, name in zip(axes.get_yticklabels(), names, strict=True):
            text.set_fontstyle("italic" if name in single else "normal")
    return figure


def _looks(numbers: Numbers, single: Collection[str]) -> dict[str, dict[str, Any]]:
    """Of each method."""
    methods = dict.fromkeys(name for row in numbers.values() for name in row)
    return {
        name: look(i) | {"linestyle": "--" if name in single else "-"}
        for i, name in enumerate(methods)
    }
