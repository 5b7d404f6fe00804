"""Convolutional bilevel learning against a convolutional DEQ on pictures of faces.

python -m experiments.faces [--task deblurring] [--kernels 2 11] [--data images:DIR]
python -m experiments.faces --task deblurring --kernels-from RUN [--epochs 0]

The experiment of the journal version of [REB]: ten pictures, one batch, fresh noise in every epoch.
Starts, learning rates and seeds are lanes of one program; the lane and the epoch with the least
training loss are shown, as a DEQ can unlearn its fixed point. `--kernels-from` starts from the
kernels that another run learned: with `--epochs 0` they are used as they are. Repeating the same
command goes on after an interruption, or shows the finished run again.
"""

import contextlib
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import (
    archives,
    arrays,
    baselines,
    checkpoints,
    data,
    lanes,
    learning,
    losses,
    models,
    plots,
    recipes,
)
from deqbilevel.data import Images
from deqbilevel.models import Model
from deqbilevel.recipes import Learned, Recipe
from deqbilevel.regularizers import normalised
from deqbilevel.settings import Budget, Setting
from deqbilevel.types import Params
from experiments import command, common, folders, options, sizes
from experiments.drawing import draw
from experiments.records import Log
from experiments.schema import ANY

START = {
    "random": normalised.uniform,
    "first_differences": lambda key, count, *size: normalised.first_differences(*size),
    "second_differences": lambda key, count, *size: normalised.second_differences(*size),
}
"""Kernels to start with: (key, count, rows, columns) -> kernels."""

LAM, TAU = 18.1560, 1 / 800
"""[REB]'s published settings for faces; 1/800 is below 1/L, L = lam + c^2 sup phi'' = 763.5."""

STENCIL = 3
"""Kernels up to this size take Newton's method: their Jacobian has few diagonals, 25, and its
products are cheap."""


Start = Literal["random", "first_differences", "second_differences"]

FAST = options.only("with --setting fast", lambda c: c.setting == "fast")
DEBLURRED = options.only("with --task deblurring", lambda c: c.task == "deblurring")
DRAWN = options.only("without --kernels-from, which is a start", lambda c: c.kernels_from is None)


@dataclass(frozen=True)
class Faces:
    """Learn kernels A, and C of the DEQ, for one task. Unset options: [REB]'s published ones."""

    task: Literal["denoising", "deblurring"] = "denoising"
    models: tuple[Literal["bilevel", "deq"], ...] = ("bilevel", "deq")
    """bilevel: C = A; deq: C starts as a copy of A and is learned too."""
    kernels: Annotated[tuple[int, int], options.whole(1, 10_000)] = (30, 3)
    """Number, and height and width, which is odd."""
    starts: Annotated[tuple[Start, ...], DRAWN] = ("random",)
    """Each a lane; differences are 2 kernels."""
    kernels_from: Annotated[
        Path | None,
        options.folder("the --out of a finished run"),
        options.default("none"),
    ] = None
    """The folder of another run, whose learned kernels are the start; of a run of bilevel learning
    alone they are so for the DEQ as well, with C = A."""
    learning_rates: Annotated[
        tuple[float, ...] | None,
        options.rate,
        options.default("[REB]'s, by the task and the kernels"),
        options.only("with --epochs above 0", lambda c: c.epochs > 0),
    ] = None
    """Adam's, each a lane; falling along a line."""
    seeds: Annotated[
        int,
        options.whole(1, 1000),
        options.only(
            "with --starts random alone, and without --kernels-from: the lanes would be equal",
            lambda c: set(c.starts) == {"random"} and c.kernels_from is None,
        ),
    ] = 1
    """Random starts, each a lane."""
    blur: Annotated[int, options.whole(1, 1000), DEBLURRED] = 5
    """Length of the diagonal."""
    padding: Annotated[Literal["circular", "zero"], DEBLURRED] = "circular"
    """Of the blur."""
    noise: Annotated[
        float | None, options.noise, options.default("0.1, and 0.01 of --blur above 5")
    ] = None
    """Standard deviation, on pictures in [-1, 1]."""
    setting: Literal["fast", "published"] = "fast"
    """published: Picard iteration, 1000 evaluations (4000 and a quarter of the step for deblurring)
    forwards and backwards; fast: the same fixed points in a small part of that."""
    precision: Literal["highest", "tensorfloat32"] = "highest"
    """Of products on a GPU: float32 in full, or in TF32, by which no solve ends. A CPU has one."""
    tolerance: Annotated[float, options.number(0, 1), FAST] = 2e-6
    """Relative residual of the lower level, that of [REB]'s map with its small step; float32 ends
    at 2e-6."""
    adjoint_tolerance: Annotated[float, options.number(0, 1), FAST] = 2e-6
    """Residual of the adjoint relative to the gradient of the loss. That relative to its solution
    is some hundred times smaller."""
    guard: Annotated[float | None, options.number(1, 1e6), FAST] = 10.0
    """Where a residual is more times its tolerance than this, no step is taken, and the kernels go
    halfway back to the last from which one was; none: every step is taken."""
    epochs: Annotated[int, options.whole(0)] = 500
    evaluate_every: Annotated[int, options.count] = 10
    """Epochs between two evaluations, records and checkpoints."""
    data: Annotated[str, options.data] = "photographs"
    """photographs, faces, images:DIR (whole pictures), celeb_a or celeb_a:DIR."""
    shape: options.Middle = None
    """Height and width of the middle to take of each picture."""
    train_size: Annotated[int, options.size] = 10
    test_size: Annotated[int, options.size] = 10
    seed: Annotated[int, options.seed] = 0
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""

    def resolved(self) -> dict[str, Any]:
        """Every option that decides the numbers, with [REB]'s settings for what is unset."""
        options = common.options_of(self)
        options["kernels_from"] = self.kernels_from and str(self.kernels_from)
        if self.noise is None:
            options["noise"] = 0.01 if self.task == "deblurring" and self.blur > 5 else 0.1
        return options


