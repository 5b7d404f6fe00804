"""Upper-level losses: what a reconstruction is judged by while learning, and measures for reports.

A loss is a function (u, truth) of reconstructions and true images `[batch, pixels]`, or an
`Informed` one of whatever is known; either is one number, a mean over the images. The table
`LOSSES` makes them for images of a shape:

    loss = losses.LOSSES["huber"]((28, 28), eps=0.1)
    loss = losses.named(["ssim", "mean_absolute_error:weight=0.1"], (28, 28), peak=2.0)
"""

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any

from deqbilevel import checks
from deqbilevel.checks import Registry
from deqbilevel.losses.base import (
    Additive,
    Informed,
    Known,
    Loss,
    Penalised,
    Supervised,
    of,
    of_truth,
    per_image,
    plain,
    require,
    shares,
)
from deqbilevel.losses.observer import detectability
from deqbilevel.losses.scores import (
    SSIM_WINDOW,
    has_ssim,
    mean_scores,
    psnr,
    quantised,
    scores,
    snr,
    ssim,
    ssim_or_nan,
)
from deqbilevel.losses.similarity import multiscale_dissimilarity, structural_dissimilarity
from deqbilevel.losses.squares import (
    half_squared_error,
    high_frequency_error,
    huber,
    mean_absolute_error,
    mean_squared_error,
    negative_snr,
)
from deqbilevel.losses.summed import semi_supervised, summed
from deqbilevel.losses.without_truth import (
    discrepancy,
    exact_sure,
    monte_carlo_sure,
    noise_corridor,
    whiteness,
)

__all__ = [
    "LOSSES",
    "SSIM_WINDOW",
    "Additive",
    "Informed",
    "Known",
    "Loss",
    "Penalised",
    "Supervised",
    "detectability",
    "discrepancy",
    "exact_sure",
    "half_squared_error",
    "has_ssim",
    "high_frequency_error",
    "huber",
    "mean_absolute_error",
    "mean_scores",
    "mean_squared_error",
    "monte_carlo_sure",
    "multiscale_dissimilarity",
    "named",
    "negative_snr",
    "noise_corridor",
    "of",
    "of_truth",
    "per_image",
    "plain",
    "psnr",
    "quantised",
    "require",
    "scores",
    "semi_supervised",
    "shares",
    "snr",
    "ssim",
    "ssim_or_nan",
    "structural_dissimilarity",
    "summed",
    "whiteness",
]

LOSSES: Registry[Callable[..., Any]] = Registry(
    "loss",
    {
        "mean_squared_error": lambda shape: mean_squared_error,
        "half_squared_error": lambda shape: half_squared_error,
        "mean_absolute_error": lambda shape: mean_absolute_error,
        "huber": huber,
        "snr": lambda shape: negative_snr,
        "high_frequency_error": high_frequency_error,
        "ssim": structural_dissimilarity,
        "ms_ssim": multiscale_dissimilarity,
        "detectability": detectability,
        "discrepancy": discrepancy,
        "exact_sure": exact_sure,
        "monte_carlo_sure": monte_carlo_sure,
        "whiteness": whiteness,
        "noise_corridor": noise_corridor,
    },
)
"""Every upper-level loss, built for an image shape and with options of its own; `peak`, where it is
one, is the range of values. The shared property tests walk this table."""


def named(words: Sequence[str], shape: tuple[int, int], peak: float) -> Loss:
    """The loss that words say: NAME, or NAME:option=value,option=value; of several their sum, in
    which `weight` (1) is an option of each.

    Raises: ValueError for no word, a name or an option that there is not, and a value that is none.

    >>> loss = losses.named(["huber:eps=1", "mean_squared_error:weight=0.5"], (1, 1), peak=1.0)
    >>> u, truth = jnp.array([[3.0]]), jnp.array([[0.0]])
    >>> print(losses.of(loss, u, losses.Known(truth, truth, {}, None)))  # 5/2 + 9/2
    7.0
    """
    if not words:
        raise ValueError("loss: none; give a name of losses.LOSSES")
    parts = [_named(word, shape, peak) for word in words]
    if len(parts) == 1 and parts[0][0] == 1:
        return parts[0][1]
    return summed(parts)


def _named(word: str, shape: tuple[int, int], peak: float) -> tuple[float, Loss]:
    """Weight and loss."""
    name, _, said = word.partition(":")
    build = LOSSES[name]
    kinds = typing.get_type_hints(build)
    has = [option for option in inspect.signature(build).parameters if option != "shape"]
    options: dict[str, Any] = {"peak": peak} if "peak" in has else {}
    has = [option for option in has if option != "peak"]
    weight: Any = 1.0
    for pair in filter(None, said.split(",")):
        option, _, text = pair.partition("=")
        if option not in (*has, "weight"):
            raise ValueError(
                f"loss {name}: has no option {option!r}; expected {', '.join((*has, 'weight'))}"
            )
        kind = int if kinds.get(option) in (int, int | None) else float
        try:
            value = kind(text)
        except ValueError as error:
            number = "a whole number" if kind is int else "a number"
            raise ValueError(f"loss {word!r}: {pair!r}; expected {option}={number}") from error
        if option == "weight":
            weight = checks.number("weight", value, least=0)
        else:
            options[option] = value
    return weight, build(shape, **options)
