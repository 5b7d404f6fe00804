r"""An implicit forward model, [CF] (4.7): data y is the solution of an elliptic equation of second
order, and what stands in the equation is the image,

$$ -\mathrm{div}(a \nabla y) = q, \qquad y = 0 \text{ outside.} $$

`Elliptic`: the image is the source q, and a = 1, so that y is linear in it. `Diffusion`: the image
is the logarithm of the diffusion coefficient a, and q is known; y is not linear in it, and has its
derivative by the adjoint state.

Finite volumes, a pixel each: between two neighbours flows the harmonic mean of their a times the
difference of their y, to the outside a times y. An image of one row or one column has the equation
in 1-D. The unit of length is such that the least eigenvalue of the discrete -div grad is 1.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.checks import number, pixels
from deqbilevel.operators.base import Pullback, sized
from deqbilevel.types import pytree

SOLVED = 1e-3
"""The relative error of y, about, beyond which it is not a number."""


@pytree
@dataclass(frozen=True)
class Elliptic:
    """K u = the solution y of -div grad y = u, with ||K|| = 1: its inverse is diagonal in sines.

    Raises: ValueError for a shape of a single pixel, images of another size, and a negative a of
    the resolvent.

    >>> K = operators.Elliptic((1, 3))
    >>> print(K.apply(jnp.array([[0.0, 1.0, 0.0]])).round(3), K.bound())
    [[0.293 0.586 0.293]] 1.0
    """

    shape: tuple[int, int] = field(metadata={"static": True})

    def __post_init__(self) -> None:
        _check_shape(self.shape)

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self._multiplied(u, _unit(self.shape) / _squares(self.shape))

    def adjoint(self, v: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self.apply(v)

    def bound(self) -> float:
        return 1.0

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        power = (_unit(self.shape) / _squares(self.shape)) ** 2
        return self._multiplied(z, 1 / (1 + number("a", a, least=0) * power))

    def _multiplied(self, u: Float[Array, "*batch pixels"], factors: Any) -> Array:
        """u with its coefficients of sines multiplied."""
        rows, columns = (jnp.asarray(_sines(n), u.dtype) for n in self.shape)
        images = sized("images", u, pixels(self.shape)).reshape(-1, *self.shape)
        coefficients = jnp.asarray(factors, u.dtype) * (rows @ images @ columns)
        return (rows @ coefficients @ columns).reshape(u.shape)


@pytree
@dataclass(frozen=True)
class Diffusion:
    """K(u) = the solution y of -div(e^u grad y) = q: not linear, see `operators.pullback`.

    It is found by conjugate gradients with the inverse for e^u = 1 as their preconditioner, so that
    their number grows with the contrast of e^u and not with that of pixels; where they fail, y is
    not a number. Derivatives are solutions of such a system, as exact: with p, the adjoint state,
    K'(u)^T v = -e^u grad y . grad p where -div(e^u grad p) = v.
    Raises: ValueError for a shape of a single pixel, a source that is not finite, zero or of other
    pixels, and images of another size.

    >>> K = operators.Diffusion(jnp.ones(3), (1, 3))
    >>> print((K.apply(jnp.zeros((1, 3))) / K.apply(jnp.ones((1, 3)))).round(3))  # e
    [[2.718 2.718 2.718]]
    """

    source: Float[Array, "*lanes pixels"]
    shape: tuple[int, int] = field(metadata={"static": True})

    def __post_init__(self) -> None:
        _check_shape(self.shape)
        sized("source", checks.number("source", self.source), pixels(self.shape))
        if not checks.traced(self.source) and not np.any(self.source):
            raise ValueError("source: zero everywhere, and so is y; expected a source somewhere")

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        images = sized("u", u, pixels(self.shape)).reshape(-1, *self.shape)
        q = jnp.asarray(self.source, u.dtype).reshape(self.shape)
        return jax.vmap(lambda image: _solution(jnp.exp(image), q))(images).reshape(u.shape)

    def pullback(self, u: Float[Array, "*batch pixels"]) -> Pullback:
        y, pull = jax.vjp(self.apply, u)
        return y, lambda v: pull(v)[0]

    def adjoint(self, v: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        """K'(0)^T v."""
        return self.pullback(jnp.zeros_like(v))[1](v)

    def bound(self) -> Float[Array, ""]:
        """Of ||K'(0)||: a pixel moves what flows through its sides, half of it inside the image,
        and no more than that reaches y."""
        y = Elliptic(self.shape).apply(self.source).reshape(self.shape)
        moved = jnp.zeros(())
        for axis in _axes(self.shape):
            sides = jnp.moveaxis(jnp.diff(jnp.pad(y, _margin(axis)), axis=axis), axis, 0) ** 2
            sides = (sides / 2).at[jnp.array([0, -1])].mul(2)
            moved = moved + jnp.moveaxis(sides[:-1] + sides[1:], 0, axis)
        return jnp.sqrt(jnp.max(moved) / _unit(self.shape))


