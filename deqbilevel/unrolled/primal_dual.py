"""The learned primal-dual algorithm of Adler and Oktem (IEEE Trans. Med. Imaging 37, 2018):

    h_{t+1} = h_t + Gamma_t(h_t, K u_t^(2), f),    u_{t+1} = u_t + Lambda_t(u_t, K' h_{t+1}^(1))

u and h have `memory` channels, of which the second of u is measured and the first of h goes back;
the image is the first of u. Gamma_t and Lambda_t are three small convolutions with ReLUs between
them, the last of which starts at zero, so that the network starts at K' f.

`params["layers"]` holds `dual` and `primal`, each `layer_0` to `layer_2` with `kernel`: [T, size,
size, inputs, outputs] and `bias`: [T, outputs]. Data is looked at as pictures of `data_shape`.
"""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks, operators
from deqbilevel.convolutions.channels import convolve
from deqbilevel.operators import Operator
from deqbilevel.operators.base import require_linear
from deqbilevel.types import Params
from deqbilevel.unrolled.base import LAYERS, Unrolled

Channels = Float[Array, "batch height width channels"]
"""u or h, or what the convolutions make of them."""


def primal_dual(
    K: Operator,
    shape: tuple[int, int],
    *,
    iterations: int = 10,
    channels: int = 16,
    memory: int = 2,
    size: int = 3,
    data_shape: tuple[int, int] | None = None,
) -> Unrolled:
    """The network of so many iterations, each with weights of its own.

    channels: of the convolutions, of size x size; memory: of u and h, 2 or more; data_shape: None:
    that of the images, which data of another size have to be given.
    Raises: ValueError for counts that are none, data that are complex or no pictures of that
    shape, and a K that is not linear.

    >>> net = unrolled.primal_dual(operators.identity((4, 4)), (4, 4), iterations=2, channels=3)
    >>> f = jnp.ones((1, 16))
    >>> print(bool(jnp.all(net.reconstruct(net.init(jax.random.key(0)), f) == f)))  # K' f
    True
    """
    for name, count in (("iterations", iterations), ("channels", channels), ("size", size)):
        checks.whole(name, count)
    checks.whole("memory", memory, least=2)
    require_linear("primal_dual", K)
    of_data = shape if data_shape is None else data_shape
    pixels = checks.pixels(shape)
    data = jax.eval_shape(K.apply, jax.ShapeDtypeStruct((1, pixels), jnp.result_type(float)))
    if data.shape[1] != checks.pixels(of_data) or jnp.issubdtype(data.dtype, jnp.complexfloating):
        raise ValueError(
            f"data_shape={of_data}: K makes {data.dtype} of shape {list(data.shape[1:])}; expected "
            "real data that are pictures of that shape"
        )

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        def one(key: PRNGKeyArray) -> Params:
            keys = jax.random.split(key)
            dual = _weights(keys[0], (memory + 2, channels, channels, memory), size)
            primal = _weights(keys[1], (memory + 1, channels, channels, memory), size)
            return {"dual": dual, "primal": primal}

        return {LAYERS: jax.vmap(one)(jax.random.split(checks.key("key", key), iterations))}

    def start(params: Params, f: Array) -> tuple[Channels, Channels]:
        u = K.adjoint(f).reshape(-1, *shape, 1)
        h = jnp.zeros((len(f), *of_data, memory), f.dtype)
        return jnp.tile(u, (1, 1, 1, memory)), h

    def layer(state: tuple[Array, Array], at: Params, f: Array) -> tuple[Array, Array]:
        u, h = state
        own = operators.of(K, at)
        seen = own.apply(u[..., 1].reshape(len(f), -1))
        pictures = [x.reshape(-1, *of_data, 1) for x in (seen, f)]
        h = h + _network(at["dual"], jnp.concatenate([h, *pictures], axis=-1))
        back = own.adjoint(h[..., 0].reshape(len(f), -1)).reshape(-1, *shape, 1)
        return u + _network(at["primal"], jnp.concatenate([u, back], axis=-1)), h

    def image(state: tuple[Array, Array], params: Params) -> Array:
        u = state[0][..., 0]
        return u.reshape(len(u), -1)

    return Unrolled(K, shape, init, (LAYERS,), start, layer, image)


def _weights(key: PRNGKeyArray, channels: tuple[int, ...], size: int) -> Params:
    """Normal with variance 2 / inputs, the last convolution zero."""
    layers = {}
    last = len(channels) - 2
    for i, (inputs, outputs) in enumerate(pairwise(channels)):
        drawn = jax.random.normal(jax.random.fold_in(key, i), (size, size, inputs, outputs), float)
        scale = 0.0 if i == last else (2 / (size**2 * inputs)) ** 0.5
        layers[f"layer_{i}"] = {"kernel": scale * drawn, "bias": jnp.zeros(outputs)}
    return layers


def _network(weights: Params, x: Channels) -> Array:
    for i in range(len(weights)):
        own = weights[f"layer_{i}"]
        x = convolve(x if i == 0 else jax.nn.relu(x), own["kernel"]) + own["bias"]
    return x
