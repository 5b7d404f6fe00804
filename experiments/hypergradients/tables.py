"""What a comparison of ways to a hypergradient comes to: tables and figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from deqbilevel import plots
from deqbilevel.commands import common, folders
from deqbilevel.commands.drawing import draw
from experiments.hypergradients import estimates

ORDERS = {
    "unrolled": ("T N", "T"),
    "checkpointed": ("sqrt(T) N", "2 T"),
    "truncated": ("k N", "k"),
    "forward": ("N", "T R"),
    "finite_differences": ("N", "2 T R"),
    "gaussian_smoothing": ("N", "2 T d"),
    "jacobian_free": ("N", "0"),
    "shine": ("m N", "1"),
    "dense": ("N^2", "N"),
}
"""Memory and products in the backward pass, as orders in the budget T, pixels N, parameters R, last
evaluations k, directions d and memory m, [CF] Table 4.1; else N and the adjoint solver's own. Here
k = d = T, and no more than 32 directions are in memory at once."""

MEASURED = ("relative_error", "angle_deg", "seconds", "peak_mb", "evaluations")


def report(
    config: Any, rows: list[dict[str, Any]], followed: list[dict[str, Any]], out: Path
) -> dict[str, Any]:
    """The tables, the figures, and the numbers at the largest budget."""
    largest = max(config.budgets)
    numbers: dict[str, Any] = {problem: {} for problem in config.problems}
    lines = ["# Ways to a hypergradient", ""]
    for problem in config.problems:
        head = (
            "method",
            *(x.replace("_", " ") for x in MEASURED),
            "memory",
            "measured",
            "products",
        )
        lines += [f"## {problem}, budget {largest}", ""]
        lines += [common.line(head), common.line(["---"] * len(head))]
        for row in rows:
            if row["problem"] == problem and row["budget"] == largest:
                method = row["method"]
                values = {name: row[name] for name in MEASURED}
                numbers[problem][method] = values
                shown = ["-" if x is None else f"{x:.3g}" for x in values.values()]
                memory, products = ORDERS.get(method, ("N", "up to T"))
                own = [r for r in rows if r["problem"] == problem and r["method"] == method]
                exponent = growth({r["budget"]: r["peak_mb"] for r in own})
                grown = "-" if exponent is None else f"T^{exponent:.2f}"
                lines.append(common.line([method, *shown, memory, grown, products]))
        lines.append("")
    rates = estimates.rates(followed)
    lines += estimates.table(rates) if followed else []
    table = "\n".join(lines)
    print(table, flush=True)
    folders.write(out / "summary.md", table)
    result = numbers | ({"estimates": rates} if followed else {})
    folders.write(out / "result.json", json.dumps(result, indent=1))
    setup = (
        f"{config.images} digits of {config.size}x{config.size} pixels, {config.features} dense "
        "features; error against the exact gradient in float64"
    )
    caption = (
        f"{setup}; lower level by {config.solver}, time the median of the rounds, memory the "
        "temporary memory of the program"
    )
    draw(out / "methods.png", plots.method_figure, rows, caption)
    if followed:
        caption = (
            f"lower level by T steps of gradient descent from zero; {setup}; rho: the contraction "
            "of a step at the minimiser; dashed: growth as T, the bound of reverse mode"
        )
        draw(out / "estimates.png", plots.estimate_figure, followed, caption)
    return numbers


def growth(memory: dict[int, float]) -> float | None:
    """p of memory = m_0 + c T^p by the smallest, a middle and the largest budget T.

    Of two budgets with m_0 = 0, of one None; 0 where memory levels off.
    """
    budgets = sorted(memory)
    if len(budgets) < 2:
        return None
    T = np.array([budgets[0], budgets[len(budgets) // 2], budgets[-1]], float)
    m = np.array([memory[int(x)] for x in T])
    if len(budgets) == 2:
        return float(np.log(m[2] / m[0]) / np.log(T[2] / T[0]))

    def excess(p: float) -> float:
        """Of the later part of the growth over that of T^p, but for a positive factor."""
        powers = np.diff(T**p)
        return float(np.diff(m) @ (-powers[1], powers[0]))

    least, most = 1e-3, 5.0
    if m[1] <= m[0] or excess(least) <= 0:
        return 0.0
    root: Any = scipy.optimize.brentq(excess, least, most) if excess(most) < 0 else most
    return float(root)
