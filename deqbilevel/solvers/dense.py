"""The dense solve, which the other adjoint solvers are judged by."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from deqbilevel import checks
from deqbilevel.solvers.base import iterate, linear, relative_residual
from deqbilevel.types import Adjoint, Info


def dense(*, tolerance: Any = 1e-3, max_evaluations: Any = 1, largest: int = 4096) -> Adjoint:
    """(I - J) w = g by the LU decomposition of the matrix of each image: the oracle.

    The matrices are [batch, pixels, pixels], from a product for each pixel whatever the budget; J
    mixes no images. One more product gives the residual. A matrix that is singular, or so but for
    rounding, gives w = 0 and an infinite residual. Raises ValueError for images of more than
    `largest` pixels.

    >>> J = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> w, _ = solvers.dense()(lambda w: w @ J, jnp.ones((1, 2)))
    >>> print(w)  # (I - J)^T w = g
    [[0. 1.]]
    """
    checks.limits(tolerance, max_evaluations)
    checks.count("largest", largest)

    def adjoint(vjp: Callable[[Array], Array], g: Array) -> tuple[Array, Info]:
        pixels = g[0].size
        if pixels > largest:
            raise ValueError(
                f"dense: the adjoint system of an image is {pixels} x {pixels}, expected at most "
                f"{largest} pixels; take an iterative adjoint, such as gmres"
            )

        def product(x: Array) -> Array:
            return vjp(jnp.broadcast_to(x.reshape(g[0].shape), g.shape)).reshape(len(g), pixels)

        def step(k: Array, state: tuple[()]) -> tuple[Any, Array, Array]:
            eye = jnp.eye(pixels, dtype=g.dtype)
            columns = jax.vmap(product, out_axes=2)(eye)
            matrix, b = eye - columns, g.reshape(len(g), pixels, 1)
            w = jnp.linalg.solve(matrix, b)
            # Of a matrix that is singular but for rounding, w is as long as that allows.
            size = [jnp.linalg.norm(x, axis=(1, 2), keepdims=True) for x in (matrix, w, b)]
            lost = size[0] * size[1] > 0.1 / jnp.finfo(g.dtype).eps * size[2]
            w = jnp.where(lost, jnp.nan, w).reshape(g.shape)
            return (), w, relative_residual(vjp(w) + g, w)

        w, info = iterate(step, (), jnp.zeros_like(g), tolerance=tolerance, max_evaluations=1)
        return w, info._replace(evaluations=pixels + info.evaluations)

    return linear("dense", adjoint)
