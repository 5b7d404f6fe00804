"""Forward operators K of imaging inverse problems f = K u + noise, [REB] 3.3, as pytrees.

An operator maps images `[..., pixels]` (rows of a flattened height x width image) to data, and has

    apply(u)           K u
    adjoint(v)         K^T v
    resolvent(z, a)    (I + a K^T K)^{-1} z, the proximal map of a/2 ||K u||^2

Arrays are leaves, so an operator can be vmapped over or learned; shapes are static.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks
from deqbilevel.checks import Registry, number, pixels, whole
from deqbilevel.types import pytree


@runtime_checkable
class Operator(Protocol):
    """A linear map between spaces of images; see the module's docstring."""

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch data"]: ...

    def adjoint(self, v: Float[Array, "*batch data"]) -> Float[Array, "*batch pixels"]: ...

    def resolvent(
        self, z: Float[Array, "*batch pixels"], a: Any
    ) -> Float[Array, "*batch pixels"]: ...


@pytree
@dataclass(frozen=True)
class Identity:
    """K u = u: denoising."""

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return u

    def adjoint(self, v: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return v

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        return z / (1 + number("a", a, least=0))


@pytree
@dataclass(frozen=True)
class Mask:
    """K u = mask * u, a diagonal operator with entries 0 (missing) and 1 (kept): inpainting."""

    mask: Float[Array, "*lanes pixels"]

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self.mask * _sized("u", u, self.mask.shape[-1])

    def adjoint(self, v: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self.mask * _sized("v", v, self.mask.shape[-1])

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        a = number("a", a, least=0)
        return _sized("z", z, self.mask.shape[-1]) / (1 + a * self.mask**2)


@dataclass(frozen=True)
class Convolution:
    """(K u)[x] = sum_j weights[j] u[x - offsets[j]]: deblurring. A subclass says what u is outside
    the image, and so what the resolvent is.

    The support (`offsets`, pairs of rows and columns) is static, so that a sparse kernel costs
    only its taps: shifted slices of a padded image, which XLA fuses into one loop.
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
        _sized("images", u, height * width)
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


@pytree
@dataclass(frozen=True)
class CircularConvolution(Convolution):
    """A convolution with indices modulo the image's shape."""

    padding = "wrap"

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        """Diagonal in the Fourier basis: K^T K has the eigenvalues |transfer function|^2."""
        number("a", a, least=0)
        rows, columns = np.array(self.offsets).T
        kernel = jnp.zeros(self.shape, z.dtype).at[rows, columns].add(self.weights)
        power = jnp.abs(jnp.fft.rfft2(kernel)) ** 2
        image = jnp.fft.rfft2(z.reshape(-1, *self.shape)) / (1 + a * power)
        return jnp.fft.irfft2(image, self.shape).astype(z.dtype).reshape(z.shape)


@pytree
@dataclass(frozen=True)
class ZeroPaddedConvolution(Convolution):
    """A convolution of images that are zero outside: light from there is lost, none comes in."""

    padding = "constant"

    def resolvent(self, z: Float[Array, "*batch pixels"], a: Any) -> Float[Array, "*batch pixels"]:
        """By conjugate gradients on each image, to rounding; no Fourier basis is diagonal here.

        Some sqrt(1 + a ||K||^2) iterations for each digit. Derivatives in z, a and the weights
        are again solutions of such a system, as exact.
        """
        a = jnp.asarray(number("a", a, least=0), z.dtype)

        def system(x: Array) -> Array:
            return x + a * self.adjoint(self.apply(x))

        def solve(z: Array) -> Array:
            return cg(system, z, tol=float(jnp.finfo(z.dtype).eps))[0]

        return jax.vmap(solve)(z.reshape(-1, z.shape[-1])).reshape(z.shape)


def _sized(name: str, x: Any, pixels: int) -> Any:
    """Images of so many pixels; others may broadcast, or fill another number of images."""
    if np.shape(x)[-1:] != (pixels,):
        raise ValueError(f"{name} of shape {list(np.shape(x))}: expected images of {pixels} pixels")
    return x


def row_mask(shape: tuple[int, int], missing: int) -> Mask:
    """The mask that removes the top `missing` rows of an image.

    Raises: ValueError if no row or every row would be missing.
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
    """
    return CircularConvolution(*_taps(kernel, shape, centre), shape)


def zero_padded_convolution(
    kernel: Float[np.ndarray, "height width"],
    shape: tuple[int, int],
    centre: tuple[int, int] | None = None,
) -> ZeroPaddedConvolution:
    """As `circular_convolution`, of images that are zero outside."""
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
    """
    centre = (whole("size", size) - 1) // 2
    return CONVOLUTIONS[boundary](np.eye(size) / size, shape, (centre, centre))


def norm(K: Operator, pixels: int, key: PRNGKeyArray, iterations: int = 100) -> Float[Array, ""]:
    """The operator norm ||K||_2 by power iteration on K^T K; never larger than the true norm.

    Raises: ValueError for what is no operator or no key, and for counts that are none.
    """
    for name in ("apply", "adjoint"):
        checks.function(f"K.{name}", getattr(K, name, None))
    whole("pixels", pixels)
    key = checks.key("key", key)
    whole("iterations", iterations, least=0)

    def iterate(_: Any, u: Array) -> Array:
        v = K.adjoint(K.apply(u))
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    start = jax.random.normal(key, (pixels,))
    u = jax.lax.fori_loop(0, iterations, iterate, start / jnp.linalg.norm(start))
    return jnp.linalg.norm(K.apply(u))


OPERATORS: Registry[Callable[[tuple[int, int]], Operator]] = Registry(
    "operator",
    {
        "identity": lambda shape: Identity(),
        "row_mask": lambda shape: row_mask(shape, -(-shape[0] // 3)),
        "diagonal_blur": diagonal_blur,
        "diagonal_blur_zero": partial(diagonal_blur, boundary="zero"),
    },
)
"""Every operator, built for an image shape. The shared property tests walk this table."""
