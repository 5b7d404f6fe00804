"""What upper-level losses see, and what is learned by them: Figures 3.2 and 6.4 of [CF].

python -m experiments.losses [--losses mean_squared_error ssim monte_carlo_sure] [--out DIR]
python -m experiments.losses --losses --tables counts mri accuracy

Figure 3.2: one phantom, blurred, with white noise, with salt and pepper and with an offset, each of
the same normalised error ||u - truth|| / ||truth||, under every loss of the truth. Figure 6.4: the
function by which the noise corridor counts a local variance. Then the regulariser of a denoising
problem is learned by each loss, with the truth or without, and all are judged by it alike. Tables:

    counts      of photons: the corridor and the discrepancy of their deviance against squared error
    mri         a quarter of the frequencies: probes and the discrepancy against squared error
    adapted     weights that were learned, tuned to each picture of a folder without its truth
    corners     a corner rounding that falls while learning against a fixed one, in time
    accuracy    how well the lower level is solved in each step

Repeating the same command goes on after an interruption.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from deqbilevel.commands import command, common, folders, options, ways
from experiments.losses import adapted, corners, figures, tables

LEARNS = options.only(
    "with --losses or --tables", lambda config: bool(config.losses or config.tables)
)
ADAPTS = options.only("with adapted among --tables", lambda config: "adapted" in config.tables)


@dataclass(frozen=True)
class Losses:
    """Draw Figures 3.2 and 6.4, and learn by several losses."""

    error: Annotated[float, options.number(above=0, most=1)] = 0.17
    """Normalised error of Figure 3.2."""
    side: Annotated[int, options.whole(24, 1024)] = 128
    """Height and width of its phantom."""
    losses: Annotated[tuple[str, ...], options.may_be_empty] = (
        *("mean_squared_error", "ssim", "high_frequency_error"),
        *tables.WITHOUT_TRUTH,
    )
    """Losses to learn by, as of `learn --loss`; none: --losses without a value."""
    tables: Annotated[
        tuple[Literal["counts", "mri", "adapted", "corners", "accuracy"], ...],
        options.may_be_empty,
    ] = ()
    """Further comparisons."""
    regularizer: Literal["weights", "predicted", "filters"] = "weights"
    """What is learned: the weights of differences to the neighbours, beside them a network that
    predicts from the measurement how they vary in space, or filters and weights."""
    filters: Annotated[
        tuple[int, int, int],
        options.whole(1, 1000),
        options.only("with --regularizer filters", lambda c: c.regularizer == "filters"),
    ] = (24, 5, 5)
    """Number, height and width."""
    noise: Annotated[float, options.number(above=0, most=10)] = 0.1
    """Standard deviation, of images in [0, 1]."""
    peak: Annotated[
        float,
        options.number(above=0, most=1e4),
        options.only("with counts among --tables", lambda config: "counts" in config.tables),
    ] = 20.0
    """Mean counts where an image is 1."""
    slices: Annotated[
        str,
        options.data,
        options.only("with mri among --tables", lambda config: "mri" in config.tables),
    ] = "phantoms:shepp_logan"
    """Images of the table mri: whole ones of images:DIR, phantoms:NAME, arrays:FILE."""
    pictures: Annotated[
        Path | None, options.folder("pictures"), ADAPTS, options.default("none")
    ] = None
    """Folder of those that are adapted to."""
    adapt: Annotated[tuple[str, ...], ADAPTS] = ("monte_carlo_sure", "discrepancy")
    """Losses that they are adapted by, each by itself."""
    tolerances: Annotated[
        tuple[float, ...],
        options.tolerance,
        options.only("with accuracy among --tables", lambda config: "accuracy" in config.tables),
    ] = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    """Relative residuals to which the lower level is solved."""
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
    judge: Annotated[
        Path | None,
        options.folder("pictures"),
        options.only("with --losses", lambda config: bool(config.losses)),
        options.default("the test images"),
    ] = None
    """Folder of pictures that --losses are judged by."""
    judged: Annotated[
        int,
        options.whole(1, 1000),
        options.only("with --judge", lambda config: config.judge is not None),
    ] = 20
    """The first so many of them."""
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
            if "adapted" in config.tables and config.pictures is None:
                raise ValueError("--tables adapted: of which pictures? give --pictures")
            groups = {"learned": tables.of_losses(config)} if config.losses else {}
            groups |= {name: tables.of(config, name) for name in config.tables}
            every = [way for group in groups.values() for way in group]
            files = ("figure_3_2.png", "figure_6_4.png", "summary.md", "result.json")
            files += tuple(f"{name}/{ways.PICTURE}" for name in config.tables)
            files += corners.FILES if "corners" in config.tables else ()
            judges = tables.judges(config.judge, config.judged) if config.judge else None
            shared = tables.shared(config)
            read = {"--pictures": config.pictures, "--judge": config.judge}
            runs, claimed = ways.claimed(config, "losses", every, shared, files, read)
            out = stack.enter_context(claimed)
        seen = figures.draw_3_2(config, out)
        figures.draw_6_4(out)
        text = f"# Figure 3.2\n\n{figures.table(seen)}\n"
        numbers: dict[str, Any] = {"figure_3_2": seen}
        for name, group in groups.items():
            own = {way.name.removeprefix(f"{name}/"): runs[way.name] for way in group}
            if name == "corners":
                numbers[name], said = corners.compared(own["course"], out)
            elif name == "adapted":
                numbers[name], said = adapted.compared(config, own["population"], out)
            else:
                by = judges if name == "learned" else None
                numbers[name], said = tables.compared(name, own, by, out)
            text += f"\n# {tables.TITLES[name]}\n\n{said}\n"
        print(f"\n{text}", flush=True)
        folders.write(out / "summary.md", text)
        folders.write(out / "result.json", json.dumps(numbers, indent=1))
        return numbers | {"out": str(out)}
