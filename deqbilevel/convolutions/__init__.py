r"""Convolutions with a bank of filters, and their adjoint: the same linear map in three ways.

$$ (c * u)[i] = \sum_j c[j]\, u[i - j + m], \qquad
m = (\lfloor \text{height} / 2 \rfloor, \lfloor \text{width} / 2 \rfloor) $$

    direct   XLA's own convolution
    patch    one matrix product with all patches of the image (im2col): many small filters
    fft      products of Fourier transforms: large filters

Images are rows of pixels, `[batch, height * width]`; filters are `[filters, rows, columns]`; what
comes of them is `[filters, batch, height, width]`. Other modules of the package: `stencils`,
C^T diag(d) A put together, `channels`, images of many channels, and `chains`, small convolutions
one after the other.
"""

from deqbilevel.convolutions.banks import (
    PAD,
    PAD_NORM,
    VALID,
    Bank,
    Boundary,
    Filters,
    Method,
    bank,
    multiplied,
    padded_grid,
    suited,
    transfer,
)

__all__ = [
    "PAD",
    "PAD_NORM",
    "VALID",
    "Bank",
    "Boundary",
    "Filters",
    "Method",
    "bank",
    "multiplied",
    "padded_grid",
    "suited",
    "transfer",
]
