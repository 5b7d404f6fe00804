"""Operators made of others: one after the other, or their data side by side; and differences."""

from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from deqbilevel import checks
from deqbilevel.checks import pixels
from deqbilevel.operators.base import known_bound, require, sized
from deqbilevel.operators.blurs import CONVOLUTIONS
from deqbilevel.types import pytree


@pytree
@dataclass(frozen=True)
class Composition:
    """K u = K_1 K_2 ... u, the last of `parts` applied first; all but the first make real data.

    >>> blur = operators.circular_convolution(np.array([[0.5, 0.5]]), (1, 4))
    >>> K = operators.compose(operators.Mask(jnp.array([1.0, 0.0, 0.0, 1.0])), blur)
    >>> print(K.apply(jnp.array([[0.0, 0.0, 0.0, 8.0]])))  # blurred, then masked
    [[0. 0. 0. 4.]]
    """

    parts: tuple[Any, ...]

    def apply(self, u: Float[Array, "*batch pixels"]) -> Inexact[Array, "*batch data"]:
        return reduce(lambda x, K: K.apply(x), reversed(self.parts), u)

    def adjoint(self, v: Inexact[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        return reduce(lambda x, K: K.adjoint(x), self.parts, v)

    def bound(self) -> Any:
        """The product of those of the parts."""
        bounds = _bounds(self.parts)
        return None if bounds is None else jnp.prod(bounds)


def compose(*parts: Any) -> Composition:
    """The operators one after the other, the last one first, as in K_1 K_2 u.

    Raises: ValueError for less than one, and for what is no operator.

    >>> K = operators.compose(operators.identity((1, 2)), operators.identity((1, 2)))
    >>> print(K.apply(jnp.array([[1.0, 2.0]])))
    [[1. 2.]]
    """
    return Composition(_operators(parts))


@pytree
@dataclass(frozen=True)
class Stack:
    """K u = (K_1 u, K_2 u, ...): the data of several operators one after the other.

    Raises: ValueError for data of another size.

    >>> K = operators.stack((1, 2), operators.Identity(), operators.Mask(jnp.array([1.0, 0.0])))
    >>> print(K.apply(jnp.array([[3.0, 5.0]])), K.adjoint(jnp.array([[1.0, 1.0, 1.0, 1.0]])))
    [[3. 5. 3. 0.]] [[2. 1.]]
    """

    parts: tuple[Any, ...]
    sizes: tuple[int, ...] = field(metadata={"static": True})
    """Of their data."""

    def apply(self, u: Float[Array, "*batch pixels"]) -> Inexact[Array, "*batch data"]:
        return jnp.concatenate([K.apply(u) for K in self.parts], axis=-1)

    def adjoint(self, v: Inexact[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        ends = list(np.cumsum(self.sizes)[:-1])
        pieces = jnp.split(sized("v", v, sum(self.sizes)), ends, axis=-1)
        images = [K.adjoint(piece) for K, piece in zip(self.parts, pieces, strict=True)]
        return reduce(jnp.add, images)

    def bound(self) -> Any:
        """The root of the sum of squares of those of the parts."""
        bounds = _bounds(self.parts)
        return None if bounds is None else jnp.sqrt(jnp.sum(bounds**2))


def stack(shape: tuple[int, int], *parts: Any) -> Stack:
    """The data of operators on images of a shape, one after the other; all real, or all complex.

    Raises: ValueError for less than one, for what is no operator, and for real beside complex data.
    """
    image = jax.ShapeDtypeStruct((1, pixels(shape)), jnp.result_type(float))
    data = [jax.eval_shape(lambda u, K=K: K.apply(u), image) for K in _operators(parts)]
    kinds = {jnp.issubdtype(x.dtype, jnp.complexfloating) for x in data}
    if len(kinds) > 1:
        raise ValueError("parts: real beside complex data; stack operators of one kind")
    return Stack(tuple(parts), tuple(x.shape[-1] for x in data))


def _bounds(parts: tuple[Any, ...]) -> Float[Array, " parts"] | None:
    """Those of all parts, or None."""
    found = [known_bound(K) for K in parts]
    return None if any(x is None for x in found) else jnp.stack([jnp.asarray(x) for x in found])


def _operators(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    if not parts:
        raise ValueError("parts: none; give one operator or more")
    for i, K in enumerate(parts):
        require(f"parts[{i}]", K)
    return parts


def gaussian_blur(
    shape: tuple[int, int], sigma: float = 1.0, boundary: str = "circular"
) -> Composition:
    """Blur by a Gaussian of standard deviation `sigma` pixels, cut at three of them: along columns,
    then along rows.

    boundary: one of `CONVOLUTIONS`.
    Raises: ValueError for another boundary, and a sigma that is not above 0 or whose kernel is
    larger than the image.

    >>> K = operators.gaussian_blur((9, 9), sigma=1.0)
    >>> print(K.apply(jnp.ones((1, 81)))[0, 40].round(3))  # light is kept
    1.0
    """
    reach = int(np.ceil(3 * checks.number("sigma", sigma, above=0)))
    if 2 * reach + 1 > min(shape):
        raise ValueError(
            f"sigma={sigma}: a kernel of {2 * reach + 1} pixels, larger than the image of "
            f"{shape[0]}x{shape[1]}; take a smaller sigma"
        )
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    build = CONVOLUTIONS[boundary]
    return compose(build(kernel[:, None], shape), build(kernel[None], shape))
