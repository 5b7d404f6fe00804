"""SHINE: the forward solve's quasi-Newton estimate shared with the backward pass.

Ramzi et al. (2022), [CF] 7.2 [121]. Broyden's method on u = G(u, params, f) ends with a u* and
an estimate H of (I - dG/du)^{-1}. The adjoint system (I - dG/du)^T w = g, see `implicit`, is not
solved, but

    w = H^T g

is taken, or where Broyden's method arrives from there, preconditioned by H^T.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import checks, precision
from deqbilevel.hypergradients.base import as_cotangent, explicit, no_info
from deqbilevel.solvers.base import REMEMBERED, iterate, relative_residual
from deqbilevel.solvers.broyden import Inverse, State, begin, broyden, move
from deqbilevel.types import FixedPointMap, Info, Params, Solve


def shine(
    G: FixedPointMap,
    *,
    tolerance: Any = 1e-3,
    max_evaluations: Any = 50,
    memory: int = 50,
    refinements: int = 0,
    adjoint_tolerance: Any = 1e-3,
) -> Solve:
    """`solve(params, f, u0, probe) -> (u, info)`, with the conventions of `implicit.fixed_point`.

    The backward pass takes 1 + `refinements` products with dG/du, or fewer if the residual meets
    `adjoint_tolerance`: one to know the residual of H^T g, one for each step of Broyden's method
    from there. H is kept from the forward solve, 2 memory vectors like u0, and is poor just after
    it began anew, which it does not in less than `memory` evaluations; it is better the more the
    forward solve has seen, so the tighter its tolerance. Where G contracts slowly H^T g alone is
    far off, and the residual says so.
    Raises ValueError for a memory or a budget below 1, negative refinements, and what
    `base.explicit` refuses.

    >>> G = lambda u, params, f: 0.5 * u + params["a"] * f  # u* = 2 a f
    >>> solve = hypergradients.shine(G, tolerance=1e-5)
    >>> u = lambda a: solve({"a": a}, jnp.array([[4.0]]), jnp.zeros((1, 1)))[0].sum()
    >>> print(jax.grad(u)(1.0))  # exact here, as H is
    8.0
    """
    checks.count("refinements", refinements, least=0, most=REMEMBERED)
    checks.limits(adjoint_tolerance, max_evaluations)
    scheme = broyden(tolerance=tolerance, memory=memory).begin

    def forward(
        G: Callable[[Array], Array], u0: Array, limits: tuple[Any, Any, Any]
    ) -> tuple[Array, Info, Inverse]:
        """The estimate is a part of what `iterate` freezes, so that lanes stay apart."""
        step, state = scheme(G, u0)

        def pack(u: Array, inverse: Inverse) -> Array:
            return jnp.concatenate([u.reshape(1, len(u), -1), *inverse])

        def packed_step(k: Array, state: Any) -> tuple[Any, Array, Array]:
            state, u, residual = step(k, state)
            return state, pack(u, state.inverse), residual

        packed, info = iterate(
            packed_step,
            state,
            pack(u0, state.inverse),
            tolerance=limits[0],
            max_evaluations=limits[1],
        )
        return packed[0].reshape(u0.shape), info, Inverse(*jnp.split(packed[1:], 2))

    def adjoint(
        vjp: Callable[[Array], Array], g: Array, H: Inverse, tolerance: Any
    ) -> tuple[Array, Info]:
        """Broyden's method on w <- w + H^T ((dG/du)^T w + g - w), which estimates what H misses."""
        rows = H.transpose.apply(g.reshape(len(g), -1))

        def step(k: Array, state: State) -> tuple[State, Array, Array]:
            w = state.u.reshape(g.shape)
            image = vjp(w) + g
            r = H.transpose.apply((image - w).reshape(rows.shape))
            return move(k, state, r), w, relative_residual(image, w)

        return iterate(
            step,
            begin(rows, max(refinements, 1)),
            rows.reshape(g.shape),
            tolerance=tolerance,
            max_evaluations=1 + refinements,
        )

    @precision.highest
    def solve(params: Params, f: Array, u0: Array, probe: Info | None = None) -> tuple[Array, Info]:
        G_of_all, closed = explicit(G, params, f, u0)

        # What may be traced is an argument, for the backward pass of a vmapped solve.
        @jax.custom_vjp
        def run(params: Any, f: Any, closed: Any, u0: Array, probe: Info, limits: Any) -> Any:
            return forward(lambda u: G_of_all(u, params, f, *closed), u0, limits)[:2]

        def run_forward(
            params: Any, f: Any, closed: Any, u0: Array, probe: Info, limits: Any
        ) -> Any:
            u, info, H = forward(lambda u: G_of_all(u, params, f, *closed), u0, limits)
            return (u, info), (params, f, closed, u, probe, limits, H)

        @precision.highest
        def run_backward(saved: Any, cotangent: tuple[Array, Info]) -> Any:
            params, f, closed, u, probe, limits, H = saved
            _, pull = jax.vjp(lambda *at: G_of_all(*at, *closed), u, params, f)
            w, info = adjoint(lambda w: pull(w)[0], cotangent[0], H, limits[2])
            return *pull(w)[1:], None, None, as_cotangent(info, probe), None

        run.defvjp(run_forward, run_backward)
        probe = no_info(u0.dtype) if probe is None else probe
        limits = tolerance, max_evaluations, adjoint_tolerance
        return run(params, f, closed, u0, probe, limits)

    return solve
