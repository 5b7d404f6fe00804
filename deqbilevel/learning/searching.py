"""The upper level as a function of `params`, and the best of a grid of values of a scalar."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact

from deqbilevel import checks, precision
from deqbilevel.learning import knowing
from deqbilevel.learning.base import Learner
from deqbilevel.types import At, Images, Params, Solver

BETA_0 = tuple(-6 + 0.1 * i for i in range(21))
"""The values of beta_0 among which [CF] D searches first."""


class Search(NamedTuple):
    """What `search` found."""

    best: Float[Array, "*lanes"]
    """The value with the least upper-level loss."""
    losses: Float[Array, "*lanes values"]
    """Of all values."""

    @property
    def at_edge(self) -> Bool[Array, "*lanes"]:
        """Whether the best value is the first or the last, so that the best of all may lie beyond;
        also where no loss is a number."""
        best = jnp.argmin(_comparable(self.losses), axis=-1)
        return (best == 0) | (best == self.losses.shape[-1] - 1)


def search(
    learner: Learner,
    params: Params,
    truth: Images,
    f: Inexact[Array, "batch data"],
    name: str,
    values: Any,
) -> Search:
    """The value of the scalar `params[name]` with the least upper-level loss, and those of all.

    truth, f: images of the learner's first model, whose lower level is solved with four times its
    budget. values: a rising grid; see `Search.at_edge` for a best value at its edge.
    Raises: ValueError for values that do not rise, and for params without a scalar of that name.

    >>> model, u = models.build("denoising", "bilevel", (1, 2)), jnp.array([[0.5, -0.5]])
    >>> setting = settings.SETTINGS["paper"]
    >>> learner = learning.Learner((model,), setting, learning.adam(10), ("A", "b"))
    >>> params = model.init(jax.random.key(0)) | models.hyperparameters(
    ...     tau=0.5, gamma=0.1, activation="identity"
    ... )
    >>> found = learning.search(learner, params, u, u, "gamma", [0.0, 0.5, 1.0])
    >>> print(found.best, found.at_edge)  # without noise no regulariser is best
    0.0 True
    """
    checks.entries("params", params, (name,))
    if not checks.traced(values):
        grid = np.asarray(checks.number("values", values), float)
        if grid.ndim != 1 or not len(grid) or not (grid[1:] > grid[:-1]).all():
            raise ValueError(f"values={values}: expected one or more, each above the last")
    budget = learner.setting.budget
    solver = learner.setting.forward(budget._replace(forward=4 * budget.forward))
    params, truth = precision.as_weights(params, truth)
    values = jnp.asarray(values, truth.dtype)
    judged = _upper_level(learner, truth, f, solver)
    losses = jax.lax.map(lambda value: judged(params | {name: value})[0], values)
    return Search(values[jnp.argmin(_comparable(losses))], losses)


def upper_level(
    learner: Learner, truth: Images, f: Inexact[Array, "batch data"]
) -> Callable[[Params], tuple[Float[Array, ""], Float[Array, ""]]]:
    """params -> the upper-level loss of images of the learner's first model, whose lower level is
    solved as one that is judged, from its start, and the evaluations that this took.

    >>> model, u = models.build("denoising", "bilevel", (1, 2)), jnp.array([[0.5, -0.5]])
    >>> setting = settings.SETTINGS["paper"]
    >>> learner = learning.Learner((model,), setting, learning.adam(10), ("A", "b"))
    >>> judged = learning.upper_level(learner, u, u + 1)
    >>> scalars = models.hyperparameters(tau=0.5, gamma=0.0, activation="identity")
    >>> print(judged(model.init(jax.random.key(0)) | scalars)[0].round(1))  # u* = f
    1.0
    """
    return _upper_level(learner, truth, f, learner.setting.evaluation())


def _upper_level(
    learner: Learner, truth: Images, f: Any, solver: Solver
) -> Callable[[Params], tuple[Array, Array]]:
    model = learner.models[0]

    def judged(params: Params) -> tuple[Array, Array]:
        params, *images = precision.as_weights(params, truth, f)
        at = model.completed(params)
        known = knowing.known(model, at, *images)
        rows = knowing.rows(learner.loss, known)
        at = model.told(at, rows)
        u, info = solver(At(model.G, at, rows), model.start(rows))
        return knowing.value(learner.loss, u, known), jnp.max(info.evaluations)

    return precision.at(learner.setting.precision, judged)


def _comparable(losses: Array) -> Array:
    """With infinity for what is no number."""
    return jnp.where(jnp.isnan(losses), jnp.inf, losses)
