"""Convolutions, circular or with zeros outside: blurs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from deqbilevel.checks import Registry, number, pixels, whole
from deqbilevel.operators.base import sized
from deqbilevel.types import pytree


@dataclass(frozen=True)
class Convolution:
    """(K u)[x] = sum_j weights[j] u[x - offsets[j]]: deblurring. A subclass says what u is outside
    the image, and so what the resolvent is.

    The support (`offsets`, pairs of rows and columns) is static, so that a sparse kernel costs
    only its taps: shifted slices of a padded image, which XLA fuses into one loop.
    Raises: ValueError for images of another size.
    """

    weights: Float[Array, "*lanes taps"]
    offsets: tuple[tuple[int, int], ...] = field(metadata={"static": True})
    shape: tuple[int, int] = field(metadata={"static": True})

    padding: ClassVar[Literal["wrap", "constant"]]
    """The mode of `jnp.pad`; one with which K^T is the convolution at the opposite offsets."""

    def _convolve(
        self, u: Float[Array, "*batch pixels"], sign: int
    ) -> Float[Array, "*batch pixels"]:
        height, width = self.shape
        sized("images", u, height * width)
        reach = max(max(abs(i), abs(j)) for i, j in self.offsets)
        x = u.reshape(-1, height, width)
        x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach)), mode=self.padding)
        total = jnp.zeros((), u.dtype)
        for weight, (i, j) in zip(self.weights, self.offsets, strict=True):
            top, left = reach - sign * i, reach - sign * j
            total = total + weight * x[:, top : top + height, left : left + width]
        return total.reshape(u.shape)

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self._convolve(u, 1)

    def adjoint(self, v: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self._convolve(v, -1)

    def transfer(self, grid: tuple[int, int], dtype: Any) -> Complex[Array, "rows frequencies"]:
        """The transfer function of the circular convolution of images of a shape, as of `rfft2`."""
        rows, columns = np.array(self.offsets).T
        kernel = jnp.zeros(grid, dtype).at[rows, columns].add(self.weights)
        return jnp.fft.rfft2(kernel)


@pytree
@dataclass(frozen=True)
class CircularConvolution(Convolution):
    """A convolution with indices modulo the image's shape.

    Raises: ValueError for images of another size, and a negative a of the resolvent.

    >>> K = operators.CircularConvolution(jnp.array([0.5, 0.5]), ((0, 0), (0, 1)), (1, 4))
    >>> print(K.apply(jnp.array([[0.0, 0.0, 0.0, 8.0]])), K.bound())
    [[4. 0. 0. 4.]] 1.0
    """

    padding = "wrap"

    def bound(self) -> Float[Array, ""]:
        return jnp.max(jnp.abs(self.transfer(self.shape, self.weights.dtype)))

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        """Diagonal in the Fourier basis: K^T K has the eigenvalues |transfer function|^2."""
        number("a", a, least=0)
        power = jnp.abs(self.transfer(self.shape, z.dtype)) ** 2
        image = jnp.fft.rfft2(z.reshape(-1, *self.shape)) / (1 + a * power)
        return jnp.fft.irfft2(image, self.shape).astype(z.dtype).reshape(z.shape)


@pytree
@dataclass(frozen=True)
class ZeroPaddedConvolution(Convolution):
    """A convolution of images that are zero outside: light from there is lost, none comes in.

    >>> K = operators.ZeroPaddedConvolution(jnp.array([0.5, 0.5]), ((0, 0), (0, 1)), (1, 4))
    >>> print(K.apply(jnp.array([[0.0, 0.0, 0.0, 8.0]])))
    [[0. 0. 0. 4.]]
    """

    padding = "constant"

    def bound(self) -> Float[Array, ""]:
        """That of the circular convolution on a grid with a margin, of which this is a part."""
        reach = 2 * int(np.abs(np.array(self.offsets)).max())
        grid = (self.shape[0] + reach, self.shape[1] + reach)
        return jnp.max(jnp.abs(self.transfer(grid, self.weights.dtype)))


@pytree
@dataclass(frozen=True)
class PointSpread:
    """Circular convolution with a kernel of weights above 0 that sum to 1, softmax(logits): a blur
    that keeps the light, whatever is learned of it as `params["K"]`.

    Raises: ValueError for images of another size.

    >>> K = operators.PointSpread(jnp.zeros((1, 3)), (1, 4))
    >>> print(K.apply(jnp.array([[0.0, 3.0, 0.0, 0.0]])), K.bound())
    [[1. 1. 1. 0.]] 1.0
    """

    logits: Float[Array, "*lanes rows columns"]
    shape: tuple[int, int] = field(metadata={"static": True})

    @property
    def kernel(self) -> Float[Array, "*lanes rows columns"]:
        return jax.nn.softmax(self.logits, axis=(-2, -1))

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self._convolution().apply(u)

    def adjoint(self, v: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self._convolution().adjoint(v)

    def bound(self) -> Float[Array, ""]:
        """||K|| = 1, that of an even grey."""
        return jnp.ones((), self.logits.dtype)

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        return self._convolution().resolvent(z, a)

    def _convolution(self) -> CircularConvolution:
        rows, columns = self.logits.shape[-2:]
        offsets = tuple(
            (i - rows // 2, j - columns // 2) for i in range(rows) for j in range(columns)
        )
        return CircularConvolution(self.kernel.reshape(-1), offsets, self.shape)


def point_spread(shape: tuple[int, int], size: int = 5, sigma: float = 1.0) -> PointSpread:
    """A `PointSpread` of size x size pixels, at first a Gaussian of standard deviation `sigma`.

    Raises: ValueError for a size that the image does not hold, and a sigma that is not above 0.

    >>> K = operators.point_spread((5, 5), size=3)
    >>> print(K.kernel.sum().round(4), K.kernel.shape)
    1.0 (3, 3)
    """
    pixels(shape)
    whole("size", size, most=min(shape))
    number("sigma", sigma, above=0)
    y, x = np.mgrid[:size, :size] - size // 2
    return PointSpread(jnp.asarray(-(x**2 + y**2) / (2 * sigma**2), float), shape)


def circular_convolution(
    kernel: Float[np.ndarray, "height width"],
    shape: tuple[int, int],
    centre: tuple[int, int] | None = None,
) -> CircularConvolution:
    """Circular convolution of images of the given shape with a kernel h, [REB] 3.3.3,

        (K u)[x] = sum_j h[j] u[x - j + centre]

    It is the convolution of mathematics and of scipy, which spreads a bright pixel as h looks, and
    not the correlation that torch and jax call so. The centre is (height // 2, width // 2) unless
    given, the middle entry of a kernel of odd size, and the lower right of the middle four of one
    of even size, as in `convolutions`.

    Raises: ValueError if the kernel is empty, zero, not finite or larger than the image, or has its
    centre outside.

    >>> K = operators.circular_convolution(np.array([[1.0, 2.0, 3.0]]), (1, 4))
    >>> print(K.apply(jnp.array([[1.0, 0.0, 0.0, 0.0]])))  # the middle entry stays in place
    [[2. 3. 0. 1.]]
    """
    return CircularConvolution(*_taps(kernel, shape, centre), shape)


def zero_padded_convolution(
    kernel: Float[np.ndarray, "height width"],
    shape: tuple[int, int],
    centre: tuple[int, int] | None = None,
) -> ZeroPaddedConvolution:
    """As `circular_convolution`, of images that are zero outside.

    >>> K = operators.zero_padded_convolution(np.array([[1.0, 2.0, 3.0]]), (1, 4))
    >>> print(K.apply(jnp.array([[1.0, 0.0, 0.0, 0.0]])))
    [[2. 3. 0. 0.]]
    """
    return ZeroPaddedConvolution(*_taps(kernel, shape, centre), shape)


def _taps(
    kernel: Float[np.ndarray, "height width"], shape: tuple[int, int], centre: Any
) -> tuple[Float[Array, " taps"], tuple[tuple[int, int], ...]]:
    """The nonzero entries of a kernel, and where they stand from its centre."""
    pixels(shape)
    number("kernel", kernel)
    kernel = np.asarray(kernel)
    if kernel.ndim != 2 or not kernel.any() or any(np.array(kernel.shape) > np.array(shape)):
        raise ValueError(
            f"kernel of shape {kernel.shape}: expected a two-dimensional array with a nonzero "
            f"entry, no larger than the image {shape}; crop the kernel or take larger images"
        )
    # From the last on, so that the pixels of the image are summed from the first on.
    rows, columns = (x[::-1] for x in np.nonzero(kernel))
    centre = (kernel.shape[0] // 2, kernel.shape[1] // 2) if centre is None else centre
    if np.shape(centre) != (2,):
        raise ValueError(f"centre={centre}: expected a row and a column of the kernel")
    for place, size in zip(centre, kernel.shape, strict=True):
        whole("centre", place, least=0, most=size - 1)
    offsets = tuple(
        (int(i), int(j)) for i, j in zip(rows - centre[0], columns - centre[1], strict=True)
    )
    return jnp.asarray(kernel[rows, columns], jnp.float32), offsets


CONVOLUTIONS: Registry[Callable[..., CircularConvolution | ZeroPaddedConvolution]] = Registry(
    "boundary",
    {
        "circular": circular_convolution,
        "zero": zero_padded_convolution,
    },
)
"""The convolutions by what is outside the image."""


def diagonal_blur(
    shape: tuple[int, int], size: int = 5, boundary: str = "circular"
) -> CircularConvolution | ZeroPaddedConvolution:
    """Motion blur along the diagonal: convolution with I_size / size, as in [REB] 3.3.3.

    boundary: one of `CONVOLUTIONS`; [REB] blurs digits circularly, and faces with zero padding.
    An even size averages one pixel further up and left than down and right.

    Raises: ValueError for another boundary, a size below 1, or one that is larger than the image.

    >>> K = operators.diagonal_blur((3, 3), size=3)
    >>> print(K.apply(jnp.zeros((1, 9)).at[0, 4].set(3.0)).reshape(3, 3))
    [[1. 0. 0.]
     [0. 1. 0.]
     [0. 0. 1.]]
    """
    centre = (whole("size", size) - 1) // 2
    return CONVOLUTIONS[boundary](np.eye(size) / size, shape, (centre, centre))
