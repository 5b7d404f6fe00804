"""Ways to train all lanes: one after the other, and as one compiled program."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import lanes, learning, settings
from deqbilevel.lanes import Lanes
from deqbilevel.models import Model
from deqbilevel.studies import running
from deqbilevel.studies.storage import Lane
from deqbilevel.studies.study import Study
from experiments.throughput.options import Throughput

FULL = {"lanes": 225, "epochs": 100, "images": 60_000}
"""The study of [REB]: lanes of a task and model, epochs, training images."""


class Way(NamedTuple):
    """A way to train all lanes: what takes some steps and returns every solve's evaluations."""

    advance: Callable[[int], np.ndarray]
    width: int
    """Lanes under one vmap."""


def _study(setting: settings.Setting, over: Lanes, config: Throughput) -> Study:
    return Study(
        setting, FULL["epochs"], config.batch_size, setting.learning_rate, config.seed, over
    )


def batches(config: Throughput, number: int) -> tuple[np.ndarray, Array]:
    """Order and noise keys of the steps of one timing, the same for every way and lane."""
    rng = np.random.default_rng((config.seed, number))
    order = rng.integers(config.train_size, size=(config.steps, config.batch_size))
    return order, jax.random.split(jax.random.key(number), config.steps)


def alone(
    model: Model, setting: settings.Setting, grid: list[Lane], train: Any, config: Throughput
) -> Way:
    """Each lane a run of its own, as `experiments.train` trains it."""
    study = _study(setting, lanes.lanes(), config)
    total = FULL["epochs"] * FULL["images"] // config.batch_size
    trainer = learning.trainer(model, setting, total_steps=total, batch_size=config.batch_size)
    weights = model.init(study.keys({})[0])
    states = [trainer.init(weights | study.hyperparameters(lane)) for lane in grid]
    images = jnp.asarray(train)

    def advance(number: int) -> np.ndarray:
        order, keys = batches(config, number)
        spent = []
        for i, state in enumerate(states):
            states[i], metrics = trainer.steps(state, images, jnp.asarray(order), keys)
            spent.append(_solves(metrics))
        return np.stack(spent)

    return Way(advance, 1)


def program(
    model: Model, setting: settings.Setting, grid: list[Lane], width: int, config: Throughput
) -> tuple[Study, learning.Trainer, list[Lane], Callable[[], learning.State]]:
    """All lanes as one program: study, trainer, its lanes, and what makes their first state."""
    each = -(-len(grid) // jax.device_count())
    over = lanes.lanes(-(-each // width) * width, width)
    study = _study(setting, over, config)
    trainer = running.group_trainer(model, study, FULL["images"])
    filled = running.filled(grid, study)
    weights = running.initial_weights(model, study, grid)
    return study, trainer, filled, lambda: running.initial_state(trainer, study, weights, filled)


def together(
    model: Model,
    setting: settings.Setting,
    grid: list[Lane],
    train: Any,
    width: int,
    config: Throughput,
) -> Way:
    """All lanes at once, on all devices, `width` of each under one vmap."""
    study, trainer, filled, start = program(model, setting, grid, width, config)
    state, images = start(), study.lanes.share(train)

    def advance(number: int) -> np.ndarray:
        nonlocal state
        order, keys = spread(study, len(filled), *batches(config, number))
        state, metrics = trainer.steps(state, images, order, keys)
        return _solves(metrics)[: len(grid)]

    return Way(advance, width)


def _solves(metrics: learning.Metrics) -> np.ndarray:
    """The evaluations of each solve, forward and adjoint apart: [..., 2 steps]."""
    both = (metrics.forward_evaluations, metrics.adjoint_evaluations)
    return np.concatenate([np.asarray(x) for x in both], axis=-1)


def spread(study: Study, count: int, order: np.ndarray, keys: Array) -> tuple[Any, Any]:
    """The same batches for every lane."""
    repeated = np.broadcast_to(order, (count, *order.shape))
    data = np.asarray(jax.random.key_data(keys))
    spread = study.lanes.put(np.broadcast_to(data, (count, *data.shape)))
    return study.lanes.put(repeated), jax.random.wrap_key_data(spread)
