"""Analysis operators of differences: total variation, and its kin of second order.

Differences are to the next pixel, and there is none beyond the border. The symmetrised derivative E
is taken where all that it needs exists, so that it vanishes on the gradient of every affine image;
it is kept as a full 2 x 2 matrix, and so its off-diagonal counts twice in either norm.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks, operators
from deqbilevel.variational import cosines
from deqbilevel.variational.base import Analysis, Terms, Unknowns
from deqbilevel.variational.cosines import Symbol, laplacian

Shape = tuple[int, int]


@lru_cache
def total_variation(shape: Shape, together: bool = True) -> Analysis:
    """R(u) = w ||grad u||, zero on constants. together: isotropic, else anisotropic.

    >>> R = variational.total_variation((2, 2), together=False)
    >>> print(R.value(jnp.array([[0.0, 1.0, 2.0, 3.0]]), (1.0,)))
    [6.]
    """
    checks.pixels(shape)

    def apply(x: Unknowns) -> Terms:
        return (_gradient(x, shape),)

    def symbol(sigma: tuple[Any, ...]) -> Symbol:
        return sigma[0] * laplacian(shape)[None]

    return Analysis(shape, checks.pixels(shape), apply, (8**0.5,), together, symbol)


@lru_cache
def generalised_variation(shape: Shape, together: bool = True) -> Analysis:
    """TGV of second order, R(u) = min_z w_1 ||grad u - z|| + w_2 ||E z||, zero on affine images.

    The unknowns are u and z, which has two components at each pixel. [CF] 6.1.

    >>> R, ramp = variational.generalised_variation((1, 4)), jnp.arange(4.0)
    >>> slope = jnp.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    >>> print(R.value(jnp.concatenate((ramp, slope))[None], (1.0, 2.0)))
    [0.]
    """
    n = checks.pixels(shape)

    def apply(x: Unknowns) -> Terms:
        z = x[:, n:].reshape(-1, 2, n)
        return _gradient(x[:, :n], shape) - z, _symmetrised(z, shape)

    def balanced(d: Terms) -> Terms:
        return _transposed_symmetrised(d[1], shape), d[1]

    def symbol(sigma: tuple[Any, ...]) -> Symbol:
        """||a - b||^2 <= 2 ||a||^2 + 2 ||b||^2, and ||E z|| <= ||D z||."""
        L = laplacian(shape)
        of_z = 2 * sigma[0] + sigma[1] * L
        return jnp.stack((2 * sigma[0] * L, of_z, of_z))

    return Analysis(shape, 3 * n, apply, (3.0, 8**0.5), together, symbol, balanced)


@lru_cache
def infimal_convolution(shape: Shape, together: bool = True) -> Analysis:
    """ICTV, R(u) = min_v w_1 ||grad (u - v)|| + w_2 ||grad^2 v||, zero on affine images.

    The unknowns are u and v. As only differences of v occur, its mean stays that of where a solver
    starts: 0. [CF] 6.1.

    >>> R, ramp = variational.infimal_convolution((1, 4)), jnp.arange(4.0)
    >>> print(R.value(jnp.concatenate((ramp, ramp - 1.5))[None], (1.0, 2.0)))
    [0.]
    """
    n = checks.pixels(shape)

    def apply(x: Unknowns) -> Terms:
        u, v = x[:, :n], x[:, n:]
        return _gradient(u - v, shape), _symmetrised(_gradient(v, shape), shape)

    def balanced(d: Terms) -> Terms:
        """The first term gets the divergence of E^T d_2, by the gradient that takes least."""
        inverse = cosines.inverse(cosines.laplacian(shape)[None])
        missing = operators.difference(shape).adjoint(
            (_transposed_symmetrised(d[1], shape) - d[0]).reshape(len(d[0]), -1)
        )
        return d[0] + _gradient(cosines.multiplied(inverse, missing), shape), d[1]

    def symbol(sigma: tuple[Any, ...]) -> Symbol:
        """Likewise, and ||grad^2 v|| <= ||grad^T grad v||."""
        L = laplacian(shape)
        return jnp.stack((2 * sigma[0] * L, 2 * sigma[0] * L + sigma[1] * L**2))

    return Analysis(shape, 2 * n, apply, (4.0, 8.0), together, symbol, balanced)


def _gradient(u: Unknowns, shape: Shape) -> Float[Array, "batch 2 pixels"]:
    """To the pixel below, and to that on the right."""
    return operators.difference(shape).apply(u).reshape(len(u), 2, -1)


def _symmetrised(z: Float[Array, "batch 2 pixels"], shape: Shape) -> Float[Array, "batch 4 pixels"]:
    """E z = (D z + (D z)^T) / 2."""
    z = z.reshape(-1, 2, *shape)
    down, right = z[:, 0, :-1], z[:, 1, :, :-1]  # where differences of an image exist
    mixed = (down[:, :, 1:] - down[:, :, :-1] + right[:, 1:] - right[:, :-1]) / 2
    rows = (down[:, 1:] - down[:, :-1], mixed, mixed, right[:, :, 1:] - right[:, :, :-1])
    return jnp.stack([_filled(e, shape) for e in rows], axis=1)


def _transposed_symmetrised(
    d: Float[Array, "batch 4 pixels"], shape: Shape
) -> Float[Array, "batch 2 pixels"]:
    """E^T d."""
    form = jax.ShapeDtypeStruct((len(d), 2, d.shape[2]), d.dtype)
    return jax.linear_transpose(lambda z: _symmetrised(z, shape), form)(d)[0]


def _filled(e: Array, shape: Shape) -> Float[Array, "batch pixels"]:
    """Zeros below and on the right of it."""
    margins = [(0, n - m) for n, m in zip(shape, e.shape[1:], strict=True)]
    return jnp.pad(e, ((0, 0), *margins)).reshape(len(e), -1)
