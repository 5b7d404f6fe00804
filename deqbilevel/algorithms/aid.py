"""AID-BiO: approximate implicit differentiation, Ji et al. [116], [CF] 5.3.2.

    x^{u+1}: T steps of gradient descent on Phi(.; gamma) from x^u
    v^{u+1}: Q steps of conjugate gradients on H v = grad_x l from v^u
    gamma^{u+1} = gamma^u - alpha_l (grad_gamma l - J^T v)

The limit is that of exact solves, as both go on from where they were.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Data, Gamma, Info, Problem
from deqbilevel.algorithms.checked import checked
from deqbilevel.algorithms.oracles import implicit_descent


class State(NamedTuple):
    """x and v are where the lower level and the adjoint system go on."""

    gamma: Gamma
    x: Array
    v: Array
    optimiser: Any


@checked()
def aid(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    lower_iterations: Any = 10,
    adjoint_iterations: Any = 3,
    lower_solver: str = "gradient_descent",
    warm_adjoint: bool = True,
) -> Algorithm:
    """T = `lower_iterations` and Q = `adjoint_iterations` an upper-level step, both warm.

    Two products more are for the residuals that conjugate gradients start from and end with. Q may
    be small only as v is warm: with `warm_adjoint` false a small Q has another limit. No
    certificate of accuracy.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.aid(problem, optax.sgd(1.0), lower_iterations=60)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # minus the hypergradient at 0, (3/2, -25/18)
    [-1.5     1.3889]
    """

    def init(gamma: Gamma, x: Array) -> State:
        return State(gamma, x, jnp.zeros_like(x), optimiser.init(gamma))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        v = state.v if warm_adjoint else jnp.zeros_like(state.v)
        budget: Any = {"solver": lower_solver, "evaluations": lower_iterations}
        gamma, x, v, moved, found = implicit_descent(
            problem, optimiser, state, v, data, products=adjoint_iterations, **budget
        )
        return State(gamma, x, v, moved), found

    return Algorithm(init, step, rows=("x", "v"))
