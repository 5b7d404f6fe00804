"""The price lambda of a sample while a sampling is learned, so that as many are taken as asked for.

A weight s_i gains -d loss / d s_i and costs lambda (2 - 2 s_i) / weights, the slope of the penalty
of [CF] (6.3). The price is the quantile of gain over cost at which just a part of the weights gains
more than it costs: these rise and all others fall, whatever else is learned beside them and however
small all gains become. It is the asked part, less by as much as the mean of s is above it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

LEAST_COST = 1e-3
"""Of (2 - 2 s_i), which is zero where s_i = 1."""


class Priced(NamedTuple):
    """What the next step needs."""

    count: Int[Array, ""]
    gains: Float[Array, "height columns"]
    """Running mean of what each weight gains."""
    price: Float[Array, ""]
    """lambda of the last step."""


def priced(
    part: Callable[[Int[Array, ""]], Array], decay: float
) -> optax.GradientTransformationExtraArgs:
    """Adds the cost of the samples to the gradient in `K`, ahead of an optimiser.

    part: step -> what the mean of s is to be; decay: of the running mean of gains.

    >>> from experiments.sampling import masks
    >>> K = masks.Sampled(jnp.full((2, 2), 0.5), (2, 2), False)
    >>> slopes = {"K": masks.Sampled(jnp.array([[-8.0, -1.0], [-2.0, -4.0]]), (2, 2), False)}
    >>> transformation = priced(lambda step: jnp.asarray(0.5), 0.9)
    >>> updates, _ = transformation.update(slopes, transformation.init({"K": K}), {"K": K})
    >>> print(jnp.sign(-updates["K"].weights))  # the two of the largest gains rise
    [[ 1. -1.]
     [-1.  1.]]
    """

    def init(params: Any) -> Priced:
        weights = params["K"].weights
        return Priced(jnp.int32(0), jnp.zeros_like(weights), jnp.zeros((), weights.dtype))

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, Priced]:
        s = params["K"].weights
        count = state.count + 1
        mean = decay * state.gains - (1 - decay) * updates["K"].weights
        cost = (2 - 2 * s) / s.size
        worth = mean / (1 - decay**count) / jnp.maximum(cost, LEAST_COST / s.size)
        rising = jnp.clip(2 * part(state.count) - jnp.mean(s), 0, 1)
        price = jnp.maximum(jnp.quantile(worth, 1 - rising), 0)
        charged = jax.tree.map(lambda slope: slope + price * cost, updates["K"])
        return updates | {"K": charged}, Priced(count, mean, price)

    return optax.GradientTransformationExtraArgs(init, update)
