"""What learned filters are worth: pictures are reconstructed, judged and drawn, and reported."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel import conditions, losses, operators, plots, pretrained, recipes
from deqbilevel.models import Model
from deqbilevel.pretrained import Learned
from deqbilevel.regularizers import convolutional
from deqbilevel.types import Solver
from experiments import common, folders
from experiments.drawing import draw
from experiments.filter_tasks import Picture, Task
from experiments.records import Log
from experiments.schema import ANY

Reconstruct = Callable[[int, str], Array]
"""(lane, name of a picture) -> its reconstruction with the filters of that lane."""


NUMBERS = ("snr_noisy_db", "snr_db", "psnr_noisy_db", "psnr_db", "ssim", "residual")

PICTURE = {"iteration": 0, "lane": 0, "picture": ""} | dict.fromkeys(NUMBERS, ANY)
"""A record of what the filters of a lane make of a picture."""


class Outcome(NamedTuple):
    """What learning came to. A lane is a seed; `before` and `after` have a leading axis of them."""

    options: dict[str, Any]
    task: Task
    truth: list[Array]
    """[images, pixels] of each shape"""
    measured: list[dict[str, Picture]]
    """The noisy pictures of each lane."""
    before: dict[str, Any]
    """Params."""
    after: dict[str, Any]
    records: list[dict[str, Any]]
    """Of each block of upper-level iterations."""

    @property
    def iterations(self) -> int:
        """Of the upper level."""
        return self.records[-1]["iteration"] if self.records else 0


def report(
    outcome: Outcome,
    model_of: Callable[[tuple[int, int]], Model],
    solver: Solver,
    out: Path,
) -> dict[str, Any]:
    """Reconstruct the pictures with each lane's filters, draw one, return the numbers."""
    solve = _reconstruction(outcome, model_of, solver)
    rows = _judged(outcome, solve, out / "pictures.jsonl")
    found = _of_lanes(outcome, rows, "snr_db")
    best = int(np.argmax(found))
    start, params = jax.tree.map(lambda x: x[best], (outcome.before, outcome.after))
    numbers = _numbers(outcome, rows)
    if numbers["gain_db"] <= 0:
        print(
            f"warning: the reconstructions have {numbers['snr_db']:.2f} dB, no more than the "
            f"{numbers['snr_noisy_db']:.2f} dB of what was measured",
            file=sys.stderr,
        )
    numbers |= {"out": str(out)}
    # Of folders only the names: the file may travel.
    options = outcome.options
    names = {k: options[k] and Path(options[k]).name for k in ("image", "test_images")}
    result = {k: v for k, v in numbers.items() if k != "out"}
    about = {"options": options | names, "source": outcome.task.source, "result": result}
    pretrained.save(out / "filters.npz", Learned(params, options["boundary"], about))
    recipes.save(out / recipes.file(), _learned(outcome, params, about))
    folders.write(out / "conditions.txt", _conditions(outcome, start, params))
    _draw(outcome, lambda lane, name: solve(lane, name)[0], best, out)
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    return numbers


def _learned(outcome: Outcome, params: dict[str, Any], about: dict[str, Any]) -> recipes.Learned:
    """The filters as they are, whatever they are combinations of, by a recipe."""
    options, c = outcome.options, convolutional.filters(params)
    own = {name: options[name] for name in ("potential", "eps", "boundary")}
    recipe = recipes.Recipe(regularizer_options=own | {"filters": tuple(c.shape)})
    plain = {"filters": c} | {name: params[name] for name in ("beta", "beta_0", "phi")}
    plain |= {"noise": jnp.asarray(options["noise"], c.dtype)}
    shape = outcome.task.held_out.shape
    return recipes.Learned(recipe, shape, (0.0, 1.0), plain, about)


# ---- judging


