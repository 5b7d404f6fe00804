"""A study: a grid of settings becomes lanes, lanes become groups, groups run chunk by chunk.

A lane is one setting of the hyperparameters (`grids`). Task and model decide shapes and code, so a
group holds the lanes of one task and model, and is one compiled program: all other axes but the
solver's window are traced leaves. A group trains epoch by epoch. For each epoch its lanes are put
in order of the evaluations that they needed in the epoch before and cut into chunks, which train at
once (`lanes.Lanes`), so that no lane waits long for a slower one. A lane's result does not depend
on its chunk, and after every chunk everything that it needs to go on is on disk
(`storage.Storage`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from deqbilevel import archives, arrays, checks, grids, loop, models, results, training
from deqbilevel.cubes import CELL
from deqbilevel.lanes import Lanes, everything, mine
from deqbilevel.models import Model
from deqbilevel.settings import Setting
from deqbilevel.storage import Lane, Progress, Storage
from deqbilevel.types import Images, Params, TestImages, TrainImages


class Study(NamedTuple):
    """What is common to all lanes of a study, and how they are run."""

    setting: Setting
    epochs: int
    batch_size: int
    learning_rate: float
    """Of a lane without an axis of that name; likewise the seed."""
    seed: int
    lanes: Lanes
    pictures: int = 5
    keep: Literal["none", "best", "all"] = "none"
    """Whose final parameters stay on disk: nobody's, the best of each task, model and noise, or
    everybody's."""
    hours: float | None = None
    """Of training and evaluation, after which a run ends with the epoch that it is in."""

    def over(self, records: Mapping[int, Mapping[str, Any]]) -> bool:
        """Whether a run with these records, by epoch, is at its last one or has used its time."""
        if self.epochs in records or self.hours is None:
            return self.epochs in records
        spent = sum(r["seconds"] + r["evaluation_seconds"] for r in records.values())
        return bool(spent >= 3600 * self.hours)

    def hyperparameters(self, lane: Lane) -> Params:
        """The scalars of a lane. Raises: ValueError, see `grids.scalars`."""
        return grids.scalars({"learning_rate": self.learning_rate} | lane)

    def of(self, lanes: Sequence[Lane]) -> "Study":
        """The study as the lanes of a group run it, whose window is the same for all."""
        window = lanes[0].get("window", self.setting.window)
        return self._replace(setting=self.setting._replace(window=window))

    def keys(self, lane: Lane) -> Any:
        """The random keys of a lane: initial weights, order and noise of training, pictures (whose
        noise `run_group` takes from the study's own seed, so that all runs show the same)."""
        return loop.keys(lane.get("seed", self.seed))


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
    on_chunk: Callable[[list[Lane], Mapping[str, Any]], None] = lambda lanes, record: None,
) -> None:
    """Train the lanes of a task and model from where `progress` says they are to the last epoch.

    `progress` is kept up to date. `on_chunk(lanes, record)` is called after every epoch of a chunk,
    with one entry a lane in each value of the record, when it is on disk.
    Raises: ValueError that names a chunk that could not be stored; all others are on disk.
    """
    study = study.of(lanes)
    trainer = group_trainer(model, study, len(train))
    train, test = study.lanes.share(train), study.lanes.share(test)
    draw = _pictures(model, study)
    weights = initial_weights(model, study, lanes)
    some = filled(list(lanes[:1]), study)[study.lanes.local]
    first, structure = jax.tree.flatten(initial_state(trainer, study, weights, some))
    like = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in first]
    prepared = False
    for epoch in range(study.epochs + 1):
        left = [x for x in lanes if not study.over(progress.records[store.key(x)])]
        for chunk in chunks(left, progress, store, study.lanes.count, epoch):
            own = filled(chunk, study)[study.lanes.local]
            state = (
                initial_state(trainer, study, weights, own)
                if epoch <= 1
                else jax.tree.unflatten(
                    structure, study.lanes.put(_stored_leaves(store, own, like))
                )
            )
            keys = study.lanes.keys([study.keys(lane)[1] for lane in own])
            if epoch and not prepared:
                trainer, prepared = loop.compiled(trainer, state, train, keys), True
            state, record = loop.epoch(
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
                _store(study, store, progress, chunk, epoch, state, record, pictures, ends)
            except OSError as error:
                names = ", ".join(store.path("states", lane).stem for lane in chunk)
                raise ValueError(
                    f"epoch {epoch} of {names} could not be stored ({error}). Everything before "
                    "it is on disk: make room, then repeat the command"
                ) from error
            # Another process may go on with a state that this one has just written.
            multihost_utils.sync_global_devices("stored")
            on_chunk(chunk, record)


def group_trainer(model: Model, study: Study, images: int) -> training.Trainer:
    """The program of a group, for so many training images."""
    steps = training.steps_per_epoch(images, study.batch_size)
    return training.trainer(
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
    trainer: training.Trainer, study: Study, weights: dict[int, Any], own: Sequence[Lane]
) -> training.State:
    """The state in which these lanes, those of this process, start training."""
    params = [
        weights[lane.get("seed", study.seed)]
        | jax.tree.map(np.asarray, study.hyperparameters(lane))
        for lane in own
    ]
    return trainer.init(study.lanes.put(jax.tree.map(lambda *x: np.stack(x), *params)))


def _stored_leaves(store: Storage, own: Sequence[Lane], like: Sequence[Any]) -> list[np.ndarray]:
    """The leaves of the state that these lanes stopped in, each file read once and each like those
    that one lane starts with. Raises: FileError."""
    paths = [store.path("states", lane) for lane in own]
    leaves = {path: archives.read_state(path, like)[1] for path in dict.fromkeys(paths)}
    return [np.stack(x) for x in zip(*(leaves[path] for path in paths), strict=True)]


def _store(
    study: Study,
    store: Storage,
    progress: Progress,
    chunk: list[Lane],
    epoch: int,
    state: training.State,
    record: Mapping[str, np.ndarray],
    pictures: Mapping[str, np.ndarray] | None,
    ends: Sequence[bool],
) -> None:
    """Put an epoch of a chunk on disk, in the order that `storage` promises; those that end have
    pictures."""
    first = jax.process_index() == 0
    own = list(enumerate(chunk[study.lanes.local]))
    start = study.lanes.local.start
    if pictures is not None:
        if first:
            store.append_pictures(chunk, pictures)
        ending = [(i, lane) for i, lane in own if ends[start + i]]
        _keep(study, store, progress, ending, mine(state.params), record)
    if first:
        store.append(chunk, epoch, record)
    if 0 < epoch < study.epochs:
        leaves = mine(jax.tree.leaves(state))
        for i, lane in own:
            archives.write_state(store.path("states", lane), epoch, [x[i, ...] for x in leaves])
    for i, lane in enumerate(chunk):
        key = store.key(lane)
        progress.done[key] = epoch
        progress.records[key][epoch] = {name: record[name][i].item() for name in store.records}
    if epoch == study.epochs:
        for _, lane in own:
            store.path("states", lane).unlink(missing_ok=True)


def _keep(
    study: Study,
    store: Storage,
    progress: Progress,
    own: list[tuple[int, Lane]],
    params: Params,
    record: Mapping[str, np.ndarray],
) -> None:
    """Write the final parameters of the lanes of this process that `study.keep` asks for."""
    for i, lane in own:
        index = study.lanes.local.start + i
        better = study.keep == "all" or (
            study.keep == "best"
            and not record["diverged"][index]
            and record["test_loss"][index] <= _best_loss(study, store, progress, lane)
        )
        if better:
            learned = {name: params[name][i, ...] for name in training.LEARNED if name in params}
            archives.write_arrays(store.path("parameters", lane), learned)


def _best_loss(study: Study, store: Storage, progress: Progress, lane: Lane) -> float:
    """The lowest final test loss so far among the lanes of a task, model and noise."""
    cell = store.key(lane)[:CELL]
    finished = (
        records[max(records)]
        for key, records in progress.records.items()
        if key[:CELL] == cell and study.over(records)
    )
    return min((r["test_loss"] for r in finished if not r["diverged"]), default=np.inf)


def prune(study: Study, lanes: Sequence[Lane], store: Storage, progress: Progress) -> None:
    """Remove the parameters of runs that were the best for a while."""
    for lane in lanes if study.keep == "best" else ():
        records = progress.records[store.key(lane)]
        if not study.over(records):
            continue
        if records[max(records)]["test_loss"] > _best_loss(study, store, progress, lane):
            store.path("parameters", lane).unlink(missing_ok=True)


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


def parameters(folder: str | Path, **where: Any) -> Params:
    """The parameters that a study kept of its best run where the axes have the values given.

        params = studies.parameters("runs/compare-quick", task="inpainting", model="deq", noise=0.1)

    The best is the one of the lowest final test loss that did not diverge. The weights, and all
    scalars but Adam's.
    Raises: ValueError for an unknown axis or value, where no parameters were kept, and for a file
    that does not hold them.
    """
    for name in where:
        checks.known("axis", name, (*results.AXES, *grids.OWN_AXES, "sample"))
    dataset = results.read(folder)
    axes = [str(d) for d in dataset.test_loss.dims[:-1]]
    for name, value in where.items():
        checks.known("axis", name, [*axes, *results.sampled(dataset)])
        there = dataset[name].values.tolist()
        if value not in there:
            raise ValueError(
                f"{folder}: no parameters were kept where {name}={value!r}; expected one of "
                f"{', '.join(map(str, there))}"
            )
    values = {d: dataset[d].values.tolist() for d in axes}
    drawn = {name: dataset[name].values.tolist() for name in results.sampled(dataset)}
    store = Storage(Path(folder), values, dataset.sizes["epoch"] - 1, (), {})
    final, diverged = (results.final(dataset, name) for name in ("test_loss", "diverged"))
    found = [
        (float(final.sel({d: lane[d] for d in axes})), i, lane)
        for i, lane in enumerate(grids.grid(values, drawn))
        if all(lane[name] == value for name, value in where.items())
        and not bool(diverged.sel({d: lane[d] for d in axes}))
        and store.path("parameters", lane).exists()
    ]
    if not found:
        raise ValueError(
            f"{folder}: no parameters were kept where {where}; see its folder parameters, or run "
            "the study with --keep-parameters all"
        )
    _, _, lane = min(found)
    learned = archives.read_arrays(store.path("parameters", lane), _learned(lane["model"]))
    return jax.tree.map(jnp.asarray, learned) | grids.scalars(lane)


def _learned(model: str) -> arrays.Schema:
    """Of a file of a run's final parameters."""
    matrix = arrays.Array(("features", "pixels"))
    schema = {"A": matrix, "b": arrays.Array(("features",))}
    return schema if model == "bilevel" else schema | {"C": matrix}
