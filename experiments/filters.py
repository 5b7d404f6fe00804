"""Learn the filters of a convolutional regulariser: the running example of [CF].

python -m experiments.filters vertical-bars
python -m experiments.filters cameraman --image cameraman.tif [--learn beta]
python -m experiments.filters natural --image TRAINING_FOLDER --test-images TEST_FOLDER
python -m experiments.filters own --image FOLDER

Repeating the same command goes on after an interruption, or shows the finished run again.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import (
    algorithms,
    checkpoints,
    hypergradients,
    learning,
    losses,
    potentials,
    pretrained,
    recipes,
    solvers,
)
from deqbilevel.files import FileError
from deqbilevel.learning import State
from experiments import (
    command,
    common,
    filter_algorithms,
    filter_lanes,
    filter_results,
    filter_tasks,
    folders,
    options,
    sizes,
)
from experiments.filter_lanes import Lanes
from experiments.filter_results import Outcome
from experiments.filter_tasks import Task
from experiments.options import here
from experiments.records import Log
from experiments.schema import ANY

REVIEW: dict[str, Any] = {
    "potential": "corner_rounded",
    "eps": 0.01,
    "boundary": "circular",
    "optimiser": "adam",
    "learning_rate": 1e-3,
    "schedule": "constant",
    "lower_iterations": 10,
    "adjoint_iterations": 1000,
    "adjoint_tolerance": 1e-5,
    "seeds": 1,
    "images": 8,
    "patch": 50,
}
"""The settings of [CF], for all of its experiments."""

PRESETS: dict[str, dict[str, Any]] = {
    "vertical-bars": REVIEW
    | {"filters": (4, 4, 2), "iterations": 4000, "lower_iterations": 50, "seeds": 6},
    "cameraman": REVIEW | {"filters": (48, 7, 7), "iterations": 10000, "beta_0": -4.0},
    "natural": REVIEW
    | {
        "filters": (48, 7, 7),
        "iterations": 1000,
        "basis": "cosines",
        "potential": "log_sum",
        "eps": 0.02,
        "boundary": "reflecting",
        "learning_rate": 2e-2,
        "schedule": "cosine",
        "lower_iterations": 20,
        "adjoint_iterations": 60,
        "adjoint_tolerance": 1e-2,
        "images": 200,
        "patch": 64,
        "batch": 20,
    },
    "own": REVIEW | {"filters": (24, 5, 5), "iterations": 1000},
}
"""What each experiment stands for; every entry can be overridden."""

START_EVALUATIONS = 200
"""At most, of the lower-level gradient for each training image before the first iteration."""

FINAL_EVALUATIONS = 500
"""At most, of the lower-level gradient for the pictures at the end."""

FINAL_TOLERANCE = 3e-6
"""Where they may stop before that: they are to show converged reconstructions."""

WATCH_EVALUATIONS = 100
"""Of the lower-level gradient for the patches that are watched while learning."""


ITERATIONS = ("lower_iterations", "adjoint_iterations")
"""Options that are those of an algorithm, if one is given."""

LOWER_LEVEL = {"lower_solver": "optimized_gradient", "hypergradient": "minimiser"}
"""Options that an algorithm does not take, and their defaults."""


SMOOTH = [
    name
    for name, phi in potentials.POTENTIALS.items()
    if phi().twice_differentiable and hasattr(phi(), "eps")
]
"""Potentials that a minimiser has hypergradients with, and that bend at `--eps`."""


FILES = (
    *("metrics.jsonl", "latest/<checkpoint>", "pictures.jsonl", "filters.npz", "conditions.txt"),
    *(recipes.file(), "result.json"),
)
"""What a run writes beside its figures, see `folders`."""

COURSE = (
    *("loss", "gradient_norm", "lower_gradient_norm", "adjoint_evaluations", "adjoint_residual"),
    *("adjoint_converged", "lower_solves"),
)
"""What is recorded of the metrics of every iteration."""

RECORD = {"iteration": 0, "seconds": 0.0, "images": 0}
RECORD |= {"held_out": {name: [ANY] for name in ("snr_db", "psnr_db", "ssim")}}
RECORD |= {name: [[ANY]] for name in COURSE}
"""Of a block of iterations: of each lane, of each iteration."""

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
            options |= filter_lanes.described(self.start)
        paths = {name: options[name] and str(options[name]) for name in ("image", "test_images")}
        return options | paths


@command.checked
def main(config: Filters) -> dict[str, Any]:
    """Learn, resuming where an earlier call stopped; returns the headline numbers."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            options = config.resolved()
            _check(options)
            task = filter_tasks.task(
                config.experiment,
                config.image,
                config.test_images,
                *(options[name] for name in ("images", "patch", "seed")),
            )
            _check_images(config, options, task)
            lanes = filter_lanes.lanes_of(options, task)
            chosen = folders.growing(options)
            name = f"filters-{config.experiment}-{common.digest(chosen)}"
            claimed = folders.claim(
                config.out,
                name,
                chosen,
                files=FILES,
                inputs=inputs_of(config, task),
                sources={
                    "--image": config.image,
                    "--test-images": config.test_images,
                    "--start": Path(config.start) if config.start else None,
                },
                fresh=config.fresh,
            )
            out = stack.enter_context(claimed)
        return _learn(config, options, task, lanes, out)


