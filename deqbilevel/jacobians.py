"""A gradient step that puts its Jacobian together, with about the inverse of it: `linearised`."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import maps, operators
from deqbilevel.convolutions import multiplied, padded_grid
from deqbilevel.convolutions.stencils import Factored, Stencil
from deqbilevel.operators import Operator
from deqbilevel.regularizers import Regularizer
from deqbilevel.types import Images, Params, pytree

FLOOR = 1e-3
"""Of the diagonal and the symbol that precondition, relative to their largest values."""


@pytree
@dataclass(frozen=True)
class StepJacobian:
    """I - dG/du = tau (lam K^T K + gamma N'(u)) of a gradient step, see `linearised`.

    >>> N = convolutions.stencils.assembled(jnp.array([[[2.0]]]), None, jnp.ones((1, 1, 1, 2)))
    >>> A = jacobians.StepJacobian(operators.identity((1, 2)), N, tau=0.5, lam=1.0, gamma=1.0)
    >>> print(A.apply(jnp.array([[1.0, 3.0]])))  # 0.5 (1 + 2^2)
    [[2.5 7.5]]
    """

    K: Operator
    N: Stencil | Factored
    tau: Any
    lam: Any
    gamma: Any

    @property
    def symmetric(self) -> bool:
        return self.N.symmetric

    def apply(self, v: Images) -> Images:
        fidelity = self.K.adjoint(self.K.apply(v))
        return self.tau * (self.lam * fidelity + self.gamma * self.N.apply(v))

    @property
    def transpose(self) -> "StepJacobian":
        return replace(self, N=self.N.transpose)

    def preconditioner(self) -> "Preconditioner":
        """r -> Q B^{-1} Q r, about (I - dG/du)^{-1} r.

        Q^{-2} is the diagonal, with that of N' at least 0, and B the circular convolution nearest
        to Q (I - dG/du) Q, or of a `Factored` about so: T. Chan, SIAM J. Sci. Stat. Comput. 9
        (1988). K^T K is taken as the convolution that it is for one pixel in the middle. Where K is
        the identity B is left out: its transforms cost more than the products that they save, as
        measured.
        """
        height, width = shape = self.N.shape
        middle = height // 2, width // 2
        pixel = jnp.zeros((1, height * width), self.N.diagonal.dtype)
        pixel = pixel.at[0, middle[0] * width + middle[1]].set(1)
        response = self.K.adjoint(self.K.apply(pixel)).reshape(shape)
        fidelity, weight = self.tau * self.lam * response, self.tau * self.gamma

        diagonal = fidelity[middle] + weight * jnp.maximum(self.N.diagonal, 0)
        Q = jnp.maximum(diagonal, FLOOR * jnp.max(diagonal, axis=1, keepdims=True)) ** -0.5
        grid = padded_grid(shape, self.N.size)
        if isinstance(self.K, operators.Identity):
            return Preconditioner(Q, None, shape, grid)
        placed = jnp.pad(fidelity, [(0, n - m) for n, m in zip(grid, shape, strict=True)])
        convolution = jnp.fft.rfft2(jnp.roll(placed, (-middle[0], -middle[1]), (0, 1)))
        mean = jnp.mean(Q**2, axis=1)[:, None, None]
        symbol = mean * convolution + weight * self.N.symbol(Q, grid)
        least = FLOOR * jnp.max(jnp.abs(symbol), axis=(1, 2), keepdims=True)
        if self.symmetric:
            inverse = 1 / jnp.maximum(symbol.real, least)
        else:
            inverse = jnp.conj(symbol) / jnp.maximum(jnp.abs(symbol), least) ** 2
        return Preconditioner(Q, inverse, shape, grid)


@pytree
@dataclass(frozen=True)
class Preconditioner:
    """r -> Q B^{-1} Q r with a diagonal Q and a circular convolution B, or Q Q r without one.

    >>> P = jacobians.Preconditioner(jnp.array([[0.5, 2.0]]), None, (1, 2), (1, 2))
    >>> print(P(jnp.array([[4.0, 1.0]])))  # Q^2 r
    [[1. 4.]]
    """

    Q: Any
    inverse: Any
    """The symbol of B^{-1} on a grid; None without."""
    shape: tuple[int, int] = field(metadata={"static": True})
    """Of an image."""
    grid: tuple[int, int] = field(metadata={"static": True})

    def __call__(self, r: Images) -> Images:
        if self.inverse is None:
            return self.Q**2 * r
        return self.Q * multiplied(self.inverse, self.Q * r, self.shape, self.grid)


@dataclass(frozen=True)
class ConvolutionalStep:
    """`maps.gradient_step` with a regulariser that puts its Jacobian together.

    >>> R = regularizers.REGULARIZERS["normalised"]((1, 2), kernels=(1, 1))
    >>> G = jacobians.ConvolutionalStep(operators.identity((1, 2)), R)
    >>> params = R.init(jax.random.key(0)) | {"tau": 0.5, "lam": 1.0, "gamma": 0.0}
    >>> print(G(jnp.zeros((1, 2)), params, jnp.ones((1, 2))))  # tau f
    [[0.5 0.5]]
    """

    K: Operator
    R: Regularizer

    def __call__(self, u: Images, params: Params, f: Array) -> Images:
        return maps.gradient_step(self.K, self.R.gradient)(u, params, f)

    def linearised(self, u: Images, params: Params, f: Array) -> tuple[Images, StepJacobian]:
        """G(u) and I - dG/du."""
        assert self.R.linearised is not None
        N, jacobian = self.R.linearised(u, params)
        image = maps.gradient_step(self.K, lambda u, params: N)(u, params, f)
        scalars = (params[name] for name in ("tau", "lam", "gamma"))
        return image, StepJacobian(operators.of(self.K, params), jacobian, *scalars)
