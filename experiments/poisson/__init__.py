"""Filters for images that are counts of photons: the Poisson likelihood against squares.

python -m experiments.poisson [--tasks denoising] [--peaks 10] [--out DIR]

    poisson     sum(K u - f log K u), u >= 0
    squares     1/2 ||K u - f||^2, u >= 0, as if all counts had the same noise
    anscombe    squares of 2 sqrt(counts + 3/8), whose noise is about the same for all, and back
                without bias; a blur is not linear in these roots, so for denoising alone

f: counts over the peak, which is their mean where an image is 1. All learn the same filters from
the same images and counts, by the squared error of the images that come out. Repeating the same
command goes on after an interruption.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from tqdm import tqdm

from deqbilevel import learning, recipes
from deqbilevel.commands import command, common, folders, options, running
from deqbilevel.commands.records import Log
from deqbilevel.data import Images
from deqbilevel.recipes import Learned
from experiments.poisson import assembling, report
from experiments.poisson.assembling import Run

Task = Literal["denoising", "deblurring"]
Method = Literal["poisson", "squares", "anscombe"]


@dataclass(frozen=True)
class Poisson:
    """Learn filters for counts by every method, and compare them."""

    tasks: tuple[Task, ...] = ("denoising", "deblurring")
    peaks: Annotated[tuple[float, ...], options.number(0.1, 1e4)] = (10.0, 50.0)
    """Mean counts where an image is 1."""
    methods: tuple[Method, ...] = ("poisson", "squares", "anscombe")
    sigma: Annotated[
        float,
        options.number(0.1, 10),
        options.only("with deblurring among --tasks", lambda c: "deblurring" in c.tasks),
    ] = 1.0
    """Standard deviation of the Gaussian blur, in pixels."""
    filters: Annotated[tuple[int, int, int], options.whole(1, 64)] = (24, 5, 5)
    """Number, height and width."""
    eps: Annotated[float, options.number(1e-4, 1)] = 0.05
    """Where the potential of the filters' responses bends."""
    beta_0: Annotated[tuple[float, ...], options.number(-30, 30)] = (1.0, 1.5, 2.0, 2.5, 3.0)
    """Logarithms of the weight of the regulariser that are tried before learning."""
    epochs: Annotated[int, options.whole(0)] = 60
    train_size: Annotated[int | None, options.size] = 100
    test_size: Annotated[int | None, options.size] = 40
    batch_size: Annotated[int, options.size] = 25
    learning_rate: Annotated[float, options.rate] = 5e-3
    """Adam's, at the start of its cosine schedule."""
    data: Annotated[str, options.data] = "photographs"
    """photographs, images:DIR or others, in 0..1."""
    patch: Annotated[int, options.side, options.patches] = 28
    """Height and width of the patches of images:DIR."""
    seed: Annotated[int, options.seed] = 0
    repeats: Annotated[int, options.whole(1, 100)] = 1
    """Runs of each, with counts and batches drawn anew, of which mean and spread are shown."""
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Poisson) -> dict[str, Any]:
    """Learn what is missing; returns {task: {peak: {method: numbers}}}."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            images = running.images_of(config, value_range=(0.0, 1.0))
            learning.steps_per_epoch(len(images.train), config.batch_size)
            runs = assembling.runs(config, images)
            chosen = common.options_of(config)
            name = f"poisson-{common.digest(chosen)}"
            claimed = folders.claim_over(images, config, name, chosen, files_of(runs))
            out = stack.enter_context(claimed)
        log = Log.of(out / "rows.jsonl", report.ROW)
        rows = log.read()
        done = {row["case"] for row in rows}
        with tqdm(total=len(runs), initial=len(rows), unit="run") as bar:
            for run in runs:
                if run.label not in done:
                    bar.set_postfix_str(run.label)
                    rows.append(common.plain(learn(config, run, images, out)))
                    log.append(rows[-1])
                    bar.update(1)
        return report.show(config, runs, rows, images, out)


def files_of(runs: list[Run]) -> list[str]:
    """What a run of the command writes beside its figures, see `folders`."""
    own = [name for run in runs for name in (recipes.file(run.label), run.pictures)]
    learned = running.files_of(*(run.label for run in runs))
    return [*own, *learned, "rows.jsonl", "summary.md", "result.json"]


def learn(config: Poisson, run: Run, images: Images, out: Path) -> dict[str, Any]:
    """Learn by a method, going on from its latest epoch, and judge it."""
    _, key, picture_key = learning.keys(config.seed + run.repeat)
    train, test = jnp.asarray(images.train), jnp.asarray(images.test)
    trainer, setting, steps = assembling.trainer_of(config, run, len(train))
    f = run.model.measure(run.params, train, jax.random.fold_in(picture_key, 1))
    params, at_edge = assembling.started(config, run, trainer.learner, train, f)
    state, records = running.course(
        out,
        trainer,
        setting,
        trainer.init(params, f),
        (train, test),
        epochs=config.epochs,
        steps=steps,
        key=key,
        f=f,
        part={"case": run.label},
    )
    about = {"command": "poisson", "method": run.method, "peak": run.peak}
    learned = Learned(run.recipe, images.shape, images.range, state.params, about)
    recipes.save(out / recipes.file(run.label), learned)
    return {
        "case": run.label,
        **report.evaluate(run, setting.evaluation(), params, state.params, test, picture_key, out),
        "beta_0": float(params["beta_0"]),
        "beta_0_at_edge": at_edge,
        "solved": records[-1]["solved"],
        "seconds": sum(record["seconds"] for record in records),
        "diverged": bool(state.diverged),
    }
