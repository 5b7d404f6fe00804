"""Figures, as matplotlib objects that are returned and never shown."""

from deqbilevel.plots.base import save
from deqbilevel.plots.paper import (
    figure_1,
    figure_5,
    figure_6,
    figures,
    reconstruction_figure,
)
from deqbilevel.plots.runs import loss_curves, reconstructions

__all__ = [
    "figure_1",
    "figure_5",
    "figure_6",
    "figures",
    "loss_curves",
    "reconstruction_figure",
    "reconstructions",
    "save",
]
