"""What options ask of memory and time that no machine has, known from the images' size."""

from collections.abc import Sequence
from typing import Any

from deqbilevel import plans
from deqbilevel.data import Images

LARGEST = 128 * 128
"""Pixels of an image, of which a dense A has the square."""

COPIES = 6
"""Of the weights at one time: themselves, a gradient, Adam's two, and both sides of an update."""

PARAMETERS = 5_000
"""A way to a hypergradient that works through them one by one takes more than a minute a step."""

UNKNOWNS = 400
"""Pixels of an image whose adjoint system is put together and solved for each image and step."""

ONE_BY_ONE = ("forward", "finite_differences")


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


def batch(config: Any, count: int) -> None:
    """Raises ValueError for a batch that was asked for and is larger than all training images."""
    default = type(config).batch_size
    if config.batch_size != default and config.batch_size > count:
        raise ValueError(
            f"--batch-size {config.batch_size}: more than the {count} training images; take "
            f"{count} or fewer"
        )


def hypergradient(name: str, model: str, images: Images) -> None:
    """Raises ValueError for a way to a hypergradient that does not end on images of that size."""
    pixels = images.train.shape[1]
    parameters = pixels**2 * (2 if model == "deq" else 1) + pixels
    instead = "take an implicit one, such as anderson or gmres"
    if name in ONE_BY_ONE and parameters > PARAMETERS:
        raise ValueError(
            f"--hypergradient {name}: works through {parameters:,} parameters one by one, expected "
            f"at most {PARAMETERS:,}; {instead}"
        )
    if name == "dense" and pixels > UNKNOWNS:
        raise ValueError(
            f"--hypergradient dense: a system of {pixels} unknowns for each image and step, "
            f"expected at most {UNKNOWNS}; {instead}"
        )


def fits(needed: float, what: str, advice: str) -> None:
    """Raises ValueError for more bytes than are free on a device."""
    free = plans.free_memory()
    if needed > free:
        raise ValueError(
            f"{what} takes {needed / 2**30:.3g} GiB or more, and {free / 2**30:.3g} GiB are free; "
            f"{advice}"
        )
