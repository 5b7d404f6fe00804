"""A problem in other variables: the points of a box, or a few that stand for many."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from deqbilevel.algorithms.base import Data, Gamma, Posed
from deqbilevel.search.base import Box


def through(posed: Posed, make: Callable[[Any], Gamma], start: Any) -> Posed:
    """The problem of variables of which `make` makes gamma, from `start`.

    >>> problem = algorithms.quadratic()  # of two variables, which are to be the same one
    >>> tied = search.through(problem, lambda y: jnp.stack([y, y]), jnp.array(0.0))
    >>> print(tied.problem.upper(tied.gamma, tied.x, tied.data))  # |d|^2 / 2
    3.0
    """
    problem = posed.problem

    def upper(gamma: Any, x: Array, data: Data) -> Float[Array, ""]:
        return problem.upper(make(gamma), x, data)

    def lower_gradient(x: Array, gamma: Any, data: Data) -> Array:
        return problem.lower_gradient(x, make(gamma), data)

    def precondition(x: Array, gamma: Any, data: Data) -> Any:
        assert problem.precondition is not None
        return problem.precondition(x, make(gamma), data)

    own = problem._replace(
        upper=upper,
        lower_gradient=lower_gradient,
        lower_step=lambda gamma: problem.lower_step(make(gamma)),
        precondition=None if problem.precondition is None else precondition,
    )
    return posed._replace(problem=own, gamma=start, solution=None)


def within(posed: Posed, box: Box, point: Float[Array, " R"]) -> Posed:
    """The problem of points of the unit cube, so that its hypergradient is along the same scales as
    a search without one; beyond the cube the scales go on.

    >>> posed = algorithms.quadratic()
    >>> posed = search.through(posed, lambda gamma: gamma["y"], {"y": posed.gamma})
    >>> box = search.Box({"y": np.full(2, -4.0)}, {"y": np.full(2, 4.0)})
    >>> own = search.within(posed, box, jnp.full(2, 0.5))
    >>> print(own.problem.upper(own.gamma, own.x, own.data))
    3.0
    """
    gamma = posed.gamma
    return through(posed, lambda point: gamma | box.value(point), point)
