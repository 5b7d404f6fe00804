"""Learn the filters of a convolutional regulariser: the running example of [CF].

python -m experiments.filters vertical-bars
python -m experiments.filters cameraman --image cameraman.tif [--learn beta]
python -m experiments.filters own --image FOLDER

Repeating the same command goes on after an interruption, or shows the finished run again.
"""

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import bilevel, checkpoints, data, losses, operators, plots, potentials, solvers
from deqbilevel.bilevel import Problem, State
from deqbilevel.data.folder import read_grey
from deqbilevel.regularizers import convolutional
from experiments import common

PRESETS: dict[str, dict[str, Any]] = {
    "vertical-bars": {
        "filters": (4, 4, 2),
        "iterations": 4000,
        "lower_iterations": 50,
        "seeds": 6,
        "beta_0": None,
    },
    "cameraman": {
        "filters": (48, 7, 7),
        "iterations": 10000,
        "lower_iterations": 10,
        "seeds": 1,
        "beta_0": -4.0,
    },
    "own": {
        "filters": (24, 5, 5),
        "iterations": 1000,
        "lower_iterations": 10,
        "seeds": 1,
        "beta_0": None,
    },
}
"""What each experiment stands for; every entry can be overridden."""

CORNERS = ((310, 220), (220, 370), (100, 250))
"""First row and column of the training patches of the cameraman, [CF] D, counted from 0."""

PATCH = 50
"""Their height and width."""

FINAL_EVALUATIONS = 500
"""Of the lower-level gradient for the pictures at the end, which show converged reconstructions."""


@dataclass(frozen=True)
class Filters:
    """Learn filters and weights. Unset options: those of [CF] for the experiment."""

    experiment: Annotated[Literal["vertical-bars", "cameraman", "own"], tyro.conf.Positional]
    image: Path | None = None
    """cameraman: an image file, by default scikit-image's camera, another picture than [CF]'s; own:
    a folder of images."""
    learn: Literal["filters-and-beta", "beta"] = "filters-and-beta"
    filters: tuple[int, int, int] | None = None
    """Number, height and width. As many as the size has, less one: cosines without the constant,
    divided by the height; else random, of norm 1."""
    potential: Literal["corner_rounded", "log_sum", "fair", "welsch", "geman_mcclure"] = (
        "corner_rounded"
    )
    eps: float = 0.01
    """Of the potential: where it bends, with images in [0, 1]."""
    boundary: Literal["circular", "zero", "reflecting"] = "circular"
    noise: float = 25 / 255
    """Standard deviation, with images in [0, 1]."""
    beta_0: float | None = None
    """By default that of [CF] for the cameraman, else the best of a grid."""
    iterations: int | None = None
    """Upper-level iterations."""
    lower_iterations: int | None = None
    """Evaluations of the lower-level gradient in each of them."""
    learning_rate: float = 1e-3
    """Adam's."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate; the cosine ends at a hundredth of it."""
    seeds: int | None = None
    """Random starts and noises, trained together as lanes of one program."""
    seed: int = 0
    """The first of them."""
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
            if options[name] is None:
                options[name] = value
        return options | {"image": None if self.image is None else str(self.image)}


class Task(NamedTuple):
    """What is learned from, and what it is shown on; values in [0, 1] as in [CF]."""

    truth: np.ndarray
    """[patches, pixels], for training"""
    shape: tuple[int, int]
    whole: np.ndarray
    """[height, width], to be reconstructed at the end"""
    cut: Any
    """whole -> [patches, pixels], where the training patches are parts of it; else None"""
    source: str


