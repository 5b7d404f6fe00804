"""The discrete cosine transform, in which the differences of an image are diagonal.

grad^T grad, with no difference beyond the border, is multiplication by `laplacian` there.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.scipy.fft import dctn, idctn
from jaxtyping import Array, Float

from deqbilevel import operators
from deqbilevel.operators import Identity, Operator
from deqbilevel.types import pytree

PROBES = 16
"""Random images, by which a diagonal is estimated."""
LEAST = 0.02
"""Of its largest entry, below which none is trusted."""

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


@pytree
@dataclass(frozen=True)
class Multiplier:
    """The operator that multiplies the transform of an image, its own adjoint."""

    symbol: Symbol

    def apply(self, u: Float[Array, "batch pixels"]) -> Float[Array, "batch pixels"]:
        return multiplied(self.symbol, u)

    adjoint = apply


def majorant(K: Operator, shape: tuple[int, int]) -> Float[Array, "height width"]:
    """D >= K^T K, a multiplier: about the diagonal of K^T K among cosines, times ||K D^(-1/2)||^2.

    ||K||^2 is one too, and far too large at most frequencies where K smooths, as tomography does.
    The diagonal is the mean of v C K^T K C^T v over random signs v, with the transform C, and the
    norm that of `operators.norm`, which is to a percent.

    >>> D = variational.cosines.majorant(operators.Mask(jnp.array([2.0, 2.0])), (1, 2))
    >>> print(D.round(3))
    [[4. 4.]]
    """
    if isinstance(K, Identity):
        return jnp.ones(shape)
    signs = jax.random.rademacher(jax.random.key(0), (PROBES, shape[0] * shape[1]), float)
    images = idctn(signs.reshape(-1, *shape), axes=(1, 2), norm="ortho").reshape(signs.shape)
    seen = K.adjoint(K.apply(images)).reshape(-1, *shape)
    spectra = dctn(seen, axes=(1, 2), norm="ortho")
    diagonal = jnp.mean(signs.reshape(spectra.shape) * spectra, axis=0)
    diagonal = jnp.maximum(diagonal, LEAST * jnp.max(diagonal))
    scaled = operators.compose(K, Multiplier(jnp.sqrt(inverse(diagonal[None]))))
    return diagonal * operators.norm(scaled, signs.shape[1]) ** 2