def elliptic(shape: tuple[int, int]) -> Elliptic:
    """`Elliptic` for images of a shape: the source of an elliptic equation from its solution.

    Raises: ValueError for a shape of a single pixel.

    >>> K = operators.elliptic((2, 2))  # one sine is even on four pixels
    >>> print(K.apply(jnp.ones((1, 4))))
    [[1. 1. 1. 1.]]
    """
    return Elliptic(shape)


def diffusion(shape: tuple[int, int], source: Float[Array, " pixels"] | None = None) -> Diffusion:
    """`Diffusion` for images of a shape: the coefficient of an elliptic equation from its solution.

    source: q of each pixel; None: 1 everywhere.
    Raises: ValueError as `Diffusion` does.

    >>> K = operators.diffusion((4, 4))
    >>> y, back = K.pullback(jnp.zeros((1, 16)))  # e^u up, and y goes down
    >>> print(bool(jnp.all(y > 0)), bool(jnp.all(back(jnp.ones((1, 16))) < 0)))
    True True
    """
    _check_shape(shape)
    return Diffusion(jnp.ones(pixels(shape)) if source is None else source, shape)


def _check_shape(shape: Any) -> None:
    """Raises ValueError for a shape that is none of an image, or of a single pixel."""
    if pixels(shape) == 1:
        raise ValueError("shape=(1, 1): an equation between pixels; expected two or more")


def _sines(n: int) -> Float[np.ndarray, "n n"]:
    """The sines that vanish beside n pixels, symmetric and orthogonal."""
    k = np.arange(1, n + 1)
    return np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(k, k) / (n + 1))


def _squares(shape: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """The eigenvalues of -div grad, in units of pixels; along one pixel, without neighbours, 0."""
    waves = (np.pi * np.arange(1, n + 1) / (n + 1) if n > 1 else np.zeros(1) for n in shape)
    return np.add.outer(*(2 - 2 * np.cos(wave) for wave in waves))


def _unit(shape: tuple[int, int]) -> float:
    """The least of them, in our units 1."""
    return float(_squares(shape).min())


def _axes(shape: tuple[int, int]) -> list[int]:
    """Those along which a pixel has neighbours."""
    return [axis for axis, n in enumerate(shape) if n > 1]


def _margin(axis: int) -> tuple[tuple[int, int], ...]:
    """One pixel at both ends of an axis."""
    return ((0, 0), (1, 1)) if axis else ((1, 1), (0, 0))


@jax.jit  # once for all calls that are not compiled
def _solution(
    a: Float[Array, "height width"], q: Float[Array, "height width"]
) -> Float[Array, "height width"]:
    """y with -div(a grad y) = q, differentiable in both."""
    shape = a.shape[0], a.shape[1]
    sides = {axis: _between(a, axis) for axis in _axes(shape)}

    def system(y: Array) -> Array:
        total = jnp.zeros_like(y)
        for axis, mean in sides.items():
            flux = mean * jnp.diff(jnp.pad(y, _margin(axis)), axis=axis)
            total = total - jnp.diff(flux, axis=axis)
        return total / _unit(shape)

    def even(r: Array) -> Array:
        return Elliptic(shape).apply(r.reshape(-1)).reshape(shape)

    y, _ = cg(system, q, tol=float(jnp.finfo(q.dtype).eps), M=even)
    left = q - system(jax.lax.stop_gradient(y))
    error, size = (jnp.linalg.norm(even(jax.lax.stop_gradient(r))) for r in (left, q))
    return jnp.where(error <= SOLVED * size, y, jnp.nan)


def _between(a: Float[Array, "height width"], axis: int) -> Array:
    """The harmonic mean of a at the sides of pixels along an axis, at the border a itself."""
    first, last, above, below = (
        jax.lax.slice_in_dim(a, *part, axis=axis)
        for part in ((0, 1), (-1, None), (0, -1), (1, None))
    )
    return jnp.concatenate([first, 2 / (1 / above + 1 / below), last], axis=axis)
