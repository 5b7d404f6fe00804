"""What comes of the searches: a table, a figure, the last line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deqbilevel import plots
from deqbilevel.commands import common, folders
from deqbilevel.commands.drawing import draw
from experiments.search.methods import HYPERGRADIENT
from experiments.search.problems import Case

FILES = ("summary.md", "result.json")
"""What is written beside the figure and the records."""


def show(
    config: Any, cases: Sequence[Case], rows: Sequence[dict[str, Any]], out: Path
) -> dict[str, Any]:
    """Draw the courses, write the table; returns {parameters: {method: numbers}}."""
    numbers: dict[str, Any] = {}
    lines = [common.line(["parameters", "method", "least loss", "candidates", "evaluations",
                          "seconds"])]  # fmt: skip
    lines.append(common.line(["---"] * 6))
    for case in cases:
        courses = {
            name: course([r for r in rows if (r["method"], r["parameters"]) == (name, case.label)])
            for name in config.methods
        }
        least = min(points[-1]["loss"][0] for points in courses.values())
        numbers[case.label] = {
            name: arrival(points, (1 + config.close) * least) for name, points in courses.items()
        }
        caption = f"The least loss so far of each method. {case.about}"
        drawn = [{"method": name, **point} for name, points in courses.items() for point in points]
        path = out / f"courses-{case.label}.png"
        draw(path, plots.algorithm_figure, drawn, caption, single=(HYPERGRADIENT,))
        for name, found in numbers[case.label].items():
            shown = [found[k] for k in ("candidates", "evaluations", "seconds")]
            cells = ["-" if x is None else f"{x:.4g}" for x in (found["loss"], *shown)]
            lines.append(common.line([case.label, name, *cells]))
    if len(cases) > 1:
        caption = f"The cost until within {config.close:.0%} of the least loss. {cases[0].about}"
        draw(out / "parameters.png", plots.search_figure, numbers, caption)
    table = "\n".join(lines)
    print(table)
    folders.write(out / "summary.md", table + "\n")
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    return numbers


def course(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The least loss after each request, with what all until then has cost."""
    found, least, spent, seconds, candidates = [], np.inf, 0.0, 0.0, 0
    for row in rows:
        least = min(least, np.min(np.where(np.isnan(row["losses"]), np.inf, row["losses"])))
        spent, seconds = spent + sum(row["evaluations"]), seconds + row["seconds"]
        candidates += len(row["losses"])
        point = {"loss": [float(least)], "calls": [spent], "seconds": [seconds]}
        found.append(point | {"candidates": candidates})
    return found


def arrival(points: Sequence[dict[str, Any]], loss: float) -> dict[str, Any]:
    """The least loss of a method, and what it cost to come to a loss; None where it never did."""
    there = next((point for point in points if point["loss"][0] <= loss), None)
    cost = {name: None for name in ("candidates", "evaluations", "seconds")}
    if there is not None:
        cost |= {"candidates": there["candidates"], "evaluations": there["calls"][0]}
        cost |= {"seconds": there["seconds"][0]}
    return {"loss": points[-1]["loss"][0], **cost}
