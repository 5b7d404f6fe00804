"""Iterates of models that were trained in different ways: Figure 7 of [REB]."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deqbilevel.plots.base import new_figure, note, styled

Pictures = Float[np.ndarray, "pictures pixels"]

SIZE = 0.8
"""Of a picture, in inches, with the gap to the next."""


@styled
def iterate_figure(
    given: Mapping[str, Pictures],
    courses: Mapping[str, Sequence[Pictures]],
    names: Sequence[str],
    shape: tuple[int, int],
    caption: str,
) -> Figure:
    """For each picture a line of grey iterates on [-1, 1] per course, beside what was given.

    Args:
        given: label to the pictures that all courses share, such as truth and measurement.
        courses: label to the pictures of each iterate; of one that is not finite stands "none".
        names: of the iterates.
        shape: (height, width), with height * width = pixels.
        caption: stands below, wrapped.

    Raises:
        ValueError: there is no picture or no course.
    """
    count = min((len(pictures) for pictures in given.values()), default=0)
    if not count or not courses:
        raise ValueError(f"{count} pictures and {len(courses)} courses: there is nothing to draw")
    heads, lines = [*given, *names], list(product(range(count), courses))
    width, height = 1.2 + SIZE * len(heads), 0.4 + SIZE * len(lines)
    figure = new_figure(width, height, "", caption, "compressed")
    grid = figure.subplots(len(lines), len(heads), squeeze=False)
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontsize=9)
    for row, (picture, label) in zip(grid, lines, strict=True):
        first = label == next(iter(courses))
        shared = [pictures[picture] if first else None for pictures in given.values()]
        iterates = [pictures[picture] for pictures in courses[label]]
        for axes, image in zip(row, shared + iterates, strict=True):
            _draw(axes, image, shape)
        row[len(given)].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def _draw(axes: Axes, image: Float[np.ndarray, " pixels"] | None, shape: tuple[int, int]) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if image is None:
        axes.set_axis_off()
    elif np.isfinite(image).all():
        axes.imshow(image.reshape(shape), cmap="gray", vmin=-1, vmax=1)
    else:
        axes.set_facecolor("0.93")
        note(axes, "none")
