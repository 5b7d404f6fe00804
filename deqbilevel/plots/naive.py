"""Iterates of models that were trained in different ways: Figure 7 of [REB]."""

from collections.abc import Mapping, Sequence
from itertools import product

from matplotlib.figure import Figure

from deqbilevel.plots.base import new_figure
from deqbilevel.plots.greys import BELOW, Pictures, bar, blank, numbers, show
from deqbilevel.plots.style import HEIGHT, LINE, WIDTH, styled

GREY = (-1.0, 1.0)


@styled
def iterate_figure(
    given: Mapping[str, Pictures],
    courses: Mapping[str, Sequence[Pictures]],
    names: Sequence[str],
    shape: tuple[int, int],
    caption: str,
    residuals: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """For each picture a line of grey iterates on [-1, 1] per course, beside what was given, with
    the PSNR and SSIM of each.

    Args:
        given: label to the pictures that all courses share, the truth first, then such as the
            measurement.
        courses: label to the pictures of each iterate; of one that is not finite stands "none".
        names: of the iterates.
        shape: (height, width), with height * width = pixels.
        caption: stands below, wrapped.
        residuals: label to the relative residual ||G(u) - u|| / ||G(u)|| of each iterate, over all
            pictures; it stands above those of the first.

    Raises:
        ValueError: there is no picture or no course.
    """
    count = min((len(pictures) for pictures in given.values()), default=0)
    if not count or not courses:
        raise ValueError(f"{count} pictures and {len(courses)} courses: there is nothing to draw")
    heads, lines = [*given, *names], list(product(range(count), courses))
    truth, *others = given.values()
    peak = GREY[1] - GREY[0]
    below = {label: [numbers(u, truth, shape, peak) for u in us] for label, us in courses.items()}
    beside = [[""] * count, *(numbers(u, truth, shape, peak) for u in others)]
    texts = LINE * (len(lines) + len(courses) + 4)
    side = min((WIDTH - 0.9) / len(heads), (HEIGHT - texts) / len(lines) - 0.03)
    sentence = f"{caption.rstrip('. ')}. {BELOW} r: relative residual over all test images."
    height = (side + 0.03) * len(lines) + texts
    figure = new_figure(0.9 + side * len(heads), height, sentence, "compressed")
    grid = figure.subplots(len(lines), len(heads), squeeze=False)
    for row, (picture, label) in zip(grid, lines, strict=True):
        first = label == next(iter(courses))
        for axes, pictures, said in zip(row, given.values(), beside, strict=False):
            if first:
                show(axes, pictures[picture].reshape(shape), GREY, said[picture])
            else:
                blank(axes)
        for i, axes in enumerate(row[len(given) :]):
            image = courses[label][i][picture].reshape(shape)
            show(axes, image, GREY, below[label][i][picture])
            if residuals and picture == 0:
                axes.set_title(f"r {residuals[label][i]:.1e}", loc="center", pad=2)
        row[len(given)].set_ylabel(label, rotation=0, ha="right", va="center")
    for axes, head in zip(grid[0], heads, strict=True):
        under = axes.get_title("center")
        axes.set_title(f"{head}\n{under}" if under else head, loc="center", pad=2)
    bar(figure, grid[0][0].images[0], grid.ravel(), "grey values", shrink=0.2, aspect=20)
    return figure
