"""Banks of convolutions z_k = c_k * u and their adjoint u = sum_k C_k^T z_k, in three ways.

    (c * u)[i] = sum_j c[j] u[i - j + m],    m = (height // 2, width // 2) of the filter

    direct   XLA's own convolution
    patch    one matrix product with all patches of the image (im2col): many small filters
    fft      products of Fourier transforms: large filters

All are the same linear map. Images are rows of pixels, `[batch, height * width]`; filters are
`[filters, rows, columns]`, smaller ones filled up with zeros; z is `[filters, batch, height,
width]`, so that a product with all filters is one matrix product. Beyond its border an image is
continued as `boundary` says.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import scipy
from jaxtyping import Array, Float

from deqbilevel.checks import Registry, known, pixels

Boundary = Literal["circular", "zero", "reflecting"]
Method = Literal["direct", "patch", "fft"]
"""What is beyond the border of an image, and how a convolution is computed."""

PAD: Registry[str] = Registry(
    "boundary", {"circular": "wrap", "zero": "constant", "reflecting": "symmetric"}
)
"""The modes of `jnp.pad` by what is beyond the border of an image."""

PAD_NORM = {"circular": 1.0, "zero": 1.0, "reflecting": 4.0}
"""The most that continuing an image beyond its border multiplies its squared norm by, where
filters are no larger than the image; circular continuation is none, the convolution is circular."""

DIRECT_TAPS = 64
"""Up to so many taps in all filters together `direct` is fastest, as measured on two cores."""

PATCH_TAPS = 121
"""Up to so many taps in each filter, and ten for each transform, one for the image and one for each
filter, `patch` is faster than `fft`, likewise."""

Filters = Float[Array, "filters rows columns"]
Images = Float[Array, "batch pixels"]
Features = Float[Array, "filters batch height width"]
"""Filters, images as rows, and what comes of both."""


class Bank(NamedTuple):
    """The convolutions of images of one shape.

    >>> filters, u = convolutions.bank((1, 4)), jnp.array([[1.0, 3.0, 6.0, 10.0]])
    >>> print(filters.apply(jnp.array([[[1.0, -1.0]]]), u).ravel())  # circular differences
    [ 2.  3.  4. -9.]
    """

    apply: Callable[[Filters, Images], Features]
    """(c, u) -> z_k = c_k * u."""
    adjoint: Callable[[Filters, Features], Images]
    """(c, z) -> sum_k C_k^T z_k."""


def bank(
    shape: tuple[int, int], boundary: Boundary = "circular", method: Method | None = None
) -> Bank:
    """Convolutions of images of a shape; without a method, the one for the filters' size.

    Raises: ValueError for an unknown boundary or method, and a shape without pixels. Both functions
    raise ValueError for filters larger than the image.

    >>> filters = convolutions.bank((1, 4), "zero")
    >>> z = filters.apply(jnp.array([[[1.0, 2.0, 3.0]]]), jnp.array([[1.0, 0.0, 0.0, 0.0]]))
    >>> print(z.shape, z.ravel())
    (1, 1, 1, 4) [2. 3. 0. 0.]
    """
    known("boundary", boundary, PAD)
    if method is not None:
        known("method", method, VALID)
    pixels(shape)

    def chosen(c: Filters) -> Method:
        if c.shape[1] > shape[0] or c.shape[2] > shape[1]:
            raise ValueError(
                f"filters of {c.shape[1]}x{c.shape[2]} pixels are larger than the image of "
                f"{shape[0]}x{shape[1]}; take smaller filters or a larger image"
            )
        return method or suited(c.shape)

    def apply(c: Filters, u: Images) -> Features:
        x, how = u.reshape(-1, *shape), chosen(c)
        if how == "fft" and boundary == "circular":
            return _circular(c, x)
        return VALID[how][0](c, _extend(x, c, boundary))

    def adjoint(c: Filters, z: Features) -> Images:
        how = chosen(c)
        if how == "fft" and boundary == "circular":
            return _circular_adjoint(c, z).reshape(z.shape[1], -1)
        extended = VALID[how][1](c, z)
        image = jax.ShapeDtypeStruct((z.shape[1], *shape), z.dtype)
        (x,) = jax.linear_transpose(lambda x: _extend(x, c, boundary), image)(extended)
        return x.reshape(z.shape[1], -1)

    return Bank(apply, adjoint)


def suited(shape: tuple[int, ...]) -> Method:
    """The fastest method for filters of a shape [filters, rows, columns].

    >>> print(convolutions.suited((4, 4, 2)), convolutions.suited((48, 7, 7)))
    direct patch
    """
    count, rows, columns = shape
    if count * rows * columns <= DIRECT_TAPS:
        return "direct"
    return "patch" if rows * columns <= min(PATCH_TAPS, 10 * (count + 1)) else "fft"


def transfer(c: Filters, shape: tuple[int, ...]) -> Array:
    """The transfer functions of circular convolution with c_k: [filters, height, width//2 + 1].

    Raises: ValueError for filters that are none, or larger than the images.

    >>> c = jnp.array([[[1.0, 2.0, 1.0]]])
    >>> print(convolutions.transfer(c, (1, 4)).real)  # 2 + 2 cos w for w = 0, pi/2, pi
    [[[4. 2. 0.]]]
    """
    if c.ndim != 3 or 0 in c.shape or c.shape[1] > shape[0] or c.shape[2] > shape[1]:
        raise ValueError(
            f"filters of shape {list(c.shape)}: expected [filters, rows, columns], no larger than "
            f"the grid of {shape[0]}x{shape[1]}"
        )
    placed = jnp.pad(c, ((0, 0), (0, shape[0] - c.shape[1]), (0, shape[1] - c.shape[2])))
    centred = jnp.roll(placed, (-(c.shape[1] // 2), -(c.shape[2] // 2)), (1, 2))
    return jnp.fft.rfft2(centred)


def padded_grid(shape: tuple[int, int], filters: tuple[int, int]) -> tuple[int, int]:
    """The images' shape with a margin for filters of a size, and small prime factors.

    >>> print(convolutions.padded_grid((50, 50), (7, 7)))
    (56, 60)
    """
    return _fast_grid((shape[0] + filters[0] - 1, shape[1] + filters[1] - 1))


def _fast_grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """A shape at least as large whose transforms are fast: those of rows are of real numbers, and
    want smaller prime factors."""
    fast = cast(Callable[..., int], scipy.fft.next_fast_len)  # typed as without a value
    return fast(shape[0]), fast(shape[1], real=True)


def multiplied(symbol: Array, v: Images, shape: tuple[int, int], grid: tuple[int, int]) -> Images:
    """The circular convolution with a symbol, [batch, height, width//2 + 1] on a grid, of images of
    a shape, filled up with zeros to that grid and cut out again.

    >>> c = jnp.array([[[1.0, 2.0, 1.0]]])
    >>> symbol = convolutions.transfer(c, (1, 4))
    >>> print(convolutions.multiplied(symbol, jnp.array([[1.0, 0.0]]), (1, 2), (1, 4)))
    [[2. 1.]]
    """
    spectrum = symbol * jnp.fft.rfft2(v.reshape(-1, *shape), grid)
    return jnp.fft.irfft2(spectrum, grid)[:, : shape[0], : shape[1]].reshape(v.shape)


def _extend(x: Array, c: Filters, boundary: Boundary) -> Array:
    """The image with a margin, so that the valid part of a convolution has the image's shape."""
    above = [size - 1 - size // 2 for size in c.shape[1:]]
    below = [size // 2 for size in c.shape[1:]]
    # The filter is flipped over its centre: what it reaches above is its lower half.
    margins = ((0, 0), (above[0], below[0]), (above[1], below[1]))
    return jnp.pad(x, margins, mode=PAD[boundary])


def _patches(x: Array, c: Filters, height: int, width: int) -> Array:
    """For each tap of a filter, row by row, the part of x that it meets: [taps, ...].

    First by rows and then by columns, with a slice for each row and column in place of one for each
    tap: 13x13 filters would take minutes to compile.
    """
    rows, columns = c.shape[1:]
    tall = jnp.stack([x[..., rows - 1 - i :, :][..., :height, :] for i in range(rows)])
    wide = [tall[..., columns - 1 - j :][..., :width] for j in range(columns)]
    found = jnp.stack(wide, axis=1)
    return found.reshape(-1, *found.shape[2:])


def _valid_size(x: Array, c: Filters) -> tuple[int, int]:
    return x.shape[-2] - c.shape[1] + 1, x.shape[-1] - c.shape[2] + 1


def _direct(c: Filters, x: Array) -> Features:
    # XLA's convolutions are correlations.
    return jax.lax.conv(x[:, None], c[:, None, ::-1, ::-1], (1, 1), "VALID").swapaxes(0, 1)


def _direct_adjoint(c: Filters, z: Features) -> Array:
    margins = [(size - 1, size - 1) for size in c.shape[1:]]
    return jax.lax.conv_general_dilated(z.swapaxes(0, 1), c[None], (1, 1), margins)[:, 0]


def _product(matrix: Array, x: Array) -> Array:
    """matrix @ x over the first axis of x, as a product of two matrices: of those XLA transposes
    the derivative without moving the pixels."""
    return (matrix @ x.reshape(len(x), -1)).reshape(-1, *x.shape[1:])


def _patch(c: Filters, x: Array) -> Features:
    patches = _patches(x, c, *_valid_size(x, c))
    return _product(c.reshape(len(c), -1), patches)


def _patch_adjoint(c: Filters, z: Features) -> Array:
    rows, columns = c.shape[1:]
    patches = _product(c.reshape(len(c), -1).T, z)
    image = jax.ShapeDtypeStruct(
        (z.shape[1], z.shape[-2] + rows - 1, z.shape[-1] + columns - 1), z.dtype
    )

    def cut(x: Array) -> Array:
        return _patches(x, c, *z.shape[-2:])

    (x,) = jax.linear_transpose(cut, image)(patches)
    return x


def _circular(c: Filters, x: Array, grid: tuple[int, ...] = ()) -> Features:
    """On a grid, which zeros fill up; without one, on the image's own."""
    grid = grid or x.shape[-2:]
    spectrum = jnp.fft.rfft2(x, grid) * transfer(c, grid)[:, None]
    return jnp.fft.irfft2(spectrum, grid)


def _circular_adjoint(c: Filters, z: Features, grid: tuple[int, ...] = ()) -> Array:
    grid = grid or z.shape[-2:]
    spectrum = jnp.sum(jnp.fft.rfft2(z, grid) * jnp.conj(transfer(c, grid))[:, None], axis=0)
    return jnp.fft.irfft2(spectrum, grid)


def _fft(c: Filters, x: Array) -> Features:
    height, width = _valid_size(x, c)
    top, left = (size - 1 - size // 2 for size in c.shape[1:])
    z = _circular(c, x, _fast_grid(x.shape[-2:]))
    return z[..., top : top + height, left : left + width]


def _fft_adjoint(c: Filters, z: Features) -> Array:
    above = [size - 1 - size // 2 for size in c.shape[1:]]
    below = [size // 2 for size in c.shape[1:]]
    extended = jnp.pad(z, ((0, 0), (0, 0), (above[0], below[0]), (above[1], below[1])))
    height, width = extended.shape[-2:]
    return _circular_adjoint(c, extended, _fast_grid((height, width)))[:, :height, :width]


VALID: Registry[tuple[Callable[..., Array], Callable[..., Array]]] = Registry(
    "method",
    {
        "direct": (_direct, _direct_adjoint),
        "patch": (_patch, _patch_adjoint),
        "fft": (_fft, _fft_adjoint),
    },
)
"""The valid part of the convolution of an extended image, and its adjoint."""
