"""Chains of small convolutions without anything between them: banks of large filters, from few
parameters.

    W u = k_L * ... * k_2 * k_1 * u

Each k is [rows, columns, inputs, outputs], square and of odd size, the first of one input; `*` is a
correlation, summed over the inputs. Together they are one filter of `size(kernels)` pixels for each
output of the last. With their transfer functions W_c, and for images with zeros beyond the border
or circular ones,

    ||W u||^2 <= max_w P(w) ||u||^2,    P(w) = sum_c |W_c(w)|^2

whatever the size of u. Reflected, an image of n x m pixels is one of 2n x 2m that is circular, and
a window of what W makes of it holds no more than a part of that: of u and its flips by rows, by
columns and by both, which have the same reflected image seen through each window in turn,

    sum_flips ||W flip(u)||^2 <= 4 max_w P(w) ||u||^2
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Kernels = Sequence[Float[Array, "_ _ _ _"]]
"""[rows, columns, inputs, outputs] each, from the first to the last."""

ORDER = ("NHWC", "HWIO", "NHWC")
"""The axes of images, kernels and what comes of them."""

POINTS = 20
"""Of the grid on which P is maximised, for each degree of P."""


def size(kernels: Kernels) -> int:
    """Rows, and columns, of the composed filters.

    >>> print(convolutions.chains.size([jnp.ones((5, 5, 1, 4)), jnp.ones((3, 3, 4, 8))]))
    7
    """
    return 1 + sum(k.shape[0] - 1 for k in kernels)


def composed(kernels: Kernels) -> Float[Array, "channels rows columns"]:
    """The filters that W is the bank of, as `scipy.ndimage.correlate` takes them.

    >>> k = jnp.arange(9.0).reshape(3, 3, 1, 1)
    >>> print(bool(jnp.all(convolutions.chains.composed([k])[0] == k[..., 0, 0])))
    True
    """
    n = size(kernels)
    x = jnp.zeros((1, n, n, 1), kernels[0].dtype).at[0, n // 2, n // 2].set(1)
    for k in kernels:  # what an impulse becomes stays within the filters' size
        x = jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=ORDER)
    return jnp.transpose(x[0, ::-1, ::-1], (2, 0, 1))


def power(kernels: Kernels, grid: tuple[int, int]) -> Float[Array, "channels height half_width"]:
    """|W_c(w)|^2 at the frequencies of `rfft2` on a grid, which may be smaller than a filter.

    >>> difference = jnp.array([[0.0, 0, 0], [0, -1, 1], [0, 0, 0]]).reshape(3, 3, 1, 1)
    >>> print(convolutions.chains.power([difference], (1, 4)).ravel())  # 4 sin^2(w / 2)
    [0. 2. 4.]
    """
    c = composed(kernels)
    n, dtype = c.shape[1], jnp.result_type(c, jnp.complex64)
    down, right = (
        jnp.asarray(np.exp(-2j * np.pi * np.outer(np.arange(k), np.arange(n)) / m), dtype)
        for k, m in ((grid[0], grid[0]), (grid[1] // 2 + 1, grid[1]))
    )
    transfer = jnp.einsum("hr,krc,wc->khw", down, c, right)
    return jnp.real(transfer) ** 2 + jnp.imag(transfer) ** 2


def norm(kernels: Kernels) -> Float[Array, ""]:
    """A bound on max_w P(w)^(1/2) over all frequencies, those of images of any size: at most 1.3 %
    above it.

    P is a trigonometric polynomial of a degree d in either direction, and so at most its largest
    value at G equally spaced points over cos(pi d / G), in each (Ehlich and Zeller, Math. Z. 86,
    1964).

    >>> difference = jnp.array([[0.0, 0, 0], [0, -1, 1], [0, 0, 0]]).reshape(3, 3, 1, 1)
    >>> print(convolutions.chains.norm([difference]).round(2))  # 2, at the frequency pi
    2.02
    """
    degree = size(kernels) - 1
    few = 2 * degree + 1  # enough for the autocorrelation, whose transform P is
    correlation = jnp.fft.irfft2(jnp.sum(power(kernels, (few, few)), axis=0), (few, few))
    points = max(POINTS * degree, 1)
    finer = jnp.abs(jnp.fft.rfft2(jnp.fft.fftshift(correlation), (points, points)))
    return jnp.sqrt(jnp.max(finer)) / np.cos(np.pi * degree / points)
