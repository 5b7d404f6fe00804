"""The learned sampling beside fixed masks of as many samples: numbers, table and pictures."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import learning, losses, operators, plots
from deqbilevel.commands import common, folders
from deqbilevel.commands.drawing import draw
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.data import Images
from deqbilevel.disk import archives
from deqbilevel.types import Params
from experiments.sampling import masks
from experiments.sampling.training import START_EVALUATIONS, Found, Problem, weights_of

LEARNED = "learned"
SCORES = ("psnr_db", "ssim", "zero_filled_psnr_db", "residual")
COLUMNS = (*SCORES[:3], "tuned_psnr_db", "tuned_ssim")
TUNING_RATE = 0.1
"""Adam's, of the weights for one mask."""

ROW = {"mask": "", "part": 0.0, "samples": 0} | dict.fromkeys((*SCORES, *COLUMNS), ANY)
"""A record: means over the test images; "tuned" with weights learned for the mask, and else at
those learned with the sampling."""


def masks_of(config: Any, grid: masks.Grid, found: Found, part: float) -> dict[str, Any]:
    """Masks of a part of the frequencies by name, the learned one first."""
    own = {LEARNED: grid.thresholded(found.s, part)}
    named = {n: make for n, make in masks.FIXED.items() if not (grid.lines and n == "radial")}
    return own | {name: make(grid, part, config.seed) for name, make in named.items()}


def show(config: Any, problem: Problem, found: Found, images: Images, out: Path) -> dict[str, Any]:
    """Judge what is not judged yet, draw it, and return the headline numbers."""
    test, key = jnp.asarray(images.test), learning.keys(config.seed)[2]
    parts = sorted({config.part, *config.curve})
    chosen = {part: masks_of(config, problem.grid, found, part) for part in parts}
    params = without_operator(found.params)
    judge = partial(jax.jit(partial(_judged, problem)), truth=test, key=key)
    tune = jax.jit(partial(_tuned, config, problem))
    log = Log.of(out / "rows.jsonl", ROW)
    rows = log.read()
    done = {(row["mask"], row["part"]) for row in rows}
    todo = [(name, part) for part in parts for name in chosen[part] if (name, part) not in done]
    pictures: dict[str, Array] = {}
    for name, part in tqdm(todo, unit="mask"):
        mask = jnp.asarray(chosen[part][name], float).ravel()
        _, scores = judge(params, mask=mask)
        row = {"mask": name, "part": part, "samples": int(chosen[part][name].sum())} | scores
        row |= {"tuned_psnr_db": jnp.nan, "tuned_ssim": jnp.nan}
        if part == config.part and config.tuning:
            weights = tune(params, mask, key)
            stay = all(jnp.array_equal(weights[k], params[k]) for k in weights_of(config))
            if stay:
                print(
                    f"warning: {name}: no step of --tuning had an adjoint within --tuning-products "
                    f"{config.tuning_products}; its weights stayed",
                    file=sys.stderr,
                )
            _, tuned = judge(weights, mask=mask)
            row |= {f"tuned_{score}": tuned[score] for score in ("psnr_db", "ssim")}
        rows.append(common.plain(jax.tree.map(_number, row)))
        log.append(rows[-1])
    for name, mask in chosen[config.part].items():
        pictures[name], _ = judge(params, mask=jnp.asarray(mask, float).ravel())
    _draw(config, found, rows, images, chosen[config.part], pictures, out)
    named = {name: {k: row[k] for k in COLUMNS} for name, row in _at(rows, config.part).items()}
    numbers = {
        **named,
        "part": config.part,
        "mean_of_s": float(found.s.mean()),
        "strength": float((found.records or [found.params])[-1]["strength"]),
        "between_0_and_1": float(np.mean((found.s > 0.01) & (found.s < 0.99))),
        "seconds": sum(record["seconds"] for record in found.records),
    }
    arrays = {"s": found.s} | {
        name.replace(" ", "_"): np.asarray(mask) for name, mask in chosen[config.part].items()
    }
    archives.write_arrays(out / "sampling.npz", arrays)
    table = _table(config, rows)
    print(f"\n{table}", flush=True)
    folders.write(out / "summary.md", table)
    folders.write(out / "result.json", json.dumps(common.plain(numbers), indent=1))
    return numbers | {"out": str(out)}


def _number(x: Any) -> Any:
    return x.item() if hasattr(x, "item") else x


