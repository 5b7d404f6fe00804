"""The hypergradient of the exact 1-norm beside those of rounded ones: a table."""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deqbilevel import hypergradients, operators, potentials, precision, variational
from deqbilevel.commands import common
from deqbilevel.commands.schema import ANY

WEIGHT = 0.15
LEVELS = (0.0, 1.0, 0.3, 0.8)
"""Of the signal, for sixteen points each."""
REPEATED = 5

ROW = {"eps": 0.0, "hypergradient": 0.0, "error": 0.0} | dict.fromkeys(
    ("lower_iterations", "adjoint_products", "residual", "milliseconds"), ANY
)
"""A record; eps = 0: the exact 1-norm."""


def found(config: Any) -> list[dict[str, Any]]:
    """A record for each eps, from the largest, and one for the exact 1-norm, in float64.

    The loss is 1/2 ||x - truth||^2 for the minimiser x of 1/2 ||x - f||^2 + w R(x), f the truth
    with noise and w = 0.15, and the hypergradient dl/dw. R is the 1-norm of differences, or its
    rounded form; the exact one is solved by a semismooth Newton method, the others by
    `variational.rounded_newton`, all to 1e-10.
    """
    with precision.float64():
        return _rows(config)


def _rows(config: Any) -> list[dict[str, Any]]:
    signal = np.repeat(LEVELS, 16)
    noisy = signal + config.noise * np.random.default_rng(config.seed).normal(size=len(signal))
    truth, f = jnp.asarray(signal)[None], jnp.asarray(noisy)[None]
    shape = (1, len(signal))
    problem = variational.Problem(operators.identity(shape), variational.total_variation(shape))
    F = variational.rounded_slope(problem)

    @jax.jit
    def smooth(w: Any, phi: Any) -> Any:
        x, info = variational.rounded_newton(problem, (w,), f, phi, tolerance=1e-10)
        gradient, _, adjoint = hypergradients.minimiser(
            F,
            {"weights": (w,)},
            {"phi": phi},
            f,
            x,
            x - truth,
            jnp.zeros_like(x),
            tolerance=1e-10,
            max_evaluations=5000,
        )
        return gradient["weights"][0], info.evaluations, adjoint

    solver = partial(variational.semismooth_newton, tolerance=1e-10)
    solve = variational.differentiable(solver, tolerance=1e-10, max_evaluations=5000)

    @jax.jit
    @partial(jax.grad, argnums=(0, 1), has_aux=True)
    def of_exact(w: Any, probe: Any) -> Any:
        x, (_, info) = solve(problem, (w,), f, None, probe)
        return jnp.sum((x - truth) ** 2) / 2, info.iterations[0]

    def exact(w: Any) -> Any:
        (gradient, adjoint), iterations = of_exact(w, hypergradients.no_info(f.dtype))
        return gradient, iterations, adjoint

    w = jnp.asarray(WEIGHT)
    kinds: dict[float, Callable[[], Any]] = {
        eps: partial(smooth, w, potentials.CornerRounded(jnp.asarray(eps)))
        for eps in sorted(config.eps, reverse=True)
    }
    rows = [_row(eps, run) for eps, run in (kinds | {0.0: partial(exact, w)}).items()]
    best = rows[-1]["hypergradient"]
    return [row | {"error": abs(row["hypergradient"] / best - 1)} for row in rows]


def _row(eps: float, run: Callable[[], Any]) -> dict[str, Any]:
    gradient, iterations, adjoint = jax.block_until_ready(run())
    spent = []
    for _ in range(REPEATED):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        spent.append(time.perf_counter() - begin)
    return {
        "eps": eps,
        "hypergradient": float(gradient),
        "lower_iterations": int(iterations),
        "adjoint_products": int(adjoint.evaluations),
        "residual": float(adjoint.residual),
        "milliseconds": 1e3 * float(np.median(spent)),
    }


def table(config: Any, rows: list[dict[str, Any]]) -> str:
    """Of the records, as Markdown."""
    noise = f"noise {config.noise:g}"
    lines = [f"# Hypergradient by the weight of TV of 64 points, w = {WEIGHT}, {noise}", ""]
    head = ("eps", "hypergradient", "relative error", "Newton steps", "products", "ms")
    lines += [common.line(head), common.line(["---"] * len(head))]
    for row in rows:
        name = f"{row['eps']:g}" if row["eps"] else "exact"
        cells = [name, f"{row['hypergradient']:.6f}", f"{row['error']:.1e}"]
        cells += [str(row["lower_iterations"]), str(row["adjoint_products"])]
        lines.append(common.line([*cells, f"{row['milliseconds']:.2f}"]))
    return "\n".join(lines) + "\n"


def headline(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The hypergradient by eps, and of the exact norm."""
    return {
        (json.dumps(row["eps"]) if row["eps"] else "exact"): round(row["hypergradient"], 6)
        for row in rows
    }