def files_of(config: Faces) -> list[str]:
    """What a run writes beside its figures, see `folders`."""
    kinds = ("metrics-{}.jsonl", "states/{}/<checkpoint>", "best/{}/<checkpoint>")
    kinds += ("kernels-{}.npz", recipes.file("{}"))
    own = [kind.format(name) for name in config.models for kind in kinds]
    return [*own, "summary.md", "result.json"]


RECORD = {"epoch": 0} | {name: [ANY] for name in learning.RECORDS}
RECORD |= {"test_loss": [0.0], "diverged": [False], "seconds": [0.0]}
"""Of an evaluation: of each lane."""


class Run(NamedTuple):
    """A model's lanes before and after learning."""

    model: Model
    start: Params
    params: Params
    records: list[dict[str, Any]]
    lane: dict[str, Any]
    """The lane with the least training loss."""
    best: int
    """Its place."""
    epoch: int
    """That of `params`: of those evaluated the one with its least training loss."""


class Best(NamedTuple):
    """The parameters of each lane where its training loss was least."""

    params: Params
    loss: np.ndarray
    epoch: np.ndarray

    def after(self, params: Params, epoch: int, loss: np.ndarray) -> "Best":
        """This, or in the lanes that have less loss now, what they have now."""
        better = loss < self.loss

        def chosen(new: np.ndarray, old: np.ndarray) -> np.ndarray:
            return np.where(better.reshape(-1, *[1] * (np.ndim(new) - 1)), new, old)

        return jax.tree.map(chosen, Best(params, loss, np.full_like(self.epoch, epoch)), self)


@command.checked
def main(config: Faces) -> dict[str, Any]:
    """Train each model, resuming where an earlier call stopped; returns the headline numbers."""
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            options = config.resolved()
            check(config, options)
            images = data.load(
                config.data,
                train_size=config.train_size,
                test_size=config.test_size,
                whole=True,
                shape=config.shape,
                seed=config.seed,
            )
            sizes.fits(
                16 * config.kernels[0] * images.train.size,
                f"--kernels {config.kernels[0]} {config.kernels[1]} on {len(images.train)} "
                f"pictures of {images.shape[0]}x{images.shape[1]}",
                "take fewer kernels, or fewer or smaller pictures (--train-size, --shape)",
            )
            given = {name: stored_kernels(config, name) for name in config.models}
            built = {name: build(config, name, images.shape) for name in config.models}
            name = f"faces-{config.task}-{common.digest(options)}"
            claimed = folders.claim_over(
                images,
                config,
                name,
                options,
                files_of(config),
                read=given,
                sources={"--kernels-from": config.kernels_from},
            )
            out = stack.enter_context(claimed)
        runs = {
            name: _learn(config, options, name, model, given[name], images, out)
            for name, model in built.items()
        }
        return _show(config, options, runs, images, out)


