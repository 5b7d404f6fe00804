"""VRBO: variance reduction by recursive differences, Yang, Ji and Liang (2021), [CF] [151].

Of f_x = grad_x Phi and the hypergradient f_gamma = grad_gamma l - J^T v with v a Neumann series:

    every q-th step    h_x, h_gamma = f_x, f_gamma at (gamma^u, x^u) from a large sample
    gamma^{u+1} = gamma^u - alpha_l h_gamma
    for t = 0, ..., m + 1:
        h_x, h_gamma += f_x, f_gamma at (gamma^{u+1}, x_t) minus the same with the same sample
                        at (gamma^{u+1}, x_{t-1}), and for t = 0 at (gamma^u, x_0)
        x_{t+1} = x_t - beta h_x    if t <= m
    x^{u+1} = x_{m+1}

The differences follow every move, of gamma too, so that h belongs to the point where the step ends:
with all of the data h stays exact. That order is not in the paper's text. A step is one of gamma
with its inner loop: 2 (m + 2) evaluations of everything, and a large one every q steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from deqbilevel.algorithms.base import (
    Algorithm,
    Calls,
    Data,
    Gamma,
    Info,
    Problem,
    info,
    move,
    whole,
)
from deqbilevel.algorithms.checked import checked
from deqbilevel.hypergradients.stochastic import (
    Estimate,
    at,
    at_both,
    hypergradient,
    recursive_momentum,
    require,
)
from deqbilevel.rules import count


class State(NamedTuple):
    """The estimates belong to (gamma, x); u counts the steps."""

    gamma: Gamma
    x: Array
    h_gamma: Gamma
    h_x: Array
    u: Array
    optimiser: Any


@checked(inner_iterations=count(0))
def vrbo(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    period: Any = 10,
    inner_iterations: Any = 5,
    adjoint_terms: Any = 10,
    adjoint_step: Any = None,
    large: Callable[[Data, PRNGKeyArray], Data] = whole,
    lower_schedule: Any = 1.0,
) -> Algorithm:
    """q = `period`, m = `inner_iterations`, Q = `adjoint_terms` products with H an evaluation.

    large: (data, key) -> the large sample, by default all of the data. adjoint_step: eta, at most
    1/L; None: the problem's own step. lower_schedule: u -> beta by the problem's own step, or a
    number. The large evaluation is in a loop that runs once or not at all: lanes of a vmap run it
    in the steps where one of them needs it, and with `lax.cond` would in all. Info's residual of
    the lower level is the norm of h_x where the step ends. Raises ValueError for q < 1, m < 0
    and Q < 0.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.vrbo(problem, optax.sgd(1.0), adjoint_terms=60)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # minus B' H^{-1} (x - d) at x = 0, (1, -1)
    [-1.  1.]
    """
    require(1, period=period)
    require(0, inner_iterations=inner_iterations, adjoint_terms=adjoint_terms)

    def init(gamma: Gamma, x: Array) -> State:
        h_gamma, h_x = jax.tree.map(jnp.zeros_like, (gamma, x))
        return State(gamma, x, h_gamma, h_x, jnp.zeros((), int), optimiser.init(gamma))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        gamma, x, h_gamma, h_x, u, moved = state
        for_large, for_inner = jax.random.split(key)
        eta = problem.lower_step(gamma) if adjoint_step is None else adjoint_step
        beta = at(lower_schedule, u, x.dtype) * problem.lower_step(gamma)

        def evaluate(
            problem: Problem, key: PRNGKeyArray, gamma: Gamma, x: Array
        ) -> tuple[tuple[Gamma, Array], Estimate]:
            for_lower, for_upper = jax.random.split(key)
            G = problem.lower_gradient(x, gamma, problem.draw(data, for_lower))
            found = hypergradient(problem, gamma, x, data, for_upper, terms=adjoint_terms, step=eta)
            return (found.gradient, G), found

        def refresh(carry: tuple[Array, Any]) -> tuple[Array, Any]:
            h, _ = evaluate(problem._replace(draw=large), for_large, gamma, x)
            return jnp.zeros((), bool), h

        due = u % period == 0
        _, h = jax.lax.while_loop(lambda carry: carry[0], refresh, (due, (h_gamma, h_x)))
        direction, _ = h
        new_gamma, moved = move(optimiser, direction, moved, gamma)

        def inner(t: Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            h, x, old, loss, residual = carry
            key = jax.random.fold_in(for_inner, t)
            (new, _), (before, start) = at_both(
                lambda gamma, x: evaluate(problem, key, gamma, x), (new_gamma, x), old
            )
            h = recursive_momentum(h, new, before, 0)
            next_x = x - jnp.where(t <= inner_iterations, beta, 0) * h[1]
            loss = jnp.where(t == 0, start.loss, loss)
            residual = jnp.where(t == 0, start.residual, residual)
            return h, next_x, (new_gamma, x), loss, residual

        unknown = jnp.full((), jnp.nan, x.dtype)
        (h_gamma, h_x), x, _, loss, residual = jax.lax.fori_loop(
            0, inner_iterations + 2, inner, (h, x, (gamma, x), unknown, unknown)
        )
        evaluations = 2 * (inner_iterations + 2) + due
        calls = Calls(evaluations, evaluations * adjoint_terms, evaluations, evaluations)
        return (
            State(new_gamma, x, h_gamma, h_x, u + 1, moved),
            info(calls, loss, direction, jnp.linalg.norm(h_x.ravel()), residual),
        )

    return Algorithm(init, step, rows=("x", "h_x"))
