"""Training: the jitted step, the scanned steps of an epoch, and the jitted evaluation.

Everything is written for one run. With `lanes` the same functions run over a leading axis of the
state and the key, so that many settings of the hyperparameters train at once, on every device. A
run whose loss or hypergradient is no longer finite has diverged: it keeps its last finite weights
from then on, and says so. A guarded run goes back instead, see `Setting.guard`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deqbilevel import checks, precision
from deqbilevel.evaluation import BATCH, evaluation, finite, mean_loss
from deqbilevel.hypergradients import no_info
from deqbilevel.lanes import Lanes
from deqbilevel.losses import Loss, mean_squared_error
from deqbilevel.models import Model, measure
from deqbilevel.settings import Budget, Setting, check
from deqbilevel.types import Images, Params

LEARNED = ("A", "b", "C")
"""The entries of `params` that are learned; any scalar may be added, such as "tau"."""

Schedule = Callable[[Array, int], optax.Schedule]
"""(rate at the start, steps in all) -> step -> learning rate."""


class State(NamedTuple):
    """What the next step needs."""

    params: Params
    optimiser: optax.OptState
    step: Int[Array, ""]
    budget: Budget
    diverged: Bool[Array, ""]
    solved: Params | None = None
    """Of a guarded run: the last weights at which both solves came near enough."""


class Metrics(NamedTuple):
    """What a person reads of a step; of a scanned epoch, with a leading axis of steps."""

    step_loss: Float[Array, "*steps"]
    forward_evaluations: Float[Array, "*steps"]
    adjoint_evaluations: Float[Array, "*steps"]
    forward_residual: Float[Array, "*steps"]
    adjoint_residual: Float[Array, "*steps"]
    solved: Float[Array, "*steps"]
    """Whether both solves met their tolerance, or in a guarded run came as near as it asks."""


class Trainer(NamedTuple):
    """The functions of a model under a setting, jitted; with lanes, over all but the images."""

    init: Callable[[Params], State]
    """params -> state."""
    steps: Any
    """(state, images [n, pixels], order [steps, batch], keys [steps]) -> (state, metrics). The
    state's buffers are donated: use the one that comes back."""
    evaluate: Callable[..., dict[str, Array]]
    """(params, images, key) -> what `evaluation` returns."""
    draw: Callable[..., tuple[Array, ...]]
    """(key, epoch, images) -> order [blocks, steps, batch], keys [blocks, steps] of an epoch, and a
    key each for the evaluation on test and training images."""
    lanes: Lanes | None


def optimiser(params: Params) -> optax.GradientTransformation:
    """Adam without its learning rate, which is a leaf of `params` and so may differ by lane;
    `params` may also have its `adam_b1`, `adam_b2` and `adam_eps`."""
    own = {name: params[f"adam_{name}"] for name in ("b1", "b2", "eps") if f"adam_{name}" in params}
    return optax.scale_by_adam(**own)


def cosine(start: Array, total_steps: int) -> optax.Schedule:
    """To 1e-6 with the last step, as in the code published with [REB] for digits; the text has
    T_max = 10,000 instead of the number of steps. Raises ValueError for fewer than one step."""
    checks.whole("total_steps", total_steps)
    return optax.cosine_decay_schedule(start, total_steps, alpha=1e-6 / start)


def linear(part: float) -> Schedule:
    """Along a line to a part of the start, as in the code published with [REB] for faces.

    Raises: ValueError for a part that is not from 0 to 1.
    """
    checks.number("part", part, least=0, most=1)
    return lambda start, total_steps: optax.linear_schedule(start, part * start, total_steps)


def descend(
    state: State, weights: Params, gradient: Params, total_steps: int, schedule: Schedule = cosine
) -> tuple[Params, optax.OptState]:
    """The weights after a step of Adam, whose rate falls from `params["learning_rate"]` along the
    schedule over `total_steps`, and the optimiser's state."""
    rates = schedule(state.params["learning_rate"], total_steps)
    directions, optimiser_state = optimiser(state.params).update(gradient, state.optimiser)
    rate = jnp.asarray(rates(state.step), precision.dtype_of(weights))
    moved = jax.tree.map(lambda w, direction: w - rate * direction, weights, directions)
    return moved, optimiser_state


def step(
    model: Model,
    setting: Setting,
    total_steps: int,
    state: State,
    truth: Images,
    key: PRNGKeyArray,
    *,
    loss_function: Loss = mean_squared_error,
    learned: tuple[str, ...] = LEARNED,
    schedule: Schedule = cosine,
) -> tuple[State, Metrics]:
    """One step of Adam on the hypergradient, with fresh noise, on a batch truth: [batch, pixels].

    The learning rate falls from `params["learning_rate"]` along the schedule, over `total_steps`.
    Where the setting is guarded and a solve is not near enough, its gradient is not used, and the
    weights go halfway back to the last at which both solves were. Computed in the dtype of the
    weights, products in the precision of the setting.
    """
    take = precision.at(setting.precision, _step)
    return take(model, setting, total_steps, state, truth, key, loss_function, learned, schedule)


