"""How fast lanes train together, against the same lanes one after the other.

python -m experiments.throughput [--tasks denoising] [--widths 1 5 45] [--cpu-devices 2] [--out DIR]

For each task and model the lanes of one noise level of the paper's grid (45 settings) take a few
training steps: as runs of their own, one after the other, and as one compiled program on all
devices. Both take turns, so that whatever else the machine does meets them alike. What matrix
products reach on the same shapes is measured beside it, and so is the memory that the plan
foretells. Other programs should rest meanwhile.
"""

import contextlib
import gc
import itertools
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import data, lanes, loop, models, settings, training
from deqbilevel.lanes import Lanes
from deqbilevel.models import Model
from deqbilevel.studies import grids, plans, running
from deqbilevel.studies.storage import Lane
from deqbilevel.studies.study import Study
from experiments import command, common, folders, listing, options, sizes
from experiments.compare.options import GRIDS, ModelName, Task

PAPER = GRIDS["paper"]

FULL = {"lanes": 225, "epochs": 100, "images": 60_000}
"""The study of [REB]: lanes of a task and model, epochs, training images."""

PRODUCTS = 20
"""Matrix products in one timing of their rate."""


@dataclass(frozen=True)
class Throughput:
    """Time lanes together and one after the other."""

    tasks: tuple[Task, ...] = ("denoising", "inpainting", "deblurring")
    models: tuple[ModelName, ...] = ("bilevel", "deq")
    noise: Annotated[float, options.noise] = 0.1
    """Standard deviation, on images in [-1, 1]."""
    taus: Annotated[tuple[float, ...], options.tau] = PAPER["taus"]
    """Step sizes, and thresholds of Softshrink."""
    gammas: Annotated[tuple[float, ...], options.weight] = PAPER["gammas"]
    """Weights of the regulariser."""
    setting: Literal["paper", "accurate", "fast"] = "paper"
    """How the lower level and its adjoint are solved."""
    widths: Annotated[
        tuple[int, ...], options.whole(1, 10_000), options.default("1 on a CPU, else all")
    ] = ()
    """Lanes under one vmap."""
    steps: Annotated[int, options.whole(1, 100_000)] = 5
    """Training steps in one timing."""
    rounds: Annotated[int, options.whole(1, 100_000)] = 3
    """Timings of each, of which the median counts."""
    warm_up: Annotated[int, options.whole(0, 100_000)] = 1
    """Timings before."""
    batch_size: Annotated[int, options.size] = 100
    train_size: Annotated[int, options.size] = 1000
    cpu_devices: Annotated[int, options.whole(1, 256)] = 1
    """Devices to make of a CPU."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.default("none")] = None
    """Folder for throughput.json."""


class Way(NamedTuple):
    """A way to train all lanes: what takes some steps and returns every solve's evaluations."""

    advance: Callable[[int], np.ndarray]
    width: int
    """Lanes under one vmap."""


@command.checked
def main(config: Throughput) -> dict[str, Any]:
    """Time every group; returns the numbers."""
    with common.clear_errors():
        _check(config)
        loop.measures_compiled()
        images = data.load("sample", train_size=config.train_size, test_size=config.batch_size)
        grid = _grid(config)
        if config.out:
            listing.will_write(config.out, ["throughput.json"])
    setting = settings.SETTINGS[config.setting]
    widths = config.widths or (1 if jax.default_backend() == "cpu" else len(grid),)
    found: dict[str, Any] = {}
    memory: dict[str, float] = {}
    for task, kind in itertools.product(config.tasks, config.models):
        model = models.build(task, kind, images.shape)
        ways = {"one after the other": _alone(model, setting, grid, images.train, config)}
        if not memory:
            memory = _memory(model, setting, grid, images, widths[0], config)
        for width in widths:
            ways[f"width {width}"] = _together(model, setting, grid, images.train, width, config)
        found[f"{task}/{kind}"] = _time(ways, f"{task}/{kind}", config)
    rates = {
        precision: max(
            _matrix_rate(precision, count, images.train.shape[1], config.batch_size)
            for count in (1, len(grid))
        )
        for precision in ("highest", "tensorfloat32")
    }
    numbers = _summary(found, rates, images.train.shape[1], config) | {"memory": memory}
    if config.out:
        folders.write(config.out / "throughput.json", json.dumps(numbers, indent=1))
    return numbers


def _check(config: Throughput) -> None:
    """Raises ValueError for a request that cannot be met."""
    if config.batch_size > config.train_size:
        raise ValueError(f"--batch-size {config.batch_size}: more than --train-size")
    common.make_cpu_devices(config.cpu_devices)
    lanes_of_group = 3 * len(config.taus) * len(config.gammas)
    sizes.fits(
        24 * (28 * 28) ** 2 * lanes_of_group,
        f"--taus and --gammas: {lanes_of_group} lanes at once",
        "take fewer values",
    )
    if max(config.widths, default=1) > lanes_of_group:
        raise ValueError(
            f"--widths {max(config.widths)}: more than the {lanes_of_group} lanes of --taus, "
            "--gammas and the activations"
        )


