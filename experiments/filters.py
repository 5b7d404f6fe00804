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
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import (
    algorithms,
    bilevel,
    checkpoints,
    hypergradients,
    losses,
    potentials,
    pretrained,
    solvers,
)
from deqbilevel.bilevel import State
from deqbilevel.files import FileError
from experiments import (
    common,
    filter_algorithms,
    filter_lanes,
    filter_results,
    filter_tasks,
    folders,
)
from experiments.filter_lanes import Lanes
from experiments.filter_results import Outcome
from experiments.filter_tasks import Task
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
    "result.json",
)
"""What a run writes beside its figures, see `folders`."""

RECORD = {"iteration": 0, "seconds": 0.0, "images": 0}
RECORD |= {"held_out": {name: [ANY] for name in ("snr_db", "psnr_db", "ssim")}}
RECORD |= {name: [[ANY]] for name in bilevel.Metrics._fields}
"""Of a block of iterations: of each lane, of each iteration."""


@dataclass(frozen=True)
class Filters:
    """Learn filters and weights. Unset options: those of [CF], or of the protocol of natural images
    by Chen, Ranftl and Pock, for the experiment."""

    experiment: Annotated[
        Literal["vertical-bars", "cameraman", "natural", "own"], tyro.conf.Positional
    ]
    image: Path | None = None
    """cameraman: an image file, by default scikit-image's camera, another picture than [CF]'s;
    natural, own: a folder of images."""
    test_images: Path | None = None
    """natural, own: a folder of images to test on; by default a fifth of those in --image."""
    images: int | None = None
    """natural, own: number of training images."""
    patch: int | None = None
    """natural, own: height and width of the random crops that are the training images; 0: whole
    pictures, whose shapes may differ."""
    batch: int | None = None
    """Training images in each upper-level iteration; by default all."""
    realisations: int = 1
    """Of the noise, of each training image."""
    learn: Literal["filters-and-beta", "beta"] = "filters-and-beta"
    filters: tuple[int, int, int] | None = None
    """Number, height and width. As many as the size has, less one: cosines without the constant,
    divided by the height; else random, of norm 1."""
    basis: Literal["cosines", "cosines_and_constant", "differences"] | None = None
    """Learn coefficients in this basis; filters of cosines and differences sum to zero."""
    start: str | None = None
    """Start with the filters of a name of deqbilevel.pretrained, or of a filters.npz."""
    redraw: float = 0.0
    """With --start: filters weaker than this part of the strongest are drawn anew, as strong as
    that; a filter that learning has switched off has no gradient to come back by."""
    potential: Literal[*SMOOTH] | None = None  # type: ignore[valid-type]
    eps: float | None = None
    """Of the potential: where it bends, with images in [0, 1]."""
    boundary: Literal["circular", "zero", "reflecting"] | None = None
    noise: float = 25 / 255
    """Standard deviation, with images in [0, 1]."""
    beta_0: float | None = None
    """By default that of [CF] for the cameraman, else the best of a grid."""
    iterations: int | None = None
    """Upper-level iterations."""
    lower_iterations: int | None = None
    """Evaluations of the lower-level gradient in each of them."""
    lower_solver: Literal[*solvers.DESCENTS] = "optimized_gradient"  # type: ignore[valid-type]
    hypergradient: Literal["minimiser", *hypergradients.METHODS] = "minimiser"  # type: ignore[valid-type]
    """minimiser: (4.8), warm; others for comparison."""
    adjoint_iterations: int | None = None
    """Products of its backward pass in each of them, at most."""
    adjoint_tolerance: float | None = None
    """Relative residual of the Hessian system at which a hypergradient is accepted."""
    algorithm: Literal[*algorithms.METHODS] | None = None  # type: ignore[valid-type]
    """One of deqbilevel.algorithms.METHODS, for comparison; by default that of deqbilevel.bilevel:
    both levels warm, the hypergradient to a residual."""
    optimiser: Literal["adam", "lbfgs", "gradient_descent"] | None = None
    """The last two search along their direction by backtracking, and need the whole batch."""
    learning_rate: float | None = None
    """Adam's."""
    schedule: Literal["constant", "cosine"] | None = None
    """Of the learning rate; the cosine ends at a hundredth of it."""
    seeds: int | None = None
    """Random starts and noises, trained together as lanes of one program."""
    seed: int = 0
    """The first of them; the first also chooses the crops."""
    block: int = 100
    """Iterations between two checkpoints."""
    out: Path | None = None
    """Folder of the results; by default runs/filters-EXPERIMENT-..."""
    fresh: bool = False
    """Start anew instead of going on."""

    def resolved(self) -> dict[str, Any]:
        """Every option that decides the numbers."""
        options = common.options_of(self, without=("out", "fresh", "block"))
        for name, value in PRESETS[self.experiment].items():
            # An algorithm has iterations of its own.
            if options[name] is None and not (self.algorithm and name in ITERATIONS):
                options[name] = value
        paths = {name: options[name] and str(options[name]) for name in ("image", "test_images")}
        return options | paths


