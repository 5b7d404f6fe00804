"""C^T diag(d) A, two banks of convolutions and a diagonal: as a stencil, or in its factors."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from deqbilevel import checks
from deqbilevel.convolutions.banks import Bank, transfer
from deqbilevel.types import Images, pytree

Kernels = Float[Array, "kernels rows columns"]
Symbol = Complex[Array, "batch height half_width"]
Features = Float[Array, "kernels batch height width"]
"""Kernels, a transfer function for each image, and what kernels make of images."""


@pytree
@dataclass(frozen=True)
class Factored:
    """C^T diag(d) A for kernels that are too large for a `Stencil`: a product makes features.

    >>> A, d = jnp.array([[[1.0, -1.0]]]), jnp.ones((1, 1, 1, 3))
    >>> S = convolutions.stencils.Factored(A, A, d, convolutions.bank((1, 3), "zero"), True)
    >>> print(S.apply(jnp.array([[0.0, 1.0, 0.0]])))  # second differences
    [[-1.  2. -1.]]
    """

    A: Any
    C: Any
    """Kernels; A itself where symmetric."""
    d: Any
    """Features."""
    bank: Bank = field(metadata={"static": True})
    symmetric: bool = field(metadata={"static": True})
    """Whether C = A."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of an image."""
        return self.d.shape[2], self.d.shape[3]

    @property
    def size(self) -> tuple[int, int]:
        """Of a kernel."""
        return self.A.shape[1], self.A.shape[2]

    @property
    def diagonal(self) -> Images:
        """sum_i c_k[i] a_k[i] d_k[x + i - m], with m the middle of a kernel; for an image that is
        continued by its reflection, but for what meets its border twice."""
        return self.bank.adjoint(self.C * self.A, self.d)

    @property
    def transpose(self) -> "Factored":
        """A^T diag(d) C."""
        return replace(self, A=self.C, C=self.A)

    def symbol(self, scale: Images, grid: tuple[int, int]) -> Symbol:
        """Of about the circular convolution nearest to diag(scale) C^T diag(d) A diag(scale)

            sum_k conj(C_k(w)) A_k(w) mean_x scale[x]^2 d_k[x]

        with the transfer functions of the kernels: as if the scale varied little in a kernel, and
        without the border. Real and at least 0 where symmetric with d at least 0.
        """
        squares = scale.reshape(-1, *self.shape) ** 2
        mean = jnp.mean(squares * self.d, axis=(2, 3))
        products = jnp.conj(transfer(self.C, grid)) * transfer(self.A, grid)
        return jnp.einsum("kb,kij->bij", mean, products)

    def apply(self, v: Images) -> Images:
        """The product with each image."""
        return self.bank.adjoint(self.C, self.d * self.bank.apply(self.A, v))


