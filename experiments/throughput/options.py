"""Options of `experiments.throughput`, and the lanes that they stand for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from deqbilevel.commands import common, options, sizes
from deqbilevel.studies import grids
from deqbilevel.studies.storage import Lane
from experiments.compare.options import GRIDS, ModelName, Task

PAPER = GRIDS["paper"]


@dataclass(frozen=True)
class Throughput:
    """Time lanes together and one after the other."""

    tasks: tuple[Task, ...] = ("denoising", "inpainting", "deblurring")
    models: tuple[ModelName, ...] = ("bilevel", "deq")
    noise: Annotated[float, options.noise] = 0.1
    """Standard deviation, on images in [-1, 1]."""
    taus: Annotated[tuple[float, ...], options.tau] = PAPER["taus"]
    """Step sizes, and thresholds of Softshrink."""
    gammas: Annotated[tuple[float, ...], options.weight] = PAPER["gammas"]
    """Weights of the regulariser."""
    setting: Literal["paper", "accurate", "fast"] = "paper"
    """How the lower level and its adjoint are solved."""
    widths: Annotated[
        tuple[int, ...], options.whole(1, 10_000), options.default("1 on a CPU, else all")
    ] = ()
    """Lanes under one vmap."""
    steps: Annotated[int, options.whole(1, 100_000)] = 5
    """Training steps in one timing."""
    rounds: Annotated[int, options.whole(1, 100_000)] = 3
    """Timings of each, of which the median counts."""
    warm_up: Annotated[int, options.whole(0, 100_000)] = 1
    """Timings before."""
    batch_size: Annotated[int, options.size] = 100
    train_size: Annotated[int, options.size] = 1000
    count: bool = False
    """Time nothing: count what an evaluation launches, moves and computes in the compiled program,
    at the --widths, or at 1, 15, 45 and 225, which may be more than there are lanes."""
    cpu_devices: Annotated[int, options.whole(1, 256)] = 1
    """Devices to make of a CPU."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.default("none")] = None
    """Folder for throughput.json."""


def check(config: Throughput) -> None:
    """Raises ValueError for a request that cannot be met."""
    if config.batch_size > config.train_size:
        raise ValueError(f"--batch-size {config.batch_size}: more than --train-size")
    common.make_cpu_devices(config.cpu_devices)
    lanes_of_group = 3 * len(config.taus) * len(config.gammas)
    sizes.fits(
        24 * (28 * 28) ** 2 * lanes_of_group,
        f"--taus and --gammas: {lanes_of_group} lanes at once",
        "take fewer values",
    )
    if not config.count and max(config.widths, default=1) > lanes_of_group:
        raise ValueError(
            f"--widths {max(config.widths)}: more than the {lanes_of_group} lanes of --taus, "
            "--gammas and the activations"
        )


def lanes_of(config: Throughput) -> list[Lane]:
    """The lanes, with the task and model of none: those of the group that they run in."""
    return grids.grid(
        {
            "task": ["denoising"],
            "model": ["bilevel"],
            "noise": [config.noise],
            "tau": list(config.taus),
            "gamma": list(config.gammas),
            "activation": ["identity", "relu", "softshrink"],
        }
    )
