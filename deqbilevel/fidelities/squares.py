"""Half the squared distance, for normal noise."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.fidelities.base import Data, Fidelity, normal


def _squared_distance(v: Data, f: Data) -> Float[Array, " batch"]:
    return 0.5 * jnp.sum(jnp.abs(v - f) ** 2, axis=-1)


def _difference(v: Data, f: Data) -> Data:
    return v - f


def _same(v: Data, f: Data, x: Data) -> Data:
    return x


def _between(v: Data, f: Data, a: Any) -> Data:
    return (v + a * f) / (1 + checks.number("a", a, least=0))


squares = Fidelity(_squared_distance, _difference, _same, 1.0, normal, _between)
"""1/2 ||v - f||^2, with the proximal map (v + a f) / (1 + a)."""
