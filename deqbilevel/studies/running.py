"""A study: a grid of settings becomes lanes, lanes become groups, groups run chunk by chunk.

A lane is one setting of the hyperparameters (`grids`). Task and model decide shapes and code, so a
group holds the lanes of one task and model, and is one compiled program: all other axes but the
solver's window are traced leaves. In a setting that is `direct` the lanes with the identity
activation are a group of their own (`learning.directly`). A group trains epoch by epoch. For each
epoch its lanes are put in order of the evaluations that they needed in the epoch before and cut
into chunks, which train at once (`lanes.Lanes`), so that no lane waits long for a slower one. A
lane's result does not depend on its chunk. After every chunk its records are on disk
(`storage.Storage`); what it goes on from stays on the devices, and is on disk every few minutes
(`states.States`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from deqbilevel import learning, models, results
from deqbilevel.lanes import everything
from deqbilevel.models import Model
from deqbilevel.studies.keeping import store_epoch
from deqbilevel.studies.states import States
from deqbilevel.studies.storage import Lane, Progress, Storage
from deqbilevel.studies.study import Study
from deqbilevel.types import Images, Params, TestImages, TrainImages


def chunks(
    lanes: Sequence[Lane], progress: Progress, store: Storage, count: int, epoch: int
) -> Iterator[list[Lane]]:
    """The lanes that wait for `epoch`, at most `count` at a time, those that take longest first.

    What a lane will take is what it took in the epoch before.
    """

    def expected(lane: Lane) -> float:
        record = progress.records[store.key(lane)].get(epoch - 1)
        return record["needed_evaluations"] if record else 0.0

    waiting = [lane for lane in lanes if progress.done[store.key(lane)] == epoch - 1]
    waiting.sort(key=expected, reverse=True)
    return (waiting[i : i + count] for i in range(0, len(waiting), count))


def run_group(
    model: Model,
    lanes: Sequence[Lane],
    study: Study,
    train: TrainImages,
    test: TestImages,
    store: Storage,
    progress: Progress,
    *,
    states: States | None = None,
    on_compiled: Callable[[float], None] = lambda seconds: None,
    on_chunk: Callable[[list[Lane], Mapping[str, Any]], None] = lambda lanes, record: None,
) -> None:
    """Train the lanes of a task and model from where `progress` says they are to the last epoch.

    `progress` is kept up to date. `on_compiled(seconds)` is called when the group's steps have been
    compiled, or found in the cache of programs; `on_chunk(lanes, record)` after every epoch of a
    chunk, with one entry a lane in each value of the record, when it is on disk. However it ends,
    so are the states of all lanes.
    Raises: ValueError that names a chunk that could not be stored; all others are on disk.
    """
    states = States() if states is None else states
    model, study = study.of(model, lanes)
    trainer = group_trainer(model, study, len(train))
    train, test = study.lanes.share(train), study.lanes.share(test)
    draw = _pictures(model, study)
    weights = initial_weights(model, study, lanes)
    some = filled(list(lanes[:1]), study)[study.lanes.local]
    first, structure = jax.tree.flatten(initial_state(trainer, study, weights, some))
    like = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in first]
    prepared = False
    with states.of(store, study.lanes, lanes, like):
        for epoch, chunk in _waiting(study, lanes, progress, store):
            own = filled(chunk, study)[study.lanes.local]
            state = (
                initial_state(trainer, study, weights, own)
                if epoch <= 1
                else jax.tree.unflatten(structure, states.take(own))
            )
            keys = study.lanes.keys([study.keys(lane)[1] for lane in own])
            if epoch and not prepared:
                begin = time.perf_counter()
                trainer, prepared = learning.compiled(trainer, state, train, keys), True
                on_compiled(time.perf_counter() - begin)
            state, record = learning.epoch(
                trainer,
                study.setting,
                state,
                epoch,
                train,
                test,
                key=keys,
                train_evaluation_size=study.batch_size,
            )
            record = _by_lane(record, len(chunk))
            ends = [
                study.over(progress.records[key] | {epoch: {n: x[i] for n, x in record.items()}})
                for i, key in enumerate(map(store.key, chunk))
            ]
            pictures = None
            if any(ends):
                keys = study.lanes.keys([study.keys({})[2] for _ in own])
                pictures = everything(draw(state.params, keys, test))
            try:
                store_epoch(
                    study, store, states, progress, chunk, epoch, state, record, pictures, ends
                )
            except OSError as error:
                names = ", ".join(store.path("states", lane).stem for lane in chunk)
                raise ValueError(
                    f"epoch {epoch} of {names} could not be stored ({error}). Everything before "
                    "it is on disk: make room, then repeat the command"
                ) from error
            # Another process may go on with a state that this one has just written.
            multihost_utils.sync_global_devices("stored")
            on_chunk(chunk, record)


def _waiting(
    study: Study, lanes: Sequence[Lane], progress: Progress, store: Storage
) -> Iterator[tuple[int, list[Lane]]]:
    """The epochs that are left, and for each the chunks that are to train in it."""
    for epoch in range(study.epochs + 1):
        left = [x for x in lanes if not study.over(progress.records[store.key(x)])]
        for chunk in chunks(left, progress, store, study.lanes.count, epoch):
            yield epoch, chunk


def group_trainer(model: Model, study: Study, images: int) -> learning.Trainer:
    """The program of a group, for so many training images."""
    steps = learning.steps_per_epoch(images, study.batch_size)
    return learning.trainer(
        model,
        study.setting,
        total_steps=max(study.epochs, 1) * steps,
        batch_size=study.batch_size,
        lanes=study.lanes,
    )


def filled(chunk: list[Lane], study: Study) -> list[Lane]:
    """A chunk filled up with its last lane: one program serves all, and so a lane's result is bit
    for bit the same whatever trains beside it."""
    return [*chunk, *[chunk[-1]] * (study.lanes.count - len(chunk))]


def _by_lane(record: Mapping[str, Any], count: int) -> dict[str, np.ndarray]:
    """A chunk's record with an entry for each of its lanes; they share its time and its work."""
    own = {
        name: np.broadcast_to(value, np.shape(value) or (count,))[:count]
        for name, value in record.items()
    }
    for name in ("seconds", "evaluation_seconds", "step_ms"):
        # The slowest process's, so that all agree on whose time is used.
        own[name] = (
            np.max(multihost_utils.process_allgather(own[name]).reshape(-1, count), 0) / count
        )
    own["made_evaluations"] = np.full(count, np.sum(record["made_evaluations"]) / count)
    return own


