"""Learn one regulariser and see what it does: `python -m experiments.train --help`.

Repeating the same command goes on after an interruption, or shows the finished run again.
"""

import contextlib
import dataclasses
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from deqbilevel import (
    algorithms,
    baselines,
    hypergradients,
    learning,
    models,
    plots,
    recipes,
    settings,
    solvers,
    upper,
)
from deqbilevel.commands import algorithm_choice, command, common, folders, options, running, sizes
from deqbilevel.commands.drawing import draw
from deqbilevel.data import Images
from deqbilevel.learning import evaluation
from deqbilevel.models import Model
from deqbilevel.recipes import Learned

FILES = (*running.FILES, recipes.file(), "result.json")
"""What a run writes beside its figures, see `folders`."""

OF_TASK: dict[str, dict[str, Any]] = {
    "denoising": {"activation": "identity", "gamma": 1.0, "noise": 0.5},
    "inpainting": {"activation": "relu", "gamma": 0.1, "noise": 0.1},
    "deblurring": {"activation": "identity", "gamma": 1.0, "noise": 0.1},
}
"""What stands for options that are not given: settings that learn something in two epochs."""

THE_TASKS = options.default("the task's")


@dataclass(frozen=True)
class Train:
    """One training run of [REB]: a task, a model, one setting of the hyperparameters."""

    task: Literal["denoising", "inpainting", "deblurring"] = "denoising"
    model: Literal["bilevel", "deq"] = "bilevel"
    """bilevel: C = A; deq: C is learned too."""
    activation: Annotated[Literal["identity", "relu", "softshrink"] | None, THE_TASKS] = None
    """relu for inpainting, else identity."""
    tau: Annotated[float, options.tau] = 0.9
    """Step size, and threshold of Softshrink."""
    gamma: Annotated[float | None, options.weight, THE_TASKS] = None
    """Weight of the regulariser: 0.1 for inpainting, else 1."""
    lam: Annotated[float, options.weight] = 1.0
    """Weight of the data fidelity."""
    noise: Annotated[float | None, options.noise, THE_TASKS] = None
    """Standard deviation of the noise, on images in [-1, 1]: 0.5 for denoising, else 0.1."""
    setting: Literal["paper", "accurate", "fast"] = "paper"
    """How the lower level and its adjoint are solved."""
    precision: options.Precision = None
    """Of products on a GPU: float32 in full, or in TF32. A CPU has one."""
    solver: Annotated[str, options.among([*solvers.SOLVERS, *solvers.DESCENTS])] = "anderson"
    """Of the lower level; those from gradient_descent on are for bilevel."""
    hypergradient: Annotated[str, options.among(hypergradients.METHODS)] = "anderson"
    """The way to a hypergradient; the implicit ones by the name of their adjoint solver."""
    products: Annotated[
        int | None, options.whole(1, 100_000), options.default("the setting's"), options.products
    ] = None
    """Of its backward pass, at most: terms of neumann, last evaluations of truncated."""
    algorithm: Annotated[str | None, options.among(algorithms.METHODS), options.default("none")] = (
        None
    )
    """An upper-level algorithm in place of the solves from zero: each step goes on where the last
    one with the same image left the lower level. The setting then is that of evaluations only."""
    epochs: Annotated[int, options.whole(0)] = 2
    train_size: Annotated[int | None, options.size, options.default("all")] = None
    """Training images."""
    test_size: Annotated[int | None, options.size, options.default("all")] = None
    """Test images."""
    batch_size: Annotated[int, options.size] = 100
    learning_rate: Annotated[float | None, options.rate, options.default("the setting's")] = None
    """Adam's, at the start of its schedule."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate; a run with a constant one can be made longer by --epochs."""
    data: Annotated[str, options.data] = "sample"
    """sample, faces, idx:DIR, tfds, tfds:DIR or images:DIR."""
    patch: Annotated[int, options.side, options.patches] = 28
    """Height and width of the patches of images:DIR."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


@command.checked
def main(config: Train) -> dict[str, Any]:
    """Train, resuming where an earlier call stopped; returns the headline numbers."""
    unset = {k: x for k, x in OF_TASK[config.task].items() if getattr(config, k) is None}
    with contextlib.ExitStack() as stack:
        return _train(dataclasses.replace(config, **unset), stack)


def _train(config: Train, stack: contextlib.ExitStack) -> dict[str, Any]:
    with common.clear_errors():
        setting = _setting(config)
        rate = setting.learning_rate if config.learning_rate is None else config.learning_rate
        scalars = {n: getattr(config, n) for n in ("tau", "gamma", "lam", "noise", "activation")}
        hyperparameters = models.hyperparameters(**scalars, learning_rate=rate)
        images = running.images_of(config)
        sizes.dense(config, [config.model], images)
        batch_size = sizes.batch(config, len(images.train))
        count, pixels = images.train.shape
        sizes.hypergradient(
            config.hypergradient,
            parameters=pixels**2 * (2 if config.model == "deq" else 1) + pixels,
            images=min(config.batch_size, count),
            pixels=pixels,
        )
        model = models.build(config.task, config.model, images.shape)
        options = folders.growing(common.options_of(config)) | {"precision": setting.precision}
        name = f"{config.task}-{config.model}-{config.setting}-{common.digest(options)}"
        claimed = folders.claim_over(images, config, name, options, FILES)
        out = stack.enter_context(claimed)

    params_key, run_key, picture_key = learning.keys(config.seed)
    train, test = jnp.asarray(images.train), jnp.asarray(images.test)
    known = baselines.baselines(model.K, train, test, scalars["noise"], picture_key)
    print(f"test loss without learning: {baselines.text(known)}", file=sys.stderr)
    steps = learning.steps_per_epoch(len(train), batch_size)
    total_steps = max(config.epochs, 1) * steps
    schedule = learning.SCHEDULES[config.schedule]
    trainer = learning.trainer(
        model, setting, total_steps=total_steps, batch_size=batch_size, schedule=schedule
    )
    if config.algorithm is not None:
        method = algorithm_choice.trained(config.algorithm, total_steps, schedule)
        trainer = upper.trainer(trainer, method, count=len(train))
    state = trainer.init(model.init(params_key) | hyperparameters)
    state, records = running.course(
        out,
        trainer,
        setting,
        state,
        (train, test),
        epochs=config.epochs,
        steps=steps,
        key=run_key,
    )
    caption = _caption(config, images, records[-1], known)
    numbers = _headline(model, state, records, known, test, picture_key, out)
    recipe = recipes.dense(config.task, config.model, str(config.activation), config.tau)
    learned = Learned(recipe, model.shape, images.range, state.params, {"command": "train"})
    recipes.save(out / recipes.file(), learned)
    folders.write(out / "result.json", json.dumps(common.plain(numbers), indent=1))
    _draw(out, model, setting, state.params, test[:4], picture_key, caption)
    draw(out / "losses.png", plots.loss_curves, records, caption, baselines.levels(known))
    if said := baselines.warning(records[-1]["test_loss"], known):
        print(f"warning: {said}: nothing useful was learned", file=sys.stderr)
    return numbers


def _setting(config: Train) -> settings.Setting:
    """Raises ValueError for a hypergradient or an algorithm that the model or the setting does not
    have."""
    setting = settings.SETTINGS[config.setting]._replace(
        solver=config.solver, hypergradient=config.hypergradient
    )
    if config.precision is not None:
        setting = setting._replace(precision=config.precision)
    if config.algorithm is not None:
        given = {k: getattr(config, k) for k in ("solver", "hypergradient", "products")}
        others = {name: value != getattr(Train, name) for name, value in given.items()}
        algorithm_choice.check(config.model, config.algorithm, **others)
        return setting._replace(limit=setting.budget)  # nothing that would grow
    if config.products is not None:
        budget, limit = (
            b._replace(adjoint=config.products) for b in (setting.budget, setting.limit)
        )
        setting = setting._replace(budget=budget, limit=limit)
    asymmetric = config.model == "deq" or setting.preconditioned
    if config.solver not in solvers.SOLVERS and asymmetric:
        raise ValueError(
            f"--solver {config.solver}: needs a gradient step on an energy, which neither a deq "
            f"nor a preconditioned map (setting accurate) is; take {', '.join(solvers.SOLVERS)}"
        )
    if config.hypergradient in hypergradients.SYMMETRIC and asymmetric:
        raise ValueError(
            f"--hypergradient {config.hypergradient}: needs a symmetric dG/du, which neither a deq "
            "nor a preconditioned map (setting accurate) has; take gmres or bicgstab"
        )
    return settings.check(setting)


def _caption(config: Train, images: Images, record: dict[str, Any], known: dict[str, float]) -> str:
    products = _setting(config).precision
    how = "" if config.algorithm is None else f", {config.algorithm}"
    return (
        f"{config.task}, {config.model}, {config.activation}, tau {config.tau:g}, "
        f"gamma {config.gamma:g}, lam {config.lam:g}, noise {config.noise:g}; setting "
        f"{config.setting} in {products}{how}, epochs: {record['epoch']}; {images.source}; "
        f"test loss {record['test_loss']:.4f}; without learning: {baselines.text(known)}"
    )


def _draw(
    out: Path,
    model: Model,
    setting: settings.Setting,
    params: Any,
    truth: jax.Array,
    key: jax.Array,
    caption: str,
) -> None:
    """The picture of reconstructions of a few test images."""
    f = models.measure(model.K, truth, params["noise"], key)
    u, _ = model.reconstruct(setting.evaluation(), params, f)
    rows = {"true u": truth, "measurement f": f, "K u*": model.K.apply(u), "reconstruction u*": u}
    arrays = {name: np.asarray(row) for name, row in rows.items()}
    path = out / "reconstructions.png"
    judged = ("measurement f", "reconstruction u*")
    draw(path, plots.reconstructions, arrays, model.shape, caption, compared=judged)


def _headline(
    model: Model,
    state: learning.State,
    records: list[dict[str, Any]],
    known: dict[str, float],
    test: jax.Array,
    key: jax.Array,
    out: Path,
) -> dict[str, Any]:
    """The last epoch, the test loss at convergence, where all settings can be compared, and the
    losses without learning."""
    strictly = jax.jit(partial(evaluation, model, settings.converged()))
    strict = strictly(state.params, test[:1000], key)
    last = records[-1]
    return last | {
        "test_loss_initial": records[0]["test_loss"],
        "test_loss_converged": np.asarray(strict["loss"]),
        "test_residual_converged": np.asarray(strict["residual"]),
        **baselines.numbers(known),
        "seconds": sum(record["seconds"] for record in records),
        "out": str(out),
    }


if __name__ == "__main__":
    command.run(Train, main)
