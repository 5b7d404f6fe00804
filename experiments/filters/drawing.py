"""The figures of filter learning: filters, a picture, training images and the course."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deqbilevel import losses, plots
from deqbilevel.commands.drawing import draw
from deqbilevel.regularizers import convolutional
from experiments.filters.outcome import Outcome, Reconstruct
from experiments.filters.tasks import UNIT

SHOWN = 32
"""Training images, at most."""

COURSE = {
    "upper-level loss": "loss",
    "hypergradient norm / sqrt(R)": "gradient_norm",
    "lower gradient norm / sqrt(N)": "lower_gradient_norm",
    "Hessian products": "adjoint_evaluations",
}
"""What is drawn of the metrics of every iteration."""


def figures(outcome: Outcome, solve: Reconstruct, lane: int, out: Path) -> None:
    """The figures; pictures and filters are those of one lane."""
    options = outcome.options
    caption = (
        f"{options['experiment']} ({outcome.task.source}): {options['filters'][0]} filters "
        f"{options['filters'][1]}x{options['filters'][2]}, {options['potential']}, learned: "
        f"{options['learn']}, {outcome.iterations} upper-level iterations; "
    )
    _draw_filters(outcome, lane, caption, out)
    _draw_pictures(outcome, solve, lane, caption, out)
    if outcome.records:
        joined = {text: outcome.joined(name) for text, name in COURSE.items()}
        seeds = "a thin line for each seed, a thick one for their median"
        text = caption + (seeds if options["seeds"] > 1 else "one seed")
        draw(out / "course.png", plots.course_figure, joined, text)


def _draw_filters(outcome: Outcome, lane: int, caption: str, out: Path) -> None:
    def of_lane(params: dict[str, Any]) -> tuple[np.ndarray, Any]:
        own = jax.tree.map(lambda x: x[lane], params)
        return np.asarray(convolutional.filters(own)), np.asarray(convolutional.strengths(own))

    stages = {"before": of_lane(outcome.lanes.params), "after": of_lane(outcome.after)}
    text = caption + "ordered by effective strength e^(beta_0 + beta_k) ||c_k||, which is given"
    draw(out / "filters.png", plots.filter_figure, stages, text)


def _draw_pictures(
    outcome: Outcome, solve: Reconstruct, lane: int, caption: str, out: Path
) -> None:
    """The first picture with its profile, and training images."""
    options = outcome.options
    name, true = next(iter(outcome.task.pictures.items()))
    found = np.asarray(solve(lane, name)[0]).reshape(true.shape)
    measured = outcome.lanes.pictures[lane][name]
    shown = {
        "true": true,
        f"measured\n{_said(options, measured, true)}": measured,
        f"reconstructed\n{_said(options, found, true)}": found,
    }
    text = f"{caption}{name}, reconstructed to convergence"
    bars, middle = options["experiment"] == "vertical-bars", true.shape[0] // 2
    grey = None if bars else UNIT
    draw(out / "reconstruction.png", plots.profile_figure, shown, middle, text, grey)
    first = outcome.task.groups[0]
    count, shown = sum(len(group.truth) for group in outcome.task.groups), first.truth[:SHOWN]
    text = (
        f"{options['experiment']} ({outcome.task.source}): {len(shown)} of {count} training images"
    )
    ends = (float(shown.min()), float(shown.max()))
    draw(out / "patches.png", plots.gallery, shown, first.shape, text, grey or ends)


def _said(options: dict[str, Any], u: np.ndarray, true: np.ndarray) -> str:
    """SNR, and PSNR and SSIM of pictures that are in [0, 1], as bars are not."""
    pair = [jnp.asarray(x.reshape(1, -1)) for x in (u, true)]
    shape = (true.shape[0], true.shape[1])
    found = {k: float(x[0]) for k, x in losses.scores(pair[0], pair[1], shape, UNIT[1]).items()}
    text = f"SNR {found['snr_db']:.2f} dB"
    if options["experiment"] == "vertical-bars":
        return text
    return f"{text}, PSNR {found['psnr_db']:.2f} dB\nSSIM {found['ssim']:.3f}"
