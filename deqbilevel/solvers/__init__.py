r"""Fixed-point solvers and adjoint solvers. A solver does not know how it is differentiated.

A solver is `solve(G, u0) -> (u, info)` for u = G(u), and works on a whole batch u: [batch, ...]. It
stops when

$$ \frac{\|G(u) - u\|}{10^{-5} + \|G(u)\|} \le \text{tolerance} $$

over the batch, or when `max_evaluations` of G are spent; a tolerance of None is met by nothing.
`info` is a `types.Info`: evaluations, that residual, and whether it met the tolerance, which is no
less than rounding allows. Under `vmap` each lane stops by itself. (This is `base.iterate`.)

An adjoint solver is `adjoint(vjp, g) -> (w, info)` for the linear system

$$ (I - J)^T w = g, \qquad J = \partial G / \partial u, \qquad \text{vjp}(w) = J^T w, $$

with the residual of w = vjp(w) + g; where a docstring of one has (I - J) w, J is that of vjp. All
raise ValueError for a budget or a tolerance that is none, for a u0 or g that is no batch of
floating numbers, and for a map that returns another form. The budget of an adjoint solver holds the
product that checks its w too.

The descents with a line search, of `LINE_SEARCHES`, read a cost only through r(u) = G(u) - u, minus
its gradient over L. A step a along p ends where the slope $d(a) = \langle r(u + a p), p \rangle$
has fallen enough, by the approximate Wolfe conditions of Hager and Zhang (2005),

$$ -\text{over} \cdot d(0) \le d(a) \le \text{under} \cdot d(0). $$
"""

from collections.abc import Callable, Mapping

from jaxtyping import Array

from deqbilevel.checks import Registry
from deqbilevel.solvers.anderson import anderson, preconditioned_anderson
from deqbilevel.solvers.barzilai_borwein import barzilai_borwein
from deqbilevel.solvers.base import Iteration, linear
from deqbilevel.solvers.broyden import broyden
from deqbilevel.solvers.conjugate_gradients import (
    conjugate_gradient,
    normal_conjugate_gradient,
    symmetric_solve,
)
from deqbilevel.solvers.dense import dense
from deqbilevel.solvers.krylov import asymmetry, bicgstab, gmres, minres
from deqbilevel.solvers.line_search import (
    backtracking,
    limited_memory_bfgs,
    nonlinear_conjugate_gradient,
)
from deqbilevel.solvers.momentum import nesterov, optimized_gradient
from deqbilevel.solvers.neumann import jacobian_free, neumann
from deqbilevel.solvers.picard import picard
from deqbilevel.solvers.preconditioned import preconditioned_momentum
from deqbilevel.solvers.stopping import until
from deqbilevel.types import Adjoint, Info, Solver

__all__ = [
    "ADJOINTS",
    "DESCENTS",
    "LINE_SEARCHES",
    "SOLVERS",
    "SYMMETRIC",
    "anderson",
    "as_adjoint",
    "as_solver",
    "asymmetry",
    "backtracking",
    "barzilai_borwein",
    "bicgstab",
    "broyden",
    "conjugate_gradient",
    "dense",
    "gmres",
    "jacobian_free",
    "limited_memory_bfgs",
    "minres",
    "nesterov",
    "neumann",
    "nonlinear_conjugate_gradient",
    "normal_conjugate_gradient",
    "optimized_gradient",
    "picard",
    "preconditioned_anderson",
    "preconditioned_momentum",
    "symmetric_solve",
    "until",
]


def as_adjoint(solver: Solver | Adjoint) -> Adjoint:
    """A fixed-point solver as the adjoint solver of w = (dG/du)^T w + g, started at g.

    An adjoint solver is left as it is. Raises ValueError for what is neither that nor an
    `Iteration`: a function may be either.

    >>> adjoint = solvers.as_adjoint(solvers.picard(max_evaluations=2))
    >>> w, _ = adjoint(lambda w: 0.5 * w, jnp.ones((1, 1)))
    >>> print(w)  # from g = 1: 1.5, 1.75, ... to 2
    [[1.75]]
    """
    if isinstance(solver, Adjoint):
        return solver
    if not isinstance(solver, Iteration):
        raise ValueError(
            f"adjoint {solver}: expected an adjoint solver, one of {', '.join(ADJOINTS)}; a "
            "function of your own as types.Adjoint(name, function)"
        )

    def adjoint(vjp: Callable[[Array], Array], g: Array) -> tuple[Array, Info]:
        return solver(lambda w: vjp(w) + g, g)

    return linear("as_adjoint", adjoint)


def as_solver(solver: Solver) -> Solver:
    """The solver of a fixed-point equation. Raises ValueError for an adjoint solver, and for what
    is none: a name, or a function that makes one.

    >>> solver = solvers.picard()
    >>> print(solvers.as_solver(solver) is solver)
    True
    """
    if isinstance(solver, Adjoint):
        raise ValueError(
            f"solver {solver.name}: solves the linear system of an adjoint, and not u = G(u); take "
            f"one of {', '.join(SOLVERS)}, or for a gradient step one of {', '.join(DESCENTS)}"
        )
    if not callable(solver) or solver in {**SOLVERS, **DESCENTS}.values():
        name = getattr(solver, "__name__", repr(solver))
        raise ValueError(
            f"solver {name}: expected one of {', '.join(SOLVERS)}, made as a call, such as picard()"
        )
    return solver


def _as_adjoint_factory(factory: Callable[..., Solver]) -> Callable[..., Adjoint]:
    return lambda **options: as_adjoint(factory(**options))


SOLVERS: Mapping[str, Callable[..., Solver]] = Registry(
    "solver", {"picard": picard, "anderson": anderson, "broyden": broyden}
)
"""Every fixed-point solver; each takes at least `tolerance` and `max_evaluations`."""

DESCENTS: Mapping[str, Callable[..., Solver]] = Registry(
    "descent",
    {
        "gradient_descent": picard,
        "nesterov": nesterov,
        "optimized_gradient": optimized_gradient,
        "preconditioned_momentum": preconditioned_momentum,
        "barzilai_borwein": barzilai_borwein,
        "backtracking": backtracking,
        "nonlinear_conjugate_gradient": nonlinear_conjugate_gradient,
        "limited_memory_bfgs": limited_memory_bfgs,
    },
)
"""Solvers for a map that is a gradient step G(u) = u - grad Phi(u) / L of a smooth cost."""

LINE_SEARCHES = ("backtracking", "nonlinear_conjugate_gradient", "limited_memory_bfgs")
"""The descents that return the point whose residual they report; the others return its image."""

ADJOINTS: Mapping[str, Callable[..., Adjoint]] = Registry(
    "adjoint solver",
    {
        **{name: _as_adjoint_factory(factory) for name, factory in SOLVERS.items()},
        "conjugate_gradient": conjugate_gradient,
        "minres": minres,
        "normal_conjugate_gradient": normal_conjugate_gradient,
        "gmres": gmres,
        "bicgstab": bicgstab,
        "neumann": neumann,
        "jacobian_free": jacobian_free,
        "dense": dense,
    },
)
"""Every adjoint solver; each takes at least `tolerance` and `max_evaluations`."""

SYMMETRIC = ("conjugate_gradient", "minres")
"""The adjoint solvers that need a symmetric Jacobian, see `hypergradients.check_symmetric`."""
