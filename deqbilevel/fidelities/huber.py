"""Huber's function of the residual, for noise of which a part is large."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.fidelities.base import Data, Fidelity, normal

LARGER = 10.0
"""How many times the noise of the others an outlier has."""


def huber(*, threshold: float = 0.1, outliers: float = 0.1) -> Fidelity:
    """D(v; f) = sum h(|v - f|), with h(d) = d^2 / 2 up to the threshold t and t d - t^2 / 2 beyond.

    t: on the scale of values; 1.345 times the noise is usual, with which a mean of normal noise
    loses 5 % of its efficiency (Huber, Ann. Math. Statist. 35, 1964). Its noise is the contaminated
    normal one of that paper: noise N(0, 1), of which each number by itself has `LARGER` times as
    much with the probability `outliers`. The proximal map is (v + a f) / (1 + a) up to
    |v - f| = t (1 + a), and v moved by a t towards f beyond. Complex data: by modulus.

    Raises: ValueError for a threshold of 0 or less, and outliers that are no part of the whole.

    >>> D = fidelities.huber(threshold=1.0)
    >>> v, f = jnp.array([[1.0, 5.0]]), jnp.zeros((1, 2))
    >>> print(D.value(v, f), D.gradient(v, f))  # 1/2 + (5 - 1/2)
    [5.] [[1. 1.]]
    """
    t = float(checks.one("threshold", threshold, above=0))
    part = float(checks.one("outliers", outliers, least=0, most=1))

    def value(v: Data, f: Data) -> Float[Array, " batch"]:
        # The square of what is cut off at t, and not of |d|, whose derivative at 0 is not known.
        inside, d = _size(v - f, t)
        return jnp.sum(jnp.where(inside, 0.5 * jnp.abs(v - f) ** 2, t * d - t**2 / 2), axis=-1)

    def gradient(v: Data, f: Data) -> Data:
        inside, d = _size(v - f, t)
        return (v - f) * jnp.where(inside, 1, t / d)

    def hessian(v: Data, f: Data, x: Data) -> Data:
        inside, d = _size(v - f, t)
        way = (v - f) / d
        across = x - way * jnp.real(jnp.conj(way) * x)
        return jnp.where(inside, x, t / d * across)

    def proximal(v: Data, f: Data, a: Any) -> Data:
        a = checks.number("a", a, least=0)
        inside, d = _size(v - f, t * (1 + a))
        return v - a * (v - f) * jnp.where(inside, 1 / (1 + a), t / d)

    def measure(v: Data, noise: Any, key: PRNGKeyArray) -> Data:
        normal_key, chosen = jax.random.split(checks.key("key", key))
        size = jnp.where(jax.random.bernoulli(chosen, part, v.shape), LARGER, 1.0)
        return v + (normal(v, noise, normal_key) - v) * size.astype(v.dtype)

    return Fidelity(value, gradient, hessian, 1.0, measure, proximal)


def _size(d: Data, t: Any) -> tuple[Array, Array]:
    """Whether |d| <= t, and |d| where it is not, with 1 elsewhere."""
    square = jnp.real(d) ** 2 + jnp.imag(d) ** 2
    inside = square <= t**2
    return inside, jnp.sqrt(jnp.where(inside, 1, square))
