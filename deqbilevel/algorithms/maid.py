"""MAID: adaptively inexact descent, Salehi, Mukherjee, Roberts, Ehrhardt, arXiv:2308.10098.

Inexact gradient: x with norm(x - x*) <= e <= eps, v with norm(H v - grad_x l) <= d <= delta,

    z = grad_gamma l - J^T v,    norm(z - grad l(gamma)) <= omega,

with eps and delta reduced until omega <= (1 - eta) norm(z), so that l decreases along -z, and until
the bounds of l(gamma) below are closer than what a step promises, alpha norm(z)^2 / 4 on each side.
(The latter is ours: where the loss is not known that well, hardly any trial could pass.)

Backtracking: alpha <- rho alpha until gamma+ = gamma - alpha z, with x+ as accurate, passes

    upper(gamma+) <= lower(gamma) - eta sigma alpha norm(z)^2
    upper, lower = l(gamma; x) +- (norm(grad_x l) e + M e^2 / 2)

where grad_x l is M-Lipschitz in x. These bound the loss at the true minimiser, so that it goes down
in each step that moves. Then eps, delta and alpha grow. Where no trial passes gamma stays, eps and
delta are reduced, and the next step may try once more often.

omega is the a posteriori bound of Ehrhardt and Roberts, arXiv:2301.04764, with norm(v) + d / mu for
the norm of H^{-1} grad_x l, where H, J and grad_gamma l are P-, K- and G-Lipschitz in x:

    omega = G e + (norm(J) + K e) (d + M e + P e (norm(v) + d / mu)) / mu + K e norm(v)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Calls, Data, Gamma, Info, Problem, info
from deqbilevel.algorithms.checked import checked
from deqbilevel.algorithms.oracles import implicit, lower_level, upper_gradients

Scalar = Float[Array, ""]
"""One number."""

MOST_FAILURES = 10
"""By which the trials of a step grow at most: at the limit of rounding every step fails."""


class Lipschitz(NamedTuple):
    """Constants in x. The default is for l = ||x - d||^2 / 2 + r(gamma), and Phi quadratic with
    constant J; for another Phi, zeros make omega an estimate, not a bound."""

    of_x: Any = 1.0
    """M: grad_x l"""
    hessian: Any = 0.0
    """P: H"""
    jacobian: Any = 0.0
    """K: J"""
    of_gamma: Any = 0.0
    """G: grad_gamma l"""


class State(NamedTuple):
    """Where the solves go on, alpha, eps and delta, and how many steps in a row did not move.

    `direction` is where the power iteration for norm(J) goes on.
    """

    gamma: Gamma
    x: Array
    v: Array
    direction: Gamma
    alpha: Scalar
    eps: Scalar
    delta: Scalar
    failures: Int[Array, ""]


class Estimate(NamedTuple):
    """The inexact gradient, what it took, and how good it is."""

    x: Array
    v: Array
    direction: Gamma
    gradient: Gamma
    omega: Scalar
    loss: Scalar
    lower_bound: Scalar
    lower_residual: Scalar
    adjoint_residual: Scalar
    calls: Calls


class Trial(NamedTuple):
    """A step of the backtracking."""

    gamma: Gamma
    x: Array
    alpha: Scalar
    accepted: Bool[Array, ""]
    calls: Calls


@checked()
def maid(
    problem: Problem,
    optimiser: optax.GradientTransformation | None = None,
    *,
    step_size: Any = 1.0,
    accuracy: Any = 0.1,
    adjoint_accuracy: Any = 0.1,
    lipschitz: Lipschitz | None = None,
    mu: Any = None,
    eta: Any = 0.5,
    decrease: Any = 1e-4,
    backtracking: Any = 0.5,
    growth: Any = 10 / 9,
    tightening: Any = 0.5,
    loosening: Any = 1.05,
    backtracks: Any = 5,
    tightenings: Any = 10,
    power_iterations: Any = 2,
    lower_iterations: Any = 1_000,
    adjoint_iterations: Any = 100,
    lower_solver: str = "gradient_descent",
) -> Algorithm:
    """From alpha = `step_size`, eps = `accuracy` and delta = `adjoint_accuracy`.

    sigma: `decrease`; rho: `backtracking`. After a step that moves alpha is multiplied by `growth`,
    eps and delta by `loosening`; they are reduced by `tightening`. mu: default the problem's.
    `backtracks`, `tightenings`, `lower_iterations` and `adjoint_iterations` are caps. norm(J) is
    estimated, from below, by warm `power_iterations`, each a J w and a J^T w, counted as two. The
    step size is the method's own: an optimiser is not used. For other solvers than gradient descent
    e is where they last evaluated grad_x Phi, and an estimate for the x that they return.
    Raises ValueError for a problem without strong convexity where mu is None.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.maid(problem, accuracy=1e-3, adjoint_accuracy=1e-3)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma.round(1))  # minus the hypergradient at 0, (3/2, -25/18)
    [-1.5  1.4]
    """
    mu = problem.strong_convexity if mu is None else mu
    if mu is None:
        raise ValueError(
            "problem.strong_convexity=None: expected mu > 0 with H >= mu I, for the error bounds; "
            "give mu"
        )
    M, P, K, G = Lipschitz() if lipschitz is None else lipschitz

    def init(gamma: Gamma, x: Array) -> State:
        alpha, eps, delta = (
            jnp.asarray(y, x.dtype) for y in (step_size, accuracy, adjoint_accuracy)
        )
        direction = optax.tree.random_like(jax.random.key(0), gamma)
        return State(gamma, x, jnp.zeros_like(x), direction, alpha, eps, delta, jnp.array(0))

    def solve(gamma: Gamma, x: Array, eps: Array, data: Data) -> tuple[Array, Any, Scalar, Any]:
        """x, the gradients of l there, e, and the calls."""
        x, evaluations, residual = lower_level(
            problem,
            gamma,
            x,
            data,
            solver=lower_solver,
            evaluations=lower_iterations,
            tolerance=mu * eps,
        )
        calls = Calls(lower_gradients=evaluations, upper_gradients=1)
        return x, upper_gradients(problem, gamma, x, data), residual / mu, calls

    def slack(size: Scalar, e: Scalar) -> Scalar:
        return size * e + M * e**2 / 2

    def estimate(
        gamma: Gamma, x: Array, v: Array, w: Gamma, eps: Array, delta: Array, data: Data
    ) -> Estimate:
        x, (loss, of_gamma, of_x), e, calls = solve(gamma, x, eps, data)
        size = jnp.linalg.norm(of_x.ravel())
        through_x, v, adjoint = implicit(
            problem,
            gamma,
            x,
            v,
            of_x,
            data,
            products=adjoint_iterations,
            tolerance=delta / jnp.maximum(size, jnp.finfo(x.dtype).tiny),
        )
        norm_J, w = cross_norm(problem, gamma, x, w, data, power_iterations)
        d, length = adjoint.residual * size, jnp.linalg.norm(v.ravel())
        of_v = (d + M * e + P * e * (length + d / mu)) / mu
        return Estimate(
            x,
            v,
            w,
            optax.tree.add(of_gamma, through_x),
            G * e + (norm_J + K * e) * of_v + K * e * length,
            loss,
            loss - slack(size, e),
            e * mu,
            adjoint.residual,
            as_floats(calls.plus(Calls(0, adjoint.evaluations, 1 + 2 * power_iterations)), loss),
        )

    def certified(found: Estimate, alpha: Scalar) -> Bool[Array, ""]:
        size = optax.tree.norm(found.gradient)
        visible = 2 * (found.loss - found.lower_bound) <= alpha * size**2 / 2
        return visible & (found.omega <= (1 - eta) * size)

    def inexact_gradient(state: State, data: Data) -> tuple[Estimate, Scalar, Scalar]:
        def unfinished(carry: Any) -> Bool[Array, ""]:
            k, found, _, _ = carry
            return (k == 0) | (~certified(found, state.alpha) & (k < tightenings))

        def body(carry: Any) -> Any:
            k, old, eps, delta = carry
            ratio = jnp.where(k == 0, 1, tightening)
            eps, delta = ratio * eps, ratio * delta
            found = estimate(state.gamma, old.x, old.v, old.direction, eps, delta, data)
            total = old.calls.plus(found.calls)
            return k + 1, found._replace(calls=total), eps, delta

        arguments = state.gamma, state.x, state.v, state.direction, state.eps, state.delta, data
        nothing = optax.tree.zeros_like(jax.eval_shape(estimate, *arguments))
        start = nothing._replace(x=state.x, v=state.v, direction=state.direction)
        _, found, eps, delta = jax.lax.while_loop(
            unfinished, body, (jnp.array(0), start, state.eps, state.delta)
        )
        return found, eps, delta

    def backtrack(state: State, found: Estimate, eps: Scalar, data: Data) -> Trial:
        square = optax.tree.norm(found.gradient, squared=True)

        def unfinished(carry: tuple[Array, Trial]) -> Bool[Array, ""]:
            k, trial = carry
            return ~trial.accepted & (k < backtracks + state.failures)

        def body(carry: tuple[Array, Trial]) -> tuple[Array, Trial]:
            k, old = carry
            alpha = jnp.where(k == 0, 1, backtracking) * old.alpha
            gamma = jax.tree.map(lambda y, z: y - alpha * z, state.gamma, found.gradient)
            x, (loss, _, of_x), e, calls = solve(gamma, found.x, eps, data)
            upper_bound = loss + slack(jnp.linalg.norm(of_x.ravel()), e)
            accepted = upper_bound <= found.lower_bound - eta * decrease * alpha * square
            total = old.calls.plus(as_floats(calls, loss))
            return k + 1, Trial(gamma, x, alpha, accepted, total)

        start = Trial(state.gamma, found.x, state.alpha, jnp.array(False), found.calls)
        return jax.lax.while_loop(unfinished, body, (jnp.array(0), start))[1]

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        found, eps, delta = inexact_gradient(state, data)
        trial = backtrack(state, found, eps, data)
        moved = trial.accepted
        gamma, x = jax.tree.map(
            lambda new, old: jnp.where(moved, new, old),
            (trial.gamma, trial.x),
            (state.gamma, found.x),
        )
        change = jnp.where(moved, loosening, tightening)
        least = jnp.finfo(x.dtype).eps
        after = State(
            gamma,
            x,
            found.v,
            found.direction,
            jnp.where(moved, growth * trial.alpha, state.alpha),
            jnp.maximum(change * eps, least),
            jnp.maximum(change * delta, least),
            jnp.where(moved, 0, jnp.minimum(state.failures + 1, MOST_FAILURES)),
        )
        return after, info(
            trial.calls, found.loss, found.gradient, found.lower_residual, found.adjoint_residual
        )

    return Algorithm(init, step, rows=("x", "v"))


def cross_norm(
    problem: Problem, gamma: Gamma, x: Array, w: Gamma, data: Data, iterations: Any
) -> tuple[Scalar, Gamma]:
    """norm(J) from below by power iterations on J^T J from w, and the last direction."""
    _, J = jax.linearize(lambda gamma: problem.lower_gradient(x, gamma, data), gamma)
    transpose = jax.linear_transpose(J, gamma)

    def body(_: Array, carry: tuple[Scalar, Gamma]) -> tuple[Scalar, Gamma]:
        (image,) = transpose(J(carry[1]))
        size = optax.tree.norm(image)
        scale = 1 / jnp.where(size > 0, size, 1)
        return size, jax.tree.map(lambda y, z: jnp.where(size > 0, scale * y, z), image, carry[1])

    w = optax.tree.scale(1 / optax.tree.norm(w), w)
    size, w = jax.lax.fori_loop(0, iterations, body, (jnp.zeros((), x.dtype), w))
    return jnp.sqrt(size), w


def as_floats(calls: Calls, like: Array) -> Calls:
    """The counts in the dtype of an array, so that a loop can carry them."""
    return Calls(*(jnp.asarray(count, like.dtype) for count in calls))
