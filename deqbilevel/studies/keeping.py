"""What a study keeps of its runs: the records of an epoch, and the final parameters."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deqbilevel import checks, learning, results
from deqbilevel.disk import archives, arrays
from deqbilevel.lanes import mine
from deqbilevel.studies import grids
from deqbilevel.studies.cubes import CELL
from deqbilevel.studies.states import States
from deqbilevel.studies.storage import Lane, Progress, Storage
from deqbilevel.studies.study import Study
from deqbilevel.types import Params


def store_epoch(
    study: Study,
    store: Storage,
    states: States,
    progress: Progress,
    chunk: list[Lane],
    epoch: int,
    state: learning.State,
    record: Mapping[str, np.ndarray],
    pictures: Mapping[str, np.ndarray] | None,
    ends: Sequence[bool],
) -> None:
    """Put an epoch of a chunk on disk, in the order that `storage` promises; those that end have
    pictures. The states are then for `states` to keep, or to forget."""
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
    for i, lane in enumerate(chunk):
        key = store.key(lane)
        progress.done[key] = epoch
        progress.records[key][epoch] = {name: record[name][i].item() for name in store.records}
    if 0 < epoch < study.epochs:
        states.put(chunk, epoch, jax.tree.leaves(state))
    if epoch == study.epochs:
        states.forget([lane for _, lane in own])


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
            learned = {name: params[name][i, ...] for name in _learned(lane["model"])}
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
