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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from deqbilevel import (
    algorithms,
    baselines,
    data,
    fidelities,
    learning,
    losses,
    operators,
    recipes,
    regularizers,
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
from deqbilevel.commands.learn import parts, report
from deqbilevel.recipes import Learned

FILES = (*running.FILES, recipes.file(), "result.json")
"""What a run writes beside its figures, see `folders`."""

RANGES = {"-1..1": (-1.0, 1.0), "0..1": (0.0, 1.0)}

BY_MODEL = options.default("by the model")
LEVEL = options.only(
    "with a --fidelity whose measurements are no counts", lambda c: not parts.counts(c.fidelity)
)
STAYS = options.only(
    "with measurements that stay: without --fresh-noise and --sampling",
    lambda c: not (c.fresh_noise or c.sampling),
)
CONSTANT = options.only("with --optimiser adam", lambda c: c.optimiser == "adam")


@dataclass(frozen=True)
class Learn:
    """Learn a regulariser, or with --apply reconstruct pictures by what a run learned."""

    operator: Annotated[str, options.among(operators.OPERATORS)] = "identity"
    """K: identity is denoising, row_mask inpainting, a blur deblurring."""
    fidelity: Annotated[str, options.among(fidelities.FIDELITIES)] = "squares"
    """D, and the noise that it stands for."""
    regularizer: Annotated[str, options.among(regularizers.REGULARIZERS)] = "convolutional"
    """R, whose gradient is N; without an energy (dense and normalised untied, affine, denoiser) a
    deep equilibrium model."""
    step: Annotated[str, options.among(recipes.STEPS)] = "gradient_step"
    """The map, whose fixed point is the reconstruction."""
    start: Annotated[str, options.among(recipes.STARTS)] = "adjoint"
    """Where the lower level is solved from."""
    loss: tuple[str, ...] = ("mean_squared_error",)
    """Of the upper level: a name, or NAME:option=value,option=value; of several their sum, each
    times its weight: ssim mean_absolute_error:weight=0.1."""
    clean: Annotated[int | None, options.count, STAYS, options.default("all")] = None
    """The truth is known of so many training images, the first; of the others --noisy-loss."""
    noisy_loss: Annotated[
        tuple[str, ...], options.only("with --clean", lambda c: c.clean is not None)
    ] = ("monte_carlo_sure",)
    """Of images without the truth, beside --loss of the others: a loss of the noise, as
    monte_carlo_sure:weight=0.5."""
    noise: Annotated[float, options.noise, LEVEL] = 0.1
    """Standard deviation, of images in --range."""
    finer: Annotated[int | None, options.whole(2, 16), options.default("K itself")] = None
    """Simulate the measurements on a grid so many times finer than that of the images."""
    nonnegative: bool = False
    """Look for reconstructions of values 0 and more, of images in --range 0..1."""
    fresh_noise: bool = False
    """Draw the noise anew in every step, instead of once for each image."""
    tau: Annotated[float | None, options.tau, options.default("1/L")] = None
    """Step size."""
    gamma: Annotated[float, options.weight] = 1.0
    """Weight of the regulariser."""
    lam: Annotated[float, options.weight] = 1.0
    """Weight of the data fidelity."""
    learn: Annotated[tuple[str, ...] | None, options.default("what the regulariser names")] = None
    """Entries of params; K: the operator too, gamma, lam and tau: scalars."""
    sampling: bool = False
    """Take the measurements by the K that is learned, as when a mask is learned."""
    lower: Annotated[str | None, options.among(parts.LOWER), BY_MODEL] = None
    """Solver of the lower level: optimized_gradient of an energy, with --nonnegative nesterov, else
    anderson."""
    lower_evaluations: Annotated[int, options.whole(1, 100_000)] = 100
    """In each step, at most."""
    lower_tolerance: Annotated[float, options.number(0, 1)] = 1e-5
    """Relative residual at which it stops before."""
    warm: Annotated[bool | None, options.default("with an energy and noise that stays")] = None
    """Go on with the lower level of an image where the last step left it."""
    hypergradient: Annotated[str | None, options.among(parts.HYPERGRADIENTS), BY_MODEL] = None
    """minimiser of a smooth energy, conjugate_gradient of another, else anderson."""
    adjoint_evaluations: Annotated[int, options.whole(1, 100_000)] = 100
    """Products of the backward pass in each step, at most."""
    adjoint_tolerance: Annotated[float, options.number(0, 1)] = 1e-3
    """Relative residual at which a hypergradient is accepted."""
    final_evaluations: Annotated[int, options.whole(1, 100_000)] = 500
    """Of a reconstruction that is judged, at most."""
    final_tolerance: Annotated[float, options.number(0, 1)] = 1e-5
    """Where it stops before."""
    optimiser: Literal["adam", "lbfgs", "gradient_descent"] = "adam"
    """The last two search along their direction, and need the whole batch."""
    algorithm: Annotated[str | None, options.among(algorithms.METHODS), options.default("none")] = (
        None
    )
    """An upper-level algorithm in place of hypergradient and solves of its own."""
    learning_rate: Annotated[float, options.rate, CONSTANT] = 2e-3
    schedule: Annotated[Literal["constant", "cosine"], CONSTANT] = "constant"
    """Of the learning rate."""
    data: Annotated[str, options.data] = "sample"
    """sample, faces, photographs, phantoms:NAME, idx:DIR, tfds, images:DIR, arrays:FILE."""
    patch: Annotated[int, options.side, options.patches] = 28
    """Height and width of the patches of images:DIR."""
    whole: Annotated[bool, options.patches] = False
    """Take the pictures of images:DIR whole, all of one shape, and no patches."""
    shape: Annotated[tuple[int, int] | None, options.side, options.default("all of each")] = None
    """Height and width of phantoms, or of the middle of whole pictures, photographs or faces."""
    range: Literal["-1..1", "0..1"] = "-1..1"
    """Of the values of the images."""
    train_size: Annotated[int | None, options.size, options.default("all")] = None
    test_size: Annotated[int | None, options.size, options.default("all")] = None
    batch_size: Annotated[int | None, options.size, options.default("100, or all")] = None
    epochs: Annotated[int, options.whole(0)] = 10
    initial: Annotated[
        Path | None, options.folder("a run that has ended"), options.default("none")
    ] = None
    """Start with what another run learned; with --epochs 0 it is judged as it is."""
    apply: Annotated[
        Path | None, options.folder("a run that has ended"), options.default("none")
    ] = None
    """Reconstruct the pictures of --data images:DIR by what this run learned."""
    measured: Annotated[bool, options.only("with --apply", lambda c: c.apply is not None)] = False
    """The pictures are measurements, and not true ones that are measured first."""
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


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
    found = report.report(config, images, model, setting, params, done, known, out)
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
    parts.check_loss(config, trainer.learner, params, min(count, batch_size or learning.BATCH))
    return recipe, model, setting, params, trainer, steps
