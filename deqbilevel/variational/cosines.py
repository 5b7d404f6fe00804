"""The discrete cosine transform, in which the differences of an image are diagonal.

grad^T grad, with no difference beyond the border, is multiplication by `laplacian` there.
"""

import jax.numpy as jnp
from jax.scipy.fft import dctn, idctn
from jaxtyping import Array, Float

Symbol = Float[Array, "blocks height width"]
"""A multiplier for each of the images that the unknowns consist of."""


def laplacian(shape: tuple[int, int]) -> Float[Array, "height width"]:
    """The eigenvalues of grad^T grad, 0 first.

    >>> print(variational.cosines.laplacian((1, 2)))
    [[0. 2.]]
    """
    rows, columns = (4 * jnp.sin(jnp.pi * jnp.arange(n) / (2 * n)) ** 2 for n in shape)
    return rows[:, None] + columns


def multiplied(symbol: Symbol, x: Float[Array, "batch unknowns"]) -> Float[Array, "batch unknowns"]:
    """Each of the images in x, with its transform multiplied.

    >>> symbol = jnp.array([[[1.0, 0.0]]])  # the mean
    >>> print(variational.cosines.multiplied(symbol, jnp.array([[1.0, 3.0]])))
    [[2. 2.]]
    """
    images = x.reshape(-1, *symbol.shape)
    spectrum = symbol.astype(x.dtype) * dctn(images, axes=(2, 3), norm="ortho")
    return idctn(spectrum, axes=(2, 3), norm="ortho").reshape(x.shape)


def inverse(symbol: Symbol) -> Symbol:
    """1 / symbol, and 0 where that is 0.

    >>> print(variational.cosines.inverse(jnp.array([[[0.0, 4.0]]])))
    [[[0.   0.25]]]
    """
    return jnp.where(symbol > 0, 1 / jnp.where(symbol > 0, symbol, 1), 0)
