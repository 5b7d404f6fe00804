"""Filter learning in blocks of upper-level iterations; each is on disk before the next begins."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import learning, losses, solvers, upper
from deqbilevel.commands import algorithm_choice
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.data import groups
from deqbilevel.disk import checkpoints
from deqbilevel.disk.files import FileError
from deqbilevel.learning import Metrics, State
from experiments.filters import lanes as starts
from experiments.filters.lanes import Lanes
from experiments.filters.presets import ITERATIONS
from experiments.filters.tasks import Task

START_EVALUATIONS = 200
"""At most, of the lower-level gradient for each training image before the first iteration."""

WATCH_EVALUATIONS = 100
"""Of the lower-level gradient for the patches that are watched while learning."""

FILES = ("metrics.jsonl", "latest/<checkpoint>")
"""What is written, see `folders`."""

COURSE = (
    *("loss", "gradient_norm", "lower_gradient_norm", "adjoint_evaluations", "adjoint_residual"),
    *("adjoint_converged", "lower_solves"),
)
"""What is recorded of the metrics of every iteration."""

RECORD = {"iteration": 0, "seconds": 0.0, "images": 0}
RECORD |= {"held_out": {name: [ANY] for name in ("snr_db", "psnr_db", "ssim")}}
RECORD |= {name: [[ANY]] for name in COURSE}
"""Of a block of iterations: of each lane, of each iteration."""


def method_of(options: dict[str, Any]) -> upper.Method | None:
    """The algorithm, if there is one. Raises: ValueError for options that it does not have."""
    if options["algorithm"] is None:
        return None
    chosen = {name: options[name] for name in ITERATIONS}
    transformation = starts.optimiser_of(options)({}, 0)
    return algorithm_choice.filtered(
        options["algorithm"], transformation, chosen, batches=options["batch"] is not None
    )


def train(
    options: dict[str, Any], task: Task, lanes: Lanes, block: int, out: Path
) -> tuple[State, list[dict[str, Any]]]:
    """Learn from where an earlier call stopped; returns the state and a record of each block."""
    done = checkpoints.latest_step(out / "latest") or 0
    state = _start(options, lanes, solved=not done and options["iterations"] > 0)
    if done:
        state = checkpoints.restore(out / "latest", state)
    log = Log.of(out / "metrics.jsonl", RECORD)
    records = _recorded(log, done)
    log.keep(records)
    sizes = [len(truth) for truth in lanes.truth]
    keys = jax.vmap(jax.random.key)(options["seed"] + jnp.arange(options["seeds"]))
    for _ in records:
        keys = _split(keys)[:, 1]
    compiled: dict[int, Any] = {}
    watch = _watcher(options, task, lanes)
    with tqdm(total=options["iterations"], initial=done, unit="iteration") as bar:
        while done < options["iterations"]:
            count = min(block, options["iterations"] - done)
            chosen = _batches(options, sizes, done, count)
            now, keys = _split(keys).T
            given = (lanes.f, chosen, now)
            if count not in compiled:
                compiled[count] = learning.ahead(_program(options, lanes, count), state, *given)
            begin = time.perf_counter()
            state, metrics = jax.block_until_ready(compiled[count](state, *given))
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


_split = jax.vmap(jax.random.split)


def _start(options: dict[str, Any], lanes: Lanes, *, solved: bool) -> State:
    """The states of the lanes, their lower levels solved where nothing is restored."""
    learner, method = lanes.learner, method_of(options)
    evaluations = START_EVALUATIONS if solved else 0

    def start(params: dict[str, Any], f: list[Array]) -> State:
        return learning.start(learner, params, f, evaluations=evaluations)

    state = jax.jit(jax.vmap(start))(lanes.params, lanes.f)
    if method is None:
        return state
    of_lane = jax.vmap(lambda state, x: upper.start(learner, method, state, x))
    return jax.jit(of_lane)(state, cast(Any, state.u)[0])


def _batches(options: dict[str, Any], sizes: list[int], first: int, count: int) -> list[Array]:
    """The images of each step, by shape; none where every step takes all."""
    if options["batch"] is None:
        return []
    chosen = groups.minibatches(sizes, options["batch"], options["seed"], first, count)
    return [jnp.asarray(x, jnp.int32) for x in chosen]


def _program(options: dict[str, Any], lanes: Lanes, count: int) -> Any:
    """(states, f, batches, keys) -> states and metrics, over lanes."""
    learner, truth, method = lanes.learner, lanes.truth, method_of(options)

    def run(state: State, f: list[Array], chosen: list[Array], key: Any) -> tuple[State, Metrics]:
        if method is None:
            return learning.steps(learner, state, truth, chosen or count, f=f)
        keys, batches = jax.random.split(key, count), chosen[0] if chosen else None
        return upper.steps(learner, method, state, truth[0], keys, batches, f=f[0])

    return jax.jit(jax.vmap(run, in_axes=(0, 0, None, 0)))


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
    model = starts.model_of(options, shape)
    solver = solvers.optimized_gradient(tolerance=0.0, max_evaluations=WATCH_EVALUATIONS)

    def judge(params: dict[str, Any], f: Array) -> dict[str, Array]:
        u, _ = model.reconstruct(solver, params, f)
        return losses.mean_scores(u, true, shape, 1.0)

    judged = jax.jit(jax.vmap(judge))
    return lambda params: {
        name: [None if np.isnan(x) else x for x in values.tolist()]
        for name, values in judged(params, lanes.held_out).items()
    }
