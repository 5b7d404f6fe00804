"""What courses of upper-level algorithms come to: where each arrived, and at what order.

A course is a list of points, see `courses.points`: dictionaries of seconds, step, calls (one of
each oracle), rates, and of a list over lanes for loss, gradient_norm, diverged and each score.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from deqbilevel.algorithms.base import Calls

Point = Mapping[str, Any]

ORDERS: dict[str, tuple[str, str]] = {
    "ba": ("1", "1.25"),
    "accelerated_ba": ("0.5", "0.75"),
    "aid": ("1", "1"),
    "itd": ("1", "1"),
    "bsa": ("2", "3"),
    "stocbio": ("2", "2"),
    "ttsa": ("2.5", "2.5"),
    "stable": ("2", "2"),
    "mrbo": ("1.5", "1.5"),
    "sustain": ("1.5", "1.5"),
    "vrbo": ("1.5", "1.5"),
}
"""p of the upper and of the lower gradients ~ epsilon^-p until a squared norm of the hypergradient
of epsilon, for costs that need not be convex, of accelerated BA for those that are: [CF] Tables 5.1
(stochastic), 5.2 and 5.3, without logarithms."""


def target(points: Sequence[Point], close: float) -> float:
    """The loss with which a method has arrived: of the way from the first point to the best of all
    a part `close` is left."""
    losses = [_median(point["loss"]) for point in points]
    best, start = np.nanmin(losses), losses[0]
    return float(best + close * (start - best))


def numbers(course: Sequence[Point], target: float, scores: Iterable[str]) -> dict[str, Any]:
    """The numbers of a course: at its end, with those of `scores` that it has, and where it arrived
    at a loss of `target`; None where it did not."""
    last = course[-1]
    arrived = next((point for point in course if _median(point["loss"]) <= target), None)
    return {
        "calls": float(np.sum(last["calls"])),
        "seconds": last["seconds"],
        **{name: _median(last[name]) for name in scores if name in last},
        "steps": last["step"],
        "rate": last["rates"][0],
        "diverged": int(np.sum(last["diverged"])),
        "calls_to_target": None if arrived is None else float(np.sum(arrived["calls"])),
        "seconds_to_target": None if arrived is None else arrived["seconds"],
        "upper_order": order(course, "upper_gradients"),
        "lower_order": order(course, "lower_gradients"),
    }


def order(course: Sequence[Point], oracle: str) -> float | None:
    """p of calls ~ epsilon^-p, epsilon the least squared norm of the hypergradient so far.

    A least-squares fit over the points at which that fell, the first excepted; None of fewer than
    three. A method that converges linearly has p near 0.
    """
    place = Calls._fields.index(oracle)
    best, points = np.inf, []
    for point in course:
        epsilon = _median(point["gradient_norm"]) ** 2
        if point["calls"][place] > 0 and 0 < epsilon < best:
            best = epsilon
            points.append((np.log(1 / epsilon), np.log(point["calls"][place])))
    if len(points) < 3:
        return None
    x, y = np.array(points).T
    return float(np.polyfit(x, y, 1)[0])


def _median(values: Sequence[Any]) -> float:
    """Over the lanes that are finite; NaN where none is."""
    x = np.array(values, float)
    return float(np.median(x[np.isfinite(x)])) if np.isfinite(x).any() else float("nan")
