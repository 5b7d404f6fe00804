"""TV, TGV and ICTV without smoothing: weights by a grid, by hypergradients, and for each pixel.

python -m experiments.variational [--pictures DIR] [--sets piecewise_constant] [--out DIR]

    grid       the weight of the first term from --weights, of a second one --ratios times it, that
               are best on the training images
    learned    the weights go on from there by the hypergradient of their squared error
    field      a weight for each pixel and test image, interpolated between points --spacing apart,
               goes on from there by the error of that image: what no method knows, and so a bound
               for those that predict weights from the measurement

All are denoising, solved to a certified gap; see `deqbilevel.variational`. The figure `ramp.png`
has a noisy ramp by each model. Repeating the same command goes on after an interruption.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tqdm import tqdm

from deqbilevel.commands import command, common, folders, options
from deqbilevel.commands.records import Log
from experiments.variational import learning, report

Set = Literal["piecewise_constant", "piecewise_linear", "photographs"]
Model = Literal["tv", "tgv", "ictv"]


@dataclass(frozen=True)
class Variational:
    """Find the weights of every model on every set of images in every way."""

    sets: Annotated[tuple[Set, ...], options.may_be_empty] = (
        "piecewise_constant",
        "piecewise_linear",
        "photographs",
    )
    """Phantoms that a seed draws, and parts of photographs."""
    models: tuple[Model, ...] = ("tv", "tgv", "ictv")
    pictures: Annotated[Path | None, options.folder("pictures"), options.default("none")] = None
    """Folder of pictures for a set more, of whose middles some are learned from."""
    side: Annotated[int, options.whole(16, 512)] = 48
    """Height and width of the images."""
    train_size: Annotated[int, options.whole(1, 100)] = 4
    test_size: Annotated[int, options.whole(1, 100)] = 4
    noise: Annotated[float, options.number(above=0, most=1)] = 0.1
    """Standard deviation, of images in [0, 1]."""
    weights: Annotated[tuple[float, ...], options.number(1e-4, 10)] = (0.04, 0.06, 0.09, 0.13, 0.2)
    ratios: Annotated[tuple[float, ...], options.number(1e-3, 1e3)] = (0.7, 1.5, 3.0)
    """Weight of the second term in that of the first."""
    steps: Annotated[int, options.whole(0, 10_000)] = 25
    """Of Adam, of each of the learned ways."""
    learning_rate: Annotated[float, options.rate] = 0.1
    """Of the logarithms of weights."""
    spacing: Annotated[int, options.whole(1, 512)] = 6
    """Pixels between the points of a field."""
    tolerance: Annotated[float, options.tolerance] = 1e-4
    """Largest relative gap of a solution."""
    max_iterations: Annotated[int, options.count] = 2000
    """Of a solution, at most."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Variational) -> dict[str, Any]:
    """Find what is missing; returns {set: {model: {way: numbers}}}."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            sets = learning.sets_of(config)
            cases = [(name, model) for name in sets for model in config.models]
            if not cases:
                raise ValueError("--sets and --pictures: nothing to denoise; give one of them")
            read = {"--pictures": sets["pictures"][1:]} if "pictures" in sets else {}
            chosen = common.options_of(config, without=("out", "fresh", "pictures"))
            claimed = folders.claim(
                config.out,
                f"variational-{common.digest(chosen)}",
                chosen,
                files=report.files_of(cases),
                inputs=folders.given(read),
                sources={"--pictures": config.pictures},
                fresh=config.fresh,
            )
            out = stack.enter_context(claimed)
        log = Log.of(out / "rows.jsonl", report.ROW)
        rows = log.read()
        done = {(row["set"], row["model"], row["way"]) for row in rows}
        with tqdm(total=len(cases), unit="case") as bar:
            for name, model in cases:
                bar.set_postfix_str(f"{name}, {model}")
                if any((name, model, way) not in done for way in learning.WAYS):
                    for row in learning.found(config, sets[name], name, model, out):
                        if (name, model, row["way"]) not in done:
                            rows.append(row)
                            log.append(row)
                bar.update(1)
        return report.show(config, sets, rows, out) | {"out": str(out)}
