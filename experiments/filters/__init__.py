"""Learn the filters of a convolutional regulariser: the running example of [CF].

python -m experiments.filters vertical-bars
python -m experiments.filters cameraman --image cameraman.tif [--learn beta]
python -m experiments.filters natural --image TRAINING_FOLDER --test-images TEST_FOLDER
python -m experiments.filters own --image FOLDER

Repeating the same command goes on after an interruption, or shows the finished run again.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from deqbilevel import algorithms, hypergradients, solvers
from deqbilevel.commands import command, common, folders, options
from experiments.filters import checking, lanes, report, tasks, training
from experiments.filters.outcome import Outcome
from experiments.filters.presets import ITERATIONS, PRESETS, SMOOTH

OWN = options.only("with natural or own", lambda c: c.experiment in ("natural", "own"))
PICTURED = options.only("with cameraman, natural or own", lambda c: c.experiment != "vertical-bars")
DRAWN = options.only("without --start, which has its own", lambda c: c.start is None)
MOVED = options.only(
    f"without --algorithm {', '.join(algorithms.OWN_STEPS)}",
    lambda c: c.algorithm not in algorithms.OWN_STEPS,
)
BY_ADAM = options.only(
    f"with --optimiser adam, and {MOVED.words}",
    lambda c: c.optimiser in (None, "adam") and MOVED.where(c),
)
BY_EXPERIMENT = options.default("the experiment's")


@dataclass(frozen=True)
class Filters:
    """Learn filters and weights. Unset options: those of [CF], or of the protocol of natural images
    by Chen, Ranftl and Pock, for the experiment."""

    experiment: Annotated[
        Literal["vertical-bars", "cameraman", "natural", "own"], tyro.conf.Positional
    ]
    image: Annotated[Path | None, options.default("scikit-image's camera"), PICTURED] = None
    """cameraman: an image file, by default another picture than [CF]'s; natural, own: a folder of
    images, which has to be given."""
    test_images: Annotated[
        Path | None, options.folder("images to test on"), options.default("a fifth of --image"), OWN
    ] = None
    """A folder of images to test on."""
    images: Annotated[int | None, options.size, BY_EXPERIMENT, OWN] = None
    """Number of training images."""
    patch: Annotated[int | None, options.whole(0, 10_000), BY_EXPERIMENT, OWN] = None
    """Height and width of the random crops that are the training images; 0: whole pictures, whose
    shapes may differ."""
    batch: Annotated[int | None, options.size, options.default("all, of natural 20")] = None
    """Training images in each upper-level iteration."""
    realisations: Annotated[int, options.whole(1, 10_000)] = 1
    """Of the noise, of each training image."""
    learn: Literal["filters-and-beta", "beta"] = "filters-and-beta"
    """What is learned."""
    filters: Annotated[
        tuple[int, int, int] | None, options.whole(1, 10_000), BY_EXPERIMENT, DRAWN
    ] = None
    """Number, height and width. As many as the size has, less one: cosines without the constant,
    divided by the height; else random, of norm 1."""
    basis: Annotated[
        Literal["cosines", "cosines_and_constant", "differences"] | None,
        options.default("of natural cosines, else none"),
        DRAWN,
    ] = None
    """Learn coefficients in this basis; filters of cosines and differences sum to zero."""
    start: Annotated[str | None, options.default("none")] = None
    """Start with the filters of a name of deqbilevel.pretrained, or of a filters.npz."""
    redraw: Annotated[
        float, options.number(0, 0.999), options.only("with --start", lambda c: c.start is not None)
    ] = 0.0
    """Filters weaker than this part of the strongest are drawn anew, as strong as that; a filter
    that learning has switched off has no gradient to come back by."""
    potential: Annotated[str | None, options.among(SMOOTH), BY_EXPERIMENT, DRAWN] = None
    """Of the filters' responses."""
    eps: Annotated[float | None, options.number(1e-5, 100), BY_EXPERIMENT, DRAWN] = None
    """Of the potential: where it bends, with images in [0, 1]."""
    boundary: Annotated[Literal["circular", "zero", "reflecting"] | None, BY_EXPERIMENT] = None
    """Of the convolutions."""
    noise: Annotated[float, options.number(above=0, most=100)] = 25 / 255
    """Standard deviation, with images in [0, 1]."""
    beta_0: Annotated[
        float | None,
        options.number(-30, 30),
        options.default("that of [CF] for the cameraman, else the best of a grid"),
        DRAWN,
    ] = None
    """Of the weights e^(beta_0 + beta_k) at the start."""
    iterations: Annotated[int | None, options.whole(0), BY_EXPERIMENT] = None
    """Upper-level iterations."""
    lower_iterations: Annotated[int | None, options.whole(1, 100_000), BY_EXPERIMENT] = None
    """Evaluations of the lower-level gradient in each of them."""
    lower_solver: Annotated[str, options.among(solvers.DESCENTS)] = "optimized_gradient"
    """Of the lower level."""
    hypergradient: Annotated[str, options.among(["minimiser", *hypergradients.METHODS])] = (
        "minimiser"
    )
    """minimiser: (4.8), warm; others for comparison."""
    adjoint_iterations: Annotated[
        int | None, options.whole(1, 100_000), BY_EXPERIMENT, options.products
    ] = None
    """Products of its backward pass in each of them, at most."""
    adjoint_tolerance: Annotated[
        float | None, options.tolerance, BY_EXPERIMENT, options.products
    ] = None
    """Relative residual of the Hessian system at which a hypergradient is accepted."""
    algorithm: Annotated[str | None, options.among(algorithms.METHODS), options.default("none")] = (
        None
    )
    """One of deqbilevel.algorithms.METHODS, for comparison; by default that of
    deqbilevel.learning: both levels warm, the hypergradient to a residual."""
    optimiser: Annotated[
        Literal["adam", "lbfgs", "gradient_descent"] | None, options.default("adam"), MOVED
    ] = None
    """The last two search along their direction by backtracking, and need the whole batch."""
    learning_rate: Annotated[float | None, options.rate, BY_EXPERIMENT, BY_ADAM] = None
    """Adam's."""
    schedule: Annotated[Literal["constant", "cosine"] | None, BY_EXPERIMENT, BY_ADAM] = None
    """Of the learning rate; the cosine ends at a hundredth of it."""
    seeds: Annotated[int | None, options.whole(1, 1000), BY_EXPERIMENT] = None
    """Random starts and noises, trained together as lanes of one program."""
    seed: Annotated[int, options.seed] = 0
    """The first of them; the first also chooses the crops."""
    block: Annotated[int, options.count] = 100
    """Iterations between two checkpoints."""
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""

    def resolved(self) -> dict[str, Any]:
        """Every option that decides the numbers."""
        options = common.options_of(self, without=("out", "fresh", "block"))
        for name, value in PRESETS[self.experiment].items():
            # An algorithm has iterations of its own.
            if options[name] is None and not (self.algorithm and name in ITERATIONS):
                options[name] = value
        if self.start is not None:
            options |= lanes.described(self.start)
        paths = {name: options[name] and str(options[name]) for name in ("image", "test_images")}
        return options | paths


@command.checked
def main(config: Filters) -> dict[str, Any]:
    """Learn, resuming where an earlier call stopped; returns the headline numbers."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            options = config.resolved()
            checking.request(options)
            sizes = (options[name] for name in ("images", "patch", "seed"))
            task = tasks.task(config.experiment, config.image, config.test_images, *sizes)
            checking.images(config, options, task)
            begun = lanes.lanes_of(options, task)
            chosen = folders.growing(options)
            claimed = folders.claim(
                config.out,
                f"filters-{config.experiment}-{common.digest(chosen)}",
                chosen,
                files=(*training.FILES, *report.FILES),
                inputs=tasks.inputs_of(task, config.start),
                sources={
                    "--image": config.image,
                    "--test-images": config.test_images,
                    "--start": Path(config.start) if config.start else None,
                },
                fresh=config.fresh,
            )
            out = stack.enter_context(claimed)
        begun = lanes.searched(options, begun)
        state, records = training.train(options, task, begun, config.block, out)
        return report.report(Outcome(options, task, begun, state.params, records), out)