@pytree
@dataclass(frozen=True)
class Stencil:
    """C^T diag(d) A put together, for zeros beyond the border and small kernels,

        v -> sum_o s_o[x] v[x + o],    s_{i-j}[x] = sum_k c_k[i] a_k[j] d_k[x + i - m]

    with m the middle of a kernel: the Jacobian of N at a point. For 30 kernels of 3x3 it has 25
    offsets o, and half of them if C = A, so that a product with it reads fewer numbers than d has,
    and makes no features.

    >>> d = jnp.array([[[[1.0, 2.0, 3.0]]]])
    >>> S = convolutions.stencils.assembled(jnp.array([[[2.0]]]), None, d)  # 2 d 2
    >>> print(S.apply(jnp.array([[1.0, 1.0, 1.0]])), S.diagonal)
    [[ 4.  8. 12.]] [[ 4.  8. 12.]]
    """

    values: tuple[Any, ...]
    """s_o: [batch, height, width] for each of the offsets, row by row."""
    size: tuple[int, int] = field(metadata={"static": True})
    """Of a kernel."""
    symmetric: bool = field(metadata={"static": True})
    """Whether C = A: then s_{-o}[x] = s_o[x - o], and only half of them are kept."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of an image."""
        return self.values[0].shape[-2], self.values[0].shape[-1]

    @property
    def diagonal(self) -> Images:
        """s_0."""
        middle = self.values[_offsets(self.size, self.symmetric).index((0, 0))]
        return middle.reshape(len(middle), -1)

    @property
    def transpose(self) -> "Stencil":
        """That of A^T diag(d) C."""
        if self.symmetric:
            return self
        shape = self.values[0].shape
        offsets = _offsets(self.size, self.symmetric)
        moved = [_moved(s, o, shape) for s, o in zip(self.values, offsets, strict=True)]
        return Stencil(tuple(moved[::-1]), self.size, self.symmetric)

    def symbol(self, scale: Images, grid: tuple[int, int]) -> Symbol:
        """Of the circular convolution on a larger grid that is nearest to diag(scale) S diag(scale)

            sum_o e^{i w o} mean_x scale[x] s_o[x] scale[x + o]

        for each image: a Rayleigh quotient of the plane wave w, and so real and at least 0, up to
        rounding, where the stencil S is symmetric and positive semidefinite.
        """
        shape = self.values[0].shape
        q = scale.reshape(shape)
        placed = jnp.zeros((shape[0], *grid), q.dtype)
        for s, (row, column) in zip(self.values, _offsets(self.size, self.symmetric), strict=True):
            ahead = _moved(q, (-row, -column), shape)
            mean = jnp.mean(q * s * ahead, axis=(1, 2))
            placed = placed.at[:, -row, -column].set(mean)
            if self.symmetric:
                placed = placed.at[:, row, column].set(mean)
        return jnp.fft.rfft2(placed)

    def apply(self, v: Images) -> Images:
        """The product with each image."""
        if not self.symmetric:
            return self._gathered(v)
        # XLA would make one loop of both halves, half as fast, and repeat it wherever the product
        # is used; conditionals it leaves apart.
        finite = jnp.isfinite(v[0, 0])
        halves = (
            jax.lax.cond(finite, half, jnp.zeros_like, v)
            for half in (self._gathered, self._scattered)
        )
        return sum(halves, jnp.zeros_like(v))

    def _gathered(self, v: Images) -> Images:
        """sum_o s_o[x] v[x + o]"""
        shape = self.values[0].shape
        above, left = self.size[0] - 1, self.size[1] - 1
        padded = jnp.pad(v.reshape(shape), ((0, 0), (above, above), (left, left)))
        found = jnp.zeros(shape, v.dtype)
        for s, (row, column) in zip(self.values, _offsets(self.size, self.symmetric), strict=True):
            top, start = above + row, left + column
            found += s * padded[:, top : top + shape[1], start : start + shape[2]]
        return found.reshape(v.shape)

    def _scattered(self, v: Images) -> Images:
        """sum_o s_o[x - o] v[x - o] without o = 0."""
        shape = self.values[0].shape
        found, x = jnp.zeros(shape, v.dtype), v.reshape(shape)
        for s, offset in zip(self.values, _offsets(self.size, self.symmetric), strict=True):
            if offset != (0, 0):
                found += _moved(s * x, offset, shape)
        return found.reshape(v.shape)


def _moved(x: Array, offset: tuple[int, int], shape: tuple[int, ...]) -> Array:
    """x[. - offset], zero where that is beyond the border."""
    margins = [(max(o, 0), max(-o, 0)) for o in offset]
    top, left = (max(-o, 0) for o in offset)
    return jnp.pad(x, ((0, 0), *margins))[:, top : top + shape[1], left : left + shape[2]]


def assembled(A: Kernels, C: Kernels | None, d: Features) -> Stencil:
    """C^T diag(d) A; without C it is A^T diag(d) A. Zeros beyond the border.

    Raises: ValueError for A and C of different shapes.

    >>> A, d = jnp.array([[[1.0, -1.0]]]), jnp.ones((1, 1, 1, 3))
    >>> S = convolutions.stencils.assembled(A, None, d)
    >>> print(S.apply(jnp.array([[0.0, 1.0, 0.0]])), S.diagonal)
    [[-1.  2. -1.]] [[1. 2. 2.]]
    """
    symmetric = C is None
    if C is not None:
        checks.alike(A=A, C=C)
    c = A if C is None else C
    rows, columns = A.shape[1:]
    taps = [(i, j) for i in range(rows) for j in range(columns)]
    offsets = _offsets((rows, columns), symmetric)
    # For each offset the pairs of taps (i, j) that lie so far apart.
    pairs = [
        (n, i, (i[0] - o[0], i[1] - o[1]))
        for n, o in enumerate(offsets)
        for i in taps
        if (i[0] - o[0], i[1] - o[1]) in taps
    ]
    weights = jnp.stack([c[:, i[0], i[1]] * A[:, j[0], j[1]] for _, i, j in pairs])
    margins = [(size // 2, size - 1 - size // 2) for size in (rows, columns)]
    padded = jnp.pad(d, ((0, 0), (0, 0), *margins))
    products = (weights @ padded.reshape(len(d), -1)).reshape(-1, *padded.shape[1:])
    height, width = d.shape[2:]
    values = [jnp.zeros(d.shape[1:], d.dtype) for _ in offsets]
    for product, (n, (top, left), _) in zip(products, pairs, strict=True):
        values[n] += product[:, top : top + height, left : left + width]
    return Stencil(tuple(values), (rows, columns), symmetric)


def _offsets(size: tuple[int, int], symmetric: bool) -> list[tuple[int, int]]:
    """i - j for taps i and j; one of o and -o where symmetric."""
    rows, columns = size
    found = [(r, c) for r in range(1 - rows, rows) for c in range(1 - columns, columns)]
    return [o for o in found if o >= (0, 0)] if symmetric else found
