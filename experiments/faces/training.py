"""Learning of the lanes of a model, and for each the epoch where its training loss was least."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deqbilevel import lanes, learning
from deqbilevel.commands import running
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.disk import checkpoints
from deqbilevel.learning import State
from deqbilevel.models import Model
from deqbilevel.types import Params
from experiments.faces.posing import Posed, initial, lanes_of, setting

RECORD = {"epoch": 0} | {name: [ANY] for name in learning.RECORDS}
RECORD |= {"test_loss": [0.0], "diverged": [False], "seconds": [0.0]}
"""Of an evaluation: of each lane."""


class Run(NamedTuple):
    """A model's lanes before and after learning."""

    name: str
    model: Model
    start: Params
    params: Params
    records: list[dict[str, Any]]
    lane: dict[str, Any]
    """The lane with the least training loss."""
    best: int
    """Its place."""
    epoch: int
    """That of `params`: of those evaluated the one with its least training loss."""


class Best(NamedTuple):
    """The parameters of each lane where its training loss was least."""

    params: Params
    loss: np.ndarray
    epoch: np.ndarray

    def after(self, params: Params, epoch: int, loss: np.ndarray) -> "Best":
        """This, or in the lanes that have less loss now, what they have now."""
        better = loss < self.loss

        def chosen(new: np.ndarray, old: np.ndarray) -> np.ndarray:
            return np.where(better.reshape(-1, *[1] * (np.ndim(new) - 1)), new, old)

        return jax.tree.map(chosen, Best(params, loss, np.full_like(self.epoch, epoch)), self)


def learn(config: Any, posed: Posed, name: str, out: Path) -> Run:
    """Train the lanes of a model, from where an earlier call stopped."""
    own, model, images = lanes_of(config, name), posed.models[name], posed.images
    each = -(-len(own) // jax.device_count())
    # On a CPU lanes are no faster together.
    spread = lanes.lanes(each, 1 if jax.default_backend() == "cpu" else each)
    chosen = [own[i % len(own)] for i in range(spread.count)]
    starts = [initial(config, model, posed.given[name], lane) for lane in chosen]
    start = jax.tree.map(lambda *x: np.stack(x), *starts)
    how = setting(config, name)
    trainer = learning.trainer(
        model,
        how,
        total_steps=max(config.epochs, 1),
        batch_size=len(images.train),
        lanes=spread,
        schedule=learning.linear(0.1 if config.task == "deblurring" else 0.01),
        passes=config.evaluate_every,
    )
    state = trainer.init(spread.put(start))
    nothing = np.full(spread.count, np.inf)
    best = Best(lanes.mine(state.params), nothing, np.zeros(spread.count, int))
    folder = out / "states" / name
    if checkpoints.latest_step(folder) is not None:
        best = checkpoints.restore(out / "best" / name, best)

    def of_lanes(values: dict[str, Any]) -> dict[str, Any]:
        many = {k: v for k, v in values.items() if k != "epoch"}
        many = {k: np.broadcast_to(v, spread.count)[: len(own)].tolist() for k, v in many.items()}
        return {"epoch": values["epoch"]} | many

    def keep_best(state: State, record: dict[str, Any], before: list[dict[str, Any]]) -> None:
        nonlocal best
        epoch = record["epoch"]
        if epoch or not config.epochs:  # the start is shown beside it anyway
            loss = np.where(record["diverged"], np.inf, record["train_loss"])
            best = best.after(lanes.mine(state.params), epoch, np.resize(loss, spread.count))
        if np.any(best.epoch == epoch):
            checkpoints.save(out / "best" / name, epoch, best)

    _, records = running.follow(
        folder,
        Log.of(out / f"metrics-{name}.jsonl", RECORD),
        trainer,
        how,
        state,
        (spread.share(images.train), spread.share(images.test)),
        epochs=config.epochs,
        steps=1,
        key=spread.keys([learning.keys(config.seed)[1]] * spread.count),
        every=config.evaluate_every,
        plain=of_lanes,
        keep=keep_best,
    )
    place = int(np.argmin(best.loss[: len(own)]))

    def of_lane(tree: Params) -> Params:
        return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[place]), tree)

    params, epoch = of_lane(best.params), int(best.epoch[place])
    return Run(name, model, of_lane(start), params, records, own[place], place, epoch)
