"""What a study will take, before it starts: lanes, chunks, memory, evaluations and time.

Memory is what the compiled step says of itself. Evaluations and time come from a pilot: a few
lanes, spread over the group, are evaluated and take a few steps. Their time for an evaluation,
which is the machine's, and their numbers of evaluations, sorted as a study sorts its lanes, say
what the group takes. A grid whose solves grow harder while it trains takes longer than that.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from deqbilevel import checks, learning
from deqbilevel.lanes import Lanes, everything
from deqbilevel.models import Model
from deqbilevel.studies import running
from deqbilevel.studies.states import free_memory
from deqbilevel.studies.storage import Lane, Progress, Storage
from deqbilevel.studies.study import Study
from deqbilevel.types import TestImages, TrainImages

MOST = 45
"""Lanes under one vmap on a GPU unless asked for others: more are hardly faster together, and wait
for each other. A task and model of [REB] has five times as many runs."""

__all__ = ["MOST", "Plan", "free_memory", "lanes_that_fit", "plan", "step_memory", "total"]


class Plan(NamedTuple):
    """A group, or with `total` a whole study, as far as it is not on disk yet."""

    lanes: int
    chunks: int
    """Calls of the group's program for an epoch of all its lanes, counted over all epochs."""
    evaluations: float
    memory: int
    """Bytes of a training step on each device."""
    seconds: float


