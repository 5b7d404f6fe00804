"""Problems for upper-level algorithms, with what is known of their solutions."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel.algorithms.base import Gamma, Posed, from_cost
from deqbilevel.checks import Registry


class Quadratic(NamedTuple):
    """The data of Q1: Phi = x'Hx/2 - x'(B gamma + c), l = ||x - d||^2/2 + ridge/2 ||gamma||^2."""

    H: Float[Array, "n n"]
    B: Float[Array, "n r"]
    c: Float[Array, " n"]
    d: Float[Array, " n"]
    ridge: Any = 0.1


def quadratic() -> Posed:
    """Q1: a quadratic lower level of three unknowns, two upper-level variables, a rational answer.

    H has the eigenvalues 3 - sqrt(3), 3, 3 + sqrt(3), so that the best step of gradient descent,
    2 / (L + mu), is 1/3. In the default precision; for float64 enable it first.

    >>> print(algorithms.quadratic().solution)  # (-1805, 2200) / 1167
    [-1.5467  1.8852]
    """
    H = jnp.array([[4.0, 1, 0], [1, 3, 1], [0, 1, 2]])
    B = jnp.array([[1.0, 0], [0, 2], [1, 1]])
    data = Quadratic(H, B, jnp.array([1.0, -1, 0]), jnp.array([1.0, 2, -1]))

    def upper(gamma: Gamma, x: Array, data: Quadratic) -> Float[Array, ""]:
        return jnp.sum((x - data.d) ** 2) / 2 + data.ridge / 2 * jnp.sum(gamma**2)

    def lower(x: Array, gamma: Gamma, data: Quadratic) -> Float[Array, ""]:
        return jnp.sum(x * (x @ data.H / 2 - data.B @ gamma - data.c))

    problem = from_cost(upper, lower, lambda gamma: 1 / 3, strong_convexity=3 - 3**0.5)
    solution = jnp.array([-1805.0, 2200.0]) / 1167
    return Posed(problem, data, jnp.zeros(2), jnp.zeros((1, 3)), solution)


class Coupled(NamedTuple):
    """The data of Q2: Phi = ||x - y||^2/2 + sum_k e^{gamma_k} x_k^2/2, l = ||x - truth||^2/2."""

    y: Float[Array, " n"]
    truth: Float[Array, " n"]


def coupled() -> Posed:
    """Q2: nonlinear in gamma, x_k = y_k / (1 + e^{gamma_k}), and a loss that vanishes at best.

    H is diagonal, with entries 1 + e^{gamma_k}; the step is 2 / (L + mu). In the default precision.

    >>> posed = algorithms.coupled()
    >>> print(posed.solution, posed.data.y / (1 + jnp.exp(posed.solution)))  # x* is the truth
    [ 0.      0.6931 -1.0986] [1. 1. 3.]
    """
    data = Coupled(jnp.array([2.0, 3, 4]), jnp.array([1.0, 1, 3]))

    def upper(gamma: Gamma, x: Array, data: Coupled) -> Float[Array, ""]:
        return jnp.sum((x - data.truth) ** 2) / 2

    def lower(x: Array, gamma: Gamma, data: Coupled) -> Float[Array, ""]:
        return jnp.sum((x - data.y) ** 2 + jnp.exp(gamma) * x**2) / 2

    def lower_step(gamma: Gamma) -> Array:
        weights = jnp.exp(gamma)
        return 2 / (2 + jnp.max(weights) + jnp.min(weights))

    problem = from_cost(upper, lower, lower_step, strong_convexity=1.0)
    solution = jnp.log(jnp.array([1.0, 2, 1 / 3]))
    return Posed(problem, data, jnp.zeros(3), jnp.zeros((1, 3)), solution)


PROBLEMS = Registry("problem", {"q1": quadratic, "q2": coupled})
"""The probe problems with a known answer, by name."""
