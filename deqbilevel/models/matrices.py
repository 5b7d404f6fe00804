"""Matrices of a lower level that are common to all images: about H^{-1}, and the factors of H,

    H = lam K^T K + gamma N',

the derivative of lam K^T (K u - f) + gamma N(u) in u. It depends on u unless N is affine.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks, operators, precision
from deqbilevel.operators import Operator
from deqbilevel.operators.base import require_linear
from deqbilevel.regularizers import Regularizer
from deqbilevel.types import Images, Params, pytree

DAMPING = 0.3
"""Added to the diagonal of the P of `Model.solve`."""

BLOCK = 112
"""Rows of a block of `Factors`: more are slower to invert, fewer are slower to multiply with."""


@pytree
@dataclass(frozen=True)
class Factors:
    """H = L U in blocks of rows, with L lower triangular and identities on its diagonal.

    Made of products and the inverses of small blocks, which a GPU has for many lanes at once, and
    which on a CPU take a tenth of the time of a LAPACK factorisation that waits for its threads.
    Rows are exchanged within a block alone, so that a solution may need a second solve with its
    residual; a block that is singular makes one that is not finite.

    >>> H = models.matrices.factorised(jnp.array([[0.0, 4.0], [2.0, 1.0]]))
    >>> print(H.solve(jnp.array([[8.0, 5.0]])))
    [[1.5 2. ]]
    """

    D: tuple[Array, ...]
    """The inverse of each diagonal block of U."""
    L: tuple[Array, ...]
    """What is below the diagonal in each block of columns."""
    U: tuple[Array, ...]
    """What is right of the diagonal in each block of rows."""

    def solve(self, r: Images) -> Images:
        """H^{-1} r of each image."""
        found = []
        for D, L in zip(self.D, self.L, strict=True):
            y, r = r[:, : len(D)], r[:, len(D) :]
            found.append(y)
            r = r - y @ L.T
        x = r
        for D, U, y in zip(self.D[::-1], self.U[::-1], found[::-1], strict=True):
            x = jnp.concatenate([(y - x @ U.T) @ D.T, x], axis=1)
        return x


def factorised(H: Float[Array, "n n"]) -> Factors:
    """The factors of a matrix, in full precision."""
    parts = []
    with jax.default_matmul_precision("highest"):
        while len(H):
            D, U = jnp.linalg.inv(H[:BLOCK, :BLOCK]), H[:BLOCK, BLOCK:]
            L = H[BLOCK:, :BLOCK] @ D
            parts.append((D, L, U))
            H = H[BLOCK:, BLOCK:] - L @ U
    return Factors(*zip(*parts, strict=True))


def factors(K: Operator, R: Regularizer, params: Params) -> Factors:
    """Those of H, of a regulariser whose N is affine."""
    assert R.jacobian is not None
    return factorised(precision.at("highest", _matrix)(K, params, R.jacobian(params)))


def evaluations(pixels: int, batch: int) -> int:
    """What `factors` takes, in evaluations of a gradient step on a batch, rounded up.

    With n pixels and features an evaluation is 2 batch n^2 multiplications, C^T A is n^3 and L U
    n^3 / 3.

    >>> print(models.matrices.evaluations(784, 100))
    6
    """
    return -(-2 * pixels // (3 * batch))


def inverse(
    K: Operator, R: Regularizer, params: Params, damping: float = DAMPING
) -> Float[Array, "n n"]:
    """The inverse of P = lam K^T K + gamma M + damping I, for `maps.preconditioned_step`, with the
    matrix M of the regulariser.

    Raises: ValueError for a negative damping, a regulariser without a matrix, a K that is not
    linear, and params without gamma or lam.
    """
    checks.number("damping", damping, least=0)
    require_linear("P", K)
    checks.entries("params", params, ("gamma", "lam"))
    if R.matrix is None:
        raise ValueError("P: this regulariser has no matrix; take a gradient step instead")
    H = _matrix(K, params, R.matrix(params))
    return jnp.linalg.inv(H + damping * jnp.eye(len(H), dtype=H.dtype))


def _matrix(K: Operator, params: Params, M: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """lam K^T K + gamma M."""
    eye, own = jnp.eye(len(M), dtype=M.dtype), operators.of(K, params)
    return params["lam"] * own.adjoint(own.apply(eye)) + params["gamma"] * M
