r"""Duality of the analysis problem with any convex potential, [CF] App. A.

$$ \min_x \tfrac12 \|x - y\|^2 + \beta\, 1^T \varphi(\Omega x)
   = \min_x \max_d \tfrac12 \|x - y\|^2 + \langle d, \Omega x \rangle -
   \beta\, 1^T \varphi^*(d / \beta) $$

The inner product with d has a plus, which (A.8) lacks as printed. The minimum over x is at
x = y - Omega^T d, from which it is recovered, and what is left is the dual problem

$$ \min_d \tfrac12 \|\Omega^T d - y\|^2 + \beta\, 1^T \varphi^*(d / \beta). $$

Cost less dual cost is, with z = Omega x, the sum of beta (phi(z) + phi*(d / beta)) - d z, which is
0 where d = beta phi'(z): that is (A.13), d = beta sign(z) for the 1-norm where z is not 0.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.checks import Registry
from deqbilevel.potentials import Potential
from deqbilevel.solvers.base import floor_tolerance
from deqbilevel.variational.base import Analysis, Terms, Unknowns
from deqbilevel.variational.problems import Certificate, Saddle
from deqbilevel.variational.saddle import certified


def conjugate(phi: Potential, d: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """phi*(d) = sup_z d z - phi(z), infinite where there is no such number.

    Raises: ValueError for a potential that is none of `CONJUGATES`.

    >>> print(variational.conjugate(potentials.Quadratic(s=2.0), jnp.array([4.0])))  # d^2 / (2 s)
    [4.]
    >>> one = potentials.PowerSum(beta=1.0, beta_tilde=0.0)  # the 1-norm
    >>> print(variational.conjugate(one, jnp.array([0.5, 2.0])))
    [ 0. inf]
    """
    return CONJUGATES[type(phi).__name__](phi, d)


def _corner_rounded(phi: Any, d: Array) -> Array:
    return _within(d, 1.0, lambda d: -phi.eps * jnp.sqrt(1 - d**2))


def _fair(phi: Any, d: Array) -> Array:
    def inside(d: Array) -> Array:
        r = jnp.abs(d) / phi.eps
        return -(phi.eps**2) * (r + jnp.log1p(-r))

    return jnp.where(jnp.abs(d) < phi.eps, inside(jnp.where(jnp.abs(d) < phi.eps, d, 0)), jnp.inf)


def _log_cosh(phi: Any, d: Array) -> Array:
    """The Bregman divergence of [CF] 4.4.2 from 0."""

    def entropy(p: Array) -> Array:
        return jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0)

    return _within(d, 1.0, lambda d: phi.eps / 2 * (entropy(1 + d) + entropy(1 - d)))


def _power_sum(phi: Any, d: Array) -> Array:
    """Of beta |z| + c |z|^p / p, c = 2 beta_tilde: (|d| - beta)_+^q / (q c^(q - 1))."""
    q, c = phi.p / (phi.p - 1), 2 * phi.beta_tilde
    beyond = jnp.abs(d) - phi.beta
    # On the border of the 1-norm's, where solutions lie, rounding must not be infinite.
    beyond = jnp.where(beyond > 4 * jnp.finfo(d.dtype).eps * phi.beta, beyond, 0)
    power = beyond**q / (q * jnp.where(c > 0, c, 1) ** (q - 1))
    return jnp.where(c > 0, power, jnp.where(beyond > 0, jnp.inf, 0))


def _within(d: Array, limit: float, inside: Callable[[Array], Array]) -> Array:
    """inside(d) where |d| <= limit, and infinite beyond."""
    return jnp.where(jnp.abs(d) <= limit, inside(jnp.clip(d, -limit, limit)), jnp.inf)


CONJUGATES: Registry[Any] = Registry(
    "potential with a conjugate",
    {
        "Quadratic": lambda phi, d: d**2 / (2 * phi.s),
        "CornerRounded": _corner_rounded,
        "Fair": _fair,
        "LogCosh": _log_cosh,
        "PowerSum": _power_sum,
        "MoreauEnvelope": lambda phi, d: conjugate(phi.phi, d) + phi.a * d**2 / 2,
    },
)
"""phi* of each class of potentials that has one in closed form, by the name of the class."""


def cost(omega: Analysis, phi: Potential, beta: Any, x: Unknowns, y: Unknowns) -> Array:
    """1/2 ||x - y||^2 + beta 1' phi(Omega x) of each image."""
    total = jnp.sum((x - y) ** 2, axis=1) / 2
    for z in omega.apply(x):
        total = total + beta * jnp.sum(phi.value(z), axis=(1, 2))
    return total


