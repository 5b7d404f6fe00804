"""Steps timed in turns, and the floor that they are held against."""

import time
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from experiments.benchmark.peers import Evaluations, Step

PAIRS = 10
"""Evaluations' worth of matrix products in one timing of the floor."""


class Cost(NamedTuple):
    """The median time of a step and the mean of its evaluations over the rounds."""

    step_ms: float
    forward_evaluations: float | None
    adjoint_evaluations: float | None


def floor(batch: int, pixels: int) -> Step:
    """The matrix products of `PAIRS` evaluations and nothing else: x <- (x A^T) A."""
    A = jax.random.normal(jax.random.key(0), (pixels, pixels)) / pixels**0.5
    start = jax.random.normal(jax.random.key(1), (batch, pixels))

    @jax.jit
    def products(x: Array, A: Array) -> Array:
        return jax.lax.fori_loop(0, PAIRS, lambda _, x: (x @ A.T) @ A, x)

    def step(i: int) -> Evaluations:
        products(start, A).block_until_ready()
        return PAIRS, 0

    return step


def rounds(steps: dict[str, Step], *, warm_up: int, timed: int, label: str) -> dict[str, Cost]:
    """The cost of each of `steps`: each warms up alone, then all take turns."""
    milliseconds: dict[str, list[float]] = {name: [] for name in steps}
    evaluations: dict[str, list[Evaluations]] = {name: [] for name in steps}
    with tqdm(total=len(steps) * (warm_up + timed), desc=label, unit="step") as bar:
        for step in steps.values():
            for i in range(warm_up):
                step(i)
                bar.update()
        for i in range(warm_up, warm_up + timed):
            for name, step in steps.items():
                begin = time.perf_counter()
                evaluations[name].append(step(i))
                milliseconds[name].append(1e3 * (time.perf_counter() - begin))
                bar.update()
    return {
        name: Cost(float(np.median(times)), *map(_mean, zip(*evaluations[name], strict=True)))
        for name, times in milliseconds.items()
    }


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
