"""Courses of upper-level algorithms over lanes, and where they arrive."""

import numpy as np
import optax
import pytest
from helpers import float64

from deqbilevel import algorithms, courses
from deqbilevel.algorithms import arrivals
from deqbilevel.algorithms.judging import Accuracy

POINTS = [
    {"loss": [4.0, 4.0, 4.0], "diverged": [False] * 3},
    {"loss": [3.0, 1.1, 0.5], "diverged": [False] * 3},
    {"loss": [1.0, 1.0, float("nan")], "diverged": [False, False, True]},
]


def test_the_best_lane_is_the_first_to_come_close_that_did_not_diverge() -> None:
    assert courses.best(POINTS, 0.05) == 1  # within 1.15 at the second point
    assert courses.best(POINTS, 0.01) == 0  # within 1.03 at the last alone, as the other lane
    assert arrivals.target(POINTS[:1] + POINTS[2:], 0.5) == 2.5


@float64
def test_lanes_descend_to_the_known_minimum_and_are_judged_there() -> None:
    posed = algorithms.quadratic()
    setup = courses.Setup(
        lambda own: posed,
        lambda posed, rate: algorithms.aid(
            posed.problem, optax.sgd(rate), lower_iterations=10, adjoint_iterations=3
        ),
        Accuracy("barzilai_borwein", 2000, 50, 1e-12),
        lambda gamma, x, posed: {},
    )
    lanes = courses.lanes(np.zeros(1), [1.0, 0.01], [0, 0], first=0)
    found = courses.points(setup, lanes, setup.start(lanes), calls=600, seconds=60)
    course = [point for point, _ in found]
    assert [point["last"] for point in course] == [False] * (len(course) - 1) + [True]
    assert sum(course[-1]["calls"]) >= 600 > sum(course[-2]["calls"])
    assert course[-1]["loss"][0] == pytest.approx(12599 / 7002, abs=1e-9)
    assert course[-1]["gradient_norm"][0] < 1e-6 < 1e-3 < course[-1]["gradient_norm"][1]
    assert courses.best(course, 0.01) == 0
