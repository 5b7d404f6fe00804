"""Iterates of models that were trained in different ways: Figure 7 of [REB]."""

from collections.abc import Mapping, Sequence
from itertools import product

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from deqbilevel import losses
from deqbilevel.plots.base import new_figure, wrapped
from deqbilevel.plots.greys import Pictures, bar, blank, show
from deqbilevel.plots.style import HEIGHT, LINE, WIDTH, caption_height, styled

GREY = (-1.0, 1.0)

LINES = 8
"""That a page holds, at a size at which the numbers can be read."""


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
    the PSNR of each; as many pictures as a page has lines for.

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
    shown = min(count, max(LINES // len(courses), 1))
    heads, lines = [*given, *names], list(product(range(shown), courses))
    truth, *others = (np.asarray(pictures[:shown]) for pictures in given.values())
    below = {label: [_psnr(u[:shown], truth) for u in us] for label, us in courses.items()}
    beside = [[""] * shown, *(_psnr(u, truth) for u in others)]
    sentence = f"{caption.rstrip('. ')}. Below pictures: PSNR in dB."
    sentence += " r: relative residual over all test images." if residuals else ""
    sentence += f" The first {shown} of {count} pictures." if shown < count else ""
    texts = LINE * (len(lines) + len(courses) + 3)
    free = HEIGHT - texts - caption_height(wrapped(sentence, WIDTH))
    side = min((WIDTH - 1.6) / len(heads), free / len(lines) - 0.03)
    figure = new_figure(WIDTH, (side + 0.03) * len(lines) + texts, sentence, "compressed")
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


def _psnr(u: Pictures, truth: Pictures) -> list[str]:
    found = losses.psnr(jnp.asarray(u), jnp.asarray(truth), data_range=GREY[1] - GREY[0])
    return [f"{x:.2f}" if np.isfinite(x) else "" for x in found.tolist()]
