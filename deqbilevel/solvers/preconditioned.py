"""Momentum with a preconditioner and local step sizes, over a gradient-step map."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel.solvers.base import (
    OFFSET,
    Iteration,
    Step,
    dot,
    floor_tolerance,
    norm,
    ratio,
)
from deqbilevel.types import Solver

RENEWED = (3, 8)
"""Evaluations before which P is found again, after the one at the start: the noise is off then."""

FIRST, GROWTH, SAFETY = 0.4, 1.1, 0.8
"""The first a, by how much it grows at most, and its part of 1/l."""


def preconditioned_momentum(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Solver:
    """`optimized_gradient` in the metric of a preconditioner, with a step size of each image.

        y+ = x + a P r,    r = G(x) - x,    theta+ = (1 + sqrt(1 + 4 theta^2)) / 2
        x+ = y+ + (theta - 1) / theta+ (y+ - y) + theta / theta+ (y+ - x)

    and x+ = y+ with theta+ = 1 for an image whose gradient points against y+ - y. P is about
    (I - dG/du)^{-1}: `G.preconditioner(u)` of a map that has one, taken at the start and twice
    soon after, which is no evaluation of G; else the identity. 1/a follows the curvature that the
    last change s of x has shown, with d that of -r,

        a <- min(1.1 a, 0.8 / l),    l = <d, P d> / <s, d>

    where the bound of G is met in few places, steps are longer than its own. Each image stops at
    its own residual, so that the others of its batch change nothing for it; that of `info` is the
    largest. Returns the last y+.

    >>> solve = solvers.preconditioned_momentum(tolerance=1e-5, max_evaluations=100)
    >>> u, info = solve(lambda u: u - 0.1 * (u - 3.0), jnp.zeros((1, 2)))  # Phi = |u - 3|^2 / 2
    >>> print(bool(info.converged), bool(jnp.all(jnp.abs(u - 3) < 1e-3)))
    True True
    """

    def scheme(G: Any, u0: Array) -> tuple[Step, Any]:
        shape, flat = u0.shape, u0.reshape(len(u0), -1)
        enough = floor_tolerance(tolerance, u0.dtype)

        def found(x: Array) -> Any:
            return G.preconditioner(x.reshape(shape))

        def step(k: Array, state: Any) -> tuple[Any, Array, Array]:
            x, y, theta, a, x_before, r_before, P, last, least = state
            P = jax.lax.cond(jnp.isin(k, jnp.asarray(RENEWED)), found, lambda x: P, x)

            def preconditioned(r: Array) -> Array:
                return P(r.reshape(shape)).reshape(r.shape)

            r = G(x.reshape(shape)).reshape(flat.shape) - x
            s, d = x - x_before, r_before - r
            most = SAFETY * ratio(dot(s, d), dot(d, preconditioned(d)))
            grown = jnp.minimum(GROWTH * a, most)
            a = jax.lax.stop_gradient(jnp.where((k > 0) & (most > 0), grown, a))

            image = x + a * preconditioned(r)
            longer = (1 + jnp.sqrt(1 + 4 * theta**2)) / 2
            moved = image + (theta - 1) / longer * (image - y) + theta / longer * (image - x)
            goes_on = dot(r, image - y) >= 0
            x_next = jnp.where(goes_on, moved, image)

            residual = norm(r) / (OFFSET + norm(x + r))
            done = least <= enough
            last, least = jnp.where(done, last, image), jnp.where(done, least, residual)
            theta = jnp.where(goes_on, longer, 1.0)
            state = (x_next, image, theta, a, x, r, P, last, least)
            return state, last.reshape(shape), jnp.max(least)

        one = jnp.ones((len(flat), 1), u0.dtype)
        zero = jnp.zeros_like(flat)
        start = (flat, flat, one, FIRST * one, flat, zero, found(flat), flat, jnp.inf * one)
        return step, start

    return Iteration(scheme, tolerance, max_evaluations)