def main(config: Filters) -> dict[str, Any]:
    """Learn, resuming where an earlier call stopped; returns the headline numbers."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            options = config.resolved()
            _check(config, options)
            task = _task(config, options)
            lanes = _lanes(config, options, task)
            name = f"filters-{config.experiment}-{common.digest(options)}"
            out = Path("runs") / name if config.out is None else config.out
            stack.enter_context(common.claim(out, options, fresh=config.fresh))
        return _learn(config, options, task, lanes, out)


def _check(config: Filters, options: dict[str, Any]) -> None:
    """Raises ValueError for a request that cannot be met."""
    common.at_least(0, seed=config.seed, iterations=options["iterations"])
    common.at_least(1, seeds=options["seeds"], block=config.block)
    common.at_least(1, lower_iterations=options["lower_iterations"])
    for name in ("noise", "eps", "learning_rate"):
        if not 0 < options[name] < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} {options[name]}: expected above 0")
    count, rows, columns = options["filters"]
    if min(count, rows, columns) < 1:
        raise ValueError(f"--filters {count} {rows} {columns}: expected numbers of 1 or more")


def _task(config: Filters, options: dict[str, Any]) -> Task:
    """The images of the experiment. Raises: ValueError for ones that cannot be used."""
    if config.experiment == "vertical-bars":
        whole = np.zeros((32, 32))
        whole[:, ::4] = 1
        whole -= whole.mean()
        return Task(whole.reshape(1, -1), (32, 32), whole, lambda x: x.reshape(1, -1), "bars")
    if config.experiment == "own":
        if config.image is None:
            raise ValueError("own: give a folder of images with --image")
        images = data.load(f"images:{config.image}", train_size=8, test_size=1, patch=PATCH)
        unit = [(x + 1) / 2 for x in (images.train, images.test)]
        return Task(unit[0], images.shape, unit[1].reshape(images.shape), None, images.source)
    if config.image is None:
        from skimage.data import camera

        whole, source = camera() / 255.0, "scikit-image's camera (not the cameraman of [CF])"
    else:
        whole, source = (read_grey(config.image) + 1) / 2, config.image.name
    rows, columns = (max(corner) + PATCH for corner in zip(*CORNERS, strict=True))
    if whole.shape[0] < rows or whole.shape[1] < columns:
        raise ValueError(
            f"{source}: {whole.shape[0]}x{whole.shape[1]} pixels, but the training patches reach "
            f"to row {rows} and column {columns}"
        )

    def cut(x: np.ndarray) -> np.ndarray:
        parts = [x[row : row + PATCH, column : column + PATCH] for row, column in CORNERS]
        return np.stack(parts).reshape(len(CORNERS), -1)

    return Task(cut(whole), (PATCH, PATCH), whole, cut, source)


def _problem(options: dict[str, Any], shape: tuple[int, int]) -> Problem:
    learned = ("filters", "beta") if options["learn"] == "filters-and-beta" else ("beta",)
    # Under vmap over lanes a product of matrices is faster than a grouped convolution.
    method = "patch" if options["seeds"] > 1 else None
    regularizer = convolutional.convolutional(shape, options["boundary"], method)
    return Problem(operators.Identity(), 1.0, regularizer, learned, options["lower_iterations"])


def _measured(options: dict[str, Any], task: Task, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The noisy patches, and the noisy whole image that they are cut from."""
    rng = np.random.default_rng(seed)
    whole = task.whole + options["noise"] * rng.standard_normal(task.whole.shape)
    if task.cut is not None:
        return task.cut(whole), whole
    return task.truth + options["noise"] * rng.standard_normal(task.truth.shape), whole


def _initial(options: dict[str, Any], seed: int) -> dict[str, Any]:
    """The parameters of a lane before beta_0 is searched."""
    count, rows, columns = options["filters"]
    if count == rows * columns - 1:
        c = convolutional.cosines(rows, columns) / rows
    else:
        # A stream of its own: the noise takes the first.
        rng = np.random.default_rng((seed, 1))
        c = rng.standard_normal((count, rows, columns))
        c /= np.linalg.norm(c, axis=(1, 2), keepdims=True)
    kind: Any = potentials.POTENTIALS[options["potential"]]
    phi = kind(eps=options["eps"])
    return convolutional.init(c, beta_0=options["beta_0"] or 0.0, phi=phi)


class Lanes(NamedTuple):
    """What the seeds start from, with a leading axis of lanes."""

    problem: Problem
    params: dict[str, Any]
    truth: Array
    """[patches, pixels], the same for all"""
    f: Array
    """[lanes, patches, pixels]"""
    wholes: list[np.ndarray]
    """The noisy whole image of each lane."""


