"""MRBO and SUSTAIN: recursive momentum on both levels, in a single loop, [CF] [151, 152].

MRBO is of Yang, Ji and Liang (2021), SUSTAIN of Khanduri et al. (2021). With z = (gamma, x)
and a sample xi that is the same at both points, for f_x = grad_x Phi and the estimated
hypergradient f_gamma = grad_gamma l - J^T v

    h_x^u     = f_x(z^u; xi) + (1 - eta_x) (h_x^{u-1} - f_x(z^{u-1}; xi))
    h_gamma^u = f_gamma(z^u; xi) + (1 - eta_gamma) (h_gamma^{u-1} - f_gamma(z^{u-1}; xi))
    x^{u+1}     = x^u - beta h_x^u
    gamma^{u+1} = gamma^u - alpha_l h_gamma^u

where v is the Neumann series in MRBO, the randomised product in SUSTAIN. The first h are
f(z^0; xi). The theory takes beta, alpha_l ~ u^{-1/3} and eta ~ u^{-2/3}: `lower_schedule`, the
optimiser's and `momentum`. SUSTAIN wants far smaller eta: what the product varies by, momentum has
to average away, and with all of the data and constant steps it diverges on Q1 where MRBO converges.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from deqbilevel.algorithms.base import Algorithm, Calls, Data, Gamma, Info, Problem, info, move
from deqbilevel.algorithms.checked import RULES, checked
from deqbilevel.hypergradients.stochastic import (
    Estimate,
    at,
    at_both,
    hypergradient,
    recursive_momentum,
    require,
)
from deqbilevel.rules import options


class State(NamedTuple):
    """The point of the step before, and what was estimated there; u counts the steps."""

    gamma: Gamma
    x: Array
    previous_gamma: Gamma
    previous_x: Array
    h_gamma: Gamma
    h_x: Array
    u: Array
    optimiser: Any


@checked()
def mrbo(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    adjoint_terms: Any = 10,
    adjoint_step: Any = None,
    randomised: bool = False,
    momentum: Any = 0.5,
    lower_momentum: Any = None,
    lower_schedule: Any = 1.0,
) -> Algorithm:
    """Two evaluations of everything a step, with Q = `adjoint_terms`.

    momentum: u -> eta_gamma in [0, 1], or a number; lower_momentum: u -> eta_x, None: the same.
    randomised: the product in place of the series, SUSTAIN. adjoint_step: eta of either, at most
    1/L; None: the problem's own step. lower_schedule: u -> beta by the problem's own step, or a
    number. Info's residual of the lower level is the norm of h_x. Raises ValueError for Q < 0,
    and for Q < 1 with the product.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.mrbo(problem, optax.sgd(1.0), adjoint_terms=60)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # minus B' H^{-1} (x - d) at x = 0, (1, -1)
    [-1.  1.]
    """
    require(int(randomised), adjoint_terms=adjoint_terms)

    def init(gamma: Gamma, x: Array) -> State:
        h_gamma, h_x = jax.tree.map(jnp.zeros_like, (gamma, x))
        return State(gamma, x, gamma, x, h_gamma, h_x, jnp.zeros((), int), optimiser.init(gamma))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        gamma, x, previous_gamma, previous_x, h_gamma, h_x, u, moved = state
        for_lower, for_upper = jax.random.split(key)
        lower_step = problem.lower_step(gamma)
        eta = lower_step if adjoint_step is None else adjoint_step

        def estimates(gamma: Gamma, x: Array) -> tuple[Array, Estimate]:
            G = problem.lower_gradient(x, gamma, problem.draw(data, for_lower))
            own: Any = {"terms": adjoint_terms, "step": eta, "randomised": randomised}
            return G, hypergradient(problem, gamma, x, data, for_upper, **own)

        (G, now), (old_G, old) = at_both(estimates, (gamma, x), (previous_gamma, previous_x))

        def weight(schedule: Any) -> Array:  # begins with f(z^0), whatever h is
            return jnp.where(u == 0, 1, at(schedule, u, x.dtype))

        h_x = recursive_momentum(
            h_x, G, old_G, weight(momentum if lower_momentum is None else lower_momentum)
        )
        h_gamma = recursive_momentum(h_gamma, now.gradient, old.gradient, weight(momentum))
        new_gamma, moved = move(optimiser, h_gamma, moved, gamma)
        new_x = x - at(lower_schedule, u, x.dtype) * lower_step * h_x
        calls = Calls(2, now.products + old.products, 2, 2)
        return (
            State(new_gamma, new_x, gamma, x, h_gamma, h_x, u + 1, moved),
            info(calls, now.loss, h_gamma, jnp.linalg.norm(h_x.ravel()), now.residual),
        )

    return Algorithm(init, step, rows=("x", "previous_x", "h_x"))


@options(**RULES)
def sustain(problem: Problem, optimiser: optax.GradientTransformation, **options: Any) -> Algorithm:
    """MRBO with the randomised product, (Q - 1) / 2 products with H a point on average.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.sustain(problem, optax.sgd(1.0), adjoint_terms=1)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # minus B' eta (x - d) at x = 0, (0, -1)
    [0. 1.]
    """
    return mrbo(problem, optimiser, **{"randomised": True} | options)
