"""What the upper-level algorithms share: a problem, how calls are counted, how gamma moves.

    min_gamma l(gamma; x*(gamma)),    x*(gamma) = argmin_x Phi(x; gamma)            [CF] (UL), (LL)

gamma is a pytree; x: [batch, ...] is an array whose leading axis holds independent lower-level
problems, one for each image (1 where there is no such thing). With H = grad_xx Phi and the cross
derivative J = grad_xgamma Phi, the hypergradient is

    grad l(gamma) = grad_gamma l - J^T v,    H v = grad_x l                         [CF] (4.8)

An algorithm is a pair of pure functions; State is what the next step needs, Info what a person
reads. Everything numerical that a factory takes may be traced, so that step sizes can be lanes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import precision

Gamma = Any
"""The upper-level variable, a pytree."""

Data = Any
"""What the losses depend on: true images, measurements, labels."""


def whole(data: Data, key: PRNGKeyArray) -> Data:
    """All of the data, whatever the key: the oracles of a deterministic problem."""
    return data


class Problem(NamedTuple):
    """The upper loss and the lower cost, as functions of the data.

    >>> upper = lambda gamma, x, data: jnp.sum((x - data) ** 2) / 2
    >>> problem = algorithms.Problem(upper, lambda x, gamma, data: x - gamma, lambda gamma: 1.0)
    >>> print(problem.lower_gradient(jnp.array([[5.0]]), jnp.array([2.0]), None))
    [[3.]]
    """

    upper: Callable[[Gamma, Array, Data], Float[Array, ""]]
    """(gamma, x, data) -> l(gamma; x)."""
    lower_gradient: Callable[[Array, Gamma, Data], Array]
    """(x, gamma, data) -> grad_x Phi(x; gamma), like x; its derivative in x mixes no rows of x."""
    lower_step: Callable[[Gamma], Any]
    """gamma -> a step at which gradient descent on Phi contracts: 1/L, or 2 / (L + mu)."""
    draw: Callable[[Data, PRNGKeyArray], Data] = whole
    """(data, key) -> what one call of an oracle sees of the data: a sample, or everything."""
    strong_convexity: Any = None
    """mu: H >= mu I for all x and gamma; None where no positive bound is known."""
    precondition: Callable[[Array, Gamma, Data], Callable[[Array], Array]] | None = None
    """(x, gamma, data) -> an approximation of v -> H^{-1} v for conjugate gradients."""


class Posed(NamedTuple):
    """A problem, its data, where algorithms start, and the solution where it is known.

    >>> problem, data, gamma, x, solution = algorithms.quadratic()
    >>> print(gamma, x.shape, solution)
    [0. 0.] (1, 3) [-1.5467  1.8852]
    """

    problem: Problem
    data: Data
    gamma: Gamma
    x: Array
    solution: Gamma = None


def from_cost(
    upper: Callable[[Gamma, Array, Data], Float[Array, ""]],
    lower: Callable[[Array, Gamma, Data], Float[Array, ""]],
    lower_step: Callable[[Gamma], Any],
    **others: Any,
) -> Problem:
    """A problem whose lower level is a cost Phi(x, gamma, data), differentiated here.

    >>> upper = lambda gamma, x, data: jnp.sum((x - data) ** 2) / 2
    >>> lower = lambda x, gamma, data: jnp.sum((x - gamma) ** 2) / 2
    >>> problem = algorithms.from_cost(upper, lower, lambda gamma: 1.0)
    >>> print(problem.lower_gradient(jnp.array([[5.0]]), jnp.array([2.0]), None))
    [[3.]]
    """
    return Problem(upper, jax.grad(lower), lower_step, **others)


class Calls(NamedTuple):
    """How often the oracles were called, the currency of [CF] Tables 5.1 to 5.3.

    >>> print(algorithms.Calls(lower_gradients=3).plus(algorithms.Calls(1, 2)).total())
    6
    """

    lower_gradients: Any = 0
    """grad_x Phi"""
    hessian_products: Any = 0
    """H v"""
    jacobian_products: Any = 0
    """J^T v"""
    upper_gradients: Any = 0
    """(grad_gamma l, grad_x l) at once"""

    def plus(self, other: "Calls") -> "Calls":
        """The sum, oracle by oracle."""
        return Calls(*(x + y for x, y in zip(self, other, strict=True)))

    def total(self) -> Any:
        """Calls of any oracle."""
        return sum(self)


class Info(NamedTuple):
    """What a person reads of an upper-level step, at the gamma that it started from."""

    calls: Calls
    loss: Float[Array, ""]
    """l(gamma; x) at the x where the hypergradient was taken."""
    gradient_norm: Float[Array, ""]
    """The 2-norm of the estimated hypergradient."""
    lower_residual: Float[Array, ""]
    """norm(grad_x Phi), at its last evaluation."""
    adjoint_residual: Float[Array, ""]
    """norm(H v - grad_x l) / norm(grad_x l) where last known; NaN where it never is."""


class _Algorithm(NamedTuple):
    init: Callable[[Gamma, Array], Any]
    """(gamma, x) -> State."""
    step: Callable[[Any, Data, PRNGKeyArray], tuple[Any, Info]]
    """(state, data, key) -> (State, Info); deterministic methods ignore the key."""
    rows: tuple[str, ...] = ("x",)
    """The fields of State with the leading axis of x, see `minibatches`."""


class Algorithm(_Algorithm):
    """An upper-level method. Every State has the fields `gamma` and `x`.

    Products are in full precision, see `precision.highest`.

    >>> problem, data, gamma, x, _ = algorithms.quadratic()
    >>> print(algorithms.aid(problem, optax.sgd(1.0)).rows)
    ('x', 'v')
    """

    __slots__ = ()

    def __new__(cls, init: Any, step: Any, rows: tuple[str, ...] = ("x",)) -> "Algorithm":
        return super().__new__(cls, precision.highest(init), precision.highest(step), rows)


def info(
    calls: Calls, loss: Any, gradient: Gamma, lower_residual: Any, adjoint_residual: Any
) -> Info:
    """An Info whose numbers all have the dtype of the loss, so that steps can be scanned."""
    numbers = (*calls, loss, optax.tree.norm(gradient), lower_residual, adjoint_residual)
    *counts, value, size, lower, adjoint = (jnp.asarray(x, loss.dtype) for x in numbers)
    return Info(Calls(*counts), value, size, lower, adjoint)


def inside(name: str) -> property:
    """A field of a State's `inner` one, for the State of what is around an algorithm."""
    return property(lambda state: getattr(state.inner, name))


