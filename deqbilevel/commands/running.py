"""A run of the learner in epochs: each is on disk before the next begins."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from deqbilevel import data, learning, settings
from deqbilevel.commands import common
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.data import Images
from deqbilevel.disk import checkpoints
from deqbilevel.learning import Metrics, State, Trainer
from deqbilevel.settings import Setting

FILES = ("metrics.jsonl", "latest/<checkpoint>", "best/<checkpoint>")
"""What `course` writes, see `folders`."""

ENOUGH = 0.9
"""Of an epoch's steps; where fewer are solved it is said."""

RECORD = {"epoch": 0} | dict.fromkeys(learning.RECORDS, ANY)
RECORD |= {"test_loss": 0.0, "diverged": False}


def setting_of(config: Any) -> Setting:
    """That of --setting, in the --precision that is asked for. Raises: ValueError."""
    setting = settings.SETTINGS[config.setting]
    return settings.check(setting._replace(precision=config.precision or setting.precision))


def images_of(config: Any, **how: Any) -> Images:
    """Those of --data, as many and as large as the options say; `how` as for `data.load`."""
    names = ("train_size", "test_size", "patch", "shape", "seed")
    asked = {name: getattr(config, name) for name in names if hasattr(config, name)}
    return data.load(config.data, **asked, **how)


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
    part: Mapping[str, str] | None = None,
) -> Course:
    """Train from where an earlier call stopped to the last epoch.

    images: for training and test; steps: of an epoch; f: measurements of the training images, where
    they stay the same. `best` keeps the params with the least test loss. part: of one of several
    runs in the folder what its records say, see `files_of`.
    """

    def keep_best(state: State, record: dict[str, Any], before: list[dict[str, Any]]) -> None:
        if all(record["test_loss"] < earlier["test_loss"] for earlier in before):
            checkpoints.save(out / "best", record["epoch"], state.params)

    return follow(
        out / "states" / "-".join(part.values()) if part else out / "latest",
        Log.of(out / "metrics.jsonl", RECORD, part),
        trainer,
        setting,
        state,
        images,
        epochs=epochs,
        steps=steps,
        key=key,
        f=f,
        keep=(lambda state, record, before: None) if part else keep_best,
    )


def files_of(*parts: str) -> list[str]:
    """What `course` writes of several runs in a folder, by the values of their `part`."""
    return ["metrics.jsonl", *(f"states/{part}/<checkpoint>" for part in parts)]


def follow(
    folder: Path,
    log: Log,
    trainer: Trainer,
    setting: Setting,
    state: State,
    images: tuple[jax.Array, jax.Array],
    *,
    epochs: int,
    steps: int,
    key: jax.Array,
    f: Any = None,
    every: int = 1,
    plain: Callable[[dict[str, Any]], dict[str, Any]] = common.plain,
    keep: Callable[[State, dict[str, Any], list[dict[str, Any]]], None],
) -> Course:
    """`course`, with checkpoints in a folder and records in a log.

    every: what one epoch of the trainer counts for, as it may pass over the images several times.
    plain: what a record is in JSON. keep: called with the state and the record of an epoch and
    those before it, ahead of its checkpoint.
    """
    done = checkpoints.latest_step(folder)
    records = log.course("epoch", range(0, -1 if done is None else done + 1, every))
    if done is not None:
        state = checkpoints.restore(folder, state)
    with _progress(epochs * steps, (done or 0) * steps) as (bar, on_steps):
        if (done or 0) < epochs:
            bar.set_postfix_str("compiling: up to half a minute, and kept for the next call")
            trainer = learning.compiled(trainer, state, images[0], key, f)
        if done is None:
            bar.set_postfix_str("evaluating the start")
        following = learning.run(
            trainer,
            setting,
            state,
            *images,
            epochs=epochs // every,
            key=key,
            start=0 if done is None else done // every + 1,
            f=f,
            on_steps=on_steps,
        )
        for state, values in following:
            record = {**log.part, **plain(values | {"epoch": values["epoch"] * every})}
            keep(state, record, records)
            records.append(record)
            # The record first: a checkpoint says that everything before it is on disk.
            log.keep(records)
            checkpoints.save(folder, record["epoch"], state)
            losses = (np.min(values[f"{name}_loss"]) for name in ("train", "test"))
            said = "epoch {}: train loss {:.4g}, test loss {:.4g}".format(record["epoch"], *losses)
            bar.write(said + _unsolved(values), file=sys.stderr)
    return Course(state, records)


def _unsolved(values: Mapping[str, Any]) -> str:
    """What a record says of steps whose lower level or adjoint missed its tolerance."""
    solved = float(np.mean(values["solved"])) if values["epoch"] else 1.0
    return "" if solved > ENOUGH else f"; lower level and adjoint solved in {solved:.0%} of steps"


@contextlib.contextmanager
def _progress(total: int, done: int) -> Iterator[tuple[Any, Any]]:
    with tqdm(total=total, initial=done, unit="step") as bar:

        def on_steps(count: int, metrics: Metrics, seconds: float) -> None:
            spent = np.sum(metrics.forward_evaluations + metrics.adjoint_evaluations)
            loss = np.min(metrics.loss[..., -1])
            bar.set_postfix_str(f"loss {loss:.4g}, {spent / seconds:.0f} evaluations/s")
            bar.update(count)

        yield bar, on_steps
