"""What a training step costs, against the floor that its matrix products set, and against peers.

python -m experiments.benchmark [--peers] [--settings paper fast] [--cases denoising] [--out DIR]
python -m experiments.benchmark --cases --imaging fourier parallel_beam mri sampling ct poisson
python -m experiments.benchmark --lanes 1 15 45 225 [--precision tensorfloat32] [--cases inpainting]

An evaluation of the dense map is two matrix products, so evaluations times products is the least
that a step can take; the fraction of this floor that is reached says what is lost around them.
All that is compared is timed in rounds, one step of each after the other, so that whatever else
the machine does meets all of them alike. Other programs should rest meanwhile.
"""

import contextlib
import itertools
import json
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from deqbilevel import data, learning, models, settings
from deqbilevel.commands import command, common, folders, listing, options
from deqbilevel.learning import steps_per_epoch, trainer
from deqbilevel.settings import SETTINGS, Budget, Setting
from experiments.benchmark import many, peers
from experiments.benchmark.imaging import IMAGING, measured
from experiments.benchmark.peers import Evaluations, Problem, Step
from experiments.benchmark.timing import PAIRS, Cost, floor, rounds

CASES: dict[str, dict[str, Any]] = {
    "denoising": {"activation": "relu", "tau": 0.9, "gamma": 0.1, "noise": 0.5},
    "inpainting": {"activation": "softshrink", "tau": 0.9, "gamma": 1.0, "noise": 0.1},
    "deblurring": {"activation": "relu", "tau": 0.9, "gamma": 0.5, "noise": 0.05},
}
"""One point of the grid of [REB] for each task."""

CAPS = (10, 50, 250, 1000)
"""Caps on the evaluations of a solve, for which memory is compared."""

EPOCHS = 100
"""Length of the cosine schedule, as in [REB]: what is timed is the start of a long training."""


@dataclass(frozen=True)
class Benchmark:
    """Time training steps and compare them with the floor, and with other libraries."""

    settings: tuple[Literal["paper", "accurate", "fast"], ...] = ("paper", "accurate", "fast")
    """How the lower level is solved; an adaptive setting at the budget that it starts with."""
    models: tuple[Literal["bilevel", "deq"], ...] = ("bilevel", "deq")
    """bilevel: C = A; deq: C is learned too."""
    cases: Annotated[
        tuple[Literal["denoising", "inpainting", "deblurring"], ...], options.may_be_empty
    ] = ("denoising", "inpainting", "deblurring")
    """Tasks, each at one point of the grid of hyperparameters; none: --cases without a value."""
    imaging: Annotated[tuple[str, ...], options.among(IMAGING)] = ()
    """Also operators of MRI and CT against their floor, and steps of the presets of imaging."""
    lanes: Annotated[tuple[int, ...], options.whole(1, 10_000)] = ()
    """Instead of single runs: so many of each case at once, spread over the grid of [REB]."""
    precision: options.Precision = None
    """Of products on a GPU: float32 in full, or in TF32. A CPU has one."""
    steps: Annotated[int, options.whole(1, 100_000)] = 20
    """Timed steps."""
    warm_up: Annotated[int, options.whole(1, 100_000)] = 20
    """Steps before, which compile and leave the random start behind."""
    batch_size: Annotated[int, options.size] = 100
    train_size: Annotated[int, options.size] = 6000
    """Images to draw batches from."""
    peers: bool = False
    """Also time TorchDEQ and plain jaxopt, against the setting paper on the model bilevel."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.default("none")] = None
    """Folder for benchmark.json."""


def settings_of(config: Benchmark) -> dict[str, Setting]:
    """The settings that are timed, by name. Raises: ValueError for a precision that one has not."""
    found = {name: SETTINGS[name] for name in config.settings}
    if config.precision is not None:
        found = {name: x._replace(precision=config.precision) for name, x in found.items()}
    return {name: settings.check(x) for name, x in found.items()}


def names_of(config: Benchmark) -> list[many.Name]:
    """What is measured of runs that train at once."""
    axes = (config.cases, config.models, config.settings, config.lanes)
    return [many.Name(*each) for each in itertools.product(*axes)]


def check(config: Benchmark) -> None:
    """Raises ValueError for a request that cannot be met."""
    settings_of(config)
    if config.lanes and (config.peers or config.imaging):
        raise ValueError("--lanes: measured by itself; leave --peers and --imaging out")
    if config.lanes and not config.cases:
        raise ValueError("--lanes: of --cases, one or more")
    if config.batch_size > config.train_size:
        raise ValueError(f"--batch-size {config.batch_size}: more than --train-size")
    if config.peers and not ("paper" in config.settings and "bilevel" in config.models):
        raise ValueError("--peers: compared with --settings paper on --models bilevel; add both")


def pose(config: Benchmark, images: data.Images, case: str, kind: str) -> Problem:
    """A case with its initial weights and batches, and the learning rate of the peers' setting."""
    rate = SETTINGS["paper"].learning_rate
    weights = models.build(case, kind, images.shape).init(jax.random.key(config.seed))
    rng = np.random.default_rng(config.seed)
    shape = (config.warm_up + config.steps, config.batch_size)
    return Problem(
        task=case,
        kind=kind,
        activation=CASES[case]["activation"],
        shape=images.shape,
        params=weights | models.hyperparameters(**CASES[case], learning_rate=rate),
        images=images.train,
        order=rng.integers(len(images.train), size=shape),
        seed=config.seed,
        gpu=jax.default_backend() == "gpu",
    )


