"""Ridge regularisers for denoising, convex and weakly convex, learned and judged.

python -m experiments.ridge [--model weakly-convex] [--data images:DIR] [--test DIR] [--out DIR]
python -m experiments.ridge --model spline --sigma 25 15 5 --data images:DIR --test DIR

R(u) = sum_c s_c^-2 1' psi(s_c W_c u) with a chain of small convolutions for W, see
`deqbilevel.regularizers.ridge`: of a convex psi, or of one whose concave part leaves the whole cost
convex. It is learned on patches of photographs with lower levels that go on warm; then the pictures
of a folder are denoised, each at its own size. The model `spline` is one for all levels of noise:
filters and psi are learned at the first of --sigma, at each further one only the scales s_c there,
and between them these are interpolated. `deqbilevel reconstruct --by` takes `model` there.
Repeating the same command goes on after an interruption.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from deqbilevel import data, recipes
from deqbilevel.commands import command, common, folders, learn, options, reconstruct, ways
from deqbilevel.commands.ways import Way
from deqbilevel.regularizers import spline_ridge
from experiments.ridge import figures

RUN, TESTED = "learned", "test"
"""Folders of the run and of the denoised pictures; of further levels of noise with the level."""

MODEL = "model"
"""Folder of what was learned in all."""

FILES = ("filters.png", "potential.png", "decibels.png", f"{MODEL}/{recipes.file()}", "result.json")
"""What the command writes beside, see `folders`."""

MODELS = {
    "convex": "ridge",
    "weakly-convex": "weakly_convex_ridge",
    "spline": "spline_ridge",
    "multiscale": "multiscale_ridge",
    "icnn": "input_convex",
    "idcnn": "difference_of_convex",
    "tdv": "total_deep_variation",
}
"""Regularisers by the names that they have here."""

NETWORKS = ("icnn", "idcnn", "tdv")
"""Those without a chain of convolutions."""

LEVELS = ("levels",)
"""What is learned at further levels of noise."""

MOST = 30.0
"""Grey levels of noise up to which a spline model goes."""

FULL = 255.0
"""Grey levels of an image in [0, 1]."""


@dataclass(frozen=True)
class Ridge:
    """Learn a ridge regulariser, and denoise pictures by it."""

    model: Literal["convex", "weakly-convex", "spline", "multiscale", "icnn", "idcnn", "tdv"] = (
        "weakly-convex"
    )
    """Ridge regularisers: convex, weakly-convex, spline, multiscale (weakly convex, on the picture
    and on half of it); networks: icnn, input-convex, idcnn, a difference of two, tdv, total deep
    variation."""
    channels: Annotated[tuple[int, int, int], options.whole(1, 1024)] = (4, 8, 16)
    """Of the three convolutions of the chain, from the first to the last; a network has the last
    in all its layers."""
    size: Annotated[int, options.whole(1, 31)] = 5
    """Height and width of each; odd."""
    boundary: Literal["reflecting", "zero", "circular"] = "reflecting"
    """How images are continued beyond their border; reflecting: with the flips of all filters."""
    sigma: Annotated[tuple[float, ...], options.number(above=0, most=255)] = (25.0,)
    """Standard deviation of the noise, of 255 grey levels; several with --model spline."""
    data: Annotated[str, options.data] = "photographs"
    """What is learned from: photographs, images:DIR, arrays:FILE."""
    patch: Annotated[int, options.side, options.patches] = 48
    """Height and width of the patches of images:DIR."""
    shape: Annotated[tuple[int, int] | None, options.side, options.default("64x64")] = None
    """Height and width of the parts of photographs."""
    train_size: Annotated[int | None, options.size, options.default("all")] = None
    test_size: Annotated[int | None, options.size, options.default("all")] = None
    """Patches, and held-out ones by which each epoch is judged."""
    batch_size: Annotated[int, options.size] = 32
    epochs: Annotated[int, options.whole(0)] = 20
    learning_rate: Annotated[float, options.rate] = 5e-3
    """Adam's, at the start of its cosine schedule."""
    evaluations: Annotated[int, options.whole(1, 100_000)] = 20
    """Of the gradient in each step, which goes on where the last left an image."""
    products: Annotated[int, options.whole(1, 100_000)] = 12
    """With the Hessian, likewise; of truncated, evaluations that are differentiated."""
    loss: Literal["mean_squared_error", "snr"] = "mean_squared_error"
    """Made small on patches: snr is minus their mean PSNR and a constant."""
    hypergradient: Literal["minimiser", "jacobian_free", "truncated"] = "minimiser"
    """minimiser solves the adjoint system, jacobian_free takes its right-hand side."""
    initial: Annotated[Path | None, options.default("none")] = None
    """Start with what another run learned, or with what ships by its name."""
    test: Annotated[
        Path | None, options.folder("pictures to be denoised"), options.default("none")
    ] = None
    """Their grey values are the truth, each at its own size."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


def check(config: Ridge) -> None:
    """Raises: ValueError for levels of noise that the model has not."""
    if len(config.sigma) > 1 and config.model != "spline":
        raise ValueError(
            f"--model {config.model} --sigma {' '.join(f'{x:g}' for x in config.sigma)}: is of one "
            "level of noise; take --model spline, or one of them"
        )
    if config.model == "spline" and max(config.sigma) > MOST:
        raise ValueError(
            f"--model spline --sigma {max(config.sigma):g}: its levels end at {MOST:g}; take less, "
            "or another model"
        )
    if len({*config.sigma}) < len(config.sigma):
        raise ValueError(f"--sigma {config.sigma}: expected each level of noise once")


@command.checked
def main(config: Ridge) -> dict[str, Any]:
    """Learn, resuming where an earlier call stopped, draw and denoise; returns the numbers."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            check(config)
            asked = common.options_of(config) | {
                name: str(getattr(config, name)) for name in ("initial", "test")
            }
            name = f"ridge-{common.digest(asked)}"
            out = config.out or Path("runs") / name
            run = ways.configs([Way(RUN, {})], _shared(config), out)[RUN]
            sources = {"--data": data.place(config.data), "--test": config.test}
            fresh = config.fresh
            claimed = folders.claim(out, name, asked, files=FILES, sources=sources, fresh=fresh)
            out = stack.enter_context(claimed)
        numbers = {**learn.main(run), "out": str(out)}
        last = out / RUN
        for sigma in config.sigma[1:]:
            also = {"initial": last, "learn": LEVELS, "noise": sigma / FULL}
            way = Way(f"{RUN}-{sigma:g}", also)
            numbers[way.name] = learn.main(ways.configs([way], _shared(config), out)[way.name])
            last = out / way.name
        learned = recipes.load(last)
        if len(config.sigma) > 1:
            learned = learned._replace(params=_of_all_levels(learned, config.sigma))
        (out / MODEL).mkdir(exist_ok=True)
        recipes.save(out / MODEL / recipes.file(), learned)
        levels = ", ".join(f"{sigma:g}" for sigma in config.sigma)
        caption = f"{config.model}, noise {levels} of 255"
        figures.draw_learned(learned, caption, out)
        figures.draw_course(out / RUN, numbers, caption, out)
        if config.test is not None:
            for sigma in config.sigma:
                numbers |= _denoised(config, sigma, out)
        folders.write(out / "result.json", json.dumps(common.plain(numbers), indent=1))
        return numbers


