"""The learning problems of imaging for upper-level algorithms: any model whose regulariser has an
energy.

The rows of x are the images, and the leading axis of every leaf of the data, so that `minibatches`
takes some of them. What is not learned is a part of the problem, and not of the data.
"""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Inexact

from deqbilevel.algorithms.base import Data, Gamma, Posed, Problem
from deqbilevel.checks import finite, pixels, rows
from deqbilevel.fidelities import squares
from deqbilevel.losses import Supervised, mean_squared_error
from deqbilevel.models import Model, with_scalars
from deqbilevel.operators import Identity
from deqbilevel.rules import POSITIVE, Rule, real, require
from deqbilevel.types import Images, Params

SMOOTH = Rule(
    lambda phi: bool(phi.twice_differentiable), "a smooth potential, such as CornerRounded"
)


class Measured(NamedTuple):
    """True images and their measurements."""

    truth: Float[Array, "batch pixels"]
    f: Inexact[Array, "batch data"]


def posed(
    model: Model,
    params: Params,
    truth: Images,
    f: Array,
    *,
    learned: tuple[str, ...] | None = None,
    loss: Supervised = mean_squared_error,
    smooth: bool = True,
) -> Posed:
    """Learning entries of `params`, a dict gamma, by a loss of u* = argmin of the model's energy:

        l = loss(x, truth),    grad_x Phi = lam K^T D'(K x; f) + gamma N(x)

    truth: [images, pixels], f: [images, data]; x starts at `model.start(f)`. learned: None: what
    the regulariser names. The lower-level step is `params["tau"]`, or 1/L where there is none, and
    conjugate gradients have the model's preconditioner. smooth: whether a potential that is not
    twice differentiable is refused.
    Raises: ValueError for a DEQ, whose lower level minimises nothing, for a nonnegative model, for
    images that are not finite, where they are known, or not measured by K, for params that lack an
    entry or are of another model, and for a potential that is not smooth.

    >>> R = regularizers.REGULARIZERS["convolutional"]((2, 2), filters=(3, 2, 2))
    >>> model, u = models.assemble(operators.identity((2, 2)), R), jnp.ones((1, 4))
    >>> posed = algorithms.posed(model, R.init(jax.random.key(0)), u, u)
    >>> print(sorted(posed.gamma), posed.problem.strong_convexity)
    ['beta', 'filters'] 1.0
    """
    if not model.tied or ("C" in params and "C" not in model.R.learned):
        raise ValueError(
            "an untied model (a DEQ, params has 'C'): its fixed point minimises no lower-level "
            "cost, so that upper-level algorithms do not apply; take model 'bilevel'"
        )
    if model.nonnegative:
        raise ValueError(
            "a nonnegative model: upper-level algorithms step along the gradient of its cost and "
            "not within u >= 0; take learning.trainer, with hypergradient minimiser or gmres"
        )
    _check_images(model, truth, f)
    learned = model.R.learned if learned is None else learned
    _check_params(model, params, learned, smooth=smooth)
    params = with_scalars(params)
    stationarity = model.stationarity()

    def upper(gamma: Gamma, x: Array, data: Measured) -> Float[Array, ""]:
        return loss(x, data.truth)

    def lower_gradient(x: Array, gamma: Gamma, data: Measured) -> Array:
        return stationarity(x, params | gamma, data.f)

    def lower_step(gamma: Gamma) -> Array:
        return model.completed(params | gamma)["tau"]

    def precondition(x: Array, gamma: Gamma, data: Data) -> Any:
        return model.preconditioner(x, model.told(params | gamma, data.f))

    problem = Problem(
        upper,
        lower_gradient,
        lower_step,
        strong_convexity=_convexity(model, params, learned),
        precondition=precondition if model.R.preconditioner else None,
    )
    gamma = {name: params[name] for name in learned}
    return Posed(problem, Measured(truth, f), gamma, model.start(f))


def _check_params(model: Model, params: Any, learned: tuple[str, ...], *, smooth: bool) -> None:
    finite("params", params)
    model.require(params)
    given = with_scalars(params)
    missing = [name for name in learned if name not in given]
    if missing or not learned:
        raise ValueError(f"learned={learned}: {missing or 'none'} of params: {sorted(given)}")
    rules = {"lam": real(least=0), "gamma": real(least=0)}
    rules |= {"tau": POSITIVE} if "tau" in given else {}
    rules |= {"phi": SMOOTH} if smooth and "phi" in given else {}
    require(rules, given)


def _check_images(model: Model, truth: Array, f: Array) -> None:
    finite("truth", rows("truth", truth, pixels(model.shape)))
    finite("f", f)
    measured = jax.eval_shape(model.K.apply, truth).shape
    if f.shape != measured:
        raise ValueError(f"f {f.shape}: expected {measured}, as K gives it of truth {truth.shape}")


def _convexity(model: Model, params: Params, learned: tuple[str, ...]) -> Any:
    """mu = lam where K is the identity, D squares and R convex; None where no bound is known."""
    phi: Any = params.get("phi")
    convex = phi is not None and phi.convex
    known = isinstance(model.K, Identity) and convex and "lam" not in learned
    known &= model.D is squares
    return params["lam"] if known else None
