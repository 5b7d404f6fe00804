"""The hypergradient on images of one shape, through the solver or at the minimiser."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import hypergradients, operators
from deqbilevel.learning import knowing
from deqbilevel.learning.base import Learner, weights_of
from deqbilevel.losses import Known, Loss
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

    def known(self, model: Model, params: Params) -> Known:
        """With the measurement at these params."""
        if self.key is None:
            return knowing.known(model, params, self.truth, self.f)
        own = model._replace(K=operators.of(model.K, params))
        return knowing.known(model, params, self.truth, own.measure(params, self.truth, self.key))

    def rows(self, loss: Loss, model: Model, params: Params) -> Array:
        """All that is reconstructed, see `knowing.rows`."""
        return knowing.rows(loss, self.known(model, params))


def hypergradient(
    learner: Learner,
    model: Model,
    setting: Setting,
    params: Params,
    budget: Any,
    images: Measured,
    u: Float[Array, "images *further pixels"] | None = None,
    v: Float[Array, "images *further pixels"] | None = None,
) -> Found:
    """The loss of the reconstructions and its gradient in the learned entries of `params`, of the
    loss itself too.

    u, v: where the lower level and the adjoint system start, of everything that is reconstructed
    (see `knowing.rows`); None: at `model.start` and 0.
    """
    way = _at_minimiser if setting.hypergradient == MINIMISER else _through_solver
    if u is None:
        u = model.start(images.rows(learner.loss, model, model.completed(params)))
    pixels = u.shape[-1]
    u, v = u.reshape(-1, pixels), v if v is None else v.reshape(-1, pixels)
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
        known = images.known(model, at)
        found, info = solve(at, knowing.rows(learner.loss, known), u, probe)
        return knowing.value(learner.loss, found, known), (found, info)

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
    rows = images.rows(learner.loss, model, params)
    told = model.told(params, rows)
    at = At(model.G, told, rows)
    u, info = solver(at, u)
    free = at(u) > 0 if model.nonnegative else None
    weights = weights_of(learner, params)

    def upper_level(u: Images, weights: Params) -> Array:
        return knowing.value(learner.loss, u, images.known(model, params | weights))

    loss, (g, direct) = jax.value_and_grad(upper_level, (0, 1))(u, weights)
    gradient, v, adjoint = hypergradients.minimiser(
        lambda u, params, images: F(u, params, images.rows(learner.loss, model, params)),
        weights,
        params,
        images,
        u,
        g,
        jnp.zeros_like(u) if v is None else v,
        tolerance=setting.adjoint_tolerance,
        max_evaluations=budget.adjoint,
        precondition=model.preconditioner(u, told),
        free=free,
    )
    usable = adjoint.residual <= 1
    gradient = jax.tree.map(jnp.add, gradient, direct)
    gradient, v = jax.tree.map(lambda x: jnp.where(usable, x, 0), (gradient, v))
    return Found(loss, gradient, u, v, info, adjoint)
