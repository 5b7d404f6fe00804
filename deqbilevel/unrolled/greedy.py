"""Greedy training: one iteration after the other, each by the loss of its own image, [CF] 7.1.

    params = net.init(key)
    for t in range(T):
        model = unrolled.stage(net)
        own = unrolled.stage_params(params, t)          # learn `layers` of these by the learner
        params = unrolled.after_stage(params, t, learned)

Trainable nonlinear reaction diffusion was learned so, and then jointly from there. What iterations
share stays as it is meanwhile: of a tied algorithm only its steps are learned.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import checks
from deqbilevel.types import Params
from deqbilevel.unrolled.base import LAYERS, Unrolled, iterations, shared

BEFORE = "before"
"""The entry of `params` with the iterations that are learned already."""


def stage(net: Unrolled) -> Unrolled:
    """The algorithm of `stage_params`: the iterations before, and one that is learned.

    >>> net = unrolled.gradient(operators.identity((1, 2)), regularizers.dense.dense((1, 2)))
    >>> print(unrolled.stage(net).learned)
    ('layers',)
    """

    def start(params: Params, f: Array) -> object:
        own = {name: x for name, x in params.items() if name != BEFORE}
        state, before = net.start(own, f), jax.lax.stop_gradient(params[BEFORE])
        if not len(jax.tree.leaves(before)[0]):
            return state
        top = shared(own)

        def body(state: object, at: Params) -> tuple[object, None]:
            return net.layer(state, top | at, f), None

        return jax.lax.scan(body, state, before)[0]

    def layer(state: object, at: Params, f: Array) -> object:
        return net.layer(state, {name: x for name, x in at.items() if name != BEFORE}, f)

    def init(key: Array) -> Params:
        return stage_params(net.init(key), 0)

    return net._replace(init=init, learned=(LAYERS,), start=start, layer=layer)


def stage_params(params: Params, t: int) -> Params:
    """The params of the stage of iteration t, from 0.

    Raises: ValueError for an iteration that params have not.

    >>> params = {"layers": {"log_step": jnp.array([1.0, 2.0, 3.0])}}
    >>> own = unrolled.stage_params(params, 1)
    >>> print(own["before"]["log_step"], own["layers"]["log_step"])
    [1.] [2.]
    """
    checks.whole("t", t, least=0, most=iterations(params) - 1)
    layers = params[LAYERS]
    return shared(params) | {
        BEFORE: jax.tree.map(lambda x: x[:t], layers),
        LAYERS: jax.tree.map(lambda x: x[t : t + 1], layers),
    }


def after_stage(params: Params, t: int, learned: Params) -> Params:
    """All iterations with what a stage learned of iteration t, from which the later ones start.

    >>> params = {"layers": {"log_step": jnp.array([1.0, 2.0, 3.0])}}
    >>> learned = {"layers": {"log_step": jnp.array([5.0])}}
    >>> print(unrolled.after_stage(params, 1, learned)["layers"]["log_step"])
    [1. 5. 5.]
    """
    count = iterations(params)
    checks.whole("t", t, least=0, most=count - 1)

    def put(x: Array, new: Array) -> Array:
        return jnp.where(jnp.arange(count).reshape(-1, *(1,) * (x.ndim - 1)) < t, x, new)

    return params | {LAYERS: jax.tree.map(put, params[LAYERS], learned[LAYERS])}
