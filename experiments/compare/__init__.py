"""The study of [REB]: deep equilibrium models against bilevel learning on three tasks.

`python -m experiments.compare` is the quick preset: a small grid on the digits that ship with the
package, in a few minutes on two cores. `--preset paper` is the whole grid of 1350 runs. It uses
every device that there is. Every finished epoch is on disk; the same command goes on where it
stopped, and `python -m experiments.watch` shows how far it is.
"""

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from deqbilevel import results
from deqbilevel.commands import command, common, interrupts
from deqbilevel.studies import keeping, plans, running, storage
from deqbilevel.studies.states import States
from deqbilevel.studies.storage import Lane, Storage
from deqbilevel.studies.study import Study
from experiments import report
from experiments.compare.options import Compare
from experiments.compare.study import Work, prepare


@command.checked
def main(config: Compare) -> dict[str, Any]:
    """Run what is missing of the study, then its table and figures."""
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            work = prepare(config, stack)
        if config.dry_run:
            return _plan(work, config.fresh)
        numbers = _execute(work, States(60 * config.saving))
        out = work.store.folder
        dataset = results.read(out)
        rows = results.summary(dataset)
        if jax.process_index() == 0:
            report.present(dataset, rows, out, figures=config.figures)
    return {
        "runs": len(work.grid),
        "under_threshold": sum(row["under"] for row in rows),
        "diverged": sum(row["diverged"] for row in rows),
        **_headline(rows),
        **numbers,
        "seconds": time.perf_counter() - begin,
        "out": str(out),
    }


def _headline(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best test loss of each task and model, also by noise, and what doing nothing gives."""
    best: dict[str, float | None] = {}
    for row in rows:
        name = f"{row['task']}/{row['model']}"
        losses = (best.get(name), row.get("best"))
        best[name] = min((x for x in losses if x is not None), default=None)
    by_noise = {f"{r['task']}/{r['model']}/{r['noise']:g}": r.get("best") for r in rows}
    known = {f"{r['task']}/{r['noise']:g}": r["without_learning"] for r in rows}
    return {
        "best_test_loss": best,
        "best_test_loss_by_noise": by_noise,
        "test_loss_without_learning": known,
        "no_better_than_nothing": results.warnings(rows),
    }


def _plan(work: Work, fresh: bool) -> dict[str, Any]:
    """Print what is left to do, a line for each group; returns the sum."""
    study, store, images, found = work.study, work.store, work.images, []
    progress = storage.nothing(store, work.grid)
    if store.results.exists() and not fresh:
        progress, _ = store.look(work.grid)
    for name, model, group in work.groups():
        found.append(plans.plan(model, group, study, images.train, images.test, store, progress))
        print(f"{name}: {_said(found[-1], study)}", flush=True)
    whole = plans.total(found)
    print(f"in all: {_said(whole, study)}", flush=True)
    return whole._asdict() | {"devices": study.lanes.mesh.size, "out": str(store.folder)}


def _said(plan: plans.Plan, study: Study) -> str:
    return (
        f"{plan.lanes} lanes in {plan.chunks} chunks of at most {study.lanes.count} (an epoch "
        f"each), {plan.evaluations:.3g} evaluations, {plan.memory / 1e6:.0f} MB on each device, "
        f"about {plan.seconds:.0f} s ({plan.seconds / 3600:.2g} h)"
    )


def _execute(work: Work, states: States) -> dict[str, Any]:
    """Train what is not on disk yet, group by group, with a line of progress."""
    study, store, images, grid = work.study, work.store, work.images, work.grid
    progress = _recover(store, grid)
    if jax.process_index() == 0:
        print(
            f"{len(grid)} lanes in {len(list(work.groups()))} groups, {study.lanes.count} at once "
            f"on {study.lanes.mesh.size} devices ({study.lanes.width} of each under one vmap); "
            "--dry-run says how long and in how much memory",
            file=sys.stderr,
        )
    done = sum(last + 1 for last in progress.done.values())
    begin, spent, compiling = time.perf_counter(), 0.0, []
    total = len(grid) * (study.epochs + 1)
    silent = jax.process_index() > 0
    bar = tqdm(total=total, unit="epoch", initial=done, disable=silent)
    with bar, interrupts.first(states.flush):

        def on_chunk(chunk: Sequence[Lane], record: Mapping[str, Any]) -> None:
            nonlocal spent
            spent += float(np.sum(record["needed_evaluations"]))
            finished = [r[max(r)] for r in progress.records.values() if study.over(r)]
            diverged = sum(bool(r["diverged"]) for r in finished)
            rate = spent / (time.perf_counter() - begin)
            bar.set_postfix_str(
                f"{len(finished)} of {len(grid)} runs done, {diverged} diverged, "
                f"{rate:.0f} evaluations/s"
            )
            bar.update(len(chunk))

        for name, model, group in work.groups():
            bar.set_description(name)
            given = (images.train, images.test, store, progress)
            try:
                running.run_group(
                    *(model, group, study, *given),
                    states=states,
                    on_compiled=compiling.append,
                    on_chunk=on_chunk,
                )
            except ValueError as error:
                sys.exit(f"error: {error}")
    if jax.process_index() == 0:
        keeping.prune(study, grid, store, progress)
    records = [r for lane in progress.records.values() for r in lane.values()]
    return {
        "evaluations": sum(r["needed_evaluations"] for r in records),
        "useful_work": running.useful_work(progress),
        "compile_seconds": sum(compiling),
        "state_bytes": states.written,
        "training_seconds": sum(r["seconds"] + r["evaluation_seconds"] for r in records),
    }


def _recover(store: Storage, grid: list[Lane]) -> storage.Progress:
    """What is on disk: the first process mends it, then the others look."""
    if jax.process_index() == 0:
        progress, problems = store.recover(grid)
        for problem in problems:
            print(f"warning: {problem}", file=sys.stderr)
        multihost_utils.sync_global_devices("recovered")
        return progress
    multihost_utils.sync_global_devices("recovered")
    return store.look(grid)[0]
