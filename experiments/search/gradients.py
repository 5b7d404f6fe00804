"""Methods with hypergradients, in the scales of the searches: the box is the unit cube.

The upper loss is divided by that at the start, so that step sizes and accuracies mean the same for
every problem.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from deqbilevel import algorithms, search
from deqbilevel.algorithms import Algorithm, Posed, Problem
from deqbilevel.algorithms.maid import Lipschitz
from experiments.search.cases import Case

INSIDE = algorithms.steps.box(0.0, 1.0)

FIRST = 0.25
"""Of the box: the first step that a line search tries."""

DECAY, LEAST = 0.9, 0.01
"""Of the accuracy of `hoag`, in each step, and of the first one at last: what single precision
allows."""


def relative(case: Case, loss: float) -> Posed:
    """The problem of a case from the middle of the box, with its loss over that one."""
    posed = search.within(case.posed, case.box, jnp.full(case.box.size, 0.5))
    upper = posed.problem.upper
    own = posed.problem._replace(upper=lambda *at: upper(*at) / loss)
    return posed._replace(problem=own)


def adam(config: Any, problem: Problem, lipschitz: float) -> Algorithm:
    """Adam on `aid`, of as many evaluations and products in each step."""
    return algorithms.aid(
        problem,
        optax.chain(optax.adam(config.learning_rate), INSIDE),
        lower_iterations=config.step_evaluations,
        adjoint_iterations=config.step_products,
        lower_solver="optimized_gradient",
    )


def armijo(config: Any, problem: Problem, lipschitz: float) -> Algorithm:
    """Backtracking along the direction of the gradient."""
    steps = (optax.normalize_by_update_norm(), algorithms.steps.armijo(FIRST), INSIDE)
    return _hoag(config, problem, optax.chain(*steps), lambda u: config.accuracy)


def hoag(config: Any, problem: Problem, lipschitz: float) -> Algorithm:
    """HOAG with its own step size and tightening accuracies."""

    def accuracy(u: Any) -> Any:
        return config.accuracy * jnp.maximum(DECAY**u, LEAST)

    return _hoag(config, problem, optax.chain(algorithms.steps.hoag_adaptive(), INSIDE), accuracy)


def _hoag(config: Any, problem: Problem, steps: Any, accuracy: Any) -> Algorithm:
    """Where no strong convexity is known accuracies are norms of gradients."""
    return algorithms.hoag(
        problem,
        steps,
        tolerance=accuracy,
        mu=1.0 if problem.strong_convexity is None else problem.strong_convexity,
        lower_iterations=config.lower_evaluations,
        adjoint_iterations=config.products,
        lower_solver="optimized_gradient",
    )


def maid(config: Any, problem: Problem, lipschitz: float) -> Algorithm:
    """MAID, whose line search and accuracies are its own. Raises: ValueError for a problem of which
    no strong convexity is known."""
    return algorithms.maid(
        problem,
        accuracy=config.accuracy,
        adjoint_accuracy=config.accuracy,
        lipschitz=Lipschitz(of_x=2 * lipschitz**2),
        lower_iterations=config.step_evaluations,
        adjoint_iterations=config.products,
        lower_solver="optimized_gradient",
    )


GRADIENTS: Mapping[str, Callable[[Any, Problem, float], Algorithm]] = {
    "adam": adam,
    "armijo": armijo,
    "hoag": hoag,
    "maid": maid,
}
"""Each for the options, a problem, and the Lipschitz constant of its residuals in x."""
