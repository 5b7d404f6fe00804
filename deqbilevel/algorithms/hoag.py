"""HOAG: hyperparameter optimisation with approximate gradient, Pedregosa, [CF] Alg. 1.

    x^{u+1}: descent on Phi(.; gamma) from x^u until norm(grad_x Phi) / mu <= eps_u,
             so that norm(x^{u+1} - x*(gamma)) <= eps_u
    v^{u+1}: conjugate gradients from v^u until norm(H v - grad_x l) <= eps_u
    gamma^{u+1} = gamma^u - alpha_l (grad_gamma l - J^T v)

It converges to a stationary point where the sum of the eps_u is finite.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Data, Gamma, Info, Problem
from deqbilevel.algorithms.checked import checked
from deqbilevel.algorithms.oracles import implicit_descent
from deqbilevel.rules import POSITIVE, Rule, options, real

Tolerance = Callable[[Int[Array, ""]], Any]
"""u -> eps_u, with u from 0."""

SUMMABLE = Rule(real(least=0, below=1).holds, "one in [0, 1), else the sum is not finite")
STEEP = Rule(real(above=1).holds, "one above 1, else the sum is not finite")
"""What the decay of tolerances has to be, so that their sum is finite."""


@options(initial=POSITIVE, factor=SUMMABLE)
def geometric(initial: Any = 1e-3, factor: Any = 0.9) -> Tolerance:
    """eps_u = initial factor^u, whose sum is finite for a factor in [0, 1).

    Raises ValueError for another factor, and where eps_0 is not positive.
    """
    return lambda u: initial * factor**u


@options(initial=POSITIVE, power=STEEP)
def polynomial(initial: Any = 0.1, power: Any = 3) -> Tolerance:
    """eps_u = initial / (u + 1)^power, whose sum is finite for a power above 1.

    Raises ValueError for another power, and where eps_0 is not positive.
    """
    return lambda u: initial / (u + 1.0) ** power


class State(NamedTuple):
    """x and v are where the lower level and the adjoint system go on; u counts the steps."""

    gamma: Gamma
    x: Array
    v: Array
    u: Int[Array, ""]
    optimiser: Any


@checked()
def hoag(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    tolerance: Tolerance | None = None,
    mu: Any = None,
    lower_iterations: Any = 10_000,
    adjoint_iterations: Any = 1_000,
    lower_solver: str = "gradient_descent",
) -> Algorithm:
    """Both solves to eps_u = `tolerance(u)`, default `geometric()`, or to a cap of evaluations.

    mu: for the bound on the distance, default the problem's; 1 makes eps_u a bound on
    norm(grad_x Phi) itself. In a line search each trial is a lower level to eps_u, counted as if it
    took the evaluations of the step's own; it stalls where the loss falls by less than eps_u shows.
    Raises ValueError for a problem without strong convexity where mu is None.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.hoag(problem, optax.sgd(1.0), tolerance=lambda u: 1e-5)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # minus the hypergradient at 0, (3/2, -25/18)
    [-1.5     1.3889]
    """
    mu = problem.strong_convexity if mu is None else mu
    if mu is None:
        raise ValueError(
            "problem.strong_convexity=None: expected mu > 0 with H >= mu I, for the distance bound "
            "norm(grad_x Phi) / mu; give mu, or mu=1 to bound the norm of the gradient instead"
        )
    accuracy = geometric() if tolerance is None else tolerance

    def init(gamma: Gamma, x: Array) -> State:
        return State(gamma, x, jnp.zeros_like(x), jnp.array(0), optimiser.init(gamma))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        eps = accuracy(state.u)
        budget: Any = {"solver": lower_solver, "evaluations": lower_iterations}
        budget |= {"tolerance": mu * eps, "products": adjoint_iterations, "accuracy": eps}
        gamma, x, v, moved, found = implicit_descent(
            problem, optimiser, state, state.v, data, **budget
        )
        return State(gamma, x, v, state.u + 1, moved), found

    return Algorithm(init, step, rows=("x", "v"))
