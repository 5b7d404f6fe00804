"""Operators that are a matrix: one of your own, and compressed sensing."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from deqbilevel import checks
from deqbilevel.checks import pixels, whole
from deqbilevel.operators import given
from deqbilevel.operators.base import sized
from deqbilevel.types import pytree


@pytree
@dataclass(frozen=True)
class Matrix:
    """K u = M u with a matrix of any number of rows, real or complex.

    Raises: ValueError for images and data of another size.

    >>> K = operators.Matrix(jnp.array([[1.0, 2.0, 3.0]]))
    >>> print(K.apply(jnp.ones((1, 3))), K.adjoint(jnp.array([[2.0]])))
    [[6.]] [[2. 4. 6.]]
    """

    M: Inexact[Array, "*lanes data pixels"]

    def apply(self, u: Float[Array, "*batch pixels"]) -> Inexact[Array, "*batch data"]:
        return sized("u", u, self.M.shape[-1]) @ self.M.T

    def adjoint(self, v: Inexact[Array, "*batch data"]) -> Float[Array, "*batch pixels"]:
        return jnp.real(sized("v", v, self.M.shape[-2]) @ jnp.conj(self.M))

    def bound(self) -> Float[Array, ""]:
        return jnp.linalg.norm(self.M, 2)


def matrix(shape: tuple[int, int], file: str | None = None) -> Matrix:
    """The matrix of a file, as `numpy.save` writes it: [data, pixels], real or complex.

    Raises: ValueError for no file, and for one that holds no such matrix, naming it: see
    `given.matrix`.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = str(pathlib.Path(folder, "K.npy"))
    ...     np.save(file, np.array([[1.0, 2.0]]))
    ...     print(operators.matrix((1, 2), file).M)
    [[1. 2.]]
    """
    M = given.matrix(file, pixels(shape))
    return Matrix(jnp.asarray(M, complex if np.iscomplexobj(M) else float))


def random_matrix(shape: tuple[int, int], rate: float = 0.5, seed: int = 0) -> Matrix:
    """Compressed sensing: a matrix of independent normal entries, with `rate` times as many rows as
    there are pixels, of variance 1 / rows.

    Raises: ValueError for a rate that is not in (0, 1] or leaves no row, and a seed that is none.

    >>> K = operators.random_matrix((4, 4), rate=0.5)
    >>> print(K.apply(jnp.zeros((2, 16))).shape)  # half as many data as pixels
    (2, 8)
    """
    rows = int(checks.number("rate", rate, above=0, most=1) * pixels(shape))
    if rows < 1:
        raise ValueError(f"rate={rate}: no row for {pixels(shape)} pixels; take a larger rate")
    whole("seed", seed, least=0, most=2**32 - 1)
    M = jax.random.normal(jax.random.key(seed), (rows, pixels(shape))) / rows**0.5
    return Matrix(M)
