from .algorithms import HEIGHTS, algorithm_figure
from .filters import course_figure, function_figure, map_figure, profile_figure
from .hypergradients import estimate_figure, method_figure
from .kernels import filter_figure, kernel_figure
from .masks import mask_figure
from .naive import iterate_figure
from .neighbours import neighbour_figure, points_figure
from .paper import drawings, figure_1, figure_5, figure_6, figures
from .paper_pictures import CAPTIONS, reconstruction_figure
from .runs import compared_losses, gallery, loss_curves, reconstructions
from .search import arrival_figure, search_figure
from .style import save

__all__ = [
    "CAPTIONS",
    "HEIGHTS",
    "algorithm_figure",
    "arrival_figure",
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
    "gallery",
    "iterate_figure",
    "kernel_figure",
    "loss_curves",
    "map_figure",
    "mask_figure",
    "method_figure",
    "neighbour_figure",
    "points_figure",
    "profile_figure",
    "reconstruction_figure",
    "reconstructions",
    "save",
    "search_figure",
]
