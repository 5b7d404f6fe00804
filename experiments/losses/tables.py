"""Ways to learn one problem that are compared, and what they came to."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import data, learning, losses, recipes
from deqbilevel.commands import common, learn, ways
from deqbilevel.commands.learn import parts, report
from deqbilevel.commands.ways import Way
from deqbilevel.data import Images

TITLES = {
    "learned": "Learned by each loss",
    "counts": "Counts of photons",
    "mri": "A quarter of the frequencies",
    "adapted": "Weights tuned to each picture without its truth",
    "corners": "A corner rounding that falls",
    "accuracy": "How well the lower level is solved while learning",
}

ADJOINT = "measurement"

WITHOUT_TRUTH = ("monte_carlo_sure", "whiteness", "noise_corridor", "discrepancy")

PROBES = {"lower_tolerance": 1e-6, "lower_evaluations": 300}
"""Both reconstructions of a probe have to be solved far better than it is large."""

COUNTS = ("mean_squared_error", "noise_corridor", "discrepancy")

MRI = ("mean_squared_error", "monte_carlo_sure", "discrepancy")

COLUMNS = {
    "psnr_db": "PSNR in dB",
    "error": "squared error",
    "lost_db": "dB lost against the first",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "train_loss": "training loss",
    "evaluations": "evaluations in a step",
    "lower_gradient": "norm(grad) / sqrt(N) there",
    "step_ms": "ms a step",
}


def shared(config: Any) -> dict[str, Any]:
    """What all ways have, but for what they say otherwise."""
    weights = config.regularizer != "filters"
    rate = (0.1 if weights else 5e-3) if config.learning_rate is None else config.learning_rate
    predicted = config.regularizer == "predicted"
    learned = ("beta", "network") if predicted else ("beta",)
    return {
        "operator": "identity",
        "regularizer": "convolutional",
        "regularizer__filters": (2, 2, 2) if weights else config.filters,
        "regularizer__basis": "differences" if weights else None,
        "regularizer__predicted_field": 8 if predicted else None,
        "regularizer__beta_0": -2.5 if weights else -4.0,
        "learn": learned if weights else ("filters", "beta"),
        "noise": config.noise,
        "train_size": config.train_size,
        "test_size": config.test_size,
        "range": "0..1",
        "batch_size": config.batch_size,
        "epochs": config.epochs,
        "learning_rate": rate,
        "schedule": "cosine",
        "seed": config.seed,
        "fresh": config.fresh,
    } | _images(config, config.data)


def _images(config: Any, images: str, whole: bool = False) -> dict[str, Any]:
    """Options of --data."""
    given = images.startswith(("images:", "arrays:"))
    shape = None if given else (64, 64)
    found = {"data": images, "shape": shape if config.shape is None else config.shape}
    if not images.startswith("images:"):
        return found
    if whole:
        return found | {"whole": True}
    return found if config.shape is not None else found | {"patch": config.patch}


def of_losses(config: Any) -> list[Way]:
    """One for each of --losses."""
    return [Way(_name(loss), _by(loss)) for loss in config.losses]


def of(config: Any, table: str) -> list[Way]:
    """Those of a table, below its name."""
    found = []
    if table == "counts":
        # Their noise follows from them, and --noise stays as it is by default.
        own = {"fidelity": "poisson", "fidelity__peak": config.peak, "nonnegative": True}
        found = [Way(loss, own | {"noise": 0.1} | _by(loss)) for loss in COUNTS]
    elif table == "mri":
        own = {"operator": "fourier", "noise": 0.01, "regularizer__beta_0": -6.0}
        own |= {"operator__rate": 0.25} | _images(config, config.slices, whole=True)
        found = [Way(loss, own | _by(loss)) for loss in MRI]
    elif table == "accuracy":
        own = {"warm": False, "lower_evaluations": 3000, "adjoint_evaluations": 300}
        own |= {"final_tolerance": 1e-6, "final_evaluations": 3000}
        found = [
            Way(f"{tolerance:g}", own | {"lower_tolerance": tolerance})
            for tolerance in sorted(config.tolerances)
        ]
    elif table == "adapted":
        found = [Way("population", {})]
    elif table == "corners":
        found = [Way("course", {"regularizer__eps": 1e-3})]
    return [Way(f"{table}/{way.name}", way.options) for way in found]


def _name(loss: str) -> str:
    return loss.replace(":", "-").replace(",", "-").replace("=", "")


def _by(loss: str) -> dict[str, Any]:
    own = PROBES if loss.startswith(("monte_carlo_sure", "exact_sure")) else {}
    return {"loss": (loss,), **own}


def compared(
    table: str, configs: Mapping[str, Any], judges: Images | None, out: Path
) -> tuple[dict[str, Any], str]:
    """Learn what is missing, draw and judge by the test images, or by those of `judges`: rows, and
    the table of them in Markdown. PSNR and SSIM are means over the images, decibels that are lost
    those of their mean squared error."""
    found = {name: learn.main(config) for name, config in configs.items()}
    first = next(iter(configs.values()))
    images = judges or learn.images_of(first)
    folder = out if table == "learned" else out / table
    caption = f"{first.operator}, {TITLES[table].lower()}; {images.source}"
    ways.picture(folder / ways.PICTURE, configs, images, ADJOINT, caption)
    rows: dict[str, Any] = {}
    for name, config in configs.items():
        seen, u = ways.reconstructed(config, images, report.JUDGED)
        rows = rows or {ADJOINT: _scores(seen, images)}
        row = rows[name] = _scores(u, images)
        row["lost_db"] = 10 * math.log10(row["error"] / rows[next(iter(configs))]["error"])
        row["step_ms"] = found[name]["step_ms"]
        row["evaluations"] = found[name]["forward_evaluations"]
        if table == "accuracy":
            row["lower_gradient"] = lower_gradient(config, images)
        last = (config.out / "metrics.jsonl").read_text().splitlines()[-1]
        row["train_loss"] = json.loads(last)["train_loss"]
    return rows, markdown(rows)


def lower_gradient(config: Any, images: Images) -> float:
    """||grad Phi|| / sqrt(N) of the training images where the lower level of a step ends, at what
    was learned."""
    learned = recipes.load(config.out)
    model, params = learned.model(), learned.params
    setting = parts.setting_of(config, model, params)
    f = model.measure(params, jnp.asarray(images.train), learning.keys(config.seed)[1])

    @jax.jit
    def solved(params: Any, f: Array) -> Array:
        u, _ = model.reconstruct(setting.forward(setting.budget), params, f)
        gradient = model.stationarity()(u, model.completed(params), f)
        return jnp.linalg.norm(gradient) / gradient.size**0.5

    return float(solved(params, f))


def judges(folder: Path, count: int) -> Images:
    """The first pictures of a folder, of each the middle square that all of them hold, as test
    images in 0..1. Raises: ValueError for a folder without pictures."""
    found = [x for _, x in itertools.islice(data.pictures(folder, (0.0, 1.0)), count)]
    side = min(min(x.shape) for x in found)
    corners = [tuple((n - side) // 2 for n in x.shape) for x in found]
    rows = [
        x[i : i + side, j : j + side].reshape(-1) for x, (i, j) in zip(found, corners, strict=True)
    ]
    source = f"{len(rows)} pictures in {folder.name}, {side}x{side}"
    test = np.stack(rows).astype(np.float32)
    return Images(test[:0], test, (side, side), source, (0.0, 1.0))


def _scores(u: Array, images: Images) -> dict[str, float]:
    """Of reconstructions of the test images; SSIM and MS-SSIM where they hold the window."""
    truth = jnp.asarray(images.test[: len(u)])
    means = losses.mean_scores(u, truth, images.shape, images.peak)
    found = {"psnr_db": float(means["psnr_db"])}
    found["error"] = float(losses.mean_squared_error(u, truth))
    if losses.has_ssim(images.shape):
        loss: Any = losses.multiscale_dissimilarity(images.shape, peak=images.peak)
        found |= {"ssim": float(means["ssim"]), "ms_ssim": 1 - float(loss(u, truth))}
    return found


def markdown(rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """A table of rows by name, with the columns that any of them has."""
    names = columns or [name for name in COLUMNS if any(name in row for row in rows.values())]
    lines = [common.line(["", *(COLUMNS.get(name, name) for name in names)])]
    lines.append(common.line(["---"] * (1 + len(names))))
    for label, row in rows.items():
        values = (row.get(name) for name in names)
        cells = ["" if x is None else f"{x:.4g}" if abs(x) < 1 else f"{x:.2f}" for x in values]
        lines.append(common.line([label, *cells]))
    return "\n".join(lines)
