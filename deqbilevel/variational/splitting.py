r"""The alternating direction method of multipliers.

$$ \min_{x, z} \tfrac12 \|K u - f\|^2 + \sum_t \sum_p w_t[p]\, |z_t[p]| \quad
   \text{subject to } z = \Omega x $$

    x+ = argmin_x  1/2 ||K u - f||^2 + sum_t rho_t/2 ||Omega_t x - z_t + d_t / rho_t||^2
    y  = alpha Omega x+ + (1 - alpha) z
    d+ = project(d + rho y),   z+ = y + (d - d+) / rho

for any linear K, where z+ is the shrinkage of y + d / rho and alpha the relaxation. The minimum
over x is a linear system, solved by a few conjugate gradients for the step from the last x, whose
right-hand side has K^T (K u - f): the difference of K^T K u and K^T f loses digits. They are
preconditioned in cosines where `Analysis.symbol` is known: for K = I and TV that is exact, and the
first product solves it. The d that is returned is feasible, so the gap holds however inexact they
were.
Boyd, Parikh, Chu, Peleato, Eckstein, Found. Trends Mach. Learn. 3 (2011); [CF] 2.3.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import checks
from deqbilevel.solvers import symmetric_solve
from deqbilevel.solvers.base import floor_tolerance
from deqbilevel.variational import cosines
from deqbilevel.variational.base import Terms, Unknowns, Weights
from deqbilevel.variational.problems import Certificate, Data, Problem, Saddle, certify
from deqbilevel.variational.saddle import certified, origin


def admm(
    problem: Problem,
    weights: Weights,
    f: Data,
    start: Saddle | None = None,
    *,
    tolerance: Any = 1e-4,
    max_iterations: Any = 2000,
    radius: Any = 1.0,
    balance: Any = 0.03,
    relaxation: Any = 1.6,
    products: int = 5,
    every: int = 10,
) -> tuple[Saddle, Certificate]:
    """The minimiser for measurements f: [batch, data], from `start` or from `origin`, as
    `chambolle_pock`.

    rho_t = w_t / (radius balance), with `balance` the size of a difference. products: with K^T K
    for each x, at most. relaxation: alpha, from 1 to below 2.
    Raises: ValueError for weights that do not fit, and limits that are none.

    >>> K, omega = operators.identity((1, 2)), variational.total_variation((1, 2))
    >>> problem, f = variational.Problem(K, omega), jnp.array([[0.0, 1.0]])
    >>> at, info = variational.admm(problem, (0.25,), f)
    >>> print(at.x.round(2), bool(info.converged[0]))
    [[0.25 0.75]] True
    """
    checks.limits(tolerance, max_iterations)
    checks.whole("every", every)
    checks.whole("products", products)
    checks.number("balance", balance, above=0)
    checks.number("radius", radius, above=0)
    checks.number("relaxation", relaxation, least=1, below=2)
    omega, K = problem.omega, problem.K
    at = origin(problem, f) if start is None else start
    dtype = at.x.dtype
    tolerance = floor_tolerance(tolerance, dtype)
    d = omega.project(at.d, weights)
    rho = _penalties(problem, weights, radius * balance, dtype)
    precondition = _preconditioner(problem, rho, dtype)

    def scaled(z: Terms) -> Terms:
        return tuple(r * a for r, a in zip(rho, z, strict=True))

    def H(x: Unknowns) -> Unknowns:
        of_fit = omega.start(K.adjoint(K.apply(problem.image(x))))
        return of_fit + omega.adjoint(scaled(omega.apply(x)))

    def advance(_: Any, carry: tuple[tuple[Unknowns, Terms, Terms], tuple[()]]) -> Any:
        (x, d, z), _ = carry
        apart = tuple(a - b for a, b in zip(omega.apply(x), z, strict=True))
        pushed = tuple(a + b for a, b in zip(d, scaled(apart), strict=True))
        step, _ = symmetric_solve(
            H,
            -(problem.slope(x, f) + omega.adjoint(pushed)),
            tolerance=0.0,
            max_evaluations=products,
            precondition=precondition,
            checked=False,
        )
        x = x + step
        y = tuple(
            relaxation * a + (1 - relaxation) * b for a, b in zip(omega.apply(x), z, strict=True)
        )
        new = omega.project(tuple(a + b for a, b in zip(d, scaled(y), strict=True)), weights)
        z = tuple(c + (a - b) / r for a, b, c, r in zip(d, new, y, rho, strict=True))
        return (x, new, z), ()

    def judged(own: tuple[Unknowns, Terms, Terms], iterations: Any) -> Certificate:
        at = Saddle(*own[:2])
        gap, relative, cost = certify(problem, at, weights, f, radius=radius)
        return Certificate(iterations, gap, relative, cost, relative <= tolerance)

    (x, d, _), info = certified(
        advance,
        judged,
        (at.x, d, omega.apply(at.x)),
        (),
        count=len(f),
        every=every,
        max_iterations=max_iterations,
    )
    return Saddle(x, d), info


def _penalties(problem: Problem, weights: Weights, difference: Any, dtype: Any) -> tuple[Any, ...]:
    """rho of each term: of its largest weight, and not 0, as a term that weighs nothing is free."""
    largest = [jnp.max(jnp.asarray(w, dtype)) for w in weights]
    if len(largest) != len(problem.omega.norms):
        raise ValueError(
            f"weights: {len(largest)}; expected one for each of {len(problem.omega.norms)}"
        )
    return tuple(jnp.where(w > 0, w, 1) / difference for w in largest)


def _preconditioner(problem: Problem, rho: tuple[Any, ...], dtype: Any) -> Any:
    """About (K^T K + sum_t rho_t Omega_t^T Omega_t)^(-1)."""
    symbol = problem.omega.symbol
    if symbol is None:
        return lambda r: r
    fit = cosines.majorant(problem.K, problem.omega.shape)
    inverse = cosines.inverse(symbol(rho).at[0].add(fit)).astype(dtype)

    def multiplied(r: Array) -> Array:
        return cosines.multiplied(inverse, r)

    return multiplied
