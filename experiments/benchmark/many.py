"""Training steps of many runs at once: what an evaluation of one of them costs, and why.

    python -m experiments.benchmark --cases inpainting --models deq --lanes 1 15 45 225

The runs (lanes) are spread over the grid of [REB] for a task and model, and train under one `vmap`,
so that a solve lasts as long as its slowest lane: evaluations are made for all of them, and needed
by some. The time of a step is divided by those that were made.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from deqbilevel import lanes, learning, maps, models, precision
from deqbilevel.commands import folders
from deqbilevel.data import Images
from deqbilevel.settings import Setting
from deqbilevel.solvers.base import Progress
from deqbilevel.studies import grids, plans, running
from deqbilevel.studies.storage import Lane
from deqbilevel.studies.study import Study
from deqbilevel.types import At, Params
from experiments.benchmark.compiled import loop_kernels
from experiments.compare.options import GRIDS

EPOCHS, COMPILERS = 100, 8
"""Length of the cosine schedule, and how many programs are compiled at once."""


class Name(NamedTuple):
    """What is measured."""

    case: str
    model: str
    setting: str
    width: int

    @property
    def file(self) -> str:
        """Of the listing of its program."""
        return f"{'-'.join(map(str, self))}.hlo.txt"


class Posed(NamedTuple):
    """A number of runs, with their program and what it is called with."""

    name: Name
    setting: Setting
    trainer: learning.Trainer
    state: learning.State
    batches: tuple[Any, Any, Any]
    """Images, order [lanes, 1, batch] and keys [lanes, 1] of a step."""

    def lowered(self) -> Any:
        return self.trainer.steps.lower(self.state, *self.batches)


def measured(
    names: Sequence[Name],
    settings: dict[str, Setting],
    images: Images,
    *,
    warm_up: int,
    timed: int,
    batch_size: int,
    out: Path | None,
) -> list[dict[str, Any]]:
    """A record for each name, see `_record`; `out`: a folder for the listings of the programs."""
    posed = [_posed(name, settings[name.setting], images, batch_size) for name in names]
    with ThreadPoolExecutor(COMPILERS) as pool:
        steps = pool.map(_compiled, (each.lowered() for each in posed))
        evaluations = pool.map(_compiled, (_lowered_evaluation(each) for each in posed))
        programs = list(zip(posed, steps, evaluations, strict=True))
    found = []
    for each, (step, seconds), (evaluation, _) in tqdm(programs, desc="lanes", unit="program"):
        record = _record(each, step, evaluation, warm_up, timed)
        found.append(record | {"compile_seconds": seconds})
        if out is not None:
            folders.write(out / each.name.file, step.as_text())
    return found


def spread(case: str, kind: str, width: int) -> list[Lane]:
    """So many runs of a task and model, evenly from the grid of [REB].

    >>> from experiments.benchmark import many
    >>> print(many.spread("denoising", "deq", 1)[0]["tau"], len(many.spread("denoising", "deq", 5)))
    0.9 5
    """
    paper = GRIDS["paper"]
    axes = {"task": [case], "model": [kind]}
    axes |= {name: list(paper[f"{name}s"]) for name in ("noise", "tau", "gamma")}
    grid = grids.grid(axes | {"activation": ["identity", "relu", "softshrink"]})
    places = ((np.arange(width) + 0.5) * len(grid) / width).astype(int)
    return [grid[i] for i in places]


def _posed(name: Name, setting: Setting, images: Images, batch_size: int) -> Posed:
    model = models.build(name.case, name.model, images.shape)
    own = spread(name.case, name.model, name.width)
    one_device = jax.sharding.Mesh(np.asarray(jax.local_devices()[:1]), ("lane",))
    at_once = lanes.Lanes(one_device, name.width, name.width)
    study = Study(setting, EPOCHS, batch_size, setting.learning_rate, seed=0, lanes=at_once)
    trainer = running.group_trainer(model, study, len(images.train))
    state = running.initial_state(trainer, study, running.initial_weights(model, study, own), own)
    train = study.lanes.share(images.train)
    keys = study.lanes.keys([study.keys(lane)[1] for lane in own])
    order, noise, _, _ = trainer.draw(keys, 1, train)
    batches = (train, order[:, 0, :1], noise[:, 0, :1])
    return Posed(name, setting, trainer, state, batches)


def _lowered_evaluation(posed: Posed) -> Any:
    """One evaluation of the lower level with all that its solver does around it, by itself."""
    model, setting = posed.trainer.learner.models[0], posed.setting
    solver: Any = setting.forward(setting.budget)

    def completed(params: Params) -> Params:
        how = setting.differentiable(setting.budget)
        return model.solve(params, how, preconditioned=setting.preconditioned)[1]

    def evaluation(params: Params, f: Any, u0: Any, k: Any, carry: Any) -> Any:
        G: Any = maps.preconditioned_step if "inverse" in params else maps.gradient_step
        step, _ = solver.begin(At(G(model.K, model.N), params, f), u0)
        state, u, residual = step(k, carry[0])
        return state, carry[1].advance(u, residual, setting.forward_tolerance, setting.budget[0])

    def start(params: Params, u0: Any) -> Any:
        state = solver.begin(lambda u: u, u0)[1]
        one = jnp.ones((), u0.dtype)
        return state, Progress(u0, jnp.array(0), one, jnp.array(True))

    params = jax.eval_shape(jax.vmap(completed), posed.state.params)
    order = posed.batches[1]
    shape = (len(order), order.shape[-1], posed.batches[0].shape[1])
    u0 = jax.ShapeDtypeStruct(shape, jnp.float32)
    carry = jax.eval_shape(jax.vmap(start), params, u0)
    lanes_of = jax.vmap(precision.at(setting.precision, evaluation), (0, 0, 0, None, 0))
    program = jax.jit(lanes_of, donate_argnums=4)
    return program.lower(params, u0, u0, jax.ShapeDtypeStruct((), jnp.int32), carry)


def _compiled(lowered: Any) -> tuple[Any, float]:
    begin = time.perf_counter()
    return lowered.compile(), time.perf_counter() - begin


def _record(posed: Posed, step: Any, evaluation: Any, warm_up: int, timed: int) -> dict[str, Any]:
    """The median of steps, what they spent, and what an evaluation of a lane is made of."""
    state, width, times, spent = posed.state, posed.name.width, [], []
    for _ in range(warm_up + timed):
        begin = time.perf_counter()
        state, metrics = step(state, *posed.batches)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - begin)
        spent.append([metrics.forward_evaluations[:, 0], metrics.adjoint_evaluations[:, 0]])
    evaluations = np.asarray(jax.device_get(spent[warm_up:]))  # [steps, 2, lanes]
    needed = evaluations.sum(1).mean()
    made = evaluations.max(2).sum(1).mean()
    seconds = float(np.median(times[warm_up:]))
    forward, adjoint = evaluations.mean((0, 2))
    counted: Any = evaluation.cost_analysis()
    return posed.name._asdict() | {
        "step_ms": 1e3 * seconds,
        "forward_evaluations": float(forward),
        "adjoint_evaluations": float(adjoint),
        "useful_work": float(needed / made),
        "us_per_evaluation": 1e6 * seconds / (width * float(made)),
        "us_per_needed_evaluation": 1e6 * seconds / (width * float(needed)),
        "kernels": loop_kernels(step),
        "mflop": counted["flops"] / width / 1e6,
        "mbytes": counted["bytes accessed"] / width / 1e6,
        "memory_bytes": plans.step_memory(posed.trainer._replace(steps=step)),
    }
