"""How fast lanes train together, against the same lanes one after the other.

python -m experiments.throughput [--tasks denoising] [--widths 1 5 45] [--cpu-devices 2] [--out DIR]
python -m experiments.throughput --count [--widths 45]

For each task and model the lanes of one noise level of the paper's grid (45 settings) take a few
training steps: as runs of their own, one after the other, and as one compiled program on all
devices. Both take turns, so that whatever else the machine does meets them alike. What matrix
products reach on the same shapes is measured beside it, and so is the memory that the plan
foretells. Other programs should rest meanwhile.
"""

import itertools
import json
import os
from typing import Any

import jax

from deqbilevel import data, learning, models, settings
from deqbilevel.commands import command, common, folders, listing
from deqbilevel.studies.storage import Lane
from experiments.throughput import counting
from experiments.throughput.measuring import in_turns, matrix_rate, memory_of
from experiments.throughput.options import Throughput, check, lanes_of
from experiments.throughput.ways import FULL, alone, together


@command.checked
def main(config: Throughput) -> dict[str, Any]:
    """Time every group; returns the numbers."""
    with common.clear_errors():
        check(config)
        learning.measures_compiled()
        images = data.load("sample", train_size=config.train_size, test_size=config.batch_size)
        grid = lanes_of(config)
        if config.out:
            listing.will_write(config.out, ["throughput.json"])
    setting = settings.SETTINGS[config.setting]
    if config.count:
        return _count(setting, grid, images.shape, config)
    widths = config.widths or (1 if jax.default_backend() == "cpu" else len(grid),)
    found: dict[str, Any] = {}
    memory: dict[str, float] = {}
    for task, kind in itertools.product(config.tasks, config.models):
        model = models.build(task, kind, images.shape)
        ways = {"one after the other": alone(model, setting, grid, images.train, config)}
        if not memory:
            memory = memory_of(model, setting, grid, images, widths[0], config)
        for width in widths:
            ways[f"width {width}"] = together(model, setting, grid, images.train, width, config)
        found[f"{task}/{kind}"] = in_turns(ways, f"{task}/{kind}", config)
    rates = {
        precision: max(
            matrix_rate(precision, count, images.train.shape[1], config.batch_size)
            for count in (1, len(grid))
        )
        for precision in ("highest", "tensorfloat32")
    }
    numbers = _summary(found, rates, images.train.shape[1], config) | {"memory": memory}
    if config.out:
        folders.write(config.out / "throughput.json", json.dumps(numbers, indent=1))
    return numbers


def _count(
    setting: settings.Setting, grid: list[Lane], shape: tuple[int, int], config: Throughput
) -> dict[str, Any]:
    """Print what an evaluation is made of; returns the numbers."""
    found = {
        f"{task}/{kind}, {width}": counting.counted(
            models.build(task, kind, shape), setting, grid[0], width, config.batch_size
        )
        for task, kind in itertools.product(config.tasks, config.models)
        for width in config.widths or (1, 15, 45, 225)
    }
    print(counting.table(found), flush=True)
    if config.out:
        folders.write(config.out / "throughput.json", json.dumps(found, indent=1))
    return {"counted": found}


def _summary(
    found: dict[str, Any], rates: dict[str, float], pixels: int, config: Throughput
) -> dict[str, Any]:
    """The table's numbers: speed over all groups, against matrix products, and the full study."""
    flop = 4e-9 * config.batch_size * pixels**2  # of an evaluation: two products
    names = [name for name in next(iter(found.values())) if name != "one after the other"]
    steps = FULL["lanes"] * FULL["epochs"] * FULL["images"] // config.batch_size
    # The devices that are made of a CPU share what it can do.
    cards = 1 if jax.default_backend() == "cpu" else jax.device_count()
    ways = {}
    for name in ("one after the other", *names):
        of_groups = [group[name] for group in found.values()]
        seconds = sum(1 / g["lane_steps_per_second"] for g in of_groups)
        evaluations = sum(g["evaluations_per_lane_step"] for g in of_groups)
        reached = flop * evaluations / seconds
        ways[name] = {
            "lane_steps_per_second": len(of_groups) / seconds,
            "gflops": reached,
            "of_the_rate_in_float32": reached / (rates["highest"] * cards),
            "of_the_rate_in_tf32": reached / (rates["tensorfloat32"] * cards),
            "hours_of_the_steps_of_the_full_study": steps * seconds * 6 / len(found) / 3600,
        }
    alone = ways["one after the other"]["lane_steps_per_second"]
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "load_average": os.getloadavg()[0],
        "setting": config.setting,
        "times_as_fast": {n: ways[n]["lane_steps_per_second"] / alone for n in names},
        "matrix_gflops": rates,
        "ways": ways,
        "groups": found,
    }
