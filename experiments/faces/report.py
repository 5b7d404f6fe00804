"""What learning on the faces came to: numbers, table, reconstructions and kernels."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deqbilevel import baselines, learning, losses, models, plots, recipes
from deqbilevel.commands import common, folders
from deqbilevel.commands.drawing import draw
from deqbilevel.data import Images
from deqbilevel.disk import archives
from deqbilevel.recipes import Learned
from deqbilevel.types import Params
from experiments.faces.posing import recipe_of, setting
from experiments.faces.training import Run

PEAK = 2.0
"""Of images in [-1, 1]."""

HEAD = ("", "epoch", "train loss", "test loss", "PSNR", "SSIM", "solved", "seconds")
"""Of the table."""


class Judged(NamedTuple):
    """What a model makes of pictures."""

    f: Array
    u: Array
    numbers: dict[str, Any]
    """SSIM is None of pictures below its window."""


def show(config: Any, images: Images, runs: list[Run], out: Path) -> dict[str, Any]:
    """Kernels, figures and table; returns the headline numbers."""
    caption = (
        f"{config.task}, {config.kernels[0]} kernels {config.kernels[1]}x{config.kernels[1]}, "
        f"noise {config.level:g}, {config.epochs} epochs, setting {config.setting} in "
        f"{config.precision}; {images.source}"
    )
    train, test = jnp.asarray(images.train), jnp.asarray(images.test)
    key = learning.keys(config.seed)[2]
    known = baselines.baselines(runs[0].model.K, train, test, config.level, key)
    numbers: dict[str, Any] = {}
    rows: dict[str, np.ndarray] = {"true": images.test}
    table, notes = [HEAD, ["---"] * len(HEAD)], []
    for run in runs:
        before, learned, seen = _judged(
            config, run, (run.start, test), (run.params, test), (run.params, train)
        )
        found = learned.numbers
        if not numbers:  # what was measured is the same for every model
            numbers = {k: found[k] for k in ("psnr_noisy_db", "ssim_noisy")}
            numbers |= baselines.numbers(known)
            noisy = f"{found['psnr_noisy_db']:.2f}"
            rows[f"measured\n{noisy} dB"] = np.asarray(learned.f)
            loss = {name: f"{x:.5f}" for name, x in known.items()}
            similar = _short(found["ssim_noisy"])
            table.append(["measured", "", "", loss["measurement"], noisy, similar, "", ""])
            for name in ("adjoint", "mean_image"):
                table.append([baselines.NAMES[name], "", "", loss[name], "", "", "", ""])
        for label, x in ((f"{run.name}, start", before), (run.name, learned)):
            rows[f"{label}\n{x.numbers['psnr_db']:.2f} dB"] = np.asarray(x.u)
        own = {
            "psnr_{}_db": found["psnr_db"],
            "ssim_{}": found["ssim"],
            "loss_{}": found["loss"],
            "train_loss_{}": seen.numbers["loss"],
            "psnr_start_{}_db": before.numbers["psnr_db"],
            "residual_{}": found["residual"],
            "evaluations_{}": found["evaluations"],
            "solved_{}": float(np.mean([r["solved"][run.best] for r in run.records[1:]] or 1)),
            "lane_{}": run.lane,
            "epoch_{}": run.epoch,
            "diverged_{}": int(np.sum(run.records[-1]["diverged"])),
            "seconds_{}": float(sum(np.sum(r["seconds"][:1]) for r in run.records)),
        }
        numbers |= {name.format(run.name): value for name, value in own.items()}
        cells = [run.name, str(run.epoch), f"{own['train_loss_{}']:.5f}", f"{found['loss']:.5f}"]
        cells += [f"{found['psnr_db']:.2f}", _short(found["ssim"]), f"{own['solved_{}']:.0%}"]
        table.append([*cells, f"{own['seconds_{}']:.0f}"])
        if config.epochs and not own["solved_{}"] and config.guard:
            notes.append(
                f"{run.name}: no step was taken, as no solve came within {config.guard:g} times "
                "its tolerance; start from other kernels, or take steps all the same with --guard "
                "None\n"
            )
        if said := baselines.warning(found["loss"], known):
            notes.append(f"{run.name}: {said}\n")
            print(f"warning: {run.name}: {said}", file=sys.stderr)
        _keep(config, images, run, caption, out)
    text = "\n".join([f"# Faces: {caption}", "", *map(common.line, table), "", *notes])
    print(text, flush=True)
    folders.write(out / "summary.md", text)
    numbers |= {"task": config.task, "kernels": list(config.kernels), "out": str(out)}
    folders.write(out / "result.json", json.dumps(common.plain(numbers), indent=1))
    draw(out / "reconstructions.png", plots.reconstructions, rows, images.shape, caption)
    curves = {
        run.name: {s: [r[f"{s}_loss"][run.best] for r in run.records] for s in ("train", "test")}
        for run in runs
    }
    epochs, levels = [r["epoch"] for r in runs[0].records], baselines.levels(known)
    draw(out / "losses.png", plots.compared_losses, curves, epochs, caption, levels)
    return numbers


def _judged(config: Any, run: Run, *pairs: tuple[Params, Array]) -> list[Judged]:
    """What is measured and reconstructed of pictures [batch, pixels] by parameters, with the same
    noise for every model."""
    model, key = run.model, learning.keys(config.seed)[2]
    solver = setting(config, run.name).evaluation()

    @jax.jit
    def solved(params: Params, truth: Array) -> tuple[Array, Array, Any]:
        f = models.measure(model.K, truth, params["noise"], key)
        return f, *model.reconstruct(solver, params, f)

    def judged(params: Params, truth: Array) -> Judged:
        f, u, info = solved(params, truth)
        numbers: dict[str, Any] = {
            "loss": float(losses.mean_squared_error(u, truth)),
            "residual": float(info.residual),
            "evaluations": float(info.evaluations),
        }
        for end, x in (("", u), ("_noisy", f)):
            scores = losses.mean_scores(x, truth, model.shape, PEAK)
            numbers[f"psnr{end}_db"] = float(scores["psnr_db"])
            similar = float(scores["ssim"])
            numbers[f"ssim{end}"] = similar if losses.has_ssim(model.shape) else None
        return Judged(f, u, numbers)

    return [judged(*pair) for pair in pairs]


def _short(similarity: float | None) -> str:
    return "" if similarity is None else f"{similarity:.3f}"


def _keep(config: Any, images: Images, run: Run, caption: str, out: Path) -> None:
    """What was learned as files, and a figure of the kernels before and after."""
    kernels = {k: np.asarray(run.params[k]) for k in ("A", "C") if k in run.params}
    archives.write_arrays(out / f"kernels-{run.name}.npz", kernels)
    about = {"command": "faces", "epoch": run.epoch, "lane": run.lane}
    recipe = recipe_of(config, run.name)
    learned = Learned(recipe, images.shape, images.range, run.params, about)
    recipes.save(out / recipes.file(run.name), learned)
    stages = {}
    for letter, label in (("A", "A"), ("C", "C, of C^T")):
        if letter in kernels:
            stages[f"{label}, start"] = np.asarray(run.start[letter])
            stages[f"{label}, learned"] = kernels[letter]
    draw(out / f"kernels-{run.name}.png", plots.kernel_figure, stages, f"{run.name}: {caption}")
