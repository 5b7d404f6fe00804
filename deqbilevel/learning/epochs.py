"""The loop over epochs: each ends in an evaluation and a record of plain numbers.

    for state, record in learning.run(trainer, setting, state, train, test, epochs=2, key=key): ...

With a trainer over lanes everything is the same, with a leading axis of lanes.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from deqbilevel import checks
from deqbilevel.lanes import Lanes, everything
from deqbilevel.learning import knowing
from deqbilevel.learning.base import Metrics, State
from deqbilevel.learning.training import Trainer
from deqbilevel.settings import Setting, grow
from deqbilevel.types import TestImages, TrainImages

DIVERGED = 100.0
"""A mean squared error above this on the test images counts as diverged: images in [-1, 1] differ
by 4 at the most."""


def keys(seed: int) -> Key[Array, "3"]:
    """The random keys of a run: initial weights, order and noise of training, pictures.

    Raises: ValueError for a seed that is no whole number from 0 to 2^32 - 1: of others JAX takes
    the lower bits, so that two seeds may be one.

    >>> for_weights, for_training, for_pictures = learning.keys(seed=0)
    >>> print(for_weights.shape)
    ()
    """
    checks.whole("seed", seed, least=0, most=2**32 - 1)
    return jax.random.split(jax.random.key(seed), 3)


def compiled(
    trainer: Trainer, state: State, train: TrainImages, key: Key[Array, "*lanes"], f: Any = None
) -> Trainer:
    """The trainer with its steps compiled for these shapes, so that no epoch times a compilation.

    With lanes, `train` comes from `Lanes.share` and `key` from `Lanes.keys`.
    """
    train = train if trainer.lanes else jnp.asarray(train)
    order, noise, _, _ = trainer.draw(key, 0, train)
    first = block(trainer, order, noise, 0)
    kept = () if f is None else (f,)
    return trainer._replace(steps=ahead(trainer.steps, state, train, *first, *kept))


def compiles() -> bool:
    """Whether JAX compiles at all: not where JAX_DISABLE_JIT is set.

    >>> print(learning.compiles())
    True
    """
    return not jax.config.jax_disable_jit  # type: ignore[attr-defined]


def measures_compiled() -> None:
    """Raises ValueError where nothing is compiled, for what measures compiled programs.

    >>> learning.measures_compiled()  # no error
    """
    if not compiles():
        raise ValueError("JAX_DISABLE_JIT is set, and compiled programs are measured: unset it")


def ahead(jitted: Any, *arguments: Any) -> Any:
    """A jitted function compiled for these arguments; as it is where nothing is compiled.

    >>> double = learning.ahead(jax.jit(lambda x: 2 * x), jnp.array(1.0))
    >>> print(double(jnp.array(4.0)))
    8.0
    """
    return jitted.lower(*arguments).compile() if compiles() else jitted


def block(trainer: Trainer, order: Array, noise: Array, index: int) -> tuple[Array, Array]:
    """The part of an epoch's order and noise keys that one call of `Trainer.steps` takes."""
    return (order[:, index], noise[:, index]) if trainer.lanes else (order[index], noise[index])


class Epoch(NamedTuple):
    """What an epoch ends with: the state and a flat record of numbers (arrays, with lanes)."""

    state: State
    record: dict[str, Any]


MEASURED = {
    "step_loss": "loss",
    **{
        name: name
        for name in (
            "forward_evaluations",
            "adjoint_evaluations",
            "forward_residual",
            "adjoint_residual",
            "solved",
        )
    },
}
"""What a record has of the metrics, as means over the steps, and what it is called there."""

RECORDS = (
    *("test_loss", "test_evaluations", "test_residual", *MEASURED, "train_loss"),
    *("diverged", "needed_evaluations", "made_evaluations"),
    *("seconds", "evaluation_seconds", "step_ms"),
)
"""What every record holds, beside its epoch; with another loss `test_mean_squared_error` too."""

EXECUTION = ("made_evaluations", "seconds", "evaluation_seconds", "step_ms")
"""Those that say how a run was executed; all others repeat bit for bit."""


def epoch(
    trainer: Trainer,
    setting: Setting,
    state: State,
    number: int,
    train: TrainImages,
    test: TestImages,
    *,
    key: Key[Array, "*lanes"],
    train_evaluation_size: int = 1000,
    f: Any = None,
    on_steps: Callable[[int, Metrics, float], None] = lambda steps, metrics, seconds: None,
) -> Epoch:
    """One pass over the images, in an order and with noise that follow from key and number alone.

    f: the measurements of all training images, where they stay the same. Epoch 0 evaluates the
    initial parameters and takes no step. Images that fill no batch are left
    out. `on_steps(steps, metrics, seconds)` is called after every few steps.

    The record's `train_loss` is the mean over the steps of the epoch; where the setting adapts its
    budget, and at epoch 0, it is that of converged reconstructions of at most
    `train_evaluation_size` training images. `needed_evaluations` are those that the run's solves
    took, `made_evaluations` its share of those that were computed: lanes under one `vmap` go on
    until the slowest has stopped.
    """
    order, noise, test_key, train_key = trainer.draw(key, number, train)
    metrics, spent, times = [], [], []
    kept = () if f is None else (f,)
    for index in range(order.shape[-3] if number else 0):
        begin = time.perf_counter()
        state, values = trainer.steps(state, train, *block(trainer, order, noise, index), *kept)
        metrics.append(everything(values))
        times.append(time.perf_counter() - begin)
        spent += [metrics[-1].forward_evaluations, metrics[-1].adjoint_evaluations]
        on_steps(order.shape[-2], metrics[-1], times[-1])
    begin = time.perf_counter()
    record: dict[str, Any] = {"epoch": number}
    tested = everything(trainer.evaluate(state.params, test, test_key))
    spent.append(tested.pop("spent"))
    record |= {f"test_{name}": value for name, value in tested.items()}
    record |= _means(metrics)
    record["train_loss"] = record["step_loss"]
    if setting.adaptive or not number:
        sample = knowing.with_truth(trainer.learner.loss, train)[:train_evaluation_size]
        trained = everything(trainer.evaluate(state.params, sample, train_key))
        spent.append(trained.pop("spent"))
        record["train_loss"] = trained["loss"]
        if number:
            grown = grow(setting, everything(state.budget), record["step_loss"], trained["loss"])
            state = state._replace(budget=_spread(jax.tree.map(np.asarray, grown), trainer.lanes))
    error = record.get("test_mean_squared_error", record["test_loss"])
    record["diverged"] = everything(state.diverged) | (error > DIVERGED)
    record |= _work(np.concatenate(spent, axis=-1), trainer.lanes)
    record["seconds"] = float(np.sum(times))
    record["evaluation_seconds"] = time.perf_counter() - begin
    record["step_ms"] = 1e3 * float(np.median(times)) / order.shape[-2] if times else np.nan
    return Epoch(state, record)


