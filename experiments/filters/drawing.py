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
        text = caption + "a line for each seed"
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
    name, true = next(iter(outcome.task.pictures.items()))
    found = np.asarray(solve(lane, name)[0]).reshape(true.shape)
    measured = outcome.lanes.pictures[lane][name]
    snr = [
        float(losses.snr(jnp.asarray(x.reshape(1, -1)), jnp.asarray(true.reshape(1, -1)))[0])
        for x in (measured, found)
    ]
    shown = {
        "true": true,
        f"measured\nSNR {snr[0]:.2f} dB": measured,
        f"reconstructed\nSNR {snr[1]:.2f} dB": found,
    }
    text = f"{caption}{name}, reconstructed to convergence"
    draw(out / "reconstruction.png", plots.profile_figure, shown, true.shape[0] // 2, text)
    first = outcome.task.groups[0]
    rows = {"training": first.truth[:8] * 2 - 1}
    text = caption + "training images"
    draw(out / "patches.png", plots.reconstructions, rows, first.shape, text)
