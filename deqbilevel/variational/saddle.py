r"""The primal-dual algorithm of Chambolle and Pock, J. Math. Imaging Vis. 40 (2011).

$$ \min_x \max_{|d_t| \le w_t} \tfrac12 \|K u - f\|^2 + \langle d, \Omega x \rangle $$

    x+ = argmin_x  1/2 ||K u - f||^2 + <d, Omega x> + 1/2 <x - x_before, M (x - x_before)>
    d+ = project(d + sigma Omega (x+ + theta (x+ - x_before)))

with M >= sum_t sigma_t Omega_t^T Omega_t. By default M = 1 / tau, and steps are those for unknowns
of the size of `radius` and dual variables of that of the weights,

    tau = radius balance / S,   sigma_t = w_t^2 / (radius balance S)

with w_t the largest weight of a term, and S^2 = sum_t w_t^2 ||Omega_t||^2. Where the
cost is strongly convex in all unknowns, theta = (1 + 2 mu tau)^(-1/2), tau falls by it and sigma
grows (their Algorithm 2): best for few digits. Else theta = 1, and for many digits it is best so:
convergence is linear at last.

Preconditioned, M is diagonal in cosines, as near to sum_t sigma_t Omega_t^T Omega_t as is known,
and sigma_t = w_t / (radius balance), with `balance` the size of a difference: for K = I and TV that
is the alternating direction method of multipliers. Of few iterations, each with a transform there
and back; TGV and ICTV want it.

Where the minimum over x is not known in closed form, the squares enter by their gradient (Condat,
J. Optim. Theory Appl. 158, 2013), for which M is more by half of K^T K: preconditioned by that of
`cosines.majorant`, and otherwise sigma is less by a factor of 1 - tau ||K||^2 / 2.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks, operators
from deqbilevel.operators import Operator
from deqbilevel.solvers.base import any_lane, floor_tolerance
from deqbilevel.types import FixedPointMap, Params
from deqbilevel.variational import cosines
from deqbilevel.variational.base import Unknowns, Weights
from deqbilevel.variational.problems import Certificate, Data, Problem, Saddle, certify


class Steps(NamedTuple):
    """Of both variables."""

    tau: Any
    """1 / M; preconditioned: its symbol M."""
    sigma: tuple[Float[Array, ""], ...]
    """For each term."""


def steps(
    problem: Problem, weights: Weights, radius: Any, balance: Any, preconditioned: bool, dtype: Any
) -> Steps:
    """The steps above. Raises: ValueError for weights of another number of terms, and where the
    preconditioner is not known."""
    omega, K = problem.omega, problem.K
    largest = [jnp.max(jnp.asarray(w, dtype)) for w in weights]
    if len(largest) != len(omega.norms):
        raise ValueError(f"weights: {len(largest)}; expected one for each of {len(omega.norms)}")
    if preconditioned:
        if omega.symbol is None:
            raise ValueError("preconditioned: this analysis has no symbol in cosines; leave it out")
        sigma = tuple(w / (radius * balance) for w in largest)
        M = omega.symbol(sigma).astype(dtype)
        fit = 0.0 if problem.convexity else cosines.majorant(K, omega.shape) / 2
        return Steps(M.at[0].add(fit), sigma)
    S = jnp.sqrt(sum((w * n) ** 2 for w, n in zip(largest, omega.norms, strict=True)))
    S = jnp.where(S > 0, S, 1)
    tau, rest = balance * radius / S, jnp.ones((), dtype)
    if not resolved(K):
        norm = operators.norm(K, omega.pixels).astype(dtype)
        tau = jnp.minimum(tau, 1 / norm**2)
        rest = 1 - tau * norm**2 / 2
    return Steps(tau, tuple(rest * w**2 / (S**2 * tau) for w in largest))


def resolved(K: Operator) -> bool:
    """Whether the proximal map of the squares is known in closed form."""
    return hasattr(K, "resolvent")


def descend(problem: Problem, x: Unknowns, push: Unknowns, f: Data, tau: Any) -> Unknowns:
    """x+ for Omega^T d = push."""
    n = problem.omega.pixels
    if jnp.ndim(tau) == 3:  # M in cosines
        own = tau.at[0].add(problem.convexity)
        return x - cosines.multiplied(cosines.inverse(own), push + problem.slope(x, f))
    if not resolved(problem.K):
        return x - tau * (push + problem.slope(x, f))
    moved = x - tau * push
    u = operators.resolvent(problem.K, moved[:, :n] + tau * problem.K.adjoint(f), tau)
    return jnp.concatenate((u, moved[:, n:]), axis=1)


def step(
    problem: Problem, weights: Weights, f: Data, at: Saddle, of: Steps, theta: Any = 1.0
) -> Saddle:
    """x+ and d+; with an acceleration `of` has the steps of x, and sigma is divided by theta."""
    push = problem.omega.adjoint(at.d)
    x = descend(problem, at.x, push, f, of.tau)
    z = problem.omega.apply(x + theta * (x - at.x))
    d = tuple(d + s / theta * y for d, s, y in zip(at.d, of.sigma, z, strict=True))
    return Saddle(x, problem.omega.project(d, weights))


def primal_dual_map(
    problem: Problem, *, radius: Any = 1.0, balance: Any = 0.03, preconditioned: bool = False
) -> FixedPointMap:
    """G([x, d], params, f), a step whose fixed points are the saddle points, side by side in a row
    of each image, for `hypergradients`: implicit through any adjoint solver for a Jacobian that is
    not symmetric, unrolled, or `hypergradients.piggyback`, where the adjoint saddle point is found
    beside the primal one. params: "weights". The steps have no derivative; that of the projection
    is a generalised one.

    >>> problem = variational.Problem(
    ...     operators.identity((1, 2)), variational.total_variation((1, 2))
    ... )
    >>> G, f = variational.primal_dual_map(problem, balance=1.0), jnp.array([[0.0, 1.0]])
    >>> solve = hypergradients.METHODS["gmres"](
    ...     G, solvers.picard(max_evaluations=500), tolerance=1e-6, max_evaluations=50
    ... )
    >>> first = lambda w: solve({"weights": (w,)}, f, jnp.zeros((1, 6)))[0][0, 0]
    >>> print(jax.grad(first)(0.25).round(4))  # x = (w, 1 - w)
    1.0
    """

    def G(u: Array, params: Params, f: Data) -> Array:
        omega, weights = problem.omega, tuple(params["weights"])
        x, rest, d = u[:, : omega.unknowns], u[:, omega.unknowns :], []
        for z in jax.eval_shape(omega.apply, x):
            size = z.shape[1] * z.shape[2]
            d.append(rest[:, :size].reshape(z.shape))
            rest = rest[:, size:]
        of = steps(problem, weights, radius, balance, preconditioned, u.dtype)
        moved = step(problem, weights, f, Saddle(x, tuple(d)), jax.lax.stop_gradient(of))
        return flat(moved)

    return G


def flat(at: Saddle) -> Float[Array, "batch unknowns_and_duals"]:
    """[x, d] of each image, side by side.

    >>> at = variational.Saddle(jnp.ones((1, 2)), (jnp.zeros((1, 2, 2)),))
    >>> print(variational.saddle.flat(at))
    [[1. 1. 0. 0. 0. 0.]]
    """
    return jnp.concatenate((at.x, *(d.reshape(len(at.x), -1) for d in at.d)), axis=1)


def origin(problem: Problem, f: Data) -> Saddle:
    """x = 0 and d = 0, where nothing else is known; for K = I, u = f."""
    back = problem.K.adjoint(f)
    x = problem.omega.start(back if problem.convexity else jnp.zeros_like(back))
    return Saddle(x, tuple(jnp.zeros_like(z) for z in problem.omega.apply(x)))


def chambolle_pock(
    problem: Problem,
    weights: Weights,
    f: Data,
    start: Saddle | None = None,
    *,
    tolerance: Any = 1e-4,
    max_iterations: Any = 2000,
    radius: Any = 1.0,
    balance: Any = 0.03,
    relaxation: Any = 1.0,
    every: int = 10,
    accelerated: bool = False,
    preconditioned: bool = False,
) -> tuple[Saddle, Certificate]:
    """The minimiser for measurements f: [batch, data], from `start` or from `origin`.

    Each image is left where it is once its gap is at most `tolerance` times its cost; that is
    looked at after `every` so many iterations. radius: of the images, and of the certificate.
    balance: above 0. relaxation: by how much a step is prolonged, from 1 to below 2.
    Raises: ValueError for weights that do not fit, limits that are none, an acceleration that is
    preconditioned, relaxed, or of a cost that is not known to be strongly convex, and relaxation
    where the squares enter by their gradient.

    >>> K, omega = operators.identity((1, 2)), variational.total_variation((1, 2))
    >>> problem, f = variational.Problem(K, omega), jnp.array([[0.0, 1.0]])
    >>> at, info = variational.chambolle_pock(problem, (0.25,), f)
    >>> print(at.x.round(2), bool(info.converged[0]))
    [[0.25 0.75]] True
    """
    checks.limits(tolerance, max_iterations)
    checks.whole("every", every)
    checks.number("balance", balance, above=0)
    checks.number("radius", radius, above=0)
    checks.number("relaxation", relaxation, least=1, below=2)
    plain = problem.omega.unknowns == problem.omega.pixels
    mu = problem.convexity if accelerated and plain else 0.0
    if accelerated and (preconditioned or not mu or relaxation != 1):
        raise ValueError(
            "accelerated: needs a cost that is strongly convex in all unknowns, as for K = I and "
            "TV, and neither preconditioning nor relaxation"
        )
    if relaxation != 1 and not (problem.convexity or (resolved(problem.K) and not preconditioned)):
        raise ValueError(
            f"relaxation={relaxation}: needs the minimum over x in closed form, of a K with a "
            "resolvent and without preconditioning; take 1"
        )
    at = origin(problem, f) if start is None else start
    dtype = at.x.dtype
    tolerance = floor_tolerance(tolerance, dtype)
    first = steps(problem, weights, radius, balance, preconditioned, dtype)

    def advance(_: Any, carry: tuple[Saddle, Steps]) -> tuple[Saddle, Steps]:
        at, of = carry
        theta = 1 / jnp.sqrt(1 + 2 * mu * of.tau) if mu else 1.0
        moved = step(problem, weights, f, at, of, theta)
        if mu:
            return moved, Steps(theta * of.tau, tuple(s / theta for s in of.sigma))
        return jax.tree.map(lambda a, b: a + relaxation * (b - a), at, moved), of

    def judged(at: Saddle, iterations: Any) -> Certificate:
        gap, relative, cost = certify(problem, at, weights, f, radius=radius)
        return Certificate(iterations, gap, relative, cost, relative <= tolerance)

    at, info = certified(
        advance, judged, at, first, count=len(f), every=every, max_iterations=max_iterations
    )
    return at._replace(d=problem.omega.project(at.d, weights)), info


def certified(
    advance: Callable[[Any, Any], Any],
    judged: Callable[[Any, Any], Certificate],
    own: Any,
    common: Any,
    *,
    count: int,
    every: int,
    max_iterations: Any,
) -> tuple[Any, Certificate]:
    """`advance(_, (own, common))` until each of `count` images is certified, which is looked at
    after `every` so many iterations; what is its own stays from then on, what is common goes on.

    >>> def judged(x, iterations):
    ...     return variational.Certificate(iterations, x, x, x, x < 1)
    >>> halved = lambda _, carry: (carry[0] / 2, carry[1])
    >>> x, info = variational.saddle.certified(
    ...     halved, judged, jnp.array([8.0, 3.0]), (), count=2, every=1, max_iterations=9
    ... )
    >>> print(x, info.iterations)
    [0.5  0.75] [4 2]
    """

    def body(carry: tuple[Any, Any, Certificate]) -> tuple[Any, Any, Certificate]:
        own, common, info = carry
        moved, common = jax.lax.fori_loop(0, every, advance, (own, common))
        active = unfinished(info, max_iterations)
        own = keep(active, moved, own)
        return own, common, keep(active, judged(own, info.iterations + every), info)

    def goes_on(carry: tuple[Any, Any, Certificate]) -> Array:
        return any_lane(jnp.any(unfinished(carry[2], max_iterations)))

    info = judged(own, jnp.zeros(count, int))
    own, _, info = jax.lax.while_loop(goes_on, body, (own, common, info))
    return own, info


def unfinished(info: Certificate, max_iterations: Any) -> Array:
    """Which images go on: not converged, finite, and with iterations left."""
    return ~info.converged & jnp.isfinite(info.gap) & (info.iterations < max_iterations)


def keep(active: Array, new: Any, old: Any) -> Any:
    """`new` of the images that are active."""

    def one(a: Array, b: Array) -> Array:
        return jnp.where(active.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(one, new, old)