def _reconstruction(
    outcome: Outcome, model_of: Callable[[tuple[int, int]], Model], solver: Solver
) -> Callable[[int, str], tuple[Array, Array]]:
    """(lane, name of a picture) -> the reconstruction and its residual, each made once."""
    programs: dict[tuple[int, ...], Any] = {}

    @functools.cache
    def solve(lane: int, name: str) -> tuple[Array, Array]:
        measured = outcome.measured[lane][name]
        if measured.shape not in programs:
            model = model_of(measured.shape)
            programs[measured.shape] = jax.jit(lambda p, y: model.reconstruct(solver, p, y))
        params = jax.tree.map(lambda x: x[lane], outcome.after)
        y = jnp.asarray(measured.reshape(1, -1), jnp.float32)
        u, info = programs[measured.shape](params, y)
        return u, info.residual

    return solve


def _judged(
    outcome: Outcome, solve: Callable[[int, str], tuple[Array, Array]], path: Path
) -> list[dict[str, Any]]:
    """The numbers of each lane's pictures, each on disk before the next."""
    options, task, iterations = outcome.options, outcome.task, outcome.iterations

    def judge(lane: int, name: str) -> dict[str, Any]:
        true = task.pictures[name]
        t, y = (jnp.asarray(x.reshape(1, -1)) for x in (true, outcome.measured[lane][name]))
        u, residual = solve(lane, name)
        # The literature on natural images compares pictures as they are stored.
        shown = losses.quantised(u) if options["experiment"] == "natural" else u
        values = {
            "snr_noisy_db": losses.snr(y, t),
            "snr_db": losses.snr(u, t),
            "psnr_noisy_db": losses.psnr(y, t, data_range=1.0),
            "psnr_db": losses.psnr(shown, t, data_range=1.0),
            "ssim": losses.ssim_or_nan(shown, t, true.shape, data_range=1.0),
            "residual": residual,
        }
        row = {"iteration": iterations, "lane": lane, "picture": name}
        return common.plain(row | {k: float(jnp.squeeze(v)) for k, v in values.items()})

    log = Log.of(path, PICTURE)
    todo = [(lane, name) for lane in range(options["seeds"]) for name in task.pictures]
    known = {(r["lane"], r["picture"]): r for r in log.read() if r["iteration"] == iterations}
    rows = [known[key] for key in todo if key in known]
    log.keep(rows)
    left = [key for key in todo if key not in known]
    for lane, name in tqdm(left, unit="picture", disable=len(todo) < 20):
        known[lane, name] = judge(lane, name)
        log.append(known[lane, name])
    return [known[key] for key in todo]


def _of_lanes(outcome: Outcome, rows: list[dict[str, Any]], name: str) -> list[float]:
    """The mean over the pictures of each lane."""
    per_lane = np.reshape([row[name] for row in rows], (outcome.options["seeds"], -1))
    return per_lane.mean(axis=1).tolist()