def check(config: Faces, options: dict[str, Any]) -> None:
    """Raises ValueError for a request that cannot be met."""
    count, size = config.kernels
    if size % 2 == 0:
        raise ValueError(f"--kernels {count} {size}: expected 1 or more, of an odd size")
    differences = set(config.starts) - {"random"}
    if count != 2 and differences:
        raise ValueError(f"--starts {' '.join(config.starts)}: differences are --kernels 2 {size}")
    if size < 3 and (differences or config.kernels_from is None):
        raise ValueError(
            f"--kernels {count} {size}: numbers and no kernels; take a size of 3 or more"
        )
    if config.seed + config.seeds > 2**32:
        raise ValueError(f"--seed {config.seed} --seeds {config.seeds}: beyond 32 bits")
    if config.epochs % config.evaluate_every:
        raise ValueError(
            f"--epochs {config.epochs}: expected a multiple of --evaluate-every "
            f"{config.evaluate_every}"
        )


def stored_kernels(config: Faces, name: str) -> Params | None:
    """The kernels that a run of before learned; for a DEQ, C = A where it has only bilevel ones.

    Raises: ValueError where there are none.
    """
    if config.kernels_from is None:
        return None
    path = config.kernels_from / f"kernels-{name}.npz"
    tied = config.kernels_from / "kernels-bilevel.npz"
    if name == "deq" and not path.exists() and tied.exists():
        path = tied
    if not path.exists():
        raise ValueError(f"{path}: not there; --kernels-from wants the --out of a finished run")
    shape = arrays.Array(("kernels", "rows", "columns"))
    schema = {"A": shape} if path == tied else {"A": shape, "C": shape}
    found = {letter: jnp.asarray(x) for letter, x in arrays.read(path, schema).items()}
    count, size = config.kernels
    if found["A"].shape != (count, size, size):
        raise ValueError(
            f"{path}: {found['A'].shape[0]} kernels {found['A'].shape[1]}x{found['A'].shape[2]}; "
            f"--kernels {count} {size} asks for others"
        )
    return {"C": found["A"]} | found if name == "deq" else found


def build(config: Faces, name: str, shape: tuple[int, int]) -> Model:
    """Raises: ValueError for kernels that are larger than the pictures."""
    return recipe_of(config, name).model(shape)


def recipe_of(config: Faces, name: str) -> Recipe:
    """The model by its words; the lower level starts at what was measured."""
    own = {"tied": models.MODELS[name], "kernels": config.kernels}
    if config.task == "denoising":
        return Recipe("identity", {}, "normalised", own, start="measurement")
    blur = {"size": config.blur, "boundary": config.padding}
    return Recipe("diagonal_blur", blur, "normalised", own, start="measurement")


def setting(config: Faces, name: str) -> Setting:
    """How the lower level and its adjoint are solved."""
    picard = config.setting == "published"
    count = 4000 if config.task == "deblurring" else 1000
    budget = Budget(count, count) if picard else Budget(300, 200)
    fast = "newton" if config.kernels[1] <= STENCIL else "preconditioned_anderson"
    return Setting(
        forward_tolerance=None if picard else config.tolerance,
        adjoint_tolerance=None if picard else config.adjoint_tolerance,
        budget=budget,
        limit=budget,
        evaluation_tolerance=None if picard else config.tolerance,
        evaluation_budget=budget.forward,
        ridge=0.0,
        relative_ridge=True,
        preconditioned=False,
        learning_rate=_rates(config, name)[0],
        precision=config.precision,
        guard=None if picard else config.guard,
        hypergradient="picard" if picard else "preconditioned",
        solver="picard" if picard else fast,
    )


