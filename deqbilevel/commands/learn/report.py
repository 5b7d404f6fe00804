"""What a run of `learn` shows: numbers beside doing nothing, pictures, filters."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import baselines, learning, losses, plots
from deqbilevel.commands.drawing import draw
from deqbilevel.commands.running import Course
from deqbilevel.data import Images
from deqbilevel.models import Model
from deqbilevel.settings import Setting
from deqbilevel.types import Params

JUDGED = 1000
"""Test images that are judged at the end, at most."""

TOGETHER = 100
"""Of them reconstructed at once."""


def report(
    config: Any,
    images: Images,
    model: Model,
    setting: Setting,
    start: Params,
    done: Course,
    known: dict[str, float],
    out: Path,
) -> dict[str, Any]:
    """Draw what was learned, and return its numbers on the test images."""
    test = jnp.asarray(images.test[:JUDGED])
    key = learning.keys(config.seed)[2]
    f = model.measure(start, test, key)
    solve = jax.jit(lambda params, f: model.reconstruct(setting.evaluation(), params, f))
    before, _ = reconstructed(solve, start, f)
    u, residual = reconstructed(solve, done.state.params, f)
    back = model.K.adjoint(f)
    nothing = {"measured": f} if baselines.pictured(f, test) else {}
    if not nothing or not bool(jnp.array_equal(f, back)):
        nothing |= {"adjoint": back}
    pictures = {**nothing, "start": before, "learned": u}
    judged = partial(losses.mean_scores, truth=test, shape=images.shape, peak=images.peak)
    scores = {
        name: {what: float(x) for what, x in judged(shown).items()}
        for name, shown in pictures.items()
    }
    last = done.records[-1]
    found: dict[str, Any] = {
        f"{what}_{name}": values[what] for name, values in scores.items() for what in values
    }
    found |= {
        "test_loss": last["test_loss"],
        "test_loss_initial": done.records[0]["test_loss"],
        **baselines.numbers(known),
        "residual": residual,
        "forward_evaluations": last["forward_evaluations"],
        "adjoint_evaluations": last["adjoint_evaluations"],
        "solved": last["solved"],
        "epochs": last["epoch"],
        "diverged": bool(last["diverged"]),
        "seconds": sum(record["seconds"] for record in done.records),
        "step_ms": last["step_ms"],
    }
    best = max(scores[name]["psnr_db"] for name in nothing)
    if not scores["learned"]["psnr_db"] > best:
        print(
            f"warning: the reconstructions have {scores['learned']['psnr_db']:.2f} dB, and doing "
            f"nothing {best:.2f}: nothing useful was learned",
            file=sys.stderr,
        )
    caption = _caption(config, images, last["epoch"], model.D.counts)
    rows = {"true u": test} | {
        f"{name}\n{scores[name]['psnr_db']:.2f} dB": x for name, x in pictures.items()
    }
    shown, path = {name: np.asarray(x) for name, x in rows.items()}, out / "reconstructions.png"
    draw(path, plots.reconstructions, shown, model.shape, caption, grey=images.range)
    text = caption + f"; without learning: {baselines.text(known)}"
    supervised = losses.of_truth(losses.named(config.loss, images.shape, images.peak))
    levels = baselines.levels(known) if supervised else {}
    loss = " + ".join(config.loss).replace("_", " ")
    draw(out / "losses.png", plots.loss_curves, done.records, text, levels, loss)
    _draw_kernels(start, done.state.params, caption, out)
    return found


def reconstructed(solve: Any, params: Params, f: Array) -> tuple[Array, float]:
    """The reconstructions of measurements, some at a time, and their largest residual."""
    parts = [solve(params, f[i : i + TOGETHER]) for i in range(0, len(f), TOGETHER)]
    residual = max(float(info.residual) for _, info in parts)
    return jnp.concatenate([u for u, _ in parts]), residual


def _caption(config: Any, images: Images, epochs: int, counts: bool) -> str:
    noise = "counts" if counts else f"noise {config.noise:g}"
    loss = " + ".join(config.loss)
    if config.clean is not None:
        loss += f" of {config.clean} images, {' + '.join(config.noisy_loss)} of others"
    return (
        f"{config.operator}, {config.regularizer}, {noise} of values in "
        f"{config.range}, {loss}, epochs: {epochs}; {images.source}"
    )


def _draw_kernels(start: Params, learned: Params, caption: str, out: Path) -> None:
    """Kernels before and after, where the regulariser has some."""
    for name in ("filters", "A"):
        if name in learned and learned[name].ndim == 3:
            stages = {"start": np.asarray(start[name]), "learned": np.asarray(learned[name])}
            draw(out / "kernels.png", plots.kernel_figure, stages, caption)
