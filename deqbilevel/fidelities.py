"""Data fidelities D(v; f) of predicted data v = K u and the measurement f, with the noise that each
stands for.

    squares    1/2 ||v - f||^2, for f = v + noise N(0, 1), which of complex data has both parts
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.checks import Registry

Data = Inexact[Array, "#batch data"]
"""One measurement may stand for all images of a batch."""


class Fidelity(NamedTuple):
    """A data fidelity as pure functions, smooth and convex in v.

    >>> u, f = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 5.0]])
    >>> squares = fidelities.FIDELITIES["squares"]
    >>> print(squares.value(u, f), squares.gradient(u, f), squares.proximal(u, f, 2.0))
    [4.5] [[ 0. -3.]] [[1. 4.]]
    """

    value: Callable[[Data, Data], Float[Array, " batch"]]
    """(v, f) -> D(v; f) of each image."""
    gradient: Callable[[Data, Data], Data]
    """(v, f) -> its gradient in v; of complex v so that a step against it is one of descent."""
    curvature: float
    """sup D'': the gradient is Lipschitz continuous in v with this constant."""
    measure: Callable[[Data, Any, PRNGKeyArray], Data]
    """(v, noise, key) -> a measurement of v, drawn by the key."""
    proximal: Callable[[Data, Data, Any], Data] | None = None
    """(v, f, a) -> argmin_x a D(x; f) + 1/2 ||x - v||^2, where it has a closed form."""


def _squared_distance(v: Data, f: Data) -> Float[Array, " batch"]:
    return 0.5 * jnp.sum(jnp.abs(v - f) ** 2, axis=-1)


def _difference(v: Data, f: Data) -> Data:
    return v - f


def _between(v: Data, f: Data, a: Any) -> Data:
    return (v + a * f) / (1 + checks.number("a", a, least=0))


def normal(v: Data, noise: Any, key: PRNGKeyArray) -> Data:
    """v + noise N(0, 1), also where K is zero, as in [REB] 4; of complex v in both parts.

    Raises: ValueError for a negative or infinite noise or more numbers than one, what is no key,
    and data of whole numbers.

    >>> print(fidelities.normal(jnp.array([[1.0, 2.0]]), 0.0, jax.random.key(0)))  # without noise
    [[1. 2.]]
    >>> f = fidelities.normal(jnp.zeros((1, 10_000)), 0.5, jax.random.key(0))
    >>> print(round(float(jnp.std(f)), 1))
    0.5
    """
    if np.shape(checks.number("noise", noise, least=0)):
        raise ValueError(f"noise of shape {list(np.shape(noise))}: expected one number")
    key = checks.key("key", key)
    if not jnp.iscomplexobj(v):
        return v + noise * jax.random.normal(key, v.shape, v.dtype)
    # JAX's complex normal numbers have variance 1/2 in either part.
    return v + noise * 2**0.5 * jax.random.normal(key, v.shape, v.dtype)


squares = Fidelity(_squared_distance, _difference, 1.0, normal, _between)
"""1/2 ||v - f||^2, with the proximal map (v + a f) / (1 + a)."""

FIDELITIES: Registry[Fidelity] = Registry("fidelity", {"squares": squares})
"""Every data fidelity. The shared property tests walk this table."""
