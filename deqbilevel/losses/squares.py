"""Losses of each pixel's error: squared, absolute, Huber's, and of its high frequencies."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.losses.base import Additive, Supervised, pair
from deqbilevel.types import Images


def mean_squared_error(u: Images, truth: Images) -> Float[Array, ""]:
    """1/(batch pixels) ||u - truth||^2, the upper-level loss of [REB] 4.

    >>> u, truth = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])
    >>> print(losses.mean_squared_error(u, truth))
    2.0
    """
    pair(u, truth)
    return jnp.mean((u - truth) ** 2)


def _half_squared_error(u: Images, truth: Images) -> Float[Array, ""]:
    pair(u, truth)
    return 0.5 * jnp.sum((u - truth) ** 2)


half_squared_error = Additive(_half_squared_error)
"""1/2 ||u - truth||^2, a sum over all images: [CF] (Ex)."""


def mean_absolute_error(u: Images, truth: Images) -> Float[Array, ""]:
    """1/(batch pixels) ||u - truth||_1, with the derivative 0 where both are equal.

    >>> print(losses.mean_absolute_error(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])))
    1.0
    """
    pair(u, truth)
    difference = u - truth
    return jnp.mean(jnp.sign(difference) * difference)


def negative_snr(u: Images, truth: Images) -> Float[Array, ""]:
    """The mean over the images of 10 log10(||u - truth||^2 / ||truth||^2), [CF] (3.2): dark images
    and those that are good already count as much as others. -PSNR of a fixed range differs from it
    by a number.

    >>> print(losses.negative_snr(jnp.array([[3.0, 4.1]]), jnp.array([[3.0, 4.0]])).round(2))
    -33.98
    """
    pair(u, truth)
    power, error = jnp.sum(truth**2, axis=-1), jnp.sum((u - truth) ** 2, axis=-1)
    # A perfect image would be infinitely good, with a derivative that is no number.
    least = jnp.finfo(u.dtype).eps ** 2 * power
    return 10 * jnp.mean(jnp.log10(jnp.maximum(error, least) / power))


def huber(shape: tuple[int, int], *, eps: float = 0.05) -> Supervised:
    """The mean of h(u - truth), [CF] 6.2 [12]:

        h(z) = z^2/(2 eps) where |z| <= eps, else |z| - eps/2

    Raises: ValueError for an eps that is not above 0.

    >>> loss = losses.huber((1, 2), eps=1.0)
    >>> print(loss(jnp.array([[0.0, 3.0]]), jnp.array([[1.0, 0.0]])))  # (1/2 + 5/2) / 2
    1.5
    """
    checks.pixels(shape)
    checks.number("eps", eps, above=0)

    def loss(u: Images, truth: Images) -> Float[Array, ""]:
        pair(u, truth)
        size = jnp.sign(u - truth) * (u - truth)
        # The square of what is above eps could overflow, and is not taken.
        near = jnp.minimum(size, eps)
        return jnp.mean(near**2 / (2 * eps) + size - near)

    return loss


def high_frequency_error(shape: tuple[int, int], *, sigma: float = 1.5) -> Supervised:
    """The mean square of h * (u - truth), with h the negative Laplacian of a Gaussian of standard
    deviation `sigma` pixels, [CF] 3.1: errors of edges and textures count, and of greys do not.

    The transfer function of h is |w|^2 exp(-sigma^2 |w|^2 / 2), over its largest value, so that no
    frequency counts more than in the mean squared error.
    Raises: ValueError for a sigma that is not above 0.

    >>> loss = losses.high_frequency_error((4, 4))
    >>> print(loss(jnp.ones((1, 16)), jnp.zeros((1, 16))))  # of greys alone
    0.0
    """
    checks.pixels(shape)
    checks.number("sigma", sigma, above=0)
    frequencies = np.meshgrid(*(2 * np.pi * np.fft.fftfreq(n) for n in shape), indexing="ij")
    power = frequencies[0] ** 2 + frequencies[1] ** 2
    # |w|^2 exp(-sigma^2 |w|^2 / 2) is largest, 2 / (e sigma^2), at |w|^2 = 2 / sigma^2.
    transfer = power * np.exp(-0.5 * sigma**2 * power) * (0.5 * np.e * sigma**2)

    def loss(u: Images, truth: Images) -> Float[Array, ""]:
        pair(u, truth)
        difference = checks.rows("u", u - truth, checks.pixels(shape)).reshape(-1, *shape)
        spectrum = jnp.asarray(transfer, u.dtype) * jnp.fft.fft2(difference, norm="ortho")
        return jnp.mean(jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2)

    return loss
