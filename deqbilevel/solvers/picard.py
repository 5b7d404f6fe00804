"""Picard iteration u <- G(u), the plain fixed-point iteration."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array

from deqbilevel import checks
from deqbilevel.solvers.base import Iteration, Step, relative_residual
from deqbilevel.types import Solver


def picard(*, tolerance: Any = 1e-3, max_evaluations: Any = 50, damping: Any = 1.0) -> Solver:
    """u <- (1 - damping) u + damping G(u), on a whole batch u: [batch, ...].

    Stops when norm(G(u) - u) / (1e-5 + norm(G(u))) <= tolerance over the batch, or when the
    budget of evaluations is spent, and returns the last G(u). Converges where G is a contraction
    [REB] 2.2. Raises ValueError for a damping that is no number above 0.

    >>> solve = solvers.picard(max_evaluations=3)
    >>> u, info = solve(lambda u: 0.5 * u + 1, jnp.zeros((1, 2)))  # 1, 1.5, 1.75, ... to 2
    >>> print(u, info.evaluations, info.converged)
    [[1.75 1.75]] 3 False
    """

    checks.one("damping", damping, above=0)

    def scheme(G: Callable[[Array], Array], u0: Array) -> tuple[Step, Any]:
        def step(k: Array, u: Array) -> tuple[Array, Array, Array]:
            image = G(u)
            return u + damping * (image - u), image, relative_residual(image, u)

        return step, u0

    return Iteration(scheme, tolerance, max_evaluations)