def _rates(config: Faces, name: str) -> tuple[float, ...]:
    if config.learning_rates is not None:
        return config.learning_rates
    few = config.kernels[0] < 10
    if config.task == "deblurring":
        return (7e-4 if few else 5e-3,)
    return ((4e-3 if name == "bilevel" else 3.2e-3) if few else 1e-2,)


def lanes_of(config: Faces, name: str) -> list[dict[str, Any]]:
    """The start, learning rate and seed of each lane."""
    starts = ["given"] if config.kernels_from else config.starts
    seeds = range(config.seed, config.seed + config.seeds)
    lanes = itertools.product(starts, _rates(config, name), seeds)
    return [dict(zip(("start", "learning_rate", "seed"), lane, strict=True)) for lane in lanes]


def initial(
    config: Faces,
    options: dict[str, Any],
    model: Model,
    given: Params | None,
    lane: dict[str, Any],
) -> Params:
    """The parameters that a lane starts with."""
    if given is None:
        count, size = config.kernels
        A = START[lane["start"]](learning.keys(lane["seed"])[0], count, size, size)
        given = {"A": A} if model.tied else {"A": A, "C": A}
    quarter = config.setting == "published" and config.task == "deblurring"
    scalars = models.hyperparameters(
        tau=TAU / 4 if quarter else TAU,
        gamma=1.0,
        lam=LAM,
        noise=options["noise"],
        activation=None,
        learning_rate=lane["learning_rate"],
    )
    return normalised.bank_of(model.shape).start(**given) | scalars


def _learn(
    config: Faces,
    options: dict[str, Any],
    name: str,
    model: Model,
    given: Params | None,
    images: Images,
    out: Path,
) -> Run:
    """Train the lanes of a model, from where an earlier call stopped."""
    own = lanes_of(config, name)
    each = -(-len(own) // jax.device_count())
    # On a CPU lanes are no faster together.
    spread = lanes.lanes(each, 1 if jax.default_backend() == "cpu" else each)
    chosen = [own[i % len(own)] for i in range(spread.count)]
    starts = [initial(config, options, model, given, lane) for lane in chosen]
    start = jax.tree.map(lambda *x: np.stack(x), *starts)
    how = setting(config, name)
    trainer = learning.trainer(
        model,
        how,
        total_steps=max(config.epochs, 1),
        batch_size=len(images.train),
        lanes=spread,
        schedule=learning.linear(0.1 if config.task == "deblurring" else 0.01),
        passes=config.evaluate_every,
    )
    state = trainer.init(spread.put(start))
    folder, log = out / "states" / name, Log.of(out / f"metrics-{name}.jsonl", RECORD)
    done = checkpoints.latest_step(folder)
    expected = () if done is None else range(0, done + 1, config.evaluate_every)
    records = log.course("epoch", expected)
    nothing = np.full(spread.count, np.inf)
    best = Best(lanes.mine(state.params), nothing, np.zeros(spread.count, int))
    if done is not None:
        state = checkpoints.restore(folder, state)
        best = checkpoints.restore(out / "best" / name, best)
    train, test = spread.share(images.train), spread.share(images.test)
    key = spread.keys([learning.keys(config.seed)[1]] * spread.count)
    if (done or 0) < config.epochs:
        trainer = learning.compiled(trainer, state, train, key)
    every = config.evaluate_every
    with tqdm(total=config.epochs, initial=done or 0, unit="epoch", desc=name) as bar:

        def advance(steps: int, metrics: learning.Metrics, seconds: float) -> None:
            bar.update(steps)

        epochs = learning.run(
            trainer,
            how,
            state,
            train,
            test,
            epochs=config.epochs // every,
            key=key,
            start=0 if done is None else done // every + 1,
            on_steps=advance,
        )
        for state, values in epochs:
            epoch = values["epoch"] * every
            record = {"epoch": epoch} | {
                k: np.broadcast_to(v, spread.count)[: len(own)].tolist()
                for k, v in values.items()
                if k != "epoch"
            }
            records.append(record)
            if epoch or not config.epochs:  # the start is shown beside it anyway
                loss = np.where(record["diverged"], np.inf, record["train_loss"])
                best = best.after(lanes.mine(state.params), epoch, np.resize(loss, spread.count))
            if np.any(best.epoch == epoch):
                checkpoints.save(out / "best" / name, epoch, best)
            # The record first: a checkpoint says that everything before it is on disk.
            log.keep(records)
            checkpoints.save(folder, epoch, state)
            spent = np.mean(record["forward_evaluations"]), np.mean(record["adjoint_evaluations"])
            least = min(record["test_loss"])
            solved = f"{np.mean(record['solved']):.0%} solved" if epoch else "not begun"
            bar.set_postfix_str(
                f"test loss {least:.5f}, {spent[0]:.0f} + {spent[1]:.0f} products, {solved}"
            )
    place = int(np.argmin(best.loss[: len(own)]))

    def of_lane(tree: Params) -> Params:
        return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[place]), tree)

    params, epoch = of_lane(best.params), int(best.epoch[place])
    return Run(model, of_lane(start), params, records, own[place], place, epoch)


