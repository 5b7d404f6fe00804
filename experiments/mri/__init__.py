"""Magnetic resonance imaging from few frequencies: Figure 3.1 of [CF], and learned regularisers.

python -m experiments.mri [--data images:DIR] [--ways weights filters] [--rate 0.25] [--out DIR]

Measurements are f = s F u + noise, with the unitary Fourier transform F and a mask s, see
`operators.fourier`. Figure 3.1 reconstructs a Shepp-Logan phantom by

    min_u 1/2 ||s F u - f||^2 + 10^beta sum phi(finite differences of u)

from u = K^T f for three strengths beta. Then images of --data are split, and of the test images are
compared: K^T f (zero filling), that penalty with learned weights, and learned filters.
Repeating the same command goes on after an interruption.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from deqbilevel import operators
from deqbilevel.commands import command, common, folders, options, ways
from deqbilevel.commands.ways import Way
from experiments.mri import figure

ADJOINT = "zero filling"

WEIGHTS = {
    "regularizer__filters": (2, 2, 2),
    "regularizer__basis": "differences",
    "learn": ("beta",),
    "learning_rate": 0.1,
}
"""Finite differences down and right, whose weights are learned."""

FILTERS = {
    "regularizer__potential": "corner_rounded",
    "regularizer__eps": 0.02,
    "regularizer__beta_0": -6.0,
    "schedule": "cosine",
    "adjoint_evaluations": 200,
    "adjoint_tolerance": 1e-2,
}
"""A convex potential: of the bounded log-sum the Hessian is indefinite on what the mask does not
see, and no step has an adjoint (its residual was 24 on slices of heads)."""

LEARNS = options.only("with --ways", lambda config: bool(config.ways))
FILTERING = options.only("with filters among --ways", lambda config: "filters" in config.ways)


@dataclass(frozen=True)
class Mri:
    """Draw Figure 3.1, and learn to reconstruct images from few frequencies."""

    strengths: Annotated[tuple[float, ...], options.number(-20, 20)] = (-6.0, -3.0, 1.0)
    """beta of Figure 3.1: the penalty is weighted by 10^beta."""
    side: Annotated[int, options.whole(16, 1024)] = 128
    """Height and width of its phantom."""
    ways: Annotated[tuple[Literal["weights", "filters"], ...], options.may_be_empty] = ("weights",)
    """What is learned then; none: --ways without a value."""
    pattern: Annotated[str, options.among(operators.PATTERNS)] = "lines"
    """Which frequencies are sampled."""
    rate: Annotated[float, options.number(above=0, most=1)] = 0.25
    """The part of them that is."""
    coils: Annotated[int, options.whole(1, 64)] = 1
    """Receiving coils, of smooth sensitivities."""
    noise: Annotated[float, options.noise] = 0.01
    """Standard deviation in both parts of the data, of images in [0, 1]."""
    filters: Annotated[tuple[int, int, int], options.whole(1, 1000), FILTERING] = (48, 7, 7)
    """Number, height and width of the learned filters."""
    filters_rate: Annotated[float, options.rate, FILTERING] = 2e-3
    """Learning rate of the filters, falling by a cosine."""
    epochs: Annotated[int, options.whole(0), LEARNS] = 20
    batch_size: Annotated[int | None, options.size, LEARNS, options.default("100, or all")] = None
    """Images of a step of learning filters; weights take all images."""
    data: Annotated[str, options.data, LEARNS] = "phantoms:shepp_logan"
    """Images to learn from: whole pictures of images:DIR, phantoms:NAME, arrays:FILE."""
    shape: Annotated[tuple[int, int] | None, options.side, LEARNS, options.default("all of it")] = (
        None
    )
    """Height and width of phantoms, or of the middle of pictures that is taken."""
    train_size: Annotated[int | None, options.size, LEARNS, options.default("all")] = None
    test_size: Annotated[int | None, options.size, LEARNS, options.default("all")] = None
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Mri) -> dict[str, Any]:
    """Draw, learn what is missing, and compare; returns the scores."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            files = ("figure_3_1.png", "summary.md", "result.json")
            runs, claimed = ways.claimed(config, "mri", ways_of(config), shared(config), files)
            out = stack.enter_context(claimed)
        snr = figure.draw_3_1(config, out)
        numbers: dict[str, Any] = {"figure_3_1_snr_db": snr}
        if runs:
            caption = (
                f"{config.rate:.0%} of the frequencies by {config.pattern}, noise {config.noise:g}"
            )
            rows = ways.compared(runs, out, ADJOINT, caption)
            print(f"\n{ways.table(rows)}\n")
            folders.write(out / "summary.md", ways.table(rows))
            numbers |= rows
        folders.write(out / "result.json", json.dumps(numbers, indent=1))
        return numbers | {"out": str(out)}


def shared(config: Mri) -> dict[str, Any]:
    """Options of `learn` for all ways."""
    return {
        "operator": "fourier",
        "operator__pattern": config.pattern,
        "operator__rate": config.rate,
        "operator__coils": config.coils,
        "regularizer": "convolutional",
        "noise": config.noise,
        "data": config.data,
        "shape": config.shape,
        "train_size": config.train_size,
        "test_size": config.test_size,
        "range": "0..1",
        "epochs": config.epochs,
        "seed": config.seed,
        "fresh": config.fresh,
    } | ({"whole": True} if config.data.startswith("images:") else {})


def ways_of(config: Mri) -> list[Way]:
    """Those that are asked for."""
    filters = FILTERS | {
        "regularizer__filters": config.filters,
        "learning_rate": config.filters_rate,
        "batch_size": config.batch_size,
    }
    known = {"weights": WEIGHTS, "filters": filters}
    return [Way(name, known[name]) for name in config.ways]
