"""What the parts came to: tables, figures and the headline numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from deqbilevel import losses, plots, recipes
from deqbilevel.commands import common, folders
from deqbilevel.commands.drawing import draw
from deqbilevel.disk import archives, arrays
from deqbilevel.regularizers import convolutional
from experiments.sparsifying import finding, posterior, starts, tasks
from experiments.sparsifying.learning import Task

ROW = {"part": "", "way": ""}
"""A record; the numbers beside depend on the part."""

DECIBELS = ("weight_db", "strengths_db", "filters_db")
SETS = ("largest_norm", "coherence", "rank", "objective", "largest_rise")

STORED: arrays.Schema = {"u": arrays.Array(("pictures", "pixels"))}
KERNELS: arrays.Schema = {"filters": arrays.Array(("filters", "rows", "columns"))}

DRAWN = ("differences", "analysis_frame", "ksvd", "experts", "experts_contrastive", "cosines")
"""Ways whose pictures are drawn."""


def files_of(config: Any) -> list[str]:
    """What a run writes, see `folders`."""
    found = ["rows.jsonl", "summary.md", "result.json"]
    for part in tasks_of(config):
        ways = config.starts if part == "pictures" else finding.WAYS[part]
        found += [finding.file(part, way) for way in ways] + [f"{part}.png"]
        found += [recipes.file(f"{part}-{w}") for w in ways if w != "conditional_field"]
    if "pictures" in config.parts:
        found.append("filters.png")
    if "sets" in config.parts:
        found += [*(finding.file("sets", way) for way in finding.SETS), "sets.png"]
    if "samples" in config.parts:
        found += [finding.file("samples", config.model), "samples.png", "deviations.png"]
    return found


def tasks_of(config: Any) -> list[str]:
    """Those that are denoised."""
    signals = list(tasks.SIGNALS) if "signals" in config.parts else []
    return signals + (["pictures"] if "pictures" in config.parts else [])


def show(config: Any, pictures: Task, rows: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    """The tables, the figures and the headline numbers."""
    lines: list[str] = []
    numbers: dict[str, Any] = {}
    for part in tasks_of(config):
        task = pictures if part == "pictures" else tasks.signals(config.seed)
        scores = losses.mean_scores(task.f_test, task.test, task.test_shape, 1.0)
        measured = float(scores["psnr_db"])
        found = {row["way"]: row for row in rows if row["part"] == part}
        lines += [f"# {part}: PSNR in dB of {len(task.test)}, measured {measured:.2f}", ""]
        head = ("filters", "best weight", "strengths learned", "filters learned", "coherence")
        lines += _table(head, found, (*DECIBELS, "coherence"))
        numbers[part] = {"measured": round(measured, 2)} | {
            way: {name: round(row[name], 2) for name in DECIBELS if row.get(name) is not None}
            for way, row in found.items()
        }
        if part == "pictures":
            for way in [way for way in starts.EXPERTS if way in found]:
                prior = found[way]["prior_db"]
                lines += [f"{way} as a prior, without tuning: {prior:.2f}.", ""]
                numbers[part][way]["prior_db"] = round(prior, 2)
            _draw_pictures(config, task, found, out)
        else:
            _draw_signals(task, part, found, out)
    if "sets" in config.parts:
        found = {row["way"]: row for row in rows if row["part"] == "sets"}
        lines += ["# Constraint sets", ""]
        lines += _table(("set", *(name.replace("_", " ") for name in SETS)), found, SETS)
        numbers["sets"] = {w: {n: row[n] for n in SETS} for w, row in found.items()}
        _draw_sets(found, out)
    if "samples" in config.parts:
        found = next(row for row in rows if row["part"] == "samples")
        numbers["samples"] = {k: x for k, x in found.items() if k not in ("part", "way")}
        lines += ["# Samples", "", json.dumps(numbers["samples"], indent=1), ""]
        _draw_samples(config, pictures, found, out)
    table = "\n".join(lines)
    print(f"\n{table}", flush=True)
    folders.write(out / "summary.md", table)
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    return numbers


def _table(head: Any, found: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    lines = [common.line(head), common.line(["---"] * len(head))]
    for way, row in found.items():
        values = (row.get(name) for name in names)
        lines.append(common.line([way, *("" if x is None else f"{x:.4g}" for x in values)]))
    return [*lines, ""]


def _draw_signals(task: Task, part: str, found: dict[str, Any], out: Path) -> None:
    panels = {}
    for way in dict.fromkeys([*finding.GOES_ON[part], "analysis_rows"]):
        if way not in found:
            continue
        stored = archives.read_arrays(out / finding.file(part, way), STORED)["u"][0]
        best = max(x for x in (found[way].get(name) for name in DECIBELS) if x is not None)
        curves = {"measured": task.f_test[0], "true": task.test[0], "denoised": stored}
        panels[f"{way}, {best:.2f} dB"] = {k: np.asarray(x) for k, x in curves.items()}
    points = np.arange(task.test.shape[1], dtype=float)
    caption = f"{part}: the first test signal by what is learned from each start; dB of all."
    draw(out / f"{part}.png", plots.function_figure, points, panels, ("point", "value"), caption)


def _draw_pictures(config: Any, task: Task, found: dict[str, Any], out: Path) -> None:
    stages = {}
    for way in found:
        if way == "conditional_field":
            continue
        params = recipes.load(out / recipes.file(f"pictures-{way}")).params
        best = max(x for x in (found[way].get(name) for name in DECIBELS) if x is not None)
        c = np.asarray(convolutional.filters(params))
        stages[f"{way}, {best:.2f} dB"] = c, np.asarray(convolutional.strengths(params))
    learned = [way for way in finding.GOES_ON["pictures"] if way in found]
    caption = "Filters by falling strength; learned for the task: "
    caption += f"{', '.join(learned) or 'none'}; of others their strengths alone."
    draw(out / "filters.png", plots.filter_figure, stages, caption)
    count = min(finding.PICTURES, len(task.test))
    shown: dict[str, Any] = {"true u": task.test[:count], "measured": task.f_test[:count]}
    for way in [way for way in DRAWN if way in found]:
        stored = archives.read_arrays(out / finding.file("pictures", way), STORED)
        said = "learned" if way in finding.GOES_ON["pictures"] else "strengths learned"
        shown[f"{way},\n{said}"] = stored["u"][:count]
    rows = {name: np.asarray(u) for name, u in shown.items()}
    caption = f"Noise {config.noise:g} of pictures in [0, 1]."
    shape = task.test_shape
    draw(out / "pictures.png", plots.reconstructions, rows, shape, caption, grey=(0.0, 1.0))


def _draw_sets(found: dict[str, Any], out: Path) -> None:
    stages = {}
    for way, row in found.items():
        kernels = archives.read_arrays(out / finding.file("sets", way), KERNELS)["filters"]
        said = f"norm {row['largest_norm']:.2g}, coherence {row['coherence']:.3f}"
        stages[f"{way}: largest {said}, rank {row['rank']:.0f}"] = kernels
    caption = "Filters of analysis operator learning from the same random ones; greys of each set."
    draw(out / "sets.png", plots.kernel_figure, stages, caption, columns=18)


def _draw_samples(config: Any, pictures: Task, found: dict[str, Any], out: Path) -> None:
    _, shape = posterior.middle(pictures)
    any_row = dict.fromkeys(posterior.NAMES, arrays.Array((1, "pixels")))
    stored = archives.read_arrays(out / finding.file("samples", config.model), any_row)
    rows = {name: u for name, u in stored.items() if not name.startswith("deviation")}
    caption = f"Posterior of {config.model}, {config.chains} chains of {config.samples} samples."
    draw(out / "samples.png", plots.reconstructions, rows, shape, caption, grey=(0.0, 1.0))
    mean, deviation = (stored[f"{name}, adjusted"] for name in ("mean", "deviation"))
    maps = np.concatenate(
        [deviation, np.abs(mean - stored["truth"]), stored["deviation, unadjusted"]]
    )
    most = float(np.quantile(maps, 0.99))
    caption = (
        "Standard deviations of adjusted samples, |mean - truth|, and those of unadjusted ones, "
        "whose mean are {:.4f} and {:.4f}.".format(
            *(found[name]["deviation"] for name in posterior.ALGORITHMS)
        )
    )
    draw(out / "deviations.png", plots.gallery, maps, shape, caption, (0.0, most))
