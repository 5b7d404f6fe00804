"""The implicit hypergradient: the one place that uses jaxopt's implicit-differentiation decorator.

At u* = G(u*, params, f) the implicit function theorem gives, for an upper-level loss with
gradient g = dl/du at u*,

    dl/dparams = (dG/dparams)^T w,    (I - dG/du)^T w = g                       [REB] 2.2 (9)

and the linear system is solved by any adjoint solver. Memory does not grow with iterations.

A backward pass has no place for diagnostics, so the fixed point is extended by a slot whose map
is the constant `probe`: (u, s) = (G(u, params, f), probe). The adjoint variable of that slot
multiplies nothing but `probe`, so the adjoint solve writes its Info there, and the gradient with
respect to `probe` IS the Info of the adjoint solve. It passes through jit, vmap and scan.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import checks, precision
from deqbilevel.hypergradients.base import as_cotangent, at, explicit, no_info
from deqbilevel.solvers import SYMMETRIC, as_adjoint, as_solver, asymmetry
from deqbilevel.types import Adjoint, FixedPointMap, Info, Params, Solve, Solver

__all__ = ["check_symmetric", "fixed_point", "no_info"]


def fixed_point(G: FixedPointMap, solver: Solver, adjoint: Adjoint | Solver) -> Solve:
    """`solve(params, f, u0, probe) -> (u, info)`, differentiable in reverse mode.

    solver: one of `SOLVERS` or `DESCENTS`; adjoint: one of `ADJOINTS`, or what `as_adjoint` makes
    one of. u0: [batch, ...] starts the solver and has no gradient. Differentiating with respect to
    params or f solves one adjoint system; the cotangent of `probe` (an Info of zeros, see
    `no_info`) is the adjoint's Info.

        derivative = jax.value_and_grad(loss, (0, 1), has_aux=True)
        (value, info), (gradient, adjoint_info) = derivative(params, no_info())

    Raises ValueError for a solver of the other kind, and for what `base.explicit` refuses.

    >>> G = lambda u, params, f: 0.5 * u + params["a"] * f  # u* = 2 a f
    >>> solve = hypergradients.fixed_point(G, solvers.picard(tolerance=1e-6), solvers.gmres())
    >>> u = lambda a: solve({"a": a}, jnp.array([[4.0]]), jnp.zeros((1, 1)))[0].sum()
    >>> print(jax.grad(u)(1.0))
    8.0
    """
    from jaxopt.implicit_diff import custom_fixed_point  # with half of SciPy: when it is needed

    solver, adjoint = as_solver(solver), as_adjoint(adjoint)

    @precision.highest
    def solve_adjoint(matvec: Callable[[Any], Any], b: tuple[Array, Info]) -> tuple[Array, Info]:
        # jaxopt poses (dG/du - I)^T w = -g; in our terms matvec(w) = (dG/du)^T w - w and b = -g.
        minus_g, slot = b
        silent = jax.tree.map(jnp.zeros_like, slot)
        w, info = adjoint(lambda w: w + matvec((w, silent))[0], -minus_g)
        return w, as_cotangent(info, silent)

    @precision.highest
    def solve(params: Params, f: Array, u0: Array, probe: Info | None = None) -> tuple[Array, Info]:
        G_of_all, closed = explicit(G, params, f, u0)
        probe = no_info(u0.dtype) if probe is None else probe

        @precision.highest
        def slotted(
            state: tuple[Array, Info], params: Any, f: Any, closed: Any, probe: Info
        ) -> Any:
            return G_of_all(state[0], params, f, *closed), probe

        @custom_fixed_point(slotted, has_aux=True, solve=solve_adjoint)
        def run(state: tuple[Array, Info], params: Any, f: Any, closed: Any, probe: Info) -> Any:
            u, info = solver(lambda u: G_of_all(u, params, f, *closed), state[0])
            return (u, probe), info

        (u, _), info = run((u0, probe), params, f, closed, probe)
        return u, info

    return solve


def check_symmetric(
    G: FixedPointMap, params: Params, f: Array, u: Array, *, largest: float = 1e-3
) -> None:
    """Raises ValueError where dG/du at u: [batch, ...] is not symmetric, for conjugate gradients.

    They and MINRES solve (I - dG/du)^T w = g only then: for a gradient step on an energy (bilevel
    learning), neither for a DEQ nor after preconditioning. u: best a fixed point. Not under jit.

    >>> G, u = lambda u, params, f: u - 0.1 * (u @ params["A"] - f), jnp.ones((1, 2))
    >>> params = {"A": jnp.array([[2.0, 1.0], [1.0, 2.0]])}
    >>> hypergradients.check_symmetric(G, params, u, u)  # no error
    """
    checks.number("largest", largest, least=0)
    checks.batch(u=u)
    _, vjp = jax.vjp(at(G, params, f), u)
    measured = float(asymmetry(lambda w: vjp(w)[0], u, jax.random.key(0)))
    if not measured <= largest:
        raise ValueError(
            f"the Jacobian of the map is not symmetric: asymmetry {measured:.2g}, expected at most "
            f"{largest:g} for {' and '.join(SYMMETRIC)}; take gmres, bicgstab, anderson or "
            "normal_conjugate_gradient for the adjoint"
        )
