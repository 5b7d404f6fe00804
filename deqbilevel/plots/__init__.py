"""Figures, as matplotlib objects that are returned and never shown."""

from deqbilevel.plots.algorithms import algorithm_figure
from deqbilevel.plots.base import save
from deqbilevel.plots.faces import compared_losses, kernel_figure
from deqbilevel.plots.filters import (
    course_figure,
    filter_figure,
    function_figure,
    map_figure,
    profile_figure,
)
from deqbilevel.plots.hypergradients import estimate_figure, method_figure
from deqbilevel.plots.naive import iterate_figure
from deqbilevel.plots.paper import (
    CAPTIONS,
    drawings,
    figure_1,
    figure_5,
    figure_6,
    figures,
    reconstruction_figure,
)
from deqbilevel.plots.runs import loss_curves, reconstructions

__all__ = [
    "CAPTIONS",
    "algorithm_figure",
    "compared_losses",
    "course_figure",
    "drawings",
    "estimate_figure",
    "figure_1",
    "figure_5",
    "figure_6",
    "figures",
    "filter_figure",
    "function_figure",
    "iterate_figure",
    "kernel_figure",
    "loss_curves",
    "map_figure",
    "method_figure",
    "profile_figure",
    "reconstruction_figure",
    "reconstructions",
    "save",
]