def _grid(config: Throughput) -> list[Lane]:
    """The lanes, with the task and model of none: those of the group that they run in."""
    return grids.grid(
        {
            "task": ["denoising"],
            "model": ["bilevel"],
            "noise": [config.noise],
            "tau": list(config.taus),
            "gamma": list(config.gammas),
            "activation": ["identity", "relu", "softshrink"],
        }
    )


def _study(setting: settings.Setting, over: Lanes, config: Throughput) -> Study:
    return Study(
        setting, FULL["epochs"], config.batch_size, setting.learning_rate, config.seed, over
    )


def _batches(config: Throughput, number: int) -> tuple[np.ndarray, Array]:
    """Order and noise keys of the steps of one timing, the same for every way and lane."""
    rng = np.random.default_rng((config.seed, number))
    order = rng.integers(config.train_size, size=(config.steps, config.batch_size))
    return order, jax.random.split(jax.random.key(number), config.steps)


def _alone(
    model: Model, setting: settings.Setting, grid: list[Lane], train: Any, config: Throughput
) -> Way:
    """Each lane a run of its own, as `experiments.train` trains it."""
    study = _study(setting, lanes.lanes(), config)
    total = FULL["epochs"] * FULL["images"] // config.batch_size
    trainer = training.trainer(model, setting, total_steps=total, batch_size=config.batch_size)
    weights = model.init(study.keys({})[0])
    states = [trainer.init(weights | study.hyperparameters(lane)) for lane in grid]
    images = jnp.asarray(train)

    def advance(number: int) -> np.ndarray:
        order, keys = _batches(config, number)
        spent = []
        for i, state in enumerate(states):
            states[i], metrics = trainer.steps(state, images, jnp.asarray(order), keys)
            spent.append(_solves(metrics))
        return np.stack(spent)

    return Way(advance, 1)


