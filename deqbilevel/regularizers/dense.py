"""The dense analysis regulariser of [REB] 3.2, DESIGN (2) with one matrix pair,

    N(u) = C^T sigma(A u + b),    sigma = phi'    (19)

Tied (C = A) it is the gradient (21) of R(u) = 1' phi(A u + b), the Moreau-Yosida energy (20)
composed with an affine map, and gives bilevel learning (14); untied it is not a gradient in
general, and gives a DEQ (18).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.types import Params


def init(
    key: PRNGKeyArray, pixels: int, *, tied: bool, features: int | None = None
) -> dict[str, Array]:
    """A: [features, pixels], b: [features] and, if untied, C: [features, pixels].

    Every entry is uniform on (-1/sqrt(pixels), 1/sqrt(pixels)), A and C drawn independently, as
    in [REB]'s published settings; the same key gives tied and untied regularisers the same A, b.
    Raises: ValueError for fewer than one pixel or feature.
    """
    checks.whole("pixels", pixels)
    features = pixels if features is None else checks.whole("features", features)
    keys = jax.random.split(key, 3)
    bound = pixels**-0.5

    def uniform(key: PRNGKeyArray, *shape: int) -> Array:
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    weights = {"A": uniform(keys[0], features, pixels), "b": uniform(keys[1], features)}
    return weights if tied else weights | {"C": uniform(keys[2], features, pixels)}


def gradient(u: Float[Array, "batch pixels"], params: Params) -> Float[Array, "batch pixels"]:
    """C^T sigma(A u + b), with C = A where `params` holds no C: (19), and (21) without C."""
    features = params["phi"].derivative(u @ params["A"].T + params["b"])
    return features @ params.get("C", params["A"])


def energy(u: Float[Array, "batch pixels"], params: Params) -> Float[Array, " batch"]:
    """R(u) = 1' phi(A u + b) of each image. (20)

    Raises: ValueError if the regulariser is untied, because it then has no energy.
    """
    if "C" in params:
        raise ValueError(
            "an untied regulariser (params has 'C') is not the gradient of an energy in general; "
            "drop 'C' from params for the tied one"
        )
    return jnp.sum(params["phi"].value(u @ params["A"].T + params["b"]), axis=-1)
