"""A study: a grid of settings becomes lanes, lanes become groups, groups run chunk by chunk.

A lane is one setting of the hyperparameters. Task and model decide shapes and code, so a group
holds the lanes of one task and model, and is one compiled program: noise, tau, gamma and the
activation are traced leaves. A chunk is the lanes that train at once under `vmap`; a lane's result
does not depend on its chunk. Storage is `results`.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from deqbilevel import models, training
from deqbilevel.models import Model
from deqbilevel.results import AXES, Run
from deqbilevel.settings import Setting
from deqbilevel.types import Images, Params, TestImages, TrainImages

Lane = dict[str, Any]


def grid(axes: Mapping[str, Sequence[Any]]) -> list[Lane]:
    """Every combination of the values of `axes` (a value list for each of `results.AXES`).

    Raises: ValueError for an axis that is missing, empty, unknown or has a value twice.
    """
    if set(axes) != set(AXES):
        raise ValueError(f"axes {sorted(axes)}: expected a list of values for each of {AXES}")
    for name, values in axes.items():
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} {list(values)}: expected one value or more, each once")
    return [dict(zip(AXES, v, strict=True)) for v in itertools.product(*(axes[n] for n in AXES))]


def groups(lanes: Sequence[Lane]) -> dict[tuple[str, str], list[Lane]]:
    """The lanes by task and model, in order."""
    found: dict[tuple[str, str], list[Lane]] = {}
    for lane in lanes:
        found.setdefault((lane["task"], lane["model"]), []).append(lane)
    return found


class Plan(NamedTuple):
    """What is common to all lanes of a study."""

    setting: Setting
    epochs: int
    batch_size: int
    lanes_at_once: int
    """Lanes of a chunk. 1 runs each lane alone, which is fastest on a CPU: a vmapped solve lasts
    as long as its slowest lane, and the matrix products are no faster together."""
    learning_rate: float
    seed: int
    pictures: int = 5


def hyperparameters(lane: Lane, learning_rate: float) -> Params:
    """The scalars of a lane, with lam = 1 as in [REB]."""
    return models.hyperparameters(
        tau=lane["tau"],
        gamma=lane["gamma"],
        activation=lane["activation"],
        noise=lane["noise"],
        learning_rate=learning_rate,
    )


def run_group(
    model: Model,
    lanes: Sequence[Lane],
    plan: Plan,
    train: TrainImages,
    test: TestImages,
    *,
    on_epoch: Callable[[int, Mapping[str, Any]], None] = lambda count, record: None,
) -> Iterator[Run]:
    """Train every lane of a group; yields each when its chunk is finished.

    All lanes see the same initial weights, images and noise. `on_epoch(lanes, record)` is called
    after every epoch of a chunk with the number of its lanes.
    """
    together = plan.lanes_at_once
    params_key, run_key, picture_key = jax.random.split(jax.random.key(plan.seed), 3)
    weights = model.init(params_key)
    steps = training.steps_per_epoch(len(train), plan.batch_size)
    trainer = training.trainer(
        model,
        plan.setting,
        total_steps=max(plan.epochs, 1) * steps,
        batch_size=plan.batch_size,
        lanes=together > 1,
    )
    draw = _pictures(model, plan, test, picture_key, lanes=together > 1)
    prepared = False
    for start in range(0, len(lanes), together):
        chunk = lanes[start : start + together]
        # A chunk is filled up with its last lane: one program serves all, and so a lane's result
        # is bit for bit the same whatever trains beside it.
        filled = [*chunk, *[chunk[-1]] * (together - len(chunk))]
        each = [weights | hyperparameters(lane, plan.learning_rate) for lane in filled]
        params = jax.tree.map(lambda *x: jnp.stack(x), *each) if together > 1 else each[0]
        state = trainer.init(params)
        if not prepared and plan.epochs:
            trainer = training.compiled(trainer, state, train, plan.batch_size)
            prepared = True
        records = []
        for epoch in training.run(
            trainer,
            plan.setting,
            state,
            train,
            test,
            epochs=plan.epochs,
            key=run_key,
            batch_size=plan.batch_size,
            train_evaluation_size=plan.batch_size,
        ):
            record = epoch.record
            # Lanes of a chunk share its time.
            for name in ("seconds", "evaluation_seconds", "step_ms"):
                record[name] /= len(chunk)
            records.append(record)
            on_epoch(len(chunk), record)
        drawn = {name: np.asarray(x) for name, x in draw(epoch.state.params).items()}
        for i, lane in enumerate(chunk):
            yield _outcome(lane, records, drawn, i if together > 1 else None)


def _outcome(
    lane: Lane, records: list[dict[str, Any]], drawn: dict[str, np.ndarray], index: int | None
) -> Run:
    """The part of a chunk's records and pictures that belongs to one lane (None: all of it)."""

    def own(x: Any) -> Any:
        x = np.asarray(x)
        return x if index is None or x.ndim == 0 else x[index]

    series = {name: np.stack([own(r[name]) for r in records]) for name in records[0]}
    return Run(lane, series, {name: own(x) for name, x in drawn.items()})


def _pictures(
    model: Model, plan: Plan, test: TestImages, key: PRNGKeyArray, *, lanes: bool
) -> Callable[[Params], dict[str, Any]]:
    """params -> the reconstructions u* of the first test images, and K u*."""

    def draw(params: Params) -> dict[str, Any]:
        f = models.measure(model.K, jnp.asarray(test[: plan.pictures]), params["noise"], key)
        u, _ = model.reconstruct(plan.setting.evaluation(), params, f)
        return {"reconstruction": u, "measured_reconstruction": model.K.apply(u)}

    return jax.jit(jax.vmap(draw) if lanes else draw)


def measurements(model: Model, plan: Plan, noise: float, test: TestImages) -> Images:
    """The measurements f that the pictures of a noise level were reconstructed from."""
    key = jax.random.split(jax.random.key(plan.seed), 3)[2]
    return models.measure(model.K, jnp.asarray(test[: plan.pictures]), jnp.float32(noise), key)