def inputs_of(config: Filters, task: Task) -> dict[str, str]:
    """What tells the images and the filters to start with from others."""
    read: dict[str, Any] = {"images": task._replace(cut=None, source="")}
    if config.start is not None:
        learned = pretrained.load(config.start)
        read["--start"] = (learned.params, learned.boundary)
    return folders.given(read) | {"source": task.source}


def _check(options: dict[str, Any]) -> None:
    """Raises ValueError for a request that cannot be met."""
    if options["algorithm"] is not None:
        _maker(options)
        for name, value in LOWER_LEVEL.items():
            if options[name] != value:
                raise ValueError(
                    f"--algorithm {options['algorithm']} --{name.replace('_', '-')} "
                    f"{options[name]}: an algorithm has its own; leave it out"
                )
    if options["experiment"] != "vertical-bars" and options["image"] is not None:
        kind = "file" if options["experiment"] == "cameraman" else "folder"
        here("--image", Path(options["image"]), kind)
    if options["seed"] + options["seeds"] > 2**32:
        raise ValueError(f"--seed {options['seed']} --seeds {options['seeds']}: beyond 32 bits")
    count, rows, columns = options["filters"]
    if rows * columns < 2:
        raise ValueError(
            f"--filters {count} {rows} {columns}: numbers and no filters; take a larger size"
        )
    if options["experiment"] in ("natural", "own"):
        pixels = options["images"] * options["patch"] ** 2
        sizes.fits(
            32 * pixels * options["realisations"] * options["seeds"],
            f"--images {options['images']} of --patch {options['patch']}, --realisations "
            f"{options['realisations']} and --seeds {options['seeds']}",
            "take fewer or smaller ones",
        )
    if options["batch"] is not None and options["optimiser"] != "adam":
        raise ValueError(
            f"--optimiser {options['optimiser']} --batch {options['batch']}: a line search needs "
            "the same images at every trial; leave --batch out, or take adam"
        )


def _check_images(config: Filters, options: dict[str, Any], task: Task) -> None:
    """Raises ValueError for what the training images are too few, too small or too many for."""
    groups, realisations = task.groups, options["realisations"]
    there = sum(len(g.truth) for g in groups)
    if (config.images or 0) > there:
        raise ValueError(f"--images {config.images}: only {there} training pictures are there")
    if (config.batch or 0) > there * realisations:
        raise ValueError(
            f"--batch {config.batch}: more than the {there * realisations} training images"
        )
    number, rows, columns = options["filters"]
    for height, width in (g.shape for g in groups):
        if rows > height or columns > width:
            raise ValueError(
                f"--filters {number} {rows} {columns}: larger than the image of {height}x{width}"
            )
    pixels = sum(g.truth.size for g in groups) * realisations
    sizes.fits(
        16 * pixels * number * options["seeds"],
        f"--filters {number} {rows} {columns} on {pixels} pixels of training images, --seeds "
        f"{options['seeds']}",
        "take fewer filters, images, realisations or seeds",
    )
    sizes.hypergradient(
        options["hypergradient"],
        parameters=number * (rows * columns + 1),
        images=options["batch"] or there * realisations,
        pixels=max(g.shape[0] * g.shape[1] for g in groups),
    )


def _maker(options: dict[str, Any]) -> filter_algorithms.Make:
    """Raises ValueError for options that the algorithm does not have."""
    chosen = {name: options[name] for name in ITERATIONS}
    batches = options["batch"] is not None
    transformation = filter_lanes.optimiser_of(options)({}, 0)
    return filter_algorithms.maker(options["algorithm"], transformation, chosen, batches=batches)


def _learn(
    config: Filters, options: dict[str, Any], task: Task, lanes: Lanes, out: Path
) -> dict[str, Any]:
    learner, params, _, f, *_ = lanes
    if options["beta_0"] is None and options["start"] is None:
        lanes = lanes._replace(params=params | {"beta_0": filter_lanes.searched(options, lanes)})
    done = checkpoints.latest_step(out / "latest") or 0
    evaluations = 0 if done or not options["iterations"] else START_EVALUATIONS
    start = jax.vmap(lambda p, f: learning.start(learner, p, f, evaluations=evaluations))
    state = jax.jit(start)(lanes.params, f)
    if options["algorithm"] is not None:
        state = _algorithm_start(options, lanes, state)
    if done:
        state = checkpoints.restore(out / "latest", state)
    state, records = _train(config, options, task, lanes, state, done, out)
    outcome = Outcome(
        options,
        task,
        lanes.truth,
        lanes.pictures,
        before=lanes.params,
        after=state.params,
        records=records,
    )
    solver = solvers.optimized_gradient(
        tolerance=FINAL_TOLERANCE, max_evaluations=FINAL_EVALUATIONS
    )
    alone = options | {"seeds": 1}
    return filter_results.report(
        outcome, lambda shape: filter_lanes.model_of(alone, shape), solver, out
    )


