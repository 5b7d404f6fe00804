"""A value of beta_0 to start from, by trying a grid of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from deqbilevel import checks, precision
from deqbilevel.bilevel.base import Problem, lower_solver, solve, upper_loss, with_scalars
from deqbilevel.types import Images, Params

BETA_0 = tuple(-6 + 0.1 * i for i in range(21))
"""The values of beta_0 among which [CF] D searches first."""


class Search(NamedTuple):
    """What `search` found."""

    beta_0: Float[Array, "*lanes"]
    """The value with the least upper-level loss."""
    losses: Float[Array, "*lanes values"]
    """Of all values."""

    @property
    def at_edge(self) -> Bool[Array, "*lanes"]:
        """Whether the best value is the first or the last, so that the best of all may lie beyond;
        also where no loss is a number."""
        best = jnp.argmin(_comparable(self.losses), axis=-1)
        return (best == 0) | (best == self.losses.shape[-1] - 1)


@precision.highest
def search(
    problem: Problem, params: Params, truth: Images, f: Images, values: Any = BETA_0
) -> Search:
    """The value of beta_0 with the least upper-level loss, and the losses of all.

    values: a rising grid; see `Search.at_edge` for a best value at its edge.
    Raises: ValueError for values that do not rise.
    """
    problem.checked()
    if not checks.traced(values):
        grid = np.asarray(checks.number("values", values), float)
        if grid.ndim != 1 or not len(grid) or not (grid[1:] > grid[:-1]).all():
            raise ValueError(f"values={values}: expected one or more, each above the last")
    values = jnp.asarray(values, f.dtype)
    solver = lower_solver(problem._replace(lower_evaluations=4 * problem.lower_evaluations))
    params, truth, f = precision.as_weights(params, truth, f)
    fixed = with_scalars(params)

    def loss(beta_0: Array) -> Array:
        u, _ = solve(problem, fixed | {"beta_0": beta_0}, f, problem.K.adjoint(f), solver)
        return upper_loss(u, truth)

    losses = jax.lax.map(loss, values)
    return Search(values[jnp.argmin(_comparable(losses))], losses)


def _comparable(losses: Array) -> Array:
    """With infinity for what is no number."""
    return jnp.where(jnp.isnan(losses), jnp.inf, losses)
