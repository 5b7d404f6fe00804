"""The state before the first step, with the lower levels of a warm run."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import checks, precision
from deqbilevel.learning import knowing
from deqbilevel.learning.base import Learner, State, check, groups, weights_of
from deqbilevel.models import Model
from deqbilevel.settings import MINIMISER, Setting
from deqbilevel.types import At, Images, Params


def start(learner: Learner, params: Params, f: Any = None, *, evaluations: int = 0) -> State:
    """The state before the first step.

    f: the measurements, which a warm run starts from: its lower level at `model.start(f)`, and its
    adjoint at 0. evaluations: as many are spent at most on solving the lower level of each image
    beforehand, as in [CF] D; from far away a hypergradient may be none, and a non-convex cost have
    an indefinite Hessian.
    Raises: ValueError for parts that do not go together, see `check`.
    """
    check(learner, params)
    for model in learner.models:
        model.require(params)
    checks.whole("evaluations", evaluations, least=0)
    setting = learner.setting
    (params,) = precision.as_weights({"learning_rate": setting.learning_rate} | params)
    params = jax.tree.map(jnp.copy, params)  # the state's buffers will be donated
    weights = weights_of(learner, params)
    u = v = None
    if setting.warm:
        if f is None:
            raise ValueError("f: none; a warm lower level starts from the measurements")
        for model, x in zip(learner.models, groups(f), strict=True):
            model.check(x)
        _, *fs = precision.as_weights(params, *groups(f))
        rows = [
            knowing.rows(learner.loss, knowing.known(model, params, None, x))
            for model, x in zip(learner.models, fs, strict=True)
        ]
        u = tuple(model.start(x) for model, x in zip(learner.models, rows, strict=True))
        if evaluations:
            at = precision.at(setting.precision, partial(_solved, setting, evaluations, params))
            u = tuple(at(m, x, w) for m, x, w in zip(learner.models, rows, u, strict=True))
        u = tuple(
            w if len(w) == len(x) else w.reshape(len(x), -1, w.shape[-1])
            for w, x in zip(u, fs, strict=True)
        )
        u = jax.tree.map(jnp.copy, u)
        v = jax.tree.map(jnp.zeros_like, u) if setting.hypergradient == MINIMISER else None
    return State(
        params,
        learner.optimiser(params, jnp.int32(0)).init(weights),
        jnp.int32(0),
        jax.tree.map(jnp.int32, setting.budget),
        jnp.array(False),
        jax.tree.map(jnp.copy, weights) if setting.guard is not None else None,
        u,
        v,
    )


def _solved(
    setting: Setting, evaluations: int, params: Params, model: Model, f: Array, u: Images
) -> Images:
    """The lower level of one image after the other, so that memory does not grow with them."""
    solver = setting.forward(setting.budget._replace(forward=evaluations))
    params = model.completed(params)

    def of_image(pair: tuple[Array, Array]) -> Array:
        return solver(At(model.G, params, pair[0][None]), pair[1][None])[0][0]

    return jax.lax.map(of_image, (f, u))