class Judged(NamedTuple):
    """What a model makes of pictures."""

    f: Array
    u: Array
    numbers: dict[str, Any]
    """SSIM is None of pictures below its window."""


def _judge(config: Faces, name: str, model: Model) -> Callable[[Params, Array], Judged]:
    """(params, pictures [batch, pixels]) -> what is measured and reconstructed of them, with the
    same noise for every model."""
    solver, key = setting(config, name).evaluation(), learning.keys(config.seed)[2]

    @jax.jit
    def solved(params: Params, truth: Array) -> tuple[Array, Array, Any]:
        f = models.measure(model.K, truth, params["noise"], key)
        return f, *model.reconstruct(solver, params, f)

    def judged(params: Params, truth: Array) -> Judged:
        f, u, info = solved(params, truth)
        numbers = {
            "loss": losses.mean_squared_error(u, truth),
            "psnr_db": jnp.mean(losses.psnr(u, truth, data_range=2.0)),
            "psnr_noisy_db": jnp.mean(losses.psnr(f, truth, data_range=2.0)),
            "residual": info.residual,
            "evaluations": info.evaluations,
        }
        similar = {
            k: float(jnp.mean(losses.ssim(x, truth, model.shape, data_range=2.0)))
            if losses.has_ssim(model.shape)
            else None
            for k, x in (("ssim", u), ("ssim_noisy", f))
        }
        return Judged(f, u, {k: float(v) for k, v in numbers.items()} | similar)

    return judged


