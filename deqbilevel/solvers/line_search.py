"""Descents with a line search, over a gradient-step map G(u) = u - grad Phi(u) / L.

All read the cost Phi only through r = G(u) - u, minus its gradient over L, and share one line
search. With the slope d(a) = <r(u + a p), p> along a direction p, a step a is long enough and short
enough by the approximate Wolfe conditions of Hager and Zhang (SIAM J. Optim. 16, 2005),

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
import optax
from jaxtyping import Array, Bool

from deqbilevel.solvers.base import Iteration, PerImage, Rows, Step, dot, quotient
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
    memory: Any
    """What the method needs to make directions; every leaf has a leading axis of images."""


Turn = Callable[[Line, Rows, Rows], tuple[Rows, PerImage, Any]]
"""`turn(line, u, r) -> (p, a, memory)`: the next direction and first step, from where the line
ended."""


def backtracking(
    *, tolerance: Any = 1e-3, max_evaluations: Any = 50, growth: Any = 1.2, over: Any = 0.8
) -> Solver:
    """Gradient descent u <- u + a r with r = G(u) - u and the step size a of each image.

    The first trial is a = 1, G's own. A step that is too long is shortened, see `_search`; one that
    is not is taken, and the next trial is `growth` times as long. Stops as `iterate` does, with the
    residual of the accepted points, and returns them. Raises ValueError for a budget below 1.
    """

    def turn(line: Line, u: Rows, r: Rows) -> tuple[Rows, PerImage, Any]:
        return r, growth * line.a, ()

    return _search(turn, lambda u, r: (), over, jnp.inf, tolerance, max_evaluations)


def nonlinear_conjugate_gradient(
    *, tolerance: Any = 1e-3, max_evaluations: Any = 50, sigma: Any = 0.1
) -> Solver:
    """Conjugate gradients with the directions of Hager and Zhang (2005) for each image.

        p <- r + max(beta, 0) p,    y = r_before - r
        beta = -<y - 2 p ||y||^2 / <p, y>, r> / <p, y>

    after a line search to where |d(a)| <= sigma d(0). The first trial of a line is its minimiser
    were the curvature <p, H p> / ||p||^2 that of the line before. For a quadratic cost and exact
    line searches these are linear conjugate gradients. Stops as `iterate` does, with the residual
    of the accepted points, and returns them. Raises ValueError for a budget below 1.
    """

    def turn(line: Line, u: Rows, r: Rows) -> tuple[Rows, PerImage, Any]:
        y = line.r - r
        py = dot(line.p, y)
        conjugate = dot(2 * _ratio(dot(y, y), py) * line.p - y, r)
        p = r + jnp.maximum(_ratio(conjugate, py), 0) * line.p
        curvature = _ratio(py, line.a * dot(line.p, line.p))
        return p, _ratio(dot(r, p), curvature * dot(p, p), otherwise=1), ()

    return _search(turn, lambda u, r: (), sigma, sigma, tolerance, max_evaluations)


def limited_memory_bfgs(
    *,
    tolerance: Any = 1e-3,
    max_evaluations: Any = 50,
    memory: int = 10,
    over: Any = 0.8,
    under: Any = 0.9,
) -> Solver:
    """u <- u + a B r with the inverse Hessian B of the last `memory` lines of each image: L-BFGS.

    B is `optax.scale_by_lbfgs`'s; the first trial of a line is a = 1. Where rounding leaves a pair
    of changes without positive curvature, so that B may be indefinite, the memory of the image is
    emptied. Stops as `iterate` does, with the residual of the accepted points, and returns them.
    Raises ValueError for a memory or a budget below 1.
    """
    if memory < 1:
        raise ValueError(f"memory={memory}: expected 1 or more pairs of changes")
    bfgs: Any = optax.scale_by_lbfgs(memory)

    def start(u: Rows, r: Rows) -> Any:
        # After its first update, which stores no pair and whose direction is not ours.
        state = jax.vmap(bfgs.init)(u)
        return state._replace(count=state.count + 1, params=u, updates=-r)

    def turn(line: Line, u: Rows, r: Rows) -> tuple[Rows, PerImage, Any]:
        # optax divides by <s, y>, or by nothing where that is 0, which has no derivative.
        before = line.memory
        sy = dot(u - before.params, r + before.updates)
        given = _differentiated(jnp.isfinite(1 / sy**2), (-r, before, u))
        p, state = jax.vmap(bfgs.update)(*given)
        definite = jnp.all(state.weights_memory >= 0, axis=1, keepdims=True)
        return jnp.where(definite, -p, 0), jnp.ones_like(line.a), state

    return _search(turn, start, over, under, tolerance, max_evaluations)


def _search(
    turn: Turn,
    start: Callable[[Rows, Rows], Any],
    over: Any,
    under: Any,
    tolerance: Any,
    max_evaluations: Any,
) -> Solver:
    """Descent by lines, each image on its own; one step is one evaluation, at u + a p.

    Where d(a) < -over d(0), or is not finite, the image stays at u and a shrinks. Otherwise it
    moves there: while d(a) > under d(0) it goes on along p, else it turns. On the line, a is the
    secant estimate of where d vanishes, within bounds. It turns to r, with the memory `start(u, r)`
    and G's own step, at the beginning and where `turn` gives no direction of descent.
    """

    def scheme(G: Callable[[Array], Array], u0: Array) -> tuple[Step, Any]:
        shape, flat = u0.shape, u0.reshape(len(u0), -1)
        eps = jnp.finfo(u0.dtype).eps

        def step(k: Array, line: Line) -> tuple[Line, Array, Array]:
            u = line.u + line.a * line.p
            r = G(u.reshape(shape)).reshape(flat.shape) - u
            finite = jnp.isfinite(dot(r, line.p))
            r = jnp.where(finite, r, 0)
            before, after = dot(line.r, line.p), dot(r, line.p)
            short_enough = finite & (after >= -over * line.slope)
            too_short = after > under * line.slope

            # The fraction of a at which the slope would vanish; not finite, it shrinks most.
            fraction = jnp.where(finite, _ratio(before, before - after), 0)
            fraction = jnp.where(fraction > 0.1, jnp.minimum(fraction, 0.99), 0.1)
            stayed = line._replace(a=line.a * fraction)
            further = jnp.minimum(_ratio(after, before - after, otherwise=10), 10)
            went_on = line._replace(u=u, r=r, a=line.a * further)

            turns = short_enough & ~too_short & (line.slope > 0)
            p, a, memory = turn(*_differentiated(turns, (line, u, r)))
            turned = Line(u, r, p, dot(r, p), a, memory)
            descends = (line.slope > 0) & (turned.slope > 0) & jnp.isfinite(turned.slope)
            steepest = Line(u, r, r, dot(r, r), jnp.ones_like(a), start(u, r))
            turned = _select(descends, turned, steepest)

            line = _select(short_enough, _select(too_short, went_on, turned), stayed)
            line = line._replace(a=jnp.clip(line.a, eps, 1 / eps))
            residual = quotient(jnp.linalg.norm(line.r), jnp.linalg.norm(line.u + line.r))
            return line, line.u.reshape(shape), residual

        # A line of no length, whose end is u0: the first evaluation is there, and turns.
        none, unknown = jnp.zeros_like(flat), jnp.full_like(flat, jnp.inf)
        line = Line(flat, unknown, none, none[:, :1], none[:, :1] + 1, start(flat, none))
        return step, line

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
