"""What options ask of memory and time that no machine has, known from the images' size."""

from collections.abc import Sequence
from typing import Any

from deqbilevel.data import Images
from deqbilevel.studies import plans

LARGEST = 128 * 128
"""Pixels of an image, of which a dense A has the square."""

COPIES = 6
"""Of the weights at one time: themselves, a gradient, Adam's two, and both sides of an update."""

ONE_BY_ONE_WORK = 10**7
"""Parameters times pixels of all images of a step; more is minutes for a step."""

DENSE_WORK = 10**10
"""Images of a step times the third power of their pixels, likewise."""

ONE_BY_ONE = ("forward", "finite_differences")
"""Ways to a hypergradient that take a solve, or its derivative, for each parameter."""


def dense(config: Any, models: Sequence[str], images: Images, lanes: int = 1) -> None:
    """Raises ValueError for images whose dense models do not fit, `lanes` of them at once."""
    pixels = images.train.shape[1]
    advice = "take smaller ones, or experiments.faces, whose models are convolutional"
    matrix = 4 * pixels**2
    if pixels > LARGEST:
        raise ValueError(
            f"--data {config.data}: images of {pixels} pixels make a dense A of "
            f"{matrix / 2**30:.1f} GiB; {advice}"
        )
    factors = 2 if "deq" in models else 1
    fits(
        COPIES * factors * matrix * lanes,
        f"--data {config.data}: training {'/'.join(models)} on images of {pixels} pixels",
        advice,
    )


def batch(config: Any, count: int) -> int | None:
    """The size of a batch, None for the default, which fits.

    Raises: ValueError for one that was asked for and is larger than all training images.
    """
    default = type(config).batch_size
    if config.batch_size != default and config.batch_size > count:
        raise ValueError(
            f"--batch-size {config.batch_size}: more than the {count} training images; take "
            f"{count} or fewer"
        )
    return None if config.batch_size == default else config.batch_size


def hypergradient(name: str, *, parameters: int, images: int, pixels: int) -> None:
    """Raises ValueError for a way to a hypergradient that does not end at that size, where a step
    sees so many images."""
    where = f"{images} images of {pixels} pixels in a step"
    instead = "take an implicit one, such as anderson or gmres, or less at once"
    if name in ONE_BY_ONE and parameters * images * pixels > ONE_BY_ONE_WORK:
        raise ValueError(
            f"--hypergradient {name}: works through {parameters:,} parameters one by one, for "
            f"{where}, which does not end; {instead}"
        )
    if name == "dense" and images * pixels**3 > DENSE_WORK:
        raise ValueError(
            f"--hypergradient dense: solves for {pixels} unknowns at once, for {where}, which "
            f"takes minutes each; {instead}"
        )


def fits(needed: float | int, what: str, advice: str) -> None:
    """Raises ValueError for more bytes than are free on a device."""
    free = plans.free_memory()
    if needed > free:
        raise ValueError(
            f"{what} takes {needed / 2**30:.3g} GiB or more, and {free / 2**30:.3g} GiB are free; "
            f"{advice}"
        )
