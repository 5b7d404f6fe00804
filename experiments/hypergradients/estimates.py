"""How fast estimates of a hypergradient converge in the lower-level iterations T.

After T steps of gradient descent, each of which contracts by rho = 1 - tau mu, the minimiser
estimate has an error of order rho^T, that of reverse mode through the T steps one of order T rho^T:
Ghadimi and Wang [150], Ji et al. [116] of [CF]; Grazzi et al., ICML 2020. The factor T is a bound:
where neither dG/du nor dG/dparams depends on u, as for the quadratic cost, there is none.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from deqbilevel.commands import common
from deqbilevel.commands.records import Log
from deqbilevel.commands.schema import ANY
from deqbilevel.types import Params
from experiments.hypergradients.cases import Case, estimate, exact, relative_error

ESTIMATES = {"implicit": "dense", "implicit, T products": "picard", "unrolled": "unrolled"}
"""The minimiser estimate at u_T with the adjoint solved exactly and by T products, and reverse mode
through the T evaluations: names of `hypergradients.METHODS`."""

ROUNDING = 1e-11
"""Errors below it say nothing of a rate."""


ROW = {"problem": "", "estimate": "", "iterations": 0, "relative_error": ANY, "rho": ANY}
"""A record."""


def measured(
    cases: dict[str, Case], iterations: tuple[int, ...], path: Path
) -> list[dict[str, Any]]:
    """A row for each case, estimate and T: its relative error, beside rho. Each is in the file
    before the next begins; after the first T whose error is rounding no larger one follows."""
    log = Log.of(path, ROW)
    rows = log.read()
    errors = {(r["problem"], r["estimate"], r["iterations"]): r["relative_error"] for r in rows}
    for problem, case in cases.items():
        solved = functools.cache(functools.partial(exact, case))
        for name in ESTIMATES:
            program = _program(case, name)
            for T in tqdm(sorted(iterations), f"{problem}, {name}", unit="estimate"):
                key = (problem, name, T)
                if key not in errors:
                    with common.clear_errors():
                        best = solved()
                    errors[key] = float(program(T, case.weights, case.f, best.gradient))
                    row = {"problem": problem, "estimate": name, "iterations": T}
                    rows.append(row | {"relative_error": errors[key], "rho": best.rate})
                    log.append(rows[-1])
                if errors[key] < ROUNDING:
                    break
    return rows


def _program(case: Case, name: str) -> Callable[..., Array]:
    """(T, weights, f, exact gradient) -> relative error; only reverse mode is compiled for each."""

    def error(T: Any, weights: Params, f: Array, best: Array) -> Array:
        gradient, _, _ = estimate(case, ESTIMATES[name], "picard", T, tolerance=0.0)(weights, f)
        return relative_error(gradient, best)

    return jax.jit(error, static_argnums=0 if name == "unrolled" else ())


def rates(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{problem: {estimate: {rate, theory, errors}}} with the error ratio per iteration.

    Both are least-squares fits over the last three T whose error is not rounding: the rate of the
    measured errors, the theory of rho^T or T rho^T. NaN where there are no two such T.
    """
    found: dict[str, dict[str, Any]] = {}
    for problem in dict.fromkeys(row["problem"] for row in rows):
        found[problem] = {}
        for name in ESTIMATES:
            own = [r for r in rows if r["problem"] == problem and r["estimate"] == name]
            own = sorted(own, key=lambda row: row["iterations"])
            T = np.array([row["iterations"] for row in own], float)
            errors = np.array([row["relative_error"] for row in own])
            fit = np.flatnonzero(errors > ROUNDING)[-3:]
            factor = np.log(T[fit]) if name == "unrolled" else 0
            predicted = T[fit] * np.log(own[0]["rho"]) + factor
            found[problem][name] = {
                "rate": _ratio(T[fit], np.log(errors[fit])),
                "theory": _ratio(T[fit], predicted),
                "errors": {str(row["iterations"]): row["relative_error"] for row in own},
            }
    return found


def _ratio(T: np.ndarray, logarithms: np.ndarray) -> float:
    """The ratio per iteration of what has these logarithms."""
    return float(np.exp(np.polyfit(T, logarithms, 1)[0])) if len(T) > 1 else float("nan")


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """The part of a summary, in lines of Markdown."""
    lines = ["## Estimates after T steps of gradient descent", ""]
    for problem, estimates in found.items():
        T = max((numbers["errors"] for numbers in estimates.values()), key=len)
        head = [problem, *(f"T = {x}" for x in T), "error ratio per step", "theory"]
        lines += [common.line(head), common.line(["---"] * len(head))]
        for name, numbers in estimates.items():
            errors = numbers["errors"]
            shown = [f"{errors[x]:.2g}" if x in errors else "-" for x in T]
            fitted = [f"{numbers[x]:.5f}" for x in ("rate", "theory")]
            lines.append(common.line([name, *shown, *fitted]))
        lines.append("")
    return lines
