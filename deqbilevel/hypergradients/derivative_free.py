"""Directions from solutions alone, [CF] 3: the baseline that needs no derivative of the map.

A solve at moved parameters gives the change of u along the way; the inner product with dl/du, which
is known, is a slope of the upper-level loss. Every solve starts at the u0 of the first, so that
what solves that stop early have in common cancels. A tolerance that is not far below the way leaves
an error of their ratio.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.hypergradients.base import Push, Run, along_directions, unit
from deqbilevel.solvers import as_solver
from deqbilevel.types import FixedPointMap, Info, Params, Solve, Solver


def finite_differences(
    G: FixedPointMap, solver: Solver, *, step: Any = 1e-4, block: int = 32
) -> Solve:
    """Central differences (u(x + step e_i) - u(x - step e_i)) / (2 step) for each parameter x_i.

    Their error is of the order step^2, and rounding over step. Info of the backward pass has the
    evaluations of all solves, two for each parameter, and the largest of their residuals.
    Raises: ValueError for a step that is not above 0, a block below 1, and what `base.explicit`
    refuses.

    >>> G = lambda u, params, f: 0.5 * u + params["a"] * f
    >>> solve = hypergradients.finite_differences(G, solvers.picard(max_evaluations=3), step=0.5)
    >>> u = lambda a: solve({"a": a}, jnp.array([[4.0]]), jnp.zeros((1, 1)))[0].sum()
    >>> print(jax.grad(u)(1.0))  # 4 (1 + 1/2 + 1/4)
    7.0
    """
    checks.number("step", step, above=0)
    return along_directions(G, _differences(solver), unit, options=(step, None), block=block)


def gaussian_smoothing(
    G: FixedPointMap,
    solver: Solver,
    *,
    directions: int,
    width: Any = 1e-4,
    key: PRNGKeyArray,
    block: int = 32,
) -> Solve:
    """Central differences along `directions` normal random vectors z of all P parameters together.

        dl/dparams ~ mean_i <g, (u(x + width z_i) - u(x - width z_i)) / (2 width)> z_i

    It is the gradient of u smoothed by a normal distribution of that width, in expectation, and its
    relative error is about sqrt((P + 1) / directions). The same key gives the same directions.
    Info of the backward pass is that of `finite_differences`. Raises ValueError for directions < 1.

    >>> G, key = lambda u, params, f: 0.5 * u + params["a"] * f, jax.random.key(0)  # u* = 2 a f
    >>> options = {"directions": 100, "width": 0.5, "key": key}
    >>> solve = hypergradients.gaussian_smoothing(G, solvers.picard(), **options)
    >>> u = lambda a: solve({"a": a}, jnp.array([[4.0]]), jnp.zeros((1, 1)))[0].sum()
    >>> print(bool(abs(jax.grad(u)(1.0) - 8) < 2))
    True
    """
    checks.count("directions", directions, least=1)
    checks.number("width", width, above=0)
    key = checks.key("key", key)

    def normal(i: Int[Array, ""], x: Array, options: Any) -> Array:
        return jax.random.normal(jax.random.fold_in(options[1], i), x.shape, x.dtype)

    return along_directions(
        G, _differences(solver), normal, count=directions, options=(width, key), block=block
    )


def _differences(solver: Solver) -> Callable[[FixedPointMap], tuple[Run, Push]]:
    solver = as_solver(solver)

    def ways(G: FixedPointMap) -> tuple[Run, Push]:
        def run(params: Params, f: Any, u0: Array) -> tuple[Array, Info]:
            return solver(lambda u: G(u, params, f), u0)

        return run, partial(_push, run)

    return ways


def _push(run: Run, place: Callable, x: Array, d: Array, options: Any) -> tuple[Array, Info]:
    step = jnp.asarray(options[0], x.dtype)
    (ahead, one), (behind, other) = run(*place(x + step * d)), run(*place(x - step * d))
    info = Info(
        one.evaluations + other.evaluations,
        jnp.maximum(one.residual, other.residual),
        one.converged & other.converged,
    )
    return (ahead - behind) / (2 * step), info
