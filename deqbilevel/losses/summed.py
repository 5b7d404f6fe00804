"""Losses made of others: weighted sums, and of images with and without the truth."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deqbilevel import checks
from deqbilevel.losses.base import Additive, Informed, Known, Loss, Penalised, of
from deqbilevel.types import Images


def summed(parts: Sequence[tuple[float, Loss]]) -> Informed:
    """sum_i weight_i loss_i.

    Raises: ValueError for sums over images beside means, and for penalised losses.

    >>> loss = losses.summed([(1.0, losses.mean_squared_error), (2.0, losses.mean_absolute_error)])
    >>> u, truth = jnp.array([[3.0]]), jnp.array([[0.0]])
    >>> print(losses.of(loss, u, losses.Known(truth, truth, {}, None)))
    15.0
    """
    for weight, loss in parts:
        checks.number("weight", weight, least=0)
        if isinstance(loss, Additive | Penalised):
            raise ValueError(
                f"loss {loss!r}: a sum needs means over images without penalties; take "
                "mean_squared_error, or penalise the sum"
            )
    asking: list[Any] = [loss for _, loss in parts if isinstance(loss, Informed) and loss.further]

    def further(known: Known) -> Array:
        return jnp.concatenate([loss.further(known) for loss in asking], axis=1)

    def function(u: Images, known: Known) -> Float[Array, ""]:
        total, seen = jnp.zeros((), u.dtype), 0
        for weight, loss in parts:
            own = known
            if isinstance(loss, Informed) and loss.further:
                count = loss.further(known).shape[1]
                part = slice(seen, seen + count)
                own = known._replace(
                    further_f=known.further_f[:, part], further_u=known.further_u[:, part]
                )
                seen += count
            total = total + weight * of(loss, u, own)
        return total

    return Informed(function, further if asking else None)


def semi_supervised(clean: Loss, noisy: Loss, weight: float = 1.0) -> Informed:
    """Of images with the truth and of others, whose truth is NaN, [CF] 7.5:

        mean over the former of clean + weight * mean over the latter of noisy

    of a batch, each mean over as many images as it has.
    Raises: ValueError for sums over images, penalties, and a weight below 0.

    >>> loss = losses.semi_supervised(losses.mean_squared_error, losses.Informed(
    ...     lambda u, known: jnp.mean((u - known.f) ** 2)), weight=0.5)
    >>> u, f = jnp.array([[1.0], [2.0]]), jnp.array([[9.0], [4.0]])
    >>> truth = jnp.array([[3.0], [jnp.nan]])
    >>> print(losses.of(loss, u, losses.Known(truth, f, {}, None)))  # 2^2 + 0.5 * 2^2
    6.0
    """
    checks.number("weight", weight, least=0)
    for loss in (clean, noisy):
        if isinstance(loss, Additive | Penalised):
            raise ValueError(f"loss {loss!r}: expected a mean over images without a penalty")
    further = noisy.further if isinstance(noisy, Informed) else None
    if isinstance(clean, Informed) and clean.further:
        raise ValueError("clean: asks for further measurements; expected a loss of the truth")

    def function(u: Images, known: Known) -> Float[Array, ""]:
        has = jnp.isfinite(known.truth[:, 0])
        # Where there is no truth, the reconstruction is one: any loss and its slope are numbers.
        truth = jnp.where(has[:, None], known.truth, jax.lax.stop_gradient(u))

        def one(i: Array) -> tuple[Array, Array]:
            def row(x: Any) -> Any:
                return None if x is None else jax.lax.dynamic_slice_in_dim(x, i, 1)

            own = known._replace(
                truth=row(truth),
                f=row(known.f),
                further_f=row(known.further_f),
                further_u=row(known.further_u),
            )
            return of(clean, row(u), own), of(noisy, row(u), own)

        with_truth, without = jax.vmap(one)(jnp.arange(len(u)))
        count = jnp.maximum(jnp.sum(has), 1), jnp.maximum(jnp.sum(~has), 1)
        return (
            jnp.sum(jnp.where(has, with_truth, 0)) / count[0]
            + weight * jnp.sum(jnp.where(has, 0, without)) / count[1]
        )

    return Informed(function, further, some_truth=True)
