"""What the ways came to: the tables, the figures and the headline numbers."""

import json
from pathlib import Path
from typing import Any

from deqbilevel import plots
from deqbilevel.commands import common, folders, running
from deqbilevel.commands.drawing import draw
from deqbilevel.commands.schema import ANY
from deqbilevel.data import Images
from deqbilevel.disk import archives, arrays
from experiments.neighbours import judging, times, ways
from experiments.neighbours.ways import Run

MB = 2**20

PART = {"task": "", "way": ""}
NUMBERS = ("psnr_db", "ssim", "measured_db", "parameters", "learn_seconds", "restore_seconds")
"""Columns of the table of ways."""

RECORDS: dict[str, dict[str, Any]] = {
    "rows": PART
    | dict.fromkeys(NUMBERS, ANY)
    | {"course": [[ANY]], "changed_db": {}, "other_solver_db": ANY, "time": ANY}
    | {"step_of_bound": ANY, "step_bytes": ANY, "learning_rate": ANY},
    "memory": {"kind": "", "T": 0, "bytes": 0},
    "times": {"task": "", "level": 0.0, "time": 0.0, "time_at_start": 0.0, "psnr_db": ANY},
    "alone": {"task": "", "level": 0.0, "time": 0.0, "psnr_db": ANY},
}
"""Of the four tables."""

STORED: arrays.Schema = dict.fromkeys(
    ("u", "f", "truth"), arrays.Array(("pictures", "height", "width"), finite=False)
)


def files_of(config: Any, runs: list[Run]) -> list[str]:
    """What is written, see `folders`."""
    learned = [run for run in runs if run.name not in ways.SEARCHED]
    flows = [times.run_of(config, **part)[1] for part in times.parts(config)]
    parts = [
        "-".join(run.learned_at(rate).values())
        for run in (*learned, *flows)
        for rate in config.learning_rates
    ]
    figures = [f"{name}-{task}.png" for name in ("ways", "pictures") for task in config.tasks]
    own = [*(judging.file(run) for run in runs), *figures, "times.png", "summary.md"]
    return [*own, *(f"{name}.jsonl" for name in RECORDS), *running.files_of(*parts), "result.json"]


def show(
    config: Any, images: Images, found: dict[str, list[dict[str, Any]]], out: Path
) -> dict[str, Any]:
    """Write the tables, draw, and return the headline numbers."""
    rows = found["rows"]
    numbers: dict[str, Any] = {}
    lines = ["# The neighbours of bilevel learning", ""]
    lines += [f"{len(images.train)} training images ({images.source}), epochs: {config.epochs}", ""]
    for task in config.tasks:
        mine = [row for row in rows if row["task"] == task]
        numbers[task] = {"measured": mine[0]["measured_db"]}
        numbers[task] |= {row["way"]: row["psnr_db"] for row in mine}
        lines += [f"## {task}: the measurement has {mine[0]['measured_db']:.2f} dB", ""]
        lines += [*_table(config, mine), ""]
        panels = {
            "learned for": {row["way"]: row["course"] for row in mine if row["course"]},
            "changed": {
                row["way"]: [[int(n), dB] for n, dB in row["changed_db"].items()] for row in mine
            },
        }
        caption = f"{task}; {images.source}"
        draw(out / f"ways-{task}.png", plots.neighbour_figure, panels, caption)
        _draw_pictures(mine, task, out, caption)
    if found["memory"]:
        lines += ["## Memory of a step of learning / MB", "", *_memory(config, found["memory"]), ""]
        numbers["memory_mb"] = {
            f"{row['kind']}, T = {row['T']}": round(row["bytes"] / MB, 1) for row in found["memory"]
        }
    if found["times"]:
        lines += ["## Stopping times", "", *_times(found["times"], found["alone"]), ""]
        numbers["times"] = {
            f"{row['task']}, {row['level']:g}": [row["time"], alone["time"]]
            for row, alone in zip(found["times"], found["alone"], strict=True)
        }
        panels = {}
        for task in dict.fromkeys(row["task"] for row in found["times"]):
            for name, said in (("times", "with the rest"), ("alone", "alone")):
                points = [[r["level"], r["time"]] for r in found[name] if r["task"] == task]
                panels[f"{task}, {said}"] = {"stopping time T": points}
        caption = "By the noise of 255 grey levels, and by the blur in pixels; alone: "
        caption += f"of the flow learned at {config.noise:g} and at {config.blur:g}."
        draw(out / "times.png", plots.points_figure, panels, caption)
    table = "\n".join(lines)
    print(f"\n{table}", flush=True)
    folders.write(out / "summary.md", table)
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    return numbers


def _table(config: Any, rows: list[dict[str, Any]]) -> list[str]:
    counts = [str(n) for n in config.test_iterations]
    head = ["way", *NUMBERS, "rate", "step / MB", "other solver", *(f"T = {n}" for n in counts)]
    lines = [common.line(head), common.line(["---"] * len(head))]
    for row in rows:
        step = None if row["step_bytes"] is None else row["step_bytes"] / MB
        cells = [*(row[name] for name in NUMBERS), row["learning_rate"], step]
        cells += [row["other_solver_db"]]
        cells += [row["changed_db"][n] for n in counts]
        lines.append(common.line([row["way"], *map(_cell, cells)]))
    return lines


def _memory(config: Any, rows: list[dict[str, Any]]) -> list[str]:
    lines = [common.line(["kind", *(f"T = {T}" for T in config.memory)])]
    lines.append(common.line(["---"] * (1 + len(config.memory))))
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row["bytes"] / MB for row in rows if row["kind"] == kind]
        lines.append(common.line([kind, *map(_cell, mine)]))
    return lines


def _times(rows: list[dict[str, Any]], alone: list[dict[str, Any]]) -> list[str]:
    head = ("task", "level", "time", "time at the start", "dB", "time alone", "dB of training")
    lines = [common.line(head), common.line(["---"] * len(head))]
    for row, other in zip(rows, alone, strict=True):
        own = [row[name] for name in ("level", "time", "time_at_start", "psnr_db")]
        cells = [*own, other["time"], other["psnr_db"]]
        lines.append(common.line([row["task"], *map(_cell, cells)]))
    return lines


def _cell(x: float | None) -> str:
    return "-" if x is None else f"{x:.4g}"


def _draw_pictures(rows: list[dict[str, Any]], task: str, out: Path, caption: str) -> None:
    shown: dict[str, Any] = {}
    for row in rows:
        stored = archives.read_arrays(out / f"pictures-{task}-{row['way']}.npz", STORED)
        shape = stored["truth"].shape[1:]
        flat = {name: x.reshape(len(x), -1) for name, x in stored.items()}
        shown |= {"true u": flat["truth"], "measurement f": flat["f"], row["way"]: flat["u"]}
    grey = (0.0, 1.0)
    path = out / f"pictures-{task}.png"
    draw(path, plots.reconstructions, shown, (shape[0], shape[1]), caption, grey=grey)
