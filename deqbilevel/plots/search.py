"""What a search costs, by the number of parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deqbilevel.plots.base import finish, key, new_figure, proxies
from deqbilevel.plots.style import LINE, WIDTH, look, styled

COSTS = {"evaluations": "evaluations of the lower level", "seconds": "time / s"}
"""What is drawn, from the numbers of a method."""


@styled
def search_figure(numbers: Mapping[str, Mapping[str, Mapping[str, Any]]], caption: str) -> Figure:
    """Evaluations and seconds against the number of parameters: {parameters: {method: costs}}.

    Costs that are None, of a method that did not arrive, are left out.
    """
    methods = list(dict.fromkeys(name for row in numbers.values() for name in row))
    looks = {name: look(i) for i, name in enumerate(methods)}
    figure = new_figure(WIDTH, 2.6 + LINE * (1 + len(methods) / 4), caption)
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
