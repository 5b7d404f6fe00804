"""Conjugate gradients: for symmetric systems, and on the normal equations for any. See `krylov`."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel.solvers.base import (
    Advance,
    Linear,
    LinearScheme,
    Rows,
    dot,
    linear_adjoint,
    linear_solve,
    norm,
    ratio,
)
from deqbilevel.types import Adjoint, Info


def symmetric_solve(
    H: Linear,
    g: Array,
    w0: Array | None = None,
    *,
    tolerance: Any = 1e-5,
    max_evaluations: Any = 100,
    precondition: Linear = lambda r: r,
    checked: bool = True,
) -> tuple[Array, Info]:
    """H w = g from w0, or from 0, by preconditioned conjugate gradients, g: [batch, ...].

    H is symmetric and positive semidefinite, and mixes no images of the batch; `precondition` is
    an approximation of its inverse of the same kind. Stops when norm(g - H w) <= tolerance
    norm(g) over the batch, as its recursion has it, or when the budget is spent. An image is
    frozen where the curvature p^T H p is not positive, as it is where H is singular or indefinite.
    Info has the residual of the w that comes back, from a product of its own, or the recursion's if
    not `checked`. Evaluations are products with H, that and the one with w0 included.

    >>> H = jnp.array([[2.0, 1.0], [1.0, 2.0]])
    >>> w, info = solvers.symmetric_solve(lambda x: x @ H, jnp.array([[4.0, 5.0]]))
    >>> print(w, bool(info.converged))
    [[1. 2.]] True
    """

    def size(r: Rows, w: Rows) -> Float[Array, ""]:
        length = jnp.linalg.norm(g.ravel())
        return jnp.linalg.norm(r.ravel()) / jnp.where(length > 0, length, 1)

    scheme = _conjugate_gradients(precondition, g.shape)
    return linear_solve(scheme, H, g, w0, size, tolerance, max_evaluations, checked)


def conjugate_gradient(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Adjoint:
    """(I - J) w = g by conjugate gradients, for symmetric positive semidefinite I - J.

    That is the Jacobian of a gradient step on a convex energy: bilevel learning. An image is
    frozen where the curvature p^T (I - J) p vanishes, as it does where the Hessian is singular;
    there the system has no solution and the residual says so. For a Jacobian that is not symmetric
    (a DEQ's) the method need not converge: see `asymmetry`.

    >>> J = jnp.array([[0.5, 0.25], [0.25, 0.5]])
    >>> w, info = solvers.conjugate_gradient(tolerance=1e-5)(lambda w: w @ J, jnp.ones((1, 2)))
    >>> print(w, bool(info.converged))  # (I - J) w = 1
    [[4. 4.]] True
    """

    def scheme(A: Linear, w: Rows, r: Rows) -> tuple[Advance, Any]:
        return _conjugate_gradients(lambda r: r, r.shape)(A, w, r)

    return linear_adjoint("conjugate_gradient", scheme, tolerance, max_evaluations)


def normal_conjugate_gradient(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Adjoint:
    """(I - J)^T (I - J) w = (I - J)^T g by conjugate gradients, for any J: CGLS.

    The transposed product is the linear transpose of `vjp`, that is a Jacobian-vector product of
    the map; an iteration is one product of each kind, and both are counted. The condition number
    is squared. Where I - J is singular it goes to the least-squares solution of least norm.

    >>> J = jnp.array([[0.0, 1.0], [-1.0, 0.0]])  # not symmetric
    >>> w, _ = solvers.normal_conjugate_gradient(tolerance=1e-5)(lambda w: w @ J, jnp.ones((1, 2)))
    >>> print(w - w @ J)  # g
    [[1. 1.]]
    """

    def scheme(A: Linear, w: Rows, r: Rows) -> tuple[Advance, Any]:
        transpose = jax.linear_transpose(A, r)

        def turn(state: tuple[Array, ...]) -> tuple[Array, ...]:
            w, r, p, size = state
            (s,) = transpose(r)
            return w, r, s + ratio(dot(s, s), size) * p, dot(s, s)

        def move(state: tuple[Array, ...]) -> tuple[Array, ...]:
            w, r, p, size = state
            q = A(p)
            # Along the null space A p is only rounding, and the step would be without bound.
            usable = norm(q) > 8 * jnp.finfo(q.dtype).eps * norm(p)
            a = jnp.where(usable, ratio(size, dot(q, q)), 0)
            return w + a * p, r - a * q, p, size

        def advance(k: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            return jax.lax.cond(k % 2 == 0, turn, move, state)

        zero = jnp.zeros_like(r)
        return advance, (w, r, zero, zero[:, :1])

    return linear_adjoint("normal_conjugate_gradient", scheme, tolerance, max_evaluations)


def _conjugate_gradients(precondition: Linear, shape: tuple[int, ...]) -> LinearScheme:
    """Preconditioned conjugate gradients for images of that shape."""

    def scheme(A: Linear, w: Rows, r: Rows) -> tuple[Advance, Any]:
        def preconditioned(r: Rows) -> Rows:
            return precondition(r.reshape(shape)).reshape(r.shape)

        def advance(k: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            w, r, p, rz = state
            Ap = A(p)
            curvature, pp = dot(p, Ap), dot(p, p)
            usable = curvature > 8 * jnp.finfo(p.dtype).eps * pp
            a = jnp.where(usable, rz / jnp.where(usable, curvature, 1), 0)
            w, r = w + a * p, r - a * Ap
            z = preconditioned(r)
            rz_new = dot(r, z)
            beta = jnp.where(usable & (rz > 0), rz_new / jnp.where(rz > 0, rz, 1), 0)
            return w, r, jnp.where(usable, z + beta * p, 0), rz_new

        z = preconditioned(r)
        return advance, (w, r, z, dot(r, z))

    return scheme
