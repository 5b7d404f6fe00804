"""What training the networks came to: numbers, table and reconstructions."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import baselines, contraction, losses, plots, settings
from deqbilevel.commands import common, folders
from deqbilevel.commands.drawing import draw
from deqbilevel.commands.schema import ANY
from deqbilevel.data import Images
from deqbilevel.disk import archives, arrays
from deqbilevel.types import Params, Solver
from experiments.networks import assembling
from experiments.networks.assembling import Run

PICTURES = 4
"""Test images that are drawn."""

STORED: arrays.Schema = dict.fromkeys("fu", arrays.Array(("pictures", "pixels"), finite=False))
"""Of them measurements and reconstructions."""

COLUMNS = (
    *("test_loss", "psnr_db", "stopped_test_loss", "stopped_psnr_db", "seconds", "evaluations"),
    *("residual", "lipschitz", "lipschitz_bound", "spectral_radius", "network_lipschitz"),
)

PART = ("task", "model")
"""What names a record."""

ROW = dict.fromkeys(PART, "") | {"measured_psnr_db": 0.0} | dict.fromkeys(COLUMNS, ANY)
"""A record of a trained model."""


def evaluate(
    run: Run, stop: Solver, params: Params, test: Array, key: Array, out: Path
) -> dict[str, Any]:
    """Converged reconstructions of the test images, of which the first are kept, and whether the
    map contracts there; and what the solver that stops as in training makes of them."""
    model, solvers = run.model, (settings.converged(max_evaluations=300), stop)

    @jax.jit
    def reconstructed(params: Params, truth: Array, key: Array) -> tuple[Array, list[Any]]:
        f = model.measure(params, truth, key)
        return f, [model.reconstruct(solver, params, f) for solver in solvers]

    f, ((u, info), (stopped, _)) = reconstructed(params, test, key)
    archives.write_arrays(
        out / run.pictures, {"f": np.asarray(f[:PICTURES]), "u": np.asarray(u[:PICTURES])}
    )
    found = assembling.findings(run, params, test[:4], u[:4])
    print(f"\n{run.task}, {run.name}, trained\n{contraction.text(found)}", flush=True)
    values = {x.name: x.value for x in found}
    return {
        "test_loss": float(losses.mean_squared_error(u, test)),
        "psnr_db": float(jnp.mean(losses.psnr(u, test, data_range=2.0))),
        "stopped_test_loss": float(losses.mean_squared_error(stopped, test)),
        "stopped_psnr_db": float(jnp.mean(losses.psnr(stopped, test, data_range=2.0))),
        "measured_psnr_db": float(jnp.mean(losses.psnr(f, test, data_range=2.0))),
        "evaluations": int(info.evaluations),
        "residual": float(info.residual),
        "lipschitz": values[contraction.CONTRACTION_MEASURED],
        "lipschitz_bound": values[contraction.CONTRACTION],
        "spectral_radius": values[contraction.SPECTRAL_RADIUS],
        "network_lipschitz": values[contraction.NONEXPANSIVE_MEASURED],
        "failing": ", ".join(contraction.failing(found)),
    }


def show(
    config: Any, runs: list[Run], rows: list[dict[str, Any]], images: Images, out: Path
) -> dict[str, Any]:
    """The table, the figures and the headline numbers."""
    numbers: dict[str, Any] = {task: {} for task in config.tasks}
    lines = ["# Learned networks as regularisers", ""]
    lines += [f"{len(images.train)} training images ({images.source}), epochs: {config.epochs}", ""]
    for task in config.tasks:
        mine = [row for row in rows if row["task"] == task]
        level = mine[0]["measured_psnr_db"]
        lines += [f"## {task}: the measurement has {level:.2f} dB", ""]
        lines += list(_table(mine))
        for row in mine:
            numbers[task][row["model"]] = {k: x for k, x in row.items() if k not in PART}
            if said := baselines.warning(row["test_loss"], _without_learning(row)):
                lines += ["", f"{row['model']}: {said}."]
                print(f"warning: {task}, {row['model']}: {said}", file=sys.stderr)
        lines.append("")
    table = "\n".join(lines)
    print(f"\n{table}", flush=True)
    folders.write(out / "summary.md", table)
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    for task in config.tasks:
        pictures = {"true u": np.asarray(images.test[:PICTURES])}
        for run in runs:
            if run.task == task:
                stored = archives.read_arrays(out / run.pictures, STORED)
                pictures |= {"measurement f": stored["f"], run.name: stored["u"]}
        caption = (
            f"{task}, tau {config.tau:g}, lam {config.lam:g}, epochs: {config.epochs}, "
            f"{len(images.train)} training images; {images.source}"
        )
        path = out / f"reconstructions-{task}.png"
        draw(path, plots.reconstructions, pictures, images.shape, caption)
    return numbers


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    head = ("model", *(name.replace("_", " ") for name in COLUMNS))
    yield common.line(head)
    yield common.line(["---"] * len(head))
    for name, loss in _without_learning(rows[0]).items():
        yield common.line([baselines.NAMES[name], f"{loss:.4g}", *["-"] * (len(COLUMNS) - 1)])
    for row in rows:
        cells = ["-" if row[name] is None else f"{row[name]:.4g}" for name in COLUMNS]
        yield common.line([row["model"], *cells])


def _without_learning(row: dict[str, Any]) -> dict[str, float]:
    """What doing nothing gives, from a row."""
    names = {name: f"test_loss_{name}" for name in baselines.NAMES}
    return {name: row[key] for name, key in names.items() if key in row}
