"""The problems that searches are compared on, by name."""

from collections.abc import Callable
from typing import Any

from deqbilevel.checks import Registry
from experiments.search.cases import Case
from experiments.search.many import dense, filters, sampling1d
from experiments.search.variation import tgv, tv, tv1d, tv2d

PROBLEMS: Registry[Callable[[Any], list[Case]]] = Registry(
    "problem",
    {
        "tv": tv,
        "tgv": tgv,
        "tv1d": tv1d,
        "tv2d": tv2d,
        "filters": filters,
        "sampling1d": sampling1d,
        "dense": dense,
    },
)
"""Each makes a case for every number of parameters that is asked for."""

SHARED = ("filters", "sampling1d")
"""Those with as many parameters as one likes."""


def build(config: Any) -> list[Case]:
    """The cases of the options. Raises: ValueError for more parameters than there are."""
    return [case for name in config.problem for case in PROBLEMS[name](config)]