def _program(
    model: Model, setting: settings.Setting, grid: list[Lane], width: int, config: Throughput
) -> tuple[Study, training.Trainer, list[Lane], Callable[[], training.State]]:
    """All lanes as one program: study, trainer, its lanes, and what makes their first state."""
    each = -(-len(grid) // jax.device_count())
    over = lanes.lanes(-(-each // width) * width, width)
    study = _study(setting, over, config)
    trainer = running.group_trainer(model, study, FULL["images"])
    filled = running.filled(grid, study)
    weights = running.initial_weights(model, study, grid)
    return study, trainer, filled, lambda: running.initial_state(trainer, study, weights, filled)


def _together(
    model: Model,
    setting: settings.Setting,
    grid: list[Lane],
    train: Any,
    width: int,
    config: Throughput,
) -> Way:
    """All lanes at once, on all devices, `width` of each under one vmap."""
    study, trainer, filled, start = _program(model, setting, grid, width, config)
    state, images = start(), study.lanes.share(train)

    def advance(number: int) -> np.ndarray:
        nonlocal state
        order, keys = _spread(study, len(filled), *_batches(config, number))
        state, metrics = trainer.steps(state, images, order, keys)
        return _solves(metrics)[: len(grid)]

    return Way(advance, width)


def _solves(metrics: training.Metrics) -> np.ndarray:
    """The evaluations of each solve, forward and adjoint apart: [..., 2 steps]."""
    both = (metrics.forward_evaluations, metrics.adjoint_evaluations)
    return np.concatenate([np.asarray(x) for x in both], axis=-1)


def _spread(study: Study, count: int, order: np.ndarray, keys: Array) -> tuple[Any, Any]:
    """The same batches for every lane."""
    repeated = np.broadcast_to(order, (count, *order.shape))
    data = np.asarray(jax.random.key_data(keys))
    spread = study.lanes.put(np.broadcast_to(data, (count, *data.shape)))
    return study.lanes.put(repeated), jax.random.wrap_key_data(spread)


def _time(ways: dict[str, Way], label: str, config: Throughput) -> dict[str, Any]:
    """Median seconds, evaluations and useful work of each way, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    spent: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    before = None
    numbers = range(config.warm_up + config.rounds)
    for number, (name, way) in tqdm(
        itertools.product(numbers, ways.items()), desc=label, total=len(numbers) * len(ways)
    ):
        begin = time.perf_counter()
        evaluations = way.advance(number)
        if number >= config.warm_up:
            seconds[name].append(time.perf_counter() - begin)
            spent[name].append(evaluations)
        elif name == "one after the other":
            before = evaluations.sum(axis=1)
    first = statistics.median(seconds["one after the other"])
    found = {}
    for name, way in ways.items():
        all_spent = np.concatenate(spent[name], axis=1)
        median = statistics.median(seconds[name])
        found[name] = {
            "seconds": median,
            "times_as_fast": first / median,
            "lane_steps_per_second": len(all_spent) * config.steps / median,
            "evaluations_per_lane_step": 2 * float(all_spent.mean()),
            "useful_work": _useful(all_spent, way.width),
        }
    needed = np.concatenate(spent["one after the other"], axis=1)
    order = range(len(needed)) if before is None else np.argsort(before)[::-1]
    found["one after the other"]["useful_work_if_sorted"] = {
        width: _useful(needed[list(order)], width) for width in (5, 15, 25, 45)
    }
    return found


def _useful(spent: np.ndarray, width: int) -> float:
    """The useful work of chunks of so many lanes, in this order, [lanes, solves]."""
    chunks = [spent[i : i + width] for i in range(0, len(spent), width)]
    return float(spent.sum() / sum(c.max(axis=0).sum() * len(c) for c in chunks))


def _memory(
    model: Model,
    setting: settings.Setting,
    grid: list[Lane],
    images: data.Images,
    width: int,
    config: Throughput,
) -> dict[str, float]:
    """Megabytes of a training step of all lanes: as the plan has it, and as it is seen."""
    study, trainer, filled, start = _program(model, setting, grid, width, config)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), start()
    )
    order, keys = _spread(study, len(filled), *_batches(config, 0))
    train = study.lanes.share(images.train)
    steps = trainer.steps.lower(shapes, train, order, keys).compile()
    planned = plans.step_memory(trainer._replace(steps=steps)) * jax.local_device_count()
    gc.collect()
    before = _taken()
    state = jax.block_until_ready(start())
    with _peak() as most:
        jax.block_until_ready(steps(state, train, order, keys))
    return {
        "lanes": len(filled),
        "planned_mb": planned / 1e6,
        "seen_mb": (most() - before + train.nbytes) / 1e6,
    }


def _taken(what: str = "bytes_in_use") -> int:
    """Bytes that the devices say are taken, or the process where they say nothing (CPU)."""
    devices = [device.memory_stats() for device in jax.local_devices()]
    if any(stats is None for stats in devices):
        return psutil.Process().memory_info().rss
    return sum(stats[what] for stats in devices if stats)


@contextlib.contextmanager
def _peak() -> Iterator[Callable[[], int]]:
    """The most that `_taken` is while a block of code runs: asked for again and again on a CPU."""
    seen, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(_taken("peak_bytes_in_use"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: max(seen)
    finally:
        done.set()
        watcher.join()


def _matrix_rate(precision: str, count: int, pixels: int, batch: int) -> float:
    """GFLOP/s of x <- (x A^T) A for so many lanes at once, on one device."""
    A = jax.random.normal(jax.random.key(0), (count, pixels, pixels)) / pixels**0.5
    start = jax.random.normal(jax.random.key(1), (count, batch, pixels))

    @jax.jit
    def products(x: Array, A: Array) -> Array:
        def both(_: Any, x: Array) -> Array:
            return jnp.einsum("lbm,lmn->lbn", jnp.einsum("lbn,lmn->lbm", x, A), A)

        with jax.default_matmul_precision(precision):
            return jax.lax.fori_loop(0, PRODUCTS // 2, both, x)

    times = []
    for _ in range(4):
        begin = time.perf_counter()
        products(start, A).block_until_ready()
        times.append(time.perf_counter() - begin)
    return PRODUCTS * 2e-9 * count * batch * pixels**2 / statistics.median(times[1:])


def _summary(
    found: dict[str, Any], rates: dict[str, float], pixels: int, config: Throughput
) -> dict[str, Any]:
    """The table's numbers: speed over all groups, against matrix products, and the full study."""
    flop = 4e-9 * config.batch_size * pixels**2  # of an evaluation: two products
    names = [name for name in next(iter(found.values())) if name != "one after the other"]
    steps = FULL["lanes"] * FULL["epochs"] * FULL["images"] // config.batch_size
    # The devices that are made of a CPU share what it can do.
    cards = 1 if jax.default_backend() == "cpu" else jax.device_count()
    ways = {}
    for name in ("one after the other", *names):
        of_groups = [group[name] for group in found.values()]
        seconds = sum(1 / g["lane_steps_per_second"] for g in of_groups)
        evaluations = sum(g["evaluations_per_lane_step"] for g in of_groups)
        reached = flop * evaluations / seconds
        ways[name] = {
            "lane_steps_per_second": len(of_groups) / seconds,
            "gflops": reached,
            "of_the_rate_in_float32": reached / (rates["highest"] * cards),
            "of_the_rate_in_tf32": reached / (rates["tensorfloat32"] * cards),
            "hours_of_the_steps_of_the_full_study": steps * seconds * 6 / len(found) / 3600,
        }
    alone = ways["one after the other"]["lane_steps_per_second"]
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "load_average": os.getloadavg()[0],
        "setting": config.setting,
        "times_as_fast": {n: ways[n]["lane_steps_per_second"] / alone for n in names},
        "matrix_gflops": rates,
        "ways": ways,
        "groups": found,
    }


if __name__ == "__main__":
    command.run(Throughput, main)
