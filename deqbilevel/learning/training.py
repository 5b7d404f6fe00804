"""Training on images of one shape with fresh noise: the scanned steps of an epoch and the
evaluation, jitted.

Everything is written for one run. With `lanes` the same functions run over a leading axis of the
state and the key, so that many settings of the hyperparameters train at once, on every device.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Int, PRNGKeyArray

from deqbilevel import checks, losses, precision, settings
from deqbilevel.lanes import Lanes
from deqbilevel.learning import starting, stepping
from deqbilevel.learning.base import Learner, Metrics, State, check_names
from deqbilevel.learning.evaluation import BATCH, evaluation
from deqbilevel.learning.rates import Optimiser, Schedule, adam, cosine
from deqbilevel.losses import Loss, mean_squared_error
from deqbilevel.models import Model
from deqbilevel.settings import Setting
from deqbilevel.types import Images, Params


class Trainer(NamedTuple):
    """The functions of a model under a setting, jitted; with lanes, over all but the images."""

    init: Callable[..., State]
    """(params, f) -> state; f: the measurements of all images where a run keeps them."""
    steps: Any
    """(state, images [n, pixels], order [steps, batch], keys [steps], f) -> (state, metrics), with
    fresh measurements without f: [n, data]. The state's buffers are donated: use the one that comes
    back."""
    evaluate: Callable[..., dict[str, Array]]
    """(params, images, key) -> what `evaluation` returns."""
    draw: Callable[..., tuple[Array, ...]]
    """(key, epoch, images) -> order [blocks, steps, batch], keys [blocks, steps] of an epoch, and a
    key each for the evaluation on test and training images."""
    lanes: Lanes | None
    learner: Learner


def trainer(
    model: Model,
    setting: Setting,
    *,
    total_steps: int,
    batch_size: int | None = None,
    lanes: Lanes | None = None,
    loss_function: Loss = mean_squared_error,
    learned: tuple[str, ...] | None = None,
    schedule: Schedule = cosine,
    optimiser: Optimiser | None = None,
    sampling: bool = False,
    evaluations: int = 0,
    passes: int = 1,
) -> Trainer:
    """Jitted functions for `total_steps` steps in all; with `lanes`, over a leading lane axis.

    batch_size: `BATCH` by default, or all training images where they are fewer. loss_function: what
    is learned by and reported, a mean over the images of a batch. learned: the
    entries of `params` that are; None: those that the regulariser names. optimiser: None: Adam,
    whose rate is that of `params`, or of the setting where `params` has none, and falls along the
    schedule. sampling: see `Learner`. evaluations: of the lower level of each image before the
    first step of a warm run. passes: over the training images in an epoch, each in an order of its
    own.
    Raises: ValueError for a setting or a number that cannot be used (`settings.check`), and from
    the functions where params lack what is learned or what the model has, or where images are
    none, fewer than a batch, of other pixels than the model's, or not floating.

    >>> model = models.build("denoising", "deq", (1, 2))
    >>> print(learning.trainer(model, settings.SETTINGS["fast"], total_steps=2).learner.learned)
    ('A', 'b', 'C')
    """
    settings.check(setting)
    for name, value in {"total_steps": total_steps, "passes": passes}.items():
        checks.whole(name, value)
    losses.require("loss_function", loss_function)
    checks.function("schedule", schedule)
    for name, value, kind in (("model", model, Model), ("lanes", lanes, Lanes | None)):
        if not isinstance(value, kind):
            raise ValueError(f"{name} {value!r}: expected what {name}.build makes")
    learned = model.R.learned if learned is None else learned
    check_names(learned)
    evaluated_together = BATCH if batch_size is None else checks.whole("batch_size", batch_size)
    learner = Learner(
        (model,),
        setting,
        adam(total_steps, schedule) if optimiser is None else optimiser,
        learned,
        loss_function,
        sampling,
    )

    def init(params: Params, f: Any = None) -> State:
        return starting.start(learner, params, f, evaluations=0 if f is None else evaluations)

    def steps(
        state: State, images: Images, order: Array, keys: Array, f: Any = None
    ) -> tuple[State, Metrics]:
        checks.rows("images", images, math.prod(model.shape))
        return stepping.steps(learner, state, images, order, f=f, keys=keys)

    def evaluate(params: Params, images: Images, key: PRNGKeyArray) -> dict[str, Array]:
        solver = setting.of(params).evaluation()
        evaluated = precision.at(setting.precision, evaluation)
        return evaluated(
            model, solver, params, images, key, evaluated_together, loss_function=loss_function
        )

    def draw(key: PRNGKeyArray, epoch: Int[Array, ""] | int, images: Images) -> tuple[Array, ...]:
        checks.rows("images", images, math.prod(model.shape))
        parts = jax.random.split(jax.random.fold_in(checks.key("key", key), epoch), 4)
        batch, count, block = _blocks(len(images), batch_size, passes)
        streams = jax.random.split(parts[0], passes) if passes > 1 else parts[:1]
        orders = jax.vmap(lambda stream: jax.random.permutation(stream, len(images)))(streams)
        order = orders[:, : count // passes * batch]
        keys = jax.random.split(parts[1], count).reshape(count // block, block)
        return order.reshape(count // block, block, batch), keys, parts[2], parts[3]

    if lanes:
        init = lanes.over(init, (0,))
        steps = lanes.over(steps, (0, None, 0, 0))
        evaluate = lanes.over(evaluate, (0, None, 0))
        draw = lanes.over(draw, (0, None, None))
    beginning, donating = jax.jit(init), jax.jit(steps, donate_argnums=0)

    def begin(params: Params, *f: Any) -> State:
        if f and lanes:
            raise ValueError("f: measurements that stay are for one run, and this one has lanes")
        if model.factors is not None and not lanes:
            model.completed(params)  # which names an activation that it is not for
        return beginning(params if lanes else checks.finite("params", params), *f)

    return Trainer(begin, donating, jax.jit(evaluate), jax.jit(draw), lanes, learner)


def steps_per_epoch(images: int, batch_size: int | None = None, passes: int = 1) -> int:
    """The number of whole batches, of the default size where that is None.

    Raises: ValueError for a batch that is larger than the number of images, and for numbers that
    are not whole, 1 or more.

    >>> print(learning.steps_per_epoch(1050, batch_size=100))
    10
    """
    checks.whole("passes", passes)
    return passes * (images // _batch(images, batch_size))


def _batch(images: int, batch_size: int | None) -> int:
    checks.whole("training images", images)
    if batch_size is None:
        return min(BATCH, images)
    if checks.whole("batch_size", batch_size) > images:
        raise ValueError(
            f"batch_size={batch_size}: larger than the number of training images; expected "
            f"{images} or less"
        )
    return batch_size


def _blocks(images: int, batch_size: int | None, passes: int) -> tuple[int, int, int]:
    """The size of a batch, batches per epoch, and batches per call of `Trainer.steps`."""
    count = steps_per_epoch(images, batch_size, passes)
    block = max(d for d in range(1, min(count, 20) + 1) if count % d == 0)
    return _batch(images, batch_size), count, block
