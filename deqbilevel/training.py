"""Training: the jitted step, the scanned epoch, and the loop over epochs.

Everything is written for one run. With `lanes=True` the same functions are vmapped over a leading
axis of the state, so that many settings of the hyperparameters train at once on the same images
and the same noise. A run whose loss or hypergradient is no longer finite has diverged: it keeps
its last finite weights from then on, and says so. So does one whose test loss is beyond reason,
though it may go on and come back.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deqbilevel.hypergradients import no_info
from deqbilevel.losses import Loss, mean_squared_error
from deqbilevel.models import Model, measure
from deqbilevel.settings import Budget, Setting, grow
from deqbilevel.types import Images, Params, Solver, TestImages, TrainImages

LEARNED = ("A", "b", "C")
"""The entries of `params` that are learned; any scalar may be added, such as "tau"."""

FINAL_LEARNING_RATE = 1e-6
"""Where the cosine schedule ends, as in [REB]'s published settings."""

HUGE = 1e30
"""What the loss of a diverged run is recorded as; means of it are still finite in float32."""

DIVERGED = 100.0
"""A test loss above this counts as diverged: images in [-1, 1] differ by 4 at the most."""


class State(NamedTuple):
    """What the next step needs."""

    params: Params
    optimiser: optax.OptState
    step: Int[Array, ""]
    budget: Budget
    diverged: Bool[Array, ""]


class Metrics(NamedTuple):
    """What a person reads of a step; of a scanned epoch, with a leading axis of steps."""

    step_loss: Float[Array, "*steps"]
    forward_evaluations: Float[Array, "*steps"]
    adjoint_evaluations: Float[Array, "*steps"]
    forward_residual: Float[Array, "*steps"]
    adjoint_residual: Float[Array, "*steps"]


class Trainer(NamedTuple):
    """The functions of a model under a setting, jitted; with lanes, vmapped over the state."""

    init: Callable[[Params], State]
    """params -> state."""
    steps: Any
    """(state, images [n, pixels], order [steps, batch], keys [steps]) -> (state, metrics). The
    state's buffers are donated: use the one that comes back."""
    evaluate: Callable[..., dict[str, Array]]
    """(params, images, key) -> mean loss, evaluations and residual of converged reconstructions."""


def optimiser() -> optax.GradientTransformation:
    """Adam without its learning rate, which is a leaf of `params` and so may differ by lane."""
    return optax.scale_by_adam()


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
) -> tuple[State, Metrics]:
    """One step of Adam on the hypergradient, with fresh noise, on a batch truth: [batch, pixels].

    The learning rate falls from `params["learning_rate"]` to 1e-6 along a cosine over
    `total_steps`, per step.
    """
    weights = {name: state.params[name] for name in learned if name in state.params}
    f = measure(model.K, truth, state.params["noise"], key)
    solve, params = model.solve(
        state.params,
        setting.forward(state.budget),
        setting.adjoint(state.budget),
        preconditioned=setting.preconditioned,
    )

    def upper_level(weights: dict[str, Array], probe: Any) -> tuple[Array, Any]:
        u, info = solve(params | weights, f, jnp.zeros_like(f), probe)
        return loss_function(u, truth), info

    (loss, info), (gradient, adjoint) = jax.value_and_grad(upper_level, (0, 1), has_aux=True)(
        weights, no_info(truth.dtype)
    )
    start = state.params["learning_rate"]
    schedule = optax.cosine_decay_schedule(start, total_steps, alpha=FINAL_LEARNING_RATE / start)
    directions, optimiser_state = optimiser().update(gradient, state.optimiser)
    rate = jnp.asarray(schedule(state.step))
    moved = jax.tree.map(lambda w, direction: w - rate * direction, weights, directions)
    diverged = state.diverged | ~jnp.isfinite(loss + optax.tree.norm(gradient))
    proposal = (state.params | moved, optimiser_state)
    params, optimiser_state = jax.tree.map(
        partial(jnp.where, diverged), (state.params, state.optimiser), proposal
    )
    metrics = Metrics(
        loss,
        info.evaluations.astype(loss.dtype),
        adjoint.evaluations,
        info.residual,
        adjoint.residual,
    )
    next_state = State(params, optimiser_state, state.step + 1, state.budget, diverged)
    return next_state, jax.tree.map(finite, metrics)


