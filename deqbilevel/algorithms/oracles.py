"""What an upper-level algorithm asks of a problem: the lower level, and the derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import hypergradients, types
from deqbilevel.algorithms.base import Calls, Data, Gamma, Info, Problem, descend, info
from deqbilevel.solvers import DESCENTS, LINE_SEARCHES
from deqbilevel.solvers.base import OFFSET, Iteration


def gradient_map(problem: Problem, gamma: Gamma, data: Data) -> Callable[[Array], Array]:
    """x -> x - alpha grad_x Phi(x; gamma) with the problem's own step alpha."""
    alpha = jax.lax.stop_gradient(problem.lower_step(gamma))
    return lambda x: x - alpha * problem.lower_gradient(x, gamma, data)


def lower_level(
    problem: Problem,
    gamma: Gamma,
    x: Array,
    data: Data,
    *,
    solver: str = "gradient_descent",
    evaluations: Any,
    tolerance: Any = None,
) -> tuple[Array, Any, Array]:
    """The lower level from x on all of the data: `(x, evaluations, residual)`.

    solver: one of `solvers.DESCENTS`; those with momentum need a step of at most 1/L. Stops at
    norm(grad_x Phi) <= tolerance, None: never; the residual is that norm, last evaluated, or for a
    line search a bound of it that is close where it is small.
    """
    alpha = jax.lax.stop_gradient(problem.lower_step(gamma))
    relative = DESCENTS[solver](tolerance=None, max_evaluations=evaluations)
    assert isinstance(relative, Iteration)

    def scheme(G: Callable[[Array], Array], x0: Array) -> tuple[Any, Any]:
        step, state = relative.scheme(G, x0)

        def absolute(k: Array, state: Any) -> tuple[Any, Array, Array]:
            state, x, q = step(k, state)
            length = q * (OFFSET + jnp.linalg.norm(x.ravel()))
            if solver in LINE_SEARCHES:  # q is relative to G(x), and so this is a bound
                length = length / jnp.maximum(jnp.abs(1 - q), jnp.finfo(x.dtype).eps)
            return state, x, length / alpha

        return absolute, state

    solve = Iteration(scheme, tolerance, evaluations)
    x, found = solve(gradient_map(problem, gamma, data), x)
    return x, found.evaluations, found.residual


def stochastic_descent(
    problem: Problem,
    gamma: Gamma,
    x: Array,
    data: Data,
    key: PRNGKeyArray,
    *,
    steps: Any,
    scale: Any = 1.0,
) -> tuple[Array, Array]:
    """`steps` steps of gradient descent on Phi, each with a sample of its own: `(x, residual)`.

    scale: of the problem's own step. The residual is the norm of the last sampled gradient.
    """
    alpha = scale * problem.lower_step(gamma)

    def body(t: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, _ = carry
        gradient = problem.lower_gradient(x, gamma, problem.draw(data, jax.random.fold_in(key, t)))
        return x - alpha * gradient, jnp.linalg.norm(gradient.ravel())

    return jax.lax.fori_loop(0, steps, body, (x, jnp.full((), jnp.inf, x.dtype)))


def upper_gradients(
    problem: Problem, gamma: Gamma, x: Array, data: Data
) -> tuple[Float[Array, ""], Gamma, Array]:
    """l, grad_gamma l and grad_x l at (gamma, x)."""
    loss, (of_gamma, of_x) = jax.value_and_grad(problem.upper, (0, 1))(gamma, x, data)
    return loss, of_gamma, of_x


def hessian(problem: Problem, gamma: Gamma, x: Array, data: Data) -> Callable[[Array], Array]:
    """v -> H v at (x, gamma), linearised once."""
    return jax.linearize(lambda x: problem.lower_gradient(x, gamma, data), x)[1]


def cross(problem: Problem, gamma: Gamma, x: Array, v: Array, data: Data) -> Gamma:
    """J^T v at (x, gamma), like gamma."""
    _, pull = jax.vjp(lambda gamma: problem.lower_gradient(x, gamma, data), gamma)
    return pull(v)[0]


def implicit(
    problem: Problem,
    gamma: Gamma,
    x: Array,
    v: Array,
    g: Array,
    data: Data,
    *,
    products: Any,
    tolerance: Any = 0.0,
) -> tuple[Gamma, Array, types.Info]:
    """-J^T v by conjugate gradients on H v = g = grad_x l from v: `(gradient, v, info)`.

    At most `products` iterations, with as many products of H, one for the residual at the start and
    one for that at the end; fewer where norm(H v - g) <= tolerance norm(g). It is
    `hypergradients.minimiser`, for a problem.
    """
    options = {}
    if problem.precondition is not None:
        options["precondition"] = problem.precondition(x, gamma, data)
    gradient, v, found = hypergradients.minimiser(
        lambda x, params, data: problem.lower_gradient(x, params["gamma"], data),
        {"gamma": gamma},
        {},
        data,
        x,
        g,
        v,
        tolerance=tolerance,
        max_evaluations=products + 2,
        **options,
    )
    return gradient["gamma"], v, found


def implicit_descent(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    state: Any,
    v: Array,
    data: Data,
    *,
    products: Any,
    accuracy: Any = None,
    **budget: Any,
) -> tuple[Gamma, Array, Array, optax.OptState, Info]:
    """A step on l by its implicit gradient: `(gamma, x, v, optimiser, info)`.

    From the state's gamma, x and optimiser, and from v. budget: of `lower_level`, for the step and
    for each trial of a line search. accuracy: a bound of norm(H v - grad_x l); None: none.
    """
    gamma = state.gamma
    x, evaluations, residual = lower_level(problem, gamma, state.x, data, **budget)
    loss, of_gamma, of_x = upper_gradients(problem, gamma, x, data)
    size = jnp.maximum(jnp.linalg.norm(of_x.ravel()), jnp.finfo(x.dtype).tiny)
    tolerance = 0.0 if accuracy is None else accuracy / size
    through_x, v, adjoint = implicit(
        problem, gamma, x, v, of_x, data, products=products, tolerance=tolerance
    )
    gradient = optax.tree.add(of_gamma, through_x)

    def again(gamma: Gamma) -> Array:
        return lower_level(problem, gamma, x, data, **budget)[0]

    gamma, moved, solves = descend(
        problem, optimiser, gradient, state.optimiser, gamma, data, loss, again
    )
    calls = Calls(solves * evaluations, adjoint.evaluations, 1, solves)
    return gamma, x, v, moved, info(calls, loss, gradient, residual, adjoint.residual)
