r"""Hypergradients of exact problems, on the active set.

Where d + sigma Omega x has a norm above w, Omega x is not zero and d = w n with its direction n;
elsewhere Omega x = 0. While this pattern stays, the minimiser is that of a smooth problem with
linear constraints, and an upper-level loss with gradient g = dl/dx has

    dl/dparams = -<q, d/dparams (K^T (K u - f) + Omega^T (w n))>

    [ K^T K     Omega^T T        ] [ q ]   [ g ]
    [ T Omega   -|Omega x| / w T ] [ p ] = [ 0 ]

where n is taken as constant. T is the identity where Omega x = 0, which q keeps, and where it is
not the projection I - n n^T along which n changes: 0 for anisotropic norms. The system is symmetric
and may be singular in p: it is solved by MINRES, without a matrix, for any linear K, scaled by a
root of `Analysis.symbol` where that is known. It is [CF] 4.3 for K other than I, and a generalised
derivative: on the border of a change of the pattern the minimiser has one-sided derivatives only,
and a wrong pattern gives a wrong gradient, of which `Pattern.margin` warns.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from deqbilevel import operators
from deqbilevel.hypergradients.base import as_cotangent, no_info
from deqbilevel.solvers import minres
from deqbilevel.types import Info
from deqbilevel.variational import cosines
from deqbilevel.variational.base import Terms, Unknowns, Weights, ratio
from deqbilevel.variational.problems import Certificate, Data, Problem, Saddle

DIFFERENCE = 0.03
"""Whether Omega x is zero is told by sigma = w / difference: |Omega x| / difference is compared
with 1 - |d| / w."""


class Pattern(NamedTuple):
    """Where Omega x is not zero, or weighs nothing, for each term."""

    active: tuple[Bool[Array, "batch _ _"], ...]
    direction: Terms
    """n, also where it is not active."""
    length: tuple[Float[Array, "batch _ _"], ...]
    """|Omega x| / w, 0 where it is not active, and large where it weighs nothing."""
    margin: Float[Array, " batch"]
    """The least of | |d + sigma Omega x| / w - 1 |: how near a place is to a change."""

    @property
    def cosparsity(self) -> Int[Array, " batch"]:
        """The number of zeros of Omega x, [CF] 2.2, those beyond the border among them."""
        return sum(
            (jnp.sum(~a, axis=(1, 2)) for a in self.active), jnp.zeros(len(self.margin), int)
        )


def pattern(
    problem: Problem, at: Saddle, weights: Weights, *, difference: Any = DIFFERENCE
) -> Pattern:
    """The pattern of a saddle point; difference: of unknowns, the size of one.

    >>> K, omega = operators.identity((1, 3)), variational.total_variation((1, 3))
    >>> problem, f = variational.Problem(K, omega), jnp.array([[0.0, 1.0, 1.0]])
    >>> at, _ = variational.chambolle_pock(problem, (0.25,), f)
    >>> found = variational.pattern(problem, at, (0.25,))
    >>> print(found.active[0][0, 0], found.cosparsity)  # steps to the right of the first pixel
    [ True False False] [2]
    """
    omega = problem.omega
    z = omega.apply(at.x)
    active, direction, length, margins = [], [], [], []
    for w, d, y in zip(omega.weigh(weights, z), at.d, z, strict=True):
        sigma, weighs = w / difference, w > 0
        v = jnp.where(weighs, d + sigma * y, y)
        size = omega.size(v)
        active.append(jnp.where(weighs, size > w, True))
        direction.append(v / jnp.where(size > 0, size, 1))
        beyond = jnp.maximum(size - w, 0) / jnp.where(weighs, w * sigma, 1)
        length.append(jnp.where(weighs, beyond, 1 / jnp.finfo(v.dtype).eps))
        margins.append(jnp.min(jnp.where(weighs, jnp.abs(ratio(size, w) - 1), jnp.inf), (1, 2)))
    margin = jnp.min(jnp.stack(margins), axis=0)
    return Pattern(tuple(active), tuple(direction), tuple(length), margin)


def adjoint_state(
    problem: Problem, found: Pattern, g: Unknowns, *, tolerance: Any, max_evaluations: Any
) -> tuple[Unknowns, Info]:
    """q of the system above, and the residual norm(A y - b) / norm(y + A y - b) of both parts.

    Raises: ValueError for limits that are none.
    """
    omega, unknowns = problem.omega, problem.omega.unknowns
    shapes = [d.shape[1:] for d in found.direction]
    ends = [unknowns]
    for components, places in shapes:
        ends.append(ends[-1] + components * places)

    def parts(y: Array) -> tuple[Unknowns, Terms]:
        pieces = [y[:, a:b] for a, b in pairwise(ends)]
        return y[:, :unknowns], tuple(
            p.reshape(-1, *shape) for p, shape in zip(pieces, shapes, strict=True)
        )

    S = _scaling(problem, g.dtype)

    def A(y: Array) -> Array:
        q, multipliers = parts(y)
        q = S(q)
        inner, below = [], []
        # Scaled so that all parts of A are of about one size.
        scales = (1.0 if omega.symbol else 1 / norm for norm in omega.norms)
        for on, n, length, p, z, s in zip(
            *found[:3], multipliers, omega.apply(q), scales, strict=True
        ):
            p, z = (_tangent(on, n, x, omega.together) for x in (p, z))
            s = s / jnp.sqrt(1 + s**2 * length)
            inner.append(s * p)
            below.append((s * z - s**2 * length * p).reshape(len(y), -1))
        u = problem.K.adjoint(problem.K.apply(problem.image(q)))
        above = S(omega.start(u) + omega.adjoint(tuple(inner)))
        return jnp.concatenate((above, *below), axis=1)

    g = S(g)
    size = jnp.linalg.norm(g, axis=1, keepdims=True)
    size = jnp.where(size > 0, size, 1)
    b = jnp.pad(g / size, ((0, 0), (0, ends[-1] - unknowns)))
    solve = minres(tolerance=tolerance, max_evaluations=max_evaluations)
    y, info = solve(lambda y: y - A(y), b)
    return S(size * y[:, :unknowns]), info


def _scaling(problem: Problem, dtype: Any) -> Callable[[Unknowns], Unknowns]:
    """About (K^T K + sum_t Omega_t^T Omega_t)^(-1/2), so that q = S y is well conditioned in y."""
    omega = problem.omega
    if omega.symbol is None:
        return lambda x: x
    norm = operators.norm(problem.K, omega.pixels)
    symbol = omega.symbol((1.0,) * len(omega.norms)).at[0].add(norm**2)
    root = jnp.sqrt(cosines.inverse(symbol)).astype(dtype)
    return lambda x: cosines.multiplied(root, x)


def _tangent(on: Array, n: Array, x: Array, together: bool) -> Array:
    """T x."""
    across = x - n * jnp.sum(n * x, axis=1, keepdims=True) if together else 0
    return jnp.where(on, across, x)


def residual(problem: Problem, weights: Weights, f: Data, x: Unknowns, n: Terms) -> Unknowns:
    """K^T (K u - f) + Omega^T (w n): 0 at a saddle point."""
    pairs = zip(problem.omega.weigh(weights, n), n, strict=True)
    return problem.slope(x, f) + problem.omega.adjoint(tuple(w * a for w, a in pairs))


Solve = Callable[..., tuple[Unknowns, tuple[Saddle, Certificate]]]
"""`solve(problem, weights, f, start, probe)`."""


def differentiable(
    solver: Callable[..., tuple[Saddle, Certificate]],
    *,
    tolerance: Any = 1e-5,
    max_evaluations: Any = 1000,
    difference: Any = DIFFERENCE,
) -> Solve:
    """`solve(problem, weights, f, start, probe) -> (x, (saddle, certificate))`, x differentiable in
    the weights, f and the leaves of K.

    solver: such as `chambolle_pock`, called with the first four. The limits are those of MINRES,
    and difference as in `pattern`. start: None, or a saddle point, without a gradient, as the one
    that comes back. The gradient with respect to `probe`, an Info of zeros, is that of MINRES.
    It never converges where the minimiser is not unique and the loss tells minimisers apart.
    Raises: ValueError for limits that are none.

    >>> K, omega = operators.identity((1, 2)), variational.total_variation((1, 2))
    >>> problem, f = variational.Problem(K, omega), jnp.array([[0.0, 1.0]])
    >>> solve = variational.differentiable(variational.chambolle_pock)
    >>> first = lambda w: solve(problem, (w,), f)[0][0, 0]
    >>> print(jax.grad(first)(0.25).round(4))  # x = (w, 1 - w)
    1.0
    """

    def run(problem: Problem, weights: Weights, f: Data, start: Any, probe: Info) -> Any:
        at, info = solver(problem, weights, f, start)
        return at.x, (at, info)

    def forward(problem: Problem, weights: Weights, f: Data, start: Any, probe: Info) -> Any:
        x, (at, info) = run(problem, weights, f, start, probe)
        return (x, (at, info)), (problem, weights, f, start, probe, at)

    def backward(saved: Any, cotangents: Any) -> Any:
        problem, weights, f, start, probe, at = saved
        found = pattern(problem, at, weights, difference=difference)
        q, info = adjoint_state(
            problem, found, cotangents[0], tolerance=tolerance, max_evaluations=max_evaluations
        )
        n = tuple(
            jnp.where(on, a, ratio(d, w))
            for on, a, d, w in zip(
                *found[:2], at.d, problem.omega.weigh(weights, at.d), strict=True
            )
        )
        _, pull = jax.vjp(
            lambda problem, weights, f: residual(problem, weights, f, at.x, n), problem, weights, f
        )
        none = jax.tree.map(jnp.zeros_like, start)
        return *pull(-q), none, as_cotangent(info, probe)

    inner = jax.custom_vjp(run)
    inner.defvjp(forward, backward)

    def solve(
        problem: Problem,
        weights: Weights,
        f: Data,
        start: Saddle | None = None,
        probe: Info | None = None,
    ) -> tuple[Unknowns, tuple[Saddle, Certificate]]:
        weights = jax.tree.map(lambda w: jnp.asarray(w, f.real.dtype), tuple(weights))
        probe = no_info(f.real.dtype) if probe is None else probe
        return inner(problem, weights, f, jax.lax.stop_gradient(start), probe)

    return solve
