"""What a comparison of upper-level algorithms comes to: tables, the winner, figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from deqbilevel import algorithms, plots
from deqbilevel.algorithms import arrivals
from deqbilevel.commands import common, folders
from deqbilevel.commands.drawing import draw
from experiments.algorithms import peers

DOUBLE_LOOP = (*algorithms.DOUBLE_LOOP, *peers.DOUBLE_LOOP)


def report(
    options: dict[str, Any], about: str, rows: list[dict[str, Any]], close: float, out: Path
) -> dict[str, Any]:
    """Write summary.md, courses.png and result.json, print the table; {problem: {method: numbers}}.

    rows: the points of all courses, with method, rates, calls (a list for each oracle), seconds,
    and loss, gradient_norm and diverged for each seed.
    close: see `cases.Kind`.
    """
    problem = options["problem"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    target = arrivals.target(rows, close)
    numbers = {
        m: arrivals.numbers([r for r in rows if r["method"] == m], target, plots.HEIGHTS)
        for m in methods
    }
    lines = [f"# Upper-level algorithms on {problem}", "", about, ""]
    lines += _table(numbers, target)
    lines += ["", *_verdicts(numbers)]
    text = "\n".join(lines)
    print(text, flush=True)
    folders.write(out / "summary.md", text + "\n")
    result = {problem: numbers}
    folders.write(out / "result.json", json.dumps(result, indent=1))
    seeds = options["seeds"]
    lines_are = f"medians of {seeds} seeds, areas from the least to the greatest; " * (seeds > 1)
    caption = f"{about}; {lines_are}dashed: single-loop methods"
    points = [row | {"calls": np.sum(row["calls"])} for row in rows]
    single = [m for m in methods if m not in DOUBLE_LOOP]
    path = out / "courses.png"
    draw(path, plots.algorithm_figure, points, caption, single=single, title=problem)
    return result


def _table(numbers: dict[str, dict[str, Any]], target: float) -> list[str]:
    scores = [n for n in plots.HEIGHTS if any(n in x for x in numbers.values())]
    head = ["method", "loops", "rate", "steps", "calls", "seconds"]
    head += [name.replace("_", " ") for name in scores]
    head += [f"calls to {target:.4g}", f"seconds to {target:.4g}", "upper order", "lower order"]
    head += ["diverged"]
    lines = [common.line(head), common.line(["---"] * len(head))]
    for method, own in numbers.items():
        loops = "two" if method in DOUBLE_LOOP else "one"
        known = arrivals.ORDERS.get(method, ("-", "-"))
        orders = [
            f"{_shown(own[name])} ({theory})"
            for name, theory in zip(("upper_order", "lower_order"), known, strict=True)
        ]
        cells = [method, loops, *(_shown(own[x]) for x in ("rate", "steps", "calls", "seconds"))]
        cells += [_shown(own.get(name)) for name in scores]
        cells += [_shown(own["calls_to_target"]), _shown(own["seconds_to_target"]), *orders]
        lines.append(common.line([*cells, str(own["diverged"])]))
    return lines


def _shown(x: Any) -> str:
    return "-" if x is None or not np.isfinite(x) else f"{x:.4g}"


def _verdicts(numbers: dict[str, dict[str, Any]]) -> list[str]:
    """The winner by name, and two loops against one."""
    arrived = {m: x for m, x in numbers.items() if x["seconds_to_target"] is not None}
    if not arrived:
        return ["No method arrived."]

    def fastest(names: Any, by: str) -> str | None:
        return min(names, key=lambda m: arrived[m][by], default=None)

    lines = []
    for by in ("seconds_to_target", "calls_to_target"):
        unit = by.split("_", maxsplit=1)[0]
        first = fastest(arrived, by)
        two = fastest([m for m in arrived if m in DOUBLE_LOOP], by)
        one = fastest([m for m in arrived if m not in DOUBLE_LOOP], by)
        text = f"Fewest {unit}: {first}"
        if two is not None and one is not None:
            a, b = arrived[two][by], arrived[one][by]
            text += f"; of two loops {two} ({_shown(a)}), of one {one} ({_shown(b)})"
        lines.append(text + ".")
    return lines
