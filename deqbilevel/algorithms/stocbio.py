"""stocBiO: the stochastic bilevel optimiser of Ji, Yang and Liang (2021), [CF] [116], 5.3.

    x^{u+1}: T steps of stochastic gradient descent on Phi(.; gamma^u) from x^u
    v^{u+1} = eta sum_{q=0}^{Q} (I - eta H_q) ... (I - eta H_1) grad_x l, a sample for each factor
    gamma^{u+1} = gamma^u - alpha_l (grad_gamma l - J^T v)

A double loop with a warm lower level. v is not warm, so Q decides its bias, (1 - eta mu)^{Q+1}, at
every step: with all of the data gamma goes where ITD with T = Q + 1 does, which is not gamma*.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Calls, Data, Gamma, Info, Problem, info, move
from deqbilevel.algorithms.checked import checked
from deqbilevel.algorithms.oracles import stochastic_descent
from deqbilevel.hypergradients.stochastic import at, hypergradient, require


class State(NamedTuple):
    """x is where the lower level goes on; u counts the steps."""

    gamma: Gamma
    x: Array
    u: Array
    optimiser: Any


@checked()
def stocbio(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    lower_iterations: Any = 10,
    adjoint_terms: Any = 10,
    adjoint_step: Any = None,
    lower_schedule: Any = 1.0,
) -> Algorithm:
    """T = `lower_iterations` and Q = `adjoint_terms` products with H an upper-level step.

    adjoint_step: eta, at most 1/L; None: the problem's own step. lower_schedule: u -> what the
    problem's own step is multiplied by in the lower level, or a number. Raises ValueError for T < 1
    and Q < 0.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.stocbio(problem, optax.sgd(1.0), lower_iterations=60, adjoint_terms=60)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # the hypergradient at 0 is (3/2, -25/18)
    [-1.5     1.3889]
    """
    require(1, lower_iterations=lower_iterations)
    require(0, adjoint_terms=adjoint_terms)

    def init(gamma: Gamma, x: Array) -> State:
        return State(gamma, x, jnp.zeros((), int), optimiser.init(gamma))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        gamma, x, u, moved = state
        for_lower, for_upper = jax.random.split(key)
        scale = at(lower_schedule, u, x.dtype)
        x, residual = stochastic_descent(
            problem, gamma, x, data, for_lower, steps=lower_iterations, scale=scale
        )
        eta = problem.lower_step(gamma) if adjoint_step is None else adjoint_step
        found = hypergradient(problem, gamma, x, data, for_upper, terms=adjoint_terms, step=eta)
        gamma, moved = move(optimiser, found.gradient, moved, gamma)
        calls = Calls(lower_iterations, found.products, 1, 1)
        return (
            State(gamma, x, u + 1, moved),
            info(calls, found.loss, found.gradient, residual, found.residual),
        )

    return Algorithm(init, step)