def _of_all_levels(learned: recipes.Learned, sigma: Sequence[float]) -> Any:
    """The params at the levels between those that were learned, too."""
    most = learned.recipe.regularizer_options["most_noise"]
    return spline_ridge.filled(learned.params, [x / FULL for x in sigma], most)


def _denoised(config: Ridge, sigma: float, out: Path) -> dict[str, Any]:
    """The numbers of the pictures of --test at a level of noise."""
    name = TESTED if sigma == config.sigma[0] else f"{TESTED}-{sigma:g}"
    own = {"seed": config.seed, "out": out / name, "fresh": config.fresh, "noise": sigma / FULL}
    assert config.test is not None
    found = reconstruct.main(
        reconstruct.Reconstruct(config.test, by=out / MODEL, simulate=True, **own)
    )
    prefix = name.replace("-", "_")
    return {f"{prefix}_{number}": found[number] for number in ("pictures", *reconstruct.NUMBERS)}


def _shared(config: Ridge) -> dict[str, Any]:
    """The options of `learn`."""
    pictures, network = options.pictures(config), config.model in NETWORKS
    return {
        "operator": "identity",
        "regularizer": MODELS[config.model],
        "regularizer__channels": config.channels[-1 if network else slice(None)],
        "regularizer__size": config.size,
        "regularizer__boundary": config.boundary,
        "noise": config.sigma[0] / FULL,
        "loss": (config.loss,),
        "initial": config.initial,
        "hypergradient": config.hypergradient,
        "lower_evaluations": config.evaluations,
        "adjoint_evaluations": config.products,
        "data": config.data,
        "shape": (64, 64) if config.data == "photographs" and not config.shape else config.shape,
        "train_size": config.train_size,
        "test_size": config.test_size,
        "range": "0..1",
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "schedule": "cosine",
        "seed": config.seed,
        "fresh": config.fresh,
    } | ({"patch": config.patch} if pictures else {})
