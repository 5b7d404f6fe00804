"""Points that do not depend on what is found: grids, random ones, sequences that fill the box."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy

from deqbilevel import checks
from deqbilevel.search.base import Outcome, Request, Search

MOST = 10**6
"""Points of a grid."""

DARTS = 20
"""Thrown for each point of a Poisson-disk sampling, at most."""


def grid(R: int, *, count: int = 64, batch: int = 16, seed: int = 0) -> Search:
    """The points of a grid with the corners of the box, as many along each axis: the most whose
    product is at most `count`, and 2 or more; in the order of the last axis. There is no seed.

    Raises: ValueError for a grid of more than a million points.

    >>> first, _ = search.grid(2, count=5).ask(0)
    >>> print(first.points.tolist())
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    _check(R, count, batch)
    along = max(2, int((count + 0.5) ** (1 / R)))
    if along**R > MOST:
        raise ValueError(
            f"grid of {along} values for each of {R} parameters: more than {MOST} points; take "
            "random or sobol, or fewer parameters"
        )
    axes = np.meshgrid(*[np.linspace(0, 1, along)] * R, indexing="ij")
    return _listed(lambda: np.stack([axis.ravel() for axis in axes], axis=-1), batch)


def random(R: int, *, count: int = 64, batch: int = 16, seed: int = 0) -> Search:
    """Points that are uniform on the box.

    >>> first, state = search.random(3, count=20).ask(0)
    >>> print(first.points.shape, state)
    (16, 3) 16
    """
    _check(R, count, batch)
    return _listed(lambda: np.random.default_rng(seed).uniform(size=(count, R)), batch)


def sobol(R: int, *, count: int = 64, batch: int = 16, seed: int = 0) -> Search:
    """The first points of a scrambled Sobol sequence; best balanced where they are a power of 2.

    >>> first, _ = search.sobol(2, count=4).ask(0)
    >>> print(np.sort(first.points[:, 0] * 4).astype(int))  # one in each quarter
    [0 1 2 3]
    """
    _check(R, count, batch)
    return _listed(lambda: balanced(R, count, seed), batch)


def balanced(R: int, count: int, seed: Any) -> np.ndarray:
    """The first points of a scrambled Sobol sequence, [count, R]; seed: as of NumPy's generators.

    >>> points = search.sampled.balanced(1, 4, seed=0)
    >>> print(np.sort(points[:, 0] * 4).astype(int))  # one in each quarter
    [0 1 2 3]
    """
    sequence = scipy.stats.qmc.Sobol(R, rng=np.random.default_rng(seed))
    return sequence.random_base2(int(np.ceil(np.log2(count))))[:count]


def poisson_disk(R: int, *, count: int = 64, batch: int = 16, seed: int = 0) -> Search:
    """Random points none of which are close to each other, [CF] 3.2 [103].

    The least distance is the largest of r, 0.9 r, 0.81 r, ... with r = 3/2 sqrt(R) / count^(1/R)
    at which `count` points are found by throwing darts: uniform points, each dropped that is too
    close to one before it. Bridson's own way grows points from each other on a grid of cells, which
    beyond ten parameters fits in no memory.

    >>> first, _ = search.poisson_disk(2, count=8).ask(0)
    >>> apart = np.linalg.norm(first.points[:, None] - first.points, axis=-1) + np.eye(8)
    >>> print(bool(apart.min() > 0.2))
    True
    """
    _check(R, count, batch)

    def points() -> np.ndarray:
        radius = 1.5 * R**0.5 / count ** (1 / R)  # more than fits
        while len(found := _apart(R, count, radius, seed)) < count:
            radius *= 0.9
        return found

    return _listed(points, batch)


def _apart(R: int, count: int, radius: float, seed: int) -> np.ndarray:
    """At most so many uniform points, each at least `radius` from all before it."""
    rng, found, known = np.random.default_rng([seed, 1]), np.empty((count, R)), 0
    for _ in range(DARTS):
        for point in rng.uniform(size=(count, R)):
            if np.all(np.sum((found[:known] - point) ** 2, axis=1) >= radius**2):
                found[known], known = point, known + 1
            if known == count:
                return found
    return found[:known]


def _check(R: int, count: int, batch: int) -> None:
    for name, value in {"R": R, "count": count, "batch": batch}.items():
        checks.whole(name, value)


def _listed(points: Callable[[], np.ndarray], batch: int) -> Search:
    """A search through all points, made once, whose State is how many it has asked for."""
    points = functools.cache(points)

    def ask(state: int) -> tuple[Request | None, int]:
        chosen = points()[state : state + batch]
        return (Request(chosen) if len(chosen) else None), state + len(chosen)

    def tell(state: int, request: Request, outcome: Outcome) -> int:
        return state

    return Search(lambda: 0, ask, tell)