def _lanes(config: Filters, options: dict[str, Any], task: Task) -> Lanes:
    """Raises: ValueError for images, filters or a potential that cannot be used."""
    seeds = range(config.seed, config.seed + options["seeds"])
    patches, wholes = zip(*(_measured(options, task, seed) for seed in seeds), strict=True)
    problem, truth = _problem(options, task.shape), jnp.asarray(task.truth, jnp.float32)
    f = jnp.asarray(np.stack(patches), jnp.float32)
    starts = [_initial(options, seed) for seed in seeds]
    bilevel.check(problem, starts[0], truth, f[0])
    params = jax.tree.map(lambda *x: jnp.stack(x), *starts)
    return Lanes(problem, params, truth, f, list(wholes))


def _learn(
    config: Filters, options: dict[str, Any], task: Task, lanes: Lanes, out: Path
) -> dict[str, Any]:
    problem, params, truth, f, _ = lanes
    rate, iterations = options["learning_rate"], max(options["iterations"], 1)
    falling = optax.cosine_decay_schedule(rate, iterations, alpha=0.01)
    optimiser = optax.adam(falling if options["schedule"] == "cosine" else rate)
    if options["beta_0"] is None:
        search = jax.jit(jax.vmap(lambda p, f: bilevel.search(problem, p, truth, f)[0]))
        params = params | {"beta_0": search(params, f)}
    state = jax.vmap(lambda p, f: bilevel.start(problem, p, optimiser, f))(params, f)
    done = checkpoints.latest_step(out / "latest") or 0
    if done:
        state = checkpoints.restore(out / "latest", state)
    state, records = _train(config, options, problem, optimiser, state, truth, f, done, out)
    return _show(options, lanes._replace(params=params), task, state, records, out)


def _train(
    config: Filters,
    options: dict[str, Any],
    problem: Problem,
    optimiser: optax.GradientTransformation,
    state: State,
    truth: Array,
    f: Array,
    done: int,
    out: Path,
) -> tuple[State, list[dict[str, Any]]]:
    """Blocks of upper-level iterations; each is on disk before the next begins."""
    log = out / "metrics.jsonl"
    lines = log.read_text().splitlines() if done and log.exists() else []
    records = [r for r in map(json.loads, lines) if r["iteration"] <= done]
    common.write(log, "".join(json.dumps(r) + "\n" for r in records))

    def block(count: int) -> Any:
        def one(state: State, f: Array) -> Any:
            return bilevel.steps(problem, optimiser, state, truth, f, count)

        return jax.jit(jax.vmap(one)).lower(state, f).compile()

    compiled: dict[int, Any] = {}
    with tqdm(total=options["iterations"], initial=done, unit="iteration") as bar:
        while done < options["iterations"]:
            count = min(config.block, options["iterations"] - done)
            if count not in compiled:
                compiled[count] = block(count)
            begin = time.perf_counter()
            state, metrics = jax.block_until_ready(compiled[count](state, f))
            seconds = time.perf_counter() - begin
            done += count
            snr = [float(losses.snr(u.reshape(1, -1), truth.reshape(1, -1))[0]) for u in state.u]
            record: dict[str, Any] = {"iteration": done, "seconds": seconds, "snr_db": snr}
            record |= {k: np.asarray(v, float).tolist() for k, v in metrics._asdict().items()}
            with log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            records.append(record)
            checkpoints.save(out / "latest", done, state)
            products = float(np.mean(record["adjoint_evaluations"]))
            bar.set_postfix_str(f"SNR {np.mean(snr):.2f} dB, {products:.0f} Hessian products")
            bar.update(count)
    return state, records


