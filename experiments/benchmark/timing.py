"""Steps timed in turns."""

import time
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from experiments.benchmark.peers import Evaluations, Step


class Cost(NamedTuple):
    """The median time of a step and the mean of its evaluations over the rounds."""

    step_ms: float
    forward_evaluations: float | None
    adjoint_evaluations: float | None


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