def _judged(
    problem: Problem, params: Params, *, mask: Array, truth: Array, key: Array
) -> tuple[Array, dict[str, Array]]:
    """Reconstructions of true images from a mask's samples of them, and their mean scores."""
    K = operators.Fourier(mask, problem.model.shape)
    model = problem.model._replace(K=K, start=K.adjoint)
    f = model.measure(params, truth, key)
    u, info = model.reconstruct(problem.learner.setting.evaluation(), params | {"K": K}, f)
    scores = losses.mean_scores(u, truth, model.shape, 1.0)
    zero_filled = jnp.mean(losses.psnr(K.adjoint(f), truth, data_range=1.0))
    further = {"zero_filled_psnr_db": zero_filled, "residual": info.residual}
    return u, {name: scores[name] for name in ("psnr_db", "ssim")} | further


def _tuned(config: Any, problem: Problem, params: Params, mask: Array, key: Array) -> Params:
    """The params with weights learned for a mask, from measurements that stay."""
    K = operators.Fourier(mask, problem.model.shape)
    model = problem.model._replace(K=K, start=K.adjoint)
    learner = problem.learner._replace(
        models=(model,),
        optimiser=learning.fixed(optax.adam(TUNING_RATE)),
        learned=weights_of(config),
        loss=losses.mean_squared_error,
        sampling=False,
    )
    params = params | {"K": K}
    f = model.measure(params, problem.truth, jax.random.fold_in(key, 1))
    state = learning.start(learner, params, f, evaluations=START_EVALUATIONS)
    state = state._replace(budget=state.budget._replace(adjoint=jnp.int32(config.tuning_products)))
    state, _ = learning.steps(learner, state, problem.truth, config.tuning, f=f)
    return without_operator(state.params)


def without_operator(params: Params) -> Params:
    """The weights and scalars alone."""
    return {name: x for name, x in params.items() if name != "K"}


def _at(rows: list[dict[str, Any]], part: float) -> dict[str, dict[str, Any]]:
    return {row["mask"]: row for row in rows if row["part"] == part}


def _table(config: Any, rows: list[dict[str, Any]]) -> str:
    head = ("mask", "samples", *(name.replace("_", " ") for name in COLUMNS))
    lines = [f"# Sampling {config.part:.0%} by {config.by}", ""]
    lines += [common.line(head), common.line(["---"] * len(head))]
    for name, row in _at(rows, config.part).items():
        cells = ["-" if row[k] is None else f"{row[k]:.4g}" for k in COLUMNS]
        lines.append(common.line([name, str(row["samples"]), *cells]))
    return "\n".join([*lines, ""])


def _draw(
    config: Any,
    found: Found,
    rows: list[dict[str, Any]],
    images: Images,
    chosen: dict[str, Any],
    pictures: dict[str, Array],
    out: Path,
) -> None:
    about = f"{config.by}, noise {config.noise:g} of values in 0..1; {images.source}"
    s = masks.Sampled(jnp.asarray(found.s), images.shape, config.paired).s
    shown = {"learned s": s} | chosen
    centred = {name: np.fft.fftshift(np.asarray(x, float)) for name, x in shown.items()}
    draw(out / "masks.png", plots.mask_figure, centred, f"{config.part:.0%} of all {about}")
    truth = np.asarray(images.test)
    stages = {"true u": truth} | {name: np.asarray(u) for name, u in pictures.items()}
    caption = f"At the learned weights, {config.part:.0%} of all {about}"
    path, grey = out / "reconstructions.png", images.range
    draw(path, plots.reconstructions, stages, images.shape, caption, grey=grey)
    parts = sorted({row["part"] for row in rows})
    if len(parts) > 1:
        panels = {
            title: {
                name: np.array([_at(rows, part)[name][score] for part in parts], float)
                for name in chosen
            }
            for title, score in (("mean PSNR / dB", "psnr_db"), ("mean SSIM", "ssim"))
        }
        caption = f"All at the weights and by the s learned for {config.part:.0%}; {about}"
        axes = ("part that is sampled", "")
        draw(out / "curve.png", plots.function_figure, np.array(parts), panels, axes, caption)
    course = {
        "loss": np.array([x for r in found.records for x in r["loss"]], float)[:, None],
        "mean of s": _each(found.records, "part"),
        "lambda": _each(found.records, "strength"),
    }
    if found.records:
        draw(out / "course.png", plots.course_figure, course, caption)


def _each(records: list[dict[str, Any]], name: str) -> np.ndarray:
    """Of each step what is recorded of its block."""
    return np.array([r[name] for r in records for _ in r["loss"]], float)[:, None]
