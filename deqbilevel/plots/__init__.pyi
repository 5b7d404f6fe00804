from .algorithms import HEIGHTS, algorithm_figure
from .base import save
from .faces import compared_losses, kernel_figure
from .filters import (
    course_figure,
    filter_figure,
    function_figure,
    map_figure,
    profile_figure,
)
from .hypergradients import estimate_figure, method_figure
from .naive import iterate_figure
from .paper import (
    CAPTIONS,
    drawings,
    figure_1,
    figure_5,
    figure_6,
    figures,
    reconstruction_figure,
)
from .runs import loss_curves, reconstructions

__all__ = [
    "CAPTIONS",
    "HEIGHTS",
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