def _show(
    config: Faces, options: dict[str, Any], runs: dict[str, Run], images: Images, out: Path
) -> dict[str, Any]:
    """Kernels, figures and table; returns the headline numbers."""
    caption = (
        f"{config.task}, {config.kernels[0]} kernels {config.kernels[1]}x{config.kernels[1]}, "
        f"noise {options['noise']:g}, {config.epochs} epochs, setting {config.setting} in "
        f"{config.precision}; {images.source}"
    )
    train, test = jnp.asarray(images.train), jnp.asarray(images.test)
    numbers: dict[str, Any] = {"psnr_noisy_db": None, "ssim_noisy": None}
    rows: dict[str, np.ndarray] = {"true": images.test[:5]}
    table = ["| | epoch | train loss | test loss | PSNR | SSIM | solved | seconds |"]
    table.append("| --- " * 8 + "|")
    K, key = next(iter(runs.values())).model.K, learning.keys(config.seed)[2]
    known = baselines.baselines(K, train, test, options["noise"], key)
    numbers |= baselines.numbers(known)
    for name, run in runs.items():
        judged = _judge(config, name, run.model)
        learned, before = judged(run.params, test), judged(run.start, test)
        seen = judged(run.params, train)
        found = learned.numbers
        noisy = {k: found.pop(k) for k in ("psnr_noisy_db", "ssim_noisy")}
        similar, noisily = (
            "" if x is None else f"{x:.3f}" for x in (found["ssim"], noisy["ssim_noisy"])
        )
        if numbers["psnr_noisy_db"] is None:
            numbers |= noisy
            rows[f"measured\n{noisy['psnr_noisy_db']:.2f} dB"] = np.asarray(learned.f[:5])
            table += [
                f"| measured | | | {known['measurement']:.5f} | {noisy['psnr_noisy_db']:.2f} "
                f"| {noisily} | | |",
                f"| K^T f | | | {known['adjoint']:.5f} | | | | |",
                f"| mean training image | | | {known['mean_image']:.5f} | | | | |",
            ]
        rows[f"{name}, start\n{before.numbers['psnr_db']:.2f} dB"] = np.asarray(before.u[:5])
        rows[f"{name}\n{found['psnr_db']:.2f} dB"] = np.asarray(learned.u[:5])
        solved = float(np.mean([r["solved"][run.best] for r in run.records[1:]] or 1))
        seconds = float(sum(np.sum(r["seconds"][:1]) for r in run.records))
        numbers |= {
            f"psnr_{name}_db": found["psnr_db"],
            f"ssim_{name}": found["ssim"],
            f"loss_{name}": found["loss"],
            f"train_loss_{name}": seen.numbers["loss"],
            f"psnr_start_{name}_db": before.numbers["psnr_db"],
            f"residual_{name}": found["residual"],
            f"evaluations_{name}": found["evaluations"],
            f"solved_{name}": solved,
            f"lane_{name}": run.lane,
            f"epoch_{name}": run.epoch,
            f"diverged_{name}": int(np.sum(run.records[-1]["diverged"])),
            f"seconds_{name}": seconds,
        }
        table.append(
            f"| {name} | {run.epoch} | {seen.numbers['loss']:.5f} | {found['loss']:.5f} "
            f"| {found['psnr_db']:.2f} | {similar} | {solved:.0%} | {seconds:.0f} |"
        )
        _keep_kernels(out, name, run, caption)
        about = {"command": "faces", "epoch": run.epoch, "lane": run.lane}
        learned = Learned(recipe_of(config, name), images.shape, images.range, run.params, about)
        recipes.save(out / recipes.file(name), learned)
    curves = {
        name: {s: [r[f"{s}_loss"][run.best] for r in run.records] for s in ("train", "test")}
        for name, run in runs.items()
    }
    epochs = [r["epoch"] for r in next(iter(runs.values())).records]
    table += [""] + [
        f"{name}: no step was taken, as no solve came within {config.guard:g} times its tolerance; "
        "start from other kernels, or take steps all the same with --guard None\n"
        for name in runs
        if config.epochs and not numbers[f"solved_{name}"] and config.guard
    ]
    for name in runs:
        if said := baselines.warning(numbers[f"loss_{name}"], known):
            table.append(f"{name}: {said}\n")
            print(f"warning: {name}: {said}", file=sys.stderr)
    text = "\n".join([f"# Faces: {caption}", "", *table])
    print(text, flush=True)
    folders.write(out / "summary.md", text)
    numbers |= {"task": config.task, "kernels": list(config.kernels), "out": str(out)}
    folders.write(out / "result.json", json.dumps(common.plain(numbers), indent=1))
    draw(out / "reconstructions.png", plots.reconstructions, rows, images.shape, caption)
    levels = baselines.levels(known)
    draw(out / "losses.png", plots.compared_losses, curves, epochs, caption, levels)
    return numbers


def _keep_kernels(out: Path, name: str, run: Run, caption: str) -> None:
    """The learned kernels as a file, and a figure of them before and after."""
    kernels = {k: np.asarray(run.params[k]) for k in ("A", "C") if k in run.params}
    archives.write_arrays(out / f"kernels-{name}.npz", kernels)
    stages = {}
    for letter in kernels:
        label = "A" if letter == "A" else "C, of C^T"
        stages[f"{label}, start"] = np.asarray(run.start[letter])
        stages[f"{label}, learned"] = kernels[letter]
    draw(out / f"kernels-{name}.png", plots.kernel_figure, stages, f"{name}: {caption}")


if __name__ == "__main__":
    command.run(Faces, main)
