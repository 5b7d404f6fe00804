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
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import (
    baselines,
    checkpoints,
    contraction,
    data,
    learning,
    losses,
    models,
    operators,
    plots,
    recipes,
    settings,
)
from deqbilevel.contraction import Finding
from deqbilevel.data import Images
from deqbilevel.files import FileError, whole
from deqbilevel.models import Model
from deqbilevel.recipes import Learned, Recipe
from deqbilevel.types import Info, Params, Solver
from experiments import command, common, folders, options, sizes
from experiments.drawing import draw
from experiments.records import Log
from experiments.schema import ANY

Task = Literal["inpainting", "deblurring"]
Name = Literal["bilevel", "deq", "degrad", "deprox", "convex", "plug_and_play"]

TASKS: dict[str, dict[str, Any]] = {
    "inpainting": {"noise": 0.1, "gamma": 1.0, "activation": "softshrink"},
    "deblurring": {"noise": 0.05, "gamma": 0.5, "activation": "relu"},
}
"""Points of the grid of [REB] where its models do well; the activation is the dense ones'."""

STEPS: dict[str, str] = {"deprox": "plug_and_play_step", "plug_and_play": "plug_and_play_step"}
"""The maps of those that are no gradient step."""

ENFORCED = (
    contraction.STEP_SIZE,
    contraction.STEP_SIZE_WITH_N,
    contraction.NONEXPANSIVE,
    contraction.NONEXPANSIVE_MEASURED,
)
"""What a network has to meet; a dense model the first only, as in [REB]."""


RECORD = {"task": "", "model": "", "epoch": 0} | dict.fromkeys(learning.RECORDS, ANY)
RECORD |= {"train_loss": 0.0, "seconds": 0.0, "diverged": False}
"""Of an epoch."""

PICTURES = 6
"""Test images that are drawn."""


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


class Run(NamedTuple):
    """A model on a task, ready to be trained."""

    task: str
    name: str
    model: Model
    taught: Model
    """The model that is trained: the same, but for plug-and-play a denoiser."""
    recipe: Recipe
    params: Params
    """At the start."""
    taught_noise: float


