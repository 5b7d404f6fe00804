"""Forward operators K of imaging inverse problems f = K u + noise, [REB] 3.3, as pytrees.

An operator maps images `[..., pixels]` (rows of a flattened height x width image) to data of any
size, real or complex, and has

    apply(u)           K u
    adjoint(v)         K^T v, real: <K u, v> = <u, K^T v> with <x, y> = Re x^H y for complex data

and, where it knows them in closed form,

    bound()            ||K||_2, or a bound on it
    resolvent(z, a)    (I + a K^T K)^{-1} z, the proximal map of a/2 ||K u||^2

Of another operator `norm` and `resolvent` find them by iterations. Arrays are leaves, so that an
operator can be vmapped over, or learned as `params["K"]`, see `of`; shapes are static.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Complex, Float, Inexact

from deqbilevel import checks
from deqbilevel.checks import Registry, number, pixels, whole
from deqbilevel.types import Params, pytree


@runtime_checkable
class Operator(Protocol):
    """A linear map from images to data; see the module's docstring."""

    def apply(self, u: Float[Array, "*batch pixels"]) -> Inexact[Array, "*batch data"]: ...

    def adjoint(self, v: Inexact[Array, "*batch data"]) -> Float[Array, "*batch pixels"]: ...


def of(K: Operator, params: Params) -> Operator:
    """The operator at `params`: their `K`, where the operator or a part of it is learned, else K.

    Raises: ValueError for a `K` of another kind of operator.
    """
    learned = params.get("K", K)
    if type(learned) is not type(K):
        raise ValueError(
            f"params: K is a {type(learned).__name__}; expected a {type(K).__name__} as in the "
            "model, whose leaves alone are learned"
        )
    return learned


def norm(K: Any, pixels: int, *, iterations: int = 100) -> Float[Array, ""]:
    """||K||_2 or a bound on it: the operator's own, else by power iteration on K^T K.

    The latter is never above the true norm, and below it by less than a percent but for spectra
    whose largest values lie close together.
    Raises: ValueError for what is no operator, and for counts that are none.
    """
    for name in ("apply", "adjoint"):
        checks.function(f"K.{name}", getattr(K, name, None))
    whole("pixels", pixels)
    whole("iterations", iterations, least=0)
    bound = getattr(K, "bound", None)
    if bound is not None:
        return jnp.asarray(bound())

    def iterate(_: Any, u: Array) -> Array:
        v = K.adjoint(K.apply(u))
        return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)

    start = jax.random.normal(jax.random.key(0), (1, pixels))
    u = jax.lax.fori_loop(0, iterations, iterate, start / jnp.linalg.norm(start))
    return jnp.linalg.norm(K.apply(u))


def resolvent(
    K: Operator, z: Float[Array, "*batch pixels"], a: Any
) -> Float[Array, "*batch pixels"]:
    """(I + a K^T K)^{-1} z: the operator's own, else by conjugate gradients on each image.

    These take some sqrt(1 + a ||K||^2) iterations for each digit, to rounding. Derivatives in z, a
    and the leaves of K are again solutions of such a system, as exact.
    Raises: ValueError for a negative a.
    """
    own = getattr(K, "resolvent", None)
    return _by_conjugate_gradients(K, z, a) if own is None else own(z, a)


def _by_conjugate_gradients(
    K: Operator, z: Float[Array, "*batch pixels"], a: Any
) -> Float[Array, "*batch pixels"]:
    a = jnp.asarray(number("a", a, least=0), z.dtype)

    def system(x: Array) -> Array:
        return x + a * K.adjoint(K.apply(x[None]))[0]

    def solve(z: Array) -> Array:
        return cg(system, z, tol=float(jnp.finfo(z.dtype).eps))[0]

    return jax.vmap(solve)(z.reshape(-1, z.shape[-1])).reshape(z.shape)


