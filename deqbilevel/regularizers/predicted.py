"""A field of weights that a small network predicts from the measurement of each image, [CF] 7.5.

    f -> K^T f -> filters -> mean squares around each point -> logarithms -> two layers -> the field

The network reads how much of each pattern there is about a point, and says by how much the weights
are raised or lowered there: e^{field}, with |field| <= `BOUND`, so that a step size is known before
any image is. Between points the field is interpolated, see `weighted.varied`: it is smooth by
construction. The points are `spacing` pixels apart whatever the size of the image, and the network
is the same at all of them. At first the field is 0.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.types import Images, Params

BOUND = 2.0
"""Of |field|: weights change by a factor of at most e^2."""

FLOOR = 1e-3
"""Added to mean squares before their logarithm."""


class Network(nn.Module):
    """[batch, height, width, 1] -> the field, [batch, rows, columns]."""

    points: tuple[int, int]
    channels: int = 8
    size: int = 5

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width 1"]
    ) -> Float[Array, "batch rows columns"]:
        z = nn.Conv(self.channels, (self.size, self.size), padding="CIRCULAR", use_bias=False)(x)
        around = jax.image.resize(
            z**2, (len(x), *self.points, self.channels), "linear", antialias=True
        )
        y = jnp.tanh(nn.Dense(self.channels)(jnp.log(FLOOR + around)))
        return BOUND * jnp.tanh(nn.Dense(1, kernel_init=nn.initializers.zeros)(y))[..., 0]


def network(shape: tuple[int, int], spacing: int) -> Network:
    """That of images of a shape. Raises: ValueError for a spacing that is none.

    >>> own = regularizers.predicted.network((20, 12), spacing=8)
    >>> print(own.points)
    (3, 2)
    """
    checks.whole("predicted_field", spacing)
    rows, columns = (-(-n // spacing) for n in shape)
    return Network((rows, columns))


def init(key: PRNGKeyArray, shape: tuple[int, int], spacing: int) -> dict[str, Any]:
    """Weights to start with, in the default precision.

    >>> weights = regularizers.predicted.init(jax.random.key(0), (8, 8), spacing=4)
    >>> print({name: layer["kernel"].shape for name, layer in weights.items()})
    {'Conv_0': (5, 5, 1, 8), 'Dense_0': (8, 8), 'Dense_1': (8, 1)}
    """
    weights = network(shape, spacing).init(key, jnp.zeros((1, *shape, 1)))["params"]
    return jax.tree.map(lambda x: jnp.asarray(x, float), dict(weights))


def told(params: Params, x: Images, shape: tuple[int, int], spacing: int) -> Params:
    """`params` with the `field` that the network of `params["network"]` says of pictures x; a field
    that is there already stands.

    >>> weights = regularizers.predicted.init(jax.random.key(0), (8, 8), spacing=4)
    >>> params = regularizers.predicted.told({"network": weights}, jnp.ones((1, 64)), (8, 8), 4)
    >>> print(params["field"])
    [[[0. 0.]
      [0. 0.]]]
    """
    if "field" in params:
        return params
    weights = {"params": params["network"]}
    return params | {"field": network(shape, spacing).apply(weights, x.reshape(-1, *shape, 1))}