def plan(
    model: Model,
    lanes: Sequence[Lane],
    study: Study,
    train: TrainImages,
    test: TestImages,
    store: Storage,
    progress: Progress,
    *,
    pilots: int = 3,
) -> Plan:
    """Plan a group: compiles its program and times `pilots` chunks of it, some steps each.

    Raises: ValueError for fewer than one pilot.
    """
    checks.whole("pilots", pilots)
    waiting = [lane for lane in lanes if not study.over(progress.records[store.key(lane)])]
    if not waiting:
        return Plan(0, 0, 0.0, 0, 0.0)
    model, study = study.of(model, waiting)
    trainer = running.group_trainer(model, study, len(train))
    train, test = study.lanes.share(train), study.lanes.share(test)
    weights = running.initial_weights(model, study, waiting)
    count, memory, costs = study.lanes.count, 0, []
    spread = np.linspace(0, len(waiting) - 1, min(pilots * count, len(waiting))).astype(int)
    for first in range(0, len(spread), count):
        chunk = [waiting[i] for i in spread[first : first + count]]
        own = running.filled(chunk, study)[study.lanes.local]
        state = running.initial_state(trainer, study, weights, own)
        keys = study.lanes.keys([study.keys(lane)[1] for lane in own])
        if not first:
            trainer = learning.compiled(trainer, state, train, keys)
            memory = step_memory(trainer)
            jax.block_until_ready(trainer.evaluate(state.params, test, keys))
        costs.append(_cost(trainer, study, state, train, test, keys, len(chunk)))
    evaluation, training_ = (Part.joined(parts) for parts in zip(*costs, strict=True))
    ahead = [
        sum(progress.done[store.key(lane)] < epoch for lane in waiting)
        for epoch in range(study.epochs + 1)
    ]
    return Plan(
        lanes=len(waiting),
        chunks=sum(-(-lanes // count) for lanes in ahead),
        evaluations=sum(ahead) * evaluation.needed.mean()
        + sum(ahead[1:]) * training_.needed.mean(),
        memory=memory,
        seconds=sum(evaluation.seconds_of(lanes, study.lanes) for lanes in ahead)
        + sum(training_.seconds_of(lanes, study.lanes) for lanes in ahead[1:]),
    )


class Part(NamedTuple):
    """What the pilots spent in an epoch's evaluation, or in its steps."""

    needed: Float[np.ndarray, " lanes"]
    """Evaluations of each pilot."""
    made: float
    """Evaluations for which its device worked: those of the slowest of each `vmap`, for all."""
    seconds: float

    @classmethod
    def joined(cls, parts: Sequence["Part"]) -> "Part":
        """Those of several chunks."""
        needed, made, seconds = zip(*parts, strict=True)
        return cls(np.concatenate(needed), sum(made), sum(seconds))

    def seconds_of(self, lanes: int, over: Lanes) -> float:
        """Of so many lanes, which need as many evaluations as the pilots, from few to many, and
        train beside lanes like them."""
        if not lanes:
            return 0.0
        ranks = (np.arange(lanes) + 0.5) / lanes
        sorted_lanes = np.quantile(self.needed, ranks)[::-1]
        slowest = sorted_lanes[:: over.width]
        share = -(-len(slowest) // over.mesh.size) / len(slowest)
        return self.seconds / self.made * over.width * float(slowest.sum()) * share


def _cost(
    trainer: learning.Trainer,
    study: Study,
    state: learning.State,
    train: Any,
    test: Any,
    keys: Any,
    own: int,
) -> tuple[Part, Part]:
    """Of a chunk with so many lanes of its own: the evaluation and the steps of an epoch; the steps
    are those of a few, multiplied."""
    begin = time.perf_counter()
    tested = everything(trainer.evaluate(state.params, test, keys))
    evaluated = _part(tested["spent"], time.perf_counter() - begin, study.lanes, own)
    order, noise, _, _ = trainer.draw(keys, 1, train)
    begin = time.perf_counter()
    _, metrics = trainer.steps(state, train, *learning.block(trainer, order, noise, 0))
    spent = everything([metrics.forward_evaluations, metrics.adjoint_evaluations])
    seconds = (time.perf_counter() - begin) * order.shape[-3]
    spent = np.concatenate(spent, axis=-1)
    steps = _part(spent, seconds, study.lanes, own)
    return evaluated, Part(steps.needed * order.shape[-3], steps.made * order.shape[-3], seconds)


def _part(spent: Float[np.ndarray, "lanes solves"], seconds: float, over: Lanes, own: int) -> Part:
    together = spent.reshape(-1, over.width, spent.shape[-1])
    made = over.width * together.max(axis=1).sum() / over.mesh.size
    return Part(spent[:own].sum(axis=-1), float(made), seconds)


def total(plans: Sequence[Plan]) -> Plan:
    """The sum of the groups; of memory the most, as they run one after the other."""
    lanes, chunks, evaluations, memory, seconds = zip(*plans, strict=True)
    return Plan(sum(lanes), sum(chunks), sum(evaluations), max(memory), sum(seconds))


def step_memory(trainer: learning.Trainer) -> int:
    """Bytes that the compiled steps of a `trainer` need on each device: state (donated), images and
    temporary arrays."""
    sizes: Any = trainer.steps.memory_analysis()
    new = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.argument_size_in_bytes + new + sizes.temp_size_in_bytes


def lanes_that_fit(
    model: Model, lane: Lane, study: Study, train: TrainImages, memory: int, *, most: int = MOST
) -> int:
    """Lanes of a group that a device can train under one vmap in `memory` bytes, at most `most`.

    Memory is linear in lanes, so the steps of one lane and of two say it.
    Raises: ValueError if not even one lane fits.
    """
    checks.whole("most", most)
    needed = []
    for each in (1, 2):
        some = study._replace(lanes=study.lanes._replace(each=each, width=each))
        solved, some = some.of(model, [lane])
        trainer = running.group_trainer(solved, some, len(train))
        own = running.filled([lane], some)[some.lanes.local]
        state = running.initial_state(trainer, some, running.initial_weights(model, some, own), own)
        keys = some.lanes.keys([some.keys(lane)[1] for lane in own])
        trainer = learning.compiled(trainer, state, some.lanes.share(train), keys)
        needed.append(step_memory(trainer))
    one, two = needed
    if one > memory:
        raise ValueError(
            f"a run of {lane['task']}/{lane['model']} needs {one / 1e6:.0f} MB, and "
            f"{memory / 1e6:.0f} MB are free: take smaller images or a smaller --batch-size"
        )
    return min(most, 1 + (memory - one) // max(two - one, 1))
