"""The implicit hypergradient from a Jacobian that the map puts together.

For u* = G(u*, params, f), A = I - dG/du there and g = dl/du,

    dl/dparams = (dG/dparams)^T w,    A^T w = g                                     [REB] 2.2 (9)

as in `implicit`; but A gives cheap products and a preconditioner to the solve for w.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import checks, precision
from deqbilevel.hypergradients.base import as_cotangent, no_info
from deqbilevel.linearised import LinearisedMap, linear_solve
from deqbilevel.solvers import as_solver
from deqbilevel.types import At, FixedPointMap, Info, Params, Solve, Solver


def preconditioned(
    G: FixedPointMap, solver: Solver, *, tolerance: Any = 1e-3, max_evaluations: Any = 100
) -> Solve:
    """`solve(params, f, u0, probe) -> (u, info)`, with the conventions of `implicit.fixed_point`.

    Forwards any solver; backwards `linear_solve` with the Jacobian that the map puts together at
    u, and so a residual norm(A^T w - g) relative to about that of g. The derivative with respect to
    params and f goes image by image, so that what it needs of each stays in the cache: G must treat
    the images of a batch apart. Raises ValueError for a map that is no `LinearisedMap`.

    >>> R = regularizers.REGULARIZERS["normalised"]((1, 2), kernels=(1, 1))
    >>> model, f = models.assemble(operators.identity((1, 2)), R), jnp.ones((1, 2))
    >>> params = model.completed(R.init(jax.random.key(0)) | {"gamma": 0.0})
    >>> solve = hypergradients.preconditioned(model.G, solvers.picard(tolerance=1e-5))
    >>> print(jax.grad(lambda f: solve(params, f, f)[0].sum())(f))  # u = f without gamma
    [[1. 1.]]
    """
    solver = as_solver(solver)
    checks.limits(tolerance, max_evaluations)
    if not isinstance(G, LinearisedMap):
        raise ValueError(
            "hypergradient 'preconditioned': the map does not put its Jacobian together; take a "
            "gradient step on regularizers.normalised, or another method such as "
            "conjugate_gradient, gmres or bicgstab"
        )

    # What may be traced is an argument, for the backward pass of a vmapped solve.
    @jax.custom_vjp
    def run(params: Params, f: Array, u0: Array, probe: Info, limits: Any) -> tuple[Array, Info]:
        return solver(At(G, params, f), u0)

    def run_forward(params: Params, f: Array, u0: Array, probe: Info, limits: Any) -> Any:
        u, info = run(params, f, u0, probe, limits)
        return (u, info), (params, f, u, probe, limits)

    @precision.highest
    def run_backward(saved: Any, cotangent: tuple[Array, Info]) -> Any:
        params, f, u, probe, (tolerance, max_evaluations) = saved
        _, A = G.linearised(u, params, f)
        w, info = linear_solve(
            A.transpose, cotangent[0], tolerance=tolerance, max_evaluations=max_evaluations
        )

        def of_image(total: Params, image: tuple[Array, Array, Array]) -> tuple[Params, Array]:
            u, f, w = (x[None] for x in image)
            _, pull = jax.vjp(lambda params, f: G(u, params, f), params, f)
            d_params, d_f = pull(w)
            return jax.tree.map(jnp.add, total, d_params), d_f[0]

        zero = jax.tree.map(jnp.zeros_like, params)
        d_params, d_f = jax.lax.scan(of_image, zero, (u, f, w))
        return d_params, d_f, None, as_cotangent(info, probe), None

    run.defvjp(run_forward, run_backward)

    @precision.highest
    def solve(params: Params, f: Array, u0: Array, probe: Info | None = None) -> tuple[Array, Info]:
        checks.batch(u0=u0)
        probe = no_info(u0.dtype) if probe is None else probe
        return run(params, f, u0, probe, (tolerance, max_evaluations))

    return solve
