"""The runs that Figures 2 to 4 of [REB] are of, beside a grid that does not have them."""

from collections.abc import Mapping, Sequence
from typing import Any

from deqbilevel import plots
from deqbilevel.studies import grids
from deqbilevel.studies.storage import Lane


def joined(
    axes: Mapping[str, list[Any]], drawn: Mapping[str, Sequence[float]], lanes: list[Lane]
) -> tuple[dict[str, list[Any]], list[Lane]]:
    """The axes and lanes of a grid with those runs, for every model, noise and further axis.

    The axes then hold values that not every lane is crossed with. A grid in which tau, gamma or
    activation is sampled stays as it is.
    """
    axes = dict(axes)
    wanted = {task: setting for task, setting in plots.CAPTIONS.items() if task in axes["task"]}
    if any(name not in axes for setting in wanted.values() for name in setting):
        return axes, lanes
    before, found = dict(axes), list(lanes)
    for task, setting in wanted.items():
        one = {name: [value] for name, value in ({"task": task} | setting).items()}
        found += [lane for lane in grids.grid(before | one, drawn) if lane not in lanes]
        for name, value in setting.items():
            if value not in axes[name]:
                values = [*axes[name], value]
                axes[name] = values if isinstance(value, str) else sorted(values)
    return axes, found
