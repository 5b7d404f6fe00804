r"""Samples of images from exp(-Phi / T): what a learned cost leaves open, [CF] 7.5.

    v = u - h grad Phi(u) / T + sqrt(2 h) xi,    xi standard normal

The unadjusted algorithm takes every v. Its law is that of exp(-Phi / T) up to an error of order h:
of a Gaussian, where Phi / T has the curvature a, the variance is 1 / (a (1 - h a / 2)). The
adjusted algorithm takes v with the probability of Metropolis, and has no such error, but needs the
smaller steps the more pixels there are. With Phi = ||K u - f||^2 / 2 + R(u) and noise in f of the
standard deviation sigma, T = sigma^2 makes it the posterior of u.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.types import FixedPointMap, Images, Params

Chain = tuple[Images, Images, Array]
"""u, grad Phi / T there, and Phi / T of each image, 0 where it is not needed."""


class Samples(NamedTuple):
    """What came of the chains, one in each row."""

    mean: Images
    deviation: Images
    """Of each pixel, along the chain: the standard deviation."""
    accepted: Float[Array, " batch"]
    """The part of the proposals that was taken; 1 without adjustment."""
    last: Images


def transition(
    gradient: FixedPointMap,
    params: Params,
    f: Any,
    *,
    step: Any,
    temperature: Any = 1.0,
    energy: Callable[[Images, Params, Any], Float[Array, " batch"]] | None = None,
) -> tuple[Callable[[Images], Chain], Callable[[Chain, Array], tuple[Chain, Array]]]:
    """(images -> where a chain begins, (chain, key) -> (chain, whether each proposal was taken)).

    The arguments are those of `sample`.

    >>> u = jnp.zeros((1, 1))
    >>> begin, move = langevin.transition(lambda u, params, f: u - f, {}, 3.0, step=1e-9)
    >>> (v, _, _), taken = move(begin(u), jax.random.key(0))
    >>> print(v.round(2) + 0, taken)
    [[0.]] [1.]
    """

    def slope(u: Images) -> Images:
        return gradient(u, params, f) / temperature

    def cost(u: Images) -> Array:
        return jnp.zeros(len(u)) if energy is None else energy(u, params, f) / temperature

    def begin(u: Images) -> Chain:
        return u, slope(u), cost(u)

    def move(chain: Chain, key: Array) -> tuple[Chain, Array]:
        u, g, phi = chain
        noise, draw = jax.random.split(key)
        v = u - step * g + jnp.sqrt(2 * step) * jax.random.normal(noise, u.shape, u.dtype)
        g_v, phi_v = slope(v), cost(v)
        if energy is None:
            return (v, g_v, phi_v), jnp.ones(len(u))
        # log of q(u | v) / q(v | u), the densities of the way back and of the way there.
        back, there = (jnp.sum(d**2, axis=1) for d in (u - v + step * g_v, v - u + step * g))
        ratio = phi - phi_v + (there - back) / (4 * step)
        taken = jnp.log(jax.random.uniform(draw, (len(u),))) < ratio
        rows = taken[:, None]
        kept = jnp.where(rows, v, u), jnp.where(rows, g_v, g), jnp.where(taken, phi_v, phi)
        return kept, taken.astype(u.dtype)

    return begin, move


def sample(
    gradient: FixedPointMap,
    params: Params,
    f: Any,
    start: Images,
    key: PRNGKeyArray,
    *,
    step: Any,
    temperature: Any = 1.0,
    burn_in: int,
    steps: int,
    energy: Callable[[Images, Params, Any], Float[Array, " batch"]] | None = None,
) -> Samples:
    """The moments of as many steps after the first `burn_in`.

    gradient: (u, params, f) -> grad Phi, as `Model.stationarity()` is; energy: Phi of each image,
    as `Model.energy`, for the adjusted algorithm; None: unadjusted. step: the h above: with the
    Lipschitz constant L of grad Phi at most T / L, and when adjusted about T / (L N^(1/3)) for N
    pixels.
    Raises: ValueError for a step or a temperature that is not above 0, and counts below 1.

    >>> slope = lambda u, params, f: (u - f) / params["variance"]  # of a Gaussian of mean f
    >>> u, key = jnp.zeros((100, 1)), jax.random.key(0)
    >>> options = {"step": 0.4, "burn_in": 50, "steps": 2000}
    >>> found = langevin.sample(slope, {"variance": 4.0}, 3.0, u, key, **options)
    >>> print(found.mean.mean().round(1), found.deviation.mean().round(1))
    3.0 2.0
    """
    for name, value in {"step": step, "temperature": temperature}.items():
        checks.one(name, value, above=0)
    checks.whole("burn_in", burn_in)
    checks.whole("steps", steps)
    checks.batch(start=start)

    begin, move = transition(gradient, params, f, step=step, temperature=temperature, energy=energy)

    def measured(carry: Any, at: tuple[Array, Array]) -> tuple[Any, None]:
        chain, mean, squares, accepted = carry
        key, count = at
        chain, taken = move(chain, key)
        # Welford's update, as sums of squares cancel.
        away = chain[0] - mean
        mean = mean + away / count
        return (chain, mean, squares + away * (chain[0] - mean), accepted + taken), None

    first, second = jax.random.split(checks.key("key", key))
    chain, _ = jax.lax.scan(move, begin(start), jax.random.split(first, burn_in))
    zeros = jnp.zeros_like(start)
    counts = jnp.arange(1, steps + 1, dtype=start.dtype)
    carry = (chain, zeros, zeros, jnp.zeros(len(start), start.dtype))
    carry, _ = jax.lax.scan(measured, carry, (jax.random.split(second, steps), counts))
    chain, mean, squares, accepted = carry
    return Samples(mean, jnp.sqrt(squares / steps), accepted / steps, chain[0])
