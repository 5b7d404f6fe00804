"""Gradient methods with momentum, over a gradient-step map G(u) = u - grad Phi(u) / L."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel.solvers.base import Iteration, Step, relative_residual
from deqbilevel.types import Solver


def optimized_gradient(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Solver:
    """The optimised gradient method (OGM) with gradient restart, [CF] appendix D.

        y+ = G(x),    theta+ = (1 + sqrt(1 + 4 theta^2)) / 2
        x+ = y+ + (theta - 1) / theta+ (y+ - y) + theta / theta+ (y+ - x)

    and x+ = y+ with theta+ = 1 for an image whose gradient points against y+ - y. G must be a
    gradient step of at most 1/L. The worst case of convex costs is half that of `nesterov`.
    Stops as `iterate` does, and returns the last y+.

    >>> solve = solvers.optimized_gradient(tolerance=1e-5, max_evaluations=100)
    >>> u, info = solve(lambda u: u - 0.1 * (u - 3.0), jnp.zeros((1, 2)))  # Phi = |u - 3|^2 / 2
    >>> print(bool(info.converged), bool(jnp.all(jnp.abs(u - 3) < 1e-3)))
    True True
    """
    return _accelerated(tolerance, max_evaluations, overrelaxation=1.0)


def nesterov(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Solver:
    """Nesterov's fast gradient method with gradient restart: `optimized_gradient` without the last
    term of x+.

    >>> solve = solvers.nesterov(tolerance=1e-5, max_evaluations=100)
    >>> u, info = solve(lambda u: u - 0.1 * (u - 3.0), jnp.zeros((1, 2)))  # Phi = |u - 3|^2 / 2
    >>> print(bool(info.converged), bool(jnp.all(jnp.abs(u - 3) < 1e-3)))
    True True
    """
    return _accelerated(tolerance, max_evaluations, overrelaxation=0.0)


def _accelerated(tolerance: Any, max_evaluations: Any, overrelaxation: float) -> Solver:
    def scheme(G: Callable[[Array], Array], u0: Array) -> tuple[Step, Any]:
        each = (len(u0),) + (1,) * (u0.ndim - 1)

        def step(k: Array, state: tuple[Array, ...]) -> tuple[Any, Array, Array]:
            x, y, theta = state
            image = G(x)
            # Restart where the step, minus the gradient, goes against the way taken.
            along = jnp.sum(((image - x) * (image - y)).reshape(len(u0), -1), axis=1).reshape(each)
            longer = (1 + jnp.sqrt(1 + 4 * theta**2)) / 2
            moved = image + (theta - 1) / longer * (image - y)
            moved = moved + overrelaxation * theta / longer * (image - x)
            goes_on = along >= 0
            x_next = jnp.where(goes_on, moved, image)
            state = (x_next, image, jnp.where(goes_on, longer, 1.0))
            return state, image, relative_residual(image, x)

        start = (u0, u0, jnp.ones(each, u0.dtype))
        return step, start

    return Iteration(scheme, tolerance, max_evaluations)
