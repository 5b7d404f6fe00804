"""What a data fidelity is to everything above: one record of pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, PRNGKeyArray

from deqbilevel import checks

Data = Inexact[Array, "#batch data"]
"""One measurement may stand for all images of a batch."""


def anything(f: Data) -> None:
    """`Fidelity.check` of measurements that may be any finite numbers."""


class Fidelity(NamedTuple):
    """A data fidelity as pure functions, smooth and convex in v.

    >>> u, f = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 5.0]])
    >>> squares = fidelities.FIDELITIES["squares"]()
    >>> print(squares.value(u, f), squares.gradient(u, f), squares.proximal(u, f, 2.0))
    [4.5] [[ 0. -3.]] [[1. 4.]]
    """

    value: Callable[[Data, Data], Float[Array, " batch"]]
    """(v, f) -> D(v; f) of each image."""
    gradient: Callable[[Data, Data], Data]
    """(v, f) -> its gradient in v; of complex v so that a step against it is one of descent."""
    hessian: Callable[[Data, Data, Data], Data]
    """(v, f, x) -> D''(v; f) x, of complex data linear over the real numbers."""
    curvature: float
    """sup D'' over v and f: the gradient is Lipschitz continuous in v with this constant."""
    measure: Callable[[Data, Any, PRNGKeyArray], Data]
    """(v, noise, key) -> a measurement of v, drawn by the key."""
    proximal: Callable[[Data, Data, Any], Data] | None = None
    """(v, f, a) -> argmin_x a D(x; f) + 1/2 ||x - v||^2, where it has a closed form."""
    counts: bool = False
    """Whether measurements are counts: their noise follows from v, so that `noise` is 0, v is not
    negative, and a measurement has no derivative in v."""
    deviance: Callable[[Data, Data], Data] | None = None
    """(v, f) -> 2 log p(f; f) / p(f; v) of each number f, with their probability p: in the mean
    about 1, as the squared residual is in units of its variance. Of counts."""
    check: Callable[[Data], None] = anything
    """Raises ValueError for an f that is no such measurement; what is traced is not looked at."""


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
    checks.one("noise", noise, least=0)
    key = checks.key("key", key)
    if not jnp.iscomplexobj(v):
        return v + noise * jax.random.normal(key, v.shape, v.dtype)
    # JAX's complex normal numbers have variance 1/2 in either part.
    return v + noise * 2**0.5 * jax.random.normal(key, v.shape, v.dtype)
