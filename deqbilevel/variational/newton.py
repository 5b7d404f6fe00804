r"""A semismooth Newton method for the exact problem, on problems that are less and less smooth.

|z| is replaced by the Huber function of width gamma, which is |z| - gamma / 2 from there on, and
steps are those of `rounded`, by Hintermueller and Stadler (SIAM J. Sci. Comput. 28, 2006). d is
feasible, and at the minimiser the exact problem's gap is the sum of w |z| - `<d, z>`, at most
w gamma / 4 at each place. gamma is made less where that is most of the gap, so that what is solved
is the exact problem.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from deqbilevel import checks
from deqbilevel.solvers.base import floor_tolerance
from deqbilevel.variational.base import Terms, Weights, ratio
from deqbilevel.variational.problems import Certificate, Data, Problem, Saddle, certify
from deqbilevel.variational.rounded import At, Bends, newton_step
from deqbilevel.variational.saddle import certified, origin

LESS = 0.2
"""gamma is made less by this factor."""


class Path(NamedTuple):
    """Where a solve is."""

    at: Saddle
    z: Terms
    """Omega x."""
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
    gamma; from a `start` that is near a solution it is as much less as the gap says. accuracy: of
    the linear systems, relative, in at most so many `products` with K^T K and Omega^T Omega.
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
        at, z, width = carry[0]
        of = huber(width.reshape(-1, 1, 1))
        x, z, d = newton_step(
            problem, w, f, at.x, z, at.d, of, accuracy=accuracy, products=products
        )
        at = Saddle(x, omega.project(d, weights))
        gap = problem.gap(*at, weights, f, radius)
        return Path(at, z, jnp.where(narrow(problem, w, at, of, gap), LESS * width, width)), ()

    def judged(own: Path, iterations: Any) -> Certificate:
        gap, relative, cost = certify(problem, own.at, weights, f, radius=radius)
        return Certificate(iterations, gap, relative, cost, relative <= tolerance)

    width = jnp.full(len(f), width, dtype)
    if start is not None:
        total = jnp.zeros(len(f), dtype)
        for a, b in zip(w, at.d, strict=True):
            total = total + jnp.sum(jnp.broadcast_to(a, b.shape), axis=(1, 2))
        gap = problem.gap(at.x, at.d, weights, f, radius)
        width = jnp.clip(ratio(4 * gap, total), jnp.finfo(dtype).eps, width).astype(dtype)
    path, info = certified(
        advance,
        judged,
        Path(at, omega.apply(at.x), width),
        (),
        count=len(f),
        every=1,
        max_iterations=max_iterations,
    )
    return path.at, info


def huber(width: Float[Array, "batch 1 1"]) -> At:
    """|z| less width / 2, and |z|^2 / (2 width) below the width.

    >>> print(variational.newton.huber(jnp.ones((1, 1, 1)))(jnp.full((1, 1, 1), 3.0)).value)
    [[[2.5]]]
    """

    def at(size: Array) -> Bends:
        m = jnp.maximum(size, width)
        value = jnp.where(size > width, size - width / 2, size**2 / (2 * width))
        return Bends(value, 1 / m, jnp.where(size > width, 1.0, 0.0).astype(size.dtype))

    return at


def narrow(
    problem: Problem, w: tuple[Array, ...], at: Saddle, of: At, gap: Float[Array, " batch"]
) -> Bool[Array, " batch"]:
    """Whether half of the gap is that of the smooth problem's solution, for which d = w z / m."""
    own = jnp.zeros_like(gap)
    for weight, z in zip(w, problem.omega.apply(at.x), strict=True):
        size = problem.omega.size(z)
        own = own + jnp.sum(weight * (size - size**2 * of(size).secant), axis=(1, 2))
    return gap <= 2 * own
