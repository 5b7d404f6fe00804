"""What filter learning came to, and the reconstructions of the pictures with it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import solvers
from experiments.filters.lanes import Lanes, model_of
from experiments.filters.tasks import Task

FINAL_EVALUATIONS = 500
"""At most, of the lower-level gradient for the pictures at the end."""

FINAL_TOLERANCE = 3e-6
"""Where they may stop before that: they are to show converged reconstructions."""

Reconstruct = Callable[[int, str], tuple[Array, Array]]
"""(lane, name of a picture) -> its reconstruction with the filters of that lane, and residual."""


class Outcome(NamedTuple):
    """What learning came to. A lane is a seed."""

    options: dict[str, Any]
    task: Task
    lanes: Lanes
    """What it started from."""
    after: dict[str, Any]
    """Params, with a leading axis of lanes as those before."""
    records: list[dict[str, Any]]
    """Of each block of upper-level iterations."""

    @property
    def iterations(self) -> int:
        """Of the upper level."""
        return self.records[-1]["iteration"] if self.records else 0

    def joined(self, name: str) -> np.ndarray:
        """A quantity of every iteration: [iterations, lanes]."""
        parts = [np.asarray(record[name]).T for record in self.records]
        return np.concatenate(parts) if parts else np.empty((0, 1))


def reconstruction(outcome: Outcome) -> Reconstruct:
    """How pictures are reconstructed to convergence, each once."""
    solver = solvers.optimized_gradient(
        tolerance=FINAL_TOLERANCE, max_evaluations=FINAL_EVALUATIONS
    )
    alone = outcome.options | {"seeds": 1}
    programs: dict[tuple[int, ...], Any] = {}

    @functools.cache
    def solve(lane: int, name: str) -> tuple[Array, Array]:
        measured = outcome.lanes.pictures[lane][name]
        if measured.shape not in programs:
            model = model_of(alone, measured.shape)
            programs[measured.shape] = jax.jit(lambda p, y: model.reconstruct(solver, p, y))
        params = jax.tree.map(lambda x: x[lane], outcome.after)
        y = jnp.asarray(measured.reshape(1, -1), jnp.float32)
        u, info = programs[measured.shape](params, y)
        return u, info.residual

    return solve
