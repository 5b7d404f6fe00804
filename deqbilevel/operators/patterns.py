"""Which frequencies are sampled: rows of them or points, drawn by a density that falls with the
distance from the mean, or equally spaced and drawn alike; spokes; or the lowest."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from deqbilevel.checks import Registry

Pattern = Bool[np.ndarray, "height width"]
"""Which frequencies are sampled, the mean in the middle, at (height // 2, width // 2)."""

FALL = 3
"""Of variable densities, (1 - distance from the mean / the largest)^FALL."""


def _distance(shape: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """From the mean, 1 at the ends of the axes."""
    axes = [(np.arange(n) - n // 2) / max(n / 2, 1) for n in shape]
    return np.hypot(*np.meshgrid(*axes, indexing="ij"))


def _drawn(density: Float[np.ndarray, " n"], count: int, rng: np.random.Generator) -> Any:
    """`count` places: a fourth of them the densest, the others drawn by their density."""
    chosen = np.zeros(len(density), bool)
    chosen[np.argsort(-density, kind="stable")[: -(-count // 4)]] = True
    rest = np.flatnonzero(~chosen)
    weights = density[rest] + 1e-3
    more = count - int(chosen.sum())
    chosen[rng.choice(rest, more, replace=False, p=weights / weights.sum())] = True
    return chosen


def _density(distance: Any) -> Any:
    return np.maximum(1 - distance / distance.max(), 0) ** FALL


def _lines(shape: tuple[int, int], rate: float, rng: np.random.Generator) -> Pattern:
    rows = np.abs(np.arange(shape[0]) - shape[0] // 2)
    chosen = _drawn(_density(rows / max(rows.max(), 1)), round(rate * shape[0]), rng)
    return np.broadcast_to(chosen[:, None], shape)


def _uniform_lines(shape: tuple[int, int], rate: float, rng: np.random.Generator) -> Pattern:
    count = round(rate * shape[0])
    rows = (shape[0] // 2 + np.round(np.arange(count) * shape[0] / max(count, 1))).astype(int)
    chosen = np.isin(np.arange(shape[0]), rows % shape[0])
    return np.broadcast_to(chosen[:, None], shape)


def _points(shape: tuple[int, int], rate: float, rng: np.random.Generator) -> Pattern:
    density = _density(_distance(shape)).ravel()
    return _drawn(density, round(rate * density.size), rng).reshape(shape)


def _uniform_points(shape: tuple[int, int], rate: float, rng: np.random.Generator) -> Pattern:
    order = rng.permutation(shape[0] * shape[1])
    return (order < round(rate * order.size)).reshape(shape)


def _low(shape: tuple[int, int], rate: float, rng: np.random.Generator) -> Pattern:
    distance = _distance(shape).ravel()
    order = np.argsort(np.argsort(distance, kind="stable"))
    return (order < round(rate * distance.size)).reshape(shape)


def _radial(shape: tuple[int, int], rate: float, rng: np.random.Generator) -> Pattern:
    """As many equally spaced spokes through the mean as `rate` allows."""
    reach = np.linspace(-1, 1, 4 * max(shape))
    best = np.zeros(shape, bool)
    for spokes in range(1, 2 * max(shape)):
        angles = np.pi * np.arange(spokes)[:, None] / spokes
        rows = np.rint(shape[0] // 2 + reach * np.sin(angles) * shape[0] / 2).astype(int)
        columns = np.rint(shape[1] // 2 + reach * np.cos(angles) * shape[1] / 2).astype(int)
        inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        chosen = np.zeros(shape, bool)
        chosen[rows[inside], columns[inside]] = True
        if chosen.mean() > rate:
            break
        best = chosen
    return best


PATTERNS: Registry[Callable[[tuple[int, int], float, np.random.Generator], Pattern]] = Registry(
    "pattern",
    {
        "lines": _lines,
        "uniform_lines": _uniform_lines,
        "points": _points,
        "uniform_points": _uniform_points,
        "radial": _radial,
        "low": _low,
    },
)
"""Every pattern, of a shape, the part that is sampled and a generator."""
