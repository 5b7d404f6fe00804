r"""The dual problem for K = I, [CF] App. A, and projected gradient methods on it.

$$ \min_{|d_t| \le w_t} \tfrac12 \|\Omega^T d - f\|^2, \qquad u = f - \Omega^T d $$

where the minimiser u has `<d, Omega u>` = w |Omega u| at each place: d = w sign(Omega u) where
that is not zero, [CF] (A.13). Its cost less the dual one is the gap of `problems`.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import checks
from deqbilevel.solvers.base import floor_tolerance
from deqbilevel.variational.base import Terms, Weights
from deqbilevel.variational.problems import Certificate, Data, Problem, Saddle, certify
from deqbilevel.variational.saddle import certified


def fista(
    problem: Problem,
    weights: Weights,
    f: Data,
    start: Saddle | None = None,
    *,
    tolerance: Any = 1e-4,
    max_iterations: Any = 2000,
    every: int = 10,
    restart: bool = True,
) -> tuple[Saddle, Certificate]:
    """The dual problem by accelerated projected gradients, `chambolle_pock` in the rest.

    Beck and Teboulle, SIAM J. Imaging Sci. 2 (2009), with momentum k / (k + 3). With `restart` an
    image begins anew where its gradient and its last step point the same way (O'Donoghue and
    Candes, Found. Comput. Math. 15, 2015). Linear convergence follows for anisotropic norms.
    Raises: ValueError for K other than I, unknowns other than u, and limits that are none.

    >>> K, omega = operators.identity((1, 2)), variational.total_variation((1, 2))
    >>> problem, f = variational.Problem(K, omega), jnp.array([[0.0, 1.0]])
    >>> at, info = variational.fista(problem, (0.25,), f)
    >>> print(at.x.round(2), bool(info.converged[0]))
    [[0.25 0.75]] True
    """
    omega = problem.omega
    checks.limits(tolerance, max_iterations)
    checks.whole("every", every)
    if not problem.convexity or omega.unknowns != omega.pixels:
        raise ValueError("fista: needs K = I and no unknowns but u; take chambolle_pock")
    tolerance = floor_tolerance(tolerance, f.dtype)
    L = sum(n**2 for n in omega.norms)
    d = tuple(jnp.zeros_like(z) for z in omega.apply(f)) if start is None else start.d
    d = omega.project(d, weights)

    def image(d: Terms) -> Array:
        return f - omega.adjoint(d)

    def advance(_: Any, carry: tuple[tuple[Terms, Terms, Array], tuple[()]]) -> Any:
        d, ahead, k = carry[0]
        z = omega.apply(image(ahead))
        new = omega.project(tuple(a + y / L for a, y in zip(ahead, z, strict=True)), weights)
        if restart:
            uphill = sum(
                (
                    jnp.sum((a - n) * (n - b), axis=(1, 2))
                    for a, n, b in zip(ahead, new, d, strict=True)
                ),
                jnp.zeros(len(f), f.dtype),
            )
            k = jnp.where(uphill > 0, 0, k)
        momentum = (k / (k + 3)).reshape(-1, 1, 1).astype(f.dtype)
        ahead = tuple(n + momentum * (n - b) for n, b in zip(new, d, strict=True))
        return (new, ahead, k + 1), ()

    def judged(own: tuple[Terms, Terms, Array], iterations: Any) -> Certificate:
        d = own[0]
        gap, relative, cost = certify(problem, Saddle(image(d), d), weights, f, radius=1.0)
        return Certificate(iterations, gap, relative, cost, relative <= tolerance)

    own = d, d, jnp.zeros(len(f), int)
    (d, *_), info = certified(
        advance, judged, own, (), count=len(f), every=every, max_iterations=max_iterations
    )
    return Saddle(image(d), d), info
