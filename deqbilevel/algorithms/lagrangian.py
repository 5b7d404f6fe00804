"""Newton's method on the optimality system of the single-level problem, [CF] 5.2.

The lower level as a constraint, with the Lagrangian l(gamma; x) + nu^T grad_x Phi(x; gamma), has
the stationary points

    grad_x Phi = 0,    grad_x l + H nu = 0,    grad_gamma l + J^T nu = 0            [CF] (5.1)

and a step solves this system, linearised at (gamma, x, nu), for all three at once. nu = -v. (Where
[CF] 5.2 writes the Lagrangian of (Ex) out, phi has to be its derivative, as in grad_x Phi.)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Calls, Data, Gamma, Info, Problem, info, move
from deqbilevel.algorithms.checked import checked
from deqbilevel.algorithms.oracles import upper_gradients


class State(NamedTuple):
    """nu is the multiplier of grad_x Phi = 0."""

    gamma: Gamma
    x: Array
    nu: Array
    optimiser: Any


@checked()
def lagrangian(
    problem: Problem, optimiser: optax.GradientTransformation | None = None, *, largest: int = 2_000
) -> Algorithm:
    """A dense system for 2 N + R unknowns, N of x and R of gamma; from any nu, here from 0.

    The optimiser damps: it is given minus the Newton direction of (gamma, x, nu) as the gradient,
    so that `optax.sgd(1.0)`, the default, is Newton's method, and a smaller rate a damped one. A
    line search on the loss is not for it: the direction is one to a saddle point. Each of the
    2 N + R columns of the matrix is counted like the evaluation of the system itself: a call of
    each oracle. Info is at the (gamma, x, nu) that a step starts from.
    Raises ValueError in the first step where 2 N + R is more than `largest`.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.lagrangian(problem)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # the solution at once, as the system is linear
    [-1.5467  1.8852]
    """
    optimiser = optax.sgd(1.0) if optimiser is None else optimiser

    def init(gamma: Gamma, x: Array) -> State:
        nu = jnp.zeros_like(x)
        return State(gamma, x, nu, optimiser.init((gamma, x, nu)))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        unknowns = state.gamma, state.x, state.nu
        flat, unravel = ravel_pytree(unknowns)
        if flat.size > largest:
            raise ValueError(
                f"lagrangian: the system has {flat.size} unknowns, expected at most {largest}; "
                "take a method without a dense matrix, such as aid"
            )

        def gradient(flat: Array) -> Array:
            def value(gamma: Gamma, x: Array, nu: Array) -> Any:
                constraint = jnp.sum(nu * problem.lower_gradient(x, gamma, data))
                return problem.upper(gamma, x, data) + constraint

            return ravel_pytree(jax.grad(value, (0, 1, 2))(*unravel(flat)))[0]

        residual = gradient(flat)
        direction = jnp.linalg.solve(jax.jacfwd(gradient)(flat), residual)
        moved, optimiser_state = move(optimiser, unravel(direction), state.optimiser, unknowns)
        loss, _, of_x = upper_gradients(problem, state.gamma, state.x, data)
        of_gamma, adjoint, lower = unravel(residual)
        norms = [jnp.linalg.norm(y.ravel()) for y in (lower, adjoint, of_x)]
        count = 1 + flat.size
        found = info(
            Calls(count, count, count, count), loss, of_gamma, norms[0], norms[1] / norms[2]
        )
        gamma, x, nu = moved
        return State(gamma, x, nu, optimiser_state), found

    return Algorithm(init, step, rows=("x", "nu"))
