"""The time at which a flow ends, learned at several levels of noise and of blur."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import learning, losses, unrolled
from deqbilevel.data import Images
from experiments.neighbours import judging, ways
from experiments.neighbours.ways import Run

FINER = 8
"""Times as many steps, so that those of longer times are stable too."""

AROUND = np.log(2) * np.arange(-6, 7) / 2
"""Logarithms of the parts of the learned time that are tried, an eighth to eight."""


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


def alone(config: Any, images: Images, out: Path, task: str, level: float) -> dict[str, Any]:
    """The best time on the training images of a level, and their dB, of the flow that was learned
    at --noise or at --blur, whose filters and potentials stay."""
    start = config.noise if task == "denoising" else config.blur
    params = judging.learned(*run_of(config, task, start), images, out)[0]
    own, run = run_of(config, task, level)
    params |= {"noise": np.float32(run.noise)}
    model, truth = ways.model(own, run, images.shape), jnp.asarray(images.train)
    f = model.measure(params, truth, learning.keys(config.seed)[2])
    finer = unrolled.refined(params, FINER * config.steps)

    @jax.jit
    def loss(log_time: Array) -> Array:
        u, _ = model.reconstruct(ways.solver(run), finer | {"log_time": log_time}, f)
        return losses.mean_squared_error(u, truth)

    tried = {float(x): float(loss(params["log_time"] + x)) for x in AROUND}
    best = judging.least(tried)
    return {
        "time": float(np.exp(params["log_time"] + best)),
        "psnr_db": float(-10 * np.log10(tried[best])),
    }
