"""Learn any regulariser for any operator on any images, and apply what was learned.

python -m experiments.learn --operator diagonal_blur --regularizer convolutional --noise 0.02
python -m experiments.learn --operator row_mask --regularizer denoiser --regularizer.channels 16
python -m experiments.learn --apply runs/learn-0123abcd --data images:DIR

Options of the chosen parts are there by their names: `--operator diagonal_blur --help` shows
`--operator.size`. Repeating the same command goes on after an interruption, or shows the finished
run again; `--epochs` may grow where the learning rate stays constant.
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from deqbilevel import (
    baselines,
    data,
    learning,
    losses,
    recipes,
    upper,
)
from deqbilevel.commands import (
    algorithm_choice,
    command,
    common,
    folders,
    options,
    reconstruct,
    running,
    sizes,
)
from deqbilevel.commands.learn import parts, report, searching
from deqbilevel.commands.learn.asked import Learn
from deqbilevel.recipes import Learned

FILES = (*running.FILES, searching.FILE, recipes.file(), "result.json")
"""What a run writes beside its figures, see `folders`."""

RANGES = {"-1..1": (-1.0, 1.0), "0..1": (0.0, 1.0)}


def kind(arguments: Sequence[str]) -> type:
    """The options of the command, with those of the parts that the arguments choose."""
    return parts.with_options(Learn, arguments)


def check(config: Any) -> None:
    """Raises: ValueError for options that cannot be, and parts that do not go together."""
    options.check(config)
    posed(config, images_of(config))


@command.checked
def main(config: Any) -> dict[str, Any]:
    """Learn, resuming where an earlier call stopped, or apply; returns the headline numbers."""
    if config.apply is None:
        return _learn(config)
    with common.clear_errors():
        asked = _applied(config)
    return reconstruct.main(asked)


def _applied(config: Any) -> reconstruct.Reconstruct:
    """What --apply asks for. Raises: ValueError for --data that are no pictures."""
    folder = data.place(config.data)
    if folder is None or not options.pictures(config):
        raise ValueError(f"--data {config.data}: --apply reconstructs images:DIR")
    return reconstruct.Reconstruct(
        folder,
        by=config.apply,
        simulate=not config.measured,
        tolerance=config.final_tolerance,
        evaluations=config.final_evaluations,
        seed=config.seed,
        out=config.out,
        fresh=config.fresh,
    )


def _learn(config: Any) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            images = images_of(config)
            problem = posed(config, images)
            chosen = folders.growing(common.options_of(config))
            chosen["initial"] = config.initial and str(config.initial)
            name = f"learn-{config.operator}-{config.regularizer}-{common.digest(chosen)}"
            read = parts.read_by(config, problem[1])
            claimed = folders.claim_over(images, config, name, chosen, FILES, **read)
            out = stack.enter_context(claimed)
        return _run(config, images, problem, out)


def images_of(config: Any) -> data.Images:
    """Those that a run learns from and is judged on."""
    whole = config.whole or (config.shape is not None and options.pictures(config))
    return running.images_of(config, whole=whole, value_range=RANGES[config.range])


def _run(config: Any, images: data.Images, problem: Any, out: Path) -> dict[str, Any]:
    recipe, model, setting, params, trainer, steps = problem
    _, run_key, picture_key = learning.keys(config.seed)
    train, test = jnp.asarray(images.train), jnp.asarray(images.test)
    loss = losses.of_truth(parts.loss_of(config, images)) or losses.mean_squared_error
    noise, own = params["noise"], (model.D, model.simulation)
    clean = train[: config.clean]
    known = baselines.baselines(model.K, clean, test, noise, picture_key, loss, *own)
    print(f"test loss without learning: {baselines.text(known)}", file=sys.stderr)
    measured = model.measure(params, train, jax.random.fold_in(picture_key, 1))
    searched: dict[str, Any] = {}
    if config.search is not None:
        found = searching.searched(
            config, trainer.learner, params, clean, measured[: len(clean)], out
        )
        params, searched = found
    state = trainer.init(params, measured) if setting.warm else trainer.init(params)
    f = None if config.fresh_noise or config.sampling else measured
    done = running.course(
        out,
        trainer,
        setting,
        state,
        (train.at[len(clean) :].set(jnp.nan), test),
        epochs=config.epochs,
        steps=steps,
        key=run_key,
        f=f,
    )
    found = report.report(config, images, model, setting, params, done, known, out) | searched
    chosen = json.loads(json.dumps(common.options_of(config), default=str))
    about = {"command": "learn", "options": chosen, "result": found}
    recipes.save(
        out / recipes.file(), Learned(recipe, model.shape, images.range, done.state.params, about)
    )
    folders.write(out / "result.json", json.dumps(common.plain(found), indent=1))
    return found | {"out": str(out)}


def posed(config: Any, images: data.Images) -> Any:
    """The recipe, the model, the setting, the params to start from, the trainer and its steps of an
    epoch.

    Raises: ValueError for parts and options that do not go together, before anything runs.
    """
    if config.regularizer == "dense":
        sizes.dense(config, ["bilevel"], images)
    if config.batch_size is not None and config.optimiser != "adam":
        raise ValueError(
            f"--optimiser {config.optimiser} --batch-size {config.batch_size}: a line search needs "
            "the same images at every trial; leave --batch-size out, or take adam"
        )
    recipe = parts.recipe_of(config)
    model = parts.simulated(config, recipe, recipe.model(images.shape))
    scalars = parts.scalars(config)
    params = recipe.init(model, learning.keys(config.seed)[0]) | scalars
    if config.initial is not None:
        params |= parts.initial(config, model, scalars)
    setting = parts.setting_of(config, model, params)
    count = len(images.train)
    whole = config.optimiser != "adam"
    batch_size = count if whole else config.batch_size
    steps = learning.steps_per_epoch(count, batch_size)
    total_steps = max(config.epochs, 1) * steps
    schedule = learning.SCHEDULES[config.schedule]
    trainer = learning.trainer(
        model,
        setting,
        total_steps=total_steps,
        batch_size=batch_size,
        loss_function=parts.upper_loss(config, images),
        learned=config.learn,
        optimiser=learning.SEARCHING[config.optimiser]() if whole else None,
        schedule=schedule,
        sampling=config.sampling,
    )
    if config.algorithm is not None:
        algorithm_choice.check("bilevel" if model.tied else "deq", config.algorithm)
        method = algorithm_choice.trained(config.algorithm, total_steps, schedule)
        trainer = upper.trainer(trainer, method, count=count)
    learning.check(trainer.learner, params)
    model.require(params)
    searching.check(config, params)
    parts.check_loss(config, trainer.learner, params, min(count, batch_size or learning.BATCH))
    return recipe, model, setting, params, trainer, steps
