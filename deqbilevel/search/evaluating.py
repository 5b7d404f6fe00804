"""Candidates of a search judged: the upper level at lower levels solved to an accuracy.

Those of one request are lanes, see `lanes`: spread over the devices that there are, and side by
side on each of them.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import checks, lanes, precision
from deqbilevel.algorithms import Posed
from deqbilevel.algorithms.base import Data, Gamma
from deqbilevel.algorithms.oracles import lower_level
from deqbilevel.search.base import Box, Outcome, Request
from deqbilevel.solvers import DESCENTS


class Residuals(NamedTuple):
    """A loss as a sum of squares."""

    of: Callable[[Gamma, Array, Data], Float[Array, " m"]]
    """(gamma, x, data) -> the residuals, whose squares add up to the loss."""
    lipschitz: float
    """Of the residuals in x, in 2-norms."""


class Evaluated(NamedTuple):
    """What an evaluation found, and what it cost."""

    outcome: Outcome
    evaluations: np.ndarray
    """[candidates], of the lower level's gradient."""
    seconds: float = 0.0
    """Without compilation, which is once for each number of candidates."""


def row_errors(posed: Posed) -> Residuals:
    """||x_i - u_i|| / sqrt(n) of each image i, with n the number of all pixels: residuals of the
    mean squared error, as Ehrhardt and Roberts have them. The problem's data has images as `truth`.

    >>> box, u = search.Box({"beta_0": -9.0}, {"beta_0": 0.0}), jnp.ones((2, 4))
    >>> model = models.assemble(
    ...     operators.identity((2, 2)),
    ...     regularizers.REGULARIZERS["convolutional"]((2, 2), filters=(3, 2, 2)),
    ... )
    >>> posed = algorithms.posed(model, model.init(jax.random.key(0)), u, u)
    >>> print(search.row_errors(posed).of(posed.gamma, jnp.zeros((2, 4)), posed.data))
    [0.7071 0.7071]
    """
    n = posed.x.size

    def of(gamma: Gamma, x: Array, data: Data) -> Float[Array, " m"]:
        squares = jnp.sum(((x - data.truth) ** 2).reshape(len(x), -1), axis=1)
        # A root whose derivative nobody takes: searches have none.
        return jnp.sqrt(squares / n)

    return Residuals(of, n**-0.5)


def evaluator(
    posed: Posed,
    box: Box,
    *,
    residuals: Residuals | None = None,
    solver: str = "optimized_gradient",
    max_evaluations: int = 5000,
    accuracy: float = 1e-6,
    together: bool = True,
) -> Callable[[Request], Evaluated]:
    """Judges the candidates of a request on a problem, each from `posed.x`.

    Where the problem has a strong convexity mu, ||x - x*|| <= norm(grad_x Phi) / mu: solves stop
    there, at the accuracy of the request or this one; elsewhere at that norm, with no bound known.
    together: whether the candidates of a device are vmapped, else one after the other. The entries
    of the box replace those of `posed.gamma`.
    Raises: ValueError for a box of other parameters than the problem's.

    >>> box = search.Box({"gamma": jnp.full(2, -3.0)}, {"gamma": jnp.full(2, 3.0)})
    >>> problem, data, _, x, _ = algorithms.quadratic()
    >>> upper = lambda gamma, x, data: problem.upper(gamma["gamma"], x, data)
    >>> grad = lambda x, gamma, data: problem.lower_gradient(x, gamma["gamma"], data)
    >>> own = problem._replace(upper=upper, lower_gradient=grad)
    >>> posed = algorithms.Posed(own, data, {"gamma": 0 * x[0, :2]}, x)
    >>> evaluate = search.evaluator(posed, box, solver="gradient_descent")
    >>> print(evaluate(search.Request(np.full((1, 2), 0.5))).outcome.losses)  # at gamma = 0
    [4.2685]
    """
    checks.known("solver", solver, DESCENTS)
    checks.one("accuracy", accuracy, above=0)
    box.check()
    gamma = posed.gamma
    if not isinstance(gamma, dict) or not set(box.low) <= set(gamma):
        has = sorted(gamma) if isinstance(gamma, dict) else type(gamma).__name__
        raise ValueError(f"box: of {sorted(box.low)}; expected parameters of the problem, {has}")
    problem, data, mu = posed.problem, posed.data, posed.problem.strong_convexity

    @precision.highest
    def one(point: Float[Array, " R"], wanted: Float[Array, ""]) -> Any:
        at = gamma | box.value(point)
        tolerance = wanted if mu is None else wanted * mu
        x, evaluations, residual = lower_level(
            problem,
            at,
            posed.x,
            data,
            solver=solver,
            evaluations=max_evaluations,
            tolerance=tolerance,
        )
        bound = jnp.full_like(residual, jnp.nan) if mu is None else residual / mu
        parts = jnp.zeros(()) if residuals is None else residuals.of(at, x, data)
        return problem.upper(at, x, data), bound, parts, evaluations

    programs: dict[int, Any] = {}

    def evaluate(request: Request) -> Evaluated:
        wanted = accuracy if request.accuracy is None else request.accuracy
        points, count = np.asarray(request.points, posed.x.dtype), len(request.points)
        each = -(-count // jax.device_count())
        chunk = lanes.lanes(each, each if together else 1)
        filled = np.pad(points, ((0, chunk.count - count), (0, 0)), mode="edge")
        given = chunk.put(filled[chunk.local]), jnp.asarray(wanted, points.dtype)
        if count not in programs:
            judged = jax.jit(chunk.over(one, (0, None)))
            programs[count] = judged.lower(*given).compile()
        begin = time.perf_counter()
        found = lanes.everything(programs[count](*given))
        losses, bounds, parts, evaluations = (np.asarray(x[:count], float) for x in found)
        seconds = time.perf_counter() - begin
        outcome = Outcome(losses, bounds)
        if residuals is not None:
            outcome = outcome._replace(residuals=parts, lipschitz=residuals.lipschitz)
        return Evaluated(outcome, evaluations, seconds)

    return evaluate
