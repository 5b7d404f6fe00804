"""Stopping before the fixed point: at the first iterate that is good enough."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool

from deqbilevel.solvers.base import Iteration, Step, iterate
from deqbilevel.types import Info, Solver


def until(solver: Solver, enough: Callable[[Array], Bool[Array, " batch"]]) -> Solver:
    """The solver, with each image left at its first iterate of which `enough(u)` holds.

    u0 counts as one. It ends when that is so of all, which is `info.converged` too, or as the
    solver ends; `info.residual` is that of the solver's last iterates. What comes back is in
    general no fixed point, so that no hypergradient is for it.
    Raises: ValueError for a solver that is no `Iteration`, as those of `linearised` are none.

    >>> solve = solvers.until(solvers.picard(), lambda u: u[:, 0] >= jnp.array([1.0, 6.0]))
    >>> u, info = solve(lambda u: 0.5 * u + 4, jnp.zeros((2, 1)))  # 4, 6, 7, ... to 8
    >>> print(u[:, 0], info.evaluations, info.converged)
    [4. 6.] 2 True
    """
    if not isinstance(solver, Iteration):
        name = getattr(solver, "__name__", type(solver).__name__)
        raise ValueError(
            f"solver {name}: its iterates are not seen from outside; take another, such as picard()"
        )

    def solve(G: Any, u0: Array) -> tuple[Array, Info]:
        advance, state = solver.begin(G, u0)
        step = _kept(advance, enough)
        u, info = iterate(
            step,
            (state, u0, enough(u0)),
            u0,
            tolerance=solver.tolerance,
            max_evaluations=solver.max_evaluations,
            enough=lambda u: jnp.all(enough(u)),
        )
        return u, info._replace(converged=info.converged | jnp.all(enough(u)))

    return solve


def _kept(advance: Step, enough: Callable[[Array], Bool[Array, " batch"]]) -> Step:
    """The step, which leaves images where they are from the first good one on."""

    def step(k: Array, carry: Any) -> tuple[Any, Array, Array]:
        state, u, done = carry
        state, moved, residual = advance(k, state)
        u = jnp.where(done.reshape(-1, *[1] * (u.ndim - 1)), u, moved)
        return (state, u, done | enough(u)), u, residual

    return step
