"""What upper-level losses see, and what is learned by them: Figures 3.2 and 6.4 of [CF].

python -m experiments.losses [--losses mean_squared_error ssim monte_carlo_sure] [--out DIR]

Figure 3.2: one phantom, blurred, with white noise, with salt and pepper and with an offset, each of
the same normalised error ||u - truth|| / ||truth||, under every loss of the truth. Figure 6.4: the
function by which the noise corridor counts a local variance. Then the regulariser of a denoising
problem is learned by each loss, with the truth or without, and all are judged by it alike.
Repeating the same command goes on after an interruption.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from deqbilevel.commands import command, common, folders, options, ways
from deqbilevel.commands.ways import Way
from experiments.losses import figures

ADJOINT = "measurement"

WITHOUT_TRUTH = ("monte_carlo_sure", "whiteness", "noise_corridor", "discrepancy")

PROBES = {"lower_tolerance": 1e-6, "lower_evaluations": 300}
"""Both reconstructions of a probe have to be solved far better than it is large."""

LEARNS = options.only("with --losses", lambda config: bool(config.losses))


@dataclass(frozen=True)
class Losses:
    """Draw Figures 3.2 and 6.4, and learn by several losses."""

    error: Annotated[float, options.number(above=0, most=1)] = 0.17
    """Normalised error of Figure 3.2."""
    side: Annotated[int, options.whole(24, 1024)] = 128
    """Height and width of its phantom."""
    losses: Annotated[tuple[str, ...], options.may_be_empty] = (
        *("mean_squared_error", "ssim", "high_frequency_error"),
        *WITHOUT_TRUTH,
    )
    """Losses to learn by, as of `learn --loss`; none: --losses without a value."""
    regularizer: Literal["weights", "filters"] = "weights"
    """What is learned: the weights of differences to the neighbours, or filters and weights."""
    filters: Annotated[
        tuple[int, int, int],
        options.whole(1, 1000),
        options.only("with --regularizer filters", lambda c: c.regularizer == "filters"),
    ] = (24, 5, 5)
    """Number, height and width."""
    noise: Annotated[float, options.number(above=0, most=10)] = 0.1
    """Standard deviation, of images in [0, 1]."""
    epochs: Annotated[int, options.whole(0), LEARNS] = 30
    batch_size: Annotated[int | None, options.size, LEARNS, options.default("100, or all")] = None
    learning_rate: Annotated[
        float | None, options.rate, LEARNS, options.default("0.1 of weights, 0.005 of filters")
    ] = None
    """Adam's, falling by a cosine."""
    data: Annotated[str, options.data, LEARNS] = "photographs"
    """photographs, images:DIR, phantoms:NAME, arrays:FILE."""
    patch: Annotated[int, options.side, options.patches] = 28
    """Height and width of the patches of images:DIR."""
    shape: Annotated[tuple[int, int] | None, options.side, LEARNS, options.default("64x64")] = None
    """Height and width of the parts of photographs, and of phantoms."""
    train_size: Annotated[int | None, options.size, LEARNS, options.default("all")] = None
    test_size: Annotated[int | None, options.size, LEARNS, options.default("all")] = None
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Losses) -> dict[str, Any]:
    """Draw, learn what is missing, and compare; returns the tables."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            files = ("figure_3_2.png", "figure_6_4.png", "summary.md", "result.json")
            runs, claimed = ways.claimed(config, "losses", _ways(config), _shared(config), files)
            out = stack.enter_context(claimed)
        seen = figures.draw_3_2(config, out)
        figures.draw_6_4(out)
        text = f"# Figure 3.2\n\n{figures.table(seen)}\n"
        numbers: dict[str, Any] = {"figure_3_2": seen}
        if runs:
            caption = f"denoising, noise {config.noise:g}, learned by each loss"
            rows = ways.compared(runs, out, ADJOINT, caption)
            text += f"\n# Learned by each loss\n\n{ways.table(rows)}\n"
            numbers["learned"] = rows
        print(f"\n{text}", flush=True)
        folders.write(out / "summary.md", text)
        folders.write(out / "result.json", json.dumps(numbers, indent=1))
        return numbers | {"out": str(out)}


def _shared(config: Losses) -> dict[str, Any]:
    weights = config.regularizer == "weights"
    rate = (0.1 if weights else 5e-3) if config.learning_rate is None else config.learning_rate
    cut = config.data.startswith("images:") and config.shape is None
    shape = None if config.data.startswith(("images:", "arrays:")) else (64, 64)
    return {
        "operator": "identity",
        "regularizer": "convolutional",
        "regularizer__filters": (2, 2, 2) if weights else config.filters,
        "regularizer__basis": "differences" if weights else None,
        "regularizer__beta_0": -2.5 if weights else -4.0,
        "learn": ("beta",) if weights else ("filters", "beta"),
        "noise": config.noise,
        "data": config.data,
        "shape": shape if config.shape is None else config.shape,
        "train_size": config.train_size,
        "test_size": config.test_size,
        "range": "0..1",
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        "learning_rate": rate,
        "schedule": "cosine",
        "seed": config.seed,
        "fresh": config.fresh,
    } | ({"patch": config.patch} if cut else {})


def _ways(config: Losses) -> list[Way]:
    found = []
    for loss in config.losses:
        own = PROBES if loss.startswith("monte_carlo_sure") else {}
        name = loss.replace(":", "-").replace(",", "-").replace("=", "")
        found.append(Way(name, {"loss": (loss,), **own}))
    return found