def finite(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x with what overflowed replaced by 1e30, so that a diverged run can be compared."""
    return jnp.clip(jnp.nan_to_num(x, nan=HUGE), -HUGE, HUGE)


def trainer(
    model: Model,
    setting: Setting,
    *,
    total_steps: int,
    batch_size: int = 100,
    lanes: bool = False,
    loss_function: Loss = mean_squared_error,
    learned: tuple[str, ...] = LEARNED,
) -> Trainer:
    """Jitted functions for `total_steps` steps in all; with `lanes`, over a leading lane axis."""
    one_step = partial(
        step, model, setting, total_steps, loss_function=loss_function, learned=learned
    )

    def init(params: Params) -> State:
        params = jax.tree.map(jnp.copy, params)  # the state's buffers will be donated
        weights = {name: params[name] for name in learned if name in params}
        budget = jax.tree.map(jnp.int32, setting.budget)
        return State(params, optimiser().init(weights), jnp.int32(0), budget, jnp.array(False))

    def steps(state: State, images: Images, order: Array, keys: Array) -> tuple[State, Metrics]:
        return jax.lax.scan(lambda s, x: one_step(s, images[x[0]], x[1]), state, (order, keys))

    def evaluate(params: Params, images: Images, key: PRNGKeyArray) -> dict[str, Array]:
        return evaluation(model, setting.evaluation(), params, images, key, batch_size)

    if lanes:
        init = jax.vmap(init)
        steps = jax.vmap(steps, in_axes=(0, None, None, None))
        evaluate = jax.vmap(evaluate, in_axes=(0, None, None))
    return Trainer(jax.jit(init), jax.jit(steps, donate_argnums=0), jax.jit(evaluate))


def evaluation(
    model: Model,
    solver: Solver,
    params: Params,
    images: Images,
    key: PRNGKeyArray,
    batch_size: int = 100,
) -> dict[str, Array]:
    """Mean squared error of the reconstructions of every image, with fresh noise.

    Solves in batches (the last may be smaller); returns the means over images of `loss`,
    `evaluations` and `residual`.
    """

    def batch(truth: Images, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        f = measure(model.K, truth, params["noise"], key)
        u, info = model.reconstruct(solver, params, f)
        loss = mean_squared_error(u, truth)
        return loss, info.evaluations.astype(loss.dtype), info.residual

    whole = len(images) // batch_size
    keys = jax.random.split(key, whole + 1)
    rest = images[whole * batch_size :]
    totals = jnp.zeros(3)
    if whole:
        batches = images[: whole * batch_size].reshape(whole, batch_size, -1)
        values = jax.lax.map(lambda x: jnp.stack(batch(*x)), (batches, keys[:whole]))
        totals += batch_size * jnp.sum(values, axis=0)
    if len(rest):
        totals += len(rest) * jnp.stack(batch(rest, keys[whole]))
    means = finite(totals / len(images))
    return dict(zip(("loss", "evaluations", "residual"), means, strict=True))


def steps_per_epoch(images: int, batch_size: int) -> int:
    """The number of whole batches; a batch is never larger than the number of images."""
    return images // min(batch_size, images)


def _blocks(images: int, batch_size: int) -> tuple[int, int, int]:
    """The size of a batch, batches per epoch, and batches per call of `Trainer.steps`."""
    count = steps_per_epoch(images, batch_size)
    block = max(d for d in range(1, min(count, 20) + 1) if count % d == 0)
    return min(batch_size, images), count, block


def compiled(trainer: Trainer, state: State, train: TrainImages, batch_size: int = 100) -> Trainer:
    """The trainer with its steps compiled for these shapes, so that `run` times no compilation."""
    train = jnp.asarray(train)
    batch, _, block = _blocks(len(train), batch_size)
    order = jnp.zeros((block, batch), jnp.int32)
    keys = jax.random.split(jax.random.key(0), block)
    return trainer._replace(steps=trainer.steps.lower(state, train, order, keys).compile())


class Epoch(NamedTuple):
    """What an epoch ends with: the state and a flat record of numbers (arrays, with lanes)."""

    state: State
    record: dict[str, Any]


def run(
    trainer: Trainer,
    setting: Setting,
    state: State,
    train: TrainImages,
    test: TestImages,
    *,
    epochs: int,
    key: PRNGKeyArray,
    batch_size: int = 100,
    start: int = 0,
    train_evaluation_size: int = 1000,
    on_steps: Callable[[int, Metrics, float], None] = lambda steps, metrics, seconds: None,
) -> Iterator[Epoch]:
    """Epochs `start` to `epochs`; epoch 0 evaluates the initial parameters and takes no step.

    Every epoch's order and noise come from `key` and its number alone, so that a run that starts
    again from a stored state repeats the uninterrupted one bit for bit. An epoch visits the
    images in a random order and leaves out those that fill no batch. `on_steps(steps, metrics,
    seconds)` is called after every few steps.

    The record's `train_loss` is the mean over the steps of the epoch; where the setting adapts its
    budget, and at epoch 0, it is that of converged reconstructions of at most
    `train_evaluation_size` training images.
    """
    train, test = jnp.asarray(train), jnp.asarray(test)
    batch, count, block = _blocks(len(train), batch_size)
    sample = train[:train_evaluation_size]
    for epoch in range(start, epochs + 1):
        order_key, noise_key, test_key, train_key = jax.random.split(
            jax.random.fold_in(key, epoch), 4
        )
        metrics, times = [], []
        if epoch:
            order = jax.random.permutation(order_key, len(train))[: count * batch]
            order = order.reshape(count // block, block, batch)
            keys = jax.random.split(noise_key, count).reshape(count // block, block)
            for some, their_keys in zip(order, keys, strict=True):
                begin = time.perf_counter()
                state, values = trainer.steps(state, train, some, their_keys)
                metrics.append(jax.tree.map(np.asarray, values))
                times.append(time.perf_counter() - begin)
                on_steps(block, metrics[-1], times[-1])
        begin = time.perf_counter()
        record: dict[str, Any] = {"epoch": epoch}
        tested = trainer.evaluate(state.params, test, test_key)
        record |= {f"test_{name}": np.asarray(value) for name, value in tested.items()}
        record |= _means(metrics)
        if setting.adaptive or not epoch:
            trained = trainer.evaluate(state.params, sample, train_key)
            record["train_loss"] = np.asarray(trained["loss"])
            if epoch:
                state = state._replace(
                    budget=grow(setting, state.budget, record["step_loss"], record["train_loss"])
                )
        else:
            record["train_loss"] = record["step_loss"]
        lost = record["test_loss"] > DIVERGED
        record["diverged"] = np.asarray(state.diverged | lost)
        record["seconds"] = float(np.sum(times))
        record["evaluation_seconds"] = time.perf_counter() - begin
        record["step_ms"] = 1e3 * float(np.median(times)) / block if times else np.nan
        yield Epoch(state, record)


def _means(blocks: list[Metrics]) -> dict[str, Any]:
    """The mean of every metric over the steps of an epoch; NaN for an epoch without steps."""
    if not blocks:
        return dict.fromkeys(Metrics._fields, np.nan)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1), *blocks)
    return {field: value.mean(axis=-1) for field, value in joined._asdict().items()}
