"""How good a gamma is: the upper level at the true minimiser, whatever method gamma comes from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jaxtyping import Array

from deqbilevel.algorithms.base import Gamma, Posed
from deqbilevel.algorithms.oracles import implicit, lower_level, upper_gradients

Scores = Callable[[Gamma, Array, Posed], dict[str, Array]]
"""(gamma, x*(gamma), posed) -> what else is measured there."""


class Accuracy(NamedTuple):
    """How the minimiser and its adjoint are found."""

    solver: str
    """One of `solvers.DESCENTS`."""
    evaluations: int
    """At most, and products."""
    products: int
    tolerance: float
    """Of norm(grad_x Phi), and of norm(H v - grad_x l) / norm(grad_x l)."""


def judge(
    posed: Posed, accuracy: Accuracy, scores: Scores, gamma: Gamma, x: Array, v: Array
) -> tuple[dict[str, Any], Array, Array]:
    """Loss, norm of the hypergradient and scores at the minimiser: `(numbers, x, v)`.

    The lower level and its adjoint are solved for from x and v on all of the data, to residuals
    that the numbers name, and come back for the next call.
    """
    problem, data = posed.problem, posed.data
    solver, evaluations, products, tolerance = accuracy
    x, _, residual = lower_level(
        problem, gamma, x, data, solver=solver, evaluations=evaluations, tolerance=tolerance
    )
    loss, of_gamma, of_x = upper_gradients(problem, gamma, x, data)
    through_x, v, adjoint = implicit(
        problem, gamma, x, v, of_x, data, products=products, tolerance=tolerance
    )
    numbers = {
        "loss": loss,
        "gradient_norm": optax.tree.norm(optax.tree.add(of_gamma, through_x)),
        "lower_residual": residual,
        "adjoint_residual": adjoint.residual,
    }
    return numbers | scores(gamma, x, posed), x, v
