"""The hypergradient at a minimiser, [CF] (4.8), written out, so that it can start warm.

Where u minimises Phi(u; params), so that F(u, params, f) = grad_u Phi = 0, an upper-level loss with
gradient g = dl/du has

    dl/dparams = -(dF/dparams)^T v,    H v = g,    H = dF/du, the symmetric Hessian of Phi

Among u >= 0 the same holds of the pixels that are free, u > 0, as the others do not move: with the
diagonal matrix M of 1 at these and 0 elsewhere

    dl/dparams = -(dF/dparams)^T v,    M H M v = M g,    v = M v

where no pixel with u = 0 has F = 0 too: there u has no derivative.

v comes from conjugate gradients that start where those of the step before ended: between two
upper-level steps it moves little. `implicit.fixed_point` is the same gradient for any fixed point.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import checks
from deqbilevel.hypergradients.base import at
from deqbilevel.solvers import symmetric_solve
from deqbilevel.types import Info, Params


def minimiser(
    F: Callable[[Array, Params, Any], Array],
    weights: Params,
    params: Params,
    f: Any,
    u: Array,
    g: Array,
    v: Array,
    *,
    tolerance: Any = 1e-5,
    max_evaluations: Any = 100,
    precondition: Callable[[Array], Array] = lambda r: r,
    free: Array | None = None,
) -> tuple[Params, Array, Info]:
    """The hypergradient with respect to `weights`, entries of `params`: `(gradient, v, info)`.

    F: the gradient of the lower-level cost, and f its data; u: [batch, pixels], a minimiser; g: the
    upper-level loss's gradient there; v: where the solution of H v = g is sought from, zeros at
    first, and what comes back as the start of the next. info: products with H, at most
    `max_evaluations` (but three at least: with the start, a direction and what comes back),
    norm(H v - g) / norm(g) of what comes back, and whether that met the tolerance; it never does
    where H is singular and g not in its range, and conjugate gradients end where H is indefinite.
    free: [batch, pixels], which pixels move with params, of a minimiser among u >= 0; None: all.
    See `symmetric_solve` for the rest. Raises ValueError for weights that are none or not floating
    numbers, and what F does not take.

    >>> F = lambda u, params, f: params["a"] * u - f  # of Phi = a u^2 / 2 - f u, least at u = f / a
    >>> a, f, u, g, v = (jnp.array([[x]]) for x in (2.0, 4.0, 2.0, 1.0, 0.0))
    >>> gradient, v, info = hypergradients.minimiser(F, {"a": a}, {}, f, u, g, v)
    >>> print(gradient["a"], v)  # -f / a^2 and 1 / a
    [[-1.]] [[0.5]]
    """
    checks.function("F", F)
    if not weights:
        raise ValueError("weights: expected one entry of params or more, to differentiate by")
    for leaf in jax.tree.leaves(weights):
        checks.floating("weights", leaf, of_complex=True)
    checks.batch(u=u)
    everything = params | weights
    _, hessian = jax.linearize(at(F, everything, f), u)
    if free is not None:
        hessian, precondition = _between(free, hessian), _between(free, precondition)
        g, v = jnp.where(free, g, 0), jnp.where(free, v, 0)
    v, info = symmetric_solve(
        hessian,
        g,
        v,
        tolerance=tolerance,
        max_evaluations=max_evaluations,
        precondition=precondition,
    )
    _, pull = jax.vjp(lambda weights: F(u, params | weights, f), weights)
    (gradient,) = pull(-v)
    return gradient, v, info


def _between(free: Array, apply: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """M apply(M x)."""
    return lambda x: jnp.where(free, apply(jnp.where(free, x, 0)), 0)