def _numbers(outcome: Outcome, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The headline numbers."""

    def mean(name: str) -> float | None:
        """None where a picture has none."""
        values = [row[name] for row in rows]
        return None if None in values else float(np.mean(values))

    noisy, found = (_of_lanes(outcome, rows, name) for name in ("snr_noisy_db", "snr_db"))
    gains = np.subtract(found, noisy)
    records, iterations = outcome.records, outcome.iterations
    seconds = sum(r["seconds"] for r in records)
    numbers = {
        "snr_noisy_db": mean("snr_noisy_db"),
        "snr_db": mean("snr_db"),
        "gain_db": float(np.mean(gains)),
        "gain_db_least": float(np.min(gains)),
        "psnr_noisy_db": mean("psnr_noisy_db"),
        "psnr_db": mean("psnr_db"),
        "ssim": mean("ssim"),
        "pictures": len(outcome.task.pictures),
        "snr_db_of_lanes": [round(x, 2) for x in found],
        "final_residual": float(np.max([row["residual"] for row in rows])),
        "upper_iterations": iterations,
        "step_ms": 1e3 * seconds / max(iterations, 1),
        "images_per_second": sum(r["images"] for r in records) / max(seconds, 1e-9),
        "not_converged": int(np.sum(1 - _joined(records, "adjoint_converged"))),
        "lower_solves": int(np.sum(_joined(records, "lower_solves"))),
        "seconds": seconds,
    }
    if outcome.options["experiment"] == "vertical-bars":
        numbers |= {"psnr_noisy_db": None, "psnr_db": None, "ssim": None}
    return numbers


def _conditions(outcome: Outcome, before: dict[str, Any], after: dict[str, Any]) -> str:
    """What [CF] 5.3.1 asks for on each shape of training images, about the end of learning and as
    far as its start is."""
    truth, options = outcome.truth, outcome.options
    learned = ("filters", "beta") if options["learn"] == "filters-and-beta" else ("beta",)
    problems = [
        conditions.Problem(
            operators.Identity(), convolutional.bank_of(g.shape, options["boundary"]), learned
        )
        for g in outcome.task.groups
    ]
    pixels = float(min(x.min() for x in truth)), float(max(x.max() for x in truth))
    moved = {name: np.asarray(after[name] - before[name]) for name in ("filters", "beta")}
    far = float(np.linalg.norm(moved["filters"])), float(np.max(np.abs(moved["beta"])))
    reports = [
        conditions.report(problem, after, conditions.Region(pixels, *far, images=len(images)))
        for problem, images in zip(problems, truth, strict=True)
    ]
    return "\n\n".join(map(conditions.text, reports)) + "\n"


def _joined(records: list[dict[str, Any]], name: str) -> np.ndarray:
    """A quantity of every iteration: [iterations, lanes]."""
    return np.concatenate([np.asarray(r[name]).T for r in records]) if records else np.empty((0, 1))


# ---- drawing


def _draw(outcome: Outcome, reconstruct: Reconstruct, lane: int, out: Path) -> None:
    """The figures; pictures and filters are those of one lane."""
    options = outcome.options
    caption = (
        f"{options['experiment']} ({outcome.task.source}): {options['filters'][0]} filters "
        f"{options['filters'][1]}x{options['filters'][2]}, {options['potential']}, learned: "
        f"{options['learn']}, {outcome.iterations} upper-level iterations; "
    )
    _draw_filters(outcome, lane, caption, out)
    _draw_pictures(outcome, reconstruct, lane, caption, out)
    if outcome.records:
        names = {
            "loss": "upper-level loss",
            "gradient_norm": "hypergradient norm / sqrt(R)",
            "lower_gradient_norm": "lower gradient norm / sqrt(N)",
            "adjoint_evaluations": "Hessian products",
        }
        joined = {text: _joined(outcome.records, name) for name, text in names.items()}
        text = caption + "a line for each seed"
        draw(out / "course.png", plots.course_figure, joined, text)


def _draw_filters(outcome: Outcome, lane: int, caption: str, out: Path) -> None:
    def of_lane(params: dict[str, Any]) -> tuple[np.ndarray, Any]:
        own = jax.tree.map(lambda x: x[lane], params)
        return np.asarray(convolutional.filters(own)), np.asarray(convolutional.strengths(own))

    stages = {"before": of_lane(outcome.before), "after": of_lane(outcome.after)}
    text = caption + "ordered by effective strength e^(beta_0 + beta_k) ||c_k||, which is given"
    draw(out / "filters.png", plots.filter_figure, stages, text)


def _draw_pictures(
    outcome: Outcome, reconstruct: Reconstruct, lane: int, caption: str, out: Path
) -> None:
    """The first picture with its profile, and training images."""
    name, true = next(iter(outcome.task.pictures.items()))
    found = np.asarray(reconstruct(lane, name)).reshape(true.shape)
    measured = outcome.measured[lane][name]
    snr = [
        float(losses.snr(jnp.asarray(x.reshape(1, -1)), jnp.asarray(true.reshape(1, -1)))[0])
        for x in (measured, found)
    ]
    shown = {
        "true": true,
        f"measured\nSNR {snr[0]:.2f} dB": measured,
        f"reconstructed\nSNR {snr[1]:.2f} dB": found,
    }
    text = f"{caption}{name}, reconstructed to convergence"
    draw(out / "reconstruction.png", plots.profile_figure, shown, true.shape[0] // 2, text)
    first = outcome.task.groups[0]
    rows = {"training": first.truth[:8] * 2 - 1}
    text = caption + "training images"
    draw(out / "patches.png", plots.reconstructions, rows, first.shape, text)
