"""Diagonal operators: the identity, and masks for inpainting."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.checks import number, pixels, whole
from deqbilevel.operators.base import sized
from deqbilevel.types import pytree


@pytree
@dataclass(frozen=True)
class Identity:
    """K u = u: denoising.

    Raises: ValueError for a negative a of the resolvent.

    >>> K = operators.Identity()
    >>> print(K.resolvent(jnp.array([[3.0, 6.0]]), 2.0))  # z / (1 + a)
    [[1. 2.]]
    """

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return u

    def adjoint(self, v: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return v

    def bound(self) -> float:
        return 1.0

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        return z / (1 + number("a", a, least=0))


@pytree
@dataclass(frozen=True)
class Mask:
    """K u = mask * u, a diagonal operator with entries 0 (missing) and 1 (kept): inpainting.

    Raises: ValueError for images of another size.

    >>> K = operators.Mask(jnp.array([1.0, 0.0]))
    >>> print(K.apply(jnp.array([[3.0, 5.0]])), K.resolvent(jnp.array([[3.0, 5.0]]), 2.0))
    [[3. 0.]] [[1. 5.]]
    """

    mask: Float[Array, "*lanes pixels"]

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self.mask * sized("u", u, self.mask.shape[-1])

    def adjoint(self, v: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self.mask * sized("v", v, self.mask.shape[-1])

    def bound(self) -> Float[Array, "*lanes"]:
        return jnp.max(jnp.abs(self.mask), axis=-1)

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        a = number("a", a, least=0)
        return sized("z", z, self.mask.shape[-1]) / (1 + a * self.mask**2)


def row_mask(shape: tuple[int, int], missing: int) -> Mask:
    """The mask that removes the top `missing` rows of an image.

    Raises: ValueError if no row or every row would be missing.

    >>> K = operators.row_mask((3, 2), missing=1)
    >>> print(K.mask.reshape(3, 2))
    [[0. 0.]
     [1. 1.]
     [1. 1.]]
    """
    pixels(shape)
    if isinstance(missing, bool) or missing not in range(1, shape[0]):
        raise ValueError(
            f"missing={missing}: expected between 1 and {shape[0] - 1} rows of an image of "
            f"{shape[0]} rows; choose a smaller mask or a larger image"
        )
    mask = np.ones(shape, np.float32)
    mask[:missing] = 0
    return Mask(jnp.asarray(mask.ravel()))


def identity(shape: tuple[int, int]) -> Identity:
    """The images as they are: denoising.

    >>> K = operators.identity((1, 2))
    >>> print(K.apply(jnp.array([[3.0, 5.0]])))
    [[3. 5.]]
    """
    return Identity()


def upper_mask(shape: tuple[int, int], part: float = 1 / 3) -> Mask:
    """`row_mask` without the upper part of the rows, rounded up: a third in [REB] 3.3.2.

    Raises: ValueError for a part that leaves no row, or takes none.

    >>> K = operators.upper_mask((4, 1))  # a third of four rows, rounded up
    >>> print(K.mask)
    [0. 0. 1. 1.]
    """
    pixels(shape)
    # Rounded, so that a third of 27 rows is 9 of them and not 10.
    return row_mask(shape, int(np.ceil(round(checks.number("part", part) * shape[0], 6))))


def pixel_mask(shape: tuple[int, int], rate: float = 0.5, seed: int = 0) -> Mask:
    """The mask that keeps the part `rate` of the pixels, drawn by a seed: inpainting of single
    pixels.

    Raises: ValueError for a rate that is not in (0, 1] or keeps no pixel, and a seed that is none.

    >>> K = operators.pixel_mask((4, 4), rate=0.25)
    >>> print(K.mask.sum())
    4.0
    """
    count = round(checks.number("rate", rate, above=0, most=1) * pixels(shape))
    if count < 1:
        raise ValueError(f"rate={rate}: keeps none of {pixels(shape)} pixels; take a larger rate")
    whole("seed", seed, least=0, most=2**32 - 1)
    mask = np.zeros(pixels(shape), np.float32)
    mask[np.random.default_rng(seed).permutation(len(mask))[:count]] = 1
    return Mask(jnp.asarray(mask))
