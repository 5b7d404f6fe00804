"""BA and its accelerated variant: bilevel approximation, Ghadimi and Wang (2018), [CF] Alg. 3.

    x^u: T_u steps of gradient descent on Phi(.; y^u), each time from x^0 again
    g^u = grad_gamma l - J^T H^{-1} grad_x l at (y^u, x^u), with the exact inverse
    gamma^{u+1} = y^u - alpha_l g^u

BA has y^u = gamma^u. The accelerated variant has Nesterov's extrapolation, u from 0,

    y^u = gamma^u + theta_u (gamma^u - gamma^{u-1}),    theta_u = (u - 1) / (u + 2)

That is the scheme of three sequences with the weights a_k = 2 / (k + 1), k = u + 1,

    y = (1 - a_k) gamma_ag + a_k gamma,  gamma <- gamma - (alpha_l / a_k) g,
    gamma_ag <- y - alpha_l g

where gamma_ag is our gamma^u; the other is not needed, as its steps are alpha_l over the weights.
The restart at x^0 leaves an error of (1 - alpha mu)^{T_u}: T_u grows like u, sqrt(u) or u^{1/4} for
strongly convex, convex and nonconvex l, and what grows slower leaves a floor. The variant is for a
convex l: epsilon^{-1/2} upper and epsilon^{-3/4} lower gradients, [CF] Table 5.2, so sqrt(u) there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Calls, Data, Gamma, Info, Problem, descend, info
from deqbilevel.algorithms.checked import checked
from deqbilevel.algorithms.oracles import cross, hessian, implicit, lower_level, upper_gradients
from deqbilevel.rules import FUNCTION
from deqbilevel.solvers import dense
from deqbilevel.solvers.base import OFFSET


class State(NamedTuple):
    """`start` is x^0, `previous` is gamma^{u-1}, u counts the steps."""

    gamma: Gamma
    x: Array
    start: Array
    previous: Gamma
    u: Int[Array, ""]
    optimiser: Any


def growing(u: Int[Array, ""]) -> Int[Array, ""]:
    """T_u = ceil((u + 1) / 2), with u from 0."""
    return u // 2 + 1


@checked(lower_iterations=FUNCTION)
def ba(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    lower_iterations: Callable[[Array], Any] = growing,
    inverse: str = "dense",
    adjoint_iterations: Any = 1_000,
) -> Algorithm:
    """T_u = `lower_iterations(u)` steps, u from 0; a projection is the optimiser's last part.

    inverse: "dense" solves with the matrix of each row of x, for small rows: as many products as a
    row has entries and one for the residual; "conjugate_gradient" goes to rounding, or to a cap of
    `adjoint_iterations`. Raises ValueError for another.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.ba(problem, optax.sgd(1.0), lower_iterations=lambda u: 60)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # minus the hypergradient at 0, (3/2, -25/18)
    [-1.5     1.3889]
    """
    return _ba(problem, optimiser, lambda u: 0.0, lower_iterations, inverse, adjoint_iterations)


@checked(momentum=FUNCTION, lower_iterations=FUNCTION)
def accelerated_ba(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    lower_iterations: Callable[[Array], Any] = growing,
    momentum: Callable[[Array], Any] = lambda u: (u - 1.0) / (u + 2.0),
    inverse: str = "dense",
    adjoint_iterations: Any = 1_000,
) -> Algorithm:
    """`ba` with the extrapolation theta_u = `momentum(u)`, u from 0; Info is at y^u.

    The default is for a convex l(gamma). Where it is strongly convex with condition number kappa,
    the constant (sqrt(kappa) - 1) / (sqrt(kappa) + 1) is faster.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.accelerated_ba(problem, optax.sgd(1.0), lower_iterations=lambda u: 60)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # (3/2, -25/18) is the hypergradient at 0
    [-1.5     1.3889]
    """
    return _ba(problem, optimiser, momentum, lower_iterations, inverse, adjoint_iterations)


def _ba(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    momentum: Callable[[Array], Any],
    lower_iterations: Callable[[Array], Any],
    inverse: str,
    adjoint_iterations: Any,
) -> Algorithm:
    def init(gamma: Gamma, x: Array) -> State:
        return State(gamma, x, x, gamma, jnp.array(0), optimiser.init(gamma))

    def through(gamma: Gamma, x: Array, g: Array, data: Data) -> tuple[Gamma, Any, Any]:
        """J^T H^{-1} g, the products with H and norm(H v - g) / norm(g)."""
        if inverse == "conjugate_gradient":
            gradient, _, found = implicit(
                problem, gamma, x, jnp.zeros_like(x), g, data, products=adjoint_iterations
            )
            return jax.tree.map(jnp.negative, gradient), found.evaluations, found.residual
        H = hessian(problem, gamma, x, data)
        v, found = dense()(lambda w: w - H(w), g)
        norms = [jnp.linalg.norm(y.ravel()) for y in (v, g)]
        residual = found.residual * (OFFSET + norms[0]) / norms[1]
        return cross(problem, gamma, x, v, data), found.evaluations, residual

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        theta = jnp.asarray(momentum(state.u), state.x.dtype)
        y = jax.tree.map(lambda x, old: x + theta * (x - old), state.gamma, state.previous)
        budget: Any = {"evaluations": lower_iterations(state.u)}
        x, evaluations, residual = lower_level(problem, y, state.start, data, **budget)
        loss, of_gamma, of_x = upper_gradients(problem, y, x, data)
        through_x, products, adjoint = through(y, x, of_x, data)
        gradient = optax.tree.sub(of_gamma, through_x)
        gamma, moved, solves = descend(
            problem,
            optimiser,
            gradient,
            state.optimiser,
            y,
            data,
            loss,
            lambda gamma: lower_level(problem, gamma, state.start, data, **budget)[0],
        )
        calls = Calls(solves * evaluations, products, 1, solves)
        found = info(calls, loss, gradient, residual, adjoint)
        return State(gamma, x, state.start, state.gamma, state.u + 1, moved), found

    return Algorithm(init, step, rows=("x", "start"))
