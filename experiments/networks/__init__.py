"""Learned networks as regularisers, beside the affine models of [REB] and plug-and-play.

python -m experiments.networks [--tasks inpainting] [--models bilevel degrad] [--out DIR]

    bilevel, deq     the dense models of [REB] 3.2, gradient step
    degrad           u - tau (lam K'(K u - f) + gamma N(u)), N the residual of a denoiser
    deprox           D(u - tau lam K'(K u - f)), D = I - N learned through the fixed point, (10)
    convex           gradient step with N the gradient of an input-convex network
    plug_and_play    the same with D learned to remove noise, and nothing else

Before anything is trained the conditions of [REB] 2.2 are measured, see `deqbilevel.contraction`. A
network that is not nonexpansive, or a step size beyond its bound, ends the program unless
`--anyway`. Repeating the same command goes on after an interruption.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from tqdm import tqdm

from deqbilevel import baselines, learning, models, recipes
from deqbilevel.commands import command, common, folders, options, running, sizes
from deqbilevel.commands.records import Log
from deqbilevel.data import Images
from deqbilevel.recipes import Learned
from experiments.networks import assembling, report
from experiments.networks.assembling import Run

Task = Literal["inpainting", "deblurring"]
Name = Literal["bilevel", "deq", "degrad", "deprox", "convex", "plug_and_play"]

DENOISERS = ("degrad", "deprox", "plug_and_play")
BY_TASK = options.default("the task's")


def _of(*names: str) -> options.Only:
    """Of an option that only these models have."""
    words = f"with {', '.join(names)} among --models"
    return options.only(words, lambda config: bool(set(names) & set(config.models)))


@dataclass(frozen=True)
class Networks:
    """Train every model on every task, and compare them."""

    tasks: tuple[Task, ...] = ("inpainting", "deblurring")
    models: tuple[Name, ...] = ("bilevel", "deq", "degrad", "deprox", "convex", "plug_and_play")
    tau: Annotated[float, options.tau] = 0.9
    """Step size, and threshold of Softshrink."""
    gamma: Annotated[float | None, options.weight, BY_TASK] = None
    """Weight of the regulariser."""
    lam: Annotated[float, options.weight] = 1.0
    """Weight of the data fidelity."""
    noise: Annotated[float | None, options.noise, BY_TASK] = None
    """Standard deviation of the noise, on images in [-1, 1]."""
    denoiser_noise: Annotated[float, options.noise, _of("plug_and_play")] = 0.1
    """Of the images that the plug-and-play denoiser learns from."""
    channels: Annotated[int, options.whole(1, 1024), _of(*DENOISERS, "convex")] = 8
    """Of the networks' convolutions."""
    layers: Annotated[int, options.whole(1, 100), _of(*DENOISERS)] = 4
    """Convolutions of the denoiser."""
    normalise: Annotated[bool, _of(*DENOISERS)] = True
    """Divide the denoiser's convolutions by their norms, so that it is nonexpansive."""
    anyway: bool = False
    """Train also what does not meet the conditions."""
    setting: Literal["paper", "fast"] = "fast"
    """How the lower level and its adjoint are solved."""
    precision: options.Precision = None
    """Of products on a GPU: float32 in full, or in TF32. A CPU has one."""
    epochs: Annotated[int, options.whole(0)] = 3
    train_size: Annotated[int | None, options.size] = 2000
    test_size: Annotated[int | None, options.size] = 500
    batch_size: Annotated[int, options.size] = 100
    learning_rate: Annotated[float | None, options.rate, options.default("the setting's")] = None
    """Adam's, at the start of its cosine schedule."""
    data: Annotated[str, options.data] = "sample"
    """sample, idx:DIR, tfds, tfds:DIR or images:DIR."""
    patch: Annotated[int, options.side, options.patches] = 28
    """Height and width of the patches of images:DIR."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Networks) -> dict[str, Any]:
    """Train what is missing; returns {task: {model: numbers}}."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            setting, images = running.setting_of(config), load(config)
            runs = [
                assembling.build(config, task, name, images)
                for task in config.tasks
                for name in config.models
            ]
            assembling.check(runs, images, anyway=config.anyway)
            options = common.options_of(config) | {"precision": setting.precision}
            name = f"networks-{common.digest(options)}"
            claimed = folders.claim_over(images, config, name, options, files_of(runs))
            out = stack.enter_context(claimed)
        log = Log.of(out / "rows.jsonl", report.ROW)
        rows = log.read()
        done = {(row["task"], row["model"]) for row in rows}
        with tqdm(total=len(runs), initial=len(rows), unit="model") as bar:
            for run in runs:
                if (run.task, run.name) in done:
                    continue
                bar.set_postfix_str(f"{run.task}, {run.name}")
                rows.append(common.plain(learn(config, run, images, out)))
                log.append(rows[-1])
                bar.update(1)
        return report.show(config, runs, rows, images, out)


def files_of(runs: list[Run]) -> list[str]:
    """What a run writes beside its figures, see `folders`."""
    own = [name for run in runs for name in (recipes.file(run.label), run.pictures)]
    learning = running.files_of(*(run.label for run in runs))
    return [*own, *learning, "rows.jsonl", "summary.md", "result.json"]


def load(config: Networks) -> Images:
    """Raises: ValueError for options that cannot be met."""
    images = running.images_of(config)
    dense, channels = set(config.models) & models.MODELS.keys(), config.channels * config.layers
    if dense:
        sizes.dense(config, sorted(dense), images)
    sizes.batch(config, len(images.train))
    if set(config.models) - dense:
        sizes.fits(
            12 * min(config.batch_size, len(images.train)) * images.train.shape[1] * channels,
            f"--channels {config.channels} and --layers {config.layers} on batches of "
            f"{config.batch_size} images",
            "take fewer channels, layers, or a smaller --batch-size",
        )
    return images


def learn(config: Networks, run: Run, images: Images, out: Path) -> dict[str, Any]:
    """Train a model, going on from its latest epoch, and measure it."""
    setting = running.setting_of(config)
    _, key, picture_key = learning.keys(config.seed)
    train, test = jnp.asarray(images.train), jnp.asarray(images.test)
    batch_size = sizes.batch(config, len(train))
    steps = learning.steps_per_epoch(len(train), batch_size)
    trainer = learning.trainer(
        run.taught, setting, total_steps=max(config.epochs, 1) * steps, batch_size=batch_size
    )
    part = {"task": run.task, "model": run.name}
    state, records = running.course(
        out,
        trainer,
        setting,
        trainer.init(run.params | {"noise": jnp.float32(run.taught_noise)}),
        (train, test),
        epochs=config.epochs,
        steps=steps,
        key=key,
        part=part,
    )
    params = state.params | {"noise": run.params["noise"]}
    learned = Learned(run.recipe, images.shape, images.range, params, {"command": "networks"})
    recipes.save(out / recipes.file(run.label), learned)
    known = baselines.baselines(run.model.K, train, test, params["noise"], picture_key)
    return {
        **part,
        "train_loss": records[-1]["train_loss"],
        **report.evaluate(run, setting.evaluation(), params, test, picture_key, out),
        **baselines.numbers(known),
        "seconds": sum(record["seconds"] for record in records),
        "diverged": bool(state.diverged),
    }
