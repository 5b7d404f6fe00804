r"""Ways to a hypergradient, one argument apart. Differentiation wraps a solver, never lives in it.

    solve = METHODS["gmres"](G, solver, tolerance=1e-6, max_evaluations=50)
    (u, info), gradient = ...    # jax.grad through solve(params, f, u0, probe), see `fixed_point`

At u* = G(u*, params, f) the implicit function theorem gives, for an upper-level loss with gradient
g = dl/du at u*, [REB] 2.2 (9), [CF] (4.8) and (7.3),

$$ \frac{d\ell}{d\,\text{params}} = \Big(\frac{\partial G}{\partial\,\text{params}}\Big)^T w,
\qquad \Big(I - \frac{\partial G}{\partial u}\Big)^T w = g. $$

The methods differ in how they come to w, or do without it. A backward pass has no place for
diagnostics: the gradient with respect to `probe`, an `Info` of zeros, is the Info of the adjoint
solve. u0: [batch, ...] has no gradient.

A solve raises ValueError for a u0 that is no batch of finite floating numbers, an f of another
number of images, params without what the map takes, a map whose images have another form, and one
that closes over a value that is differentiated (`base.explicit`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from deqbilevel import checks
from deqbilevel.checks import Registry
from deqbilevel.hypergradients.base import no_info
from deqbilevel.hypergradients.derivative_free import finite_differences, gaussian_smoothing
from deqbilevel.hypergradients.implicit import check_symmetric, fixed_point
from deqbilevel.hypergradients.minimiser import minimiser
from deqbilevel.hypergradients.nonsmooth import primal_dual_start, primal_dual_step, single_level
from deqbilevel.hypergradients.preconditioned import preconditioned
from deqbilevel.hypergradients.shine import shine
from deqbilevel.hypergradients.unrolled import forward, piggyback, truncated, unrolled
from deqbilevel.solvers import ADJOINTS, SYMMETRIC, as_solver
from deqbilevel.solvers.base import Iteration
from deqbilevel.types import FixedPointMap, Solve

__all__ = [
    "METHODS",
    "STATIC",
    "SYMMETRIC",
    "check_symmetric",
    "finite_differences",
    "fixed_point",
    "forward",
    "gaussian_smoothing",
    "minimiser",
    "no_info",
    "piggyback",
    "preconditioned",
    "primal_dual_start",
    "primal_dual_step",
    "shine",
    "single_level",
    "truncated",
    "unrolled",
]

Method = Callable[..., Solve]
"""`method(G, solver, *, tolerance, max_evaluations) -> Solve`: the solver is that of the lower
level, the rest is for the backward pass, and counts what the method is made of."""


def _limited(method: Method) -> Method:
    """The method with its limits checked, whether it has a use for them or not."""

    def limited(G: FixedPointMap, solver: Any, *, tolerance: Any, max_evaluations: Any) -> Solve:
        checks.function("map", G)
        checks.limits(tolerance, max_evaluations)
        return method(G, solver, tolerance=tolerance, max_evaluations=max_evaluations)

    return limited


def _implicit(name: str) -> Method:
    def method(G: FixedPointMap, solver: Any, *, tolerance: Any, max_evaluations: Any) -> Solve:
        adjoint = ADJOINTS[name](tolerance=tolerance, max_evaluations=max_evaluations)
        return fixed_point(G, solver, adjoint)

    return method


def _unrolled(G: FixedPointMap, solver: Any, *, tolerance: Any, max_evaluations: Any) -> Solve:
    return unrolled(G, solver)


def _checkpointed(G: FixedPointMap, solver: Any, *, tolerance: Any, max_evaluations: Any) -> Solve:
    return unrolled(G, solver, checkpoint="sqrt")


def _truncated(G: FixedPointMap, solver: Any, *, tolerance: Any, max_evaluations: Any) -> Solve:
    return truncated(G, solver, last=max_evaluations)


def _forward(G: FixedPointMap, solver: Any, *, tolerance: Any, max_evaluations: Any) -> Solve:
    return forward(G, solver)


def _shine(G: FixedPointMap, solver: Any, *, tolerance: Any, max_evaluations: Any) -> Solve:
    if not isinstance(as_solver(solver), Iteration):
        raise ValueError(f"hypergradient 'shine': {solver} has no limits; take one of SOLVERS")
    options = {"tolerance": solver.tolerance, "max_evaluations": solver.max_evaluations}
    return shine(G, **options, adjoint_tolerance=tolerance)


def _finite_differences(
    G: FixedPointMap, solver: Any, *, tolerance: Any, max_evaluations: Any
) -> Solve:
    return finite_differences(G, solver)


def _gaussian_smoothing(
    G: FixedPointMap, solver: Any, *, tolerance: Any, max_evaluations: Any
) -> Solve:
    return gaussian_smoothing(G, solver, directions=max_evaluations, key=jax.random.key(0))


METHODS: Mapping[str, Method] = Registry(
    "hypergradient",
    {
        name: _limited(method)
        for name, method in {
            **{name: _implicit(name) for name in ADJOINTS},
            "shine": _shine,
            "unrolled": _unrolled,
            "checkpointed": _checkpointed,
            "truncated": _truncated,
            "forward": _forward,
            "finite_differences": _finite_differences,
            "gaussian_smoothing": _gaussian_smoothing,
        }.items()
    },
)
"""Every way: the implicit ones by the name of their adjoint solver, with that many products at
most; `truncated` by that many last evaluations, `gaussian_smoothing` in that many directions. The
others take as many as the lower level, whose own solver `shine` replaces by Broyden's method. Those
of `SYMMETRIC` need a symmetric dG/du. All raise ValueError for limits that are none, with a use for
them or not, see `checks.limits`."""

STATIC = ("unrolled", "checkpointed", "forward", "truncated", "gaussian_smoothing")
"""The ways whose budgets, the solver's and their own, are plain ints."""