@command.checked
def main(config: Networks) -> dict[str, Any]:
    """Train what is missing; returns {task: {model: numbers}}."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            images = _images(config)
            runs = [
                build(config, task, name, images) for task in config.tasks for name in config.models
            ]
            _check(config, runs, images)
            options = common.options_of(config) | {"precision": _setting(config).precision}
            name = f"networks-{common.digest(options)}"
            claimed = folders.claim_over(images, config, name, options, files_of(config))
            out = stack.enter_context(claimed)
        log = Log.of(out / "rows.jsonl", ROW)
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
        return _show(config, runs, rows, images, out)


def files_of(config: Networks) -> list[str]:
    """What a run writes beside its figures, see `folders`."""
    runs = [f"states/{task}-{name}" for task in config.tasks for name in config.models]
    own = [name + end for name in runs for end in ("/<checkpoint>", ".npy")]
    own += [recipes.file(f"{task}-{name}") for task in config.tasks for name in config.models]
    return ["rows.jsonl", "metrics.jsonl", *own, "summary.md", "result.json"]


def _images(config: Networks) -> Images:
    """Raises: ValueError for options that cannot be met."""
    images = data.load(
        config.data,
        train_size=config.train_size,
        test_size=config.test_size,
        patch=config.patch,
        seed=config.seed,
    )
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


def build(config: Networks, task: str, name: str, images: Images) -> Run:
    """A model of a task, and its parameters at the start."""
    case, shape = TASKS[task], images.shape
    rate = config.learning_rate
    scalars = models.hyperparameters(
        tau=config.tau,
        gamma=case["gamma"] if config.gamma is None else config.gamma,
        lam=config.lam,
        activation=case["activation"] if name in models.MODELS else None,
        noise=case["noise"] if config.noise is None else config.noise,
        learning_rate=settings.SETTINGS[config.setting].learning_rate if rate is None else rate,
    )
    recipe = recipe_of(config, task, name)
    model = recipe.model(shape)
    taught = _denoising(model) if name == "plug_and_play" else model
    key, _, _ = learning.keys(config.seed)
    noise = config.denoiser_noise if name == "plug_and_play" else float(scalars["noise"])
    return Run(task, name, model, taught, recipe, model.init(key) | scalars, noise)


def recipe_of(config: Networks, task: str, name: str) -> Recipe:
    """The model by its words."""
    if name in models.MODELS:
        return recipes.dense(task, name, TASKS[task]["activation"], config.tau)
    own: dict[str, Any] = {"channels": config.channels}
    if name != "convex":
        own |= {"layers": config.layers, "normalised": config.normalise}
    network, step = "convex" if name == "convex" else "denoiser", STEPS.get(name, "gradient_step")
    return Recipe(models.TASKS[task], {}, network, own, step=step, start="zero")


def _denoising(model: Model) -> Model:
    """The denoiser D = I - N as a model of its own: of Gaussian noise, and of no fixed point."""

    def denoise(u: Array, params: Params, f: Array) -> Array:
        """Depends on no u, so that its fixed point is D(f)."""
        return f - model.N(f, params)

    return model._replace(K=operators.Identity(), G=denoise)


def _check(config: Networks, runs: list[Run], images: Images) -> None:
    """Raises ValueError, naming what does not hold, unless it is to be trained anyway."""
    broken = []
    for run in runs:
        truth = jnp.asarray(images.test[:4])
        found = findings(run, run.params, truth, truth)
        print(f"\n{run.task}, {run.name}, before training\n{contraction.text(found)}", flush=True)
        names = ENFORCED[:1] if run.name in models.MODELS else ENFORCED
        failing = [x for x in found if x.name in names and not x.holds]
        broken += [
            f"{run.task}, {run.name}: {x.name} ({x.meaning}) is {x.value:.4g} of {x.bound:.4g}"
            for x in failing
        ]
    if broken and not config.anyway:
        raise ValueError("; ".join(broken) + "; change it, or train --anyway")


def findings(run: Run, params: Params, truth: Array, u: Array) -> list[Finding]:
    """The conditions of [REB] 2.2 at images u, with measurements of the true ones."""
    keys = jax.random.split(jax.random.key(1))
    f = run.model.measure(params, truth, keys[0])
    bound, cocoercive = _constant(run, params)
    return contraction.report(
        run.model,
        params,
        f,
        u,
        keys[1],
        step=STEPS.get(run.name, "gradient_step"),
        bound=bound,
        cocoercive=cocoercive,
    )


def _constant(run: Run, params: Params) -> tuple[float, bool]:
    """A Lipschitz constant L of N, and whether N is 1/L-cocoercive."""
    R = run.model.R
    assert R.lipschitz is not None
    return float(R.lipschitz(params)), R.firm or R.tied


def _setting(config: Networks) -> settings.Setting:
    setting = settings.SETTINGS[config.setting]
    return settings.check(setting._replace(precision=config.precision or setting.precision))


def learn(config: Networks, run: Run, images: Images, out: Path) -> dict[str, Any]:
    """Train a model, going on from its latest epoch, and measure it."""
    folder, log = out / "states" / f"{run.task}-{run.name}", Log.of(out / "metrics.jsonl", RECORD)
    setting = _setting(config)
    _, key, picture_key = learning.keys(config.seed)
    train, test = jnp.asarray(images.train), jnp.asarray(images.test)
    batch_size = sizes.batch(config, len(train))
    steps = learning.steps_per_epoch(len(train), batch_size)
    trainer = learning.trainer(
        run.taught,
        setting,
        total_steps=max(config.epochs, 1) * steps,
        batch_size=batch_size,
    )
    state = trainer.init(run.params | {"noise": jnp.float32(run.taught_noise)})
    done = checkpoints.latest_step(folder)
    if done is not None:
        state = checkpoints.restore(folder, state)
    if (done or 0) < config.epochs:
        trainer = learning.compiled(trainer, state, train, key)
    start = 0 if done is None else done + 1
    epochs = learning.run(
        trainer, setting, state, train, test, epochs=config.epochs, key=key, start=start
    )
    for state, values in epochs:
        record = common.plain({"task": run.task, "model": run.name} | values)
        log.append(record)
        checkpoints.save(folder, record["epoch"], state)
    # An epoch that was cut short after its record is there twice.
    course = {r["epoch"]: r for r in log.read() if (r["task"], r["model"]) == (run.task, run.name)}
    missing = set(range(config.epochs + 1)) - set(course)
    if missing:
        raise FileError(
            f"{log.path}: holds no record of {run.task}, {run.name} at epoch {min(missing)}; put "
            "the file back, or start anew with --fresh"
        )
    params = state.params | {"noise": run.params["noise"]}
    learned = Learned(run.recipe, images.shape, images.range, params, {"command": "networks"})
    recipes.save(out / recipes.file(f"{run.task}-{run.name}"), learned)
    return {
        "task": run.task,
        "model": run.name,
        "train_loss": course[config.epochs]["train_loss"],
        **evaluate(run, setting.evaluation(), params, test, picture_key, _stored(run, out)),
        **baselines.numbers(
            baselines.baselines(run.model.K, train, test, params["noise"], picture_key)
        ),
        "seconds": sum(r["seconds"] for r in course.values()),
        "diverged": bool(state.diverged),
    }


def evaluate(
    run: Run, stop: Solver, params: Params, test: Array, key: Array, path: Path
) -> dict[str, Any]:
    """Converged reconstructions of the test images, of which `path` keeps the first, and whether
    the map contracts there; and what the solver that stops as in training makes of them."""
    solvers = settings.converged(max_evaluations=300), stop
    f, (u, stopped), (info, _) = jax.jit(partial(_reconstruct, run.model, solvers))(
        params, test, key
    )
    with whole(path) as file:
        np.save(file, np.stack([f[:PICTURES], u[:PICTURES]]))
    found = {x.name: x for x in findings(run, params, test[:4], u[:4])}
    print(
        f"\n{run.task}, {run.name}, trained\n{contraction.text(list(found.values()))}", flush=True
    )
    return {
        "test_loss": float(losses.mean_squared_error(u, test)),
        "psnr_db": float(jnp.mean(losses.psnr(u, test, data_range=2.0))),
        "stopped_test_loss": float(losses.mean_squared_error(stopped, test)),
        "stopped_psnr_db": float(jnp.mean(losses.psnr(stopped, test, data_range=2.0))),
        "measured_psnr_db": float(jnp.mean(losses.psnr(f, test, data_range=2.0))),
        "evaluations": int(info.evaluations),
        "residual": float(info.residual),
        "lipschitz": found[contraction.CONTRACTION_MEASURED].value,
        "lipschitz_bound": found[contraction.CONTRACTION].value,
        "spectral_radius": found[contraction.SPECTRAL_RADIUS].value,
        "network_lipschitz": found[contraction.NONEXPANSIVE_MEASURED].value,
        "failing": ", ".join(contraction.failing(list(found.values()))),
    }


def _reconstruct(
    model: Model, solvers: Sequence[Solver], params: Params, truth: Array, key: Array
) -> tuple[Array, tuple[Array, ...], tuple[Info, ...]]:
    """f, and what each of the solvers makes of it."""
    f = model.measure(params, truth, key)
    u, info = zip(*(model.reconstruct(solver, params, f) for solver in solvers), strict=True)
    return f, u, info


COLUMNS = (
    *("test_loss", "psnr_db", "stopped_test_loss", "stopped_psnr_db", "seconds", "evaluations"),
    *("residual", "lipschitz", "lipschitz_bound", "spectral_radius", "network_lipschitz"),
)


def _show(
    config: Networks, runs: list[Run], rows: list[dict[str, Any]], images: Images, out: Path
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
            if said := baselines.warning(row["test_loss"], _without_learning(row)):
                lines += ["", f"{row['model']}: {said}."]
                print(f"warning: {task}, {row['model']}: {said}", file=sys.stderr)
        lines.append("")
        for row in mine:
            numbers[task][row["model"]] = {
                name: x for name, x in row.items() if name not in ("task", "model")
            }
    table = "\n".join(lines)
    print(f"\n{table}", flush=True)
    folders.write(out / "summary.md", table)
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    for task in config.tasks:
        pictures = _pictures([run for run in runs if run.task == task], images, out)
        caption = (
            f"{task}, tau {config.tau:g}, lam {config.lam:g}, epochs: {config.epochs}, "
            f"{len(images.train)} training images; {images.source}"
        )
        path = out / f"reconstructions-{task}.png"
        draw(path, plots.reconstructions, pictures, images.shape, caption)
    return numbers


ROW = {"task": "", "model": "", "measured_psnr_db": 0.0} | dict.fromkeys(COLUMNS, ANY)
"""A record of a trained model."""


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


def _pictures(runs: list[Run], images: Images, out: Path) -> dict[str, np.ndarray]:
    """The first test images, what was measured of them, and each model's reconstructions."""
    pictures = {"true u": np.asarray(images.test[:PICTURES])}
    for run in runs:
        f, u = _read_pictures(_stored(run, out), (2, PICTURES, images.test.shape[1]))
        pictures |= {"measurement f": f, run.name: u}
    return pictures


def _read_pictures(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The pictures of a model. Raises: FileError."""
    try:
        found = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(
            f"{path}: cannot be read ({error}); start anew with --fresh, or put it back"
        ) from error
    few = min(shape[1], found.shape[1]) if found.ndim == 3 else 0
    if found.shape != (shape[0], few, shape[2]):
        raise FileError(f"{path}: not the pictures of a model; start anew with --fresh")
    return found


def _stored(run: Run, out: Path) -> Path:
    return out / "states" / f"{run.task}-{run.name}.npy"


if __name__ == "__main__":
    command.run(Networks, main)
