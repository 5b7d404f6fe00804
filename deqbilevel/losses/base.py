"""What an upper-level loss is: of reconstructions and the truth, or of whatever else is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from deqbilevel import checks
from deqbilevel.types import Images, Params

Supervised = Callable[[Images, Images], Float[Array, ""]]
"""(u, truth) -> one number, a mean over the images."""


class Known(NamedTuple):
    """What is known beside the reconstructions."""

    truth: Any
    """[batch, pixels], at which no loss without the truth looks; None before there is one."""
    f: Inexact[Array, "batch data"]
    params: Params
    """With lam, gamma and tau, as the lower level has them."""
    model: Any
    """`models.Model` with the operator K at these params."""
    further_f: Any = None
    """The measurements that the loss asked for, [batch, further, data]."""
    further_u: Any = None
    """Their reconstructions, [batch, further, pixels]."""


@dataclass(frozen=True)
class Informed:
    """A loss of reconstructions and of what is known.

    >>> fit = losses.Informed(lambda u, known: jnp.mean((u - known.f) ** 2))
    >>> u, f = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])
    >>> print(losses.of(fit, u, losses.Known(u, f, {}, None)))
    2.0
    """

    function: Callable[[Images, Known], Float[Array, ""]]
    further: Callable[[Known], Inexact[Array, "batch further data"]] | None = None
    """What has to be reconstructed beside f for the loss: `known.further_u` are then solved with u
    in one batch, and the hypergradient goes through both."""
    some_truth: bool = False
    """Whether images may be without the truth: rows of it that are not numbers (NaN)."""


@dataclass(frozen=True)
class Additive:
    """A loss that is a sum over images; any other is taken for a mean.

    >>> total = losses.Additive(lambda u, truth: jnp.sum(jnp.abs(u - truth)))
    >>> print(total(jnp.zeros((2, 3)), jnp.ones((2, 3))))
    6.0
    """

    function: Supervised

    def __call__(self, u: Images, truth: Images) -> Float[Array, ""]:
        return self.function(u, truth)


@dataclass(frozen=True)
class Penalised:
    """loss + penalty(params), such as [CF] (6.3) for a sampling that is learned.

    Where reconstructions are judged it is the loss alone.
    Raises: ValueError for an `Additive` loss, beside which the penalty would count once for each
    shape of images: take a mean.

    >>> loss = losses.Penalised(losses.mean_squared_error, lambda params: 0.5 * params["s"])
    >>> u, truth = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])
    >>> print(losses.of(loss, u, losses.Known(truth, truth, {"s": jnp.array(1.0)}, None)))
    2.5
    """

    function: Any
    penalty: Callable[[Params], Float[Array, ""]]

    def __post_init__(self) -> None:
        if isinstance(self.function, Additive):
            raise ValueError("Penalised: of a sum over images; expected a mean over them")


Loss = Supervised | Informed | Penalised


def require(name: str, loss: Loss) -> None:
    """Raises ValueError for what is no loss.

    >>> losses.require("loss", losses.mean_squared_error)  # no error
    """
    if not isinstance(loss, Informed | Penalised):
        checks.function(name, loss)


def plain(loss: Loss) -> Supervised | Informed:
    """The loss without its penalty.

    >>> loss = losses.Penalised(losses.mean_squared_error, lambda params: params["s"])
    >>> print(losses.plain(loss) is losses.mean_squared_error)
    True
    """
    return plain(loss.function) if isinstance(loss, Penalised) else loss


def of_truth(loss: Loss) -> Supervised | None:
    """The loss as a function of reconstructions and truth alone, without its penalty; None where it
    is none.

    >>> print(losses.of_truth(losses.discrepancy((2, 2))))
    None
    """
    own = plain(loss)
    return None if isinstance(own, Informed) else own


def of(loss: Loss, u: Images, known: Known) -> Float[Array, ""]:
    """The loss of reconstructions. Raises: ValueError for one that is not one number.

    >>> u, truth = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])
    >>> print(losses.of(losses.mean_squared_error, u, losses.Known(truth, truth, {}, None)))
    2.0
    """
    own = plain(loss)
    value = own.function(u, known) if isinstance(own, Informed) else own(u, known.truth)
    if isinstance(loss, Penalised):
        value = value + loss.penalty(known.params)
    value = jnp.asarray(value)
    if value.shape:
        raise ValueError(
            f"loss_function: of shape {value.shape}; expected one number, a mean over the images"
        )
    return value


def shares(loss: Loss, sizes: Sequence[int]) -> list[float]:
    """The weights by which the losses of sets of images of these sizes make that of all.

    >>> print(losses.shares(losses.mean_squared_error, [1, 3]))
    [0.25, 0.75]
    >>> print(losses.shares(losses.half_squared_error, [1, 3]))
    [1.0, 1.0]
    """
    if isinstance(loss, Additive):
        return [1.0] * len(sizes)
    return [size / sum(sizes) for size in sizes]


def per_image(loss: Loss, value: Float[Array, ""], count: int) -> Float[Array, ""]:
    """The mean over images of what a loss is for so many.

    >>> print(losses.per_image(losses.half_squared_error, jnp.array(6.0), 3))
    2.0
    """
    return value / count if isinstance(loss, Additive) else value


def pair(u: Images, truth: Images) -> None:
    """Raises: ValueError for arrays that are not of one shape, or no images, one or more."""
    checks.alike(u=u, truth=truth)
    checks.rows("u", u)
    checks.rows("truth", truth)
