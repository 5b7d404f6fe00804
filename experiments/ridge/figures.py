"""What was learned: filters, the potential with its derivative, and decibels over time."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from deqbilevel import plots
from deqbilevel.commands.drawing import draw
from deqbilevel.convolutions import chains
from deqbilevel.recipes import Learned
from deqbilevel.regularizers import ridge, spline_ridge

POINTS = 401
"""Of a curve."""

WIDEST = 2.0
"""As far as a potential is drawn, in units of where its concave part ends."""


POTENTIALS = {
    "ridge": partial(ridge.potential, rho=0.0),
    "weakly_convex_ridge": partial(ridge.potential, rho=1.0),
    "spline_ridge": partial(spline_ridge.potential, rho=1.0),
}
"""psi of params, by regulariser."""


FIRST = {
    "multiscale_ridge": lambda params: {
        f"filters of {name}": chains.composed(ridge.filters(params[name]))
        for name in sorted(params)
        if name.startswith("level_")
    },
    "input_convex": lambda params: {"W": _kernels(params["convex"]["W"])},
    "difference_of_convex": lambda params: {
        f"W, {name}": _kernels(params[name]["W"]) for name in ("convex", "concave")
    },
    "total_deep_variation": lambda params: {"K": _kernels(params["first"])},
}
"""Filters of params, by regulariser; of the others those of W."""


def draw_learned(learned: Learned, caption: str, out: Path) -> None:
    """Draw filters, and where there is one the potential, into a folder."""
    params, name = learned.params, learned.recipe.regularizer
    of = FIRST.get(name, lambda params: {"filters of W": chains.composed(ridge.filters(params))})
    stages = {title: _by_norm(np.asarray(c)) for title, c in of(params).items()}
    draw(out / "filters.png", plots.kernel_figure, stages, f"{caption}, by falling norm")
    if name not in POTENTIALS:
        return
    psi = POTENTIALS[name](params)
    z = jnp.linspace(-WIDEST, WIDEST, POINTS)
    panels = {
        "psi": {"psi": np.asarray(psi.value(z))},
        "its derivative": {"psi'": np.asarray(psi.derivative(z))},
    }
    draw(out / "potential.png", plots.function_figure, np.asarray(z), panels, ("z", ""), caption)


def draw_course(run: Path, numbers: Mapping[str, Any], caption: str, out: Path) -> None:
    """Draw the decibels of held-out patches over the time that steps took, by the records of a run
    of `learn` and its numbers, and those of the noisy ones."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    error = np.array([r.get("test_mean_squared_error", r["test_loss"]) for r in records])
    noisy = np.full(len(records), numbers["psnr_db_measured"])
    curves = {"learned": -10 * np.log10(error), "noisy": noisy}
    seconds = np.cumsum([record["seconds"] for record in records])
    panels, labels = {"held-out patches": curves}, ("seconds of training", "dB")
    draw(out / "decibels.png", plots.function_figure, seconds, panels, labels, caption)


def _by_norm(filters: np.ndarray) -> np.ndarray:
    """The strongest first."""
    return filters[np.argsort(-np.linalg.norm(filters, axis=(1, 2)))]


def _kernels(kernel: np.ndarray) -> np.ndarray:
    """[rows, columns, 1, channels] as [channels, rows, columns], each without its mean."""
    centred = np.asarray(kernel - np.mean(kernel, axis=(0, 1)))
    return np.moveaxis(centred[:, :, 0], -1, 0)
