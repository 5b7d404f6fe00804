"""BSA: bilevel stochastic approximation, Ghadimi and Wang (2018), [CF] [150], 5.3.

    x^{u+1}: T_u steps of stochastic gradient descent on Phi(.; gamma^u) from x^0, the start
    v = eta Q (I - eta H_p) ... (I - eta H_1) grad_x l(gamma^u; x^{u+1}), p uniform on 0, ..., Q - 1
    gamma^{u+1} = gamma^u - alpha_l (grad_gamma l - J^T v)

BA, [CF] Alg. 3, from samples: the lower level begins anew at every step, so that T_u has to grow,
with the square root of u where l is not convex. The steps of one lower-level run are equal here,
and decay between the runs.
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
from deqbilevel.rules import count, or_function


class State(NamedTuple):
    """x is the lower level's last, x0 where it begins; u counts the steps."""

    gamma: Gamma
    x: Array
    x0: Array
    u: Array
    optimiser: Any


def root(u: Array) -> Array:
    """T_u = ceil(sqrt(u + 1))."""
    return jnp.ceil(jnp.sqrt(u + 1.0))


@checked(lower_iterations=or_function(count(1)))
def bsa(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    lower_iterations: Any = root,
    adjoint_terms: Any = 10,
    adjoint_step: Any = None,
    randomised: bool = True,
    restart: bool = True,
    lower_schedule: Any = 1.0,
) -> Algorithm:
    """lower_iterations: u -> T_u, or a number; Q = `adjoint_terms`.

    restart: false for a lower level that goes on from x^u, for which a constant T_u suffices.
    randomised: false for the Neumann series of stocBiO in place of the product. adjoint_step: eta,
    at most 1/L; None: the problem's own step. lower_schedule: u -> what the problem's own step is
    multiplied by in the lower level, or a number. Raises ValueError for T < 1 and Q < 1,
    and for Q < 0 with the series.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.bsa(problem, optax.sgd(1.0), lower_iterations=60, adjoint_terms=1)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # minus (12/54, -69/54), by v = (x* - d) / 3
    [-0.2222  1.2778]
    """
    require(1, lower_iterations=lower_iterations)
    require(int(randomised), adjoint_terms=adjoint_terms)

    def init(gamma: Gamma, x: Array) -> State:
        return State(gamma, x, x, jnp.zeros((), int), optimiser.init(gamma))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        gamma, x, x0, u, moved = state
        for_lower, for_upper = jax.random.split(key)
        steps = at(lower_iterations, u, u.dtype)
        scale = at(lower_schedule, u, x.dtype)
        x, residual = stochastic_descent(
            problem, gamma, x0 if restart else x, data, for_lower, steps=steps, scale=scale
        )
        eta = problem.lower_step(gamma) if adjoint_step is None else adjoint_step
        own: Any = {"terms": adjoint_terms, "step": eta, "randomised": randomised}
        found = hypergradient(problem, gamma, x, data, for_upper, **own)
        gamma, moved = move(optimiser, found.gradient, moved, gamma)
        calls = Calls(steps, found.products, 1, 1)
        return (
            State(gamma, x, x0, u + 1, moved),
            info(calls, found.loss, found.gradient, residual, found.residual),
        )

    return Algorithm(init, step, rows=("x", "x0"))
