"""The Neumann series as adjoint solver: truncated, damped, or its first term alone."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import checks
from deqbilevel.solvers.base import iterate, linear, relative_residual
from deqbilevel.types import Adjoint, Info


def neumann(*, tolerance: Any = 0.0, max_evaluations: Any = 5, damping: Any = 1.0) -> Adjoint:
    """The first T = `max_evaluations` terms of the damped Neumann series of (I - J)^{-1} g,

        w = damping sum_{t<T} (damping J + (1 - damping) I)^t g

    the phantom gradient of Geng et al. (2021); undamped, [CF] 4.5's [176]. Its error is
    (damping J + (1 - damping) I)^T times the solution. The terms take T - 1 products, and the T-th
    is spent on the residual of w. Ends with fewer terms where that meets the tolerance. Raises
    ValueError for a damping that is no number above 0, and for limits as `checks.limits` does.

    >>> w, info = solvers.neumann(max_evaluations=3)(lambda w: 0.5 * w, jnp.ones((1, 1)))
    >>> print(w, info.evaluations)  # 1 + 1/2 + 1/4
    [[1.75]] 3
    """
    checks.limits(tolerance, max_evaluations)
    checks.one("damping", damping, above=0)

    def adjoint(vjp: Callable[[Array], Array], g: Array) -> tuple[Array, Info]:
        def step(k: Array, w: Array) -> tuple[Array, Array, Array]:
            image = vjp(w) + g
            return w + damping * (image - w), w, relative_residual(image, w)

        start = damping * g
        return iterate(step, start, start, tolerance=tolerance, max_evaluations=max_evaluations)

    return linear("neumann", adjoint)


def jacobian_free(*, tolerance: Any = 0.0, max_evaluations: Any = 0) -> Adjoint:
    """w = g, as if J were 0: the Jacobian-free gradient of Fung et al. (2022), [CF] 7.2.

    It spends no product, whatever the budget, so that its residual is not known: it is infinite
    and `converged` false. `neumann(max_evaluations=1)` is the same w with the residual, for a
    product. Where G contracts, it is a direction of descent in the sense of their Theorem 3.1.
    Raises: ValueError for a tolerance that is none, and a budget below 0.

    >>> w, info = solvers.jacobian_free()(lambda w: 0.5 * w, jnp.ones((1, 1)))
    >>> print(w, info.residual)
    [[1.]] inf
    """

    checks.limits(tolerance, 1)
    checks.count("max_evaluations", max_evaluations, least=0)

    def adjoint(vjp: Callable[[Array], Array], g: Array) -> tuple[Array, Info]:
        return g, Info(jnp.array(0), jnp.array(jnp.inf, g.dtype), jnp.array(False))

    return linear("jacobian_free", adjoint)