def main(config: Filters) -> dict[str, Any]:
    """Learn, resuming where an earlier call stopped; returns the headline numbers."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            options = config.resolved()
            _check(options)
            common.at_least(1, block=config.block)
            task = filter_tasks.task(
                config.experiment,
                config.image,
                config.test_images,
                *(options[name] for name in ("images", "patch", "seed")),
            )
            lanes = filter_lanes.lanes_of(options, task)
            name = f"filters-{config.experiment}-{common.digest(options)}"
            claimed = folders.claim(
                config.out,
                name,
                options,
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
    common.at_least(0, **{name: options[name] for name in ("seed", "iterations", "patch")})
    names = ("seeds", "lower_iterations", "adjoint_iterations", "images", "batch", "realisations")
    common.at_least(1, **{name: options[name] for name in names})
    if options["algorithm"] is not None:
        _maker(options)
        for name, value in LOWER_LEVEL.items():
            if options[name] != value:
                raise ValueError(
                    f"--algorithm {options['algorithm']} --{name.replace('_', '-')} "
                    f"{options[name]}: an algorithm has its own; leave it out"
                )
    for name in ("noise", "eps", "learning_rate", "adjoint_tolerance"):
        if not 0 < options[name] < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} {options[name]}: expected above 0")
    if not 0 <= options["redraw"] < 1 or (options["redraw"] and options["start"] is None):
        raise ValueError(f"--redraw {options['redraw']}: expected 0 to 1, and --start")
    count, rows, columns = options["filters"]
    if min(count, rows, columns) < 1:
        raise ValueError(f"--filters {count} {rows} {columns}: expected numbers of 1 or more")
    if options["batch"] is not None and options["optimiser"] != "adam":
        raise ValueError(
            f"--optimiser {options['optimiser']} --batch {options['batch']}: a line search needs "
            "the same images at every trial; leave --batch out, or take adam"
        )


def _optimiser(options: dict[str, Any]) -> optax.GradientTransformationExtraArgs:
    if options["optimiser"] == "adam":
        rate = options["learning_rate"]
        falling = optax.cosine_decay_schedule(rate, max(options["iterations"], 1), alpha=0.01)
        adam = optax.adam(falling if options["schedule"] == "cosine" else rate)
        return optax.with_extra_args_support(adam)
    newton = options["optimiser"] == "lbfgs"
    search = optax.scale_by_backtracking_linesearch(
        max_backtracking_steps=20,
        decrease_factor=0.5,
        # The step that L-BFGS is scaled for is 1, whatever the last one was.
        increase_factor=float("inf") if newton else 2.0,
    )
    # A direction no longer than 1, which multiplies a weight by e at most.
    direction = optax.scale_by_lbfgs() if newton else optax.identity()
    return optax.chain(direction, optax.clip_by_global_norm(1.0), optax.scale(-1.0), search)


def _maker(options: dict[str, Any]) -> filter_algorithms.Make:
    """Raises ValueError for options that the algorithm does not have."""
    chosen = {name: options[name] for name in ITERATIONS}
    batches = options["batch"] is not None
    return filter_algorithms.maker(
        options["algorithm"], _optimiser(options), chosen, batches=batches
    )


def _learn(
    config: Filters, options: dict[str, Any], task: Task, lanes: Lanes, out: Path
) -> dict[str, Any]:
    problems, params, _, f, *_ = lanes
    optimiser = _optimiser(options)
    if options["beta_0"] is None and options["start"] is None:
        lanes = lanes._replace(params=params | {"beta_0": filter_lanes.searched(options, lanes)})
    done = checkpoints.latest_step(out / "latest") or 0
    evaluations = 0 if done or not options["iterations"] else START_EVALUATIONS
    start = jax.vmap(lambda p, f: bilevel.start(problems, p, optimiser, f, evaluations=evaluations))
    state = jax.jit(start)(lanes.params, f)
    if options["algorithm"] is not None:
        state = _algorithm_start(options, lanes, state)
    if done:
        state = checkpoints.restore(out / "latest", state)
    state, records = _train(config, options, task, lanes, state, done, out)
    outcome = Outcome(
        options,
        task,
        problems,
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
        outcome, lambda shape: filter_lanes.problem_of(alone, shape), solver, out
    )


def _algorithm_start(
    options: dict[str, Any], lanes: Lanes, state: State
) -> filter_algorithms.State:
    """The states of the lanes, where `bilevel.start` left the lower level."""
    make, problem, truth = _maker(options), lanes.problems[0], lanes.truth[0]

    def of_lane(params: dict[str, Any], f: Array, seed: Array, u: Array) -> Any:
        return filter_algorithms.start(problem, make, params, truth, f, seed, u)

    seeds = options["seed"] + jnp.arange(options["seeds"])
    return jax.jit(jax.vmap(of_lane))(state.params, lanes.f[0], seeds, state.u[0])


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
    problems, _, truth, f, *_ = lanes
    optimiser, sizes = _optimiser(options), [len(t) for t in truth]

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
                return bilevel.steps(problems, optimiser, state, truth, f, chosen or count)
            make, batches = _maker(options), chosen[0] if chosen else count
            return filter_algorithms.steps(problems[0], make, state, truth[0], f[0], batches)

        return jax.jit(jax.vmap(run, in_axes=(0, 0, None)))

    compiled: dict[int, Any] = {}
    watch = _watcher(options, task, lanes)
    with tqdm(total=options["iterations"], initial=done, unit="iteration") as bar:
        while done < options["iterations"]:
            count = min(config.block, options["iterations"] - done)
            chosen = images_of(done, count)
            if count not in compiled:
                compiled[count] = program(count).lower(state, f, chosen).compile()
            begin = time.perf_counter()
            state, metrics = jax.block_until_ready(compiled[count](state, f, chosen))
            seconds = time.perf_counter() - begin
            done += count
            record: dict[str, Any] = {"iteration": done, "seconds": seconds}
            record["images"] = sum(x.size for x in chosen) or count * sum(sizes)
            record["held_out"] = watch(state.params)
            record |= {k: np.asarray(v, float).tolist() for k, v in metrics._asdict().items()}
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
    problem = filter_lanes.problem_of(options, shape)
    solver = solvers.optimized_gradient(tolerance=0.0, max_evaluations=WATCH_EVALUATIONS)

    def judge(params: dict[str, Any], f: Array) -> dict[str, Array]:
        u, _ = bilevel.solve(problem, params, f, f, solver)
        return {
            "snr_db": jnp.mean(losses.snr(u, true)),
            "psnr_db": jnp.mean(losses.psnr(u, true, 1.0)),
            "ssim": jnp.mean(losses.ssim_or_nan(u, true, shape, 1.0)),
        }

    judged = jax.jit(jax.vmap(judge))
    return lambda params: {
        name: [None if np.isnan(x) else x for x in values.tolist()]
        for name, values in judged(params, lanes.held_out).items()
    }


if __name__ == "__main__":
    common.last_line(main(tyro.cli(Filters)))
