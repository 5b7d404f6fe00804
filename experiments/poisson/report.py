"""What learning for counts came to: numbers, table and reconstructions."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from deqbilevel import losses, plots
from deqbilevel.commands import common, folders
from deqbilevel.commands.drawing import draw
from deqbilevel.commands.schema import ANY
from deqbilevel.data import Images
from deqbilevel.disk import archives, arrays
from deqbilevel.types import Params, Solver
from experiments.poisson.assembling import Run

PICTURES = 6
"""Test images that are drawn."""

STORED: arrays.Schema = dict.fromkeys("fu", arrays.Array(("pictures", "pixels"), finite=False))
"""Of them counts over the peak and reconstructions."""

SCORES = ("psnr_db_counts", "psnr_db_start", "psnr_db", "ssim_counts", "ssim_start", "ssim")

ROW = {"case": ""} | dict.fromkeys((*SCORES, "test_loss", "residual", "evaluations"), ANY)
ROW |= dict.fromkeys(("beta_0", "solved", "seconds"), ANY)
ROW |= dict.fromkeys(("beta_0_at_edge", "diverged"), False)
"""A record of a run."""


def evaluate(
    run: Run, solver: Solver, start: Params, learned: Params, test: Array, key: Array, out: Path
) -> dict[str, Any]:
    """The scores of the counts, and of the reconstructions by the filters before and after."""
    f = run.model.measure(learned, test, key)
    solve = jax.jit(partial(run.model.reconstruct, solver))
    counts, (before, _), (u, info) = run.counts(f), solve(start, f), solve(learned, f)
    shown = {"_counts": counts, "_start": run.image(before), "": run.image(u)}
    scores = {
        f"{what}{name}": float(x)
        for name, image in shown.items()
        for what, x in losses.mean_scores(image, test, run.model.shape, 1.0).items()
        if what != "snr_db"
    }
    kept = {"f": np.asarray(counts[:PICTURES]), "u": np.asarray(run.image(u)[:PICTURES])}
    archives.write_arrays(out / run.pictures, kept)
    return {
        **scores,
        "test_loss": float(losses.mean_squared_error(run.image(u), test)),
        "residual": float(info.residual),
        "evaluations": int(info.evaluations),
    }


def together(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of several runs of one kind: of scores the mean, the standard deviation as
    `spread` and those of each run, else of the first."""
    if len(rows) == 1:
        return rows[0]
    each = {name: [row[name] for row in rows] for name in (*SCORES, "test_loss")}
    return {
        **rows[0],
        **{name: float(np.mean(x)) for name, x in each.items()},
        "diverged": any(row["diverged"] for row in rows),
        "spread": {name: float(np.std(x, ddof=1)) for name, x in each.items()},
        "each": each,
    }


def cell(found: dict[str, Any], name: str) -> str:
    """A score in the table."""
    digits = 2 if "db" in name else 3
    spread = f" ± {found['spread'][name]:.{digits}f}" if "spread" in found else ""
    return f"{found[name]:.{digits}f}{spread}"


def show(
    config: Any, runs: list[Run], rows: list[dict[str, Any]], images: Images, out: Path
) -> dict[str, Any]:
    """The table, a picture for each task and peak, and the headline numbers."""
    by_run = {row["case"]: {k: x for k, x in row.items() if k != "case"} for row in rows}
    kinds = list(dict.fromkeys((run.task, run.peak, run.method) for run in runs))
    numbers: dict[str, Any] = {}
    lines = ["# Filters for counts", "", _about(config, images), ""]
    lines.append(common.line(("task", "peak", "method", *(s.replace("_", " ") for s in SCORES))))
    lines.append(common.line(["---"] * (3 + len(SCORES))))
    for task, peak, method in kinds:
        alike = [run for run in runs if (run.task, run.peak, run.method) == (task, peak, method)]
        found = together([by_run[run.label] for run in alike])
        numbers.setdefault(task, {}).setdefault(f"{peak:g}", {})[method] = found
        lines.append(common.line((task, f"{peak:g}", method, *(cell(found, s) for s in SCORES))))
        if not found["psnr_db"] > found["psnr_db_counts"]:
            said = f"{alike[0].label}: no better than the counts over the peak"
            lines += ["", said, ""]
            print(f"warning: {said}", file=sys.stderr)
    table = "\n".join(lines)
    print(f"\n{table}", flush=True)
    folders.write(out / "summary.md", table)
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    first = [run for run in runs if run.repeat == 0]
    for task, peak in dict.fromkeys((run.task, run.peak) for run in first):
        _draw(config, [r for r in first if (r.task, r.peak) == (task, peak)], by_run, images, out)
    return numbers


def _draw(
    config: Any, runs: list[Run], by_run: dict[str, dict[str, Any]], images: Images, out: Path
) -> None:
    pictures = {"true u": np.asarray(images.test[:PICTURES])}
    for run in runs:
        found, stored = by_run[run.label], archives.read_arrays(out / run.pictures, STORED)
        pictures.setdefault(f"counts\n{found['psnr_db_counts']:.2f} dB", stored["f"])
        pictures[f"{run.method}\n{found['psnr_db']:.2f} dB"] = stored["u"]
    caption = f"{runs[0].task} of counts with a peak of {runs[0].peak:g}; {_about(config, images)}"
    path = out / f"reconstructions-{runs[0].task}-{runs[0].peak:g}.png"
    draw(path, plots.reconstructions, pictures, images.shape, caption, grey=images.range)


def _about(config: Any, images: Images) -> str:
    count, height, width = config.filters
    return (
        f"{count} filters {height}x{width}, {len(images.train)} training images, epochs: "
        f"{config.epochs}; {images.source}"
    )
