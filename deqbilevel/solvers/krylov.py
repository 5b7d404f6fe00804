"""Krylov methods: conjugate gradients for symmetric systems, and the adjoint solvers.

An adjoint solver here starts at w = 0 and keeps the residual r = g - (I - J) w of (I - J) w = g by
the recursion r <- r - a (I - J) p of its steps w <- w + a p. So the residual that it reports, that
of the fixed point, norm(J w + g - w) / (1e-5 + norm(J w + g)), is honest for any J and costs no
product. Each image of the batch g: [batch, ...] has scalars of its own, and stays where it is where
they would divide by zero. All raise ValueError for a budget below 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import dynamic_update_index_in_dim as put
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel.solvers.base import PerImage, Rows, dot, iterate, quotient
from deqbilevel.types import Adjoint, Info

Linear = Callable[[Array], Array]
Advance = Callable[[Array, Any], Any]
"""`advance(k, state) -> state`: one product; a state begins with w and r."""


def symmetric_solve(
    H: Linear,
    g: Array,
    w0: Array | None = None,
    *,
    tolerance: Any = 1e-5,
    max_evaluations: Any = 100,
    precondition: Linear = lambda r: r,
) -> tuple[Array, Info]:
    """H w = g from w0, or from 0, by preconditioned conjugate gradients, g: [batch, ...].

    H is symmetric and positive semidefinite, and mixes no images of the batch; `precondition` is
    an approximation of its inverse of the same kind. Stops when norm(g - H w) <= tolerance
    norm(g) over the batch, as its recursion has it, or when the budget is spent. An image is
    frozen where the curvature p^T H p is not positive, as it is where H is singular or indefinite;
    the residual says so. Evaluations are products with H, that with w0 included.
    """
    r = g if w0 is None else g - H(w0)

    def size(r: Rows, w: Rows) -> Float[Array, ""]:
        length = jnp.linalg.norm(g.ravel())
        return jnp.linalg.norm(r.ravel()) / jnp.where(length > 0, length, 1)

    start = jnp.zeros_like(g) if w0 is None else w0
    w, info = _iterate(H, r, start, size, precondition, tolerance, max_evaluations)
    return w, info._replace(evaluations=info.evaluations + (w0 is not None))


def conjugate_gradient(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Adjoint:
    """(I - J) w = g by conjugate gradients, for symmetric positive semidefinite I - J.

    That is the Jacobian of a gradient step on a convex energy: bilevel learning. An image is
    frozen where the curvature p^T (I - J) p vanishes, as it does where the Hessian is singular;
    there the system has no solution and the residual says so. For a Jacobian that is not symmetric
    (a DEQ's) the method need not converge: see `asymmetry`.
    """

    def adjoint(vjp: Linear, g: Array) -> tuple[Array, Info]:
        return _iterate(
            lambda p: p - vjp(p),
            g,
            jnp.zeros_like(g),
            _residual,
            lambda r: r,
            tolerance,
            max_evaluations,
        )

    return adjoint


def normal_conjugate_gradient(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Adjoint:
    """(I - J)^T (I - J) w = (I - J)^T g by conjugate gradients, for any J: CGLS.

    The transposed product is the linear transpose of `vjp`, that is a Jacobian-vector product of
    the map; an iteration is one product of each kind, and both are counted. The condition number
    is squared. Where I - J is singular it goes to the least-squares solution of least norm.
    """

    def scheme(A: Linear, g: Rows) -> tuple[Advance, Any]:
        transpose = jax.linear_transpose(A, g)

        def turn(state: tuple[Array, ...]) -> tuple[Array, ...]:
            w, r, p, size = state
            (s,) = transpose(r)
            return w, r, s + _ratio(dot(s, s), size) * p, dot(s, s)

        def move(state: tuple[Array, ...]) -> tuple[Array, ...]:
            w, r, p, size = state
            q = A(p)
            # Along the null space A p is only rounding, and the step would be without bound.
            usable = _norm(q) > 8 * jnp.finfo(g.dtype).eps * _norm(p)
            a = jnp.where(usable, _ratio(size, dot(q, q)), 0)
            return w + a * p, r - a * q, p, size

        def advance(k: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            return jax.lax.cond(k % 2 == 0, turn, move, state)

        zero = jnp.zeros_like(g)
        return advance, (zero, g, zero, zero[:, :1])

    return _adjoint(scheme, tolerance, max_evaluations)


def minres(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Adjoint:
    """(I - J) w = g with the least residual in the Krylov space, for symmetric J: MINRES.

    I - J may be indefinite, or singular if the system is consistent: then w is the solution of
    least norm. Paige and Saunders, SIAM J. Numer. Anal. 12 (1975): v is the Lanczos basis, and as
    (I - J) V = Q R has three diagonals, Q needs the last two columns only.
    """

    def scheme(A: Linear, g: Rows) -> tuple[Advance, Any]:
        def advance(k: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            w, r, P, Q, v, v_before, beta = state
            Av = A(v)
            w, r, P, Q = _least_residual(w, r, P, Q, v, Av, k % 2)
            v_next = Av - dot(v, Av) * v - beta * v_before
            beta = _norm(v_next)
            return w, r, P, Q, _ratio(v_next, beta), v, beta

        zero, pair = jnp.zeros_like(g), jnp.zeros((2, *g.shape), g.dtype)
        return advance, (zero, g, pair, pair, _ratio(g, _norm(g)), zero, zero[:, :1])

    return _adjoint(scheme, tolerance, max_evaluations)


def gmres(*, tolerance: Any = 1e-3, max_evaluations: Any = 50, restart: int = 20) -> Adjoint:
    """(I - J) w = g with the least residual in the Krylov space, for any J: GMRES.

    Saad and Schultz, SIAM J. Sci. Stat. Comput. 7 (1986), begun anew from w after `restart`
    products, in the form without a Hessenberg matrix of Jiranek and Rozloznik (Numer. Algorithms
    53, 2010): the space grows by (I - J) r where the last product has reduced r, else by (I - J) q
    for the last q, so that it grows where r stagnates. Raises ValueError for a restart below 1.
    """
    if restart < 1:
        raise ValueError(f"restart={restart}: expected 1 or more products before a restart")

    def scheme(A: Linear, g: Rows) -> tuple[Advance, Any]:
        def advance(k: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            w, r, P, Q, direction = state
            slot = k % restart
            Q = jnp.where(slot == 0, 0, Q)
            direction = jnp.where(slot == 0, r, direction)
            direction = _ratio(direction, _norm(direction))
            before = _norm(r)
            w, r, P, Q = _least_residual(w, r, P, Q, direction, A(direction), slot)
            return w, r, P, Q, jnp.where(_norm(r) < 0.9 * before, r, Q[slot])

        zero, basis = jnp.zeros_like(g), jnp.zeros((restart, *g.shape), g.dtype)
        return advance, (zero, g, basis, basis, g)

    return _adjoint(scheme, tolerance, max_evaluations)


def bicgstab(*, tolerance: Any = 1e-3, max_evaluations: Any = 50) -> Adjoint:
    """(I - J) w = g by stabilised bi-conjugate gradients, for any J, with a few vectors of memory.

    Van der Vorst, SIAM J. Sci. Stat. Comput. 13 (1992). An iteration is two products; w moves with
    each of them. An image whose recursion breaks down begins it anew. Where I - J is singular w may
    grow without bound: what it nearly annuls is no direction, and the w whose residual was clearly
    the least is returned.
    """

    def scheme(A: Linear, g: Rows) -> tuple[Advance, Any]:
        eps = jnp.finfo(g.dtype).eps

        def advance(k: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            best_w, best_r, w, r, shadow, p, Ap, rho, a = state
            conjugate = k % 2 == 0
            x = jnp.where(conjugate, p, r)
            Ax = A(x)
            regular = _norm(Ax) > jnp.sqrt(eps) * _norm(x)

            def along(y: Rows, b: PerImage) -> PerImage:
                """The step to where the residual is orthogonal to y, b being <y, r>."""
                curvature = dot(y, Ax)
                usable = jnp.abs(curvature) > eps * _norm(y) * _norm(Ax)
                return jnp.where(usable & regular, _ratio(b, curvature), 0)

            step = jnp.where(conjugate, along(shadow, rho), along(Ax, dot(Ax, r)))
            w, r = w + step * x, r - step * Ax

            rho_next = dot(shadow, r)
            beta = _ratio(rho_next, rho) * _ratio(a, step)
            goes_on = (beta != 0) & (jnp.abs(rho_next) > eps * _norm(shadow) * _norm(r))
            turned = jnp.where(goes_on, r + beta * (p - step * Ap), r)
            better = _norm(r) < 0.9 * _norm(best_r)
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

        zero = jnp.zeros_like(g)
        return advance, (zero, g, zero, g, g, g, zero, dot(g, g), zero[:, :1])

    return _adjoint(scheme, tolerance, max_evaluations)


def asymmetry(vjp: Linear, g: Array, key: PRNGKeyArray) -> Float[Array, ""]:
    """How far A = I - J is from symmetric, by random x, y of the shape of g: [batch, ...],

        |<x, A y> - <y, A x>| / (|A x|^2 + |A y|^2)^{1/2}

    with norms over the batch. It estimates norm(A - A^T) / (sqrt(2) norm(A)) in the Frobenius norm:
    rounding for a symmetric J, about 1 for a random one.
    """
    x, y = jax.random.normal(key, (2, *g.shape), g.dtype)
    x, y, Ax, Ay = (z.reshape(len(g), -1) for z in (x, y, x - vjp(x), y - vjp(y)))
    difference = jnp.linalg.norm(dot(x, Ay) - dot(y, Ax))
    size = jnp.hypot(jnp.linalg.norm(Ax), jnp.linalg.norm(Ay))
    return difference / jnp.where(size > 0, size, 1)


def _adjoint(
    scheme: Callable[[Linear, Rows], tuple[Advance, Any]], tolerance: Any, max_evaluations: Any
) -> Adjoint:
    """The adjoint solver of `scheme(A, g) -> (advance, state)` with A = I - J, all on rows."""

    def adjoint(vjp: Linear, g: Array) -> tuple[Array, Info]:
        shape, rows = g.shape, g.reshape(len(g), -1)
        advance, state = scheme(lambda p: p - vjp(p.reshape(shape)).reshape(p.shape), rows)

        def step(k: Array, state: Any) -> tuple[Any, Array, Array]:
            state = advance(k, state)
            w, r = state[:2]
            return state, w.reshape(shape), _residual(r, w)

        start = jnp.zeros_like(g)
        return iterate(step, state, start, tolerance=tolerance, max_evaluations=max_evaluations)

    return adjoint


def _residual(r: Rows, w: Rows) -> Float[Array, ""]:
    """That of the fixed point: w + r = J w + g."""
    return quotient(jnp.linalg.norm(r), jnp.linalg.norm(w + r))


Basis = Float[Array, "memory batch n"]


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
    length = _norm(q)
    length = jnp.where(length > jnp.sqrt(jnp.finfo(q.dtype).eps) * _norm(p), length, 0)
    p, q = _ratio(p, length), _ratio(q, length)
    a = dot(r, q)
    return w + a * p, r - a * q, put(P, p, slot, 0), put(Q, q, slot, 0)


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
        curvature, pp = dot(p, Hp), dot(p, p)
        usable = curvature > 8 * jnp.finfo(p.dtype).eps * pp
        step_size = jnp.where(usable, rz / jnp.where(usable, curvature, 1), 0)
        w, r = w + step_size * p, r - step_size * Hp
        z = precondition(r)
        rz_new = dot(r, z)
        beta = jnp.where(usable & (rz > 0), rz_new / jnp.where(rz > 0, rz, 1), 0)
        p = jnp.where(usable, z + beta * p, 0)
        return (w, r, p, rz_new), w.reshape(shape), residual(r, w)

    r, w0 = r.reshape(shape[0], -1), w
    z = precondition(r)
    start = (w.reshape(r.shape), r, z, dot(r, z))
    return iterate(step, start, w0, tolerance=tolerance, max_evaluations=max_evaluations)


def _norm(x: Rows) -> PerImage:
    return jnp.linalg.norm(x, axis=1, keepdims=True)


def _ratio(x: Array, y: PerImage) -> Array:
    """x / y, and 0 where y is."""
    return jnp.where(y != 0, x / jnp.where(y != 0, y, 1), 0)
