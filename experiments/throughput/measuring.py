"""What is measured of the ways: time, useful work and memory; and what matrix products reach."""

import contextlib
import gc
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import data, settings
from deqbilevel.models import Model
from deqbilevel.studies import plans
from deqbilevel.studies.storage import Lane
from experiments.throughput.options import Throughput
from experiments.throughput.ways import Way, batches, program, spread

PRODUCTS = 20
"""Matrix products in one timing of their rate."""


def in_turns(ways: dict[str, Way], label: str, config: Throughput) -> dict[str, Any]:
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


def memory_of(
    model: Model,
    setting: settings.Setting,
    grid: list[Lane],
    images: data.Images,
    width: int,
    config: Throughput,
) -> dict[str, float]:
    """Megabytes of a training step of all lanes: as the plan has it, and as it is seen."""
    study, trainer, filled, start = program(model, setting, grid, width, config)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), start()
    )
    order, keys = spread(study, len(filled), *batches(config, 0))
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


def matrix_rate(precision: str, count: int, pixels: int, batch: int) -> float:
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
