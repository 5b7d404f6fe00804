"""What learned filters are worth: pictures are reconstructed, judged, drawn and reported."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from deqbilevel import conditions, losses, pretrained, recipes
from deqbilevel.commands import common, folders
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.pretrained import Learned
from deqbilevel.regularizers import convolutional
from experiments.filters import drawing
from experiments.filters.outcome import Outcome, Reconstruct, reconstruction
from experiments.filters.tasks import UNIT

FILES = ("pictures.jsonl", "filters.npz", "conditions.txt", recipes.file(), "result.json")
"""What is written beside figures, see `folders`."""

NUMBERS = ("snr_noisy_db", "snr_db", "psnr_noisy_db", "psnr_db", "ssim", "residual")

PICTURE = {"iteration": 0, "lane": 0, "picture": ""} | dict.fromkeys(NUMBERS, ANY)
"""A record of what the filters of a lane make of a picture."""


def report(outcome: Outcome, out: Path) -> dict[str, Any]:
    """Reconstruct the pictures with each lane's filters, draw one, return the numbers."""
    solve = reconstruction(outcome)
    rows = _judged(outcome, solve, out / "pictures.jsonl")
    best = int(np.argmax(_of_lanes(outcome, rows, "snr_db")))
    start, params = jax.tree.map(lambda x: x[best], (outcome.lanes.params, outcome.after))
    result = _numbers(outcome, rows)
    if result["gain_db"] <= 0:
        print(
            f"warning: the reconstructions have {result['snr_db']:.2f} dB, no more than the "
            f"{result['snr_noisy_db']:.2f} dB of what was measured",
            file=sys.stderr,
        )
    # Of folders only the names: the file may travel.
    options = outcome.options
    names = {k: options[k] and Path(options[k]).name for k in ("image", "test_images")}
    about = {"options": options | names, "source": outcome.task.source, "result": result}
    pretrained.save(out / "filters.npz", Learned(params, options["boundary"], about))
    recipes.save(out / recipes.file(), _learned(outcome, params, about))
    folders.write(out / "conditions.txt", _conditions(outcome, start, params))
    drawing.figures(outcome, solve, best, out)
    numbers = result | {"out": str(out)}
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    return numbers


def _learned(outcome: Outcome, params: dict[str, Any], about: dict[str, Any]) -> recipes.Learned:
    """The filters as they are, whatever they are combinations of, by a recipe."""
    options, c = outcome.options, convolutional.filters(params)
    own = {name: options[name] for name in ("potential", "eps", "boundary")}
    recipe = recipes.Recipe(regularizer_options=own | {"filters": tuple(c.shape)})
    plain = {"filters": c} | {name: params[name] for name in ("beta", "beta_0", "phi")}
    plain |= {"noise": jnp.asarray(options["noise"], c.dtype)}
    return recipes.Learned(recipe, outcome.task.held_out.shape, UNIT, plain, about)


def _judged(outcome: Outcome, solve: Reconstruct, path: Path) -> list[dict[str, Any]]:
    """The numbers of each lane's pictures, each on disk before the next."""
    options, task, iterations = outcome.options, outcome.task, outcome.iterations

    def judge(lane: int, name: str) -> dict[str, Any]:
        true = task.pictures[name]
        t, y = (jnp.asarray(x.reshape(1, -1)) for x in (true, outcome.lanes.pictures[lane][name]))
        u, residual = solve(lane, name)
        # The literature on natural images compares pictures as they are stored.
        shown = losses.quantised(u) if options["experiment"] == "natural" else u
        values = losses.scores(shown, t, true.shape, 1.0) | {
            "snr_noisy_db": losses.snr(y, t),
            "snr_db": losses.snr(u, t),
            "psnr_noisy_db": losses.psnr(y, t, data_range=1.0),
            "residual": residual,
        }
        row = {"iteration": iterations, "lane": lane, "picture": name}
        return common.plain(row | {k: float(jnp.squeeze(v)) for k, v in values.items()})

    log = Log.of(path, PICTURE)
    todo = [(lane, name) for lane in range(options["seeds"]) for name in task.pictures]
    known = {(r["lane"], r["picture"]): r for r in log.read() if r["iteration"] == iterations}
    log.keep([known[key] for key in todo if key in known])
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
    bars = outcome.options["experiment"] == "vertical-bars"

    def mean(name: str) -> float | None:
        """None where a picture has none, as bars with their values below 0 have but an SNR."""
        values = [row[name] for row in rows]
        unknown = None in values or (bars and not name.startswith("snr"))
        return None if unknown else float(np.mean(values))

    noisy, found = (_of_lanes(outcome, rows, name) for name in ("snr_noisy_db", "snr_db"))
    gains = np.subtract(found, noisy)
    records, iterations = outcome.records, outcome.iterations
    seconds = sum(r["seconds"] for r in records)
    return {
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
        "not_converged": int(np.sum(1 - outcome.joined("adjoint_converged"))),
        "lower_solves": int(np.sum(outcome.joined("lower_solves"))),
        "seconds": seconds,
    }


def _conditions(outcome: Outcome, before: dict[str, Any], after: dict[str, Any]) -> str:
    """What [CF] 5.3.1 asks for on each shape of training images, about the end of learning and as
    far as its start is."""
    truth, learner = outcome.lanes.truth, outcome.lanes.learner
    pixels = float(min(x.min() for x in truth)), float(max(x.max() for x in truth))
    moved = {name: np.asarray(after[name] - before[name]) for name in ("filters", "beta")}
    far = float(np.linalg.norm(moved["filters"])), float(np.max(np.abs(moved["beta"])))
    reports = []
    for model, images in zip(learner.models, truth, strict=True):
        bank = convolutional.bank_of(model.shape, outcome.options["boundary"])
        problem = conditions.Problem(model.K, bank, learner.learned)
        region = conditions.Region(pixels, *far, images=len(images))
        reports.append(conditions.report(problem, after, region))
    return "\n\n".join(map(conditions.text, reports)) + "\n"
