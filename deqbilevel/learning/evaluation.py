"""Evaluation: the loss of reconstructions of images, and how it is recorded."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks, precision
from deqbilevel.losses import Loss, Penalised, mean_squared_error, per_image
from deqbilevel.models import Model
from deqbilevel.types import Images, Params, Solver

BATCH = 100
"""Images in a batch, as in [REB] 4."""

HUGE = 1e30
"""What the loss of a diverged run is recorded as; means of it are still finite in float32."""


def mean_loss(
    loss_function: Loss, u: Images, truth: Images, params: Params | None = None
) -> Float[Array, ""]:
    """The loss of a batch, with its penalty at the params where it has one and they are given.

    Raises: ValueError for one that is not one number.

    >>> u, truth = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])
    >>> print(learning.mean_loss(losses.mean_squared_error, u, truth))
    2.0
    """
    known = isinstance(loss_function, Penalised)
    value = jnp.asarray(loss_function(u, truth, params) if known else loss_function(u, truth))
    if value.shape:
        raise ValueError(
            f"loss_function: of shape {value.shape}; expected one number, a mean over the images"
        )
    return value


def finite(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x with what overflowed replaced by 1e30, so that a diverged run can be compared.

    >>> print(learning.finite(jnp.array([1.0, jnp.nan])) == jnp.array([1.0, learning.HUGE]))
    [ True  True]
    """
    return jnp.clip(jnp.nan_to_num(x, nan=HUGE), -HUGE, HUGE)


@precision.highest
def evaluation(
    model: Model,
    solver: Solver,
    params: Params,
    images: Images,
    key: PRNGKeyArray,
    batch_size: int = BATCH,
    *,
    loss_function: Loss = mean_squared_error,
) -> dict[str, Array]:
    """The loss of the reconstructions of every image, with fresh noise.

    Solves in batches (the last may be smaller); returns the means over images of `loss`,
    `evaluations` and `residual`, with another loss than it that of `mean_squared_error` too, and
    the `spent` evaluations of each batch. Computed in the dtype of the weights.
    Raises: ValueError for images that the model has not, see `trainer`.

    >>> model, u = models.build("denoising", "bilevel", (1, 2)), jnp.array([[0.5, -0.5]])
    >>> scalars = models.hyperparameters(tau=1.0, gamma=0.0, activation="identity", noise=0.0)
    >>> params = model.init(jax.random.key(0)) | scalars  # u* = f without gamma
    >>> print(learning.evaluation(model, solvers.picard(), params, u, jax.random.key(0))["loss"])
    0.0
    """
    checks.whole("batch_size", batch_size)
    checks.rows("images", images, math.prod(model.shape))
    params, images = precision.as_weights(params, images)
    further = {} if loss_function is mean_squared_error else {"mean_squared_error"}

    def batch(truth: Images, key: PRNGKeyArray) -> Array:
        f = model.measure(params, truth, key)
        u, info = model.reconstruct(solver, params, f)
        loss = per_image(loss_function, mean_loss(loss_function, u, truth), len(truth))
        found = [loss, info.evaluations.astype(loss.dtype), info.residual]
        return jnp.stack([*found, *(mean_squared_error(u, truth) for _ in further)])

    count = len(images) // batch_size
    keys = jax.random.split(key, count + 1)
    rest = images[count * batch_size :]
    totals, spent = jnp.zeros(3 + len(further), precision.dtype_of(params)), []
    if count:
        batches = images[: count * batch_size].reshape(count, batch_size, -1)
        values = jax.lax.map(lambda x: batch(*x), (batches, keys[:count]))
        totals += batch_size * jnp.sum(values, axis=0)
        spent.append(values[:, 1])
    if len(rest):
        value = batch(rest, keys[count])
        totals += len(rest) * value
        spent.append(value[1:2])
    means = finite(totals / len(images))
    named = dict(zip(("loss", "evaluations", "residual", *further), means, strict=True))
    return named | {"spent": jnp.concatenate(spent)}
