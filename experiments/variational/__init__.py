"""TV, TGV and ICTV without smoothing: weights by a grid, by hypergradients, and for each pixel.

python -m experiments.variational [--pictures DIR] [--sets piecewise_constant] [--out DIR]
python -m experiments.variational --tables smoothing solvers [--out DIR]

The table of weights has them by three ways:

    grid       the weight of the first term from --weights, of a second one --ratios times it, that
               are best on the training images
    learned    the weights go on from there by the hypergradient of their squared error
    field      a weight for each pixel and test image, interpolated between points --spacing apart,
               goes on from there by the error of that image: what no method knows, and so a bound
               for those that predict weights from the measurement

All are denoising, solved to a certified gap; see `deqbilevel.variational`. The figure `ramp.png`
has a noisy ramp by each model. More tables:

    smoothing  the hypergradient of the exact 1-norm, and of norms rounded at --eps
    solvers    the time of every solver to a relative --gap, beside scikit-image
    corners    filters for signals learned with the exact 1-norm, and with it rounded at --eps
    dictionary patches of photographs from few atoms, which are learned with the task and without
    plug       a blur and few frequencies by denoisers that are plugged in, --denoisers

Repeating the same command goes on after an interruption.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tqdm import tqdm

from deqbilevel.commands import command, common, folders, options
from deqbilevel.commands.records import Log
from experiments.variational import learning, report, tables

Table = Literal["weights", "smoothing", "solvers", "corners", "dictionary", "plug"]
Task = Literal["denoising", "inpainting", "deblurring", "frequencies"]
Denoiser = Literal["tv", "ridge", "network", "bm3d"]
Set = Literal["piecewise_constant", "piecewise_linear", "photographs"]
Model = Literal["tv", "tgv", "ictv"]
Solver = Literal[
    "chambolle_pock",
    "preconditioned",
    "accelerated",
    "admm",
    "fista",
    "proximal_gradient",
    "semismooth_newton",
    "scikit_image",
]


def _of(*tables: Table) -> options.Only:
    """Of an option that only these tables have."""
    words = f"with {' or '.join(tables)} among --tables"
    return options.only(words, lambda config: bool(set(tables) & set(config.tables)))


@dataclass(frozen=True)
class Variational:
    """Find the weights of every model on every set of images in every way."""

    tables: tuple[Table, ...] = ("weights",)
    sets: Annotated[tuple[Set, ...], options.may_be_empty] = (
        "piecewise_constant",
        "piecewise_linear",
        "photographs",
    )
    """Phantoms that a seed draws, and parts of photographs."""
    models: tuple[Model, ...] = ("tv", "tgv", "ictv")
    pictures: Annotated[Path | None, options.folder("pictures"), options.default("none")] = None
    """Folder of pictures for a set more, of whose middles some are learned from."""
    test: Annotated[
        Path | None,
        options.folder("pictures to test on"),
        options.default("some of --pictures"),
        options.only("with --pictures", lambda config: config.pictures is not None),
    ] = None
    """Folder of pictures, the first --test-size of which are denoised in the place of those."""
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
    eps: Annotated[tuple[float, ...], options.number(1e-6, 1), _of("smoothing", "corners")] = (
        *(0.1, 0.01, 0.001, 0.0001),
    )
    """Where norms are rounded."""
    filter_steps: Annotated[int, options.whole(0, 10_000), _of("corners")] = 300
    """Of Adam, for the filters of signals."""
    tasks: Annotated[tuple[Task, ...], _of("dictionary", "plug")] = (
        *("denoising", "inpainting", "deblurring", "frequencies"),
    )
    """The first two are for dictionaries, the others for denoisers that are plugged in."""
    patch: Annotated[int, options.whole(4, 32), _of("dictionary")] = 8
    """Height and width of the patches that are made of atoms."""
    patches: Annotated[int, options.whole(10), _of("dictionary")] = 5000
    """Of --pictures, to learn from; 500 of them at most to test on, or the middles of --test."""
    frequencies: Annotated[int, options.whole(2, 32), _of("dictionary")] = 11
    """Of cosines along rows and along columns, and so the root of the number of atoms."""
    dictionary_steps: Annotated[int, options.whole(0, 10_000), _of("dictionary")] = 1000
    """Of Adam, for the atoms."""
    denoisers: Annotated[tuple[Denoiser, ...], _of("plug")] = ("tv", "ridge", "network")
    """bm3d wants the library of that name."""
    denoised: Annotated[float, options.number(above=0, most=1), _of("plug")] = 0.05
    """Standard deviation of the noise that the network learns to remove."""
    normalise: Annotated[bool, _of("plug")] = True
    """Divide the layers of the network by their norms: it is nonexpansive then."""
    network_steps: Annotated[int, options.whole(0, 100_000), _of("plug")] = 400
    """Of Adam, for the network."""
    solvers: Annotated[tuple[Solver, ...], _of("solvers")] = (
        *("chambolle_pock", "preconditioned", "accelerated", "admm", "fista"),
        *("proximal_gradient", "semismooth_newton", "scikit_image"),
    )
    """The primal-dual algorithm is there in three forms."""
    gap: Annotated[float, options.tolerance, _of("solvers")] = 1e-4
    """At which solvers stop, relative to the cost."""
    denoising_side: Annotated[int, options.whole(16, 512), _of("solvers")] = 256
    """Height and width of the image that solvers denoise."""
    tomography_side: Annotated[int, options.whole(16, 512), _of("solvers")] = 128
    """Height and width of the phantom that they reconstruct."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Variational) -> dict[str, Any]:
    """Find what is missing; returns {set: {model: {way: numbers}}}, and other tables by name."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            sets = learning.sets_of(config) if "weights" in config.tables else {}
            cases = [(name, model) for name in sets for model in config.models]
            if "weights" in config.tables and not cases:
                raise ValueError("--sets and --pictures: nothing to denoise; give one of them")
            tables.check(config)
            given = tables.given(config)
            read = {"--pictures": sets["pictures"][1:]} if "pictures" in sets else {}
            read |= {name: given[name][1:] for name in given if name != "solvers"}
            chosen = common.options_of(config, without=("out", "fresh", "pictures", "test"))
            claimed = folders.claim(
                config.out,
                f"variational-{common.digest(chosen)}",
                chosen,
                files=[*report.files_of(config, cases), *tables.files(config)],
                inputs=folders.given(read),
                sources={"--pictures": config.pictures, "--test": config.test},
                fresh=config.fresh,
            )
            out = stack.enter_context(claimed)
        texts, numbers, last = {}, {}, {}
        if cases:
            rows = _weights(config, sets, cases, out)
            texts["weights"], numbers = report.weights(config, sets, rows, out)
            last = report.headline(numbers)
        others, found = tables.made(config, given, out)
        report.show(out, texts | others, numbers | found)
        return last | found | {"out": str(out)}


def _weights(
    config: Variational, sets: dict[str, Any], cases: list[tuple[str, str]], out: Path
) -> list[dict[str, Any]]:
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
    return rows
