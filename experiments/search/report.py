"""What comes of the searches: tables, figures, the last line."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deqbilevel import plots
from deqbilevel.commands import common, folders
from deqbilevel.commands.drawing import draw
from experiments.search.cases import Case
from experiments.search.gradients import GRADIENTS

FILES = ("summary.md", "result.json")
"""What is written beside the figures and the records."""


def show(
    config: Any,
    cases: Sequence[Case],
    rows: Sequence[dict[str, Any]],
    left_out: Sequence[str],
    out: Path,
) -> dict[str, Any]:
    """Draw the courses, write the tables; returns {case: {method: numbers}}."""
    numbers = {case.label: _case(config, case, rows, out) for case in cases}
    near = f"within {config.close:.0%} of the least loss of all"
    for name in dict.fromkeys(case.problem for case in cases):
        own = [case for case in cases if case.problem == name]
        if len(own) > 1:
            costs = {str(case.box.size): numbers[case.label] for case in own}
            caption = f"The cost until {near}, by the number of parameters. {own[0].about}"
            draw(out / f"parameters-{name}.png", plots.search_figure, costs, caption,
                 single=GRADIENTS)  # fmt: skip
    caption = (
        f"The cost until {near}; in grey how far above it a method stayed that never came there."
    )
    draw(out / "arrivals.png", plots.arrival_figure, numbers, caption, single=GRADIENTS)
    text = f"Evaluations and seconds until {near}\n\n{_arrivals(config, numbers)}\n"
    text += "".join(f"\n{why}" for why in left_out) + f"\n{_losses(numbers)}\n"
    print(text)
    folders.write(out / "summary.md", text)
    folders.write(out / "result.json", json.dumps(numbers, indent=1))
    return numbers


def _case(config: Any, case: Case, rows: Sequence[dict[str, Any]], out: Path) -> dict[str, Any]:
    """The numbers of each method, whose courses are drawn."""
    courses = {}
    for name in config.methods:
        own = [row for row in rows if (row["method"], row["case"]) == (name, case.label)]
        courses |= {name: course(own)} if own else {}
    least = min(points[-1]["loss"][0] for points in courses.values())
    caption = f"The least loss so far of each method. {case.about}"
    drawn = [{"method": name, **point} for name, points in courses.items() for point in points]
    path = out / f"courses-{case.label}.png"
    draw(path, plots.algorithm_figure, drawn, caption, single=tuple(GRADIENTS))
    found = {name: arrival(points, (1 + config.close) * least) for name, points in courses.items()}
    return {name: row | {"above": row["loss"] / least - 1} for name, row in found.items()}


def _arrivals(config: Any, numbers: dict[str, Any]) -> str:
    """A row for each method, and a column for each case."""

    def cell(row: dict[str, Any] | None) -> str:
        if row is None:
            return "left out"
        if row["evaluations"] is None:
            return f"never, {row['above']:.1%} above"
        return f"{row['evaluations']:,.0f} ({row['seconds']:.2g} s)"

    lines = [common.line(["method", *numbers]), common.line(["---"] * (1 + len(numbers)))]
    for name in config.methods:
        lines.append(common.line([name, *(cell(row.get(name)) for row in numbers.values())]))
    return "\n".join(lines)


def _losses(numbers: dict[str, Any]) -> str:
    """A row for each method of each case."""
    names = ("loss", "candidates", "evaluations", "seconds")
    lines = [common.line(["case", "method", "least loss", "candidates", "evaluations", "seconds"])]
    lines.append(common.line(["---"] * 6))
    for label, case in numbers.items():
        for method, row in case.items():
            cells = ["-" if row[name] is None else f"{row[name]:.4g}" for name in names]
            lines.append(common.line([label, method, *cells]))
    return "\n".join(lines)


def course(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The least loss after each request, with what all until then has cost."""
    found, least, spent, seconds, candidates = [], np.inf, 0.0, 0.0, 0
    for row in rows:
        losses = np.asarray(row["losses"], float)
        least = min(least, np.min(np.where(np.isnan(losses), np.inf, losses)))
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
