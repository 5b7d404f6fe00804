"""Gradient descent with the step size of Barzilai and Borwein, over a gradient-step map."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel.solvers.base import Iteration, Step, relative_residual
from deqbilevel.types import Solver


def barzilai_borwein(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Solver:
    """u <- u + a r with r = G(u) - u and the short step `a = -<s, y> / ||y||^2` of each image,

    where s and y are the last changes of u and of r. G is a gradient step, the first step is its
    own, and a step is between that and 1000 times that: a change that shows no curvature gives no
    step size. Stops as `iterate` does; returns the last G(u).

    >>> solve = solvers.barzilai_borwein(tolerance=1e-5)
    >>> u, info = solve(lambda u: u - 0.1 * (u - 3.0), jnp.zeros((1, 2)))  # Phi = |u - 3|^2 / 2
    >>> print(u, info.evaluations)
    [[3. 3.]] 3
    """

    def scheme(G: Callable[[Array], Array], u0: Array) -> tuple[Step, Any]:
        shape, flat = u0.shape, u0.reshape(len(u0), -1)

        def step(k: Array, state: tuple[Array, ...]) -> tuple[Any, Array, Array]:
            u, u_before, r_before = state
            image = G(u.reshape(shape)).reshape(flat.shape)
            r = image - u
            s, y = u - u_before, r - r_before
            curvature = -jnp.sum(s * y, axis=1, keepdims=True)
            size = jnp.sum(y * y, axis=1, keepdims=True)
            usable = (curvature > 0) & (size > 0) & (k > 0)
            a = jnp.where(usable, curvature / jnp.where(usable, size, 1), 1)
            state = (u + jnp.clip(a, 1, 1000) * r, u, r)
            return state, image.reshape(shape), relative_residual(image, u)

        start = (flat, flat, flat)
        return step, start

    return Iteration(scheme, tolerance, max_evaluations)