def _step(
    model: Model,
    setting: Setting,
    total_steps: int,
    state: State,
    truth: Images,
    key: PRNGKeyArray,
    loss_function: Loss,
    learned: tuple[str, ...],
    schedule: Schedule,
) -> tuple[State, Metrics]:
    weights = {name: state.params[name] for name in learned if name in state.params}
    _, truth = precision.as_weights(state.params, truth)
    f = measure(model.K, truth, state.params["noise"], key)
    setting = setting.of(state.params)
    solve, params = model.solve(
        state.params,
        setting.differentiable(state.budget),
        preconditioned=setting.preconditioned,
    )

    def upper_level(weights: Params, probe: Any) -> tuple[Array, Any]:
        u, info = solve(params | weights, f, model.start(f), probe)
        return mean_loss(loss_function, u, truth), info

    (loss, info), (gradient, adjoint) = jax.value_and_grad(upper_level, (0, 1), has_aux=True)(
        weights, no_info(truth.dtype)
    )
    moved, optimiser_state = descend(state, weights, gradient, total_steps, schedule)
    diverged = ~jnp.isfinite(loss + optax.tree.norm(gradient))
    solved, last = setting.solved(info, adjoint), state.solved
    if setting.guard is not None:
        halfway = jax.tree.map(lambda w, back: (w + back) / 2, weights, last)
        moved, optimiser_state, last = jax.tree.map(
            partial(jnp.where, solved),
            (moved, optimiser_state, weights),
            (halfway, state.optimiser, last),
        )
        diverged &= solved
    diverged |= state.diverged
    proposal = (model.refresh(state.params | moved), optimiser_state)
    params, optimiser_state = jax.tree.map(
        lambda old, new: jnp.where(diverged, old, new).astype(old.dtype),
        (state.params, state.optimiser),
        proposal,
    )
    metrics = Metrics(
        loss,
        info.evaluations.astype(loss.dtype),
        adjoint.evaluations,
        info.residual,
        adjoint.residual,
        solved.astype(loss.dtype),
    )
    next_state = State(params, optimiser_state, state.step + 1, state.budget, diverged, last)
    return next_state, jax.tree.map(finite, metrics)


def trainer(
    model: Model,
    setting: Setting,
    *,
    total_steps: int,
    batch_size: int | None = None,
    lanes: Lanes | None = None,
    loss_function: Loss = mean_squared_error,
    learned: tuple[str, ...] = LEARNED,
    schedule: Schedule = cosine,
    passes: int = 1,
) -> Trainer:
    """Jitted functions for `total_steps` steps in all; with `lanes`, over a leading lane axis.

    batch_size: `BATCH` by default, or all training images where they are fewer. loss_function: what
    is learned by and reported, a mean over the images of a batch. learned: the
    entries of `params` that are, of which A, b and C need not be there. passes: over the training
    images in an epoch, each in an order of its own. The learning rate is that of `params`, or of
    the setting where `params` has none.
    Raises: ValueError for a setting or a number that cannot be used (`settings.check`), and from
    the functions where params lack what is learned or what the model has, or where images are
    none, fewer than a batch, of other pixels than the model's, or not floating.
    """
    check(setting)
    for name, value in {"total_steps": total_steps, "passes": passes}.items():
        checks.whole(name, value)
    for name, value in {"loss_function": loss_function, "schedule": schedule}.items():
        checks.function(name, value)
    if not isinstance(learned, tuple) or not all(isinstance(name, str) for name in learned):
        raise ValueError(f"learned={learned!r}: expected names of params, such as {LEARNED}")
    for name, value, kind in (("model", model, Model), ("lanes", lanes, Lanes | None)):
        if not isinstance(value, kind):
            raise ValueError(f"{name} {value!r}: expected what {name}.build makes")
    evaluated_together = BATCH if batch_size is None else checks.whole("batch_size", batch_size)
    one_step = partial(
        step,
        model,
        setting,
        total_steps,
        loss_function=loss_function,
        learned=learned,
        schedule=schedule,
    )

    def init(params: Params) -> State:
        model.require(params)
        missing = [name for name in learned if name not in params and name not in LEARNED]
        weights = {name: params[name] for name in learned if name in params}
        if missing or not weights:
            raise ValueError(
                f"learned={learned}: {missing or 'none'} of params, which has {sorted(params)}"
            )
        (params,) = precision.as_weights({"learning_rate": setting.learning_rate} | params)
        params = jax.tree.map(jnp.copy, params)  # the state's buffers will be donated
        weights = {name: params[name] for name in weights}
        budget = jax.tree.map(jnp.int32, setting.budget)
        return State(
            params,
            optimiser(params).init(weights),
            jnp.int32(0),
            budget,
            jnp.array(False),
            jax.tree.map(jnp.copy, weights) if setting.guard is not None else None,
        )

    def steps(state: State, images: Images, order: Array, keys: Array) -> tuple[State, Metrics]:
        checks.rows("images", images, math.prod(model.shape))
        return jax.lax.scan(lambda s, x: one_step(s, images[x[0]], x[1]), state, (order, keys))

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
        orders = [jax.random.permutation(stream, len(images)) for stream in streams]
        order = jnp.concatenate([one[: count // passes * batch] for one in orders])
        keys = jax.random.split(parts[1], count).reshape(count // block, block)
        return order.reshape(count // block, block, batch), keys, parts[2], parts[3]

    if lanes:
        init = lanes.over(init, (0,))
        steps = lanes.over(steps, (0, None, 0, 0))
        evaluate = lanes.over(evaluate, (0, None, 0))
        draw = lanes.over(draw, (0, None, None))
    beginning, donating = jax.jit(init), jax.jit(steps, donate_argnums=0)

    def begin(params: Params) -> State:
        return beginning(params if lanes else checks.finite("params", params))

    return Trainer(begin, donating, jax.jit(evaluate), jax.jit(draw), lanes)


def steps_per_epoch(images: int, batch_size: int | None = None, passes: int = 1) -> int:
    """The number of whole batches, of the default size where that is None.

    Raises: ValueError for a batch that is larger than the number of images, and for numbers that
    are not whole, 1 or more.
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
