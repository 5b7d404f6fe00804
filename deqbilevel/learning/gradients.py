"""The hypergradient on images of one shape, through the solver or at the minimiser."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import hypergradients, operators
from deqbilevel.learning.base import Learner, weights_of
from deqbilevel.learning.evaluation import mean_loss
from deqbilevel.models import Model
from deqbilevel.settings import MINIMISER, Setting
from deqbilevel.types import At, Images, Info, Params


class Found(NamedTuple):
    """What a step knows of images of one shape."""

    loss: Float[Array, ""]
    gradient: Params
    u: Images
    v: Images | None
    info: Info
    adjoint: Info


class Measured(NamedTuple):
    """Images and their measurement, or the key of one that the learned operator takes."""

    truth: Images
    f: Any
    key: Any = None

    def by(self, model: Model, params: Params) -> Array:
        """The measurement at these params."""
        if self.key is None:
            return self.f
        own = model._replace(K=operators.of(model.K, params))
        return own.measure(params, self.truth, self.key)


def hypergradient(
    learner: Learner,
    model: Model,
    setting: Setting,
    params: Params,
    budget: Any,
    images: Measured,
    u: Images | None = None,
    v: Images | None = None,
) -> Found:
    """The loss of the reconstructions and its gradient in the learned entries of `params`.

    u, v: where the lower level and the adjoint system start; None: at `model.start(f)` and 0.
    """
    way = _at_minimiser if setting.hypergradient == MINIMISER else _through_solver
    if u is None:
        u = model.start(images.by(model, params))
    return way(learner, model, setting, params, budget, images, u, v)


def _through_solver(
    learner: Learner,
    model: Model,
    setting: Setting,
    params: Params,
    budget: Any,
    images: Measured,
    u: Images,
    v: Images | None,
) -> Found:
    """By one of `hypergradients.METHODS`; v is left alone."""
    solve, params = model.solve(
        params, setting.differentiable(budget), preconditioned=setting.preconditioned
    )

    def upper_level(weights: Params, probe: Any) -> tuple[Array, Any]:
        at = params | weights
        found, info = solve(at, images.by(model, at), u, probe)
        return mean_loss(learner.loss, found, images.truth, at), (found, info)

    derivative = jax.value_and_grad(upper_level, (0, 1), has_aux=True)
    (loss, (found, info)), (gradient, adjoint) = derivative(
        weights_of(learner, params), hypergradients.no_info(u.dtype)
    )
    return Found(loss, gradient, found, v, info, adjoint)


def _at_minimiser(
    learner: Learner,
    model: Model,
    setting: Setting,
    params: Params,
    budget: Any,
    images: Measured,
    u: Images,
    v: Images | None,
) -> Found:
    """By (4.8), from u and v.

    The gradient is zero, and v starts anew, where the adjoint's residual is above 1, that of v = 0:
    there the Hessian is indefinite or singular, and the direction would be worse than none.
    """
    model.require(params)
    params = model.completed(params)
    solver, F = setting.forward(budget), model.stationarity()
    at = At(model.G, params, images.by(model, params))
    u, info = solver(at, u)
    weights = weights_of(learner, params)
    loss, (g, direct) = jax.value_and_grad(
        lambda u, weights: mean_loss(learner.loss, u, images.truth, params | weights), (0, 1)
    )(u, weights)
    free = at(u) > 0 if model.nonnegative else None
    gradient, v, adjoint = hypergradients.minimiser(
        lambda u, params, images: F(u, params, images.by(model, params)),
        weights,
        params,
        images,
        u,
        g,
        jnp.zeros_like(u) if v is None else v,
        tolerance=setting.adjoint_tolerance,
        max_evaluations=budget.adjoint,
        precondition=model.preconditioner(u, params),
        free=free,
    )
    usable = adjoint.residual <= 1
    gradient = jax.tree.map(jnp.add, gradient, direct)
    gradient, v = jax.tree.map(lambda x: jnp.where(usable, x, 0), (gradient, v))
    return Found(loss, gradient, u, v, info, adjoint)
