"""Anderson's history, and the weights by which it is mixed: in few passes over few arrays.

A GPU waits for memory and for launches, so the loop's body touches arrays of the size of the batch
as rarely as may be: one pass makes a row of the Gram matrix, in which the new residual's own norm
is, and one mixes.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.lax import dynamic_update_index_in_dim
from jaxtyping import Array, Bool, Float, Int

UNROLLED = 10
"""The largest window whose systems are solved by a factorisation written out, which grows with the
cube of the window: it takes half a second to compile for 5, and two for 10."""


History = tuple[
    Float[Array, "batch window n"], Float[Array, "batch window n"], Float[Array, "batch w w"]
]
"""What is mixed, residuals r_i, and their inner products <r_i, r_j> for each image."""


def nothing(window: int, batch: int, pixels: int, dtype: Any) -> History:
    """The history before the first evaluation."""
    rows = jnp.zeros((batch, window, pixels), dtype)
    return rows, rows, jnp.zeros((batch, window, window), dtype)


def from_one(u0: Float[Array, "batch n"], window: int) -> History:
    """A history that is mixed to u0, so that the first evaluation is like all others."""
    images, residuals, gram = nothing(window, len(u0), u0.shape[1], u0.dtype)
    return images.at[:, 0].set(u0), residuals, gram.at[:, 0, 0].set(1)


def remembered(
    history: History, slot: Int[Array, ""], point: Array, residual: Array
) -> tuple[History, Float[Array, " batch"]]:
    """The history with one entry anew, and ||residual||^2 of each image."""
    points, residuals, gram = history
    points, residuals = put(points, point, slot), put(residuals, residual, slot)
    # One row of the Gram matrix is new: a window's worth of inner products, not its square.
    row = jnp.einsum("bmn,bn->bm", residuals, residual)
    here = jnp.arange(row.shape[1]) == slot
    gram = jnp.where(here[:, None], row[:, None, :], jnp.where(here, row[:, :, None], gram))
    return (points, residuals, gram), jnp.sum(jnp.where(here, row, 0), axis=1)


def mix(
    alpha: Float[Array, "batch window"], rows: Float[Array, "batch window n"]
) -> Float[Array, "batch n"]:
    """sum_i alpha_i rows_i."""
    return jnp.einsum("bm,bmn->bn", alpha, rows)


def put(
    x: Float[Array, "batch window n"], new: Float[Array, "batch n"], slot: Int[Array, ""]
) -> Float[Array, "batch window n"]:
    """x with `new` in a slot, written in place by XLA, also where lanes share the slot."""
    return _put(1)(x, new, slot)


@lru_cache
def _put(axis: int) -> Any:
    """JAX makes a scatter of an update under `vmap`, which checks its bounds in kernels of its own,
    whether indices differ between lanes or not."""

    @custom_vmap
    def update(x: Array, new: Array, slot: Array) -> Array:
        return dynamic_update_index_in_dim(x, new, slot, axis)

    @update.def_vmap
    def _(size: int, batched: list[bool], x: Array, new: Array, slot: Array) -> tuple[Array, bool]:
        if batched[2]:
            return jax.vmap(put_at, [0 if each else None for each in batched])(x, new, slot), True
        x, new = (
            y if each else jnp.broadcast_to(y, (size, *y.shape))
            for y, each in zip((x, new), batched[:2], strict=True)
        )
        return _put(axis + 1)(x, new, slot), True

    def put_at(x: Array, new: Array, slot: Array) -> Array:
        return dynamic_update_index_in_dim(x, new, slot, axis)

    put: Any = jax.custom_jvp(update)

    @put.defjvp
    def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
        x, new, slot = primals
        dx, d_new, _ = tangents
        return put(x, new, slot), put_at(dx, d_new, slot)

    return put


def weights(
    gram: Float[Array, "batch window window"],
    filled: Bool[Array, " window"],
    ridge: Any,
    relative: bool,
) -> Float[Array, "batch window"]:
    """(gram + ridge I)^{-1} 1, normalised to sum 1, over the filled part of the window."""
    if relative:
        count = jnp.sum(filled)
        scale = jnp.trace(gram, axis1=1, axis2=2)[:, None, None] / count
        # A ridge below rounding leaves a singular system where residuals are collinear.
        ridge = jnp.maximum(ridge, 8 * jnp.finfo(gram.dtype).eps)
        # At an exact fixed point the Gram matrix is zero; every weight is then as good.
        gram = gram / jnp.where(scale > 0, scale, 1)
    eye = jnp.eye(filled.size, dtype=gram.dtype)
    system = jnp.where(filled[:, None] & filled, gram + ridge * eye, eye)
    ones = jnp.broadcast_to(filled.astype(gram.dtype)[:, None], (*gram.shape[:2], 1))
    if filled.size > UNROLLED:
        alpha = jnp.linalg.solve(system, ones)[..., 0]
    else:
        alpha = _positive_solve(system, ones[..., 0], filled)
    return alpha / jnp.sum(alpha, axis=1, keepdims=True)


def _positive_solve(
    A: Float[Array, "batch n n"], b: Float[Array, "batch n"], filled: Bool[Array, " n"]
) -> Float[Array, "batch n"]:
    """x with A x = b by A = L L^T, for a positive semidefinite A.

    Written out, entry by entry for the whole batch: XLA makes one or a few kernels of it, where a
    batched LU decomposition is a dozen. A pivot is at least what rounding leaves of the largest
    filled one, and 1 where all vanish: then every x is as good.
    """
    n = A.shape[1]
    largest = jnp.max(jnp.where(filled, jnp.diagonal(A, axis1=1, axis2=2), 0), axis=1)
    eps, tiny = jnp.finfo(A.dtype).eps, jnp.finfo(A.dtype).tiny
    least = jnp.where(largest > tiny / eps, eps * largest, 1)
    L: dict[tuple[int, int], Array] = {}
    scale, y, x = {}, {}, {}
    for j in range(n):
        pivot = A[:, j, j] - sum(L[j, k] ** 2 for k in range(j))
        scale[j] = jax.lax.rsqrt(jnp.maximum(pivot, least))
        y[j] = (b[:, j] - sum(L[j, k] * y[k] for k in range(j))) * scale[j]
        for i in range(j + 1, n):
            L[i, j] = (A[:, i, j] - sum(L[i, k] * L[j, k] for k in range(j))) * scale[j]
    for j in reversed(range(n)):
        x[j] = (y[j] - sum(L[i, j] * x[i] for i in range(j + 1, n))) * scale[j]
    return jnp.stack([x[j] for j in range(n)], axis=1)
