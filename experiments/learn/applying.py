"""Pictures of a folder reconstructed by what a run learned: `experiments.learn --apply`."""

import contextlib
import functools
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from deqbilevel import data, losses, pictures, recipes, solvers
from deqbilevel.models import Model
from deqbilevel.recipes import Learned
from experiments import common, folders
from experiments.records import Log
from experiments.schema import ANY

Picture = Float[np.ndarray, "height width"]

Programs = Callable[[tuple[int, int]], tuple[Model, Any]]
"""A shape -> the model of such pictures, and (params, f) -> their reconstruction, compiled once."""

NUMBERS = ("psnr_measured_db", "psnr_db", "ssim", "residual", "clipped")

ROW = {"picture": ""} | dict.fromkeys(NUMBERS, ANY)
"""A record of a picture; null where there is no truth."""


def apply(config: Any) -> dict[str, Any]:
    """Reconstruct each picture at its own size, write it as a PNG of 16 bits, and judge it.

    The pictures are true ones, which are measured first as they were for learning, or with
    --measured the measurements. Each is on disk before the next; what is there is not made again.
    """
    with contextlib.ExitStack() as stack:
        with common.clear_errors():
            if not config.data.startswith("images:"):
                raise ValueError(f"--data {config.data}: --apply reconstructs images:DIR")
            folder = folders.source(config.data)
            assert folder is not None
            learned = recipes.load(config.apply)
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


def _claimed(config: Any, learned: Learned, names: Sequence[str]) -> Any:
    """The folder, for these pictures by this run."""
    chosen = {"apply": str(config.apply), "data": config.data}
    chosen |= {name: getattr(config, name) for name in ("measured", "seed", "final_tolerance")}
    chosen |= {"final_evaluations": config.final_evaluations}
    kinds = ("reconstructed",) if config.measured else ("reconstructed", "measured")
    files = [f"{kind}/{name}.png" for kind in kinds for name in names]
    return folders.claim(
        config.out,
        f"applied-{common.digest(chosen)}",
        chosen,
        files=[*files, "pictures.jsonl", "result.json"],
        inputs=folders.given({"learned": learned.params})
        | {"pictures": common.digest({"": names})},
        sources={"--data": folders.source(config.data), "--apply": config.apply},
        fresh=config.fresh,
    )


def _programs(config: Any, learned: Learned) -> Programs:
    limits = {"tolerance": config.final_tolerance, "max_evaluations": config.final_evaluations}
    tied = learned.model().tied
    solver = solvers.optimized_gradient if tied else partial(solvers.anderson, relative=True)

    @functools.cache
    def of_shape(shape: tuple[int, int]) -> tuple[Model, Any]:
        model = learned.model(shape)
        return model, jax.jit(partial(model.reconstruct, solver(**limits)))

    return of_shape


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
    (model, solve), truth = programs(shape), jnp.asarray(picture.reshape(1, -1), jnp.float32)
    f = truth if config.measured else model.measure(learned.params, truth, key)
    u, info = solve(learned.params, f)
    image, path = np.asarray(u).reshape(shape), out / "reconstructed" / f"{name}.png"
    row = {"picture": name, "residual": float(info.residual)}
    row |= {"clipped": pictures.write(path, image, learned.range)}
    unknown = dict.fromkeys(("psnr_measured_db", "psnr_db", "ssim"))
    if config.measured:
        return common.plain(row | unknown)
    seen = f if f.shape == truth.shape else model.K.adjoint(f)
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
