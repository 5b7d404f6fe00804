"""The penalty method and the augmented Lagrangian, Mehra and Hamm, [CF] 5.4.

With p(x, gamma) = grad_x Phi(x; gamma), which vanishes at the minimiser, and the weight lambda_u,

    F(x, gamma) = l(gamma; x) + lambda_u ||p||^2 + nu^T p
    x: T steps on F from x^u,        x <- x - beta (grad_x l + H m)
    gamma^{u+1} = gamma^u - alpha_l (grad_gamma l + J^T m),        m = nu + 2 lambda_u p
    nu <- m for the augmented method; nu = 0 for the penalty method

m tends to -H^{-1} grad_x l, minus the v of the other methods: for the penalty method as lambda_u
grows, with a bias of order 1 / lambda where it does not; for the augmented one at any lambda.

The Hessian of F in x is about that of l plus 2 lambda H^2. So a step contracts by about
q = (kappa - 1) / (kappa + 1), kappa = (L / mu)^2, and lambda multiplies what error is left in the
gradient: lambda q^T has to stay small, or the method diverges. The text lets lambda grow without
bound, `growing(largest=None)`, for which T has to grow with it; by default lambda is capped, where
the T of `penalty` still suffices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from deqbilevel.algorithms.base import (
    Algorithm,
    Calls,
    Data,
    Gamma,
    Info,
    Problem,
    info,
    move,
    trials,
)
from deqbilevel.algorithms.checked import checked
from deqbilevel.algorithms.oracles import upper_gradients
from deqbilevel.rules import POSITIVE, Rule, options, real

Weight = Callable[[Int[Array, ""]], Any]
"""u -> lambda_u, with u from 0."""


CAP = Rule(lambda x: x is None or POSITIVE.holds(x), "a number above 0, or None")
STEP_SIZE = Rule(callable, "a function (gamma, lambda) -> beta, such as contracting(problem)")
"""What `growing` and `penalty` take beside numbers."""


class State(NamedTuple):
    """x is where the lower level goes on, nu the multiplier (0: none), u counts the steps."""

    gamma: Gamma
    x: Array
    nu: Array
    u: Int[Array, ""]
    optimiser: Any


@options(initial=POSITIVE, factor=real(least=1), largest=CAP)
def growing(initial: Any = 10.0, factor: Any = 1.1, largest: Any = 100.0) -> Weight:
    """lambda_u = min(initial factor^u, largest); largest: None for a growth without bound, as in
    [CF] 5.4, until a step of x is lost in rounding.

    Raises: ValueError for weights that are not positive, and a factor below 1.
    """
    if largest is None:
        return lambda u: initial * factor**u
    return lambda u: jnp.minimum(initial * factor**u, largest)


@checked(step_size=STEP_SIZE)
def penalty(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    weight: Weight | None = None,
    lower_iterations: Any = 100,
    smoothness: Any = 1.0,
    step_size: Callable[[Gamma, Any], Any] | None = None,
) -> Algorithm:
    """T = `lower_iterations` steps of x with lambda_u = `weight(u)`, default `growing()`.

    step_size: (gamma, lambda) -> beta, see `contracting`, the default with M = `smoothness`.
    The loss of Info is l; adjoint_residual is norm(H m + grad_x l) / norm(grad_x l).

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.penalty(problem, optax.sgd(1.0), weight=lambda u: 100.0)
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma.round(1))  # minus the hypergradient at 0, (3/2, -25/18)
    [-1.5  1.4]
    """
    beta = contracting(problem, smoothness) if step_size is None else step_size
    weight = growing() if weight is None else weight
    return _penalty(problem, optimiser, weight, lower_iterations, beta, augmented=False)


@checked(step_size=STEP_SIZE)
def augmented_penalty(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    *,
    weight: Weight = lambda u: 10.0,
    lower_iterations: Any = 50,
    smoothness: Any = 1.0,
    step_size: Callable[[Gamma, Any], Any] | None = None,
) -> Algorithm:
    """`penalty` with the multiplier nu, so that no lambda has to grow.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> method = algorithms.augmented_penalty(problem, optax.sgd(1.0))
    >>> state, _ = method.step(method.init(gamma, x), data, jax.random.key(0))
    >>> print(state.gamma.round(1), (state.nu != 0).all())  # about (-3/2, 25/18); nu is m now
    [-1.5  1.4] True
    """
    beta = contracting(problem, smoothness) if step_size is None else step_size
    return _penalty(problem, optimiser, weight, lower_iterations, beta, augmented=True)


def contracting(problem: Problem, smoothness: Any = 1.0) -> Callable[[Gamma, Any], Any]:
    """(gamma, lambda) -> beta = 1 / (M + lambda (L^2 + mu^2)), M = `smoothness` of l in x.

    It is 2 over the sum of M + 2 lambda L^2 and M + 2 lambda mu^2, between which the Hessian of F
    is for a quadratic Phi and an l of curvature M. mu is the problem's, else 0; L = 2 / alpha - mu
    from its step alpha is exact where alpha = 2 / (L + mu), and too large where alpha = 1 / L.
    """
    mu = 0.0 if problem.strong_convexity is None else problem.strong_convexity

    def step_size(gamma: Gamma, weight: Any) -> Any:
        L = 2 / jax.lax.stop_gradient(problem.lower_step(gamma)) - mu
        return 1 / (smoothness + weight * (L**2 + mu**2))

    return step_size


def _penalty(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    weight: Weight,
    lower_iterations: Any,
    step_size: Callable[[Gamma, Any], Any],
    *,
    augmented: bool,
) -> Algorithm:
    def init(gamma: Gamma, x: Array) -> State:
        return State(gamma, x, jnp.zeros_like(x), jnp.array(0), optimiser.init(gamma))

    def step(state: State, data: Data, key: PRNGKeyArray) -> tuple[State, Info]:
        strength = jnp.asarray(weight(state.u), state.x.dtype)

        def constraint(gamma: Gamma, x: Array) -> tuple[Array, Array, Gamma, Array]:
            """p, m, J^T m and H m, symmetric."""
            p, pull = jax.vjp(lambda gamma, x: problem.lower_gradient(x, gamma, data), gamma, x)
            m = state.nu + 2 * strength * p
            return p, m, *pull(m)

        def descend(gamma: Gamma, x: Array) -> Array:
            beta = step_size(gamma, strength)

            def body(_: Array, x: Array) -> Array:
                of_x = upper_gradients(problem, gamma, x, data)[2]
                return x - beta * (of_x + constraint(gamma, x)[3])

            return jax.lax.fori_loop(0, lower_iterations, body, x)

        def penalised(gamma: Gamma, x: Array, loss: Array, p: Array) -> Array:
            return loss + strength * jnp.sum(p * p) + jnp.sum(state.nu * p)

        def after_descent(gamma: Gamma) -> Array:
            moved = descend(gamma, x)
            p = problem.lower_gradient(moved, gamma, data)
            return penalised(gamma, moved, problem.upper(gamma, moved, data), p)

        x = descend(state.gamma, state.x)
        loss, of_gamma, of_x = upper_gradients(problem, state.gamma, x, data)
        p, m, Jm, Hm = constraint(state.gamma, x)
        gradient = optax.tree.add(of_gamma, Jm)
        gamma, moved = move(
            optimiser,
            gradient,
            state.optimiser,
            state.gamma,
            value=penalised(state.gamma, x, loss, p),
            grad=gradient,
            value_fn=after_descent,
        )
        solves = 1 + trials(moved)
        T = lower_iterations
        calls = Calls(solves * (T + 1), solves * T + 1, 1, solves * (T + 1))
        residual, force, rest = (jnp.linalg.norm(y.ravel()) for y in (p, of_x, of_x + Hm))
        found = info(calls, loss, gradient, residual, rest / force)
        return State(gamma, x, m if augmented else state.nu, state.u + 1, moved), found

    return Algorithm(init, step, rows=("x", "nu"))
