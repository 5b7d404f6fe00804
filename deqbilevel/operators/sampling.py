"""Coarser images, for superresolution, and finite differences, as in total variation."""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel.checks import number, pixels, whole
from deqbilevel.operators.base import sized
from deqbilevel.types import pytree


@pytree
@dataclass(frozen=True)
class Downsampling:
    """K u = the means of blocks of factor x factor pixels: superresolution is its inverse.

    Raises: ValueError for images and data of another size.

    >>> K = operators.downsampling((2, 4), factor=2)
    >>> print(K.apply(jnp.array([[1.0, 3.0, 0.0, 0.0, 5.0, 7.0, 0.0, 8.0]])))
    [[4. 2.]]
    """

    factor: int = field(metadata={"static": True})
    shape: tuple[int, int] = field(metadata={"static": True})

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch data"]:
        height, width = self.shape
        n = self.factor
        blocks = sized("u", u, height * width).reshape(-1, height // n, n, width // n, n)
        return jnp.mean(blocks, axis=(2, 4)).reshape(*u.shape[:-1], -1)

    def adjoint(self, v: Float[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        n = self.factor
        height, width = (x // n for x in self.shape)
        blocks = sized("v", v, height * width).reshape(-1, height, 1, width, 1) / n**2
        spread = jnp.broadcast_to(blocks, (len(blocks), height, n, width, n))
        return spread.reshape(*v.shape[:-1], -1)

    def bound(self) -> float:
        return 1 / self.factor

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        """K K^T is I / factor^2, so that K^T K is that times a projection."""
        a = number("a", a, least=0)
        return z - a / (1 + a / self.factor**2) * self.adjoint(self.apply(z))


def downsampling(shape: tuple[int, int], factor: int = 2) -> Downsampling:
    """`Downsampling` of images of a shape.

    Raises: ValueError for a factor that does not divide height and width.
    """
    pixels(shape)
    if any(n % whole("factor", factor) for n in shape):
        raise ValueError(
            f"factor={factor}: does not divide {shape[0]}x{shape[1]}; crop the images, or take "
            "another"
        )
    return Downsampling(factor, shape)


@pytree
@dataclass(frozen=True)
class Difference:
    """K u = the differences to the pixel below, and to that on the right, 0 at the border.

    Raises: ValueError for images and data of another size.

    >>> K = operators.difference((2, 2))
    >>> print(K.apply(jnp.array([[1.0, 2.0, 4.0, 8.0]])).reshape(2, 2, 2))
    [[[3. 6.]
      [0. 0.]]
    <BLANKLINE>
     [[1. 0.]
      [4. 0.]]]
    """

    shape: tuple[int, int] = field(metadata={"static": True})

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch data"]:
        x = sized("u", u, self.shape[0] * self.shape[1]).reshape(-1, *self.shape)
        last = (x[:, -1:], x[:, :, -1:])
        both = [jnp.diff(x, axis=i + 1, append=last[i]).reshape(len(x), -1) for i in (0, 1)]
        return jnp.concatenate(both, axis=-1).reshape(*u.shape[:-1], -1)

    def adjoint(self, v: Float[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        """Minus the divergence."""
        height, width = self.shape
        x = sized("v", v, 2 * height * width).reshape(-1, 2, height, width)
        down, right = x[:, 0, :-1], x[:, 1, :, :-1]
        total = jnp.pad(down, ((0, 0), (1, 0), (0, 0))) - jnp.pad(down, ((0, 0), (0, 1), (0, 0)))
        total += jnp.pad(right, ((0, 0), (0, 0), (1, 0))) - jnp.pad(right, ((0, 0), (0, 0), (0, 1)))
        return total.reshape(*v.shape[:-1], -1)

    def bound(self) -> float:
        return 8**0.5


def difference(shape: tuple[int, int]) -> Difference:
    """`Difference` of images of a shape."""
    pixels(shape)
    return Difference(shape)
