"""Convolutional analysis operator learning, unrolled, [CF] 7.1: the network of Chun and Fessler
(IEEE Image, Video, and Multidimensional Signal Processing Workshop, 2018),

    z_t = sum_k D_kt' soft(C_kt u_t, theta_kt),
    u_{t+1} = argmin_u 1/2 ||K u - f||^2 + mu_t/2 ||u - z_t||^2

that is a denoiser of thresholded filters and then the data, in turns. The filters C encode and D
decode; D starts as C, with which and theta = 0 z is u: the filters start as a tight frame.

`params["layers"]` holds `encoders`, `decoders`: [T, filters, rows, columns], `log_theta`:
[T, filters] and `log_mu`: [T].
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from deqbilevel import checks, models, operators
from deqbilevel.convolutions import Boundary, bank
from deqbilevel.operators import Operator
from deqbilevel.operators.base import require_linear
from deqbilevel.regularizers.bases import cosines
from deqbilevel.types import Images, Params
from deqbilevel.unrolled.base import LAYERS, Unrolled, repeated
from deqbilevel.unrolled.shrinking import soft


def analysis_network(
    K: Operator,
    shape: tuple[int, int],
    *,
    size: int = 5,
    iterations: int = 10,
    theta: float = 0.02,
    mu: float = 1.0,
    boundary: Boundary = "circular",
) -> Unrolled:
    """T iterations from K' f, with the size^2 cosine filters, constant included, divided by size.

    theta, mu: at the start. The step on the data is `operators.resolvent`, which is exact.
    Raises: ValueError for numbers of 0 or less, filters that are larger than the image, and a K
    that is not linear.

    >>> net = unrolled.analysis_network(operators.identity((4, 4)), (4, 4), size=2, theta=1e-9)
    >>> f = jnp.arange(16.0)[None]
    >>> print(bool(jnp.allclose(net.reconstruct(net.init(jax.random.key(0)), f), f, atol=1e-4)))
    True
    """
    checks.whole("iterations", iterations)
    checks.whole("size", size, least=2, most=min(shape))
    checks.number("theta", theta, above=0)
    checks.number("mu", mu, above=0)
    require_linear("analysis_network", K)
    filters = bank(shape, boundary)

    def init(key: PRNGKeyArray) -> dict[str, Any]:
        checks.key("key", key)
        constant = jnp.full((1, size, size), 1 / size)
        c = jnp.concatenate([constant, jnp.asarray(cosines(size, size), float)]) / size
        layers = {
            "encoders": c,
            "decoders": c,
            "log_theta": jnp.full(len(c), jnp.log(theta)),
            "log_mu": jnp.log(mu),
        }
        return {LAYERS: repeated(layers, iterations)}

    def start(params: Params, f: Array) -> Images:
        return K.adjoint(f)

    def layer(u: Images, at: Params, f: Array) -> Images:
        own, mu = operators.of(K, at), jnp.exp(at["log_mu"])
        theta = jnp.exp(at["log_theta"])[:, None, None, None]
        z = filters.adjoint(at["decoders"], soft(filters.apply(at["encoders"], u), theta))
        lam = models.with_scalars(at)["lam"] / mu
        return operators.resolvent(own, z + lam * own.adjoint(f), lam)

    return Unrolled(K, shape, init, (LAYERS,), start, layer, lambda u, params: u)