def _algorithm_start(
    options: dict[str, Any], lanes: Lanes, state: State
) -> filter_algorithms.State:
    """The states of the lanes, where `learning.start` left the lower level."""
    make, learner, truth = _maker(options), lanes.learner, lanes.truth[0]

    def of_lane(params: dict[str, Any], f: Array, seed: Array, u: Array) -> Any:
        return filter_algorithms.start(learner, make, params, truth, f, seed, u)

    seeds = options["seed"] + jnp.arange(options["seeds"])
    return jax.jit(jax.vmap(of_lane))(state.params, lanes.f[0], seeds, cast(Any, state.u)[0])


def _train(
    config: Filters,
    options: dict[str, Any],
    task: Task,
    lanes: Lanes,
    state: State | filter_algorithms.State,
    done: int,
    out: Path,
) -> tuple[Any, list[dict[str, Any]]]:
    """Blocks of upper-level iterations; each is on disk before the next begins."""
    log = Log.of(out / "metrics.jsonl", RECORD)
    records = _recorded(log, done)
    log.keep(records)
    learner, _, truth, f, *_ = lanes
    sizes = [len(t) for t in truth]

    def images_of(first: int, count: int) -> list[Array]:
        """The images of each step, by shape; none where every step takes all."""
        if options["batch"] is None:
            return []
        seed, batch = options["seed"], options["batch"]
        chosen = filter_tasks.batches(sizes, batch, seed, first, count)
        return [jnp.asarray(x, jnp.int32) for x in chosen]

    def program(count: int) -> Any:
        def run(state: Any, f: list[Array], chosen: list[Array]) -> Any:
            if options["algorithm"] is None:
                return learning.steps(learner, state, truth, chosen or count, f=f)
            make, batches = _maker(options), chosen[0] if chosen else count
            return filter_algorithms.steps(learner, make, state, truth[0], f[0], batches)

        return jax.jit(jax.vmap(run, in_axes=(0, 0, None)))

    compiled: dict[int, Any] = {}
    watch = _watcher(options, task, lanes)
    with tqdm(total=options["iterations"], initial=done, unit="iteration") as bar:
        while done < options["iterations"]:
            count = min(config.block, options["iterations"] - done)
            chosen = images_of(done, count)
            if count not in compiled:
                compiled[count] = learning.ahead(program(count), state, f, chosen)
            begin = time.perf_counter()
            state, metrics = jax.block_until_ready(compiled[count](state, f, chosen))
            seconds = time.perf_counter() - begin
            done += count
            record: dict[str, Any] = {"iteration": done, "seconds": seconds}
            record["images"] = sum(x.size for x in chosen) or count * sum(sizes)
            record["held_out"] = watch(state.params)
            record |= {k: np.asarray(getattr(metrics, k), float).tolist() for k in COURSE}
            log.append(record)
            records.append(record)
            checkpoints.save(out / "latest", done, state)
            products = float(np.mean(record["adjoint_evaluations"]))
            watched = float(np.mean(record["held_out"]["snr_db"]))
            bar.set_postfix_str(f"held out {watched:.2f} dB, {products:.0f} Hessian products")
            bar.update(count)
    return state, records


def _recorded(log: Log, done: int) -> list[dict[str, Any]]:
    """The records of the iterations that the checkpoint has behind it. Raises: FileError."""
    records = [r for r in log.read() if r["iteration"] <= done] if done else []
    if sum(len(r["loss"][0]) for r in records) != done:
        raise FileError(
            f"{log.path}: the records of {done} iterations are needed, and some are missing; put "
            "the file back, or start anew with --fresh"
        )
    return records


def _watcher(
    options: dict[str, Any], task: Task, lanes: Lanes
) -> Callable[[dict[str, Any]], dict[str, list[float | None]]]:
    """params -> SNR, PSNR and SSIM of each lane's held-out images; None where it has none."""
    shape, true = task.held_out.shape, jnp.asarray(task.held_out.truth, jnp.float32)
    model = filter_lanes.model_of(options, shape)
    solver = solvers.optimized_gradient(tolerance=0.0, max_evaluations=WATCH_EVALUATIONS)

    def judge(params: dict[str, Any], f: Array) -> dict[str, Array]:
        u, _ = model.reconstruct(solver, params, f)
        return {
            "snr_db": jnp.mean(losses.snr(u, true)),
            "psnr_db": jnp.mean(losses.psnr(u, true, data_range=1.0)),
            "ssim": jnp.mean(losses.ssim_or_nan(u, true, shape, data_range=1.0)),
        }

    judged = jax.jit(jax.vmap(judge))
    return lambda params: {
        name: [None if np.isnan(x) else x for x in values.tolist()]
        for name, values in judged(params, lanes.held_out).items()
    }


if __name__ == "__main__":
    command.run(Filters, main)