def _show(
    options: dict[str, Any],
    lanes: Lanes,
    task: Task,
    state: State,
    records: list[dict[str, Any]],
    out: Path,
) -> dict[str, Any]:
    """Reconstruct the whole image with each lane's filters, draw it, return the numbers."""
    regularizer = convolutional.convolutional(task.whole.shape, options["boundary"])
    whole, wholes = lanes.problem._replace(regularizer=regularizer), lanes.wholes
    solver = solvers.optimized_gradient(tolerance=0.0, max_evaluations=FINAL_EVALUATIONS)
    true = jnp.asarray(task.whole.reshape(1, -1), jnp.float32)

    @jax.jit
    def reconstruct(params: Any, y: Array) -> tuple[Array, Array]:
        u, info = bilevel.solve(whole, params, y, y, solver)
        return u, info.residual

    noisy, found, psnr, pictures, residuals = [], [], [], [], []
    for lane, measured in enumerate(wholes):
        params = jax.tree.map(lambda x, lane=lane: x[lane], state.params)
        y = jnp.asarray(measured.reshape(1, -1), jnp.float32)
        u, residual = reconstruct(params, y)
        noisy.append(float(losses.snr(y, true)[0]))
        found.append(float(losses.snr(u, true)[0]))
        psnr.append(float(losses.psnr(u, true, 1.0)[0]))
        residuals.append(float(residual))
        pictures.append(np.asarray(u).reshape(task.whole.shape))
    iterations = records[-1]["iteration"] if records else 0
    caption = (
        f"{options['experiment']} ({task.source}): {options['filters'][0]} filters "
        f"{options['filters'][1]}x{options['filters'][2]}, {options['potential']}, learned: "
        f"{options['learn']}, {iterations} upper-level iterations; "
    )
    shown = int(np.argmax(found))
    _draw(task, lanes, state, pictures, (noisy, found), records, shown, caption, out)
    gains = np.subtract(found, noisy)
    numbers = {
        "snr_noisy_db": float(np.mean(noisy)),
        "snr_db": float(np.mean(found)),
        "gain_db": float(np.mean(gains)),
        "gain_db_least": float(np.min(gains)),
        "psnr_db": None if options["experiment"] == "vertical-bars" else float(np.mean(psnr)),
        "snr_db_of_lanes": [round(x, 2) for x in found],
        "final_residual": float(np.max(residuals)),
        "upper_iterations": iterations,
        "step_ms": 1e3 * sum(r["seconds"] for r in records) / max(iterations, 1),
        "seconds": sum(r["seconds"] for r in records),
        "out": str(out),
    }
    common.write(out / "result.json", json.dumps(numbers, indent=1))
    return numbers


def _draw(
    task: Task,
    lanes: Lanes,
    state: State,
    pictures: list[np.ndarray],
    decibels: tuple[list[float], list[float]],
    records: list[dict[str, Any]],
    lane: int,
    caption: str,
    out: Path,
) -> None:
    """The figures; pictures and filters are those of one lane."""

    def of_lane(params: dict[str, Any]) -> tuple[np.ndarray, Any]:
        own = jax.tree.map(lambda x: x[lane], params)
        return np.asarray(convolutional.filters(own)), np.asarray(convolutional.strengths(own))

    stages = {"before": of_lane(lanes.params), "after": of_lane(state.params)}
    text = caption + "ordered by effective strength e^(beta_0 + beta_k) ||c_k||, which is given"
    plots.save(plots.filter_figure(stages, text), out / "filters.png")
    noisy, found = (values[lane] for values in decibels)
    shown = {
        "true": task.whole,
        f"measured\nSNR {noisy:.2f} dB": lanes.wholes[lane],
        f"reconstructed\nSNR {found:.2f} dB": pictures[lane],
    }
    row = task.whole.shape[0] // 2
    figure = plots.profile_figure(shown, row, caption + "reconstructed to convergence")
    plots.save(figure, out / "reconstruction.png")
    rows = {"training": task.truth * 2 - 1}
    figure = plots.reconstructions(rows, task.shape, caption + "training patches")
    plots.save(figure, out / "patches.png")
    if records:
        names = {
            "loss": "upper-level loss",
            "gradient_norm": "hypergradient norm / sqrt(R)",
            "lower_gradient_norm": "lower gradient norm / sqrt(N)",
            "adjoint_evaluations": "Hessian products",
        }
        joined = {
            text: np.concatenate([np.asarray(r[name]).T for r in records])
            for name, text in names.items()
        }
        text = caption + "a line for each seed"
        plots.save(plots.course_figure(joined, text), out / "course.png")


if __name__ == "__main__":
    common.last_line(main(tyro.cli(Filters)))
