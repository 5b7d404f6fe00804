"""What the weights came to: a table, and pictures of each set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from deqbilevel import losses, plots
from deqbilevel.commands import common, folders
from deqbilevel.commands.drawing import draw
from deqbilevel.commands.schema import ANY
from deqbilevel.disk import archives, arrays
from experiments.variational import learning

PICTURES = 3
"""Images of a set that are drawn."""

NUMBERS = (
    *("psnr_db", "ssim", "relative_gap", "adjoint_residual", "iterations", "zeros"),
    "processor_seconds",
)

ROW = {"set": "", "model": "", "way": "", "weights": [0.0]} | dict.fromkeys(NUMBERS, ANY)
"""A record of a set by a model and a way."""

STORED: arrays.Schema = {"u": arrays.Array(("pictures", "pixels"))}


def file(name: str, model: str, way: str) -> str:
    """Where reconstructions that are drawn are kept."""
    return f"states/{name}-{model}-{way}.npz"


def files_of(config: Any, cases: Sequence[tuple[str, str]]) -> list[str]:
    """What a run writes beside its further tables, see `folders`."""
    common = ["summary.md", "result.json"]
    if "weights" not in config.tables:
        return common
    kept = [file(name, model, way) for name, model in cases for way in learning.WAYS]
    drawn = [f"{name}.png" for name in dict.fromkeys(name for name, _ in cases)]
    return [*kept, *drawn, "ramp.png", "rows.jsonl", *common]


def show(out: Path, tables: dict[str, str], numbers: dict[str, Any]) -> None:
    """Every table, and the numbers of all of them."""
    text = "\n".join(tables.values())
    print(f"\n{text}", flush=True)
    folders.write(out / "summary.md", text)
    folders.write(out / "result.json", json.dumps(numbers, indent=1))


def weights(
    config: Any, sets: dict[str, Any], rows: list[dict[str, Any]], out: Path
) -> tuple[str, dict[str, Any]]:
    """The table of weights and its numbers; its figures are drawn."""
    found = {(row["set"], row["model"], row["way"]): row for row in rows}
    noise = f"noise {config.noise:g} of images in [0, 1]"
    lines = [f"# Denoising, {noise}, PSNR in dB and SSIM", ""]
    head = ("set", "model", "way", "weights", "PSNR", "SSIM", "relative gap", "adjoint", "zeros")
    head += ("processor seconds",)
    lines += [common.line(head), common.line(["---"] * len(head))]
    numbers: dict[str, Any] = {}
    for name, images in sets.items():
        measured = losses.mean_scores(
            jnp.asarray(images.f_test), jnp.asarray(images.test), images.shape, 1.0
        )
        plain = [f"{float(measured['psnr_db']):.2f}", f"{float(measured['ssim']):.3f}"]
        lines.append(common.line([name, "measured", "", "", *plain, *[""] * 4]))
        numbers[name] = {"measured": {"psnr_db": float(measured["psnr_db"])}}
        for model in config.models:
            for way in learning.WAYS:
                row = found[name, model, way]
                weights = ", ".join(f"{w:.3f}" for w in row["weights"])
                cells = [f"{row['psnr_db']:.2f}", f"{row['ssim']:.3f}"]
                cells += [f"{row['relative_gap']:.1e}", f"{row['adjoint_residual']:.1e}"]
                cells += [f"{row['zeros']:.0%}", f"{row['processor_seconds']:.0f}"]
                lines.append(common.line([name, model, way, weights, *cells]))
                numbers[name].setdefault(model, {})[way] = {k: row[k] for k in NUMBERS}
        _draw(config, name, images, found, out)
    if not (out / "ramp.png").exists():
        _draw_ramp(config, out)
    return "\n".join(lines) + "\n", numbers


def headline(numbers: dict[str, Any]) -> dict[str, Any]:
    """PSNR by set, model and way."""
    return {
        name: {
            model: {way: round(values[way]["psnr_db"], 2) for way in learning.WAYS}
            for model, values in of.items()
            if model != "measured"
        }
        for name, of in numbers.items()
    }


def _draw(config: Any, name: str, images: Any, found: dict[Any, Any], out: Path) -> None:
    shown = {
        "true u": np.asarray(images.test[:PICTURES]),
        "measured": np.asarray(images.f_test[:PICTURES]),
    }
    for model in config.models:
        for way in ("learned", "field"):
            stored = archives.read_arrays(out / file(name, model, way), STORED)
            label = f"{model}, {way}\n{found[name, model, way]['psnr_db']:.2f} dB"
            shown[label] = stored["u"]
    caption = f"{name}, noise {config.noise:g}; PSNR of all {len(images.test)} test images."
    draw(out / f"{name}.png", plots.reconstructions, shown, images.shape, caption, grey=(0.0, 1.0))


def _draw_ramp(config: Any, out: Path) -> None:
    curves = learning.ramp(0.1, config.seed)
    panels = {
        name: {key: curves[key] for key in ("measured", "true", name)} for name in ("TV", "TGV")
    }
    points = np.arange(len(curves["true"]), dtype=float)
    caption = "A ramp with noise 0.1, each by the best of five weights."
    draw(out / "ramp.png", plots.function_figure, points, panels, ("pixel", "value"), caption)