@pytree
@dataclass(frozen=True)
class Identity:
    """K u = u: denoising."""

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
    """K u = mask * u, a diagonal operator with entries 0 (missing) and 1 (kept): inpainting."""

    mask: Float[Array, "*lanes pixels"]

    def apply(self, u: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self.mask * _sized("u", u, self.mask.shape[-1])

    def adjoint(self, v: Float[Array, "*batch pixels"]) -> Float[Array, "*batch pixels"]:
        return self.mask * _sized("v", v, self.mask.shape[-1])

    def bound(self) -> Float[Array, "*lanes"]:
        return jnp.max(jnp.abs(self.mask), axis=-1)

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

    def transfer(self, grid: tuple[int, int], dtype: Any) -> Complex[Array, "rows frequencies"]:
        """The transfer function of the circular convolution of images of a shape, as of `rfft2`."""
        rows, columns = np.array(self.offsets).T
        kernel = jnp.zeros(grid, dtype).at[rows, columns].add(self.weights)
        return jnp.fft.rfft2(kernel)


@pytree
@dataclass(frozen=True)
class CircularConvolution(Convolution):
    """A convolution with indices modulo the image's shape."""

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
    """A convolution of images that are zero outside: light from there is lost, none comes in."""

    padding = "constant"

    def bound(self) -> Float[Array, ""]:
        """That of the circular convolution on a grid with a margin, of which this is a part."""
        reach = 2 * int(np.abs(np.array(self.offsets)).max())
        grid = (self.shape[0] + reach, self.shape[1] + reach)
        return jnp.max(jnp.abs(self.transfer(grid, self.weights.dtype)))


@pytree
@dataclass(frozen=True)
class Matrix:
    """K u = M u with a matrix of any number of rows, real or complex."""

    M: Inexact[Array, "*lanes data pixels"]

    def apply(self, u: Float[Array, "*batch pixels"]) -> Inexact[Array, "*batch data"]:
        return _sized("u", u, self.M.shape[-1]) @ self.M.T

    def adjoint(self, v: Inexact[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        return jnp.real(_sized("v", v, self.M.shape[-2]) @ jnp.conj(self.M))

    def bound(self) -> Float[Array, ""]:
        return jnp.linalg.norm(self.M, 2)


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


def random_matrix(shape: tuple[int, int], rate: float = 0.5, seed: int = 0) -> Matrix:
    """Compressed sensing: a matrix of independent normal entries, with `rate` times as many rows as
    there are pixels, of variance 1 / rows.

    Raises: ValueError for a rate that is not above 0, or leaves no row.
    """
    rows = int(checks.number("rate", rate, above=0, most=1) * pixels(shape))
    if rows < 1:
        raise ValueError(f"rate={rate}: no row for {pixels(shape)} pixels; take a larger rate")
    whole("seed", seed, least=0, most=2**32 - 1)
    M = jax.random.normal(jax.random.key(seed), (rows, pixels(shape))) / rows**0.5
    return Matrix(M)


def identity(shape: tuple[int, int]) -> Identity:
    """The images as they are: denoising."""
    return Identity()


def upper_mask(shape: tuple[int, int], part: float = 1 / 3) -> Mask:
    """`row_mask` without the upper part of the rows, rounded up: a third in [REB] 3.3.2.

    Raises: ValueError for a part that leaves no row, or takes none.
    """
    pixels(shape)
    # Rounded, so that a third of 27 rows is 9 of them and not 10.
    return row_mask(shape, int(np.ceil(round(checks.number("part", part) * shape[0], 6))))


OPERATORS: Registry[Callable[..., Operator]] = Registry(
    "operator",
    {
        "identity": identity,
        "row_mask": upper_mask,
        "diagonal_blur": diagonal_blur,
        "diagonal_blur_zero": partial(diagonal_blur, boundary="zero"),
        "random_matrix": random_matrix,
    },
)
"""Every operator, built for an image shape and with options of its own. The shared property tests
walk this table."""
