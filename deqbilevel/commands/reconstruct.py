"""Reconstruct the pictures of a folder, each at its own size, by what was learned.

deqbilevel reconstruct PICTURES
deqbilevel reconstruct PICTURES --by runs/learn-0123abcd

Without --by it denoises with filters that ship. Repeating the command makes what is missing.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float
from tqdm import tqdm

from deqbilevel import (
    baselines,
    checks,
    crossover,
    data,
    losses,
    models,
    pictures,
    recipes,
    solvers,
)
from deqbilevel.commands import adapting, command, common, folders, options
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.models import Model
from deqbilevel.recipes import Learned

Picture = Float[np.ndarray, "height width"]

Programs = Callable[[tuple[int, int]], tuple[Model, Any, Any]]
"""A shape -> the model of such pictures, (params, f) -> their reconstruction, compiled once, and
(params, f) -> params for f."""

NUMBERS = ("psnr_measured_db", "psnr_db", "ssim", "residual", "clipped")

ROW = {"picture": ""} | dict.fromkeys(NUMBERS, ANY)
"""A record of a picture; null where there is no truth."""


@dataclass(frozen=True)
class Reconstruct:
    """Reconstruct pictures by what a run learned, or by filters that ship."""

    pictures: Annotated[tyro.conf.Positional[Path], options.folder("pictures")]
    """Folder whose pictures are reconstructed, each at its own size."""
    by: Path = Path("natural")
    """Folder of a run that has ended, or what ships for denoising: natural, ridge,
    weakly-convex-ridge, or spline-ridge, which is for every --noise up to 30/255."""
    simulate: bool = False
    """The pictures are true ones: measure them first, and judge what comes out."""
    noise: Annotated[float | None, options.noise, options.default("that of learning")] = None
    """Standard deviation in the measurements, on the range of what was learned."""
    adapt: tuple[str, ...] = ()
    """Tune weights to each picture without its truth first: by losses of the noise as of learn
    --loss, such as monte_carlo_sure."""
    adapted: Annotated[
        tuple[str, ...], options.only("with --adapt", lambda config: bool(config.adapt))
    ] = ("beta",)
    """Entries of params that are: beta, beta_0, a field."""
    discrepancy: Annotated[
        float | None, options.number(above=0, most=100), options.default("no")
    ] = None
    """Stop early, from zero, when the squared residual is so many times that of the noise."""
    tolerance: Annotated[float, options.number(0, 1)] = 1e-5
    """Relative residual at which a picture is done."""
    evaluations: Annotated[int, options.whole(1, 100_000)] = 500
    """Of the map, for a picture, at most."""
    seed: Annotated[int, options.seed] = 0
    """Of the noise of pictures that are measured first."""
    out: Annotated[Path | None, options.output, options.runs] = None
    """Folder of the results."""
    fresh: bool = False
    """Start anew instead of going on."""


def kind(arguments: Sequence[str]) -> type:
    """The options of the command."""
    return Reconstruct


@command.checked
def main(config: Any) -> dict[str, Any]:
    """Reconstruct each picture at its own size, and write it as a PNG of 16 bits; returns the mean
    numbers.

    The pictures are measurements, or with --simulate true ones, which are measured first as they
    were for learning. Each is on disk before the next; what is there is not made again.
    """
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            folder, learned = config.pictures, _learned(config)
            if config.adapt:
                adaptation(config, learned, learned.model())
            if config.discrepancy is not None and not learned.params.get("noise", 0.0) > 0:
                raise ValueError("--discrepancy: needs noise, and none is known; give --noise")
            names = pictures.names(pictures.pictures(folder), folder)
            out = stack.enter_context(_claimed(config, learned, names))
        log = Log.of(out / "pictures.jsonl", ROW)
        rows = {row["picture"]: row for row in log.read()}
        log.keep(list(rows.values()))
        programs = _programs(config, learned)
        found = data.pictures(folder, learned.range)
        for i, (name, picture) in enumerate(tqdm(found, total=len(names), unit="picture")):
            if name not in rows:
                key = jax.random.fold_in(jax.random.key(config.seed), i)
                rows[name] = _reconstruct(config, learned, programs, name, picture, key, out)
                log.append(rows[name])
        numbers = {"pictures": len(rows)} | {k: _mean(rows.values(), k) for k in NUMBERS}
        folders.write(out / "result.json", json.dumps(numbers, indent=1))
        return numbers | {"out": str(out)}


def _learned(config: Any) -> Learned:
    """What was learned, for measurements of another noise if --noise says so."""
    learned = recipes.load(config.by)
    return learned if config.noise is None else crossover.at_noise(learned, config.noise)


def _claimed(config: Any, learned: Learned, names: Sequence[str]) -> Any:
    """The folder, for these pictures and what was learned."""
    chosen = common.options_of(config) | {"by": str(config.by), "pictures": str(config.pictures)}
    kinds = ("reconstructed", "measured") if config.simulate else ("reconstructed",)
    files = [f"{kind}/{name}.png" for kind in kinds for name in names]
    return folders.claim(
        config.out,
        f"reconstruct-{common.digest(chosen)}",
        chosen,
        files=[*files, "pictures.jsonl", "result.json"],
        inputs=folders.given({"learned": learned.params})
        | {"pictures": common.digest({"": names})},
        sources={"PICTURES": config.pictures, "--by": config.by},
        fresh=config.fresh,
    )


def _programs(config: Any, learned: Learned) -> Programs:
    limits = {"tolerance": config.tolerance, "max_evaluations": config.evaluations}
    model = learned.model()
    descent, other = solvers.DESCENTS[model.descent], partial(solvers.anderson, relative=True)
    solver = descent if model.tied else other

    @functools.cache
    def of_shape(shape: tuple[int, int]) -> tuple[Model, Any, Any]:
        model = learned.model(shape)
        own = adaptation(config, learned, model) if config.adapt else lambda params, f: params
        if config.discrepancy is None:
            return model, jax.jit(partial(model.reconstruct, solver(**limits))), own
        stopped = partial(models.until_noise, model, solver(**limits), times=config.discrepancy)
        return model, jax.jit(stopped), own

    return of_shape


def adaptation(config: Any, learned: Learned, model: Model) -> Any:
    """What --adapt asks for. Raises: ValueError for what cannot be adapted."""
    checks.entries("--adapted", learned.params, config.adapted)
    peak = learned.range[1] - learned.range[0]
    loss = adapting.loss_of(config.adapt, model.shape, peak)
    return adapting.adaptation(model, loss, config.adapted)


def _reconstruct(
    config: Any,
    learned: Learned,
    programs: Programs,
    name: str,
    picture: Picture,
    key: jax.Array,
    out: Path,
) -> dict[str, Any]:
    """Write what becomes of a picture, and return its row."""
    shape = (picture.shape[0], picture.shape[1])
    model, solve, adapt = programs(shape)
    truth = jnp.asarray(picture.reshape(1, -1), jnp.float32)
    f = model.measure(learned.params, truth, key) if config.simulate else truth
    u, info = solve(adapt(learned.params, f), f)
    image, path = np.asarray(u).reshape(shape), out / "reconstructed" / f"{name}.png"
    row = {"picture": name, "residual": float(info.residual)}
    row |= {"clipped": pictures.write(path, image, learned.range)}
    unknown = dict.fromkeys(("psnr_measured_db", "psnr_db", "ssim"))
    if not config.simulate:
        return common.plain(row | unknown)
    seen = f if baselines.pictured(f, truth) else model.K.adjoint(f)
    shown = np.asarray(seen).reshape(shape)
    pictures.write(out / "measured" / f"{name}.png", shown, learned.range)
    peak = learned.range[1] - learned.range[0]
    scores = losses.scores(u, truth, shape, peak) | {
        "psnr_measured_db": losses.psnr(seen, truth, data_range=peak)
    }
    return common.plain(row | {k: float(jnp.squeeze(scores[k])) for k in unknown})


def _mean(rows: Any, name: str) -> float | None:
    values = [row[name] for row in rows]
    return None if None in values or not values else float(np.mean(values))
