"""TTSA: two-timescale stochastic approximation, Hong, Wai, Wang and Yang (2020), [CF] Alg. 2.

    x^{u+1} = x^u - alpha_Phi grad_x Phi(x^u; gamma^u)
    v = eta Q (I - eta H_p) ... (I - eta H_1) grad_x l(gamma^u; x^{u+1}), p uniform on 0, ..., Q - 1
    gamma^{u+1} = gamma^u - alpha_l (grad_gamma l - J^T v)

A single loop. What makes it converge is that the upper level becomes the slower one,
alpha_l / alpha_Phi -> 0:

    l strongly convex    alpha_Phi ~ u^{-2/3}    alpha_l ~ u^{-1}
    convex               alpha_Phi ~ u^{-1/2}    alpha_l ~ u^{-3/4}
    neither              alpha_Phi ~ u^{-2/5}    alpha_l ~ u^{-3/5}

the first by `lower_schedule` and the second by the optimiser, both of `schedules`:

    lower, upper = schedules("convex")
    ttsa(problem, optax.sgd(lambda u: 0.1 * upper(u)), lower_schedule=lower)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Calls, Data, Gamma, Info, Problem, info, move
from deqbilevel.algorithms.checked import checked
from deqbilevel.algorithms.oracles import stochastic_descent
from deqbilevel.hypergradients.stochastic import at, hypergradient, require
from deqbilevel.rules import POSITIVE, one_of, options

Schedule = Callable[[Any], Any]
"""u -> what a step size is multiplied by."""

EXPONENTS = {"strongly convex": (2 / 3, 1.0), "convex": (1 / 2, 3 / 4), "nonconvex": (2 / 5, 3 / 5)}
"""What l(gamma) is -> the powers of 1/u of alpha_Phi and alpha_l, [CF] 5.3."""


@options(upper_loss=one_of(EXPONENTS), offset=POSITIVE)
def schedules(upper_loss: str, offset: float = 100.0) -> tuple[Schedule, Schedule]:
    """u -> (offset / (offset + u))^power for both levels: for alpha_Phi and for alpha_l.

    upper_loss: what l(gamma) is, one of `EXPONENTS`.
    Raises: ValueError for another, and for an offset that is not positive.
    """
    lower, upper = (partial(_decayed, offset, power) for power in EXPONENTS[upper_loss])
    return lower, upper


def _decayed(offset: float, power: float, u: Any) -> Any:
    return (offset / (offset + u)) ** power


class State(NamedTuple):
    """x is where the lower level goes on; u counts the steps."""

    gamma: Gamma
    x: Array
    u: Array
    optimiser: Any


@checked()
def ttsa(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    adjoint_terms: Any = 10,
    adjoint_step: Any = None,
    randomised: bool = True,
    lower_schedule: Any = 1.0,
) -> Algorithm:
    """Q = `adjoint_terms`, of which a product takes (Q - 1) / 2 on average.

    randomised: false for the Neumann series of stocBiO in place of the product, with Q products a
    step and far less variance. adjoint_step: eta, at most 1/L; None: the problem's own step, which
    may be larger: 2 / (L + mu) doubles the error on the stochastic Q1. lower_schedule: u -> what
    the problem's own step is multiplied by in the lower level, or a number. Raises ValueError for
    Q < 1, and for Q < 0 with the series.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.ttsa(problem, optax.sgd(1.0), adjoint_terms=60, randomised=False)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # minus (22/18, -23/18), at x after one step
    [-1.2222  1.2778]
    """
    require(int(randomised), adjoint_terms=adjoint_terms)

    def init(gamma: Gamma, x: Array) -> State:
        return State(gamma, x, jnp.zeros((), int), optimiser.init(gamma))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        gamma, x, u, moved = state
        for_lower, for_upper = jax.random.split(key)
        scale = at(lower_schedule, u, x.dtype)
        x, residual = stochastic_descent(problem, gamma, x, data, for_lower, steps=1, scale=scale)
        eta = problem.lower_step(gamma) if adjoint_step is None else adjoint_step
        own: Any = {"terms": adjoint_terms, "step": eta, "randomised": randomised}
        found = hypergradient(problem, gamma, x, data, for_upper, **own)
        gamma, moved = move(optimiser, found.gradient, moved, gamma)
        calls = Calls(1, found.products, 1, 1)
        return (
            State(gamma, x, u + 1, moved),
            info(calls, found.loss, found.gradient, residual, found.residual),
        )

    return Algorithm(init, step)
