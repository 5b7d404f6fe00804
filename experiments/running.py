"""A run of the learner in epochs: each is on disk before the next begins."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from deqbilevel import checkpoints, learning
from deqbilevel.learning import Metrics, State, Trainer
from deqbilevel.settings import Setting
from experiments import common
from experiments.records import Log
from experiments.schema import ANY

FILES = ("metrics.jsonl", "latest/<checkpoint>", "best/<checkpoint>")
"""What `course` writes, see `folders`."""

RECORD = {"epoch": 0} | dict.fromkeys(learning.RECORDS, ANY)
RECORD |= {"test_loss": 0.0, "diverged": False}


class Course(NamedTuple):
    """What a run came to."""

    state: State
    records: list[dict[str, Any]]
    """Of every epoch, from 0."""


def course(
    out: Path,
    trainer: Trainer,
    setting: Setting,
    state: State,
    images: tuple[jax.Array, jax.Array],
    *,
    epochs: int,
    steps: int,
    key: jax.Array,
    f: Any = None,
) -> Course:
    """Train from where an earlier call stopped to the last epoch.

    images: for training and test; steps: of an epoch; f: measurements of the training images, where
    they stay the same. `best` keeps the params with the least test loss.
    """
    train, test = images
    done = checkpoints.latest_step(out / "latest")
    log = Log.of(out / "metrics.jsonl", RECORD)
    records = [] if done is None else log.course("epoch", range(done + 1))
    if done is not None:
        state = checkpoints.restore(out / "latest", state)
    if (done or 0) < epochs:
        trainer = learning.compiled(trainer, state, train, key, f)
    with _progress(epochs * steps, (done or 0) * steps) as (bar, on_steps):
        following = learning.run(
            trainer,
            setting,
            state,
            train,
            test,
            epochs=epochs,
            key=key,
            start=0 if done is None else done + 1,
            f=f,
            on_steps=on_steps,
        )
        for state, values in following:
            record = common.plain(values)
            losses = [r["test_loss"] for r in records]
            if not losses or record["test_loss"] < min(losses):
                checkpoints.save(out / "best", record["epoch"], state.params)
            records.append(record)
            # The record first: a checkpoint says that everything before it is on disk.
            log.keep(records)
            checkpoints.save(out / "latest", record["epoch"], state)
            bar.write(
                f"epoch {record['epoch']}: train loss {record['train_loss']:.4f}, "
                f"test loss {record['test_loss']:.4f}",
                file=sys.stderr,
            )
    return Course(state, records)


@contextlib.contextmanager
def _progress(total: int, done: int) -> Iterator[tuple[Any, Any]]:
    with tqdm(total=total, initial=done, unit="step") as bar:

        def on_steps(count: int, metrics: Metrics, seconds: float) -> None:
            spent = np.sum(metrics.forward_evaluations + metrics.adjoint_evaluations)
            loss = float(metrics.loss[-1])
            bar.set_postfix_str(f"loss {loss:.4f}, {spent / seconds:.0f} evaluations/s")
            bar.update(count)

        yield bar, on_steps
