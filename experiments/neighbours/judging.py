"""A way on a task: learned on the training images, or tuned, and judged on the test pictures."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deqbilevel import data, learning, losses, models, unrolled
from deqbilevel.commands import running
from deqbilevel.data import Images
from deqbilevel.disk import archives
from deqbilevel.types import Params, Solver
from experiments.neighbours import memory, ways
from experiments.neighbours.ways import Run

SHOWN = 2
"""Test pictures whose reconstructions are kept."""

SIDE = 96
"""Of the part of them that is drawn, at most."""

Picture = Float[np.ndarray, "height width"]


def tested(config: Any, images: Images) -> list[Picture]:
    """The test pictures. Raises: ValueError for a middle that is larger than one."""
    if config.test is None:
        return [x.reshape(images.shape) for x in np.asarray(images.test[: config.pictures])]
    unit = (0.0, 1.0)
    size, count = config.middle, config.pictures
    return data.middles(config.test, size, count, option="--middle", value_range=unit)


def row(
    config: Any, run: Run, images: Images, pictures: list[Picture], out: Path
) -> dict[str, Any]:
    """Learn or tune, and the numbers of the test pictures."""
    begun = time.perf_counter()
    find = _searched if run.name in ways.SEARCHED else learned
    params, course, names, rate = find(config, run, images, out)
    seconds = course[-1][0] if course else time.perf_counter() - begun
    judged = _judged(config, run, params, ways.solver(run), pictures)
    counts = {
        str(n): _judged(config, run, *ways.changed(run, params, n), pictures)["psnr_db"]
        for n in config.test_iterations
    }
    other = ways.other(run)
    archives.write_arrays(out / file(run), {k: judged.pop(k) for k in ("u", "f", "truth")})
    return {
        **judged,
        "parameters": sum(np.size(x) for x in jax.tree.leaves([params[k] for k in names])),
        "learn_seconds": seconds,
        "learning_rate": rate,
        "course": [list(point) for point in course],
        "changed_db": counts,
        "other_solver_db": None
        if other is None
        else _judged(config, run, params, other, pictures)["psnr_db"],
        "time": float(jnp.exp(params["log_time"])) if run.name == "flow" else None,
        "step_of_bound": _step_of_bound(config, run, params, images),
        "step_bytes": None
        if run.name in ways.SEARCHED
        else memory.of_step(ways.model(config, run, images.shape), ways.setting(config, run),
                            params, config.batch_size),
    }  # fmt: skip


def file(run: Run) -> str:
    """Of the kept reconstructions."""
    return f"pictures-{run.task}-{run.way}.npz"


def learned(config: Any, run: Run, images: Images, out: Path) -> Any:
    """Params, (seconds, dB of held-out images) of each epoch, what was learned, and the rate that
    is the best on held-out images."""
    model, setting = ways.model(config, run, images.shape), ways.setting(config, run)
    train, test = jnp.asarray(images.train), jnp.asarray(images.test)
    _, key, noise_key = learning.keys(config.seed)
    params = ways.start(config, run, images)
    f = model.measure(params, train, noise_key)
    steps = learning.steps_per_epoch(len(train), config.batch_size)
    trainer = learning.trainer(
        model,
        setting,
        total_steps=max(1, config.epochs) * steps,
        batch_size=config.batch_size,
        evaluations=0 if run.task.startswith("denoising") else ways.MOST,
    )
    found = {}
    for rate in config.learning_rates:
        found[rate] = running.course(
            out,
            trainer,
            setting,
            trainer.init(params | {"learning_rate": jnp.float32(rate)}, f),
            (train, test),
            epochs=config.epochs,
            steps=steps,
            key=key,
            f=f,
            part=run.learned_at(rate),
        )
    best = least({rate: course.records[-1]["test_loss"] for rate, course in found.items()})
    state, records = found[best]
    spent = np.cumsum([record["seconds"] for record in records])
    course = [
        (float(s), float(-10 * np.log10(max(record["test_loss"], 1e-12))))
        for s, record in zip(spent, records, strict=True)
    ]
    return state.params, course, model.R.learned, best


def least(losses: dict[float, float]) -> float:
    """Where the loss is the least; one that is no number is never."""
    return min(losses, key=lambda x: losses[x] if np.isfinite(losses[x]) else np.inf)


def _searched(config: Any, run: Run, images: Images, out: Path) -> Any:
    """The strength whose training images are best, of filters that stay."""
    model = ways.model(config, run, images.shape)
    train = jnp.asarray(images.train)
    params = ways.start(config, run, images)
    f = model.measure(params, train, learning.keys(config.seed)[2])

    @jax.jit
    def loss(strength: Array) -> Array:
        own = params | {"beta_0": params["beta_0"] + strength}
        return losses.mean_squared_error(model.reconstruct(ways.solver(run), own, f)[0], train)

    def best_of(strengths: Iterable[float]) -> float:
        return least({strength: float(loss(jnp.float32(strength))) for strength in strengths})

    best = best_of(ways.STRENGTHS)
    best = best_of(best + ways.FINER * i for i in (-1, 0, 1))
    return params | {"beta_0": params["beta_0"] + best}, [], ("beta_0",), None


def _judged(
    config: Any, run: Run, params: Params, solver: Solver, pictures: list[Picture]
) -> dict[str, Any]:
    """Means over the pictures; the first are kept."""
    found: dict[str, list[Any]] = {"psnr_db": [], "ssim": [], "measured_db": [], "seconds": []}
    kept: dict[str, list[Any]] = {"u": [], "f": [], "truth": []}
    for shape in sorted({picture.shape for picture in pictures}):
        model = ways.model(config, run, shape)
        restore = jax.jit(lambda params, f, model=model: model.reconstruct(solver, params, f))
        compiled = None
        for i, picture in enumerate(pictures):
            if picture.shape != shape:
                continue
            truth = jnp.asarray(picture.reshape(1, -1), jnp.float32)
            key = jax.random.fold_in(jax.random.key(config.seed), i)
            f = models.measure(model.K, truth, run.noise, key)
            compiled = compiled or restore.lower(params, f).compile()
            begun = time.perf_counter()
            u, _ = jax.block_until_ready(compiled(params, f))
            found["seconds"].append(time.perf_counter() - begun)
            scores = losses.scores(u, truth, shape, 1.0)
            for name in ("psnr_db", "ssim"):
                found[name].append(float(scores[name][0]))
            found["measured_db"].append(float(losses.psnr(f, truth, data_range=1.0)[0]))
            if i < SHOWN:
                for name, x in (("u", u), ("f", f), ("truth", truth)):
                    part = [min(SIDE, n) for n in pictures[0].shape]
                    kept[name].append(np.asarray(x).reshape(shape)[: part[0], : part[1]])
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return {
        "psnr_db": means["psnr_db"],
        "ssim": means["ssim"],
        "measured_db": means["measured_db"],
        "restore_seconds": means["seconds"],
        **{name: np.stack(values) for name, values in kept.items()},
    }


def _step_of_bound(config: Any, run: Run, params: Params, images: Images) -> float | None:
    """h / (2/L) of a flow, below 1 where it is stable by the bound."""
    if run.name != "flow":
        return None
    K = ways.operator(run.task, images.shape, config.blur)
    own = models.assemble(K, unrolled.of_splines(images.shape, filters=config.filters))
    return unrolled.part_of_bound(own, params)