def move(
    optimiser: optax.GradientTransformation,
    gradient: Gamma,
    state: optax.OptState,
    gamma: Gamma,
    **extra: Any,
) -> tuple[Gamma, optax.OptState]:
    """gamma after an update of the optimiser, and its state; `extra` is for line searches."""
    updates, state = optax.with_extra_args_support(optimiser).update(
        gradient, state, gamma, **extra
    )
    return optax.apply_updates(gamma, updates), state


def trials(state: optax.OptState) -> Any:
    """How often a line search evaluated the upper loss in its last update, 0 without one."""
    return optax.tree.get(state, "num_linesearch_steps", 0)


def descend(
    problem: Problem,
    optimiser: optax.GradientTransformation,
    gradient: Gamma,
    state: optax.OptState,
    gamma: Gamma,
    data: Data,
    loss: Float[Array, ""],
    solve: Callable[[Gamma], Array],
) -> tuple[Gamma, optax.OptState, Any]:
    """`move` with what a line search needs: `(gamma, state, solves)`.

    solve: gamma -> x, the lower level of a trial. solves: of the lower level, one for each trial
    and that of the step itself.
    """
    gamma, state = move(
        optimiser,
        gradient,
        state,
        gamma,
        value=loss,
        grad=gradient,
        value_fn=lambda gamma: problem.upper(gamma, solve(gamma), data),
    )
    return gamma, state, 1 + trials(state)
