"""Learning problems of imaging for upper-level algorithms: filters, and the dense model of [REB].

The rows of x are the images, and the leading axis of every leaf of the data, so that `minibatches`
takes some of them. What is not learned is a part of the problem, and not of the data.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import bilevel, losses, maps, models
from deqbilevel.algorithms.base import Data, Gamma, Posed, Problem
from deqbilevel.checks import finite, rows
from deqbilevel.operators import Identity, Operator
from deqbilevel.rules import POSITIVE, Rule, real, require
from deqbilevel.types import Params

LEARNED = Rule(lambda x: isinstance(x, tuple) and bool(x), "a tuple of the names of one or more")
SMOOTH = Rule(
    lambda phi: bool(phi.twice_differentiable), "a smooth potential, such as CornerRounded"
)


class Measured(NamedTuple):
    """True images and their measurements."""

    truth: Float[Array, "batch pixels"]
    f: Float[Array, "batch data"]


def filters(problem: bilevel.Problem, params: Params, truth: Array, f: Array) -> Posed:
    """Learning the entries `problem.learned` of `params`, a dict gamma, with the loss of [CF] (Ex),

        l = 1/2 ||x - truth||^2,    grad_x Phi = lam K^T (K x - f) + gamma N(x)

    truth, f: [images, pixels]; x starts at K^T f. lam and gamma are 1 where params has none. The
    lower-level step is 1/L with `problem.lipschitz`, and conjugate gradients have the problem's
    preconditioner; its budgets and its choice of solvers count for nothing here.
    Raises: ValueError for images that are not finite, where they are known, or not measured by K,
    for params that lack an entry, and for a potential that is not smooth.
    """
    _check_images(problem.K, truth, f, problem.regularizer.shape)
    _check_params(params, ("phi", "filters", "beta", "beta_0"))
    require({"K_norm": POSITIVE, "learned": LEARNED, "phi": SMOOTH}, params | problem._asdict())
    params = {"lam": jnp.ones((), f.dtype), "gamma": jnp.ones((), f.dtype)} | params
    stationarity = problem.gradient()

    def upper(gamma: Gamma, x: Array, data: Measured) -> Float[Array, ""]:
        return jnp.sum((x - data.truth) ** 2) / 2

    def lower_gradient(x: Array, gamma: Gamma, data: Measured) -> Array:
        return stationarity(x, params | gamma, data.f)

    def lower_step(gamma: Gamma) -> Array:
        return 1 / problem.lipschitz(params | gamma)

    def precondition(x: Array, gamma: Gamma, data: Data) -> Any:
        return problem.preconditioner(x, params | gamma)

    posed = Problem(
        upper,
        lower_gradient,
        lower_step,
        strong_convexity=_convexity(problem.K, params, problem.learned),
        precondition=precondition,
    )
    gamma = bilevel.weights(problem, params)
    return Posed(posed, Measured(truth, f), gamma, problem.K.adjoint(f))


def dense(model: models.Model, params: Params, truth: Array, f: Array) -> Posed:
    """Bilevel learning of A and b of a tied model, [REB] (21), with the mean squared error.

    truth: [images, pixels], f: as `models.measure` gives it. The lower-level step is
    `params["tau"]`, as in [REB]: gradient descent contracts only where it is below 2 / L with
    L = lam ||K||^2 + gamma Lip(sigma) ||A||^2.
    Raises: ValueError for an untied model, whose lower level minimises nothing, and for images that
    are not finite, where they are known, or not measured by K.
    """
    if "C" in params or not model.tied:
        raise ValueError(
            "an untied model (a DEQ, params has 'C'): its fixed point minimises no lower-level "
            "cost, so that upper-level algorithms do not apply; take model 'bilevel'"
        )
    _check_images(model.K, truth, f, model.shape)
    _check_params(params, ("A", "b", "phi", "tau", "lam", "gamma"))
    stationarity = maps.stationarity(model.K, model.N)

    def upper(gamma: Gamma, x: Array, data: Measured) -> Float[Array, ""]:
        return losses.mean_squared_error(x, data.truth)

    def lower_gradient(x: Array, gamma: Gamma, data: Measured) -> Array:
        return stationarity(x, params | gamma, data.f)

    learned = ("A", "b")
    posed = Problem(
        upper,
        lower_gradient,
        lambda gamma: params["tau"],
        strong_convexity=_convexity(model.K, params, learned),
    )
    gamma = {name: params[name] for name in learned}
    return Posed(posed, Measured(truth, f), gamma, model.start(f))


def _check_params(params: Any, needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if not isinstance(params, dict) or name not in params]
    if missing:
        raise ValueError(f"params: without {', '.join(missing)}; expected {', '.join(needed)}")
    finite("params", params)
    scalars = {"tau": POSITIVE, "lam": real(least=0), "gamma": real(least=0)}
    require(scalars, params)


def _check_images(K: Operator, truth: Array, f: Array, shape: tuple[int, int]) -> None:
    rows("truth", truth, math.prod(shape))
    finite("truth", truth)
    finite("f", f)
    measured = jax.eval_shape(K.apply, truth).shape
    if f.shape != measured:
        raise ValueError(f"f {f.shape}: expected {measured}, as K gives it of truth {truth.shape}")


def _convexity(K: Operator, params: Params, learned: tuple[str, ...]) -> Any:
    """mu = lam where K is the identity and the regulariser convex, None where no bound is known."""
    known = isinstance(K, Identity) and params["phi"].convex and "lam" not in learned
    return params["lam"] if known else None