def initial_weights(model: Model, study: Study, lanes: Sequence[Lane]) -> dict[int, Any]:
    """The weights that training starts from, for each seed."""
    seeds = {lane.get("seed", study.seed): study.keys(lane)[0] for lane in lanes}
    return {seed: jax.tree.map(np.asarray, model.init(key)) for seed, key in seeds.items()}


def initial_state(
    trainer: learning.Trainer, study: Study, weights: dict[int, Any], own: Sequence[Lane]
) -> learning.State:
    """The state in which these lanes, those of this process, start training."""
    params = [
        weights[lane.get("seed", study.seed)]
        | jax.tree.map(np.asarray, study.hyperparameters(lane))
        for lane in own
    ]
    return trainer.init(study.lanes.put(jax.tree.map(lambda *x: np.stack(x), *params)))


def useful_work(progress: Progress) -> float:
    """Evaluations that lanes needed over evaluations that were made, of everything recorded."""
    records = [r for lane in progress.records.values() for r in lane.values()]
    made = sum(r["made_evaluations"] for r in records)
    return sum(r["needed_evaluations"] for r in records) / made if made else float("nan")


def _pictures(model: Model, study: Study) -> Callable[..., dict[str, Any]]:
    """(params, key, test) -> the reconstructions u* of the first test images, and K u*."""

    def draw(params: Params, key: Any, test: TestImages) -> dict[str, Any]:
        f = models.measure(model.K, jnp.asarray(test[: study.pictures]), params["noise"], key)
        u, _ = model.reconstruct(study.setting.of(params).evaluation(), params, f)
        return dict(zip(results.PICTURES, (u, model.K.apply(u)), strict=True))

    return jax.jit(study.lanes.over(draw, (0, 0, None)))


def measurements(model: Model, study: Study, noise: float, test: TestImages) -> Images:
    """The measurements f that the pictures of a noise level were reconstructed from."""
    key = study.keys({})[2]
    return models.measure(model.K, jnp.asarray(test[: study.pictures]), jnp.float32(noise), key)
