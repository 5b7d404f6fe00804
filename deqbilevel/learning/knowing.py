"""What an upper-level loss is told: the truth, the measurement, the problem, and reconstructions of
the further measurements that it asks for, which are solved in one batch with the others.

    known = knowing.known(model, params, truth, f)
    u, info = solve(params, knowing.rows(loss, known), ...)     # [batch (1 + further), pixels]
    value = knowing.value(loss, u, known)
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from deqbilevel import losses, operators
from deqbilevel.losses import Informed, Known, Loss
from deqbilevel.models import Model
from deqbilevel.types import Images, Params, TrainImages


def known(
    model: Model, params: Params, truth: Images | None, f: Inexact[Array, "batch data"]
) -> Known:
    """What is known before anything is solved, with the operator at the params."""
    return Known(truth, f, params, model._replace(K=operators.of(model.K, params)))


def rows(loss: Loss, known: Known) -> Inexact[Array, "rows data"]:
    """The measurement of each image, followed by those that the loss asks for.

    >>> twice = losses.Informed(lambda u, known: 0.0, lambda known: 2 * known.f[:, None])
    >>> known = losses.Known(None, jnp.array([[1.0, 2.0]]), {}, None)
    >>> print(learning.knowing.rows(twice, known))
    [[1. 2.]
     [2. 4.]]
    """
    further = _further(loss, known)
    if further is None:
        return known.f
    together = jnp.concatenate([known.f[:, None], further], axis=1)
    return together.reshape(-1, known.f.shape[-1])


def value(loss: Loss, u: Float[Array, "rows pixels"], known: Known) -> Float[Array, ""]:
    """The loss of the reconstructions of `rows`. Raises: ValueError for one that is not one number.

    >>> model, u = models.build("denoising", "bilevel", (1, 2)), jnp.array([[1.0, 2.0]])
    >>> told = learning.knowing.known(model, {}, jnp.array([[1.0, 4.0]]), u)
    >>> print(learning.knowing.value(losses.mean_squared_error, u, told))
    2.0
    """
    u, known = told(loss, u, known)
    return losses.of(loss, u, known)


def told(loss: Loss, u: Float[Array, "rows pixels"], known: Known) -> tuple[Images, Known]:
    """The reconstructions of f, and what is known with those of further measurements.

    >>> twice = losses.Informed(lambda u, known: 0.0, lambda known: 2 * known.f[:, None])
    >>> known = losses.Known(None, jnp.array([[1.0, 2.0]]), {}, None)
    >>> u, known = learning.knowing.told(twice, jnp.array([[1.0, 2.0], [3.0, 4.0]]), known)
    >>> print(u, known.further_u)
    [[1. 2.]] [[[3. 4.]]]
    """
    further = _further(loss, known)
    if further is None:
        return u, known
    u = u.reshape(len(known.f), -1, u.shape[-1])
    return u[:, 0], known._replace(further_f=further, further_u=u[:, 1:])


def with_truth(loss: Loss, images: TrainImages) -> Float[Array | np.ndarray, "there pixels"]:
    """The images whose truth is known: all, unless the loss does without that of some.

    >>> loss = losses.semi_supervised(losses.mean_squared_error, losses.discrepancy((1, 2)))
    >>> print(learning.knowing.with_truth(loss, jnp.array([[1.0, 2.0], [jnp.nan, jnp.nan]])))
    [[1. 2.]]
    """
    own = losses.plain(loss)
    if not (isinstance(own, Informed) and own.some_truth):
        return images
    return images[~np.isnan(images).all(axis=1)]


def _further(loss: Loss, known: Known) -> Inexact[Array, "batch further data"] | None:
    own = losses.plain(loss)
    asks = own.further if isinstance(own, Informed) else None
    return None if asks is None else asks(known)
