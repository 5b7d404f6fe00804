"""Evaluation: the loss of reconstructions of images, and how it is recorded."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from deqbilevel import checks, precision
from deqbilevel.learning import knowing
from deqbilevel.losses import Loss, mean_squared_error, per_image, plain
from deqbilevel.models import Model
from deqbilevel.types import Images, Params, Solver

BATCH = 100
"""Images in a batch, as in [REB] 4."""

HUGE = 1e30
"""What the loss of a diverged run is recorded as; means of it are still finite in float32."""


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
    """The loss of the reconstructions of every image, with fresh noise, without its penalty.

    Solves in batches (the last may be smaller); returns the means over images of `loss`,
    `evaluations` and `residual`, with another loss than it that of `mean_squared_error` too, and
    the `spent` evaluations of each batch, with the `Model.preparation` in the first. Computed in
    the dtype of the weights.
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
    if model.factors is not None:
        params = model.completed(params)  # one factorisation for all batches
    judged = plain(loss_function)
    further = {} if judged is mean_squared_error else {"mean_squared_error"}

    def batch(truth: Images, key: PRNGKeyArray) -> Array:
        f = model.measure(params, truth, key)
        known = knowing.known(model, model.completed(params), truth, f)
        rows, info = model.reconstruct(solver, params, knowing.rows(judged, known))
        loss = per_image(judged, knowing.value(judged, rows, known), len(truth))
        u, _ = knowing.told(judged, rows, known)
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
    first = min(batch_size, len(images))
    preparation = model.preparation(first)
    totals = totals.at[1].add(first * preparation)
    means = finite(totals / len(images))
    named = dict(zip(("loss", "evaluations", "residual", *further), means, strict=True))
    return named | {"spent": jnp.concatenate(spent).at[0].add(preparation)}
