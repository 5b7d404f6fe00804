r"""FISTA for any K: proximal gradient steps, whose proximal map is a few steps on its dual problem.

    x+ = prox_{R / L}(y - K^T (K y_u - f) / L),    L = ||K||^2
       = v - Omega^T d / L,    d of min_{|d_t| <= w_t} ||Omega^T d - L v||^2

The d of one step is where the next begins, and every ten steps more are taken on it by one, as
accelerated steps want errors that fall. However inexact d is, it is feasible, and what it leaves of
K^T (K u - f) + Omega^T d is part of the gap. Where Omega is orthonormal one step on it is exact.
Beck and Teboulle, IEEE Trans. Image Process. 18 (2009).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from deqbilevel import checks, operators
from deqbilevel.solvers.base import dot, floor_tolerance
from deqbilevel.variational.base import Terms, Unknowns, Weights
from deqbilevel.variational.problems import Certificate, Data, Problem, Saddle, certify
from deqbilevel.variational.saddle import certified, origin


class Moving(NamedTuple):
    """x, the point that is ahead of it, and how many steps since the last restart."""

    at: Saddle
    ahead: Unknowns
    age: Int[Array, " batch"]


def proximal_gradient(
    problem: Problem,
    weights: Weights,
    f: Data,
    start: Saddle | None = None,
    *,
    tolerance: Any = 1e-4,
    max_iterations: Any = 2000,
    radius: Any = 1.0,
    inner: int = 10,
    every: int = 10,
) -> tuple[Saddle, Certificate]:
    """The minimiser for measurements f: [batch, data], from `start` or from `origin`, as
    `chambolle_pock`.

    inner: first steps on the dual problem of each proximal map, accelerated as the outer ones: with
    momentum k / (k + 3), which outside begins anew where it goes uphill. Of an orthonormal Omega it
    is one step. For K = I and no unknowns but u the whole is one proximal map: there `fista` takes
    less.
    Raises: ValueError for weights that do not fit, and limits that are none.

    >>> K, omega = operators.identity((1, 2)), variational.total_variation((1, 2))
    >>> problem, f = variational.Problem(K, omega), jnp.array([[0.0, 1.0]])
    >>> at, info = variational.proximal_gradient(problem, (0.25,), f)
    >>> print(at.x.round(2), bool(info.converged[0]))
    [[0.25 0.75]] True
    """
    checks.limits(tolerance, max_iterations)
    checks.whole("every", every)
    checks.whole("inner", inner)
    checks.number("radius", radius, above=0)
    omega = problem.omega
    at = origin(problem, f) if start is None else start
    dtype = at.x.dtype
    tolerance = floor_tolerance(tolerance, dtype)
    L = jnp.asarray(operators.norm(problem.K, omega.pixels), dtype) ** 2
    sigma = (L / (1 if omega.orthonormal else sum(n**2 for n in omega.norms))).astype(dtype)

    def proximal(v: Unknowns, d: Terms, steps: Any) -> Saddle:
        def image(d: Terms) -> Unknowns:
            return v - omega.adjoint(d) / L

        def advance(k: Array, carry: tuple[Terms, Terms]) -> tuple[Terms, Terms]:
            d, ahead = carry
            z = omega.apply(image(ahead))
            pushed = tuple(a + sigma * y for a, y in zip(ahead, z, strict=True))
            new = omega.project(pushed, weights)
            momentum = (k / (k + 3)).astype(dtype)
            return new, tuple(n + momentum * (n - b) for n, b in zip(new, d, strict=True))

        d, _ = jax.lax.fori_loop(0, steps, advance, (d, d))
        return Saddle(image(d), d)

    def advance(_: Any, carry: tuple[Moving, Array]) -> tuple[Moving, Array]:
        (at, ahead, age), taken = carry
        steps = 1 if omega.orthonormal else inner + taken // 10
        new = proximal(ahead - problem.slope(ahead, f) / L, at.d, steps)
        step = new.x - at.x
        age = jnp.where(dot(ahead - new.x, step)[:, 0] > 0, 0, age)
        momentum = (age / (age + 3)).reshape(-1, 1).astype(dtype)
        return Moving(new, new.x + momentum * step, age + 1), taken + 1

    def judged(own: Moving, iterations: Any) -> Certificate:
        gap, relative, cost = certify(problem, own.at, weights, f, radius=radius)
        return Certificate(iterations, gap, relative, cost, relative <= tolerance)

    at = at._replace(d=omega.project(at.d, weights))
    moving, info = certified(
        advance,
        judged,
        Moving(at, at.x, jnp.zeros(len(f), int)),
        jnp.array(0),
        count=len(f),
        every=every,
        max_iterations=max_iterations,
    )
    return moving.at, info