def dual_cost(omega: Analysis, phi: Potential, beta: Any, d: Terms, y: Unknowns) -> Array:
    """The largest lower bound on `cost` that d gives: ||y||^2 / 2 less the dual problem's cost.

    >>> omega, phi = variational.coefficients(2), potentials.Quadratic()
    >>> y, x, d = jnp.array([[2.0, 4.0]]), jnp.array([[1.0, 2.0]]), (jnp.array([[[1.0, 2.0]]]),)
    >>> bounds = variational.duality.dual_cost(omega, phi, 1.0, d, y)
    >>> print(bounds, variational.duality.cost(omega, phi, 1.0, x, y))
    [5.] [5.]
    """
    total = jnp.sum(y**2, axis=1) / 2 - jnp.sum((omega.adjoint(d) - y) ** 2, axis=1) / 2
    for a in d:
        total = total - beta * jnp.sum(conjugate(phi, a / beta), axis=(1, 2))
    return total


def dual_gradient(
    omega: Analysis,
    phi: Potential,
    beta: Any,
    y: Unknowns,
    start: Terms | None = None,
    *,
    tolerance: Any = 1e-4,
    max_iterations: Any = 2000,
    every: int = 10,
) -> tuple[Saddle, Certificate]:
    """x = y - Omega^T d by proximal gradients on the dual problem, accelerated, [CF] (A.10):

        d+ = prox(d + Omega (y - Omega^T d) / L),    L = ||Omega||^2

    with the proximal map of beta phi*(. / beta) / L from that of phi by Moreau's identity; for the
    1-norm it is a projection, and this is `fista`. phi is applied to each component. An image is
    left where its gap is at most `tolerance` times its cost.
    Raises: ValueError for a potential whose conjugate is not known, and limits that are none.

    >>> omega, phi = variational.total_variation((1, 2)), potentials.CornerRounded(0.01)
    >>> at, info = variational.dual_gradient(omega, phi, 0.25, jnp.array([[0.0, 1.0]]))
    >>> print(at.x.round(2), bool(info.converged[0]))
    [[0.25 0.75]] True
    """
    checks.limits(tolerance, max_iterations)
    checks.whole("every", every)
    checks.number("beta", beta, above=0)
    CONJUGATES[type(phi).__name__]
    dtype = y.dtype
    tolerance = floor_tolerance(tolerance, dtype)
    L = sum(n**2 for n in omega.norms)
    d = tuple(jnp.zeros_like(z) for z in omega.apply(y)) if start is None else start

    def proximal(v: Array) -> Array:
        return v - phi.prox(L * v, L * beta) / L

    def advance(_: Any, carry: tuple[tuple[Terms, Terms, Array], tuple[()]]) -> Any:
        d, ahead, k = carry[0]
        z = omega.apply(y - omega.adjoint(ahead))
        new = tuple(proximal(a + b / L) for a, b in zip(ahead, z, strict=True))
        momentum = (k / (k + 3)).reshape(-1, 1, 1).astype(dtype)
        ahead = tuple(n + momentum * (n - b) for n, b in zip(new, d, strict=True))
        return (new, ahead, k + 1), ()

    def judged(own: tuple[Terms, Terms, Array], iterations: Any) -> Certificate:
        d = own[0]
        of_x = cost(omega, phi, beta, y - omega.adjoint(d), y)
        gap = of_x - dual_cost(omega, phi, beta, d, y)
        relative = gap / jnp.maximum(of_x, jnp.finfo(dtype).tiny)
        return Certificate(iterations, gap, relative, of_x, relative <= tolerance)

    own = d, d, jnp.zeros(len(y), int)
    (d, *_), info = certified(
        advance, judged, own, (), count=len(y), every=every, max_iterations=max_iterations
    )
    return Saddle(y - omega.adjoint(d), d), info
