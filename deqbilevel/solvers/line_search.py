"""Descents with a line search, over a gradient-step map G(u) = u - grad Phi(u) / L.

All read the cost Phi only through r = G(u) - u, minus its gradient over L, and share one line
search. With the slope `d(a) = <r(u + a p), p>` along a direction p, a step a is long enough and
short enough by the approximate Wolfe conditions of Hager and Zhang (SIAM J. Optim. 16, 2005),

    -over d(0) <= d(a) <= under d(0),

with over = 1 - 2 delta. For a quadratic cost they are the Wolfe conditions, and they need no
difference of costs, which rounding would lose near the minimiser. Phi need not be convex, nor L be
right; it is not checked that Phi itself decreases, so that a step may cross a hump of it.

In reverse mode a branch that is not taken must not divide by zero, or its NaN times the cotangent 0
is NaN: see `_differentiated`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import dynamic_update_index_in_dim as put
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float

from deqbilevel import checks
from deqbilevel.solvers.base import REMEMBERED, Iteration, PerImage, Rows, Step, dot, quotient
from deqbilevel.types import Solver


class Line(NamedTuple):
    """The line that each image searches, and where it stands on it."""

    u: Rows
    """The last accepted point."""
    r: Rows
    """G(u) - u."""
    p: Rows
    slope: PerImage
    """d(0), where the line began."""
    a: PerImage
    """The step from u to the next trial point."""


class Pairs(NamedTuple):
    """What the last evaluations changed: s of the point, and y of r with the sign turned, and their
    inner products. An evaluation that moved an image nowhere, or against a negative curvature,
    leaves no pair: its `<s, y>` is not positive."""

    s: Float[Array, "memory batch n"]
    y: Float[Array, "memory batch n"]
    sy: Float[Array, "batch memory memory"]
    yy: Float[Array, "batch memory memory"]


Turn = Callable[[Array, Line, Rows, Pairs], tuple[Rows, PerImage]]
"""`turn(k, line, r, pairs) -> (p, a)`: the next direction and first step, from where the line
ended; the k-th evaluation left the newest pair."""


def backtracking(
    *, tolerance: Any = 1e-3, max_evaluations: Any = 50, growth: Any = 1.2, over: Any = 0.8
) -> Solver:
    """Gradient descent u <- u + a r with r = G(u) - u and the step size a of each image.

    The first trial is a = 1, G's own. A step that is too long is shortened, see `_search`; one that
    is not is taken, and the next trial is `growth` times as long. Stops as `iterate` does, with the
    residual of the accepted points, and returns them. Raises ValueError for a growth below 1.

    >>> solve = solvers.backtracking(tolerance=1e-5)
    >>> u, info = solve(lambda u: u - 1.8 * (u - 3.0), jnp.zeros((1, 2)))  # a step that is too long
    >>> print(bool(info.converged), bool(jnp.all(jnp.abs(u - 3) < 1e-3)))
    True True
    """
    checks.one("growth", growth, least=1)
    checks.one("over", over, above=0)

    def turn(k: Array, line: Line, r: Rows, pairs: Pairs) -> tuple[Rows, PerImage]:
        return r, growth * line.a

    return _search(turn, over, jnp.inf, tolerance, max_evaluations)


def nonlinear_conjugate_gradient(
    *, tolerance: Any = 1e-3, max_evaluations: Any = 50, sigma: Any = 0.1
) -> Solver:
    """Conjugate gradients with the directions of Hager and Zhang (2005) for each image.

        p <- r + max(beta, 0) p,    y = r_before - r
        beta = -<y - 2 p ||y||^2 / <p, y>, r> / <p, y>

    after a line search to where |d(a)| <= sigma d(0). The first trial of a line is its minimiser
    were the curvature `<p, H p> / ||p||^2` that of the line before. For a quadratic cost and exact
    line searches these are linear conjugate gradients. Stops as `iterate` does, with the residual
    of the accepted points, and returns them. Raises ValueError for a sigma that is not above 0.

    >>> H, b = jnp.array([1.0, 10.0]), jnp.array([1.0, 20.0])  # Phi = u'diag(H) u / 2 - b'u
    >>> solve = solvers.nonlinear_conjugate_gradient(tolerance=1e-5)
    >>> u, info = solve(lambda u: u - (H * u - b) / 10, jnp.zeros((1, 2)))
    >>> print(u, bool(info.converged))
    [[1. 2.]] True
    """
    checks.one("sigma", sigma, above=0)

    def turn(k: Array, line: Line, r: Rows, pairs: Pairs) -> tuple[Rows, PerImage]:
        y = line.r - r
        py = dot(line.p, y)
        conjugate = dot(2 * _ratio(dot(y, y), py) * line.p - y, r)
        p = r + jnp.maximum(_ratio(conjugate, py), 0) * line.p
        curvature = _ratio(py, line.a * dot(line.p, line.p))
        return p, _ratio(dot(r, p), curvature * dot(p, p), otherwise=1)

    return _search(turn, sigma, sigma, tolerance, max_evaluations)


def limited_memory_bfgs(
    *,
    tolerance: Any = 1e-3,
    max_evaluations: Any = 50,
    memory: int = 10,
    over: Any = 0.8,
    under: Any = 0.9,
) -> Solver:
    """u <- u + a B r with the inverse Hessian B of each image that L-BFGS makes of the pairs that
    the last `memory` evaluations left. The first trial of a line is a = 1.

    B r is a combination of r and the pairs (Nocedal, Wright, Algorithm 7.4) whose coefficients need
    inner products only, so that the pairs are read twice an evaluation and never moved. Stops as
    `iterate` does, with the residual of the accepted points, and returns them. Raises ValueError
    for a memory below 1, and for an `over` or `under` that is no number of its kind.

    >>> H, b = jnp.array([1.0, 10.0]), jnp.array([1.0, 20.0])  # Phi = u'diag(H) u / 2 - b'u
    >>> solve = solvers.limited_memory_bfgs(tolerance=1e-5)
    >>> u, info = solve(lambda u: u - (H * u - b) / 10, jnp.zeros((1, 2)))
    >>> print(u, bool(info.converged))
    [[1. 2.]] True
    """
    checks.count("memory", memory, most=REMEMBERED)
    checks.one("over", over, above=0)
    checks.one("under", under, least=0)

    def turn(k: Array, line: Line, r: Rows, pairs: Pairs) -> tuple[Rows, PerImage]:
        return _inverse_hessian(k, pairs, r), jnp.ones_like(line.a)

    return _search(turn, over, under, tolerance, max_evaluations, memory)


def _remember(k: Array, pairs: Pairs, s: Rows, y: Rows) -> Pairs:
    """The pairs with that of the k-th evaluation in the place of the oldest."""
    slot = k % len(pairs.s)
    S, Y = put(pairs.s, s, slot, 0), put(pairs.y, y, slot, 0)
    Sy, sY, Yy = _products(S, y), _products(Y, s), _products(Y, y)
    sy = put(put(pairs.sy, Sy, slot, 2), sY, slot, 1)
    return Pairs(S, Y, sy, put(put(pairs.yy, Yy, slot, 2), Yy, slot, 1))


def _inverse_hessian(k: Array, pairs: Pairs, r: Rows) -> Rows:
    """B r, with the pairs from the newest, of the k-th evaluation, to the oldest.

    The two loops over the pairs, q = r - sum_i alpha_i y_i and B r = gamma q + sum_i c_i s_i, are
    the solutions of triangular systems with `<s_i, y_j>`; `gamma = <s, y> / <y, y>` of the newest.
    """
    order = (k - jnp.arange(len(pairs.s))) % len(pairs.s)
    used = jnp.diagonal(pairs.sy, axis1=1, axis2=2)[:, order] > 0
    both = used[:, :, None] & used[:, None, :]
    sy, yy = (jnp.where(both, x[:, order][:, :, order], 0) for x in (pairs.sy, pairs.yy))
    sr, yr = (jnp.where(used, _products(x, r)[:, order], 0) for x in (pairs.s, pairs.y))
    lower = jnp.tril(sy) + jnp.where(used, 0, 1)[:, :, None] * jnp.eye(len(pairs.s), dtype=r.dtype)

    curvature, size = (jnp.diagonal(x, axis1=1, axis2=2) for x in (sy, yy))
    newest = jnp.argmax(used, axis=1, keepdims=True)
    scale = (jnp.take_along_axis(x, newest, axis=1) for x in (curvature, size))
    gamma = _ratio(*scale, otherwise=1)

    alpha = solve_triangular(lower, sr[..., None], lower=True)
    rest = gamma * (yr - (yy @ alpha)[..., 0])
    c = solve_triangular(lower, (curvature * alpha[..., 0] - rest)[..., None], trans=1, lower=True)

    def combined(x: Array, weights: Array) -> Rows:
        weights = weights[..., 0][:, jnp.argsort(order)]
        return jnp.einsum("bm,mbn->bn", weights, x)

    return gamma * (r - combined(pairs.y, alpha)) + combined(pairs.s, c)


def _products(pairs: Float[Array, "memory batch n"], x: Rows) -> Float[Array, "batch memory"]:
    return jnp.einsum("mbn,bn->bm", pairs, x)


def _search(
    turn: Turn, over: Any, under: Any, tolerance: Any, max_evaluations: Any, memory: int = 0
) -> Solver:
    """Descent by lines, each image on its own; one step is one evaluation, at u + a p.

    Where d(a) < -over d(0), or is not finite, the image stays at u and a shrinks. Otherwise it
    moves there: while d(a) > under d(0) it goes on along p, else it turns. On the line, a is the
    secant estimate of where d vanishes, within bounds. It turns to r, without pairs and with G's
    own step, at the beginning and where `turn` gives no direction of descent.
    """

    def scheme(G: Callable[[Array], Array], u0: Array) -> tuple[Step, Any]:
        shape, flat = u0.shape, u0.reshape(len(u0), -1)
        eps = jnp.finfo(u0.dtype).eps

        def step(k: Array, state: tuple[Line, Pairs]) -> tuple[Any, Array, Array]:
            line, pairs = state
            u = line.u + line.a * line.p
            r = G(u.reshape(shape)).reshape(flat.shape) - u
            finite = jnp.isfinite(dot(r, line.p))
            r = jnp.where(finite, r, 0)
            before, after = dot(line.r, line.p), dot(r, line.p)
            short_enough = finite & (after >= -over * line.slope)
            too_short = after > under * line.slope
            moves = short_enough & (line.slope > 0)
            if memory:
                s, y = jnp.where(moves, u - line.u, 0), jnp.where(moves, line.r - r, 0)
                pairs = _remember(k, pairs, s, y)

            # The fraction of a at which the slope would vanish; not finite, it shrinks most.
            fraction = jnp.where(finite, _ratio(before, before - after), 0)
            fraction = jnp.where(fraction > 0.1, jnp.minimum(fraction, 0.99), 0.1)
            stayed = line._replace(a=line.a * fraction)
            further = jnp.minimum(_ratio(after, before - after, otherwise=10), 10)
            went_on = line._replace(u=u, r=r, a=line.a * further)

            turns = moves & ~too_short
            from_line, from_r = _differentiated(turns, (line, r))
            p, a = turn(k, from_line, from_r, pairs)
            turned = Line(u, r, p, dot(r, p), a)
            descends = (line.slope > 0) & (turned.slope > 0) & jnp.isfinite(turned.slope)
            steepest = Line(u, r, r, dot(r, r), jnp.ones_like(a))
            turned = _select(descends, turned, steepest)
            if memory:
                forgets = (turns & ~descends)[..., None]
                pairs = pairs._replace(sy=jnp.where(forgets, 0, pairs.sy))

            line = _select(short_enough, _select(too_short, went_on, turned), stayed)
            line = line._replace(a=jnp.clip(line.a, eps, 1 / eps))
            residual = quotient(jnp.linalg.norm(line.r), jnp.linalg.norm(line.u + line.r))
            return (line, pairs), line.u.reshape(shape), residual

        # A line of no length, whose end is u0: the first evaluation is there, and turns.
        none, unknown = jnp.zeros_like(flat), jnp.full_like(flat, jnp.inf)
        line = Line(flat, unknown, none, none[:, :1], none[:, :1] + 1)
        kept = jnp.zeros((memory, *flat.shape), flat.dtype)
        products = jnp.zeros((len(flat), memory, memory), flat.dtype)
        return step, (line, Pairs(kept, kept, products, products))

    return Iteration(scheme, tolerance, max_evaluations)


def _select(choose: Bool[Array, "batch 1"], one: Any, other: Any) -> Any:
    """One tree where the image is chosen, the other where not."""

    def of_leaf(x: Array, y: Array) -> Array:
        return jnp.where(choose.reshape((len(choose),) + (1,) * (x.ndim - 1)), x, y)

    return jax.tree.map(of_leaf, one, other)


def _differentiated(choose: Bool[Array, "batch 1"], tree: Any) -> Any:
    """The tree, a constant for derivatives but where the image is chosen.

    What comes back to it in reverse mode, NaN included, is dropped for the other images.
    """
    return _select(choose, tree, jax.lax.stop_gradient(tree))


def _ratio(x: PerImage, y: PerImage, otherwise: Any = 0) -> PerImage:
    """x / y where y > 0."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), otherwise)
