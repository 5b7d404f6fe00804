"""Conjugate gradients for the adjoint system of a map with a symmetric Jacobian."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel.solvers.base import iterate, quotient
from deqbilevel.types import Adjoint, Info


def conjugate_gradient(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Adjoint:
    """(I - J) w = g by conjugate gradients, for symmetric positive semidefinite I - J.

    That is the Jacobian of a gradient step on a convex energy: bilevel learning. Each image of
    the batch g: [batch, ...] has step sizes of its own, and is frozen where the curvature
    p^T (I - J) p vanishes, as it does where the Hessian is singular; there the system has no
    solution and the residual says so.

    The residual is that of the fixed point, norm(J w + g - w) / (1e-5 + norm(J w + g)), by the
    recursion r <- r - a (I - J) p, so that it is honest for any J. For a Jacobian that is not
    symmetric (a DEQ's) the method need not converge: use Anderson acceleration.
    Raises ValueError for a budget below 1.
    """

    def adjoint(vjp: Callable[[Array], Array], g: Array) -> tuple[Array, Info]:
        shape = g.shape
        g = g.reshape(shape[0], -1)

        def step(k: Array, state: tuple[Array, ...]) -> tuple[Any, Array, Array]:
            w, r, p, rr = state
            Hp = p - vjp(p.reshape(shape)).reshape(p.shape)
            curvature, pp = _dot(p, Hp), _dot(p, p)
            usable = curvature > 8 * jnp.finfo(p.dtype).eps * pp
            step_size = jnp.where(usable, rr / jnp.where(usable, curvature, 1), 0)
            w, r = w + step_size * p, r - step_size * Hp
            rr_new = _dot(r, r)
            beta = jnp.where(usable & (rr > 0), rr_new / jnp.where(rr > 0, rr, 1), 0)
            residual = quotient(jnp.linalg.norm(r), jnp.linalg.norm(w + r))
            p = jnp.where(usable, r + beta * p, 0)
            return (w, r, p, rr_new), w.reshape(shape), residual

        start = (jnp.zeros_like(g), g, g, _dot(g, g))
        return iterate(
            step,
            start,
            jnp.zeros(shape, g.dtype),
            tolerance=tolerance,
            max_evaluations=max_evaluations,
        )

    return adjoint


def _dot(x: Float[Array, "batch n"], y: Float[Array, "batch n"]) -> Float[Array, "batch 1"]:
    return jnp.sum(x * y, axis=1, keepdims=True)
