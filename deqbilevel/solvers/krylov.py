"""Krylov methods for linear systems; those by conjugate gradients are in `conjugate_gradients`.

A method here keeps the residual r = g - A w of A w = g by the recursion r <- r - a A p of its steps
w <- w + a p, and ends by it. The two differ by rounding where A is badly conditioned, and where A
mixes the images of a batch, as each image of g: [batch, ...] has scalars of its own. So the w
that comes back is checked by one product more, see `base.linear_solve`, and Info has the residual
that this shows: over the whole batch, for any A. An image stays where it is where its
scalars would divide by zero.

An adjoint solver has A = I - J, starts at w = 0, and its residual is that of the fixed point,
norm(J w + g - w) / (1e-5 + norm(J w + g)). The budget holds all products, the check's too; one of 1
is passed by that. All raise ValueError for a budget or a tolerance that is none, see
`checks.limits`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import dynamic_update_index_in_dim as put
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.solvers.base import (
    REMEMBERED,
    Advance,
    Linear,
    PerImage,
    Rows,
    dot,
    linear_adjoint,
    norm,
    ratio,
)
from deqbilevel.types import Adjoint


def minres(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Adjoint:
    """(I - J) w = g with the least residual in the Krylov space, for symmetric J: MINRES.

    I - J may be indefinite, or singular if the system is consistent: then w is the solution of
    least norm. Paige and Saunders, SIAM J. Numer. Anal. 12 (1975): v is the Lanczos basis, and as
    (I - J) V = Q R has three diagonals, Q needs the last two columns only.

    >>> J = jnp.array([[2.0, 0.0], [0.0, 0.5]])  # I - J is indefinite
    >>> w, _ = solvers.minres(tolerance=1e-5)(lambda w: w @ J, jnp.ones((1, 2)))
    >>> print(w)
    [[-1.  2.]]
    """

    def scheme(A: Linear, w: Rows, r: Rows) -> tuple[Advance, Any]:
        def advance(k: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            w, r, P, Q, v, v_before, beta = state
            Av = A(v)
            w, r, P, Q = _least_residual(w, r, P, Q, v, Av, k % 2)
            v_next = Av - dot(v, Av) * v - beta * v_before
            beta = norm(v_next)
            return w, r, P, Q, ratio(v_next, beta), v, beta

        zero, pair = jnp.zeros_like(r), jnp.zeros((2, *r.shape), r.dtype)
        return advance, (w, r, pair, pair, ratio(r, norm(r)), zero, zero[:, :1])

    return linear_adjoint("minres", scheme, tolerance, max_evaluations)


def gmres(*, tolerance: Any = 1e-3, max_evaluations: Any = 50, restart: int = 20) -> Adjoint:
    """(I - J) w = g with the least residual in the Krylov space, for any J: GMRES.

    Saad and Schultz, SIAM J. Sci. Stat. Comput. 7 (1986), begun anew from w after `restart`
    products, in the form without a Hessenberg matrix of Jiranek and Rozloznik (Numer. Algorithms
    53, 2010): the space grows by (I - J) r where the last product has reduced r, else by (I - J) q
    for the last q, so that it grows where r stagnates. Raises ValueError for a restart below 1.

    >>> J = jnp.array([[0.0, 1.0], [-1.0, 0.0]])  # not symmetric
    >>> w, info = solvers.gmres(tolerance=1e-5)(lambda w: w @ J, jnp.ones((1, 2)))
    >>> print(w - w @ J, bool(info.converged))  # g
    [[1. 1.]] True
    """
    checks.count("restart", restart, most=REMEMBERED)

    def scheme(A: Linear, w: Rows, r: Rows) -> tuple[Advance, Any]:
        def advance(k: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            w, r, P, Q, direction = state
            slot = k % restart
            Q = jnp.where(slot == 0, 0, Q)
            direction = jnp.where(slot == 0, r, direction)
            direction = ratio(direction, norm(direction))
            before = norm(r)
            w, r, P, Q = _least_residual(w, r, P, Q, direction, A(direction), slot)
            return w, r, P, Q, jnp.where(norm(r) < 0.9 * before, r, Q[slot])

        basis = jnp.zeros((restart, *r.shape), r.dtype)
        return advance, (w, r, basis, basis, r)

    return linear_adjoint("gmres", scheme, tolerance, max_evaluations)


def bicgstab(*, tolerance: Any = 1e-3, max_evaluations: Any = 50, checked: bool = True) -> Adjoint:
    """(I - J) w = g by stabilised bi-conjugate gradients, for any J, with a few vectors of memory.

    Van der Vorst, SIAM J. Sci. Stat. Comput. 13 (1992). An iteration is two products; w moves with
    each of them. An image whose recursion breaks down begins it anew. Where I - J is singular w may
    grow without bound: what it nearly annuls is no direction, and the w whose residual was clearly
    the least is returned. Info has the recursion's residual if not `checked`.

    >>> J = jnp.array([[0.0, 0.5], [-0.5, 0.0]])
    >>> w, info = solvers.bicgstab(tolerance=1e-5)(lambda w: w @ J, jnp.ones((1, 2)))
    >>> print(w - w @ J, bool(info.converged))  # g
    [[1. 1.]] True
    """

    def scheme(A: Linear, w: Rows, r: Rows) -> tuple[Advance, Any]:
        eps = jnp.finfo(r.dtype).eps

        def advance(k: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            best_w, best_r, w, r, shadow, p, Ap, rho, a = state
            conjugate = k % 2 == 0
            x = jnp.where(conjugate, p, r)
            Ax = A(x)
            regular = norm(Ax) > jnp.sqrt(eps) * norm(x)

            def along(y: Rows, b: PerImage) -> PerImage:
                """The step to where the residual is orthogonal to y, b being `<y, r>`."""
                curvature = dot(y, Ax)
                usable = jnp.abs(curvature) > eps * norm(y) * norm(Ax)
                return jnp.where(usable & regular, ratio(b, curvature), 0)

            step = jnp.where(conjugate, along(shadow, rho), along(Ax, dot(Ax, r)))
            w, r = w + step * x, r - step * Ax

            rho_next = dot(shadow, r)
            beta = ratio(rho_next, rho) * ratio(a, step)
            goes_on = (beta != 0) & (jnp.abs(rho_next) > eps * norm(shadow) * norm(r))
            turned = jnp.where(goes_on, r + beta * (p - step * Ap), r)
            better = norm(r) < 0.9 * norm(best_r)
            return (
                jnp.where(better, w, best_w),
                jnp.where(better, r, best_r),
                w,
                r,
                jnp.where(conjugate | goes_on, shadow, r),
                jnp.where(conjugate, p, turned),
                jnp.where(conjugate, Ax, Ap),
                jnp.where(conjugate, rho, jnp.where(goes_on, rho_next, dot(r, r))),
                jnp.where(conjugate, step, a),
            )

        zero = jnp.zeros_like(r)
        return advance, (w, r, w, r, r, r, zero, dot(r, r), zero[:, :1])

    return linear_adjoint("bicgstab", scheme, tolerance, max_evaluations, checked)


def asymmetry(vjp: Linear, g: Array, key: PRNGKeyArray) -> Float[Array, ""]:
    """How far A = I - J is from symmetric, by random x, y of the shape of g: [batch, ...],

        |<x, A y> - <y, A x>| / (|A x|^2 + |A y|^2)^{1/2}

    with norms over the batch. It estimates norm(A - A^T) / (sqrt(2) norm(A)) in the Frobenius norm:
    rounding for a symmetric J, about 1 for a random one.
    Raises: ValueError for what is no key.

    >>> J, key = jnp.array([[0.0, 1.0], [1.0, 0.0]]), jax.random.key(0)
    >>> print(bool(solvers.asymmetry(lambda w: w @ J, jnp.ones((1, 2)), key) < 1e-6))
    True
    """
    x, y = jax.random.normal(checks.key("key", key), (2, *g.shape), g.dtype)
    x, y, Ax, Ay = (z.reshape(len(g), -1) for z in (x, y, x - vjp(x), y - vjp(y)))
    difference = jnp.linalg.norm(dot(x, Ay) - dot(y, Ax))
    size = jnp.hypot(jnp.linalg.norm(Ax), jnp.linalg.norm(Ay))
    return difference / jnp.where(size > 0, size, 1)


Basis = Float[Array, "memory batch n"]
"""As many vectors of each image."""


def _least_residual(
    w: Rows, r: Rows, P: Basis, Q: Basis, p: Rows, q: Rows, slot: Array
) -> tuple[Rows, Rows, Basis, Basis]:
    """w and r after the step along p, q = A p, that leaves r orthogonal to the span of Q and q.

    Q = A P is orthonormal; q is made orthogonal to it, p with it, and they go into the slot, unless
    A nearly annuls p: where it is singular, w would grow without bound.
    """
    for _ in range(2):  # once leaves what cancellation has lost
        c = jnp.einsum("mbn,bn->mb", Q, q)
        p, q = (x - jnp.einsum("mb,mbn->bn", c, X) for x, X in ((p, P), (q, Q)))
    length = norm(q)
    length = jnp.where(length > jnp.sqrt(jnp.finfo(q.dtype).eps) * norm(p), length, 0)
    p, q = ratio(p, length), ratio(q, length)
    a = dot(r, q)
    return w + a * p, r - a * q, put(P, p, slot, 0), put(Q, q, slot, 0)