def ours(problem: Problem, setting: Setting) -> Step:
    """A step of our own training, in a block of one."""
    total = EPOCHS * steps_per_epoch(len(problem.images), problem.order.shape[1])
    functions = trainer(problem.model, setting, total_steps=total)
    rate = {"learning_rate": jnp.float32(setting.learning_rate)}
    # The steps donate their state, and other settings start from the same weights.
    state = functions.init(jax.tree.map(jnp.array, problem.params | rate))
    images, order, keys = jnp.asarray(problem.images), jnp.asarray(problem.order), problem.keys

    def step(i: int) -> Evaluations:
        nonlocal state
        state, metrics = functions.steps(state, images, order[i : i + 1], keys[i : i + 1])
        jax.block_until_ready(state)
        return float(metrics.forward_evaluations[0]), float(metrics.adjoint_evaluations[0])

    return step


def memory(problem: Problem) -> dict[int, int]:
    """Temporary bytes of the compiled step for each cap; implicit differentiation keeps no path."""
    sizes = {}
    for cap in CAPS:
        setting = SETTINGS["paper"]._replace(budget=Budget(cap, cap), limit=Budget(cap, cap))
        functions = trainer(problem.model, setting, total_steps=1)
        state = functions.init(problem.params)
        lowered = functions.steps.lower(state, problem.images, problem.order[:1], problem.keys[:1])
        sizes[cap] = int(lowered.compile().memory_analysis().temp_size_in_bytes)
    return sizes


def row(*cells: str | float | None) -> str:
    """One line of the table: three names, then numbers."""
    texts = ["" if c is None else c if isinstance(c, str) else f"{c:.4g}" for c in cells]
    return " ".join([f"{t:<10}" for t in texts[:3]] + [f"{t:>8}" for t in texts[3:]]).rstrip()


@command.checked
def main(config: Benchmark) -> dict[str, Any]:
    """Time everything, print the table, and return the numbers."""
    with common.clear_errors():
        check(config)
        learning.measures_compiled()
        images = data.load("sample", train_size=config.train_size, test_size=1)
        if config.out:
            listing.will_write(config.out, ["benchmark.json", *[x.file for x in names_of(config)]])
    load = os.getloadavg()[0]
    if config.lanes:
        budget = {"warm_up": config.warm_up, "timed": config.steps, "batch_size": config.batch_size}
        found = many.measured(
            names_of(config), settings_of(config), images, **budget, out=config.out
        )
        return finished(config, load, {"lanes": found})
    absent = {name: peers.missing(name) for name in peers.PEERS} if config.peers else {}
    compared: dict[str, Any] = {name: text or {} for name, text in absent.items()}
    cases: dict[str, Any] = {case: {kind: {} for kind in config.models} for case in config.cases}
    floors = []
    table = [row("case", "model", "step", "ms", "forward", "adjoint", "floor", "of it", "to paper")]
    for case in config.cases:
        for kind in config.models:
            problem = pose(config, images, case, kind)
            with contextlib.ExitStack() as stack:
                steps = {name: ours(problem, x) for name, x in settings_of(config).items()}
                for name in absent if kind == "bilevel" else ():
                    if not absent[name]:
                        steps[name] = stack.enter_context(peers.apart(name, problem))
                steps["floor"] = floor(config.batch_size, images.train.shape[1])
                label = f"{case} {kind}"
                costs = rounds(steps, warm_up=config.warm_up, timed=config.steps, label=label)
            floors.append(costs.pop("floor").step_ms / PAIRS)
            for name, cost in costs.items():
                record: dict[str, Any] = cost._asdict()
                if name in config.settings:
                    record |= reached(cost, floors[-1])
                    cases[case][kind][name] = record
                else:
                    record["ratio"] = cost.step_ms / costs["paper"].step_ms
                    compared[name][case] = record
                rest = (record.get(n) for n in ("floor_ms", "fraction_of_floor", "ratio"))
                table.append(row(case, kind, name, *cost, *rest))
    of_imaging = {name: measured(name, config.warm_up, config.steps) for name in config.imaging}
    for name, found in of_imaging.items():
        table += [row(name, "", part, *numbers.values()) for part, numbers in found.items()]
    posed = [pose(config, images, case, config.models[0]) for case in config.cases[:1]]
    sizes = memory(posed[0]) if posed else {}
    table += [f"{name}: {text}" for name, text in absent.items() if text]
    table += [f"temporary memory, at most {cap} evaluations: {n} bytes" for cap, n in sizes.items()]
    table += [f"load average before the run: {load:.2f} on {os.cpu_count()} cores"]
    print("\n".join(table), file=sys.stderr)
    numbers = {
        "floor_ms_per_evaluation": float(np.median(floors)) if floors else None,
        "cases": cases,
        "imaging": of_imaging,
        "memory_bytes": sizes,
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "peers": compared,
    }
    return finished(config, load, numbers)


def finished(config: Benchmark, load: float, numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers with what they were measured on, also in the folder of results."""
    numbers = {"device": jax.devices()[0].device_kind, "load_average": load} | numbers
    if config.out:
        folders.write(config.out / "benchmark.json", json.dumps(numbers, indent=1))
    return numbers


def reached(cost: Cost, floor_ms_per_evaluation: float) -> dict[str, float]:
    """The floor of a step, measured in the same rounds, and the fraction that is reached."""
    evaluations = (cost.forward_evaluations or 0) + (cost.adjoint_evaluations or 0)
    floor_ms = evaluations * floor_ms_per_evaluation
    return {
        "floor_ms_per_evaluation": floor_ms_per_evaluation,
        "floor_ms": floor_ms,
        "fraction_of_floor": floor_ms / cost.step_ms,
    }
