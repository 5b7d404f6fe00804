"""Conjugate gradients for symmetric systems, and as the adjoint solver of a symmetric Jacobian."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel.solvers.base import iterate, quotient
from deqbilevel.types import Adjoint, Info

Linear = Callable[[Array], Array]
Rows = Float[Array, "batch n"]


def symmetric_solve(
    H: Linear,
    g: Array,
    w0: Array,
    *,
    tolerance: Any = 1e-5,
    max_evaluations: Any = 100,
    precondition: Linear = lambda r: r,
) -> tuple[Array, Info]:
    """H w = g from w0 by preconditioned conjugate gradients, g: [batch, ...].

    H is symmetric and positive semidefinite, and mixes no images of the batch; `precondition` is
    an approximation of its inverse of the same kind. Stops when norm(g - H w) <= tolerance
    norm(g) over the batch, as its recursion has it, or when the budget is spent. An image is
    frozen where the curvature p^T H p is not positive, as it is where H is singular or indefinite;
    the residual says so. Evaluations are products with H, that of the start included.
    """
    r = g - H(w0)

    def size(r: Rows, w: Rows) -> Float[Array, ""]:
        length = jnp.linalg.norm(g.ravel())
        return jnp.linalg.norm(r.ravel()) / jnp.where(length > 0, length, 1)

    w, info = _iterate(H, r, w0, size, precondition, tolerance, max_evaluations)
    return w, info._replace(evaluations=info.evaluations + 1)


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

    def residual(r: Rows, w: Rows) -> Float[Array, ""]:
        return quotient(jnp.linalg.norm(r), jnp.linalg.norm(w + r))

    def adjoint(vjp: Linear, g: Array) -> tuple[Array, Info]:
        return _iterate(
            lambda p: p - vjp(p),
            g,
            jnp.zeros_like(g),
            residual,
            lambda r: r,
            tolerance,
            max_evaluations,
        )

    return adjoint


def _iterate(
    H: Linear,
    r: Array,
    w: Array,
    residual: Callable[[Rows, Rows], Float[Array, ""]],
    precondition: Linear,
    tolerance: Any,
    max_evaluations: Any,
) -> tuple[Array, Info]:
    """Conjugate gradients from w with r = g - H w."""
    shape = r.shape

    def flat(function: Linear) -> Linear:
        return lambda x: function(x.reshape(shape)).reshape(x.shape)

    H, precondition = flat(H), flat(precondition)

    def step(k: Array, state: tuple[Array, ...]) -> tuple[Any, Array, Array]:
        w, r, p, rz = state
        Hp = H(p)
        curvature, pp = _dot(p, Hp), _dot(p, p)
        usable = curvature > 8 * jnp.finfo(p.dtype).eps * pp
        step_size = jnp.where(usable, rz / jnp.where(usable, curvature, 1), 0)
        w, r = w + step_size * p, r - step_size * Hp
        z = precondition(r)
        rz_new = _dot(r, z)
        beta = jnp.where(usable & (rz > 0), rz_new / jnp.where(rz > 0, rz, 1), 0)
        p = jnp.where(usable, z + beta * p, 0)
        return (w, r, p, rz_new), w.reshape(shape), residual(r, w)

    r, w0 = r.reshape(shape[0], -1), w
    z = precondition(r)
    start = (w.reshape(r.shape), r, z, _dot(r, z))
    return iterate(step, start, w0, tolerance=tolerance, max_evaluations=max_evaluations)


def _dot(x: Rows, y: Rows) -> Float[Array, "batch 1"]:
    return jnp.sum(x * y, axis=1, keepdims=True)
