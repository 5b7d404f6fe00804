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
    Raises: ValueError for fewer than one pixel or feature, and what is no key.
    """
    key = checks.key("key", key)
    checks.whole("pixels", pixels)
    checks.switch("tied", tied)
    features = pixels if features is None else checks.whole("features", features)
    keys = jax.random.split(key, 3)
    bound = pixels**-0.5

    def uniform(key: PRNGKeyArray, *shape: int) -> Array:
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    weights = {"A": uniform(keys[0], features, pixels), "b": uniform(keys[1], features)}
    return weights if tied else weights | {"C": uniform(keys[2], features, pixels)}


def gradient(u: Float[Array, "batch pixels"], params: Params) -> Float[Array, "batch pixels"]:
    """C^T sigma(A u + b), with C = A where `params` holds no C: (19), and (21) without C."""
    features = _analysed(u, params)
    return params["phi"].derivative(features) @ params.get("C", params["A"])


def energy(u: Float[Array, "batch pixels"], params: Params) -> Float[Array, " batch"]:
    """R(u) = 1' phi(A u + b) of each image. (20)

    Raises: ValueError if the regulariser is untied, because it then has no energy.
    """
    if "C" in params:
        raise ValueError(
            "an untied regulariser (params has 'C') is not the gradient of an energy in general; "
            "drop 'C' from params for the tied one"
        )
    features = _analysed(u, params)
    return jnp.sum(params["phi"].value(features), axis=-1)


def _analysed(u: Float[Array, "batch pixels"], params: Params) -> Float[Array, "batch features"]:
    """A u + b. Raises: ValueError for params without these, or of images of another size."""
    checks.entries("params", params, ("A", "b", "phi"))
    A, b = params["A"], params["b"]
    if A.shape[-1:] != u.shape[-1:] or b.shape != A.shape[:1]:
        raise ValueError(
            f"A {list(A.shape)} and b {list(b.shape)}: expected [features, {u.shape[-1]}] and "
            f"[features] for u {list(u.shape)}"
        )
    return u @ A.T + b
