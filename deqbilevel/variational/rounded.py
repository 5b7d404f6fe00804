r"""Newton's method for problems with a potential phi of |Omega x|, in its primal-dual form.

$$ \min_x \tfrac12 \|K u - f\|^2 + \sum_t \sum_p w_t[p]\, \varphi(|(\Omega_t x)[p]|) $$

has at a minimiser, with z = Omega x and m = |z| / phi'(|z|),

    K^T (K u - f) + Omega^T d = 0,    m d = w z

and a step of Newton's method on both equations is

    (K^T K + Omega^T C Omega) delta = -(K^T (K u - f) + Omega^T d_0),    d+ = d_0 + C Omega delta
    d_0 = w z / m,    C = (w I - kappa (d n^T + n d^T) / 2) / m,    n = z / |z|
    kappa = dm/d|z| = (1 - |z| phi'' / phi') / phi'

with C made positive semidefinite by |d| <= w / kappa, which holds by itself at a solution of a
convex phi. That is Chan, Golub and Mulet (SIAM J. Sci. Comput. 20, 1999) for a rounded corner,
symmetrised as by Hintermueller and Stadler (SIAM J. Sci. Comput. 28, 2006), and semismooth where
phi' has corners. It works where plain steps of Newton's method, on x alone, stall: for corners that
are all but sharp. Systems are solved by conjugate gradients, and x moves by the longest of the
steps 1, 1/2, 1/4, ... that does not raise the cost. Of a phi that is not convex, such as rounded
p-norms with p = 1/2 (Kunisch and Pock, SIAM J. Imaging Sci. 6, 2013), the end is stationary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.potentials import Potential
from deqbilevel.solvers import symmetric_solve
from deqbilevel.solvers.base import iterate
from deqbilevel.types import FixedPointMap, Info, Params
from deqbilevel.variational.base import Terms, Unknowns, Weights, ratio
from deqbilevel.variational.problems import Data, Problem
from deqbilevel.variational.saddle import origin

LENGTHS = tuple(0.5**k for k in range(8))
"""Of steps that are tried."""


class Bends(NamedTuple):
    """Of a potential at |z|."""

    value: Array
    secant: Array
    """1 / m."""
    kappa: Array


At = Callable[[Array], Bends]
"""A potential as a function of |z|."""


def bends(phi: Potential) -> At:
    """Those of a potential that is smooth at 0."""

    def at(size: Array) -> Bends:
        r = jnp.maximum(size, jnp.sqrt(jnp.finfo(size.dtype).tiny))
        slope = phi.derivative(r)
        secant = slope / r
        kappa = (1 - phi.second_derivative(r) / secant) / slope
        return Bends(phi.value(size), secant, jnp.where(size > 0, jnp.maximum(kappa, 0), 0))

    return at


def newton_step(
    problem: Problem,
    w: tuple[Array, ...],
    f: Data,
    x: Unknowns,
    z: Terms,
    d: Terms,
    at: At,
    *,
    accuracy: Any,
    products: Any,
) -> tuple[Unknowns, Terms, Terms]:
    """x, z = Omega x and d after a step; w: weights as of `Analysis.weigh`.

    z is what the steps add up to: where it is all but 0, differences of x have no digits of it.
    """
    omega = problem.omega
    size = tuple(omega.size(a) for a in z)
    bent = tuple(at(s) for s in size)
    smooth = tuple(b * e.secant * a for a, b, e in zip(z, w, bent, strict=True))
    inside = tuple(
        a * jnp.minimum(1, ratio(b, e.kappa * omega.size(a)))
        for a, b, e in zip(d, w, bent, strict=True)
    )

    def curved(y: Terms) -> Terms:
        """C y."""
        return tuple(
            (b * v - e.kappa * _across(c, ratio(a, s), v, omega.together)) * e.secant
            for a, b, c, e, s, v in zip(z, w, inside, bent, size, y, strict=True)
        )

    def H(y: Unknowns) -> Unknowns:
        of_fit = omega.start(problem.K.adjoint(problem.K.apply(problem.image(y))))
        return of_fit + omega.adjoint(curved(omega.apply(y)))

    downhill = -(problem.slope(x, f) + omega.adjoint(smooth))
    delta, _ = symmetric_solve(
        H, downhill, tolerance=accuracy, max_evaluations=products, checked=False
    )
    moved = omega.apply(delta)
    d = tuple(a + b for a, b in zip(smooth, curved(moved), strict=True))
    length = _length(problem, w, f, x, delta, z, moved, at)
    z = tuple(a + length[:, None] * b for a, b in zip(z, moved, strict=True))
    return x + length * delta, z, d


def rounded_slope(problem: Problem) -> FixedPointMap:
    """F(x, params, f), the gradient of the cost in x, for `hypergradients.minimiser`: 0 at a
    minimiser. params: "weights", one for each term, and "phi", a potential that is smooth at 0.

    >>> K, omega = operators.identity((1, 2)), variational.total_variation((1, 2))
    >>> F = variational.rounded_slope(variational.Problem(K, omega))
    >>> params = {"weights": (1.0,), "phi": potentials.CornerRounded(3.0)}
    >>> x, f = jnp.array([[0.0, 4.0]]), jnp.array([[-0.8, 4.8]])
    >>> print(jnp.abs(F(x, params, f)))  # at the minimiser, where phi' = 4 / 5
    [[0. 0.]]
    """

    def F(u: Unknowns, params: Params, f: Data) -> Unknowns:
        checks.entries("params", params, ("weights", "phi"))
        omega, phi = problem.omega, params["phi"]
        z = omega.apply(u)
        d = []
        for w, a in zip(omega.weigh(tuple(params["weights"]), z), z, strict=True):
            tiny = jnp.sqrt(jnp.finfo(a.dtype).tiny)
            squared = jnp.sum(a**2, axis=1, keepdims=True) if omega.together else a**2
            r = jnp.sqrt(jnp.maximum(squared, tiny))
            d.append(w * a * (phi.derivative(r) / r))
        return problem.slope(u, f) + omega.adjoint(tuple(d))

    return F


def rounded_newton(
    problem: Problem,
    weights: Weights,
    f: Data,
    phi: Potential,
    start: Unknowns | None = None,
    *,
    tolerance: Any = 1e-5,
    max_iterations: Any = 100,
    accuracy: Any = 1e-3,
    products: Any = 200,
) -> tuple[Unknowns, Info]:
    """The minimiser for measurements f: [batch, data], from `start` or from `saddle.origin`.

    The residual is that of x = x - `rounded_slope`: norm(slope) / (1e-5 + norm(x - slope)) over the
    batch. accuracy: of the linear systems, relative, in at most so many `products` with K^T K and
    Omega^T Omega. `potentials.RoundedPower` has rounded p-norms, p from 0 to 2.
    Raises: ValueError for weights that do not fit, and limits that are none.

    >>> K, omega = operators.identity((1, 2)), variational.total_variation((1, 2))
    >>> problem, f = variational.Problem(K, omega), jnp.array([[0.2, 5.8]])
    >>> phi = potentials.CornerRounded(3.0)
    >>> x, info = variational.rounded_newton(problem, (1.0,), f, phi)
    >>> print(x, bool(info.converged))
    [[1. 5.]] True
    """
    checks.limits(accuracy, products)
    x = origin(problem, f).x if start is None else start
    none = tuple(jnp.zeros_like(z) for z in problem.omega.apply(x))
    w, at, F = problem.omega.weigh(weights, none), bends(phi), rounded_slope(problem)
    params = {"weights": weights, "phi": phi}

    def step(_: Any, state: tuple[Unknowns, Terms, Terms]) -> Any:
        state = newton_step(problem, w, f, *state, at, accuracy=accuracy, products=products)
        x = state[0]
        slope = F(x, params, f)
        size = jnp.linalg.norm(slope) / (1e-5 + jnp.linalg.norm(x - slope))
        return state, x, size

    start_of_all = (x, problem.omega.apply(x), none)
    return iterate(step, start_of_all, x, tolerance=tolerance, max_evaluations=max_iterations)


def _across(d: Array, n: Array, v: Array, together: bool) -> Array:
    """(d n^T + n d^T) v / 2."""
    if not together:
        return d * n * v
    along, pushed = (jnp.sum(a * v, axis=1, keepdims=True) for a in (n, d))
    return (d * along + n * pushed) / 2


def _length(
    problem: Problem,
    w: tuple[Array, ...],
    f: Data,
    x: Unknowns,
    delta: Unknowns,
    z: Terms,
    moved: Terms,
    at: At,
) -> Float[Array, "batch 1"]:
    """The longest of `LENGTHS` at which the cost has not risen but for rounding, else the last."""
    before = problem.K.apply(problem.image(x)) - f
    along = problem.K.apply(problem.image(delta))

    def cost(t: float) -> Float[Array, " batch"]:
        total = jnp.sum(jnp.abs(before + t * along) ** 2, axis=1) / 2
        for weight, a, b in zip(w, z, moved, strict=True):
            value = weight * at(problem.omega.size(a + t * b)).value
            total = total + jnp.sum(value, axis=(1, 2))
        return total

    now = cost(0.0)
    limit = now + 8 * jnp.finfo(now.dtype).eps * jnp.abs(now)
    falls = jnp.stack([cost(t) <= limit for t in LENGTHS])
    lengths = jnp.asarray(LENGTHS, now.dtype)
    first = jnp.argmax(falls, axis=0)
    return jnp.where(jnp.any(falls, axis=0), lengths[first], lengths[-1])[:, None]
