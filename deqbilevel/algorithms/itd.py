"""ITD-BiO: iterative differentiation, Ji et al. [116], [CF] 5.3.2.

x_0 = x^u, x_{t+1} = x_t - alpha grad_x Phi(x_t; gamma) for t < T, and back through those T alone:

    Delta = grad_x l(gamma; x_T), r = 0; for t = T-1, ..., 0:
        r <- r - alpha J(x_t)^T Delta,    Delta <- Delta - alpha H(x_t) Delta
    gamma^{u+1} = gamma^u - alpha_l (grad_gamma l + r),    x^{u+1} = x_T

The recursion is the reverse mode of `hypergradients.unrolled`, with alpha constant.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from deqbilevel import types
from deqbilevel.algorithms.base import Algorithm, Calls, Data, Gamma, Info, Problem, descend, info
from deqbilevel.algorithms.checked import checked
from deqbilevel.algorithms.oracles import gradient_map
from deqbilevel.hypergradients import no_info, unrolled
from deqbilevel.solvers import DESCENTS
from deqbilevel.solvers.base import OFFSET


class State(NamedTuple):
    """x is where the lower level goes on."""

    gamma: Gamma
    x: Array
    optimiser: Any


@checked()
def itd(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    lower_iterations: int = 30,
    lower_solver: str = "gradient_descent",
    checkpoint: Literal["none", "sqrt"] = "none",
) -> Algorithm:
    """T = `lower_iterations` warm steps, static, and no gradient through their start.

    Its limit is biased by (1 - alpha mu)^T, however many steps are taken. The memory is that of
    T times x, with checkpoint="sqrt" of sqrt(T) times x for T more gradients of Phi. The adjoint
    residual is norm(Delta) / norm(grad_x l) at the end, for a quadratic Phi that of H v = grad_x l.
    Raises ValueError for T that is no plain int of 1 or more.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.itd(problem, optax.sgd(1.0), lower_iterations=60)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma)  # minus the hypergradient at 0, (3/2, -25/18)
    [-1.5     1.3889]
    """
    solver = DESCENTS[lower_solver](tolerance=None, max_evaluations=lower_iterations)

    def G(u: Array, params: types.Params, f: Array) -> Array:
        return gradient_map(problem, params["gamma"], params["data"])(u)

    solve = unrolled(G, solver, checkpoint=checkpoint)

    def init(gamma: Gamma, x: Array) -> State:
        return State(gamma, x, optimiser.init(gamma))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        def loss_from(x0: Array) -> Callable[[Gamma, types.Info], tuple[Array, Any]]:
            def unrolled_loss(gamma: Gamma, probe: types.Info) -> tuple[Array, Any]:
                x, found = solve({"gamma": gamma, "data": data}, x0, x0, probe)
                return problem.upper(gamma, x, data), (x, found)

            return unrolled_loss

        probe = no_info(state.x.dtype)
        derivative = jax.value_and_grad(loss_from(state.x), (0, 1), has_aux=True)
        (loss, (x, lower)), (gradient, adjoint) = derivative(state.gamma, probe)
        gamma, moved, solves = descend(
            problem,
            optimiser,
            gradient,
            state.optimiser,
            state.gamma,
            data,
            loss,
            lambda gamma: solve({"gamma": gamma}, data, x, no_info(x.dtype))[0],
        )
        T = lower_iterations
        calls = Calls(solves * T + adjoint.evaluations - T, T, T, solves)
        alpha = problem.lower_step(state.gamma)
        residual = lower.residual * (OFFSET + jnp.linalg.norm(x.ravel())) / alpha
        return State(gamma, x, moved), info(calls, loss, gradient, residual, adjoint.residual)

    return Algorithm(init, step)
