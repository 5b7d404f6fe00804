r"""A semismooth Newton method, on problems that are less and less smooth.

With |z| replaced by the Huber function of width gamma, which is |z| - gamma / 2 from there on, a
minimiser has

    K^T (K u - f) + Omega^T d = 0,    max(gamma, |z|) d = w z,    z = Omega x

and a step of Newton's method on both equations, max having the derivative of the larger, is

    (K^T K + Omega^T C Omega) delta = -(K^T (K u - f) + Omega^T d_0),    d+ = d_0 + C Omega delta
    d_0 = w z / m,    C = (w I - [|z| > gamma] (d n^T + n d^T) / 2) / m

with m = max(gamma, |z|) and n = z / |z|. As |d| <= w, C is positive semidefinite. It is the
symmetrised form of Hintermueller and Stadler (SIAM J. Sci. Comput. 28, 2006); the system is solved
by conjugate gradients, and x moves by the longest of the steps 1, 1/2, 1/4, ... that does not raise
the smooth cost. d is feasible, and where its equation holds the gap is w |z| - `<d, z>`, at most
w gamma / 4 at each place: gamma is made less where that is most of the gap, so that the problem
solved is the exact one.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.solvers import symmetric_solve
from deqbilevel.solvers.base import floor_tolerance
from deqbilevel.variational.base import Terms, Unknowns, Weights, ratio
from deqbilevel.variational.problems import Certificate, Data, Problem, Saddle, certify
from deqbilevel.variational.saddle import certified, origin

LENGTHS = tuple(0.5**k for k in range(8))
"""Of steps that are tried."""

LESS = 0.2
"""gamma is made less by this factor."""


class Path(NamedTuple):
    """Where a solve is."""

    at: Saddle
    width: Float[Array, " batch"]
    """gamma."""


def semismooth_newton(
    problem: Problem,
    weights: Weights,
    f: Data,
    start: Saddle | None = None,
    *,
    tolerance: Any = 1e-4,
    max_iterations: Any = 100,
    radius: Any = 1.0,
    width: Any = 0.1,
    accuracy: Any = 1e-2,
    products: Any = 200,
) -> tuple[Saddle, Certificate]:
    """The minimiser for measurements f: [batch, data], from `start` or from `origin`, as
    `chambolle_pock`.

    Few iterations, of many products: best on small problems to many digits. width: the first
    gamma. accuracy: of the linear systems, relative, in at most so many `products` with K^T K and
    Omega^T Omega. From another `start` than the origin gamma begins where the gap is.
    Raises: ValueError for weights that do not fit, and limits that are none.

    >>> K, omega = operators.identity((1, 2)), variational.total_variation((1, 2))
    >>> problem, f = variational.Problem(K, omega), jnp.array([[0.0, 1.0]])
    >>> at, info = variational.semismooth_newton(problem, (0.25,), f)
    >>> print(at.x.round(2), bool(info.converged[0]))
    [[0.25 0.75]] True
    """
    checks.limits(tolerance, max_iterations)
    checks.number("width", width, above=0)
    checks.number("radius", radius, above=0)
    checks.limits(accuracy, products)
    omega = problem.omega
    at = origin(problem, f) if start is None else start
    dtype = at.x.dtype
    tolerance = floor_tolerance(tolerance, dtype)
    at = at._replace(d=omega.project(at.d, weights))
    w = omega.weigh(weights, at.d)

    def advance(_: Any, carry: tuple[Path, tuple[()]]) -> tuple[Path, tuple[()]]:
        (x, d), width = carry[0]
        z, per_place = omega.apply(x), width.reshape(-1, 1, 1)
        size = tuple(omega.size(a) for a in z)
        m = tuple(jnp.maximum(per_place, s) for s in size)
        smooth = tuple(b * a / c for a, b, c in zip(z, w, m, strict=True))

        def curved(y: Terms) -> Terms:
            """C y."""
            return tuple(
                (b * v - jnp.where(s > per_place, _across(e, ratio(a, s), v, omega.together), 0))
                / c
                for a, b, c, e, s, v in zip(z, w, m, d, size, y, strict=True)
            )

        def H(y: Unknowns) -> Unknowns:
            of_fit = omega.start(problem.K.adjoint(problem.K.apply(problem.image(y))))
            return of_fit + omega.adjoint(curved(omega.apply(y)))

        downhill = -(problem.slope(x, f) + omega.adjoint(smooth))
        delta, _ = symmetric_solve(
            H, downhill, tolerance=accuracy, max_evaluations=products, checked=False
        )
        moved = omega.apply(delta)
        d = tuple(a + b for a, b in zip(smooth, curved(moved), strict=True))
        length = _length(problem, w, f, x, delta, z, moved, per_place)
        at = Saddle(x + length * delta, omega.project(d, weights))
        narrow = _narrow(problem, weights, f, at, w, per_place, radius)
        return Path(at, jnp.where(narrow, LESS * width, width)), ()

    def judged(own: Path, iterations: Any) -> Certificate:
        gap, relative, cost = certify(problem, own.at, weights, f, radius=radius)
        return Certificate(iterations, gap, relative, cost, relative <= tolerance)

    width = jnp.full(len(f), width, dtype)
    if start is not None:
        total = jnp.zeros(len(f), dtype)
        for a, b in zip(w, at.d, strict=True):
            total = total + jnp.sum(jnp.broadcast_to(a, b.shape), axis=(1, 2))
        gap = problem.gap(at.x, at.d, weights, f, radius)
        width = jnp.clip(ratio(4 * gap, total), jnp.finfo(dtype).eps, width)
    path, info = certified(
        advance,
        judged,
        Path(at, width.astype(dtype)),
        (),
        count=len(f),
        every=1,
        max_iterations=max_iterations,
    )
    return path.at, info


def _across(d: Array, n: Array, v: Array, together: bool) -> Array:
    """(d n^T + n d^T) v / 2."""
    if not together:
        return d * n * v
    along, pushed = (jnp.sum(a * v, axis=1, keepdims=True) for a in (n, d))
    return (d * along + n * pushed) / 2


def _huber(z: Array, size: Array, width: Array) -> Array:
    """Of |z|, less width / 2."""
    return jnp.where(size > width, size - width / 2, size**2 / (2 * width))


def _length(
    problem: Problem,
    w: tuple[Array, ...],
    f: Data,
    x: Unknowns,
    delta: Unknowns,
    z: Terms,
    moved: Terms,
    width: Array,
) -> Float[Array, "batch 1"]:
    """The longest of `LENGTHS` along which the smooth cost does not rise but for rounding, else the
    last."""
    before = problem.K.apply(problem.image(x)) - f
    along = problem.K.apply(problem.image(delta))

    def cost(t: float) -> Float[Array, " batch"]:
        total = jnp.sum(jnp.abs(before + t * along) ** 2, axis=1) / 2
        for weight, a, b in zip(w, z, moved, strict=True):
            y = a + t * b
            value = weight * _huber(y, problem.omega.size(y), width)
            total = total + jnp.sum(value, axis=(1, 2))
        return total

    now = cost(0.0)
    limit = now + 8 * jnp.finfo(now.dtype).eps * jnp.abs(now)
    falls = jnp.stack([cost(t) <= limit for t in LENGTHS])
    lengths = jnp.asarray(LENGTHS, now.dtype)
    first = jnp.argmax(falls, axis=0)
    return jnp.where(jnp.any(falls, axis=0), lengths[first], lengths[-1])[:, None]


def _narrow(
    problem: Problem,
    weights: Weights,
    f: Data,
    at: Saddle,
    w: tuple[Array, ...],
    width: Array,
    radius: Any,
) -> Any:
    """Whether half of the gap is that of the smooth problem's solution, for which d = w z / m."""
    z = problem.omega.apply(at.x)
    own = jnp.zeros(len(at.x), at.x.dtype)
    for weight, a in zip(w, z, strict=True):
        size = problem.omega.size(a)
        own = own + jnp.sum(weight * (size - size**2 / jnp.maximum(size, width)), axis=(1, 2))
    return problem.gap(at.x, at.d, weights, f, radius) <= 2 * own