def _spread(tree: Any, lanes: Lanes | None) -> Any:
    """NumPy arrays over all lanes -> arrays on their devices."""
    return tree if lanes is None else lanes.put(jax.tree.map(lambda x: x[lanes.local], tree))


def _work(spent: Float[np.ndarray, "*lanes solves"], lanes: Lanes | None) -> dict[str, Any]:
    """The evaluations that each lane needed, and its share of those that were made."""
    needed = spent.sum(axis=-1)
    if lanes is None:
        return {"needed_evaluations": needed, "made_evaluations": needed}
    together = spent.reshape(-1, lanes.width, spent.shape[-1])
    made = np.repeat(together.max(axis=1).sum(axis=-1), lanes.width)
    return {"needed_evaluations": needed, "made_evaluations": made}


def run(
    trainer: Trainer,
    setting: Setting,
    state: State,
    train: TrainImages,
    test: TestImages,
    *,
    epochs: int,
    key: Key[Array, "*lanes"],
    start: int = 0,
    train_evaluation_size: int = 1000,
    f: Any = None,
    on_steps: Callable[[int, Metrics, float], None] = lambda steps, metrics, seconds: None,
) -> Iterator[Epoch]:
    """Epochs `start` to `epochs`, see `epoch`. A run that starts again from a stored state repeats
    the uninterrupted one bit for bit.

    Training images without the truth (NaN), of a loss that takes them, need measurements f.
    Raises: ValueError for numbers that are not whole, and for images that are not finite or that
    the trainer refuses.

    >>> model, u = models.build("denoising", "bilevel", (1, 2)), np.array([[0.5, -0.5]], np.float32)
    >>> setting, key = settings.SETTINGS["paper"], jax.random.key(0)
    >>> scalars = models.hyperparameters(tau=0.5, gamma=0.1, activation="identity")
    >>> trainer = learning.trainer(model, setting, total_steps=1)
    >>> state = trainer.init(model.init(key) | scalars)
    >>> order, noise, _, _ = trainer.draw(key, 1, u)
    >>> print(learning.block(trainer, order, noise, 0)[0])  # one step, on image 0
    [[0]]
    >>> start = learning.epoch(trainer, setting, state, 0, u, u, key=key).record["test_loss"]
    >>> trainer = learning.compiled(trainer, state, u, key)
    >>> _, end = learning.run(trainer, setting, state, u, u, epochs=1, key=key)
    >>> print(bool(end.record["test_loss"] < start))
    True
    """
    for name, value in {"epochs": epochs, "start": start}.items():
        checks.whole(name, value, least=0)
    checks.whole("train_evaluation_size", train_evaluation_size)
    for name, images in {"train": train, "test": test}.items():
        rows = checks.rows(name, _local(images))
        there = knowing.with_truth(trainer.learner.loss, rows) if name == "train" else rows
        if len(there) < len(rows) and (f is None or not len(there)):
            raise ValueError("train: without the truth of some needs f, and the truth of others")
        checks.finite(name, there)
    if not trainer.lanes:
        train, test = jnp.asarray(train), jnp.asarray(test)
    return _epochs(
        trainer,
        setting,
        state,
        train,
        test,
        range(start, epochs + 1),
        key,
        train_evaluation_size,
        f,
        on_steps,
    )


def _epochs(
    trainer: Trainer,
    setting: Setting,
    state: State,
    train: TrainImages,
    test: TestImages,
    numbers: range,
    key: Key[Array, "*lanes"],
    train_evaluation_size: int,
    f: Any,
    on_steps: Callable[[int, Metrics, float], None],
) -> Iterator[Epoch]:
    for number in numbers:
        done = epoch(
            trainer,
            setting,
            state,
            number,
            train,
            test,
            key=key,
            train_evaluation_size=train_evaluation_size,
            f=f,
            on_steps=on_steps,
        )
        state = done.state
        yield done


def _local(images: Any) -> np.ndarray:
    """Images that every process has, as it has them."""
    return np.asarray(images.addressable_data(0) if isinstance(images, jax.Array) else images)


def _means(blocks: list[Metrics]) -> dict[str, Any]:
    """The mean of every metric over the steps of an epoch; NaN for an epoch without steps."""
    if not blocks:
        return dict.fromkeys(MEASURED, np.nan)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1), *blocks)
    return {name: getattr(joined, field).mean(axis=-1) for name, field in MEASURED.items()}
