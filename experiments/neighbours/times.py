"""The time at which a flow ends, learned at several levels of noise and of blur."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deqbilevel.data import Images
from experiments.neighbours import judging, ways
from experiments.neighbours.ways import Run


def parts(config: Any) -> Iterator[dict[str, Any]]:
    """What names the records of the learned times."""
    if "flow" not in config.ways:
        return
    yield from ({"task": "denoising", "level": x} for x in config.time_noises)
    yield from ({"task": "deblurring", "level": x} for x in config.time_blurs)


def run_of(config: Any, task: str, level: float) -> tuple[Any, Run]:
    """The options and the flow at a level of noise, or of blur."""
    if task == "denoising":
        return config, Run(f"{task}-{level:g}", "flow", config.steps, level / ways.FULL)
    own = dataclasses.replace(config, blur=level)
    return own, Run(f"{task}-{level:g}", "flow", config.steps, config.blur_noise / ways.FULL)


def row(config: Any, images: Images, out: Path, task: str, level: float) -> dict[str, Any]:
    """The time and the dB of held-out images."""
    own, run = run_of(config, task, level)
    params, course, *_ = judging.learned(own, run, images, out)
    first = ways.start(own, run, images)
    return {
        "time": float(np.exp(params["log_time"])),
        "time_at_start": float(np.exp(first["log_time"])),
        "psnr_db": course[-1][1],
    }
